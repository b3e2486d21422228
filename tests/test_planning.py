"""What a plan says of a run before it, that this is what the run then does, and that nothing is touched for it."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  (Luigi's tasks are annotated with it)
from typing import TYPE_CHECKING, Any

import luigi
import pytest
from executor_tasks import note, notes
from server_log import recorded_requests

from superluigi import (
    AtomicTaskWithMetadata,
    CycleError,
    External,
    LocalFileTarget,
    MemoryTarget,
    NoTarget,
    S3ObjectTarget,
    Task,
    TaskFailedError,
    TaskTypeError,
    TaskWithCleanup,
    TaskWithMetadata,
    run_task,
    tree,
)
from superluigi.plans import Verdict
from superluigi.staleness import Cause

if TYPE_CHECKING:
    from conftest import S3


class Step(AtomicTaskWithMetadata):
    """Joins what those before it wrote."""

    folder = luigi.Parameter()
    number = luigi.IntParameter(default=0)

    def requires(self) -> Any:
        return self.clone(number=self.number - 1) if self.number else None

    def output(self) -> Any:
        return LocalFileTarget(f"{self.folder}/{self.number}.txt")

    def run(self, input_path: Path | None, output_path: Path) -> None:
        note(self.folder, "ran", self.number)
        output_path.write_text(f"{'' if input_path is None else input_path.read_text()}{self.number}")


class Remote(Step):
    bucket = luigi.Parameter()

    def output(self) -> Any:
        return S3ObjectTarget(self.bucket, f"{self.number}.txt")


def planned(task: Any, **options: Any) -> Any:
    return run_task(task, dry_run=True, **options)


def told(plan: Any) -> list[tuple[Any, ...]]:
    """Give verdict, number and the first reason of each task."""
    return [(one.verdict.value, one.task.number, *[(reason.cause.value) for reason in one.reasons[:1]]) for one in plan]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Give bytes and times of all files, and the times of all folders."""
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in [folder, *folder.rglob("*")]
    }


# What is told


def test_a_plan_tells_each_task_after_what_it_requires(tmp_path: Path) -> None:
    task = Step(folder=str(tmp_path), number=2)

    plan = planned(task)

    assert told(plan) == [("run", 0, "missing"), ("run", 1, "missing"), ("run", 2, "missing")]
    assert len(plan) == 3
    assert task in plan
    assert plan[task].reasons[0].subject == str(tmp_path / "2.txt")
    assert plan.of(Verdict.SKIP) == []


def test_without_rerun_stale_nothing_upstream_of_what_is_complete_is_told(tmp_path: Path) -> None:
    run_task(Step(folder=str(tmp_path), number=2))
    (tmp_path / "3.txt").unlink(missing_ok=True)

    assert told(planned(Step(folder=str(tmp_path), number=3))) == [("skip", 2), ("run", 3, "missing")]


def test_all_roots_are_told_and_classes_are_taken(tmp_path: Path) -> None:
    class Whole(Step):
        number = luigi.IntParameter(default=1)
        folder = luigi.Parameter(default=str(tmp_path))

        def requires(self) -> Any:
            return None

    assert told(planned([Whole, Whole(number=2)])) == [("run", 1, "missing"), ("run", 2, "missing")]


@pytest.mark.parametrize("options", [{"force": True}, {"force_upstream": True}, {"force_upstream_to_task_cls": "Step"}])
def test_what_is_forced_is_told(tmp_path: Path, options: dict[str, Any]) -> None:
    task = Step(folder=str(tmp_path), number=1)
    run_task(task)

    plan = planned(task, **options)
    run_task(task, **options)

    assert {one.task.number for one in plan.of(Verdict.RUN)} == set(map(int, notes(tmp_path, "ran")[2:]))
    assert {reason.cause for one in plan.of(Verdict.RUN) for reason in one.reasons} == {Cause.FORCED}


def test_a_plan_is_a_table(tmp_path: Path) -> None:
    task = Step(folder=str(tmp_path), number=2)
    run_task(task)
    (tmp_path / "0.txt").write_text("altered")

    lines = str(planned(task, rerun_stale=True)).splitlines()

    assert lines[0] == "1 to run, 2 unknown, 0 to skip:"
    assert lines[1].split() == ["task", "takes", "makes", "downloads", "why"]
    assert lines[2].split()[:2] == ["run", f"Step(folder={tmp_path},"]
    assert "was altered since it was made: it was sha256:5feceb66ffc8, and is sha256:" in lines[2]
    assert "1 B" in lines[2]
    assert [line.split()[0] for line in lines[2:]] == ["run", "unknown", "unknown"]
    assert str(planned(task, rerun_stale=False)) == "0 to run, 0 unknown, 1 to skip."
    assert repr(planned(task)) == "<Plan: 0 to run, 0 unknown, 1 to skip>"


