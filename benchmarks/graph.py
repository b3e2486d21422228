"""What a run of a graph costs: luigi.build with its own scheduler, with ours, and superluigi.run_task.

Every run has a process of its own, so that the peak of its memory is its own too. Seconds are those of the whole
build: scheduling, running, summary. Bare tasks are luigi.Task on luigi.LocalTarget; atomic tasks are
AtomicTaskWithMetadata on LocalFileTarget, and write their lineage records.
"""

import argparse
import json
import logging
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
RUNNERS = {
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


class Factory:
    """Luigi's factory, with our scheduler."""

    def create_local_scheduler(self):
        return Scheduler(prune_on_get_work=True, record_task_history=False)

    def create_worker(self, scheduler, worker_processes, assistant=False):  # noqa: FBT002
        return luigi.worker.Worker(scheduler=scheduler, worker_processes=worker_processes, assistant=assistant)


def measure(runner, shape, size, workers):
    """Run one graph here, and print what it cost."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        task = (Atomic if runner == "atomic" else Bare)(shape=shape, number=size, size=size, folder=folder)
        start = time.perf_counter()
        if runner == "atomic":
            run_task(task, num_workers=workers)
        else:
            factory = Factory() if runner == "indexed" else None
            is_done = luigi.build(
                [task], local_scheduler=True, workers=workers, worker_scheduler_factory=factory, log_level="CRITICAL"
            )
            assert is_done
        seconds = time.perf_counter() - start
        assert task.output().exists()
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    print(json.dumps({"seconds": seconds, "megabytes": megabytes}), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[300, 1_000, 3_000], help="tasks per graph")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS), help="luigi is the peer")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--timeout-s", type=float, default=600, help="per run; what takes longer is left out")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure(arguments.runners[0], arguments.shapes[0], arguments.sizes[0], arguments.workers)
        return
    print(f"{'shape':<10}{'tasks':>8}  {'runner':<40}{'seconds':>9}{'ms/task':>9}{'MiB':>7}{'times faster':>14}")
    for shape in arguments.shapes:
        for size in arguments.sizes:
            peer = None
            for runner in arguments.runners:
                command = [sys.executable, __file__, str(size), "--shapes", shape, "--runners", runner, "--here"]
                row = f"{shape:<10}{size:>8}  {RUNNERS[runner]:<40}"
                try:
                    done = subprocess.run(
                        [*command, "--workers", str(arguments.workers)],
                        capture_output=True, text=True, timeout=arguments.timeout_s, check=False,
                        cwd=Path(__file__).resolve().parent.parent,
                    )  # fmt: skip
                except subprocess.TimeoutExpired:
                    print(f"{row}{'> ' + str(int(arguments.timeout_s)):>9}", flush=True)
                    continue
                if done.returncode:
                    print(f"{row}  failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
                    continue
                cost = json.loads(done.stderr.strip().splitlines()[-1])
                seconds = cost["seconds"]
                peer = seconds if runner == "luigi" else peer
                ratio = f"{peer / seconds:>14.1f}" if peer else ""
                print(f"{row}{seconds:>9.2f}{1000 * seconds / size:>9.3f}{cost['megabytes']:>7.0f}{ratio}", flush=True)


if __name__ == "__main__":
    main()
