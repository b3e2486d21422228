"""What a run of a graph costs: luigi.build with its own scheduler, with ours, superluigi.run_task, and plain Python.

Every run has a process of its own, so that the peak of its memory is its own too. Seconds are those of the whole
build: scheduling, running, summary; on a busy machine read the CPU seconds, which with one worker are all there are.
Bare tasks are luigi.Task on luigi.LocalTarget; atomic tasks are
AtomicTaskWithMetadata on LocalFileTarget, and write their lineage records. Plain Python writes, digests, records and
renames as many files, and knows nothing of tasks: the floor.
"""

import argparse
import hashlib
import itertools
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import luigi  # noqa: E402

from superluigi import AtomicTaskWithMetadata, LocalFileTarget, run_task  # noqa: E402
from superluigi.running.scheduler import Scheduler  # noqa: E402

SHAPES = ("wide", "chain", "layers", "diamonds")
LINE = "{:<10}{:>8}  {:<40}{:>9}{:>8}{:>9}{:>7}{:>14}{:>13}"
RUNNERS = {
    "floor": "plain Python",
    "luigi": "luigi.build, bare tasks",
    "indexed": "luigi.build, our scheduler, bare tasks",
    "atomic": "run_task, atomic tasks",
}


def upstream(shape, number, size):
    """Give the numbers of the tasks that a task requires; the last task, `size`, requires what no other does."""
    if shape == "wide":
        return range(size) if number == size else ()
    if shape == "chain":
        return range(max(0, number - 1), number)
    width = 10 if shape == "layers" else 3  # a diamond: one, two, one, ...
    if shape == "diamonds":
        place = number % width
        return range(max(0, number - (2 if place == 0 else place)), max(0, number - place + (place != 0)))
    first = number - number % width
    return range(max(0, first - width), first)


class Bare(luigi.Task):
    shape = luigi.Parameter()
    number = luigi.IntParameter()
    size = luigi.IntParameter()
    folder = luigi.Parameter(significant=False)

    def requires(self):
        return [self.clone(number=number) for number in upstream(self.shape, self.number, self.size)]

    def output(self):
        return luigi.LocalTarget(f"{self.folder}/{self.number // 1000}/{self.number}")

    def run(self):
        with self.output().open("w") as stream:
            stream.write("x")


class Atomic(AtomicTaskWithMetadata):
    shape = luigi.Parameter()
    number = luigi.IntParameter()
    size = luigi.IntParameter()
    folder = luigi.Parameter(significant=False)

    def requires(self):
        return [self.clone(number=number) for number in upstream(self.shape, self.number, self.size)]

    def output(self):
        return LocalFileTarget(f"{self.folder}/{self.number // 1000}/{self.number}")

    def run(self, output_path):
        output_path.write_text("x")


def floor(size, folder):
    """Do what must be done for each task, and nothing else."""
    for number in range(size + 1):
        place = f"{folder}/{number // 1000}"
        os.makedirs(place, exist_ok=True)
        path = f"{place}/{number}"
        with open(f"{path}.partial", "w") as stream:
            stream.write("x")
        with open(f"{path}.partial", "rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()
        with open(f"{path}.json.partial", "w") as stream:
            json.dump({"number": number, "digest": digest}, stream)
        os.replace(f"{path}.json.partial", f"{path}.metadata.json")
        os.replace(f"{path}.partial", path)


class Factory:
    """Luigi's factory, with our scheduler."""

    def create_local_scheduler(self):
        return Scheduler(prune_on_get_work=True, record_task_history=False)

    def create_worker(self, scheduler, worker_processes, assistant=False):  # noqa: FBT002
        return luigi.worker.Worker(scheduler=scheduler, worker_processes=worker_processes, assistant=assistant)


def measure(runner, shape, size, workers, folder):
    """Run one graph here, and print what it cost."""
    logging.disable(logging.CRITICAL)
    task = (Atomic if runner == "atomic" else Bare)(shape=shape, number=size, size=size, folder=folder)
    start, cpu_start = time.perf_counter(), time.process_time()
    if runner == "floor":
        floor(size, folder)
    elif runner == "atomic":
        run_task(task, num_workers=workers)
    else:
        factory = Factory() if runner == "indexed" else None
        is_done = luigi.build(
            [task], local_scheduler=True, workers=workers, worker_scheduler_factory=factory, log_level="CRITICAL"
        )
        assert is_done
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    assert task.output().exists()
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "megabytes": megabytes}), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[300, 1_000, 3_000], help="tasks per graph")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS), help="luigi is the peer")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--timeout-s", type=float, default=600, help="per run; what takes longer is left out")
    parser.add_argument("--folder", type=Path, help="where the outputs are written; default: the system's own")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure(arguments.runners[0], arguments.shapes[0], arguments.sizes[0], arguments.workers, arguments.folder)
        return
    # Nothing is removed until all is measured: ext4 is slow to make a file for half a minute after it removed many.
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        compare(arguments, Path(folder))


def compare(arguments, folder):
    """Measure every runner on every graph, and print the table."""
    print(LINE.format("shape", "tasks", "runner", "seconds", "CPU s", "ms/task", "MiB", "times faster", "times floor"))
    for shape, size in itertools.product(arguments.shapes, arguments.sizes):
        peer = lowest = None
        for runner in arguments.runners:
            cost, problem = measured_apart(runner, shape, size, arguments, Path(tempfile.mkdtemp(dir=folder)))
            if cost is None:
                print(f"{LINE.format(shape, size, RUNNERS[runner], *6 * ' ').rstrip()}  {problem}", flush=True)
                continue
            seconds = cost["seconds"]
            peer = seconds if runner == "luigi" else peer
            lowest = seconds if runner == "floor" else lowest
            figures = f"{seconds:.2f}", f"{cost['cpu_seconds']:.2f}", f"{1000 * seconds / size:.3f}"
            ratios = f"{peer / seconds:.1f}" if peer else "", f"{seconds / lowest:.1f}" if lowest else ""
            print(LINE.format(shape, size, RUNNERS[runner], *figures, f"{cost['megabytes']:.0f}", *ratios), flush=True)


def measured_apart(runner, shape, size, arguments, folder):
    """Give what `measure` finds in a process of its own, or why there is nothing."""
    command = [sys.executable, __file__, str(size), "--shapes", shape, "--runners", runner, "--here"]
    try:
        done = subprocess.run(
            [*command, "--workers", str(arguments.workers), "--folder", str(folder)],
            capture_output=True, text=True, timeout=arguments.timeout_s, check=False,
            cwd=Path(__file__).resolve().parent.parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, f"more than {arguments.timeout_s:.0f} s"
    last_line = done.stderr.strip().rpartition("\n")[2]
    return (None, f"failed: {last_line}") if done.returncode else (json.loads(last_line), "")


if __name__ == "__main__":
    main()
