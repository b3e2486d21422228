"""Into the run of a task that failed, with a debugger: the same inputs, private as ever, and nothing is published.

The invariant: the task runs in this process, wherever it failed, and leaves its outputs as they are.
"""

from __future__ import annotations

import bdb
import contextlib
import importlib
import os
import pdb  # noqa: T100  (it is what this is for)
import sys
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import dag, failures
from superluigi.errors import TaskTypeError, public_name
from superluigi.execution import examined
from superluigi.rehearsal import rehearsed, run_alone

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

    from superluigi.luigi_task import AnyTask


def debug(task: AnyTask | None = None, *, last: bool = False, step: bool = False) -> None:
    """Run one task again, and stand in the debugger where it fails; its inputs are at hand as they were in its `run`.

    Give a task, or `last=True` for the first of those that failed in the last run: of this process, or, in a new one,
    of this machine. It does not matter whether it failed here, in a forked process or on another machine, as long as
    its inputs can be reached. With `step` the debugger stands at the beginning of `run` instead. It is that of IPython
    where there is one, else `pdb`, or what `PYTHONBREAKPOINT` names.

    Nothing is published: outputs that are files or folders are written to a scratch folder, also by tasks that open
    `self.output()` themselves, plain ones of Luigi among them. A target without a path is the real one.

    Raises:
        TaskTypeError: neither a task nor `last=True` was given, or no task has failed; or the task has no `run`, or
            writes to what cannot be redirected.
    """
    chosen = _chosen(task, last=last)
    entered: list[BaseException] = []

    def enter(error: BaseException) -> None:
        if not any(error is known for known in entered):
            entered.append(error)
            print(failures.said_by(error))
            post_mortem(error, chosen)

    if dag.is_external(chosen):
        message = f"{public_name(chosen)} is made elsewhere: it has no run() to enter. See why its data are missing."
        raise TaskTypeError(message)
    print(f"{public_name(chosen)}: runs again; nothing will be published.")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(rehearsed(chosen, needs_all=False))
            stack.enter_context(examined(enter))
            with _stopping_in(chosen, _debugger()) if step else contextlib.nullcontext():
                run_alone(chosen)
        except bdb.BdbQuit:  # the user has left the debugger in the midst of the run
            return
        except TaskTypeError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever the user's code raises)
            enter(error)
        else:
            print(f"{public_name(chosen)}: ended without an error, and nothing was published.")


def post_mortem(error: BaseException, task: luigi.Task) -> None:
    """Stand in the debugger at the innermost line of the user's own that an error of a task went through.

    `PYTHONBREAKPOINT`, which says what `breakpoint()` calls, may name another: a module with a `post_mortem`.
    """
    if isinstance(error, bdb.BdbQuit):
        return
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    trace = failures.from_the_user(error.__traceback__)
    named = os.environ.get("PYTHONBREAKPOINT", "").rpartition(".")[0]
    try:
        module: Any = importlib.import_module(named) if named else None
    except ImportError as unknown:
        print(f"PYTHONBREAKPOINT cannot be used: {unknown}. This is Python's own debugger.")
        module = None
    if hasattr(module, "post_mortem"):
        module.post_mortem(trace)
        return
    debugger = _debugger()
    if below := failures.frames_below_the_user(task, trace):
        debugger.cmdqueue.append(f"up {below}")
    debugger.reset()
    debugger.interaction(None, trace)


def _chosen(task: object, *, last: bool) -> luigi.Task:
    if task is None and last:
        failed = failures.recall()
        if failed:
            return failed[0]
        message = "No task has failed in this process, nor is one remembered on this machine. Give a task: debug(task)."
        raise TaskTypeError(message)
    if isinstance(task, luigi.Task) and not last:
        return task
    message = f"debug() was given {task!r} and last={last}. Give a task, or last=True for the one that failed last."
    raise TaskTypeError(message)


def _debugger() -> Any:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return pdb.Pdb() if shell is None else shell.debugger_cls()


@contextlib.contextmanager
def _stopping_in(task: luigi.Task, debugger: Any) -> Iterator[None]:
    """Let the debugger stand at the first line of a task's `run` once that is called."""
    function: Any = type(task).run
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)

    def watch(frame: types.FrameType, event: str, arg: Any) -> Any:
        if event != "call" or frame.f_code is not code:
            return None
        debugger.set_trace(frame)
        return debugger.trace_dispatch(frame, event, arg)

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