def test_a_long_plan_is_shown_in_part(tmp_path: Path) -> None:
    plan = planned(Step(folder=str(tmp_path), number=299))

    assert len(str(plan).splitlines()) == 203
    assert "100 more" in str(plan)
    assert "100 more" in plan._repr_html_()
    assert len(plan.to_dict()) == 300


def test_many_reasons_and_long_names_leave_a_table_readable(tmp_path: Path) -> None:
    class Wide(Step):
        ids = luigi.ListParameter()

        def requires(self) -> Any:
            return [External(f"{self.folder}/in-{number}.csv") for number in range(40)]

        def run(self, output_path: Path) -> None:
            output_path.touch()

    for number in range(40):
        (tmp_path / f"in-{number}.csv").write_text("1")
    task = Wide(folder=str(tmp_path), number=7, ids=list(range(1000)))
    run_task(task)
    for number in range(40):
        (tmp_path / f"in-{number}.csv").write_text("2")

    plan = planned(task, rerun_stale=True)
    line = str(plan).splitlines()[2]

    assert line.endswith("; and 37 more")
    assert "run  Wide(" in line
    assert "999])" in line or "number=7)" in line
    assert len(line) < 1000
    assert len(plan[task].reasons) == 40
    assert "in-39.csv" in plan.to_pandas()["reasons"].iloc[-1]
    assert "and 37 more" in str(tree(task))


def test_a_notebook_shows_a_table_in_which_nothing_is_markup(tmp_path: Path) -> None:
    class Named(Step):
        name = luigi.Parameter()

    shown = planned(Named(folder=str(tmp_path), name="<script>alert('&')</script>\nx"))._repr_html_()

    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "does not exist" in shown


def test_private_parameters_are_not_shown(tmp_path: Path) -> None:
    class Secret(Step):
        token = luigi.Parameter(visibility=luigi.parameter.ParameterVisibility.PRIVATE)

    plan = planned(Secret(folder=str(tmp_path), token="hunter2"))

    assert not any("hunter2" in shown for shown in (str(plan), repr(plan), plan._repr_html_(), plan.to_json()))


def test_a_plan_becomes_json_and_pandas(tmp_path: Path) -> None:
    task = Step(folder=str(tmp_path), number=1)
    run_task(task)
    (tmp_path / "0.txt").write_text("altered")

    plan = planned(task, rerun_stale=True)
    first, second = json.loads(plan.to_json())
    frame = plan.to_pandas()

    assert [first["verdict"], second["verdict"]] == list(frame["verdict"]) == ["run", "unknown"]
    assert first["reasons"][0]["cause"] == "output altered"
    assert first["reasons"][0]["before"].startswith("sha256:5fec")
    assert first["task_id"] == plan.tasks[0].task.task_id
    assert first["expected_bytes"] == 1
    assert frame["reasons"][1] == f"Step(folder={tmp_path}, number=0) will run, and may change what this task reads"
    assert list(planned(task).to_pandas()["reasons"]) == [""]


# What it takes


def test_durations_and_sizes_are_those_of_former_records(tmp_path: Path) -> None:
    task = Step(folder=str(tmp_path), number=1)
    run_task(task)
    for number, duration in enumerate([2.0, 5.0]):
        path = tmp_path / f"{number}.txt.metadata.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "duration": duration}))
    (tmp_path / "1.txt").unlink()

    plan = planned(Step(folder=str(tmp_path), number=2))

    expected = [(one.task.number, one.expected_s, one.expected_bytes) for one in plan]
    assert expected == [(0, None, None), (1, 5.0, 2), (2, 3.5, 2)]  # of a new one, the middle of its family


def test_what_was_never_made_is_expected_to_take_nobody_knows_what(tmp_path: Path) -> None:
    (one,) = planned(Step(folder=str(tmp_path)))

    assert (one.expected_s, one.expected_bytes, one.download_bytes) == (None, None, 0)


