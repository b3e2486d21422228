"""A real `luigid`, the tasks that its tests run, and clients: processes of their own that call `run_task`.

A module of its own, so that the clients can import the tasks. Every run of a task adds a line to `runs.txt` in the
working directory, which is safe between processes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from superluigi import AtomicTaskWithMetadata, IntParameter, LocalFileTarget, Parameter, run_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# Luigi looks for work again without its pause of one to six seconds. A client that finds nothing to do stays while
# other clients run what it needs.
QUICK = {"wait_interval": 0.01, "wait_jitter": 0, "ping_interval": 0.1}
STAYING = {**QUICK, "keep_alive": True}

CLIENTS = ("one", "two")

_DAEMON = "import luigi.cmdline; luigi.cmdline.luigid()"
_CLIENT = "import central_scheduler; central_scheduler.run_client()"
_RESULT = "result: "


# The scheduler


@dataclass(frozen=True)
class Luigid:
    """A central scheduler that runs."""

    url: str

    def call(self, method: str, **arguments: Any) -> Any:
        """Give what the scheduler answers to a method of its API."""
        query = urllib.parse.urlencode({"data": json.dumps(arguments)})
        with urllib.request.urlopen(f"{self.url}api/{method}?{query}", timeout=30) as answer:
            return json.load(answer)["response"]

    def statuses(self, graph: str) -> dict[str, str]:
        """Give the status of each task of a graph, by family and number, such as `Step 3`."""
        return {
            f"{task['name']} {task['params']['number']}": task["status"]
            for task in self.call("task_list").values()
            if task["params"].get("graph") == graph
        }

    def run(self, task: Any, worker: Mapping[str, Any] = QUICK, **arguments: Any) -> Any:
        """Run a task in this process, with this scheduler."""
        config = {"core": {"scheduler_url": self.url}, "worker": worker}
        return run_task(task, central_scheduler=True, config=config, **arguments)


@contextlib.contextmanager
def running_luigid(folder: Path, settings: str = "") -> Iterator[Luigid]:
    """Start `luigid` on a free port, with its settings, state and log in `folder`; stop it when the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "luigi.cfg").write_text(settings)
    options = ["--address", "127.0.0.1", "--port", str(port), "--state-path", str(folder / "state")]
    with (
        open(folder / "log", "wb") as log,
        subprocess.Popen(
            [sys.executable, "-c", _DAEMON, *options],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "LUIGI_CONFIG_PATH": str(folder / "luigi.cfg")},
        ) as process,
    ):
        daemon = Luigid(f"http://127.0.0.1:{port}/")
        try:
            wait_until(lambda: process.poll() is not None or _answers(daemon))
            assert process.poll() is None, (folder / "log").read_text()
            yield daemon
        finally:
            process.terminate()


def _answers(daemon: Luigid) -> bool:
    try:
        daemon.call("task_list")
    except OSError:
        return False
    return True


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60) -> bool:
    """Ask again and again until it is so; say whether it was so in time."""
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if is_so():
            return True
        pause.wait(0.01)
    return False


# The tasks


class Step(AtomicTaskWithMetadata):
    """A task of a graph, which says that it began and which client ran it."""

    graph = Parameter()
    number = IntParameter(default=0)
    upstream: ClassVar[Mapping[int, tuple[int, ...]]] = {}

    def requires(self):
        return [type(self)(graph=self.graph, number=number) for number in self.upstream.get(self.number, ())]

    def output(self):
        return LocalFileTarget(f"{self.graph}/{self.number}.txt")

    def run(self, output_path):
        self.record("began")
        self.work()
        output_path.write_text(client())

    def work(self):
        """Do what takes its time."""

    def record(self, what):
        with open("runs.txt", "a") as runs:
            runs.write(f"{self.graph} {self.number} {what} {client()}\n")


class Shared(Step):
    """A graph of twelve tasks: four leaves, two layers above them, one root, number 11.

    A leaf that a client runs ends when both clients have begun one: neither runs all before the other has started.
    """

    upstream: ClassVar = {
        4: (0, 1), 5: (1, 2), 6: (2, 3), 7: (3, 0),
        8: (4, 5), 9: (5, 6), 10: (6, 7),
        11: (8, 9, 10),
    }  # fmt: skip

    def work(self):
        if client() in CLIENTS:
            assert wait_until(lambda: clients_of(self.graph) >= set(CLIENTS))


class Long(Step):
    """A task that takes so long that a client which does not wait for it ends before it does."""

    def work(self):
        wait_until(lambda: any(Path(f"ended-{name}").exists() for name in CLIENTS), timeout_s=0.5)


