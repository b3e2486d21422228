"""What run_task promises on a pool: one suite for every kind, and what is particular to some.

Pools that a test breaks are its own.
"""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import luigi
import pytest
from conftest import S3
from engines import ELSEWHERE, HERE, POOLS, QUICK, RETRIED, Engine, a_pool, all_engines, all_pools, engines, processes
from example_tasks import leftovers
from executor_tasks import (
    ColumnError,
    Failing,
    FailingOddly,
    FailingOnce,
    Innocent,
    Killed,
    Lasting,
    Meeting,
    Pair,
    Piece,
    Remote,
    Reporting,
    Setting,
    Waiting,
    Whole,
    Yielding,
    forget_waiting,
    notes,
    peak_of_waiting,
    wait_for,
)
from luigi.event import Event

from superluigi import ConfigError, ExecutorError, TaskFailedError, run_task
from superluigi.errors import MissingExtraError
from superluigi.forcing import Forcing
from superluigi.running import executors, jobs
from superluigi.running.scheduler import Scheduler
from superluigi.running.state import Run
from superluigi.running.worker import Factory

TESTS = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


# What every engine does


@all_engines
def test_what_is_required_is_made_first_and_the_path_comes_back(engine: Engine, folder: str) -> None:
    path = engine.run(Whole(folder=folder))

    record = Whole(folder=folder).output().read_metadata()
    assert path.read_text() == "abc"
    assert (record["pid"] == os.getpid()) == (engine.name in {"none", *HERE})
    assert [item["task_id"] for item in record["input"]] == [item.task_id for item in Whole(folder=folder).requires()]
    assert leftovers(Path(folder)) == []


