"""Short-lived outputs: when they go, when they stay, and what is left of them."""

import logging
from pathlib import Path
from typing import Any

import luigi
import pytest
import short_lived_tasks as tasks
from conftest import S3
from engines import Engine, all_engines
from executor_tasks import note, notes

from superluigi import (
    AtomicTaskWithMetadata,
    LocalFileTarget,
    S3ObjectTarget,
    S3PrefixTarget,
    TargetNotFoundError,
    Task,
    TaskFailedError,
    TaskWithCleanup,
    run_task,
)
from superluigi.forcing import Forcing
from superluigi.running import cleanup
from superluigi.running.state import Run


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def ran(folder: str) -> list[str]:
    return sorted(notes(Path(folder), "ran"))


def parts(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).rglob("*") if path.suffix == ".bin")


@all_engines
def test_outputs_go_once_every_task_that_needed_them_has_succeeded(engine: Engine, folder: str) -> None:
    path = engine.run(tasks.Both(folder=folder))

    assert path.read_text() == "012012"
    assert parts(folder) == []
    assert Path(folder, "left.txt").exists()


@all_engines
def test_a_complete_graph_does_not_make_them_again_and_a_missing_one_does(engine: Engine, folder: str) -> None:
    engine.run(tasks.Both(folder=folder))
    before = ran(folder)

    engine.run(tasks.Both(folder=folder))
    assert ran(folder) == before
    Path(folder, "both.txt").unlink()
    engine.run(tasks.Both(folder=folder))
    assert ran(folder) == before
    Path(folder, "left.txt").unlink()
    engine.run(tasks.Whole(folder=folder, name="left"))
    assert ran(folder) == sorted([*before, "Part0", "Part1", "Part2", "Whole left"])
    assert parts(folder) == []


@all_engines
def test_they_are_kept_if_a_task_that_needs_them_failed_and_go_when_it_has_succeeded(
    engine: Engine, folder: str
) -> None:
    note(folder, "failing", "right")

    with pytest.raises(TaskFailedError):
        engine.run(tasks.Both(folder=folder))
    assert parts(folder) == ["part2.bin"]
    assert tasks.Part(folder=folder, below=2).complete()
    Path(folder, "failing").unlink()
    engine.run(tasks.Both(folder=folder))
    assert parts(folder) == []
    assert ran(folder).count("Part2") == 1


def test_the_record_stays_and_says_when_the_data_went(folder: str) -> None:
    run_task(tasks.Whole(folder=folder))

    record = tasks.Part(folder=folder, below=2).output().read_metadata()
    assert record["removed_time"] > record["end_time"]
    assert record["task_family"] == "Part"
    followed = tasks.Whole(folder=folder).output().read_metadata()["input"]
    assert Path(followed["metadata_path"]).exists()
    assert (
        followed["fingerprint"] == tasks.Part(folder=folder, below=2).output().read_metadata()["output"]["fingerprint"]
    )


@all_engines
def test_beside_what_needs_them_in_a_group_they_go_and_are_not_made_again(engine: Engine, folder: str) -> None:
    engine.run(tasks.AWholeGroup(folder=folder))
    before = ran(folder)
    assert parts(folder) == []

    engine.run(tasks.AWholeGroup(folder=folder))

    assert ran(folder) == before
    assert parts(folder) == []


def test_of_what_was_cleaned_up_what_a_missing_task_needs_is_made_again_also_below_a_group(folder: str) -> None:
    run_task(tasks.AWholeGroup(folder=folder))
    before = ran(folder)
    Path(folder, "whole.txt").unlink()

    run_task(tasks.AWholeGroup(folder=folder))

    assert ran(folder) == sorted(before * 2)
    assert parts(folder) == []


@all_engines
def test_who_reads_them_by_way_of_a_group_needs_them(engine: Engine, folder: str) -> None:
    assert engine.run(tasks.ThroughAGroup(folder=folder)).read_text() == "00"
    assert parts(folder) == []


def test_what_was_asked_for_stays_alone_or_in_a_group_that_gives_it_as_its_own(folder: str) -> None:
    path = run_task(tasks.Part(folder=folder, below=1))
    paths = run_task(tasks.PartsOfAGroup(folder=folder))

    assert parts(folder) == ["one0.bin", "part1.bin", "two0.bin"]
    assert path.exists()
    assert all(path.exists() for path in paths)


@all_engines
def test_what_is_found_to_be_needed_while_a_task_runs_goes_too(engine: Engine, folder: str) -> None:
    assert engine.run(tasks.YieldingAPart(folder=folder)).read_text() == "0"
    assert parts(folder) == []


