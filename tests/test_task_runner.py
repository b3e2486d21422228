"""What run_task promises: for each argument, and for what it prints, gives back, raises and leaves."""

import asyncio
import contextlib
import enum
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import luigi
import pytest
from luigi.mock import MockTarget

from superluigi import (
    AtomicTaskWithMetadata,
    ConfigError,
    CycleError,
    External,
    ExternalTask,
    LocalFileTarget,
    LocalFolderTarget,
    MissingParameterError,
    S3ObjectTarget,
    S3PrefixTarget,
    Task,
    TaskFailedError,
    TaskTypeError,
    run_task,
)
from superluigi.running.task_process import TaskProcess

WORKERS = pytest.mark.parametrize("num_workers", [1, 3], ids=["1-worker", "3-workers"])

# Luigi looks for work again without its pause of a second, so that retries and deaths show at once.
QUICK = {"worker": {"wait_interval": 0.01, "wait_jitter": 0, "ping_interval": 0.1}}


class Pair(NamedTuple):
    left: Any
    right: Any


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class UnpicklableError(Exception):
    """An exception whose constructor takes other arguments than it keeps."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


class Written(AtomicTaskWithMetadata):
    """A task that writes its name into a file of the working directory."""

    name = luigi.Parameter(default="written")

    def output(self) -> Any:
        return LocalFileTarget(f"{self.name}.txt")

    def run(self, output_path: Path) -> None:
        output_path.write_text(self.name)


class Broken(Written):
    """A task whose run raises what its class says."""

    name = luigi.Parameter(default="broken")
    error: Callable[[], BaseException] = lambda: ValueError("no such column: 'price'")

    def run(self, output_path: Path) -> None:
        raise type(self).error()


class Above(Written):
    """A task that requires what its class says."""

    name = luigi.Parameter(default="above")
    upstream: Callable[[], Any] = list

    def requires(self) -> Any:
        return type(self).upstream()


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Say what `Above` requires."""
    return lambda required: monkeypatch.setattr(Above, "upstream", required)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], BaseException]], None]:
    """Say what `Broken` raises."""
    return lambda error: monkeypatch.setattr(Broken, "error", error)


def last_function(error: BaseException) -> str:
    return traceback.extract_tb(error.__traceback__)[-1].name


# What comes back


def outputs(shape: Callable[[Callable[[str], Any]], Any]) -> type[Written]:
    class Nested(Written):
        def output(self) -> Any:
            return shape(lambda name: LocalFileTarget(f"{name}.txt"))

        def run(self, output_path: Any) -> None:
            for target in luigi.task.flatten(self.output()):
                target.path.touch()
            for path in luigi.task.flatten(output_path):
                path.write_text("x")

    return Nested


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        pytest.param(lambda t: t("a"), Path("a.txt"), id="one"),
        pytest.param(lambda t: [t("a"), t("b")], [Path("a.txt"), Path("b.txt")], id="list"),
        pytest.param(lambda t: (t("a"), t("b")), (Path("a.txt"), Path("b.txt")), id="tuple"),
        pytest.param(lambda t: {"x": t("a"), "y": t("b")}, {"x": Path("a.txt"), "y": Path("b.txt")}, id="dict"),
        pytest.param(
            lambda t: {"x": [t("a")], "y": {"z": t("b")}},
            {"x": [Path("a.txt")], "y": {"z": Path("b.txt")}},
            id="nested",
        ),
        pytest.param(lambda t: Pair(t("a"), t("b")), Pair(Path("a.txt"), Path("b.txt")), id="named-tuple"),
    ],
)
def test_the_paths_come_back_in_the_nesting_of_output(shape: Any, expected: Any) -> None:
    result = run_task(outputs(shape)())

    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("nothing", [None, [], {}], ids=["none", "list", "dict"])
def test_a_task_without_outputs_runs_in_every_call_and_gives_their_nesting(nothing: Any) -> None:
    runs = []

    class Silent(Task):
        def output(self) -> Any:
            return nothing

        def complete(self) -> bool:
            return False

        def run(self) -> None:
            runs.append(1)

    assert [run_task(Silent()), run_task(Silent())] == [nothing, nothing]
    assert len(runs) == 2