@all_engines
def test_a_second_run_finds_everything_there_and_a_forced_one_runs_what_is_named(engine: Engine, folder: str) -> None:
    engine.run(Whole(folder=folder))
    before = {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.txt")}

    engine.run(Whole(folder=folder))
    assert {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.txt")} == before
    engine.run(Whole(folder=folder), force_upstream_to_task=Piece(folder=folder, name="b"))
    after = {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.txt")}
    assert {name for name in after if after[name] != before[name]} == {"b.txt", "whole.txt"}


@all_engines
def test_a_run_that_yields_gets_private_paths_of_what_it_yielded_one_or_nested(engine: Engine, folder: str) -> None:
    path = engine.run(Yielding(folder=folder))

    assert path.read_text() == "one two three"
    assert leftovers(Path(folder)) == []


@all_engines
def test_a_failure_has_its_exception_and_the_traceback_from_where_it_ran(engine: Engine, folder: str) -> None:
    with pytest.raises(TaskFailedError, match=r"Failing\(.*: ColumnError: price") as caught:
        engine.run(Failing(folder=folder))

    (failure,) = caught.value.failures
    assert type(failure.exception) is ColumnError
    assert "in look_up" in failure.traceback
    assert caught.value.__cause__ is failure.exception
    assert not Path(folder, "failing.txt").exists()
    assert leftovers(Path(folder)) == []


@all_engines
def test_an_exception_that_cannot_travel_is_told_by_its_text(engine: Engine, folder: str) -> None:
    with pytest.raises(TaskFailedError, match=r"UnpicklableError: this and that") as caught:
        engine.run(FailingOddly(folder=folder))

    (failure,) = caught.value.failures
    assert (failure.exception is None) == (engine.is_elsewhere or engine.name == "forked")
    assert "executor_tasks.py" in failure.traceback


@all_engines
def test_a_failed_task_is_tried_again_as_its_retry_count_says(engine: Engine, folder: str) -> None:
    assert engine.run(FailingOnce(folder=folder), config=RETRIED).read_text() == "the second time"
    assert len(notes(Path(folder), "tries")) == 2


class Handle:
    """The schedulers of the runs of a test."""

    def __init__(self) -> None:
        self.made: list[Scheduler] = []
        self.calls: list[tuple[Any, ...]] = []

    def create(self) -> Scheduler:
        outer = self

        class Noting(Scheduler):
            def set_task_status_message(self, *args: Any, **kwargs: Any) -> None:
                outer.calls.append(("message", threading.current_thread(), *args))
                super().set_task_status_message(*args, **kwargs)

            def set_task_progress_percentage(self, *args: Any, **kwargs: Any) -> None:
                outer.calls.append(("progress", threading.current_thread(), *args))
                super().set_task_progress_percentage(*args, **kwargs)

            def decrease_running_task_resources(self, *args: Any, **kwargs: Any) -> None:
                outer.calls.append(("resources", threading.current_thread(), *args))
                super().decrease_running_task_resources(*args, **kwargs)

        self.made.append(Noting(prune_on_get_work=True, record_task_history=False))
        return self.made[-1]


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    handle = Handle()
    monkeypatch.setattr(Factory, "create_local_scheduler", lambda factory: handle.create())
    return handle


@all_engines
def test_messages_progress_and_resources_reach_the_scheduler_in_their_order_before_the_task_is_done(
    engine: Engine, folder: str, handle: Handle
) -> None:
    engine.run(Reporting(folder=folder), config={**QUICK, "resources": {"memory": 3}})

    task_id = Reporting(folder=folder).task_id
    assert [(name, *args) for name, _, *args in handle.calls] == [
        ("message", task_id, "half of it"),
        ("progress", task_id, 50),
        ("resources", task_id, {"memory": 2}),
    ]
    assert {thread for _, thread, *_ in handle.calls} == {threading.current_thread()}
    known = handle.made[0]._state.get_task(task_id)
    assert (known.status_message, known.progress_percentage) == ("half of it", 50)


@all_engines
def test_the_settings_of_a_call_hold_wherever_its_tasks_run_and_not_in_the_next_call(
    engine: Engine, folder: str
) -> None:
    def wall(name: str, **settings: Any) -> str:
        return engine.run(Setting(folder=folder, name=name), config={**QUICK, **settings}).read_text()

    assert wall("first", colours={"wall": "red"}) == "red"
    assert wall("second", colours={"wall": "blue 100%"}) == "blue 100%"
    assert wall("third") == "none"


@engines(*ELSEWHERE)
def test_two_runs_at_once_with_different_settings_do_not_mix(engine: Engine, folder: str) -> None:
    def job(colour: str) -> jobs.Job:
        task = Setting(folder=folder, name=colour)
        return jobs.Job(
            task, task.task_id, (), None, "", _a_run(), {"colours": {"wall": colour}}, "w", 0, None, False, False
        )

    executor = engine.options["executor"]
    colours = [f"colour{i % 2}-{i}" for i in range(6)]
    submitted = [executor.submit(jobs.run_elsewhere, jobs.dumps(job(colour)), colour) for colour in colours]
    for future in submitted:
        future.result()

    assert [Path(folder, f"{colour}.txt").read_text() for colour in colours] == colours


def _a_run() -> Any:
    return Run(Forcing(frozenset()))


@all_engines
def test_targets_on_s3_are_read_and_written_wherever_the_task_runs(engine: Engine, s3: S3) -> None:
    path = engine.run(Remote(bucket=s3.bucket, endpoint_url=s3.endpoint_url, number=2))

    assert path == f"s3://{s3.bucket}/objects/2.txt"
    assert s3.get("objects/2.txt") == b"012"
    assert s3.keys() == [f"objects/{i}.txt{end}" for i in range(3) for end in ("", ".metadata.json")]


@all_engines
def test_a_run_that_is_async_is_awaited(engine: Engine, folder: str) -> None:
    forget_waiting()

    assert engine.run(Waiting(folder=folder)).read_text() == "waiting"


# How many at a time


def at_work(folder: str) -> int:
    return max(map(int, notes(Path(folder), "at-work")))


@engines("forked", *POOLS)
def test_num_workers_bounds_the_tasks_in_flight(engine: Engine, folder: str) -> None:
    meetings = [Meeting(folder=folder, name=f"m{i}", guests=2) for i in range(5)]

    engine.run(meetings, num_workers=2)

    assert at_work(folder) == 2


@all_pools
def test_num_workers_of_one_runs_one_task_at_a_time(engine: Engine, folder: str) -> None:
    engine.run([Meeting(folder=folder, name=f"m{i}", guests=1) for i in range(3)], num_workers=1)

    assert at_work(folder) == 1


@engines(*[name for name in POOLS if name != "async"])
def test_without_num_workers_as_many_run_as_the_pool_offers(engine: Engine, folder: str) -> None:
    engine.run([Meeting(folder=folder, name=f"m{i}", guests=2) for i in range(4)])

    assert at_work(folder) == 2


def test_the_size_of_a_pool_is_asked_of_it() -> None:
    class OfMpi(ThreadPoolExecutor):
        _max_workers = None
        num_workers = 7

        def __init__(self) -> None:
            pass

    class Unknown(Executor):
        pass

    assert executors.Pool(ThreadPoolExecutor(3)).size == 3
    assert executors.Pool(OfMpi()).size == 7
    assert executors.Pool(Unknown()).size == os.cpu_count()


def test_a_hundred_async_runs_wait_at_once_on_one_loop(folder: str) -> None:
    forget_waiting()

    run_task([Waiting(folder=folder, name=f"w{i}", guests=100) for i in range(100)], executor="async")

    assert peak_of_waiting() == 100
    assert len(set(notes(Path(folder), "loops"))) == 1


# Events


@pytest.fixture
def told() -> list[tuple[str, luigi.Task, tuple[Any, ...], int]]:
    """What listeners of this process are told."""
    heard: list[tuple[str, luigi.Task, tuple[Any, ...], int]] = []
    for event in (Event.START, Event.SUCCESS, Event.FAILURE, Event.PROCESSING_TIME, Event.PROCESS_FAILURE, "own"):

        @Piece.event_handler(event)
        def hear(task: luigi.Task, *args: Any, event: str = event) -> None:
            heard.append((event, task, args, os.getpid()))

    return heard


@engines("none", *POOLS)
def test_each_event_fires_once_in_the_caller(engine: Engine, folder: str, told: list[Any]) -> None:
    engine.run(Piece(folder=folder))

    assert [event for event, *_ in told] == [Event.START, Event.PROCESSING_TIME, Event.SUCCESS]
    assert {(task, pid) for _, task, _, pid in told} == {(Piece(folder=folder), os.getpid())}
    assert all(task is Piece(folder=folder) for _, task, _, _ in told)


@engines("none", *POOLS)
@pytest.mark.parametrize("failing", [Failing, FailingOddly], ids=["travels", "cannot-travel"])
def test_a_failure_fires_its_event_with_an_exception(
    engine: Engine, failing: type[Piece], folder: str, told: list[Any]
) -> None:
    with pytest.raises(TaskFailedError):
        engine.run(failing(folder=folder))

    assert [event for event, *_ in told] == [Event.START, Event.FAILURE]
    (error,) = told[1][2]
    assert isinstance(error, Exception)
    assert ("price" if failing is Failing else "this and that") in str(error)


class Announcing(Piece):
    def run(self, output_path: Path) -> None:
        self.trigger_event("own", self, 1)
        self.trigger_event("bare", "no task at all")
        super().run(output_path)


@engines("none", *POOLS)
def test_events_of_the_users_own_arrive_as_they_were_triggered(engine: Engine, folder: str, told: list[Any]) -> None:
    bare: list[tuple[Any, ...]] = []
    Piece.event_handler("bare")(lambda *args: bare.append(args))

    engine.run(Announcing(folder=folder))

    assert [(task, args) for event, task, args, _ in told if event == "own"] == [(Announcing(folder=folder), (1,))]
    assert bare == [("no task at all",)]


# raise_exception


@all_pools
def test_raise_exception_raises_the_users_own_exception_with_where_it_came_from(engine: Engine, folder: str) -> None:
    with pytest.raises(ColumnError, match="price") as caught:
        engine.run(Failing(folder=folder), raise_exception=True)

    if engine.is_elsewhere:
        assert "in look_up" in str(caught.value.__cause__)
    else:
        assert caught.traceback[-1].name == "look_up"
    assert leftovers(Path(folder)) == []
    assert engine.run(Piece(folder=folder)).read_text() == "piece"


@engines(*ELSEWHERE)
def test_raise_exception_says_so_where_the_exception_cannot_travel(engine: Engine, folder: str) -> None:
    with pytest.raises(TaskFailedError, match="UnpicklableError: this and that"):
        engine.run(FailingOddly(folder=folder), raise_exception=True)


# Classes that no module holds


SCRIPT = """
    import contextlib, multiprocessing, sys
    from concurrent.futures import ProcessPoolExecutor
    from pathlib import Path
    import luigi
    from superluigi import AtomicTaskWithMetadata, LocalFileTarget, TaskFailedError, run_task

    FOLDER = Path.cwd()

    class OwnError(Exception):
        pass

    class Below(AtomicTaskWithMetadata):
        name = luigi.Parameter()

        def output(self):
            return LocalFileTarget(FOLDER / f"{self.name}.txt")

        def run(self, output_path):
            if self.name == "broken":
                raise OwnError("of the script")
            output_path.write_text(self.name)

    class Above(Below):
        name = luigi.Parameter(default="above")

        def requires(self):
            return [Below(name="b"), Below(name="c")]

        def run(self, input_path, output_path):
            more = yield Below(name="d")
            super().run(output_path)
            output_path.write_text("".join(path.read_text() for path in [*input_path, more]))

    def main(executor):
        print(run_task(Above(), executor=executor).read_text())
        try:
            run_task(Below(name="broken"), executor=executor)
        except TaskFailedError as error:
            print(type(error.__cause__) is OwnError, error.__cause__)
"""

MAINS = {
    "fork": "with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as pool: main(pool)",
    "spawn": "with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn')) as pool: main(pool)",
    "dask": "from distributed import Client\n    with Client(sys.argv[1]) as client: main(client)",
}


def script(text: str, main: str) -> str:
    return f"{textwrap.dedent(text)}\nif __name__ == '__main__':\n    {main}\n"


@pytest.mark.parametrize("engine", MAINS)
@pytest.mark.parametrize("is_notebook", [False, True], ids=["script", "notebook"])
def test_classes_of_a_script_or_a_notebook_travel(
    engine: str, is_notebook: bool, tmp_path: Path, pools: Callable[[str], Any]
) -> None:
    address = pools("dask").scheduler.address if engine == "dask" else ""
    (tmp_path / "pipeline.py").write_text(script(SCRIPT, MAINS[engine]))
    program = ["-c", script(SCRIPT, MAINS[engine])] if is_notebook else ["pipeline.py"]

    done = subprocess.run(
        [sys.executable, *program, address], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )

    said = [line for line in done.stdout.splitlines() if line in {"bcd", "True of the script"}]
    assert said == ["bcd", "True of the script"], done.stdout + done.stderr


def test_classes_inside_a_function_travel(pools: Callable[[str], Any], folder: str) -> None:
    class Inner(Piece):
        def run(self, output_path: Path) -> None:
            output_path.write_text("inner")

    for name in ELSEWHERE:
        assert run_task(Inner(folder=folder, name=name), executor=pools(name)).read_text() == "inner"


# A process of the pool that dies

DIED = "The pool's process died while it ran this task"


@pytest.fixture
def doomed(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A pool of the test's own, which it may break."""
    with a_pool(request.param) as pool:
        yield Engine(request.param, {"executor": pool})


all_doomed = pytest.mark.parametrize("doomed", ELSEWHERE, indirect=True)


@all_doomed
def test_a_task_whose_process_is_killed_fails_with_a_message_and_the_run_goes_on(
    doomed: Engine, folder: str, told: list[Any]
) -> None:
    others = [Piece(folder=folder, name=name) for name in "abc"]

    with pytest.raises(TaskFailedError, match=DIED) as caught:
        doomed.run([Killed(folder=folder), *others])

    assert [failure.task.partition("(")[0] for failure in caught.value.failures] == ["Killed"]
    assert all(other.complete() for other in others)
    assert not Path(folder, "killed.txt").exists()
    assert [type(task) for event, task, *_ in told if event == Event.PROCESS_FAILURE] == [Killed]
    assert sorted(task.name for event, task, *_ in told if event == Event.START) == ["a", "b", "c", "killed"]
    assert [doomed.run(Whole(folder=folder)).read_text(), leftovers(Path(folder))] == ["abc", []]


@all_doomed
def test_what_is_in_the_pool_with_a_task_that_kills_it_completes(doomed: Engine, folder: str) -> None:
    with pytest.raises(TaskFailedError, match=DIED) as caught:
        doomed.run(Pair(folder=folder))

    assert [failure.task.partition("(")[0] for failure in caught.value.failures] == ["KilledInCompany"]
    assert Innocent(folder=folder).complete()


@all_doomed
def test_a_task_whose_process_was_killed_once_succeeds_when_it_is_tried_again(doomed: Engine, folder: str) -> None:
    settings = {**RETRIED, "scheduler": {"retry_delay": 0, "retry_count": 4}}

    assert doomed.run(Pair(folder=folder, times=1), config=settings).read_text() == "pair"


def test_a_broken_pool_that_cannot_be_made_anew_fails_its_tasks_and_the_run_ends(folder: str) -> None:
    class Fragile(Executor):
        def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(executors.BrokenExecutor("gone"))
            return future

    with pytest.raises(TaskFailedError, match="gone") as caught:
        run_task(Whole(folder=folder), executor=Fragile(), config=QUICK)

    assert len(caught.value.failures) == 3


@pytest.mark.parametrize("arriving", [b"no pickle", pickle.dumps("of another version")], ids=["garbled", "other"])
def test_a_report_that_cannot_be_read_fails_its_task(arriving: bytes, folder: str) -> None:
    class Garbling(Executor):
        def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(arriving)
            return future

    with pytest.raises(TaskFailedError, match="report on this task cannot be read"):
        run_task(Piece(folder=folder), executor=Garbling(), config=QUICK)


# The caller ends before its tasks

CALLER = """
    import multiprocessing, sys
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    sys.path.insert(0, sys.argv[1])
    from executor_tasks import Lasting, Waiting
    from superluigi import run_task

    def main(executor, kind=Lasting, **options):
        tasks = [kind(folder=sys.argv[2], name=f"task{i}", **options) for i in range(6)]
        try:
            run_task(tasks, executor=executor, num_workers=6)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
"""

CALLERS = {
    **{name: MAINS[name] for name in ("fork", "spawn")},
    "dask": MAINS["dask"].replace("argv[1]", "argv[3]"),
    "threads": "with ThreadPoolExecutor(2) as pool: main(pool)",
    "async": "main('async', Waiting, guests=1000)",
}


@contextlib.contextmanager
def calling(engine: str, folder: Path, address: str = "") -> Iterator[subprocess.Popen[str]]:
    program = folder / "program.py"
    program.write_text(script(CALLER, CALLERS[engine]))
    arguments = [sys.executable, str(program), str(TESTS), str(folder), address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            (folder / "end").touch()
            process.kill()


@pytest.mark.parametrize("name", ["fork", "spawn", "dask"])
def test_ctrl_c_takes_back_what_is_queued_and_leaves_no_half_output(
    name: str, tmp_path: Path, pools: Callable[[str], Any]
) -> None:
    address = pools("dask").scheduler.address if name == "dask" else ""
    with calling(name, tmp_path, address) as process:
        wait_for(lambda: len(notes(tmp_path, "began")) >= 2)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        wait_for(lambda: process.stdout.readline() == "interrupted\n")
        if name == "dask":  # which takes back what its workers hold ready a moment after it was told to
            wait_for(lambda: not any(pools("dask").run(_ready).values()))
        (tmp_path / "end").touch()
        _, said = process.communicate(timeout=30)

    wait_for(lambda: all(Path(tmp_path, f"{began}.txt").exists() for began in notes(tmp_path, "began")))
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert len(notes(tmp_path, "began")) == 2
    assert {path.stem for path in tmp_path.glob("*.txt")} == set(notes(tmp_path, "began"))
    assert all(path.read_text() == path.stem for path in tmp_path.glob("*.txt"))


def _ready(dask_worker: Any) -> int:
    return len(dask_worker.state.ready)


@pytest.mark.parametrize("name", ["threads", "async"])
def test_ctrl_c_ends_a_run_whose_tasks_are_in_this_process(name: str, tmp_path: Path) -> None:
    with calling(name, tmp_path) as process:
        wait_for(lambda: len(notes(tmp_path, "began")) >= (6 if name == "async" else 2))
        process.send_signal(signal.SIGINT)
        if name == "threads":  # nothing can end a thread, but its task does not outlive the call
            (tmp_path / "end").touch()
        out, said = process.communicate(timeout=30)

    assert out.endswith("interrupted\n")
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert all(path.read_text() == path.stem for path in tmp_path.glob("*.txt"))
    assert list(tmp_path.glob(".superluigi")) == []


def is_gone(pid: str) -> bool:
    return not Path("/proc", pid).exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("name", ["fork", "spawn"])
def test_after_its_caller_was_killed_a_pool_ends_and_the_next_run_heals(name: str, tmp_path: Path) -> None:
    with calling(name, tmp_path) as process:
        wait_for(lambda: len(notes(tmp_path, "began")) >= 2)
        process.kill()
        process.wait()
        wait_for(lambda: all(map(is_gone, notes(tmp_path, "pids"))))

        assert list(tmp_path.glob("*.txt")) == []

    run_task([Lasting(folder=str(tmp_path), name=f"task{i}") for i in range(6)])
    assert [path.read_text() for path in sorted(tmp_path.glob("*.txt"))] == [f"task{i}" for i in range(6)]
    assert leftovers(tmp_path) == []


# What is left behind


def open_files() -> set[str]:
    """Give what is open in this process: two pipes or sockets never bear one name."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing itself
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at what is open in /proc")
@engines("threads", "async", "fork", "spawn", "forkserver", "loky")
def test_a_run_leaves_no_thread_no_socket_and_no_folder(engine: Engine, folder: str) -> None:
    engine.run([Meeting(folder=folder, name=name, guests=2) for name in ("x", "y")], num_workers=2)
    gc.collect()  # what earlier tests left to the collector would be closed in between
    threads, opened = set(threading.enumerate()), open_files()

    engine.run([Whole(folder=folder), Reporting(folder=folder)], config={**QUICK, "resources": {"memory": 3}})

    assert set(threading.enumerate()) <= threads
    left = open_files() - opened
    assert left & open_files() == set()  # the monitor of the cluster that the module shares opens files for a moment
    assert leftovers(Path(folder)) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_that_was_made_for_the_run_ends_with_it(method: str, folder: str) -> None:
    before = multiprocessing.active_children()

    assert run_task(Whole(folder=folder), executor=lambda: processes(method)).read_text() == "abc"

    assert multiprocessing.active_children() == before


def test_the_address_of_a_dask_scheduler_does_as_well_as_its_client(pools: Callable[[str], Any], folder: str) -> None:
    from distributed import default_client

    address = pools("dask").scheduler.address

    assert run_task(Whole(folder=folder), executor=address).read_text() == "abc"
    assert run_task(Piece(folder=folder), executor=address.replace("tcp://", "dask://")).read_text() == "piece"
    with pytest.raises(ValueError, match="No client"):
        default_client()


class ClusterJob:
    """What submitit gives for a submission: it can only be asked."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future
        self.is_cancelled = False

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> Any:
        return self.future.result()

    def cancel(self, check: bool = True) -> None:
        self.is_cancelled = True


class UncompletedJobError(RuntimeError):
    """Submitit's error for a job that ended without a result."""


class Cluster:
    """submitit's executor, as far as it is used."""

    __module__ = "submitit.core.core"

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self.jobs: list[ClusterJob] = []

    def submit(self, call: Any, *args: Any, **kwargs: Any) -> ClusterJob:
        self.jobs.append(ClusterJob(self.pool.submit(call, *args, **kwargs)))
        return self.jobs[-1]


def test_the_executor_of_submitit_which_is_none_of_concurrent_futures_runs_tasks(
    pools: Callable[[str], Any], folder: str
) -> None:
    before = set(threading.enumerate())
    cluster = Cluster(pools("spawn"))

    assert run_task(Whole(folder=folder), executor=cluster).read_text() == "abc"
    with pytest.raises(TaskFailedError, match="ColumnError: price"):
        run_task(Failing(folder=folder), executor=cluster, config=QUICK)

    assert len(cluster.jobs) == 5
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "superluigi-jobs"]


def test_a_job_of_submitit_that_ended_without_a_result_is_told_as_a_death(folder: str) -> None:
    class Losing(Executor):
        def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(UncompletedJobError("out of memory"))
            return future

    with pytest.raises(TaskFailedError, match=DIED):
        run_task(Piece(folder=folder), executor=Cluster(Losing()), config=QUICK)


# Bad input


def is_untouched(folder: str) -> bool:
    return list(Path(folder).iterdir()) == []


@pytest.mark.parametrize("executor", [3, "pool", "localhost:8786", ThreadPoolExecutor, {}], ids=repr)
def test_what_is_no_pool_is_an_error_that_says_what_is_taken(executor: Any, folder: str) -> None:
    with pytest.raises(ConfigError, match=r"takes .*tcp://host:8786") as caught:
        run_task(Whole(folder=folder), executor=executor)

    assert isinstance(executor, str) or "an executor of submitit" in str(caught.value)
    assert is_untouched(folder)


@pytest.mark.parametrize("address", ["tcp://localhost", "dask://localhost:port", "tcp://"])
def test_a_dask_address_without_a_port_is_told_at_once(address: str, folder: str) -> None:
    with pytest.raises(ConfigError, match="has a host and a port"):
        run_task(Whole(folder=folder), executor=address)


@pytest.mark.parametrize("num_workers", [0, -1, "4"])
def test_a_pool_does_not_make_a_wrong_number_of_workers_right(num_workers: Any, folder: str) -> None:
    with pytest.raises(ConfigError, match="num_workers is"):
        run_task(Whole(folder=folder), executor="async", num_workers=num_workers)


@engines(*ELSEWHERE)
def test_a_task_that_does_not_pickle_is_an_error_before_any_task_runs(engine: Engine, folder: str) -> None:
    lock = threading.Lock()

    class Closed(Whole):
        def run(self, output_path: Path) -> None:
            with lock:
                output_path.touch()

    with pytest.raises(ExecutorError, match=r"Closed: .*lock.*use threads \(ThreadPoolExecutor\)"):
        engine.run(Closed(folder=folder))

    assert is_untouched(folder)


def test_a_task_that_does_not_pickle_does_in_threads(folder: str) -> None:
    lock = threading.Lock()

    class Closed(Whole):
        def run(self, output_path: Path) -> None:
            with lock:
                output_path.write_text("locked")

    with ThreadPoolExecutor(2) as pool:
        assert run_task(Closed(folder=folder), executor=pool).read_text() == "locked"


def test_a_yielded_task_that_does_not_pickle_fails_and_the_run_goes_on(
    pools: Callable[[str], Any], folder: str
) -> None:
    class Secretive(Piece):
        def __getstate__(self) -> Any:
            message = "not me"
            raise TypeError(message)

    class Naming(Piece):
        def run(self, output_path: Path) -> Iterator[Any]:
            yield Secretive(folder=self.folder, name="secretive")

    tasks = [Naming(folder=folder, name="naming"), Piece(folder=folder)]
    with pytest.raises(TaskFailedError, match=r"Secretive.*does not pickle: not me"):
        run_task(tasks, executor=pools("fork"), config=QUICK)
    assert Piece(folder=folder).complete()


@pytest.mark.parametrize("name", ["threads", "spawn", "loky"])
def test_a_pool_that_was_shut_down_is_an_error_before_any_task_runs(name: str, folder: str) -> None:
    pool = a_pool(name)
    pool.shutdown()  # type: ignore[attr-defined]

    with pytest.raises(ExecutorError, match=r"takes no tasks: .*Hand over an executor that is open"):
        run_task(Whole(folder=folder), executor=pool)

    assert is_untouched(folder)


def test_a_pool_that_is_shut_down_during_the_run_fails_what_is_left(folder: str) -> None:
    pool = processes("fork")
    Piece.event_handler(Event.SUCCESS)(lambda task: pool.shutdown())

    with pytest.raises(TaskFailedError, match="takes no tasks"):
        run_task(Whole(folder=folder), executor=pool, num_workers=1, config=QUICK)

    assert len(list(Path(folder).glob("?.txt"))) == 1


def test_a_dask_address_that_does_not_answer_is_an_error_with_the_address(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_CONNECT_TIMEOUT_S", 0.3)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"

    with pytest.raises(ExecutorError, match=f"No Dask scheduler answers at {address}"):
        run_task(Whole(folder=folder), executor=address)

    assert is_untouched(folder)


def test_a_closed_dask_client_is_an_error_before_any_task_runs(pools: Callable[[str], Any], folder: str) -> None:
    from distributed import Client

    with Client(pools("dask").scheduler.address, set_as_default=False) as client:
        pass

    with pytest.raises(ExecutorError, match="is closed, so it takes no tasks"):
        run_task(Whole(folder=folder), executor=client)
    assert is_untouched(folder)


def test_an_address_without_dask_installed_says_what_to_install(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'superluigi\[dask\]'"):
        run_task(Whole(folder=folder), executor="tcp://127.0.0.1:8786")


@engines(*ELSEWHERE)
def test_a_class_that_the_pool_cannot_import_fails_with_its_module_and_the_way_out(
    engine: Engine, folder: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run([Meeting(folder=folder, name=name, guests=2) for name in ("x", "y")])  # both processes are there
    here = tmp_path_factory.mktemp("here")
    module = f"only_here_{engine.name}"
    (here / f"{module}.py").write_text("from executor_tasks import Piece\nclass Local(Piece):\n    pass\n")
    monkeypatch.syspath_prepend(here)
    local = __import__(module).Local

    with pytest.raises(TaskFailedError, match=rf"cannot load .*{module}.*set PYTHONPATH"):
        engine.run([local(folder=folder, name="local"), Piece(folder=folder)])

    assert Piece(folder=folder).complete()


# Two hosts


@dataclass(frozen=True)
class Host:
    """A Dask worker with a home, a data directory and a working directory of its own."""

    name: str
    root: Path
    address: str

    def files(self) -> set[str]:
        return {path.name for path in self.root.rglob("*.txt")}


@pytest.fixture
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[Host]]]:
    """A client, and two hosts, which share nothing but the network."""
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(n_workers=0, dashboard_address=":0", silence_logs="critical"))
        client = stack.enter_context(Client(cluster, set_as_default=False))
        roots = [tmp_path_factory.mktemp(name) for name in ("host-a", "host-b")]
        for root in roots:
            for folder in ("home", "data", "tmp", "work"):
                (root / folder).mkdir()
            command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
            options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", root.name]
            environment = {
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(TESTS),
                "HOME": str(root / "home"),
                "TMPDIR": str(root / "tmp"),
                "SUPERLUIGI_LOCAL_DATA_DIR": str(root / "data"),
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            log = stack.enter_context((root / "log").open("w"))
            worker = subprocess.Popen([*command, *options], env=environment, cwd=root / "work", stdout=log, stderr=log)
            stack.callback(worker.wait)
            stack.callback(worker.kill)
        client.wait_for_workers(2, timeout=30)
        found = {worker["name"]: address for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()}
        yield client, [Host(root.name, root, found[root.name]) for root in roots]


def test_two_hosts_that_share_nothing_but_a_bucket_run_one_pipeline(
    hosts: tuple[Any, list[Host]], s3: S3, local_data_dir: Path
) -> None:
    client, (first, second) = hosts
    chain = [Remote(bucket=s3.bucket, endpoint_url=s3.endpoint_url, number=number) for number in range(3)]

    def run_on(task: Any, host: Host) -> None:
        run_task(task, executor=client.get_executor(workers=[host.address], pure=False))

    run_on(chain[1], first)
    away = first.root.rename(first.root.with_name("away"))
    run_on(chain[2], second)
    away.rename(first.root)

    assert s3.get("objects/2.txt") == b"012"
    homes = [task.output().read_metadata()["home"] for task in chain]
    assert homes == [str(host.root / "home") for host in (first, first, second)]
    assert "0.txt" not in second.files()
    assert second.files() >= {"1.txt"}
    assert "2.txt" not in first.files()
    assert not list(local_data_dir.rglob("*.txt"))  # the caller fetched nothing


def test_a_pipeline_is_spread_over_two_hosts(hosts: tuple[Any, list[Host]], s3: S3) -> None:
    client, both = hosts
    many = [Remote(bucket=s3.bucket, endpoint_url=s3.endpoint_url, number=0, part=part) for part in range(8)]

    run_task(many, executor=client)

    assert {task.output().read_metadata()["home"] for task in many} == {str(host.root / "home") for host in both}
