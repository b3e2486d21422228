"""What a run tells while it goes on: the events in their order, from wherever tasks run, and what becomes of them."""

import dataclasses
import datetime as dt
import inspect
import json
import logging
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import progress_tasks
import pytest
import single_flight_tasks as flights
from conftest import S3
from documents import ROOT
from engines import ELSEWHERE, QUICK, RETRIED, Engine, a_dask_client, all_engines, engines, processes
from executor_tasks import (
    ColumnError,
    Company,
    Failing,
    FailingOnce,
    Killed,
    Lasting,
    Piece,
    Whole,
    Yielding,
    notes,
    wait_for,
)
from luigi.task_status import PENDING
from progress_tasks import Fetching, Sent, SentInFiles, YieldingOneOfTwo

import superluigi
from superluigi import (
    AtomicTaskWithMetadata,
    ConfigError,
    IntParameter,
    LocalFileTarget,
    ProgressEvent,
    RunEnded,
    RunStarted,
    Tally,
    TaskEnded,
    TaskEvent,
    TaskFailedError,
    TaskPaused,
    TasksAdded,
    TaskStarted,
    TaskStatus,
    TransferDirection,
    TransferEnded,
    TransferEvent,
    TransferProgressed,
    TransferStarted,
    run_task,
)
from superluigi.expectations import key_of
from superluigi.running import durations, events
from superluigi.running.progress import Begun, Progress, Site
from superluigi.running.watching import transfers_of
from superluigi.targets.metadata import now

EVENTS = [
    value
    for value in vars(events).values()
    if inspect.isclass(value) and issubclass(value, ProgressEvent | Tally) and value.__module__ == events.__name__
]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def engine_on_s3(request: pytest.FixtureRequest, bucket: str) -> Iterator[Engine]:
    """A way to run tasks that finds the S3 of the test: a pool of its own is made with its environment."""
    if request.param == "none":
        yield Engine("none", {})
    elif request.param == "forked":
        yield Engine("forked", {"num_workers": 2})
    else:
        with ThreadPoolExecutor(1) if request.param == "threads" else processes("fork", 1) as pool:
            yield Engine(request.param, {"executor": pool})


with_s3 = pytest.mark.parametrize("engine_on_s3", ["none", "forked", "threads", "fork"], indirect=True)


class Told(list[ProgressEvent]):
    """What a run told; a list that is called with each event."""

    __call__ = list.append

    def in_short(self) -> list[str]:
        return [in_short(event) for event in self if not isinstance(event, TransferProgressed)]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


def in_short(event: ProgressEvent) -> str:
    """What kind of event it is, and what is not so in every run of the same tasks."""
    tally = getattr(event, "tally", None)
    counts = "" if tally is None else f" {tally.done}d {tally.running}r {tally.failed}f {tally.remaining}w"
    kinds: dict[type[Any], Callable[[Any], str]] = {
        RunStarted: lambda event: f"begun {event.complete}c",
        TasksAdded: lambda event: f"added {event.count}",
        TaskStarted: lambda event: f"start {event.family} {event.attempt}",
        TaskPaused: lambda event: f"pause {event.family}",
        TaskEnded: lambda event: f"{event.status.value} {event.family}",
        TransferStarted: lambda event: f"{event.direction.value} of {event.address.partition('/data/')[2]}",
        TransferEnded: lambda event: f"{event.direction.value} {'over' if event.is_whole else 'broke off'}",
        RunEnded: lambda _: "over",
    }
    return f"{kinds[type(event)](event)}{counts}"