def test_what_an_earlier_run_has_left_goes_when_it_was_needed(folder: str) -> None:
    run_task(tasks.Part(folder=folder, below=2))

    run_task(tasks.Whole(folder=folder))

    assert parts(folder) == []
    assert ran(folder).count("Part2") == 1


@pytest.mark.parametrize("forcing", ["force", "force_upstream", "from a part"])
def test_forcing_makes_them_again_and_they_go_again(folder: str, forcing: str) -> None:
    run_task(tasks.Whole(folder=folder))
    part = tasks.Part(folder=folder, below=1)
    options: dict[str, Any] = {"force_upstream_to_task": part} if forcing == "from a part" else {forcing: True}

    run_task(tasks.Whole(folder=folder), **options)

    assert ran(folder).count("Part2") == 2
    assert ran(folder).count("Part1") == 2
    assert parts(folder) == []


@all_engines
def test_a_cleanup_that_fails_is_a_warning_and_all_others_are_done(
    engine: Engine, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "superluigi"):
        assert engine.run(tasks.NeedingOddParts(folder=folder)).read_text() == "done"

    (warning,) = [record.getMessage() for record in caplog.records if record.name == "superluigi"]
    assert "Obstinate(" in warning
    assert "the share is read-only" in warning
    assert "call cleanup()" in warning
    left = {path.name for path in Path(folder).iterdir() if not path.name.endswith(".json")} - {"ran"}
    assert left == {"obstinate0.bin", "odd.txt", "parts"}
    assert [path.name for path in Path(folder, "parts").iterdir()] == [".metadata.json"]
    assert "ValuePart is there: False" in ran(folder)
    assert tasks.OwnRecord(folder=folder).output().read_metadata()["rows"] == 3


def test_what_could_not_be_cleaned_up_is_cleaned_up_by_hand(folder: str) -> None:
    run_task(tasks.Part(folder=folder))

    tasks.Part(folder=folder).cleanup()

    assert parts(folder) == []
    tasks.Part(folder=folder).cleanup()


def test_a_folder_that_holds_nothing_but_its_record_does_not_exist(folder: str) -> None:
    run_task(tasks.Parts(folder=folder, name="inside"))
    target = tasks.Parts(folder=folder, name="inside").output()

    target.remove(keep_metadata=True)

    assert not target.exists()
    assert target.read_metadata()["task_family"] == "Parts"
    with pytest.raises(TargetNotFoundError), target.tmp_read_path():
        pass
    run_task(tasks.Parts(folder=folder, name="inside"))
    assert target.exists()
    assert "removed_time" not in target.read_metadata()
    target.remove()
    assert not target.path.exists()


def test_a_client_that_shares_a_scheduler_counts_what_others_have_run(folder: str) -> None:
    """The tasks that need a part were run by another client: their state is asked of the scheduler at the end."""
    run_task(tasks.Part(folder=folder))
    needing = tasks.Whole(folder=folder)
    for status, expected in [("PENDING", ["part0.bin"]), ("DONE", [])]:
        of_run = cleanup.Cleanup(Run(Forcing()))
        of_run.is_needed(needing, [tasks.Part(folder=folder)])
        of_run.end(lambda asked, status=status: dict.fromkeys(asked, status))
        assert parts(folder) == expected


@all_engines
def test_a_part_that_was_cleaned_up_is_made_again_for_who_yields_it(engine: Engine, folder: str) -> None:
    engine.run(tasks.YieldingAPart(folder=folder))
    Path(folder, "yielding.txt").unlink()

    assert engine.run(tasks.YieldingAPart(folder=folder)).read_text() == "0"
    assert engine.run(tasks.YieldingAPart(folder=folder), force=True).read_text() == "0"
    assert ran(folder).count("Part0") == 3
    assert parts(folder) == []


@all_engines
def test_what_a_yield_finds_there_is_not_removed_meanwhile_and_goes_afterwards(engine: Engine, folder: str) -> None:
    run_task(tasks.Part(folder=folder))

    assert engine.run(tasks.YieldingAPart(folder=folder)).read_text() == "0"

    assert ran(folder) == ["Part0"]
    assert parts(folder) == []


@all_engines
def test_a_part_that_is_gone_when_it_is_read_is_made_again_at_once(engine: Engine, folder: str) -> None:
    run_task(tasks.Part(folder=folder, name="there"))

    assert engine.run(tasks.ReadsTwoParts(folder=folder)).read_text() == "0"

    assert ran(folder) == ["Part0", "Part0"]
    assert parts(folder) == []


