"""Several runs that start one task at a time: one makes it, whatever the engine, and whoever is killed."""

import contextlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import luigi
import pytest
from conftest import S3
from engines import Engine, all_engines, engines
from executor_tasks import notes, wait_for
from short_lived_tasks import Effect, WritesItself
from single_flight_tasks import Flight, Pair, PlainFlight, Reader, Short

from superluigi import ConfigError, LeaseError, LocalFileTarget, TaskFailedError, run_task
from superluigi.running import single_flight
from superluigi.running.scheduler import Scheduler
from superluigi.running.single_flight import lease_of
from superluigi.storage import leases, s3_leases
from superluigi.storage.s3 import Bucket

KINDS = ["file", "object", "prefix"]
QUICK = {"superluigi": {"lease_s": 1}}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def begun(folder: str) -> list[str]:
    """The tasks whose `run` began, one for each time."""
    return sorted(line.split()[0] for line in notes(Path(folder), "begun"))


def leases_left(folder: str, bucket: str = "") -> list[str]:
    found = [path.name for path in Path(folder).rglob("*") if path.suffix == ".lock" or path.name == ".superluigi"]
    return found + ([item.key for item in Bucket(bucket).listing("") if "superluigi" in item.key] if bucket else [])


@contextlib.contextmanager
def in_processes(count: int, call: Callable[..., Any], *args: Any) -> Iterator[list[multiprocessing.Process]]:
    """Fork processes that make a call at once; they are joined when the block ends."""
    started = [multiprocessing.get_context("fork").Process(target=call, args=args) for _ in range(count)]
    for process in started:
        process.start()
    try:
        yield started
    finally:
        for process in started:
            process.join(60)
            process.kill()