def test_what_is_downloaded_is_what_lies_in_s3_and_has_no_fresh_copy_here(s3: S3, tmp_path: Path) -> None:
    s3.put("a.csv", b"12345"), s3.put("b/1.csv", b"123")

    class Reading(Step):
        def requires(self) -> Any:
            return [External(f"s3://{s3.bucket}/a.csv"), External(f"s3://{s3.bucket}/b/")]

        def run(self, input_path: list[Path], output_path: Path) -> None:
            output_path.touch()

    class Unread(Reading):
        def run(self, output_path: Path) -> None:
            """Declare no inputs, so that none is brought here."""

    class Again(Reading):
        def output(self) -> Any:
            return LocalFileTarget(f"{self.folder}/again.txt")

    tasks = [Reading(folder=str(tmp_path)), Again(folder=str(tmp_path))]

    assert planned(Unread(folder=str(tmp_path)))[Unread(folder=str(tmp_path))].download_bytes == 0
    assert [one.download_bytes for one in planned(tasks) if one.verdict is Verdict.RUN] == [8, 0]
    run_task(tasks[0])
    assert planned(tasks)[tasks[1]].download_bytes == 0
    s3.put("a.csv", b"1234567")
    assert planned(tasks[1])[tasks[1]].download_bytes == 7
    External(f"s3://{s3.bucket}/a.csv").output().download()
    assert planned(tasks[1])[tasks[1]].download_bytes == 0


# Nothing is touched


@pytest.mark.parametrize("rerun_stale", [False, True])
def test_planning_changes_nothing_and_asks_s3_no_more_than_the_run(s3: S3, tmp_path: Path, rerun_stale: bool) -> None:
    task = Remote(folder=str(tmp_path), bucket=s3.bucket, number=3)
    for change in (lambda: None, lambda: task.output().remove(), lambda: s3.put("0.txt", b"altered")):
        change()
        before, keys = contents(tmp_path), s3.keys()
        with recorded_requests() as asked:
            planned(task, rerun_stale=rerun_stale)
        assert (contents(tmp_path), s3.keys()) == (before, keys)
        with recorded_requests() as needed:
            run_task(task, rerun_stale=rerun_stale)

        assert {method for method, _ in asked.requests} <= {"HEAD", "GET"}
        assert len(asked.requests) <= len(needed.requests)


def test_of_a_complete_task_in_s3_as_much_is_asked_as_by_the_run(s3: S3, tmp_path: Path) -> None:
    task = Remote(folder=str(tmp_path), bucket=s3.bucket, number=3)
    run_task(task)

    with recorded_requests() as asked:
        planned(task)
    with recorded_requests() as needed:
        run_task(task)

    assert asked.requests == needed.requests == [("HEAD", f"/{s3.bucket}/3.txt")]


@pytest.mark.parametrize("rerun_stale", [False, True])
def test_what_a_killed_run_left_stays_until_a_run_clears_it(
    tmp_path: Path, local_data_dir: Path, rerun_stale: bool
) -> None:
    run_task(Step(folder=str(tmp_path), number=1))
    token = "999999999-1"
    for place in (tmp_path / ".superluigi" / token, local_data_dir / "tmp" / token / "journals"):
        place.mkdir(parents=True)
        (place / "half.txt").write_text("half")
    before = contents(tmp_path), contents(local_data_dir)

    planned(Step(folder=str(tmp_path), number=2), rerun_stale=rerun_stale)

    assert (contents(tmp_path), contents(local_data_dir)) == before


def test_planning_makes_no_data_directory_and_prints_nothing(
    tmp_path: Path, local_data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned(Step(folder=str(tmp_path), number=2), rerun_stale=True)

    assert not local_data_dir.exists()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


# What outlives no run


class Value(Step):
    def output(self) -> Any:
        return MemoryTarget()

    def run(self, output_path: MemoryTarget) -> None:
        note(self.folder, "ran", self.number)
        output_path.set(1)


class Effect(Step):
    def output(self) -> Any:
        return NoTarget()

    def run(self) -> None:
        note(self.folder, "ran", self.number)


class Part(TaskWithCleanup, Step):
    """Is cleaned up, and requires nothing."""

    def requires(self) -> Any:
        return None


class Group(luigi.WrapperTask):
    folder = luigi.Parameter()
    number = luigi.IntParameter(default=50)
    kind = luigi.Parameter()

    def requires(self) -> Any:
        return [KINDS[self.kind](folder=self.folder)]


class Reader(Step):
    """Requires a task of some kind, alone or in a group."""

    number = luigi.IntParameter(default=99)
    kind = luigi.Parameter()
    grouped = luigi.BoolParameter()

    def requires(self) -> Any:
        return Group(folder=self.folder, kind=self.kind) if self.grouped else KINDS[self.kind](folder=self.folder)

    def run(self, output_path: Path) -> None:
        note(self.folder, "ran", self.number)
        output_path.write_text("read")


KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Value, Effect, Part)}


def numbers(plan: Any) -> list[str]:
    """Give what a plan lets run, but for groups."""
    return [str(one.task.number) for one in plan.of(Verdict.RUN) if not isinstance(one.task, luigi.WrapperTask)]


