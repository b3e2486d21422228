"""A task that runs again beside its outputs: it writes to a scratch folder, and nothing is published.

The invariant: whatever the task does with what `output()` gives it, and with its private paths, its outputs and their
records stay as they are. What a run writes elsewhere by itself is its own affair.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import luigi
from luigi.worker import TaskProcess

from superluigi import config, dag
from superluigi.errors import TargetNotFoundError, TaskTypeError, public_name
from superluigi.outputs import redirected
from superluigi.storage import workplace
from superluigi.targets import LocalFileTarget, LocalFolderTarget, Shape, memory
from superluigi.targets.foreign import own_target
from superluigi.targets.memory import PathlessTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from superluigi.targets import Target


@contextlib.contextmanager
def rehearsed(task: Any, *, needs_all: bool) -> Iterator[Scratch]:
    """Let a task write to a scratch folder while the block runs, and have what Luigi's worker would lend it.

    A target that has neither file nor folder, such as a table, stays as it is, or with `needs_all` is refused.

    Raises:
        TaskTypeError: an output cannot be redirected.
    """
    with contextlib.ExitStack() as stack:
        scratch = Scratch(task, stack.enter_context(workplace.private_folder()), needs_all=needs_all)
        stack.enter_context(config.applied({config.SECTION: {"input_mode": "copy"}}, None))
        stack.enter_context(memory.holding(memory.Memory()))
        stack.enter_context(_lent(task))
        stack.enter_context(redirected(task, scratch.instead_of))
        if not dag.is_ours(task):
            stack.enter_context(_redirected_plain(task, scratch))
        yield scratch


@contextlib.contextmanager
def _redirected_plain(task: Any, scratch: Scratch) -> Iterator[None]:
    """Let a plain task of Luigi find local targets of Luigi's in the scratch folder, wherever it asks for its output.

    Raises:
        TaskTypeError: it has an output of another kind, to which it would write.
    """
    others = [target for target in scratch.outputs if not isinstance(target, luigi.LocalTarget)]
    if others:
        message = (
            f"{public_name(task)} is a plain luigi.Task and writes to {', '.join(map(str, others))} itself, which "
            "cannot be redirected. Derive it from superluigi.Task or AtomicTaskWithMetadata."
        )
        raise TaskTypeError(message)
    nested = dag.map_nested(
        lambda target: luigi.LocalTarget(str(scratch.target_for(_own(target)).path), format=target.format),
        task.output(),
    )
    vars(task)["output"] = lambda: nested
    try:
        yield
    finally:
        del vars(task)["output"]


def _own(target: luigi.LocalTarget) -> Target:
    own = own_target(target)
    assert own is not None
    return own


class Scratch:
    """A folder with a target for each output of a task, of the same name and shape."""

    def __init__(self, task: luigi.Task, folder: Path, *, needs_all: bool) -> None:
        self._task = task
        self._folder = folder
        self._needs_all = needs_all
        self._instead: dict[str, Target] = {}
        self.outputs = [target for _, target in dag.leaves(task.output())]
        self.instead_of(self.outputs)  # says before anything is run what cannot be

    def instead_of(self, nested: Any) -> Any:
        """Give the targets in this folder for those of an `output()`; those that are in it stay, as do values."""
        return dag.map_nested(self._target, nested)

    def _target(self, target: Any) -> Any:
        if isinstance(target, PathlessTarget):
            return target
        own = own_target(target)
        if own is None and not self._needs_all:
            return target
        if own is None:
            message = (
                f"{public_name(self._task)} writes to {target}, a {type(target).__name__}, which cannot be redirected. "
                "Only tasks whose outputs are files or folders can be reproduced."
            )
            raise TaskTypeError(message)
        return own if own in self._instead.values() else self.target_for(own)

    def target_for(self, target: Target) -> Target:
        """Give the target in this folder for one of the real ones."""
        path = str(target.path)
        if path not in self._instead:
            folder = self._folder / str(len(self._instead))
            folder.mkdir()
            self._instead[path] = (LocalFileTarget if target.shape is Shape.FILE else LocalFolderTarget)(
                folder / target.name
            )
        return self._instead[path]


@contextlib.contextmanager
def _lent(task: Any) -> Iterator[None]:
    """Let a task have, while it runs, what Luigi's worker lends it to tell of its progress; nobody listens."""
    names = [name for name in TaskProcess.forward_reporter_attributes.values() if name != "scheduler_messages"]
    before = {name: vars(task)[name] for name in names if name in vars(task)}
    for name in names:
        setattr(task, name, lambda *_: None)
    try:
        yield
    finally:
        for name in names:
            delattr(task, name)
        vars(task).update(before)


def run_alone(task: Any) -> None:
    """Run a task as Luigi's worker does, but for what it yields, which has to be there."""
    running = task.run()
    if running is None:
        return
    with contextlib.closing(running):
        answer = None
        while True:
            try:
                required = running.send(answer)
            except StopIteration:
                return
            if not isinstance(required, luigi.DynamicRequirements):
                required = luigi.DynamicRequirements(required)
            if not required.complete():
                message = (
                    f"{public_name(task)} yields {', '.join(map(str, required.flat_requirements))}, which is not "
                    "complete, and nothing but the task itself is run here. Run what it yields, and try again."
                )
                raise TargetNotFoundError(message)
            answer = required.paths