def test_who_reads_them_by_way_of_a_task_that_hands_them_on_needs_them(folder: str) -> None:
    assert run_task(tasks.ReadsWhatIsHandedOn(folder=folder)).read_text() == "0"
    assert ran(folder) == ["Part0"]
    assert parts(folder) == []


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit], ids=lambda error: error.__name__)
def test_whatever_a_cleanup_raises_the_run_goes_on(
    folder: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cleanup(task: Any) -> None:
        raise error

    monkeypatch.setattr(tasks.Part, "cleanup", cleanup)
    with caplog.at_level(logging.WARNING, "superluigi"):
        assert run_task(tasks.Both(folder=folder)).exists()

    assert f"could not be cleaned up: {error.__name__}" in caplog.text


def test_planning_looks_through_a_chain_that_was_cleaned_up_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 60
    run_task(tasks.Whole(folder=folder, below=length))
    Path(folder, "whole.txt").unlink()
    asked: list[Any] = []
    plain = cleanup.is_cleaned_up
    monkeypatch.setattr(cleanup, "is_cleaned_up", lambda task: (asked.append(task), plain(task))[1])

    run_task(tasks.Whole(folder=folder, below=length))

    assert len(asked) <= length + 1


def test_a_task_without_records_is_not_made_again_by_a_group_either(folder: str) -> None:
    class Recordless(TaskWithCleanup, Task):
        folder = luigi.Parameter()

        def output(self) -> Any:
            return LocalFileTarget(Path(self.folder, "recordless.bin"))

        def run(self) -> None:
            note(self.folder, "ran", "Recordless")
            self.output().path.write_text("made")

    class Reads(tasks.InFolder):
        def requires(self) -> Any:
            return Recordless(folder=self.folder)

        def output(self) -> Any:
            return self.file("reads.txt")

        def run(self, output_path: Path) -> None:
            output_path.write_text("read")

    class Group(luigi.WrapperTask):
        folder = luigi.Parameter()

        def requires(self) -> Any:
            return [Recordless(folder=self.folder), Reads(folder=self.folder)]

    for _ in range(2):
        run_task(Group(folder=folder))

    assert ran(folder) == ["Recordless"]
    assert parts(folder) == []


def test_removing_twice_leaves_the_record_as_it_is(folder: str) -> None:
    for inside in (True, False):
        task = tasks.Parts(folder=folder, name="inside") if inside else tasks.Part(folder=folder, name="beside")
        run_task(task)
        task.output().remove(keep_metadata=True)
        record = task.output().read_metadata()

        task.output().remove(keep_metadata=True)

        assert task.output().read_metadata() == record


class RemotePart(TaskWithCleanup, AtomicTaskWithMetadata):
    bucket = luigi.Parameter()
    kind = luigi.Parameter()

    def output(self) -> Any:
        if self.kind == "object":
            return S3ObjectTarget(self.bucket, "part.bin")
        return S3PrefixTarget(self.bucket, "parts", metadata_inside_prefix=self.kind == "prefix-inside")

    def run(self, output_path: Path) -> None:
        if self.kind == "object":
            output_path.write_text("part")
        else:
            for number in range(3):
                (output_path / f"{number}.txt").write_text("part")


class OfRemoteParts(AtomicTaskWithMetadata):
    bucket = luigi.Parameter()
    kind = luigi.Parameter()

    def requires(self) -> Any:
        return RemotePart(bucket=self.bucket, kind=self.kind)

    def output(self) -> Any:
        return LocalFileTarget("of-remote-parts.txt")

    def run(self, input_path: Path, output_path: Path) -> None:
        output_path.write_text("done")


@pytest.mark.parametrize("kind", ["object", "prefix", "prefix-inside"])
def test_in_s3_nothing_but_the_record_is_left(s3: S3, kind: str) -> None:
    run_task(OfRemoteParts(bucket=s3.bucket, kind=kind))

    keys = [item["Key"] for item in s3.client().list_objects_v2(Bucket=s3.bucket)["Contents"]]
    assert len(keys) == 1
    assert keys[0].endswith("metadata.json")
    target = RemotePart(bucket=s3.bucket, kind=kind).output()
    assert not target.exists()
    assert target.read_metadata()["removed_time"]
    run_task(OfRemoteParts(bucket=s3.bucket, kind=kind))
    assert not target.exists()