def test_a_folder_comes_back_as_its_path(tmp_path: Path) -> None:
    class Folder(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return LocalFolderTarget(tmp_path / "parts")

        def run(self, output_path: Path) -> None:
            (output_path / "part0").touch()

    assert run_task(Folder()) == tmp_path / "parts"


def test_a_plain_luigi_task_can_be_the_one_that_is_run(tmp_path: Path) -> None:
    class Plain(luigi.Task):
        def output(self) -> Any:
            return {"local": luigi.LocalTarget(str(tmp_path / "plain.txt")), "mock": MockTarget("m")}

        def run(self) -> None:
            for target in self.output().values():
                with target.open("w") as stream:
                    stream.write("x")

    assert run_task(Plain()) == {"local": tmp_path / "plain.txt", "mock": "m"}


def test_a_target_without_a_path_comes_back_itself(capsys: pytest.CaptureFixture[str]) -> None:
    class Flag(luigi.Target):
        is_set = False

        def exists(self) -> bool:
            return self.is_set

        def __str__(self) -> str:
            return "the flag"

    flag = Flag()

    class Sets(Task):
        def output(self) -> Any:
            return flag

        def run(self) -> None:
            flag.is_set = True

    assert run_task(Sets()) is flag
    assert "Output: the flag\n" in capsys.readouterr().out


def test_a_list_of_tasks_and_classes_gives_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_task([Written(name="a"), Written, outputs(lambda t: [t("b")])()])

    assert result == [Path("a.txt"), Path("written.txt"), [Path("b.txt")]]
    assert capsys.readouterr().out.endswith("Output: a.txt\nOutput: written.txt\nOutput: b.txt\n")


def test_the_same_task_twice_in_a_list_runs_once() -> None:
    assert run_task((Written(), Written())) == [Path("written.txt"), Path("written.txt")]


class Stored(AtomicTaskWithMetadata):
    """An object and a prefix in S3, and a local file."""

    bucket = luigi.Parameter()

    def output(self) -> Any:
        return {
            "object": S3ObjectTarget(self.bucket, "data/a.csv"),
            "prefix": S3PrefixTarget(self.bucket, "data/parts"),
            "file": LocalFileTarget("a.txt"),
        }

    def run(self, output_path: dict[str, Path]) -> None:
        output_path["object"].write_text("object")
        (output_path["prefix"] / "part0").write_text("prefix")
        output_path["file"].write_text("file")


def test_remote_outputs_come_back_as_addresses(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_task(Stored(bucket=bucket))

    assert result == {
        "object": f"s3://{bucket}/data/a.csv",
        "prefix": f"s3://{bucket}/data/parts/",
        "file": Path("a.txt"),
    }
    assert f"Output: s3://{bucket}/data/a.csv\n" in capsys.readouterr().out


def test_local_output_gives_local_copies_of_remote_outputs(bucket: str, local_data_dir: Path) -> None:
    result = run_task(Stored(bucket=bucket), local_output=True)

    assert result["object"].read_text() == "object"
    assert (result["prefix"] / "part0").read_text() == "prefix"
    assert result["file"] == Path("a.txt")
    assert result["object"].is_relative_to(local_data_dir)
    assert result["object"].suffix == ".csv"


def test_force_local_download_fetches_the_copies_anew(s3: Any) -> None:
    copy = run_task(Stored(bucket=s3.bucket), local_output=True)["object"]
    before = copy.stat().st_ino

    kept = run_task(Stored(bucket=s3.bucket), local_output=True)["object"]
    kept_inode = kept.stat().st_ino
    fetched = run_task(Stored(bucket=s3.bucket), force_local_download=True)["object"]

    assert kept == fetched == copy
    assert kept_inode == before
    assert fetched.stat().st_ino != before
    assert fetched.read_text() == "object"


# What is printed


def test_the_summary_and_the_outputs_are_printed_as_the_tutorial_shows_them(
    upstream: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    upstream(lambda: Written(name="below"))

    run_task(Above())

    assert capsys.readouterr().out == textwrap.dedent(
        """
        ===== Luigi Execution Summary =====

        Scheduled 2 tasks of which:
        * 2 ran successfully:
            - 1 Above(name=above)
            - 1 Written(name=below)

        This progress looks :) because there were no failed tasks or missing dependencies

        ===== Luigi Execution Summary =====

        Output: above.txt
        """
    )


def test_a_failed_run_prints_the_summary_and_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TaskFailedError):
        run_task(Broken())

    printed = capsys.readouterr().out
    assert "* 1 failed:\n    - 1 Broken(name=broken)" in printed
    assert "Output:" not in printed


@pytest.mark.parametrize(
    ("level", "is_logged"), [("DEBUG", True), ("info", True), ("WARNING", False), ("ERROR", False)], ids=str
)
def test_luigi_logs_from_log_level_on_and_the_level_is_as_before(
    level: str, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("luigi-interface")
    logger.setLevel(logging.CRITICAL)

    run_task(Written(), log_level=level)

    messages = [record.getMessage() for record in caplog.records if record.name == "luigi-interface"]
    assert any("running   Written" in message for message in messages) == is_logged
    assert logger.level == logging.CRITICAL


def test_the_log_level_is_as_before_after_an_error() -> None:
    run_task(Written())
    before = logging.getLogger("luigi-interface").level

    with pytest.raises(TaskFailedError):
        run_task(Broken(), log_level="CRITICAL")

    assert logging.getLogger("luigi-interface").level == before


# Configuration


class Configured(AtomicTaskWithMetadata):
    """One parameter of each kind that a setting may have, written down as the task got it."""

    number = luigi.IntParameter()
    flag = luigi.BoolParameter(default=False)
    ratio = luigi.FloatParameter(default=0.0)
    day = luigi.DateParameter(default=date(2000, 1, 1))
    month = luigi.MonthParameter(default=date(2000, 1, 1))
    moment = luigi.DateSecondParameter(default=datetime(2000, 1, 1))  # noqa: DTZ001
    minute = luigi.DateMinuteParameter(default=datetime(2000, 1, 1))  # noqa: DTZ001
    names = luigi.ListParameter(default=[])
    table = luigi.DictParameter(default={})
    nothing = luigi.OptionalParameter(default="something")
    colour = luigi.EnumParameter(enum=Colour, default=Colour.RED)
    colours = luigi.EnumListParameter(enum=Colour, default=[])
    span = luigi.TimeDeltaParameter(default=timedelta(0))
    text = luigi.Parameter(default="")
    folder = luigi.PathParameter(default=Path())

    def output(self) -> Any:
        return LocalFileTarget("configured.txt")

    def run(self, output_path: Path) -> None:
        output_path.write_text(repr({name: self.param_kwargs[name] for name, _ in self.get_params()}))


VALUES = {
    "number": 4,
    "flag": True,
    "ratio": 0.25,
    "day": date(2022, 12, 15),
    "month": date(2022, 12, 1),
    "moment": datetime(2022, 12, 15, 10, 30, 5),  # noqa: DTZ001
    "minute": datetime(2022, 12, 15, 10, 30),  # noqa: DTZ001
    "names": ("a", "100%", 3),
    "table": luigi.freezing.FrozenOrderedDict({"x": luigi.freezing.FrozenOrderedDict({"y": 1})}),
    "nothing": None,
    "colour": Colour.BLUE,
    "colours": (Colour.BLUE, Colour.RED),
    "span": timedelta(days=2, seconds=5),
    "text": "50% of $5, ${HOME}, ${nowhere}, %(number)s, %%",
    "folder": Path("a/b"),
}


@WORKERS
def test_a_class_takes_its_parameters_from_config_in_whatever_simple_type(num_workers: int) -> None:
    given = {**VALUES, "names": list(VALUES["names"]), "table": {"x": {"y": 1}}, "colours": list(VALUES["colours"])}

    path = run_task(Configured, config={"Configured": given}, num_workers=num_workers)

    assert path.read_text() == repr(VALUES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("luigi.cfg", "[Configured]\nnumber = 4\nday = 2022-12-15\ntext = 100%% of ${SUPERLUIGI_TEST}\nnames = [1]\n"),
        ("luigi.ini", "[Configured]\nnumber: 4\nday: 2022-12-15\ntext: 100%% of ${SUPERLUIGI_TEST}\nnames: [1]\n"),
        ("luigi.toml", "[Configured]\nnumber = 4\nday = 2022-12-15\ntext = '100% of gold'\nnames = [1]\n"),
    ],
    ids=["cfg", "ini", "toml"],
)
@pytest.mark.parametrize("as_path", [str, Path], ids=["str", "path"])
def test_a_class_takes_its_parameters_from_a_file(
    name: str, text: str, as_path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERLUIGI_TEST", "gold")
    (tmp_path / name).write_text(text)

    path = run_task(Configured, config_file=as_path(tmp_path / name))

    assert "'number': 4, 'flag': False" in path.read_text()
    assert "datetime.date(2022, 12, 15)" in path.read_text()
    assert "'names': (1,)" in path.read_text()
    assert "'100% of gold'" in path.read_text()


def test_config_wins_over_config_file(tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[Configured]\nnumber = 4\ntext = file\n")

    path = run_task(Configured, config={"Configured": {"number": 5}}, config_file=tmp_path / "luigi.cfg")

    assert "'number': 5" in path.read_text()
    assert "'text': 'file'" in path.read_text()


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_the_configuration_is_as_before_afterwards(fails: bool, tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[file_only]\nx = 1\n[kept]\nchanged = file\n")
    parser = luigi.configuration.get_config()
    parser.set("kept", "changed", "50%%")
    parser.set("kept", "untouched", "2")
    before = {section: dict(parser.items(section)) for section in parser.sections()}
    config = {"kept": {"changed": 3, "added": 4}, "new": {"z": 5}}

    with contextlib.nullcontext() if not fails else pytest.raises(TaskFailedError):
        run_task((Broken if fails else Written)(), config=config, config_file=tmp_path / "luigi.cfg")

    assert {section: dict(parser.items(section)) for section in parser.sections()} == before
    with pytest.raises(MissingParameterError):
        run_task(Configured)


def test_the_data_directory_can_be_set_for_one_call(bucket: str, tmp_path: Path) -> None:
    settings = {"superluigi": {"local_data_dir": tmp_path / "elsewhere"}}

    path = run_task(Stored(bucket=bucket), config=settings, local_output=True)["object"]

    assert path.is_relative_to(tmp_path / "elsewhere")


SPAWNED = """
import multiprocessing, sys
from pathlib import Path
import luigi
from superluigi import AtomicTaskWithMetadata, LocalFileTarget, run_task

class First(AtomicTaskWithMetadata):
    def output(self):
        return LocalFileTarget(f"{self.task_family}.txt")

    def run(self, output_path, metadata):
        metadata["setting"] = luigi.configuration.get_config().get("mine", "setting", "none")
        output_path.write_text(multiprocessing.current_process().name)

class Second(First):
    def requires(self):
        return First()

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    run_task(Second(), num_workers=2, config={"mine": {"setting": "given"}})
    run_task(Second(), num_workers=2, config={"mine": {"setting": "forced"}}, force=True)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_are_not_forked_get_the_settings_and_the_id_of_the_run(method: str, tmp_path: Path) -> None:
    (tmp_path / "spawned.py").write_text(SPAWNED)

    subprocess.run([sys.executable, "spawned.py", method], check=True, capture_output=True, timeout=60)

    first, second = (json.loads((tmp_path / f"{name}.txt.metadata.json").read_text()) for name in ("First", "Second"))
    assert (first["setting"], second["setting"]) == ("given", "forced")
    assert first["run_id"] != second["run_id"]
    assert "MainProcess" not in (tmp_path / "First.txt").read_text()


SPAWNED_WITH_VALUES = """
import multiprocessing, sys
from superluigi import AtomicTaskWithMetadata, LocalFileTarget, MemoryTarget, run_task

class Value(AtomicTaskWithMetadata):
    def output(self):
        return MemoryTarget()

    def run(self, output_path):
        output_path.set(41)

class Reader(AtomicTaskWithMetadata):
    def requires(self):
        return Value()

    def output(self):
        return LocalFileTarget("read.txt")

    def run(self, input_path, output_path):
        output_path.write_text(str(input_path.get() + 1))

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    run_task(Reader(), num_workers=2)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_are_not_forked_get_values_and_may_be_followed(method: str, tmp_path: Path) -> None:
    (tmp_path / "spawned.py").write_text(SPAWNED_WITH_VALUES)
    transport = json.dumps({"type": "file", "log_file_path": str(tmp_path / "events.jsonl"), "append": True})

    subprocess.run(
        [sys.executable, "spawned.py", method],
        check=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "OPENLINEAGE__TRANSPORT": transport},
    )

    assert (tmp_path / "read.txt").read_text() == "42"
    told = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    ended = [event["job"]["name"] for event in told if event["eventType"] == "COMPLETE"]
    assert ended == ["spawned.Value", "spawned.Reader", "run_task.spawned.Reader"]


# Failures


@WORKERS
def test_every_failed_task_is_named_with_its_exception_and_the_first_is_the_cause(
    num_workers: int, upstream: Callable[..., None]
) -> None:
    upstream(lambda: [Broken(name="one"), Broken(name="two"), Written(name="fine")])

    with pytest.raises(TaskFailedError) as caught:
        run_task(Above(), num_workers=num_workers)

    error = caught.value
    assert sorted(failure.task for failure in error.failures) == ["Broken(name=one)", "Broken(name=two)"]
    assert all(isinstance(failure.exception, ValueError) for failure in error.failures)
    assert all("in run" in failure.traceback for failure in error.failures)
    assert error.__cause__ is error.failures[0].exception
    assert str(error).startswith("2 tasks failed:\n  Broken(name=")
    assert "Broken(name=one): ValueError: no such column: 'price'" in str(error)
    assert "raise_exception=True" in str(error)
    assert isinstance(error, RuntimeError)
    assert Path("fine.txt").exists()
    assert not Path("above.txt").exists()


@WORKERS
def test_an_exception_without_a_message_is_named_by_its_class(num_workers: int, raising: Callable[..., None]) -> None:
    raising(KeyError)

    with pytest.raises(TaskFailedError, match=r"Broken\(name=broken\): KeyError\n"):
        run_task(Broken(), num_workers=num_workers)


def test_the_text_of_an_exception_that_cannot_be_pickled_leaves_the_worker_process(
    raising: Callable[..., None],
) -> None:
    raising(lambda: UnpicklableError(3, 4))

    with pytest.raises(TaskFailedError, match="UnpicklableError: 3 and 4") as caught:
        run_task(Broken(), num_workers=2)

    (failure,) = caught.value.failures
    assert failure.exception is None
    assert "raise type(self).error()" in failure.traceback
    assert caught.value.__cause__ is None


def test_in_this_process_an_exception_that_cannot_be_pickled_is_kept_itself(raising: Callable[..., None]) -> None:
    error = UnpicklableError(3, 4)
    raising(lambda: error)

    with pytest.raises(TaskFailedError) as caught:
        run_task(Broken())

    assert caught.value.__cause__ is error
    assert last_function(error) == "run"


@WORKERS
def test_an_exit_within_a_task_fails_the_task_and_not_the_process(
    num_workers: int, raising: Callable[..., None]
) -> None:
    raising(lambda: SystemExit(3))

    with pytest.raises(TaskFailedError, match="SystemExit: 3"):
        run_task(Broken(), num_workers=num_workers)


def test_an_interrupt_by_the_keyboard_leaves_run_task(raising: Callable[..., None]) -> None:
    raising(KeyboardInterrupt)

    with pytest.raises(KeyboardInterrupt):
        run_task(Broken())

    assert run_task(Written()) == Path("written.txt")


@WORKERS
def test_external_data_that_are_missing_are_named_with_their_place(
    num_workers: int, upstream: Callable[..., None], tmp_path: Path
) -> None:
    class Nowhere(ExternalTask):
        def complete(self) -> bool:
            return False

    upstream(lambda: [External(tmp_path / "raw.csv"), Nowhere()])

    with pytest.raises(TaskFailedError) as caught:
        run_task(Above(), num_workers=num_workers)

    assert len(caught.value.failures) == 2
    assert f"is made elsewhere, and does not exist: {tmp_path / 'raw.csv'}" in str(caught.value)
    assert "Nowhere(): is made elsewhere" in str(caught.value)
    assert "complete() says no" in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_failure_is_told_before_missing_data_and_is_the_cause(upstream: Callable[..., None]) -> None:
    upstream(lambda: [External("raw.csv"), Broken()])

    with pytest.raises(TaskFailedError) as caught:
        run_task(Above())

    assert [failure.task for failure in caught.value.failures] == ["Broken(name=broken)", "External(path=raw.csv)"]
    assert caught.value.__cause__ is caught.value.failures[0].exception


def raises(error: Exception) -> Callable[..., Any]:
    def fails(self: Any, output_path: Any = None) -> Any:
        raise error

    return fails


def failing_in(place: str, error: Exception) -> Written:
    """A task whose method of this name raises."""
    return type(Written)("Failing", (Written,), {place: raises(error), "__module__": __name__})()


PLACES = pytest.mark.parametrize("place", ["run", "requires", "output", "complete"])


@WORKERS
@PLACES
def test_a_task_that_fails_in_whatever_place_is_named_and_the_other_branches_run(
    place: str, num_workers: int, upstream: Callable[..., None]
) -> None:
    error = ValueError(f"{place} is wrong")
    failing = failing_in(place, error)
    upstream(lambda: [Written(name="left"), failing, Written(name="right")])

    with pytest.raises(TaskFailedError) as caught:
        run_task(Above(), num_workers=num_workers)

    assert [failure.task for failure in caught.value.failures] == ["Failing(name=written)"]
    assert f"ValueError: {place} is wrong" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)
    assert Path("left.txt").exists()
    assert Path("right.txt").exists()
    assert not Path("above.txt").exists()


@pytest.mark.parametrize("option", ["force_upstream_to_task", "force_upstream_to_task_cls"])
def test_a_requires_that_fails_while_forcing_is_planned_names_its_task(
    option: str, upstream: Callable[..., None]
) -> None:
    error = ValueError("requires is wrong")
    failing = failing_in("requires", error)
    upstream(lambda: failing)

    with pytest.raises(TaskFailedError, match=r"Failing\(name=written\): ValueError: requires is wrong") as caught:
        run_task(Above(), **{option: failing if option.endswith("task") else "Failing"})

    assert caught.value.__cause__ is error
    assert not Path("above.txt").exists()


@PLACES
@pytest.mark.parametrize("is_root", [True, False], ids=["root", "upstream"])
def test_raise_exception_lets_out_the_very_exception_with_the_users_frame_last(
    place: str, is_root: bool, upstream: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    error = ValueError(f"{place} is wrong")
    failing = failing_in(place, error)
    upstream(lambda: failing)

    with pytest.raises(ValueError, match=f"^{place} is wrong$") as caught:
        run_task(failing if is_root else Above(), raise_exception=True)

    assert caught.value is error
    assert last_function(error) == "fails"
    assert error.__cause__ is None
    assert error.__context__ is None
    assert "Luigi Execution Summary" not in capsys.readouterr().out


@pytest.mark.parametrize("option", ["force", "force_upstream", "force_upstream_to_task_cls"])
def test_raise_exception_and_forcing_go_together(option: str) -> None:
    error = ValueError("requires is wrong")
    failing = failing_in("requires", error)

    with pytest.raises(ValueError, match="requires is wrong") as caught:
        run_task(failing, raise_exception=True, **{option: "Failing" if option.endswith("cls") else True})

    assert caught.value is error
    assert last_function(error) == "fails"


def test_raise_exception_lets_out_what_a_generator_or_a_coroutine_raises() -> None:
    error = ValueError("wrong")

    class Yields(Written):
        def run(self, output_path: Path) -> Iterator[Any]:
            yield Written(name="yielded")
            raise error

    class Awaits(Written):
        async def run(self, output_path: Path) -> None:
            await asyncio.sleep(0)
            raise error

    for task_cls in (Yields, Awaits):
        with pytest.raises(ValueError, match="wrong") as caught:
            run_task(task_cls(name="other"), raise_exception=True)
        assert caught.value is error
        assert last_function(error) == "run"


def test_raise_exception_still_tells_luigis_own_hooks() -> None:
    told = []

    class Hooked(Broken):
        def on_failure(self, exception: BaseException) -> Any:
            told.append(exception)
            return super().on_failure(exception)

    Hooked.event_handler(luigi.Event.FAILURE)(lambda task, exception: told.append(exception))

    with pytest.raises(ValueError, match="no such column") as caught:
        run_task(Hooked(), raise_exception=True)

    assert told == [caught.value, caught.value]


def test_raise_exception_and_a_timeout_run_in_this_process(raising: Callable[..., None]) -> None:
    pids = []
    raising(lambda: pids.append(os.getpid()) or ValueError("here"))

    with pytest.raises(ValueError, match="here"):
        run_task(Broken(), raise_exception=True, config={"worker": {"timeout": 60}})

    assert pids == [os.getpid()]


def test_a_run_that_succeeds_is_not_changed_by_raise_exception() -> None:
    assert run_task(Written(), raise_exception=True) == Path("written.txt")


def test_raise_exception_says_that_external_data_are_missing(tmp_path: Path) -> None:
    with pytest.raises(TaskFailedError, match="is made elsewhere, and does not exist"):
        run_task(External(tmp_path / "raw.csv"), raise_exception=True)


# Luigi's own retry


class Flaky(Written):
    """A task that fails until it was tried often enough; the tries are counted in a file."""

    needed = luigi.IntParameter(default=2)
    retry_count = 5

    def run(self, output_path: Path) -> None:
        with open("tries", "a", encoding="utf-8") as stream:
            stream.write("x")
        if Path("tries").stat().st_size < self.needed:
            message = "not yet"
            raise ValueError(message)
        output_path.write_text("done")


RETRIES = {
    "worker": {**QUICK["worker"], "keep_alive": True, "max_keep_alive_idle_duration": timedelta(seconds=10)},
    "scheduler": {"retry_delay": 0},
}


@WORKERS
def test_success_after_luigis_own_retry_is_success(num_workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_task(Flaky(), num_workers=num_workers, config=RETRIES)

    assert path.read_text() == "done"
    assert Path("tries").read_text() == "xx"
    assert "This progress looks :)" in capsys.readouterr().out


@WORKERS
def test_a_forced_task_that_fails_first_is_forced_in_the_retry(num_workers: int) -> None:
    run_task(Written(), num_workers=num_workers)

    class Again(Flaky):
        needed = luigi.IntParameter(default=3)

    path = run_task(Again(), num_workers=num_workers, config=RETRIES, force=True)

    assert path.read_text() == "done"
    assert Path("tries").read_text() == "xxx"


# Processes that die


class Killed(Written):
    """A task whose process ends without a word."""

    def run(self, output_path: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Endless(Written):
    """A task that would wait for ever, and may do so for a fraction of a second."""

    worker_timeout = 0.2

    def run(self, output_path: Path) -> None:
        threading.Event().wait()


def test_a_process_that_is_killed_fails_its_task_and_leaves_nothing(
    upstream: Callable[..., None], tmp_path: Path
) -> None:
    upstream(lambda: [Killed(name="killed"), Written(name="fine")])

    with pytest.raises(TaskFailedError) as caught:
        run_task(Above(), num_workers=2, config=QUICK)

    (failure,) = caught.value.failures
    assert failure.task == "Killed(name=killed)"
    assert failure.reason == "its process was killed by SIGKILL, as the system does when memory runs out"
    assert failure.exception is None
    assert Path("fine.txt").exists()
    assert not Path("killed.txt").exists()
    run_task(Written(name="killed"))
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@WORKERS
def test_a_task_that_takes_longer_than_its_timeout_fails(num_workers: int) -> None:
    with pytest.raises(TaskFailedError, match=r"timed out after 0.2 seconds and was terminated") as caught:
        run_task(Endless(), num_workers=num_workers, config=QUICK)

    assert [failure.task for failure in caught.value.failures] == ["Endless(name=written)"]


def test_multiprocessing_can_be_forced_by_luigis_configuration(raising: Callable[..., None]) -> None:
    raising(lambda: RuntimeError(f"pid {os.getpid()}"))

    with pytest.raises(TaskFailedError) as caught:
        run_task(Broken(), config={"worker": {"force_multiprocessing": True}})

    assert str(caught.value.__cause__) != f"pid {os.getpid()}"


# Where it works, and what it leaves


def test_it_works_in_a_thread_that_is_not_the_main_one() -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run_task(Written(), num_workers=2)))
    thread.start()
    thread.join()

    assert results == [Path("written.txt")]


def test_it_works_inside_a_running_event_loop() -> None:
    class Awaits(Written):
        async def run(self, output_path: Path) -> None:
            await asyncio.sleep(0)
            await asyncio.to_thread(output_path.write_text, "awaited")

    async def cell() -> Path:
        return run_task(Awaits())

    assert asyncio.run(cell()).read_text() == "awaited"


@WORKERS
def test_it_works_twice_in_one_process_and_runs_nothing_again(
    num_workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run_task(Written(), num_workers=num_workers)
    capsys.readouterr()

    run_task(Written(), num_workers=num_workers)

    assert "* 1 complete ones were encountered" in capsys.readouterr().out


def test_a_run_within_a_run_keeps_its_own_settings_and_its_own_id() -> None:
    class Outer(Written):
        def run(self, output_path: Path, metadata: Any) -> None:
            inner = run_task(Configured, config={"Configured": {"number": 4}, "mine": {"x": "inner"}})
            metadata["inner_run_id"] = json.loads(Path(f"{inner}.metadata.json").read_text())["run_id"]
            output_path.write_text(luigi.configuration.get_config().get("mine", "x"))

    path = run_task(Outer(name="outer"), config={"mine": {"x": "outer"}})

    record = json.loads(Path("outer.txt.metadata.json").read_text())
    assert path.read_text() == "outer"
    assert record["run_id"] != record["inner_run_id"]


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
@pytest.mark.parametrize("options", [{}, {"force": True}, {"force_upstream": True}], ids=str)
def test_nothing_is_left_on_the_tasks(options: dict[str, Any], fails: bool, upstream: Callable[..., None]) -> None:
    below = Broken() if fails else Written()
    upstream(lambda: below)
    above = Above()
    before = {task: dict(vars(task)) for task in (above, below)}

    with pytest.raises(TaskFailedError) if fails else contextlib.nullcontext():
        run_task(above, **options)

    for task, attributes in before.items():
        left = {name: value for name, value in vars(task).items() if attributes.get(name, None) is not value}
        assert left.keys() <= {"_remembered"}
        assert task.complete() != fails


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Luigi's handler needs SIGUSR1")
def test_no_child_process_and_no_thread_is_left(raising: Callable[..., None]) -> None:
    before = set(threading.enumerate())

    run_task([Written(name="a"), Written(name="b")], num_workers=2)

    left = [thread for thread in threading.enumerate() if thread not in before]
    assert left == []


def test_a_module_that_warns_when_asked_for_its_version_disturbs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shy(type(sys)):
        def __getattr__(self, name: str) -> Any:
            message = f"asked for {name}"
            raise RuntimeError(message)

    monkeypatch.setitem(sys.modules, "shy", Shy("shy"))

    assert run_task(Written()) == Path("written.txt")


def test_a_failure_below_a_chain_deeper_than_pythons_stack_is_reported() -> None:
    class Link(luigi.Task):
        depth = luigi.IntParameter()

        def requires(self) -> Any:
            return Link(depth=self.depth - 1) if self.depth else []

        def complete(self) -> bool:
            return False

        def run(self) -> None:
            message = "the bottom"
            raise ValueError(message)

    with pytest.raises(TaskFailedError, match=r"^1 task failed:\n  Link\(depth=0\): ValueError: the bottom"):
        run_task(Link(depth=sys.getrecursionlimit() + 100))


def test_a_cycle_through_plain_luigi_tasks_is_an_error_that_prints_it() -> None:
    class Ring(luigi.Task):
        at = luigi.IntParameter()

        def requires(self) -> Any:
            return Ring(at=(self.at + 1) % 3)

        def complete(self) -> bool:
            return False

    with pytest.raises(CycleError, match=r"Ring\(at=0\) -> Ring\(at=1\) -> Ring\(at=2\) -> Ring\(at=0\)"):
        run_task(Ring(at=0))


def test_what_requires_gives_beside_tasks_is_an_error_that_says_so(upstream: Callable[..., None]) -> None:
    upstream(lambda: LocalFileTarget("raw.csv"))

    with pytest.raises(TaskTypeError, match=r"raw.csv.*External\(path\)"):
        run_task(Above())


def test_a_target_that_is_required_is_an_error_while_forcing_is_planned(upstream: Callable[..., None]) -> None:
    upstream(lambda: LocalFileTarget("raw.csv"))

    with pytest.raises(TaskTypeError, match=r"raw.csv.*External\(path\)"):
        run_task(Above(), force_upstream_to_task_cls="Above")


@WORKERS
def test_a_requires_that_failed_once_fails_its_task_although_it_would_work_now(num_workers: int) -> None:
    errors = [ValueError("not now")]

    class Moody(Written):
        def requires(self) -> Any:
            if errors:
                raise errors.pop()

    with pytest.raises(TaskFailedError, match=r"^1 task failed:\n  Moody\(name=written\): ValueError: not now"):
        run_task(Moody(), num_workers=num_workers)

    assert not Path("written.txt").exists()
    assert run_task(Moody(), num_workers=num_workers) == Path("written.txt")


class Named(Written):
    """A task whose output bears its id, which asks every task upstream what it requires."""

    def output(self) -> Any:
        return LocalFileTarget(f"{self.task_id}.txt")


@WORKERS
def test_a_requires_that_fails_is_told_once_although_ids_downstream_need_it(num_workers: int) -> None:
    failing = failing_in("requires", ValueError("requires is wrong"))

    class Root(Named):
        def requires(self) -> Any:
            return [type(failing)(name="broken"), Written(name="fine")]

    with pytest.raises(
        TaskFailedError, match=r"^1 task failed:\n  Failing\(name=broken\): ValueError: requires is wrong"
    ):
        run_task(Root(), num_workers=num_workers)

    assert Path("fine.txt").exists()


def test_a_cycle_is_an_error_although_ids_are_needed_to_see_it() -> None:
    class Narcissus(Named):
        def requires(self) -> Any:
            return Narcissus()

    with pytest.raises(CycleError, match=r"Narcissus\(name=written\) -> Narcissus"):
        run_task(Narcissus())


@pytest.mark.parametrize("raise_exception", [False, True], ids=["plain", "raise_exception"])
def test_a_complete_that_gives_no_boolean_fails_its_task(raise_exception: bool) -> None:
    class Unsure(Written):
        def complete(self) -> Any:
            return "maybe"

    with pytest.raises(TaskFailedError, match=r"Unsure\(name=written\): .*must be boolean \(was 'maybe'\)"):
        run_task(Unsure(), raise_exception=raise_exception)


@WORKERS
def test_luigis_own_check_after_a_run_can_be_switched_on(num_workers: int) -> None:
    class Never(Written):
        def complete(self) -> bool:
            return False

    config = {"worker": {"check_complete_on_run": True, **QUICK["worker"]}}

    assert run_task(Never(name="unchecked"), num_workers=num_workers) == Path("unchecked.txt")
    with pytest.raises(TaskFailedError, match=r"complete\(\) is still returning false"):
        run_task(Never(name="checked"), num_workers=num_workers, config=config)
    assert run_task(Written(), num_workers=num_workers, config=config, force=True) == Path("written.txt")


# Arguments that cannot be used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"num_workers": 0}, "num_workers is 0, but must be a whole number from 1 on", id="no-workers"),
        pytest.param({"num_workers": -1}, "num_workers is -1", id="negative-workers"),
        pytest.param({"num_workers": 2.0}, "num_workers is 2.0", id="fraction-of-workers"),
        pytest.param({"num_workers": True}, "num_workers is True", id="boolean-workers"),
        pytest.param({"num_workers": "4"}, "num_workers is '4'", id="text-workers"),
        pytest.param(
            {"raise_exception": True, "num_workers": 2},
            "raise_exception=True needs the tasks in this process, but num_workers is 2. Leave out",
            id="raise-with-workers",
        ),
        pytest.param({"log_level": "LOUD"}, "log_level is 'LOUD', but must be DEBUG, INFO", id="log-level"),
        pytest.param({"log_level": None}, "log_level is None", id="no-log-level"),
        pytest.param({"config_file": "no.cfg"}, "'no.cfg' does not exist", id="no-file"),
        pytest.param({"config": ["x"]}, r"config is \['x'\], but must map sections to options", id="list-as-config"),
        pytest.param({"config": {"x": 3}}, r"config\['x'\] is 3, but must map options", id="number-as-section"),
        pytest.param(
            {"config": {"x": {"y": object}}}, r"config\['x'\]\['y'\] is <class 'object'>", id="class-as-value"
        ),
    ],
)
def test_an_argument_that_cannot_be_used_is_an_error_and_nothing_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run_task(Written(), **options)

    assert isinstance(caught.value, ValueError)
    assert not Path("written.txt").exists()


def test_all_options_are_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        run_task(Written(), {})  # type: ignore[misc]


def test_forked_tasks_end_well_where_run_task_is_called_in_a_thread_of_an_executor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[TaskProcess] = []
    start = TaskProcess.start
    monkeypatch.setattr(TaskProcess, "start", lambda process: (started.append(process), start(process))[1])

    with ThreadPoolExecutor(1) as executor:
        executor.submit(run_task, Written(name="in-a-thread"), num_workers=2).result()

    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0]


def _labelled(label: str, where: str = "") -> type[AtomicTaskWithMetadata]:
    class Labelled(AtomicTaskWithMetadata):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget(f"{where or label}.txt")

        def run(self, output_path: Path) -> None:
            output_path.write_text(label)

    return Labelled


@pytest.mark.parametrize("how", ["asked for", "required"])
def test_two_tasks_of_one_name_with_different_outputs_are_refused_before_anything_runs(
    how: str, tmp_path: Path
) -> None:
    both = [_labelled("one")(), _labelled("two")()]

    class Both(Task):
        def requires(self) -> Any:
            return both

        def output(self) -> LocalFileTarget:
            return LocalFileTarget("both.txt")

    with pytest.raises(TaskTypeError, match=r"Two tasks with different outputs are both Labelled\(\).*task_namespace"):
        run_task(both if how == "asked for" else Both())

    assert list(tmp_path.glob("*.txt")) == []


def test_a_class_that_a_function_makes_anew_each_time_is_one_task_where_its_output_is_one(tmp_path: Path) -> None:
    tasks = [_labelled("one", "same")(), _labelled("one", "same")()]

    assert run_task(tasks) == [Path("same.txt")] * 2
    assert (tmp_path / "same.txt").read_text() == "one"
