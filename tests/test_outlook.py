"""How often things are asked while a run is planned: tasks about themselves, and S3 about their outputs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import luigi
import pytest
from example_tasks import leftovers
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from server_log import recorded_requests

from superluigi import (
    AtomicTaskWithMetadata,
    BucketNotFoundError,
    External,
    LocalFileTarget,
    S3ObjectTarget,
    S3PrefixTarget,
    Task,
    TaskFailedError,
    TaskWithMetadata,
    run_task,
)
from superluigi.forcing import Forcing
from superluigi.outlook import Outlook
from superluigi.storage import files, workplace
from superluigi.storage.s3 import Bucket
from superluigi.targets.foresight import foresight

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import S3

asked: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def fresh_counts() -> None:
    asked.clear()


class Node(AtomicTaskWithMetadata):
    """One task of a graph of some shape; counts what it is asked."""

    number = luigi.IntParameter()
    size = luigi.IntParameter()
    shape = luigi.Parameter()
    folder = luigi.Parameter(significant=False)

    def requires(self) -> Any:
        asked["requires"] += 1
        if self.shape == "wide":
            upstream: Any = range(self.size) if self.number == self.size else ()
        elif self.shape == "chain":
            upstream = range(max(0, self.number - 1), self.number)
        else:  # layers of three, fully connected
            first = self.number - self.number % 3
            upstream = range(max(0, first - 3), first)
        return [self.clone(number=number) for number in upstream]

    def output(self) -> Any:
        asked["output"] += 1
        return LocalFileTarget(f"{self.folder}/{self.number}")

    def complete(self) -> bool:
        asked["complete"] += 1
        return super().complete()

    def run(self, output_path: Path) -> None:
        asked["run"] += 1
        output_path.touch()


class InS3(Node):
    """The same, with outputs in one bucket."""

    def output(self) -> Any:
        return S3ObjectTarget(self.folder, f"data/{self.number:05}.csv")

    complete = Task.complete


class BrokenOff(InS3):
    """The same; the first of several outputs is marked."""

    def output(self) -> Any:
        return [S3ObjectTarget(self.folder, f"data/{self.number:05}.{part}") for part in "ab"]


@pytest.mark.parametrize("shape", ["wide", "chain", "layers"])
def test_each_task_is_asked_once_what_it_requires(shape: str, tmp_path: Path) -> None:
    run_task(Node(number=30, size=30, shape=shape, folder=str(tmp_path)))

    tasks = 31
    assert asked["run"] == tasks
    assert asked["requires"] == tasks


def test_a_second_run_asks_the_root_alone_whether_it_is_complete(tmp_path: Path) -> None:
    root = Node(number=30, size=30, shape="wide", folder=str(tmp_path))
    run_task(root)
    asked.clear()

    run_task(root)

    assert asked["complete"] == 1
    assert asked["run"] == 0


@pytest.mark.parametrize("cls", [InS3, BrokenOff], ids=["one output", "two outputs"])
def test_a_complete_root_in_s3_costs_one_request_for_each_question(cls: type[Node], s3: S3) -> None:
    root = cls(number=5, size=5, shape="wide", folder=s3.bucket)
    for number in range(6):
        for name in ("csv", "a", "b"):
            s3.put(f"data/{number:05}.{name}")

    with recorded_requests() as log:
        run_task(root)

    # Each output, the marker, and once in a process whether a bucket is there in which something is not.
    assert len(log.requests) == (1 if cls is InS3 else 4)


@pytest.mark.parametrize("present", [0, 150, 300], ids=["none", "half", "all"])
@pytest.mark.parametrize("wrapper", [False, True], ids=["missing root", "wrapper task"])
def test_many_targets_of_one_prefix_take_few_requests(present: int, wrapper: bool, s3: S3) -> None:
    keys = [f"data/{2 * number if present == 150 else number:05}.csv" for number in range(present)]
    for key in keys:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(s3.bucket, key, b"")
    upstream = [InS3(number=number, size=300, shape="alone", folder=s3.bucket) for number in range(300)]

    class All(luigi.WrapperTask if wrapper else luigi.Task):  # type: ignore[misc]
        def requires(self) -> Any:
            return upstream

    with recorded_requests() as log, foresight():
        outlook = Outlook(Forcing())
        outlook.ask([All()])
        outlook.ask(upstream)
        complete = sum(task.complete() for task in upstream)

    assert complete == present
    assert len(log.requests) <= 4
    Bucket(s3.bucket).delete(keys)


def test_a_chain_of_targets_is_not_asked_about_link_by_link(s3: S3) -> None:
    for number in range(3):
        s3.put(f"data/{number:05}.csv")
    root = InS3(number=60, size=60, shape="chain", folder=s3.bucket)

    with recorded_requests() as log, foresight():
        outlook = Outlook(Forcing())
        task, walked, rounds = root, 0, 0
        while task.requires():
            before = len(log.requests)
            outlook.ask([task])
            assert task.complete() is (task.number < 3)
            rounds += len(log.requests) > before
            (task,) = task.requires()
            walked += 1

    assert walked == 60
    assert rounds <= 6  # one link, two, four, ...


def test_prefixes_and_markers_are_asked_together_and_give_the_same_answers(s3: S3) -> None:
    s3.put("a/1")
    s3.put("b/1")
    s3.put("b/.superluigi-unfinished")

    class Prefix(TaskWithMetadata):
        name = luigi.Parameter()

        def output(self) -> Any:
            return S3PrefixTarget(s3.bucket, self.name)

    tasks = [Prefix(name=name) for name in "abc"]
    s3.put("a.superluigi-intent")
    with recorded_requests() as log, foresight():
        Outlook(Forcing()).ask(tasks)
        asked_together = len(log.requests)
        exist = [task.output().exists() for task in tasks]
        complete = [task.complete() for task in tasks]

    assert exist == [True, False, False]
    assert complete == [False, False, False]
    assert len(log.requests) == asked_together


def test_forced_tasks_and_those_with_a_complete_of_their_own_are_not_asked_about(s3: S3) -> None:
    class Own(InS3):
        def complete(self) -> bool:
            return True

    forced = [InS3(number=number, size=2, shape="alone", folder=s3.bucket) for number in range(2)]
    own = [Own(number=number, size=2, shape="alone", folder=s3.bucket) for number in range(2)]
    with recorded_requests() as log, foresight():
        Outlook(Forcing(named=frozenset(forced))).ask([*forced, *own])

    assert log.requests == []


def test_an_output_that_fails_is_told_by_the_task_itself(s3: S3) -> None:
    class Broken(InS3):
        def output(self) -> Any:
            if self.number == 1:
                raise ZeroDivisionError
            return super().output()

    with pytest.raises(ZeroDivisionError):
        run_task(
            [Broken(number=number, size=3, shape="alone", folder=s3.bucket) for number in range(3)],
            raise_exception=True,
        )


def test_what_was_found_ahead_does_not_outlive_the_planning(s3: S3) -> None:
    found = []

    class Looking(InS3):
        def run(self, output_path: Path) -> None:
            other = S3ObjectTarget(self.folder, "data/00000.csv")
            found.append(other.exists())
            s3.put("data/00000.csv")
            found.append(other.exists())
            output_path.touch()

    run_task([Looking(number=number, size=3, shape="alone", folder=s3.bucket) for number in (1, 0)])

    assert found[:2] == [False, True]


def test_a_bucket_that_is_not_there_is_asked_once_for_all_targets(s3: S3) -> None:
    tasks = [InS3(number=number, size=40, shape="alone", folder="no-such-bucket") for number in range(40)]

    with recorded_requests() as log, pytest.raises(TaskFailedError) as caught:
        run_task(tasks)

    assert len(caught.value.failures) == 40
    assert all(isinstance(failure.exception, BucketNotFoundError) for failure in caught.value.failures)
    assert len(log.requests) <= 4


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_input_that_vanished_since_it_was_found_is_made_again(num_workers: int, tmp_path: Path) -> None:
    class Upstream(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return LocalFileTarget(tmp_path / "upstream")

        def run(self, output_path: Path) -> None:
            with open(tmp_path / "runs", "a") as runs:
                runs.write("x")
            output_path.touch()

    class Thief(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            return Upstream()

        def output(self) -> Any:
            return LocalFileTarget(tmp_path / "thief")

        def run(self, output_path: Path) -> None:
            Upstream().output().remove()
            output_path.touch()

    class Downstream(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            return Upstream(), Thief()

        def output(self) -> Any:
            return LocalFileTarget(tmp_path / "downstream")

        def run(self, input_path: Any, output_path: Path) -> None:
            output_path.touch()

    run_task(Downstream(), num_workers=num_workers)

    assert (tmp_path / "runs").read_text() == "xx"
    assert Downstream().output().exists()


@pytest.mark.parametrize("trigger", ["a class", "a run", "an attribute"])
def test_what_a_task_imports_or_runs_changes_nothing_that_was_planned(trigger: str, tmp_path: Path) -> None:
    class Fickle(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            return [Made(name=name) for name in sorted(path.name for path in tmp_path.glob("*.csv"))]

        def output(self) -> Any:
            return LocalFileTarget(tmp_path / "fickle")

        def run(self, output_path: Path) -> None:
            output_path.touch()

    class Made(AtomicTaskWithMetadata):
        name = luigi.Parameter()

        def output(self) -> Any:
            return LocalFileTarget(tmp_path / f"made-{self.name}")

        def run(self, output_path: Path) -> None:
            (tmp_path / "new.csv").touch()
            if trigger == "a class":
                type("Late", (Task,), {})
            elif trigger == "a run":
                run_task(External(path=f"{tmp_path}/"))
            else:
                type(self).priority = 1
            output_path.touch()

    (tmp_path / "old.csv").touch()
    run_task(Fickle())

    assert Fickle().output().read_metadata()["input"][0]["path"].endswith("made-old.csv")
    assert not (tmp_path / "made-new.csv").exists()


def test_a_staging_folder_that_a_task_removed_is_made_again(tmp_path: Path) -> None:
    class Writing(AtomicTaskWithMetadata):
        name = luigi.Parameter()

        def output(self) -> Any:
            return LocalFileTarget(tmp_path / "out" / self.name)

        def run(self, output_path: Path) -> None:
            output_path.touch()

    class Clearing(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            return Writing(name="a")

        def output(self) -> Any:
            return LocalFileTarget(tmp_path / "cleared")

        def run(self, output_path: Path) -> None:
            shutil.rmtree(tmp_path / "out")
            output_path.touch()

    class Last(Writing):
        def requires(self) -> Any:
            return Clearing()

    run_task(Last(name="b"))

    assert (tmp_path / "out" / "b").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_a_task_forked_does_not_hold_up_the_run_when_its_process_dies(tmp_path: Path) -> None:
    class Leaving(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return LocalFileTarget(tmp_path / "out")

        def run(self, output_path: Path) -> None:
            child = os.fork()
            if child == 0:
                signal.pause()
            (tmp_path / "child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with pytest.raises(TaskFailedError, match="its process was killed by SIGKILL"):
            run_task([Leaving(), External(path=f"{tmp_path}/")], num_workers=2)
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)

    assert leftovers(tmp_path) == []


def test_data_are_read_while_something_that_cannot_be_cleared_lies_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = LocalFileTarget(tmp_path / "a")
    (tmp_path / "a").write_text("data")
    (tmp_path / ".superluigi" / f"{1 << 40}-0-abcdef01@{socket.gethostname()}").mkdir(parents=True)
    monkeypatch.setattr(workplace.files, "discard", lambda path: None)

    with target.store.reading() as present:
        assert present.fingerprint() == files.digest(tmp_path / "a")


def test_a_task_with_several_outputs_may_change_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)

    class Two(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return [LocalFileTarget("a"), LocalFileTarget("b")]

        def run(self, output_path: Any) -> None:
            for path in output_path:
                path.touch()
            os.chdir("there")

    Two().output()[0].store.mark("a run that was killed")
    run_task(Two(), config={"worker": {"check_complete_on_run": False}}, raise_exception=True)
    os.chdir(tmp_path)

    assert Two().complete()
    assert list((tmp_path / "there").iterdir()) == []
