"""Into the run of a task that failed: where it failed, on the same inputs, and nothing is published."""

import io
import json
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import luigi
import luigi.mock
import pytest
from engines import Engine, engines
from executor_tasks import Piece, Speaking

from superluigi import (
    AtomicTaskWithMetadata,
    LocalFileTarget,
    TaskFailedError,
    TaskTypeError,
    TaskWithMetadata,
    debug,
    failures,
    history,
    run_task,
)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let these lines be typed into the debugger."""
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*lines, ""])))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@engines("none", "forked", "spawn", "dask")
def test_the_debugger_stands_at_the_users_line_with_the_same_inputs_wherever_it_failed(
    engine: Engine, tmp_path: Path, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TaskFailedError):
        engine.run(Speaking(folder=str(tmp_path)))
    before = everything(tmp_path)
    capsys.readouterr()

    typed("p text", "up", "p input_path['numbers'].read_text(), input_path['numbers'].name", "p output_path.name", "q")
    debug(last=True)

    out = capsys.readouterr().out
    assert "return int(text)  # the line that fails" in out
    assert "'numbers'" in out
    assert "('numbers', 'numbers.txt')" in out
    assert "'spoken.txt'" in out
    assert everything(tmp_path) == before


def test_libraries_below_the_users_line_are_passed_over(
    tmp_path: Path, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dedenting(AtomicTaskWithMetadata):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget("dedented.txt")

        def run(self, output_path: Path) -> None:
            mine = 4711
            textwrap.dedent(mine)  # type: ignore[arg-type]

    typed("p mine", "q")
    debug(Dedenting())

    assert "(Pdb) 4711" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["requires", "output"])
def test_what_fails_before_run_is_entered_too(broken: str, typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(self: Any) -> Any:
        price = 4711
        raise ValueError(price)

    members = {"output": lambda self: LocalFileTarget("never.txt"), "run": lambda self, input_path: None, broken: fail}
    task_cls = types.new_class("Broken", (AtomicTaskWithMetadata,), exec_body=lambda body: body.update(members))
    with pytest.raises(TaskFailedError):
        run_task(task_cls())

    typed("p price + 1", "q")
    debug(last=True)

    assert "(Pdb) 4712" in capsys.readouterr().out


def test_a_plan_that_fails_does_not_stand_in_for_the_task_that_failed_last() -> None:
    class Broken(AtomicTaskWithMetadata):
        def run(self) -> None:
            raise ValueError

    class Unplanned(AtomicTaskWithMetadata):
        def complete(self) -> bool:
            raise OSError

    with pytest.raises(TaskFailedError):
        run_task(Broken())
    with pytest.raises(TaskFailedError) as unplanned:
        run_task(Unplanned(), dry_run=True)

    assert "last=True" not in str(unplanned.value)
    assert "raise_exception=True" in str(unplanned.value)
    assert [type(task) for task in failures.recall()] == [Broken]


def test_a_debugger_that_is_not_there_gives_way_to_pythons_own(
    monkeypatch: pytest.MonkeyPatch, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(AtomicTaskWithMetadata):
        def run(self) -> None:
            price = 4711
            raise ValueError(price)

    monkeypatch.setenv("PYTHONBREAKPOINT", "nosuchdebugger.set_trace")
    typed("p price + 1", "q")
    debug(Broken())

    out = capsys.readouterr().out
    assert "PYTHONBREAKPOINT cannot be used: No module named 'nosuchdebugger'" in out
    assert "(Pdb) 4712" in out


def test_step_stands_at_the_beginning_of_run(tmp_path: Path, typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_task(Piece(folder=str(tmp_path), name="numbers"))

    typed("n", "n", "p input_path['numbers'].read_text()", "q")
    debug(Speaking(folder=str(tmp_path)), step=True)

    out = capsys.readouterr().out
    assert "--Call--" in out
    assert '-> print("printed to stdout")' in out
    assert "(Pdb) 'numbers'" in out
    assert not (tmp_path / "spoken.txt").exists()


def test_a_task_that_ends_well_publishes_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_task(Piece(folder=str(tmp_path), name="numbers"))

    debug(Speaking(folder=str(tmp_path), fails=False))

    assert capsys.readouterr().out.rstrip().endswith("ended without an error, and nothing was published.")
    assert not (tmp_path / "spoken.txt").exists()


def test_a_task_that_writes_to_its_targets_itself_writes_elsewhere(tmp_path: Path) -> None:
    class Own(TaskWithMetadata):
        def output(self) -> LocalFileTarget:
            return LocalFileTarget("own.txt")

        def run(self, metadata: Any) -> None:
            metadata["rows"] = 3
            with self.output().tmp_write_path() as path:
                path.write_text("own")

    debug(Own())

    assert not Path("own.txt").exists()
    assert len(history(Own, "rows")) == 0


def test_a_plain_luigi_task_can_be_entered_too(typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Plain(luigi.Task):
        def run(self) -> None:
            price = 3
            raise ValueError(price)

    typed("p price + 1", "q")
    debug(Plain())

    assert "(Pdb) 4" in capsys.readouterr().out


def test_a_new_process_knows_what_failed_last_on_this_machine(tmp_path: Path, typed: Any) -> None:
    (tmp_path / "their_tasks.py").write_text(
        textwrap.dedent(
            """
            from superluigi import AtomicTaskWithMetadata, LocalFileTarget, Parameter, run_task

            class Theirs(AtomicTaskWithMetadata):
                name = Parameter()

                def output(self):
                    return LocalFileTarget("theirs.txt")

                def run(self, output_path):
                    word = self.name * 2
                    raise ValueError(word)
            """
        )
    )
    (tmp_path / "script.py").write_text(
        "from superluigi import run_task\n"
        "from their_tasks import Theirs\n"
        "run_task(Theirs(name='ab'), log_level='CRITICAL')\n"
    )
    failing = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)

    entered = subprocess.run(
        [sys.executable, "-c", "import superluigi; superluigi.debug(last=True)"],
        input="p word\nq\n",
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Theirs(name=ab): ValueError: abab" in failing.stderr
    assert "(Pdb) 'abab'" in entered.stdout
    assert entered.returncode == 0, entered.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"last": True}, "No task has failed"),
        ({}, "Give a task, or last=True"),
        ({"task": "Speaking"}, "Give a task, or last=True"),
        ({"task": Speaking}, "Give a task, or last=True"),
    ],
    ids=["none failed", "nothing", "name", "class"],
)
def test_without_a_task_it_says_what_to_give(
    arguments: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superluigi.failures._last", [])

    with pytest.raises(TaskTypeError, match=said):
        debug(**arguments)


def test_an_input_that_is_gone_is_told_at_once(tmp_path: Path, typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    typed("q")
    debug(Speaking(folder=str(tmp_path)))

    assert "numbers.txt does not exist" in capsys.readouterr().out


def test_what_a_rehearsal_says_of_itself_reaches_no_record(tmp_path: Path) -> None:
    run_task(Speaking(folder=str(tmp_path), fails=False))
    before = json.loads((tmp_path / "spoken.txt.metadata.json").read_text())

    debug(Speaking(folder=str(tmp_path), fails=False))

    assert json.loads((tmp_path / "spoken.txt.metadata.json").read_text()) == before


def test_a_plain_task_writes_elsewhere_too_or_is_refused(tmp_path: Path) -> None:
    class Load(luigi.Task):
        def output(self) -> luigi.LocalTarget:
            return luigi.LocalTarget("load.csv")

        def run(self) -> None:
            with self.output().open("w") as stream:
                stream.write("today")

    class IntoATable(Load):
        def output(self) -> Any:
            return luigi.mock.MockTarget("table")

    Path("load.csv").write_text("precious")

    debug(Load())
    with pytest.raises(TaskTypeError, match="cannot be redirected"):
        debug(IntoATable())

    assert Path("load.csv").read_text() == "precious"
    assert "output" not in vars(Load())


def test_what_failed_before_anything_ran_or_left_as_it_is_was_the_last_to_fail(
    tmp_path: Path, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Needy(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            wanted = 4712
            raise ValueError(wanted)

        def output(self) -> LocalFileTarget:
            return LocalFileTarget("needy.txt")

    with pytest.raises(TaskFailedError):
        run_task(Speaking(folder=str(tmp_path)))
    for options in ({"rerun_stale": True}, {"force_upstream_to_task_cls": "Needy"}, {}, {"raise_exception": True}):
        with pytest.raises((TaskFailedError, ValueError)):
            run_task(Needy(), **options)

        capsys.readouterr()
        typed("p wanted", "q")
        debug(last=True)
        assert "(Pdb) 4712" in capsys.readouterr().out, options


def test_what_left_run_task_as_it_was_raised_was_the_last_to_fail(
    tmp_path: Path, typed: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superluigi.failures._last", [])
    with pytest.raises(ValueError, match="invalid literal"):
        run_task(Speaking(folder=str(tmp_path)), raise_exception=True)

    typed("p text", "q")
    debug(last=True)

    assert "(Pdb) 'numbers'" in capsys.readouterr().out


def test_of_a_script_the_code_of_now_is_entered(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    source = (
        "from superluigi import *\n"
        "class Scripted(AtomicTaskWithMetadata):\n"
        "    def output(self): return LocalFileTarget('scripted.txt')\n"
        "    def run(self, output_path):\n"
        "        word = 'before'\n"
        "        raise ValueError(word)\n"
        "if __name__ == '__main__':\n"
        "    run_task(Scripted(), log_level='CRITICAL')\n"
    )
    script.write_text(source)
    subprocess.run([sys.executable, "script.py"], capture_output=True, check=False)
    script.write_text(source.replace("before", "mended"))

    entered = subprocess.run(
        [sys.executable, "-c", "import superluigi; superluigi.debug(last=True)"],
        input="l\np word\nq\n",
        capture_output=True,
        text=True,
        check=False,
    )

    assert "raise ValueError(word)" in entered.stdout
    assert "(Pdb) 'mended'" in entered.stdout


@pytest.mark.parametrize("is_in_script", [True, False], ids=["script", "beside it"])
def test_a_task_is_entered_from_another_folder_too(
    is_in_script: bool, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    task = (
        "from superluigi import *\n"
        "from neighbour import fail\n"
        "class Scripted(AtomicTaskWithMetadata):\n"
        "    def output(self): return LocalFileTarget('scripted.txt')\n"
        "    def run(self, output_path): fail()\n"
    )
    run = "if __name__ == '__main__':\n    run_task(Scripted(), log_level='CRITICAL')\n"
    (tmp_path / "neighbour.py").write_text("def fail():\n    word = 'beside'\n    raise ValueError(word)\n")
    (tmp_path / "tasks.py").write_text(task)
    (tmp_path / "script.py").write_text(task + run if is_in_script else f"from tasks import *\n{run}")
    subprocess.run([sys.executable, "script.py"], capture_output=True, check=False)

    entered = subprocess.run(
        [sys.executable, "-c", "import superluigi; superluigi.debug(last=True)"],
        input="p word\nq\n",
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        check=False,
    )

    assert "(Pdb) 'beside'" in entered.stdout, entered.stderr


def test_a_memory_that_is_damaged_is_told_so(local_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superluigi.failures._last", [])
    local_data_dir.mkdir()
    (local_data_dir / "last_failure.pickle").write_bytes(b"damaged")

    with pytest.raises(TaskTypeError, match=r"cannot be read from .*last_failure\.pickle"):
        debug(last=True)