@all_engines
def test_every_task_starts_and_ends_and_the_counts_add_up(engine: Engine, folder: str) -> None:
    told = Told()

    engine.run(Whole(folder=folder), num_workers=1 if engine.name == "none" else 2, progress=told)

    tallies = [event.tally for event in told]  # type: ignore[attr-defined]
    assert {tally.done + tally.running + tally.failed + tally.remaining for tally in tallies} == {4}
    assert {tally.total for tally in tallies} == {4}
    assert in_short(told[0]) == "begun 0c 0d 0r 0f 4w"
    assert in_short(told[-1]) == "over 4d 0r 0f 0w"
    kinds = [type(event).__name__ for event in told]
    assert sorted(kinds[1:-1]) == ["TaskEnded"] * 4 + ["TaskStarted"] * 4
    assert kinds[-3:] == ["TaskStarted", "TaskEnded", "RunEnded"]  # the last of the tasks needs all others
    assert {event.run_id for event in told} == {told[0].run_id}
    assert told[-1].is_success  # type: ignore[attr-defined]


@engines("none", "forked", "threads", "async", "fork", "dask")
def test_it_is_told_where_a_task_has_run(engine: Engine, folder: str) -> None:
    told = Told()

    engine.run(Whole(folder=folder), num_workers=1 if engine.name == "none" else 2, progress=told)

    ended = told.of(TaskEnded)
    records = {
        record["task_id"]: record for record in map(json.loads, map(Path.read_text, Path(folder).glob("*.json")))
    }
    process_ids = {event.process_id for event in ended}
    assert {event.host for event in ended} == {record["host"] for record in records.values()}
    assert all(isinstance(process_id, int) for process_id in process_ids)
    assert (process_ids == {os.getpid()}) == (engine.name in ("none", "threads", "async"))
    assert os.getpid() not in process_ids or len(process_ids) == 1
    assert engine.name != "forked" or len(process_ids) == len(ended)
    assert all(event.worker.startswith("tcp://") == (engine.name == "dask") for event in ended)


@engines("threads", *ELSEWHERE)
def test_what_waits_in_the_queue_of_a_pool_does_not_run(engine: Engine, folder: str) -> None:
    told = Told()

    def tell(event: ProgressEvent) -> None:
        told(event)
        if len(told.of(TaskStarted)) == 2:
            Path(folder, "end").touch()

    engine.run([Lasting(folder=folder, name=name) for name in "abc"], num_workers=3, progress=tell)

    assert [type(event) for event in told[:3]] == [RunStarted, TaskStarted, TaskStarted]
    assert told[2].tally.remaining == 1  # type: ignore[attr-defined]
    assert min(event.at for event in told.of(TaskEnded)) <= told.of(TaskStarted)[2].at
    began = {event.task_id: event.at for event in told.of(TaskStarted)}
    lengths = [(event.at - began[event.task_id]).total_seconds() for event in told.of(TaskEnded)]
    assert [event.duration_s for event in told.of(TaskEnded)] == pytest.approx(lengths, abs=0.05)


WAYS = ["threads", "near", "far"]