class Crane(Step):
    """Ten tasks below one root, number 10, each of which takes one of the cranes.

    They wait until three have been at work at the same time, and then whether a fourth joins them.
    """

    upstream: ClassVar = {10: tuple(range(10))}

    @property
    def resources(self):
        return {"crane": 1} if self.number < 10 else {}

    def work(self):
        if self.number < 10:
            assert wait_until(lambda: max(at_once(self.graph)) >= 3)
            wait_until(lambda: max(at_once(self.graph)) > 3, timeout_s=0.1)
            self.record("ended")


class Ranked(Step):
    """Five tasks below one root, number 9; their numbers are their priorities. 4 stands above 0, the root has none."""

    upstream: ClassVar = {9: (1, 2, 3, 4, 5), 4: (0,)}

    @property
    def priority(self):
        return self.number % 9


class Ground(Step):
    """The lowest of four tasks of four classes: walls and a garden require it, and a roof requires both."""


class Walls(Step):
    number = IntParameter(default=1)

    def requires(self):
        return Ground(graph=self.graph)


class Garden(Step):
    number = IntParameter(default=2)

    def requires(self):
        return Ground(graph=self.graph)


class Roof(Step):
    number = IntParameter(default=3)

    def requires(self):
        return [Walls(graph=self.graph), Garden(graph=self.graph)]


class Flaky(Step):
    """Fails as often as its number says, then succeeds; how often it may fail is what the scheduler says."""

    def work(self):
        runs = len(recorded(self.graph, self.number))
        if runs <= self.number:
            message = f"no luck in run {runs}"
            raise ValueError(message)


class Patient(Flaky):
    """May fail three times."""

    retry_count = 4


class Brittle(Flaky):
    """May not fail, as no time is left for another run."""

    retry_count = 100
    disable_hard_timeout = 0


class Disabled(Step):
    """Says itself that it is not to run."""

    disabled = True


class AboveFlaky(Step):
    """Requires a task that fails once."""

    number = IntParameter(default=4)

    def requires(self):
        return Flaky(graph=self.graph, number=1)


# What they recorded


@dataclass(frozen=True)
class Recorded:
    """What a task said of a run."""

    number: int
    what: str
    client: str


def recorded(graph: str, number: int | None = None) -> list[Recorded]:
    """Give what the tasks of a graph, or one of them, said of their runs, in order."""
    with contextlib.suppress(FileNotFoundError):
        lines = [line.split() for line in Path("runs.txt").read_text().splitlines()]
        runs = [Recorded(int(found), what, name) for of, found, what, name in lines if of == graph]
        return [run for run in runs if number in (None, run.number)]
    return []


def began(graph: str) -> list[int]:
    """Give the tasks of a graph that ran, by number, in the order in which they began."""
    return [run.number for run in recorded(graph) if run.what == "began"]


def clients_of(graph: str) -> set[str]:
    """Give who ran the tasks of a graph."""
    return {run.client for run in recorded(graph)}


def at_once(graph: str) -> list[int]:
    """Give how many tasks of a graph were at work, after each line that they wrote."""
    return [0, *itertools.accumulate(1 if run.what == "began" else -1 for run in recorded(graph))]


# The clients


def client() -> str:
    """Give the name of the client that this process belongs to."""
    return os.environ.get("CLIENT", "test")


@dataclass(frozen=True)
class Ended:
    """How a client ended: what it wrote to its error output, and the path that `run_task` gave, if it did."""

    errors: str
    path: str | None = None
    exists: bool = False


def run_together(
    daemon: Luigid, task: Step, worker: Mapping[str, Any] = STAYING, **arguments: Any
) -> tuple[Ended, Ended]:
    """Let two clients, each a process of its own, run the same task from the same moment on."""
    order = {
        "url": daemon.url,
        "task": [task.task_family, task.graph, task.number],
        "arguments": {"worker": worker, **arguments},
    }
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_started(name)) for name in CLIENTS]
        stack.callback(lambda: [process.kill() for process in processes])
        for process in processes:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        for process in processes:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        one, two = [process.communicate(timeout=120) for process in processes]
    return _ended(*one), _ended(*two)


def _started(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CLIENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CLIENT": name},
    )


def _ended(output: str, errors: str) -> Ended:
    results = [line.removeprefix(_RESULT) for line in output.splitlines() if line.startswith(_RESULT)]
    return Ended(errors, **json.loads(results[0])) if results else Ended(errors)


def run_client() -> None:
    """Say that this client is ready, wait for its order, run it, and print what came of it."""
    print("ready", flush=True)
    order = json.loads(sys.stdin.readline())
    family, graph, number = order["task"]
    path = Luigid(order["url"]).run(globals()[family](graph=graph, number=number), **order["arguments"])
    exists = path.exists()
    Path(f"ended-{client()}").touch()
    print(_RESULT + json.dumps({"path": str(path), "exists": exists}))
