"""What a TaskFailedError tells of a task that failed: where in the user's code, on what, and where its log is."""

import builtins
import os
import pickle
import signal
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import luigi
import pytest
from edited_graphs import imported
from engines import QUICK, Engine, all_engines, engines
from executor_tasks import Speaking

from superluigi import AtomicTaskWithMetadata, External, LocalFileTarget, TaskFailedError, run_task
from superluigi.errors import Frame
from superluigi.failures import failure_of


class Hidden(luigi.Task):
    secret = luigi.Parameter(default="secret", visibility=luigi.parameter.ParameterVisibility.PRIVATE)


def failed(task: Any, **options: Any) -> TaskFailedError:
    with pytest.raises(TaskFailedError) as caught:
        run_task(task, **options)
    return caught.value


@all_engines
def test_a_failure_tells_the_users_lines_and_inputs_wherever_it_happened(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(TaskFailedError) as caught:
        engine.run(Speaking(folder=str(tmp_path)))

    (failure,) = caught.value.failures
    assert [(Path(frame.path).name, frame.function, frame.source) for frame in failure.frames] == [
        ("executor_tasks.py", "run", 'parse(input_path["numbers"].read_text())'),
        ("executor_tasks.py", "parse", "return int(text)  # the line that fails"),
    ]
    assert [(given.role, Path(given.path).name) for given in failure.inputs] == [("numbers", "numbers.txt")]
    assert str(failure.inputs[0].fingerprint).startswith("sha256:")
    assert failure.host is None
    assert Path(str(failure.log)).is_file()


def test_the_message_holds_what_helps(tmp_path: Path) -> None:
    error = failed(Speaking(folder=str(tmp_path)))

    (failure,) = error.failures
    file = failure.frames[0].path
    assert str(error) == "\n".join(
        [
            "1 task failed:",
            f"  Speaking(folder={tmp_path}, fails=True): ValueError: invalid literal for int() with base 10: 'numbers'",
            f'      File "{file}", line {failure.frames[0].line}, in run',
            '          parse(input_path["numbers"].read_text())',
            f'      File "{file}", line {failure.frames[1].line}, in parse',
            "          return int(text)  # the line that fails",
            f"      input:  numbers = {tmp_path}/numbers.txt",
            f"      log:    {failure.log}",
            "superluigi.debug(last=True) runs the first of them again, on the same inputs and without publishing, and",
            "stands in the debugger where it fails. run_task(..., raise_exception=True) lets the error itself out.",
        ]
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@engines("spawn", "dask")
def test_the_source_of_a_class_that_travels_by_value_is_found_where_it_came_from(
    engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "as_in_a_notebook.py"
    path.write_text(
        textwrap.dedent(
            """
            from superluigi import AtomicTaskWithMetadata, LocalFileTarget

            class Here(AtomicTaskWithMetadata):
                def output(self):
                    return LocalFileTarget("here.txt")

                def run(self, output_path):
                    divide(3)

            def divide(number):
                return number / 0
            """
        )
    )

    with pytest.raises(TaskFailedError) as caught:
        engine.run(imported(path).Here())

    (failure,) = caught.value.failures
    assert list(failure.frames) == [
        Frame(str(path), 9, "run", "divide(3)"),
        Frame(str(path), 12, "divide", "return number / 0"),
    ]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_libraries_between_the_users_lines_are_left_out(num_workers: int, tmp_path: Path) -> None:
    class Sorting(AtomicTaskWithMetadata):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget("sorted.txt")

        def run(self, output_path: Path) -> None:
            textwrap.dedent(3)  # type: ignore[arg-type]

    (failure,) = failed(Sorting(), num_workers=num_workers).failures

    assert [frame.source for frame in failure.frames] == ["textwrap.dedent(3)  # type: ignore[arg-type]"]
    assert "textwrap.py" in failure.traceback


def test_of_an_error_that_was_raised_from_another_the_last_counts(tmp_path: Path) -> None:
    class Chained(AtomicTaskWithMetadata):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget("chained.txt")

        def run(self, output_path: Path) -> None:
            try:
                {}["price"]
            except KeyError as error:
                raise LookupError(*error.args) from error

    for num_workers in (1, 2):
        (failure,) = failed(Chained(), num_workers=num_workers).failures

        assert [frame.source for frame in failure.frames] == ["raise LookupError(*error.args) from error"]


@pytest.mark.parametrize("code", [-signal.SIGSEGV, -signal.SIGINT, 3], ids=str)
def test_a_process_that_dies_is_told_with_its_log(code: int, tmp_path: Path) -> None:
    class Dying(AtomicTaskWithMetadata):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget("dying.txt")

        def run(self, output_path: Path) -> None:
            print("my last words")
            if code < 0:
                os.kill(os.getpid(), -code)
            os._exit(code)

    (failure,) = failed(Dying(), num_workers=2, config=QUICK).failures

    told = {
        -signal.SIGSEGV: "its process was killed by SIGSEGV",
        -signal.SIGINT: "it was interrupted, as by Ctrl-C",
        3: "its process ended with the exit code 3, without",
    }
    assert failure.reason.startswith(told[code])
    assert "my last words" in Path(str(failure.log)).read_text()


@pytest.mark.parametrize("broken", ["requires", "output", "complete"])
def test_of_what_fails_before_it_runs_the_users_line_is_told(broken: str, tmp_path: Path) -> None:
    def fail(self: Any) -> Any:
        message = "not today"
        raise ValueError(message)

    members = {"output": lambda self: LocalFileTarget("never.txt"), broken: fail}
    task_cls = types.new_class(
        f"Broken{broken}", (AtomicTaskWithMetadata,), exec_body=lambda body: body.update(members)
    )

    (failure,) = failed(task_cls()).failures

    assert failure.frames[-1].source == "raise ValueError(message)"
    assert failure.inputs == ()


def test_what_the_library_refuses_before_anything_runs_is_told_without_a_way_into_a_debugger() -> None:
    class GivesText(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return "a.txt"

        def run(self, output_path: Path) -> None: ...

    error = failed(GivesText())

    assert "GivesText.output() gives 'a.txt'" in str(error)
    assert "debug" not in str(error)


def test_data_that_are_missing_are_told_without_a_way_into_a_debugger(tmp_path: Path) -> None:
    error = failed(External("gone.csv"))

    assert str(error) == "1 task failed:\n  External(path=gone.csv): is made elsewhere, and does not exist: gone.csv"


def test_of_a_task_of_the_library_no_line_is_told_as_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "raw").touch()

    (failure,) = failed(External(f"{tmp_path}/raw/")).failures

    assert "TargetShapeError" in failure.reason
    assert failure.frames == ()


def test_of_many_failures_each_is_named_and_the_first_are_told_in_full(tmp_path: Path) -> None:
    tasks = [Speaking(folder=str(tmp_path / str(number))) for number in range(8)]
    for number in range(8):
        (tmp_path / str(number)).mkdir()

    message = str(failed(tasks))

    assert message.startswith("8 tasks failed:")
    assert all(f"Speaking(folder={tmp_path / str(number)}, fails=True)" in message for number in range(8))
    assert message.count("log:") == 5


def test_a_long_reason_and_many_inputs_are_cut(tmp_path: Path) -> None:
    class Wide(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            return [External(f"{number}.csv") for number in range(9)]

        def output(self) -> LocalFileTarget:
            return LocalFileTarget("wide.txt")

        def run(self, input_path: Any, output_path: Path) -> None:
            raise ValueError("\n".join(f"line {number}" for number in range(100)))

    for number in range(9):
        Path(f"{number}.csv").touch()

    lines = str(failed(Wide())).splitlines()

    assert "      and 3 more" in [line.replace("              and", "      and") for line in lines]
    assert sum(line.strip().startswith("line ") for line in lines) == 12
    assert "      ..." in lines


@pytest.mark.parametrize("nested", [list, tuple, lambda tasks: dict(enumerate(tasks))], ids=["list", "tuple", "dict"])
def test_inputs_are_told_in_whatever_they_are_nested(nested: Any) -> None:
    class Pair(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            return nested([External("a.csv"), External("b.csv")])

        def output(self) -> LocalFileTarget:
            return LocalFileTarget("pair.txt")

        def run(self, input_path: Any, output_path: Path) -> None:
            raise ValueError

    for name in ("a.csv", "b.csv"):
        Path(name).touch()

    (failure,) = failed(Pair()).failures

    assert [(given.role, given.path) for given in failure.inputs] == [("0", "a.csv"), ("1", "b.csv")]
    assert all(given.fingerprint is not None for given in failure.inputs)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no"), "ValueError: no"),
        (KeyError(), "KeyError"),
        (None, "OSError: the last line"),
    ],
    ids=["message", "no-message", "text-alone"],
)
def test_the_reason_of_a_failure_is_its_exception_or_the_last_line(error: Exception | None, reason: str) -> None:
    failure = failure_of(Hidden(), error, "Traceback:\n  line 1\nOSError: the last line\n")

    assert (failure.task, failure.reason, failure.exception) == ("Hidden()", reason, error)


@pytest.mark.parametrize(
    "text", ["", "\n", "Traceback (most recent call last):", 'File "", line x, in', "\0" * 9], ids=repr
)
def test_a_traceback_that_is_none_disturbs_nothing(text: str) -> None:
    assert failure_of(Hidden(), None, text).frames == ()


def test_an_installed_package_of_the_users_is_the_users_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lib" / "site-packages" / "their_pipeline"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(
        "from superluigi import *\n"
        "class Installed(AtomicTaskWithMetadata):\n"
        "    def output(self):\n"
        "        return LocalFileTarget('installed.txt')\n"
        "    def run(self, output_path):\n"
        "        1 / 0\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    from their_pipeline.tasks import Installed  # type: ignore[import-not-found]

    (failure,) = failed(Installed()).failures

    assert [frame.source for frame in failure.frames] == ["1 / 0"]
    del sys.modules["their_pipeline"], sys.modules["their_pipeline.tasks"]


def test_private_values_reach_neither_summary_nor_message_nor_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Query(AtomicTaskWithMetadata):
        day = luigi.IntParameter()
        password = luigi.Parameter(visibility=luigi.parameter.ParameterVisibility.PRIVATE)
        token = luigi.Parameter(default="hidden-token", visibility=luigi.parameter.ParameterVisibility.HIDDEN)

        def output(self) -> LocalFileTarget:
            return LocalFileTarget(f"query-{self.day}.txt")

        def run(self, output_path: Path) -> None:
            message = f"cannot log in with {self.password} and {self.token}"
            raise ValueError(message)

    error = failed([Query(day=day, password="hunter2") for day in range(4)])

    logs = [Path(str(failure.log)).read_text() for failure in error.failures]
    told = [str(error), *(failure.traceback for failure in error.failures), *logs, capsys.readouterr().out]
    assert not [text for text in told if "hunter2" in text or "hidden-token" in text]
    assert "cannot log in with *** and ***" in str(error)
    assert "4 Query(day=0...3)" in told[-1]


def test_a_stray_stop_iteration_is_the_users_own_error(tmp_path: Path) -> None:
    class Stopping(AtomicTaskWithMetadata):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget("stopping.txt")

        def run(self, output_path: Path) -> None:
            next(iter([]))

    (failure,) = failed(Stopping()).failures

    assert failure.reason == "StopIteration"
    assert [frame.source for frame in failure.frames] == ["next(iter([]))"]
    with pytest.raises(StopIteration):
        run_task(Stopping(), raise_exception=True)


@pytest.mark.parametrize("given", [Path("half.txt"), "half.txt", 3], ids=repr)
def test_an_output_that_is_no_target_is_refused_before_run(given: Any, tmp_path: Path) -> None:
    class Pathed(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return given

        def complete(self) -> bool:
            return False

        def run(self) -> None:
            Path("half.txt").write_text("half")

    (failure,) = failed(Pathed()).failures

    assert "Give targets, alone or nested, such as LocalFileTarget(path)." in failure.reason
    assert not Path("half.txt").exists()


def test_notes_and_the_members_of_a_group_are_told_and_nothing_moves_the_cursor(tmp_path: Path) -> None:
    error = ValueError("\x1b[2Jno" + "x" * 3000)
    if sys.version_info >= (3, 11):
        error.add_note("see the docs")

    failure = failure_of(Hidden(), error, "")

    assert "\x1b" not in failure.reason
    assert len(failure.reason) < 1100
    if sys.version_info >= (3, 11):
        assert failure.reason.endswith("\nsee the docs")
        group = failure_of(Hidden(), builtins.ExceptionGroup("two", [KeyError("a"), OSError("b")]), "")
        assert group.reason.splitlines()[1:] == ["- KeyError: 'a'", "- OSError: b"]


def test_a_task_with_a_very_long_or_hostile_parameter_has_a_message_that_can_be_read() -> None:
    class Named(AtomicTaskWithMetadata):
        name = luigi.Parameter()

        def output(self) -> LocalFileTarget:
            return LocalFileTarget("named.txt")

        def run(self) -> None:
            raise ValueError("no")

    error = failed(Named(name="\x1b[2J\n" + "x" * 100_000))

    assert len(str(error)) < 2000
    assert "\x1b" not in str(error)
    assert str(error).startswith("1 task failed:\n  Named(name=\\x1b[2J\\nxxx")
    assert len(error.failures[0].task) > 100_000  # as data it is whole


def test_what_a_run_has_yielded_and_is_missing_is_told_of_the_one_that_yields(tmp_path: Path) -> None:
    class Asking(AtomicTaskWithMetadata):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget("asked.txt")

        def run(self, output_path: Path) -> Any:
            yield External("gone.csv")

    reasons = {failure.task: failure.reason for failure in failed(Asking()).failures}

    assert reasons["Asking()"].startswith("waits for what it has yielded")
    assert reasons["External(path=gone.csv)"] == "is made elsewhere, and does not exist: gone.csv"