@pytest.fixture(params=WAYS)
def one_at_a_time(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A pool that runs one task at a time: here, where the run hears of it meanwhile, and where it does not."""
    pool: Any = (
        ThreadPoolExecutor(1) if request.param == "threads" else processes("fork", 1, is_far=request.param == "far")
    )
    with pool:
        yield pool


MANY = 20


def test_of_tasks_that_run_one_after_the_other_the_durations_are_no_longer_than_the_run(
    one_at_a_time: Any, folder: str
) -> None:
    told = Told()
    tasks = [Piece(folder=folder, name=str(number)) for number in range(MANY)]

    run_task(tasks, executor=one_at_a_time, num_workers=MANY, progress=told)

    assert sum(event.duration_s for event in told.of(TaskEnded)) < told.of(RunEnded)[0].duration_s
    assert min(event.duration_s for event in told.of(TaskEnded)) > 0
    began = {event.task_id: event.at for event in told.of(TaskStarted)}
    lengths = [(event.at - began[event.task_id]).total_seconds() for event in told.of(TaskEnded)]
    assert [event.duration_s for event in told.of(TaskEnded)] == pytest.approx(lengths, abs=0.05)


def test_a_task_that_yields_where_it_cannot_tell_pauses_even_so(folder: str) -> None:
    told = Told()

    with processes("fork", 1, is_far=True) as pool:
        run_task(YieldingOneOfTwo(folder=folder), executor=pool, progress=told, config=QUICK)

    kinds = [type(event) for event in told.of(TaskEvent) if event.family == "YieldingOneOfTwo"]
    assert kinds == [TaskStarted, TaskPaused, TaskStarted, TaskPaused, TaskStarted, TaskEnded]
    assert [event.reason for event in told.of(TaskPaused)] == ["", ""]


def in_order(told: Told, family: str) -> list[str]:
    return [in_short(event) for event in told.of(TaskEvent) if event.family == family]


def test_what_was_lost_with_its_pool_starts_again_and_what_ran_in_vain_is_told(folder: str) -> None:
    told = Told()

    with processes("fork") as pool:
        run_task(Company(folder=folder), executor=pool, progress=told, config=QUICK)

    for family, noted in (("KilledInCompany", "deaths"), ("Bystander", "bystanders")):
        started, paused, again, ended = [event for event in told.of(TaskEvent) if event.family == family]
        kinds = [type(event) for event in (started, paused, again, ended)]
        assert kinds == [TaskStarted, TaskPaused, TaskStarted, TaskEnded]
        assert [event.attempt for event in (started, paused, again, ended)] == [1, 1, 1, 1]
        assert [str(paused.process_id), str(ended.process_id)] == notes(Path(folder), noted)
        assert paused.reason == "The pool was lost with it. It is run again."
        assert (again.tally.running, ended.status) == (1, "done")  # one at a time, to find out who broke the pool
        assert ended.duration_s == pytest.approx((ended.at - again.at).total_seconds(), abs=0.05)
    assert in_short(told[-1]) == "over 3d 0r 0f 0w"


def test_what_dask_begins_anew_by_itself_is_told_as_lost(folder: str) -> None:
    told = Told()

    with a_dask_client(1, allowed_failures=1) as client:
        run_task(Killed(folder=folder, times=1), executor=client, progress=told)

    assert told.in_short() == [
        "begun 0c 0d 0r 0f 1w",
        "start Killed 1 0d 1r 0f 0w",
        "pause Killed 0d 0r 0f 1w",
        "start Killed 1 0d 1r 0f 0w",
        "done Killed 1d 0r 0f 0w",
        "over 1d 0r 0f 0w",
    ]
    assert [str(told[2].process_id), str(told[4].process_id)] == notes(Path(folder), "deaths")  # type: ignore[attr-defined]


@engines("none", "forked", "async", "spawn")
def test_a_task_that_yields_and_goes_on_is_one_task(engine: Engine, folder: str) -> None:
    told = Told()

    engine.run(Yielding(folder=folder), num_workers=1, progress=told)

    assert told.in_short() == [
        "begun 0c 0d 0r 0f 1w",
        "start Yielding 1 0d 1r 0f 0w",
        "pause Yielding 0d 0r 0f 1w",
        "added 1 0d 0r 0f 2w",
        "start Piece 1 0d 1r 0f 1w",
        "done Piece 1d 0r 0f 1w",
        "start Yielding 1 1d 1r 0f 0w",
        "pause Yielding 1d 0r 0f 1w",
        "added 1 1d 0r 0f 2w",
        "added 1 1d 0r 0f 3w",
        "start Piece 1 1d 1r 0f 2w",
        "done Piece 2d 0r 0f 2w",
        "start Piece 1 2d 1r 0f 1w",
        "done Piece 3d 0r 0f 1w",
        "start Yielding 1 3d 1r 0f 0w",
        "done Yielding 4d 0r 0f 0w",
        "over 4d 0r 0f 0w",
    ]


@engines("none", "forked", "threads", "fork")
def test_a_task_that_fails_and_is_tried_again_says_so(engine: Engine, folder: str) -> None:
    told = Told()

    engine.run(FailingOnce(folder=folder), config=RETRIED, progress=told)

    assert told.in_short() == [
        "begun 0c 0d 0r 0f 1w",
        "start FailingOnce 1 0d 1r 0f 0w",
        "failed FailingOnce 0d 0r 1f 0w",
        "start FailingOnce 2 0d 1r 0f 0w",
        "done FailingOnce 1d 0r 0f 0w",
        "over 1d 0r 0f 0w",
    ]
    assert [event.reason for event in told.of(TaskEnded)] == ["ColumnError: price", ""]


@engines("none", "forked", "threads", "fork")
def test_a_failure_is_told_with_its_reason_before_it_is_raised(engine: Engine, folder: str) -> None:
    told = Told()

    with pytest.raises(TaskFailedError):
        engine.run(Failing(folder=folder), progress=told)

    (failed,) = told.of(TaskEnded)
    assert (failed.status, failed.status == "failed", failed.reason) == (TaskStatus.FAILED, True, "ColumnError: price")
    assert failed.task.startswith("Failing(")
    assert in_short(told[-1]) == "over 0d 0r 1f 0w"
    assert not told[-1].is_success  # type: ignore[attr-defined]


@engines("none", "threads", "fork")
def test_with_raise_exception_all_is_told_before_the_exception_leaves(engine: Engine, folder: str) -> None:
    told = Told()

    with pytest.raises(ColumnError):
        engine.run(Failing(folder=folder), raise_exception=True, progress=told)

    assert told.in_short()[-2:] == ["failed Failing 0d 0r 1f 0w", "over 0d 0r 1f 0w"]


def test_what_is_complete_is_counted_and_no_more_is_said_of_it(folder: str) -> None:
    run_task([Piece(folder=folder, name=name) for name in "ab"])
    told = Told()

    run_task(Whole(folder=folder), progress=told)
    run_task(Whole(folder=folder), progress=(again := Told()))

    assert in_short(told[0]) == "begun 2c 0d 0r 0f 2w"
    assert len(told.of(TaskStarted)) == 2
    assert again.in_short() == ["begun 1c 0d 0r 0f 0w", "over 0d 0r 0f 0w"]


def test_of_what_a_task_yields_only_that_is_added_which_is_not_there(folder: str) -> None:
    run_task(Piece(folder=folder, name="there"))
    told = Told()

    run_task(YieldingOneOfTwo(folder=folder), progress=told)

    assert [event.count for event in told.of(TasksAdded)] == [1]


@engines("none", "forked", "threads", "fork")
def test_a_task_that_another_run_is_making_does_not_run(engine: Engine, folder: str) -> None:
    told = Told()
    ours = flights.Flight(folder=folder, waits=True)
    other = threading.Thread(target=run_task, args=(ours,), kwargs={"single_flight": True, "config": QUICK})

    def tell(event: ProgressEvent) -> None:
        told(event)
        if isinstance(event, RunStarted):
            Path(folder, "go").touch()

    other.start()
    wait_for(Path(folder, "begun").exists)
    engine.run(flights.Flight(folder=folder, waits=True), single_flight=True, progress=tell)
    other.join()

    assert told.in_short() == ["begun 0c 0d 0r 0f 1w", "made elsewhere Flight 1d 0r 0f 0w", "over 1d 0r 0f 0w"]
    assert told.of(TaskEnded)[0].duration_s == 0


@engines("none", "forked", "threads", "fork")
def test_with_single_flight_a_task_of_our_own_starts_and_ends(engine: Engine, folder: str) -> None:
    told = Told()

    engine.run(flights.Flight(folder=folder), single_flight=True, progress=told)

    assert told.in_short()[1:3] == ["start Flight 1 0d 1r 0f 0w", "done Flight 1d 0r 0f 0w"]
    assert told.of(TaskEnded)[0].process_id is not None


@with_s3
def test_big_transfers_are_told_from_wherever_they_are_made(engine_on_s3: Engine, s3: S3, folder: str) -> None:
    told = Told()

    engine_on_s3.run(Fetching(folder=folder, bucket=s3.bucket), progress=told)
    run_task(Sent(bucket=s3.bucket), local_output=True, force=True, progress=(local := Told()))

    (start,), (end,) = told.of(TransferStarted), told.of(TransferEnded)  # what was sent is in the cache
    assert [in_short(start), in_short(end)] == ["upload of sent.bin", "upload over"]
    assert start.address == f"s3://{s3.bucket}/data/sent.bin"
    assert (start.total_bytes, start.done_bytes, end.done_bytes) == (10_000_000, 0, 10_000_000)
    (task_id,) = [event.task_id for event in told.of(TaskStarted) if event.family == "Sent"]
    assert {event.task_id for event in told.of(TransferEvent)} == {task_id}
    assert len({event.transfer_id for event in told.of(TransferEvent)}) == 1
    position = told.in_short().index
    assert position("start Sent 1 0d 1r 0f 1w") < position("upload over") < position("done Sent 1d 0r 0f 1w")
    assert local.of(TransferEnded)[-1].direction == "upload"


@with_s3
def test_a_download_is_told_too_and_so_is_one_that_no_task_makes(engine_on_s3: Engine, s3: S3, folder: str) -> None:
    s3.put("data/sent.bin", bytes(10_000_000))
    told = Told()

    engine_on_s3.run(Fetching(folder=folder, bucket=s3.bucket), progress=told)
    s3.put("data/sent.bin", b"1" * 10_000_000)
    engine_on_s3.run(Sent(bucket=s3.bucket), local_output=True, progress=(local := Told()))

    assert told.in_short()[2:4] == ["download of sent.bin", "download over"]
    assert told.of(TransferEnded)[0].done_bytes == 10_000_000
    assert local.in_short()[1:3] == ["download of sent.bin", "download over"]
    assert local.of(TransferStarted)[0].task_id == ""
    assert isinstance(local[-1], RunEnded)


def test_many_files_are_one_transfer_and_small_ones_are_none(s3: S3) -> None:
    run_task(SentInFiles(bucket=s3.bucket), progress=(many := Told()))
    run_task(Sent(bucket=s3.bucket, size_bytes=3_000_000), progress=(small := Told()))

    (start,), (end,) = many.of(TransferStarted), many.of(TransferEnded)
    assert start.address == f"s3://{s3.bucket}/data/many/a/"
    assert (end.done_bytes, end.total_bytes, end.is_whole) == (10_000_000, 10_000_000, True)
    assert small.of(TransferEvent) == []


def test_a_transfer_is_told_of_four_times_a_second_at_most(s3: S3) -> None:
    run_task(Sent(bucket=s3.bucket), progress=(told := Told()))

    assert len(told.of(TransferProgressed)) <= 4 * told.of(TransferEnded)[0].duration_s + 1


def test_the_last_bytes_of_a_transfer_are_told_of_before_it_is_over_however_fast_they_go() -> None:
    told = Told()

    with transfers_of("run", "task", told)(TransferDirection.UPLOAD, "s3://bucket/data.bin", 10_000_000) as advance:
        for _ in range(10):
            advance(1_000_000)
        before_its_end = told.of(TransferEvent)

    assert [type(event) for event in before_its_end] == [TransferStarted, TransferProgressed]
    assert before_its_end[-1].done_bytes == 10_000_000


def test_an_upload_that_breaks_off_is_over(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.client().delete_bucket(Bucket=s3.bucket)
    told = Told()

    try:
        with pytest.raises(TaskFailedError):
            run_task(Sent(bucket=s3.bucket), force=True, progress=told)
    finally:
        s3.client().create_bucket(Bucket=s3.bucket)

    assert [event.is_whole for event in told.of(TransferEnded)] in ([False], [])  # [] where the record failed first


def test_what_a_function_raises_is_logged_once_and_changes_nothing(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def fails(event: ProgressEvent) -> None:
        calls.append(event)
        message = "no network"
        raise OSError(message)

    with caplog.at_level(logging.WARNING, logger="superluigi"):
        path = run_task(Piece(folder=folder), progress=fails)

    assert path.read_text() == "piece"
    assert len(calls) == 4
    (record,) = [record for record in caplog.records if record.name == "superluigi"]
    assert "RunStarted" in record.message
    assert record.exc_info is not None


@pytest.mark.parametrize("progress", ["yes", 1, []])
def test_what_is_no_way_to_show_progress_is_refused(progress: Any, folder: str) -> None:
    with pytest.raises(ConfigError, match="a function of an event"):
        run_task(Piece(folder=folder), progress=progress)


def test_a_setting_that_is_none_is_refused(folder: str) -> None:
    with pytest.raises(ConfigError, match="takes auto, true or false"):
        run_task(Piece(folder=folder), config={"superluigi": {"progress": "perhaps"}})


def test_a_dry_run_tells_nothing(folder: str) -> None:
    run_task(Piece(folder=folder), dry_run=True, progress=(told := Told()))

    assert told == []


# Time left


class Day(AtomicTaskWithMetadata):
    number = IntParameter()

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"days/{self.number}.txt")

    def run(self, output_path: Path) -> None:
        output_path.write_text(str(self.number))


DAY = key_of(Day)
DAYS = [Day(number=number) for number in range(4)]


def test_nothing_is_said_of_the_time_left_before_anything_is_known() -> None:
    run_task(DAYS, progress=(told := Told()))

    lefts = [event.tally.left_s for event in told]  # type: ignore[attr-defined]
    assert lefts[:2] == [None, None]
    assert None not in lefts[2:]
    assert lefts[-1] == 0


@pytest.mark.parametrize(("workers", "left_s"), [(1, 4 * 50), (2, 2 * 50), (8, 50)])
def test_the_time_left_is_told_by_former_runs(workers: int, left_s: float, local_data_dir: Path) -> None:
    local_data_dir.mkdir()
    (local_data_dir / "durations.json").write_text(json.dumps({DAY: 50.0, "of.Others": 1.0}), encoding="utf-8")

    run_task(DAYS, num_workers=workers, progress=(told := Told()))

    assert told.of(RunStarted)[0].tally.left_s == pytest.approx(left_s, rel=0.1)


def test_what_tasks_take_is_kept_for_later_runs(local_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "_NOTEWORTHY_S", 0.0)
    local_data_dir.mkdir()
    (local_data_dir / "durations.json").write_text(json.dumps({DAY: 50.0, "of.Others": 1.0}), encoding="utf-8")

    run_task(DAYS)

    kept = json.loads((local_data_dir / "durations.json").read_text(encoding="utf-8"))
    assert list(kept) == ["of.Others", DAY]
    assert kept["of.Others"] == 1
    assert 25 < kept[DAY] < 26
    assert [path.name for path in local_data_dir.iterdir() if "durations" in path.name] == ["durations.json"]


def test_what_is_kept_of_tasks_in_a_pool_is_how_long_they_ran_though_nobody_follows(
    one_at_a_time: Any, folder: str, local_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durations, "_NOTEWORTHY_S", 0.0)
    began = time.monotonic()

    run_task(
        [Piece(folder=folder, name=str(number)) for number in range(MANY)], executor=one_at_a_time, num_workers=MANY
    )

    kept = json.loads((local_data_dir / "durations.json").read_text(encoding="utf-8"))
    assert 0 < MANY * kept[key_of(Piece)] < time.monotonic() - began


def test_a_run_of_quick_tasks_keeps_nothing(local_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "_NOTEWORTHY_S", 1000.0)  # however busy the machine is

    run_task(DAYS)

    assert not (local_data_dir / "durations.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({DAY: "long"})], ids=["empty", "list", "torn", "text"])
def test_a_damaged_file_of_durations_is_no_error(content: str, local_data_dir: Path) -> None:
    local_data_dir.mkdir()
    (local_data_dir / "durations.json").write_text(content, encoding="utf-8")

    run_task(DAYS, progress=(told := Told()))

    assert told.of(RunStarted)[0].tally.left_s is None


def test_without_former_runs_the_records_of_outputs_tell_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "_NOTEWORTHY_S", 1000.0)
    run_task(DAYS[:2])
    for number in range(2):
        path = Path(f"days/{number}.txt.metadata.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), "duration": 30 + 20 * number}), encoding="utf-8")

    run_task(DAYS, progress=(told := Told()))

    assert told.of(RunStarted)[0].tally.left_s == pytest.approx(2 * 40)


# News


@pytest.fixture
def followed() -> tuple[Progress, Told]:
    progress, told = Progress("0" * 32), Told()
    progress.follow(told)
    progress.scheduled((day, PENDING, True) for day in DAYS)
    progress.begin(2)
    return progress, told


def begun(handover: int, ago_s: float = 0.0) -> Begun:
    return Begun(DAYS[0].task_id, handover, now() - dt.timedelta(seconds=ago_s), Site.here())


def test_news_of_a_beginning_that_come_after_the_end_start_nothing(followed: tuple[Progress, Told]) -> None:
    progress, told = followed
    handover = progress.handed_over(DAYS[0])

    progress.ended(DAYS[0], TaskStatus.FAILED, ran_s=1.0)
    progress.take(begun(handover))
    again = progress.handed_over(DAYS[0])
    progress.take(begun(handover))
    progress.take(begun(again))

    assert told.in_short()[1:] == ["start Day 1 0d 1r 0f 3w", "failed Day 0d 0r 1f 3w", "start Day 2 0d 1r 0f 3w"]


def test_what_was_lost_before_it_began_is_no_news_and_what_is_told_of_then_starts_it_no_more(
    followed: tuple[Progress, Told],
) -> None:
    progress, told = followed
    handover = progress.handed_over(DAYS[0])

    again = progress.lost(DAYS[0], handover)
    progress.take(begun(handover))
    assert progress.lost(DAYS[0], handover) == handover  # of one that was given up

    assert told.in_short()[1:] == []
    progress.take(begun(again))
    assert told.in_short()[1:] == ["start Day 1 0d 1r 0f 3w"]


def test_a_beginning_is_set_back_but_not_before_the_task_was_handed_over(followed: tuple[Progress, Told]) -> None:
    progress, told = followed

    progress.ended(DAYS[1], TaskStatus.DONE, ran_s=50.0)  # it is not known when it was handed over
    before = now()
    progress.take(begun(progress.handed_over(DAYS[0]), ago_s=50.0))

    first, ended, second = told[1:]
    assert (ended.at - first.at).total_seconds() == pytest.approx(50, abs=0.01)
    assert ended.duration_s == pytest.approx(50)  # type: ignore[attr-defined]
    assert second.at >= before


# Records


@pytest.mark.parametrize("event_cls", EVENTS, ids=lambda event_cls: event_cls.__name__)
def test_every_event_is_frozen_and_says_of_each_field_what_it_is(event_cls: Any) -> None:
    page = (ROOT / "docs" / "progress.md").read_text(encoding="utf-8")
    fields = [field.name for field in dataclasses.fields(event_cls)]
    documented = "".join(base.__doc__ or "" for base in event_cls.__mro__)

    assert getattr(superluigi, event_cls.__name__) is event_cls
    assert event_cls.__dataclass_params__.frozen
    assert "__slots__" in vars(event_cls)
    assert [name for name in fields if f"`{name}`:" not in documented] == []
    assert [name for name in fields if f"`{name}`" not in page] == []
    assert f"`{event_cls.__name__}`" in page


def test_events_travel() -> None:
    run_task(DAYS, progress=(told := Told()))

    assert pickle.loads(pickle.dumps(list(told))) == list(told)
    assert {event.at.tzinfo for event in told} == {dt.timezone.utc}


def test_the_documented_function_runs(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "progress.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    namespace: dict[str, Any] = {"MyTask": lambda: Piece(folder=folder)}

    exec(block, namespace)

    assert "1/1 done, 0.0 s left" in capsys.readouterr().out


assert issubclass(TaskStarted, TaskEvent)
assert issubclass(TransferDirection, str)
assert progress_tasks.SIZE_BYTES == 10_000_000