def run_alone(task: luigi.Task, **options: Any) -> Any:
    return run_task(task, **{"single_flight": True, "config": QUICK, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_of_processes_that_start_one_task_at_once_one_makes_it(kind: str, folder: str, s3: S3) -> None:
    task = Flight(folder=folder, kind=kind, bucket=s3.bucket, waits=True)

    with in_processes(4, run_alone, task) as processes:
        wait_for(lambda: begun(folder))
        Path(folder, "go").touch()

    assert [process.exitcode for process in processes] == [0] * 4
    assert begun(folder) == ["flight"]
    assert task.complete()
    assert leases_left(folder, s3.bucket) == []


@all_engines
def test_who_waits_does_other_work_and_then_finds_the_task_complete(
    engine: Engine, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = Flight(folder=folder, name="taken")
    held = lease_of(taken).take()
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(engine.run, Pair(folder=folder), single_flight=True)
        try:
            wait_for(lambda: begun(folder) == ["free"])
            with taken.output().tmp_write_path() as path:
                path.write_text("made elsewhere")
            assert not running.done()
        finally:
            held.release()
        running.result(60)

    assert begun(folder) == ["free", "pair"]
    assert taken.output().path.read_text() == "made elsewhere"
    assert "* 1 complete ones were encountered:\n    - 1 Flight(" in capsys.readouterr().out
    assert leases_left(folder) == []


@all_engines
def test_a_task_whose_maker_gives_up_is_made_by_who_waits(engine: Engine, folder: str) -> None:
    task = Flight(folder=folder)
    held = lease_of(task).take()
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(engine.run, task, single_flight=True)
        wait_for(lambda: multiprocessing.active_children() or threading.active_count() > 1)
        held.release()
        path = running.result(60)

    assert path.read_text().startswith("flight of ")
    assert begun(folder) == ["flight"]


@pytest.mark.parametrize("kind", KINDS)
def test_killing_who_makes_a_task_frees_it(kind: str, folder: str, s3: S3) -> None:
    task = Flight(folder=folder, kind=kind, bucket=s3.bucket, waits=True)

    with in_processes(1, run_alone, task) as (first,):
        wait_for(lambda: begun(folder))
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        Path(folder, "go").touch()
        run_alone(task)

    assert begun(folder) == ["flight", "flight"]
    assert task.complete()
    assert leases_left(folder, s3.bucket) == []


def test_runs_that_force_a_task_make_it_one_after_the_other(folder: str) -> None:
    task = Flight(folder=folder, waits=True)

    with in_processes(2, lambda: run_alone(task, force=True)) as processes:
        wait_for(lambda: begun(folder))
        assert len(begun(folder)) == 1
        Path(folder, "go").touch()

    assert [process.exitcode for process in processes] == [0, 0]
    assert len(begun(folder)) == 2


def test_a_task_that_fails_is_tried_by_who_waits_and_leaves_no_lease(folder: str) -> None:
    class Failing(Flight):
        def run(self, output_path: Path) -> None:
            super().run(output_path)
            message = "no such column"
            raise KeyError(message)

    with pytest.raises(TaskFailedError, match="no such column"):
        run_alone(Failing(folder=folder))
    with pytest.raises(KeyError, match="no such column"):
        run_alone(Failing(folder=folder), raise_exception=True)

    assert leases_left(folder) == []


def test_plain_tasks_of_luigi_are_made_once_too(folder: str) -> None:
    with in_processes(3, run_alone, PlainFlight(folder=folder)) as processes:
        wait_for(lambda: begun(folder))
        Path(folder, "go").touch()

    assert [process.exitcode for process in processes] == [0] * 3
    assert begun(folder) == ["plain"]


def test_values_and_effects_are_those_of_each_run(folder: str) -> None:
    assert lease_of(Effect(folder=folder)) is None

    with in_processes(2, run_alone, Effect(folder=folder)) as processes:
        pass

    assert [process.exitcode for process in processes] == [0, 0]
    assert len([line for line in notes(Path(folder), "ran") if line.startswith("Effect")]) == 2


def test_the_setting_says_so_too_and_the_argument_overrides_it(folder: str) -> None:
    held = lease_of(Flight(folder=folder)).take()

    run_task(Flight(folder=folder), config={"superluigi": {"single_flight": True}}, single_flight=False)
    held.release()
    assert begun(folder) == ["flight"]
    with ThreadPoolExecutor(1) as beside:
        held = lease_of(Flight(folder=folder, name="other")).take()
        other = Flight(folder=folder, name="other")
        running = beside.submit(run_task, other, config={"superluigi": {"single_flight": True}})
        with contextlib.suppress(TimeoutError):
            running.result(0.2)
        assert not running.done()
        held.release()
    assert begun(folder) == ["flight", "other"]


@pytest.mark.parametrize("value", ["yes", 2, []], ids=repr)
def test_an_argument_that_is_neither_true_nor_false_is_an_error(value: Any, folder: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"single_flight is {value!r}, but must be True, False or None")):
        run_task(Flight(folder=folder), single_flight=value)


@engines("none", "forked", "threads", "async")  # the store is made worse in this process
def test_a_store_without_conditional_puts_is_an_error_and_nothing_is_made(
    engine: Engine, folder: str, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put_whatever_is_there(bucket: Bucket, key: str, data: bytes, options: Any, *, etag: str | None) -> str:
        return bucket.put_bytes(key, data, options)

    monkeypatch.setattr(s3_leases, "_proven", set())
    monkeypatch.setattr(Bucket, "put_if", put_whatever_is_there)
    task = Flight(folder=folder, kind="object", bucket=s3.bucket)

    with pytest.raises(TaskFailedError, match=r"LeaseError.*conditional PUT.*single_flight") as caught:
        engine.run(task, single_flight=True)

    assert all(isinstance(failure.exception, LeaseError) for failure in caught.value.failures)
    assert begun(folder) == []
    assert leases_left(folder, s3.bucket) == []


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_lost_the_lease_publishes_nothing(kind: str, folder: str, s3: S3) -> None:
    class Losing(Flight):
        def run(self, output_path: Path) -> None:
            super().run(output_path)
            if self.kind == "file":
                Path(lease_of(self).address).unlink()
            else:
                lease = lease_of(self)
                lease.bucket.put_bytes(lease.key, b'{"token": "of another run", "lease_s": 1}', {})
            wait_for(is_lost)

    task = Losing(folder=folder, kind=kind, bucket=s3.bucket)
    with pytest.raises(TaskFailedError, match="Nothing was published: run again") as caught:
        run_alone(task)

    assert isinstance(caught.value.__cause__, LeaseError)
    assert not task.complete()
    assert [item.key for item in Bucket(s3.bucket).listing("") if "lease" not in item.key] == []
    assert list(Path(folder).glob("out/*.txt")) == []


def is_lost() -> bool:
    try:
        leases.confirm()
    except LeaseError:
        return True
    return False


def test_who_writes_by_a_target_itself_publishes_nothing_either(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = WritesItself(folder=folder)
    monkeypatch.setattr(WritesItself, "lock", lease_of(task).address)

    with pytest.raises(TaskFailedError, match="Nothing was published"):
        run_alone(task)

    assert not Path(folder, "itself.txt").exists()


# Outputs that go


def test_what_another_run_has_made_used_and_cleaned_up_is_not_made_again(folder: str) -> None:
    reader = Reader(folder=folder, waits=True)

    with in_processes(3, run_alone, reader) as processes:
        wait_for(lambda: "reader" in begun(folder))
        Path(folder, "go").touch()

    assert [process.exitcode for process in processes] == [0] * 3
    assert begun(folder) == ["reader", "short"]
    assert not Short(folder=folder).complete()


def test_what_another_run_has_cleaned_up_is_made_again_for_who_still_reads_it(folder: str) -> None:
    """The lease covers who makes an output, not who reads it: a reader that finds it gone makes it again."""

    class Late(Reader):
        name = luigi.Parameter(default="late")

        def output(self) -> Any:
            if len(begun(folder)) == 1 and Short(folder=folder).complete():
                Short(folder=folder).cleanup()  # as another run does, once its own readers have succeeded
            return LocalFileTarget(Path(self.folder, "late.txt"))

    run_alone(Late(folder=folder))

    assert begun(folder) == ["late", "short", "short"]
    assert not Short(folder=folder).complete()


def test_nothing_is_cleaned_up_while_another_run_makes_it_again(folder: str) -> None:
    short = Short(folder=folder)
    held: list[Any] = []

    class Holding(Reader):
        name = luigi.Parameter(default="holding")

        def run(self, input_path: Path, output_path: Path) -> None:
            super().run(input_path, output_path)
            held.append(lease_of(short).take())

    run_alone(Holding(folder=folder))
    held[0].release()

    assert short.complete()


# How


@pytest.mark.parametrize("resources", [{}, {"memory": 1}], ids=["free", "needy"])
def test_a_task_that_was_put_off_comes_after_others_and_gives_its_resources_back(
    resources: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    scheduler = Scheduler()
    scheduler.update_resources(memory=1)
    for task_id, priority in (("first", 2), ("second", 1)):
        scheduler.add_task(worker="w", task_id=task_id, priority=priority, resources=resources)

    assert scheduler.get_work(worker="w")["task_id"] == "first"
    scheduler.put_off("first", 10)
    assert scheduler.seconds_to_next() == 10
    assert scheduler.get_work(worker="w")["task_id"] == "second"
    scheduler.add_task(worker="w", task_id="second", status="DONE")
    assert scheduler.get_work(worker="w")["task_id"] is None
    assert scheduler.count_pending(worker="w")["n_pending_tasks"] == 1
    now[0] += 11
    assert scheduler.get_work(worker="w")["task_id"] == "first"
    assert scheduler.seconds_to_next() is None


def test_schedulers_that_shuffle_begin_elsewhere_but_with_the_highest_priority() -> None:
    firsts = set()
    for _ in range(40):
        scheduler = Scheduler(shuffles=True)
        for number in range(8):
            scheduler.add_task(worker="w", task_id=str(number), priority=number // 4)
        firsts.add(scheduler.get_work(worker="w")["task_id"])

    assert len(firsts) > 1
    assert firsts <= set("4567")


def test_pauses_grow_up_to_a_second() -> None:
    assert 0.01 <= single_flight.pause_s(0) <= 0.02
    assert all(0.5 <= single_flight.pause_s(tries) <= 1 for tries in (6, 100, 10_000))


def test_a_lease_is_in_s3_if_any_output_is(s3: S3, folder: str) -> None:
    class Two(Flight):
        def output(self) -> Any:
            return {"a": LocalFileTarget(Path(folder, "a.txt")), "b": Flight(folder, "object", s3.bucket).output()}

    assert lease_of(Two(folder=folder)).address == f"s3://{s3.bucket}/out/flight.txt.superluigi-lease"
