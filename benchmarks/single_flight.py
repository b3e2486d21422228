"""Many processes start one graph at once with single_flight, and some are killed: what was run how often, and by whom.

A process that is killed is started again, as a scheduler of jobs would; every other kill is aimed at a process that is
in a `run`, as most are waiting. From the notes that the tasks leave and from
the records beside their outputs it is counted, per task, how often `run` began and whose output stands there. Expected
are exactly as many executions as there are tasks, and one more for each kill that hit a process between the beginning
of a `run` and its publication; no two at a time of one task; and none missing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import luigi

from superluigi import AtomicTaskWithMetadata, BoolParameter, IntParameter, LocalFileTarget, Parameter, S3ObjectTarget
from superluigi import run_task as run_task_of_superluigi

BUCKET = "flights"


class Node(AtomicTaskWithMetadata):
    """One task of a graph in layers; each requires all of the layer below."""

    root = Parameter(significant=False)
    in_s3 = BoolParameter()
    layer = IntParameter()
    place = IntParameter()
    width = IntParameter(significant=False)
    lasts_ms = IntParameter(significant=False)

    def requires(self):
        return [self.clone(layer=self.layer - 1, place=place) for place in range(self.width)] if self.layer else []

    def output(self):
        name = f"{self.layer}-{self.place}.txt"
        return S3ObjectTarget(BUCKET, name) if self.in_s3 else LocalFileTarget(Path(self.root, "out", name))

    def name(self):
        return f"{self.layer}-{self.place}"

    def run(self, output_path, metadata):
        metadata["pid"] = os.getpid()
        note(self.root, "begin", self.name())
        time.sleep(self.lasts_ms / 1000 * random.uniform(0.5, 1.5))
        output_path.write_text(self.name())


class Top(luigi.WrapperTask):
    root = Parameter(significant=False)
    in_s3 = BoolParameter()
    layers = IntParameter()
    width = IntParameter()
    lasts_ms = IntParameter(significant=False)

    def requires(self):
        return [
            Node(
                root=self.root,
                in_s3=self.in_s3,
                layer=self.layers - 1,
                place=place,
                width=self.width,
                lasts_ms=self.lasts_ms,
            )
            for place in range(self.width)
        ]


@Node.event_handler(luigi.Event.SUCCESS)
def settled(task):
    note(task.root, "settled", task.name())


def note(root: str, what: str, name: str) -> None:
    """Add a line in one step: when, who, what, which task."""
    with open(Path(root, "notes"), "a", encoding="ascii") as stream:
        stream.write(f"{time.time():.4f} {os.getpid()} {what} {name}\n")


def serve(pipe, stop) -> None:
    """Run the S3 server in a process of its own."""
    from superluigi.testing import embedded_s3

    with embedded_s3(BUCKET) as server:
        pipe.send((server.endpoint_url, {name: value for name, value in os.environ.items() if name.startswith("AWS_")}))
        stop.wait()


def run(options: argparse.Namespace, root: str) -> None:
    """Be one of the processes."""
    sys.stdout = open(Path(root, "said", str(os.getpid())), "w")  # noqa: SIM115  (until the process ends)
    sys.stderr = sys.stdout
    settings = {"superluigi": {"lease_s": options.lease_s, "local_data_dir": str(Path(root, "data"))}}
    task = Top(root=root, in_s3=options.s3, layers=options.layers, width=options.width, lasts_ms=options.lasts_ms)
    run_task_of_superluigi(task, single_flight=not options.without, config=settings)


def all_run(options: argparse.Namespace, root: str) -> tuple[list[tuple[float, int]], int]:
    """Start all processes, kill some, start those again; give the kills with their times, and the failed processes."""
    fork = multiprocessing.get_context("fork")
    kills: list[tuple[float, int]] = []
    failed = 0
    alive = [fork.Process(target=run, args=(options, root)) for _ in range(options.processes)]
    for process in alive:
        process.start()
    due = time.monotonic() + options.kill_every_s
    while alive:
        time.sleep(0.005)
        for process in [process for process in alive if process.exitcode is not None]:
            alive.remove(process)
            if process.exitcode == -signal.SIGKILL:
                alive.append(fork.Process(target=run, args=(options, root)))
                alive[-1].start()
            failed += process.exitcode not in (0, -signal.SIGKILL)
        if alive and len(kills) < options.kills and time.monotonic() > due:
            due = time.monotonic() + options.kill_every_s * random.uniform(0.5, 1.5)
            at_work = at_work_in(root) if len(kills) % 2 else set()
            victim = random.choice([process for process in alive if process.pid in at_work] or alive)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
                kills.append((time.time(), victim.pid))
    return kills, failed


def at_work_in(root: str) -> set[int]:
    """Give the processes whose last note says that they began a task."""
    notes = [line.split() for line in Path(root, "notes").read_text(encoding="ascii").splitlines()]
    last = {int(pid): what for _, pid, what, _ in notes}
    return {pid for pid, what in last.items() if what == "begin"}


def judged(options: argparse.Namespace, root: str, kills: list[tuple[float, int]]) -> dict[str, int]:
    """Count what was run, from the notes and the records."""
    notes = [line.split() for line in Path(root, "notes").read_text(encoding="ascii").splitlines()]
    begun = [(float(when), int(pid), name) for when, pid, what, name in notes if what == "begin"]
    ended = {(int(pid), name): float(when) for when, pid, what, name in notes if what == "settled"}
    killed_at = {pid: when for when, pid in kills}
    top = Top(root=root, in_s3=options.s3, layers=options.layers, width=options.width, lasts_ms=options.lasts_ms)
    tasks = {task.name(): task for layer in range(options.layers) for task in layer_of(top, layer)}
    makers = {}
    for name, task in tasks.items():
        with contextlib.suppress(FileNotFoundError):
            with task.output().tmp_read_path() as path:
                assert path.read_text() == name
            makers[name] = task.output().read_metadata()["pid"]
    hits = [(pid, name) for _, pid, name in begun if pid in killed_at and (pid, name) not in ended]
    spans = defaultdict(list)
    for when, pid, name in begun:
        spans[name].append((when, ended.get((pid, name), killed_at.get(pid, when))))
    overlaps = sum(
        later[0] < earlier[1] for found in map(sorted, spans.values()) for earlier, later in itertools.pairwise(found)
    )
    settled_twice = sum(count > 1 for count in Counter(name for _, name in ended).values())
    return {
        "tasks": len(tasks),
        "missing": len(tasks) - len(makers),
        "executions": len(begun),
        "beyond one": len(begun) - len(tasks),
        "kills": len(kills),
        "hit a run": sum(makers.get(name) != pid for pid, name in hits),
        "hit after publishing": sum(makers.get(name) == pid for pid, name in hits),
        "made twice": settled_twice,
        "at a time": overlaps,
    }


def layer_of(top: Top, layer: int) -> list[Node]:
    return [required.clone(layer=layer) for required in top.requires()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=10)
    parser.add_argument("--lasts-ms", type=int, default=1500, help="how long a task takes, more or less")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--kill-every-s", type=float, default=1)
    parser.add_argument("--lease-s", type=int, default=5)
    parser.add_argument("--local", dest="s3", action="store_false", help="outputs on the local disk")
    parser.add_argument("--without", action="store_true", help="without single_flight, to see what it does")
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    random.seed(options.seed)

    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    stop = fork.Event()
    server = fork.Process(target=serve, args=(sender, stop), daemon=True)
    server.start()
    _, environment = receiver.recv()
    os.environ.update(environment)
    with tempfile.TemporaryDirectory() as root:
        os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(Path(root, "data"))
        Path(root, "said").mkdir()
        Path(root, "notes").touch()
        begun = time.monotonic()
        kills, failed = all_run(options, root)
        took_s = time.monotonic() - begun
        counts = judged(options, root, kills)
        is_right = (
            not (counts["missing"] or counts["made twice"] or counts["at a time"] or failed)
            and counts["beyond one"] == counts["hit a run"]
        )
        if failed:
            for said in sorted(Path(root, "said").iterdir()):
                if "Error" in (text := said.read_text()):
                    print(text[-3000:])
    stop.set()
    server.join()
    kind = f"{'S3' if options.s3 else 'local'}{', without single_flight' if options.without else ''}"
    print(f"{options.processes} processes, {kind}: {took_s:.1f} s, {failed} processes failed")
    for name, count in counts.items():
        print(f"{name:<22}{count:>6}")
    print("as promised" if is_right else "NOT as promised")
    return 0 if is_right or options.without else 1


if __name__ == "__main__":
    sys.exit(main())
