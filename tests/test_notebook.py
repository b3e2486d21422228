"""What a notebook needs, in a real kernel: cells that are run again, errors, the debugger, a running event loop."""

from __future__ import annotations

import pytest
from notebooks import Kernel, kernel

SETUP = """
import asyncio, sys, traceback
import luigi
from luigi.task_register import Register
from superluigi import *
"""
TASK = """
class {name}(AtomicTaskWithMetadata):
    {parameter} = IntParameter(default=1)

    def output(self):
        return LocalFileTarget("data/{name}.txt")

    def run(self, output_path):
        output_path.write_text("{text}")
"""
BROKEN = """
class {name}(AtomicTaskWithMetadata):
    def output(self):
        return LocalFileTarget("data/{name}.txt")

    def run(self, output_path):
        docks = {docks}
        return docks / 0
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory):
    with kernel(tmp_path_factory.mktemp("kernel")) as running:
        running.run_all(SETUP)
        yield running


def defined(name: str, text: str, parameter: str = "number") -> str:
    return TASK.format(name=name, text=text, parameter=parameter)


# Cells that are run again


def test_an_edited_cell_makes_its_class_anew_and_rerun_stale_sees_it(notebook: Kernel) -> None:
    first = notebook.run_all(defined("Edited", "old"), "run_task(Edited()).read_text()")
    again = notebook.run_all(defined("Edited", "old") + "# a comment", "run_task(Edited(), rerun_stale=True)")
    edited = notebook.run_all(defined("Edited", "new"), "run_task(Edited(), rerun_stale=True).read_text()")

    assert first.text == "'old'"
    assert "1 complete ones were encountered" in again.stdout
    assert edited.text == "'new'"


def test_a_function_that_a_task_calls_is_its_code_too(notebook: Kernel) -> None:
    helper = "def cleaned(): return '{}'"
    body = defined("Helped", "x").replace('"x"', "cleaned()")
    notebook.run_all(helper.format("old"), body, "run_task(Helped())")

    told = notebook.run_all(helper.format("new"), "print(why(Helped()))")

    assert "the code of Helped changed" in told.stdout


def test_a_class_of_attributes_alone_has_its_code(notebook: Kernel) -> None:
    notebook.run_all(
        "class Deep(AtomicTaskWithMetadata):\n"
        "    def output(self): return LocalFileTarget(f'data/{type(self).__name__}.txt')\n"
        "    def run(self, output_path): output_path.write_text(str(self.depth))\n",
        "class Deeper(Deep):\n    depth = 3",
        "run_task(Deeper())",
    )

    told = notebook.run_all("class Deeper(Deep):\n    depth = 4", "print(why(Deeper()))")

    assert "the code of Deeper changed" in told.stdout


def test_luigi_finds_the_latest_class_by_its_name_with_its_new_parameters(notebook: Kernel) -> None:
    notebook.run_all(defined("Named", "old"), "former = Named", "run_task(Named())")
    notebook.run_all(defined("Named", "new", parameter="letters"))

    found = notebook.run_all(
        "from luigi.cmdline_parser import CmdlineParser",
        "with CmdlineParser.global_instance(['Named', '--letters', '7']) as parser: made = parser.get_task_obj()",
        "Register.get_task_cls('Named') is Named, former in Register._reg, type(made) is Named, made.letters",
    )
    ran = notebook.run("Named().output().remove(); luigi.run(['Named', '--letters', '8', '--local-scheduler'])")

    assert found.text == "(True, False, True, 7)"
    assert ran.text == "True"
    assert notebook.run("Named().output().path.read_text()").text == "'new'"


def test_the_former_class_and_the_former_task_still_name_what_to_force(notebook: Kernel) -> None:
    below = defined("Below", "below") + "    def requires(self):\n        return Above()\n"
    notebook.run_all(defined("Above", "old"), below, "run_task(Below())", "former, made = Above, Above()")
    notebook.run_all(defined("Above", "new"))

    by_class = notebook.run_all("print(plan(Below(), force_upstream_to_task_cls=former))")
    by_task = notebook.run_all("print(plan(Below(), force_upstream_to_task=made))")

    assert "2 to run" in by_class.stdout
    assert "2 to run" in by_task.stdout


def test_a_failure_is_that_of_the_latest_class(notebook: Kernel) -> None:
    notebook.run_all(BROKEN.format(name="Failing", docks=3), BROKEN.format(name="Failing", docks=4))

    told = notebook.run_all(
        "try: run_task(Failing())\nexcept TaskFailedError as error: failure = error.failures[0]",
        "failure.task, traceback.extract_tb(failure.exception.__traceback__)[-1].name, "
        "list(traceback.walk_tb(failure.exception.__traceback__))[-1][0].f_locals['docks']",
    )

    assert told.text == "('Failing()', 'run', 4)"


def test_a_task_of_a_class_that_was_defined_again_is_said_to_be_of_the_former(notebook: Kernel) -> None:
    notebook.run_all(defined("Kept", "old"), "kept = Kept()", defined("Kept", "new"))

    ran, shown = notebook.run_all("run_task(kept)"), notebook.run_all("kept")

    assert "Kept was defined again since the task was made" in ran.stderr
    assert "its class was defined again since" in shown.html
    assert "defined again" not in notebook.run_all("Kept()").html


def test_a_plain_task_of_luigi_is_found_by_its_name_once_a_run_has_begun(notebook: Kernel) -> None:
    plain = "class Plain(luigi.Task):\n    number = luigi.IntParameter(default={})\n    def complete(self): return True"
    notebook.run_all(plain.format(1), plain.format(2))
    before = notebook.run("Register.get_task_cls('Plain')")

    found = notebook.run_all("run_task(Plain())", "Register.get_task_cls('Plain') is Plain")

    assert before.error_name == "TaskClassAmbigiousException"  # so it is in Luigi
    assert found.text == "True"


def test_a_plain_task_that_was_defined_again_can_be_yielded(notebook: Kernel) -> None:
    plain = (
        "class Yielded(luigi.Task):\n"
        "    def output(self): return luigi.LocalTarget('data/yielded.txt')\n"
        "    def run(self):\n"
        "        with self.output().open('w') as stream: stream.write('{}')"
    )
    yielding = defined("Yielding", "x").replace(
        'output_path.write_text("x")', "yield Yielded()\n        output_path.touch()"
    )
    notebook.run_all(plain.format("old"), plain.format("new"), yielding)

    assert notebook.run_all("run_task(Yielding())", "open('data/yielded.txt').read()").text == "'new'"


# Errors


def test_a_failed_run_shows_the_cell_and_the_message_and_tb_the_whole(notebook: Kernel) -> None:
    notebook.run_all(BROKEN.format(name="Short", docks=3), "def go():\n    run_task(Short())")

    failed, whole, again = notebook.run("go()"), notebook.run("%tb"), notebook.run("%tb Plain")

    assert "----> 1 go()" in failed.error
    assert "----> 2     run_task(Short())" in failed.error
    assert "Short(): ZeroDivisionError: division by zero" in failed.error
    assert "%tb prints the whole traceback" in failed.error
    assert "task_runner.py" not in failed.error
    assert "task_runner.py" in whole.error
    assert "return docks / 0" in whole.error
    assert "task_runner.py" in again.error


def test_a_failure_that_is_looked_at_is_a_card(notebook: Kernel) -> None:
    shown = notebook.run_all(
        BROKEN.format(name="Looked", docks=3),
        "try: run_task(Looked())\nexcept TaskFailedError as error: seen = error",
        "seen",
    )

    assert "✗ 1 task failed" in shown.html
    assert "<details><summary>traceback</summary>" in shown.html
    assert "return docks / 0" in shown.html
    assert "TaskFailedError" in shown.text


def test_the_debugger_stands_in_the_frame_of_the_user(notebook: Kernel) -> None:
    notebook.run_all(BROKEN.format(name="Debugged", docks=41))
    failed = notebook.run("run_task(Debugged(), raise_exception=True)")

    frame = notebook.run("list(traceback.walk_tb(sys.last_traceback))[-1][0].f_locals['docks']")
    stood = notebook.run("%debug", typed=("print('docks:', docks + 1)", "print(type(self).__name__)", "q"))

    assert failed.error_name == "ZeroDivisionError"
    assert frame.text == "41"
    assert "docks: 42" in stood.stdout
    assert "Debugged" in stood.stdout


@pytest.mark.parametrize("method", ["requires", "output", "complete"])
def test_the_debugger_stands_in_the_other_methods_too(notebook: Kernel, method: str) -> None:
    notebook.run_all(
        defined("Asked", "x") + f"    def {method}(self):\n        stations = 17\n        return stations / 0\n"
    )
    notebook.run("run_task(Asked(), raise_exception=True)")

    stood = notebook.run("%debug", typed=("print('stations:', stations + 1)", "q"))

    assert "stations: 18" in stood.stdout


# The event loop of the kernel


@pytest.mark.parametrize("executor", ["", ", executor='async'"])
def test_tasks_run_beside_the_loop_of_the_kernel(notebook: Kernel, executor: str) -> None:
    waiting = defined("Waiting", "waited").replace("def run", "async def run")
    notebook.run_all(waiting.replace("output_path.write", "await asyncio.sleep(0); output_path.write"))

    ran = notebook.run_all(
        f"Waiting().output().remove()\nawait asyncio.sleep(0)\nrun_task(Waiting(){executor}).read_text()"
    )

    assert ran.text == "'waited'"


def test_the_debugger_stands_in_an_async_run(notebook: Kernel) -> None:
    notebook.run_all(BROKEN.format(name="Awaiting", docks=8).replace("def run", "async def run"))
    notebook.run("run_task(Awaiting(), raise_exception=True)")

    stood = notebook.run("%debug", typed=("print('docks:', docks + 1)", "q"))

    assert "docks: 9" in stood.stdout