@pytest.mark.parametrize("rerun_stale", [False, True], ids=["plain", "rerun_stale"])
@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "grouped"])
@pytest.mark.parametrize("asked_for", ["reader", "itself", "group", "both"])
@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "complete"])
@pytest.mark.parametrize("kind", KINDS)
def test_of_what_outlives_no_run_the_plan_tells_what_the_run_does(
    tmp_path: Path, kind: str, is_missing: bool, asked_for: str, grouped: bool, rerun_stale: bool
) -> None:
    reader = Reader(folder=str(tmp_path), kind=kind, grouped=grouped)
    run_task(reader)
    if is_missing:
        reader.output().remove()
    short_lived = KINDS[kind](folder=str(tmp_path))
    group = Group(folder=str(tmp_path), kind=kind)
    root = {"reader": reader, "itself": short_lived, "group": group, "both": [reader, group]}[asked_for]
    (tmp_path / "ran").unlink()

    plan = planned(root, rerun_stale=rerun_stale)
    run_task(root, rerun_stale=rerun_stale)

    assert notes(tmp_path, "ran") == numbers(plan)
    assert all(one.reasons for one in plan if one.verdict is not Verdict.SKIP)
    assert plan.of(Verdict.UNKNOWN) == []


def test_an_effect_is_never_complete(tmp_path: Path) -> None:
    task = Effect(folder=str(tmp_path))
    run_task(task)

    assert told(planned(task)) == [("run", 0, "never complete")]


def test_what_is_cleaned_up_and_not_needed_hides_what_is_upstream_of_it(tmp_path: Path) -> None:
    class Chained(TaskWithCleanup, Step):
        pass

    class End(Step):
        def requires(self) -> Any:
            return Chained(folder=self.folder, number=3)

    end = End(folder=str(tmp_path), number=9)
    run_task(end)

    assert told(planned(end, force=True))[0] == ("run", 0, "needed")
    assert told(planned(end, rerun_stale=True)) == [*[("skip", number) for number in range(4)], ("skip", 9)]


def test_outputs_that_are_half_written_are_told(tmp_path: Path) -> None:
    class Own(TaskWithMetadata):
        number = 0

        def output(self) -> Any:
            return LocalFileTarget(tmp_path / "own.txt")

        def run(self) -> None:
            (tmp_path / "own.txt").write_text("half")
            if (tmp_path / "broken").exists():
                message = "broken"
                raise ValueError(message)

    (tmp_path / "broken").touch()
    with pytest.raises(TaskFailedError):
        run_task(Own())

    assert told(planned(Own())) == told(planned(Own(), rerun_stale=True)) == [("run", 0, "incomplete")]


# What fails


@pytest.mark.parametrize("rerun_stale", [False, True])
@pytest.mark.parametrize("method", ["requires", "output", "complete"])
def test_what_fails_while_planning_is_named_or_let_out(tmp_path: Path, method: str, rerun_stale: bool) -> None:
    def fails(self: Any) -> Any:
        message = f"{method} is wrong"
        raise KeyError(message)

    class Broken(Step):
        pass

    class Below(Step):
        def requires(self) -> Any:
            return [Step(folder=self.folder, number=5), Broken(folder=self.folder)]

    setattr(Broken, method, fails)
    task = Below(folder=str(tmp_path), number=9)

    with pytest.raises(TaskFailedError) as caught:
        planned(task, rerun_stale=rerun_stale)
    with pytest.raises(KeyError, match=f"{method} is wrong"):
        planned(task, rerun_stale=rerun_stale, raise_exception=True)

    assert [failure.task for failure in caught.value.failures] == [f"Broken(folder={tmp_path}, number=0)"]
    assert isinstance(caught.value.__cause__, KeyError)


def test_circles_and_what_is_no_task_are_told_as_by_a_run(tmp_path: Path) -> None:
    class Circle(Step):
        def requires(self) -> Any:
            return self.clone(number=1 - self.number)

    class Odd(Step):
        def requires(self) -> Any:
            return "step"

    with pytest.raises(CycleError):
        planned(Circle(folder=str(tmp_path)))
    with pytest.raises(TaskTypeError):
        planned(Odd(folder=str(tmp_path)))


# Size


@pytest.mark.parametrize("rerun_stale", [False, True])
def test_a_long_chain_is_planned_in_a_time_that_grows_with_it(tmp_path: Path, rerun_stale: bool) -> None:
    asked: list[int] = []

    class Link(Task):
        number = luigi.IntParameter()

        def requires(self) -> Any:
            asked.append(self.number)
            return self.clone(number=self.number - 1) if self.number else None

        def output(self) -> Any:
            return luigi.LocalTarget(f"{tmp_path}/{self.number}")

    plan = planned(Link(number=4999), rerun_stale=rerun_stale)

    assert len(plan.of(Verdict.RUN)) == 5000
    assert len(asked) == 5000
