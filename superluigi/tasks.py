"""The task classes: Luigi's task with an id over all that it requires, with a record, with private paths.

What happens when a task runs is in `execution`. The invariant: a task holds its parameters and nothing of any
run, because Luigi keeps the instances.
"""

from __future__ import annotations

from typing import Any, ClassVar

import luigi
from luigi.task import MixinNaiveBulkComplete
from luigi.worker import TaskProcess

from superluigi import dag, identity
from superluigi.errors import InvalidNameError, public_name
from superluigi.execution import TaskRegister, own_target
from superluigi.luigi_task import LuigiTask
from superluigi.targets import LocalFileTarget, LocalFolderTarget, S3ObjectTarget, S3PrefixTarget, Target

_LENT_BY_THE_WORKER = frozenset(TaskProcess.forward_reporter_attributes.values())


class Task(LuigiTask, metaclass=TaskRegister):
    """Luigi's task, with an id over the task and all that it requires.

    `run(self)` makes the outputs in whatever way; a run that does not leave one of them fails.
    """

    offered_arguments: ClassVar[tuple[str, ...]] = ()
    _is_constructed = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_constructed = True

    @property
    def task_id(self) -> str:
        """32 hex characters: family, significant public parameters, `__version__`, and the ids of all it requires.

        The first use after a task class was defined or a run was begun calls `requires()` of all tasks upstream.

        Raises:
            CycleError: tasks require each other in a circle.
        """
        own: Any = self
        return identity.task_id(own) if self._is_constructed else self.luigi_task_id

    @task_id.setter
    def task_id(self, value: str) -> None:
        self.luigi_task_id = value

    @property
    def task_hash(self) -> str:
        """The same as `task_id`."""
        return self.task_id

    deps = dag.deps

    @classmethod
    def get_params(cls) -> list[tuple[str, luigi.Parameter]]:
        """Give the parameters with their names, in Luigi's order; looked for once per class.

        And again once a class of tasks was defined or changed: Luigi looks through all attributes at every call.
        """
        facts = dag.remembered(cls)
        if "params" not in facts:
            facts["params"] = super().get_params()
        return list(facts["params"])

    def initialized(self) -> bool:
        """Say whether Luigi's constructor was called; asks nothing of `requires()`."""
        return self._is_constructed

    def __eq__(self, other: object) -> bool:
        """Compare class and Luigi's own id: cheap, and `requires()` is not called."""
        return type(self) is type(other) and self.luigi_task_id == other.luigi_task_id

    def __hash__(self) -> int:
        """Hash Luigi's own id, in this process."""
        return hash(self.luigi_task_id)

    def __repr__(self) -> str:
        """Show class and significant parameters, as Luigi does, but no private or hidden ones: it reaches the logs."""
        return public_name(self)

    def _repr_html_(self) -> str:
        """Give what a notebook shows: state, parameters, what is required, outputs with record and first rows.

        Fetches no data, takes a few seconds at most, and never fails. Asks `complete()` of the task and of up to 20
        that it requires, and looks at each output, see `Target._repr_html_`.
        """
        from superluigi.cards import card_of

        own: Any = self
        return card_of(own)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind the id, which only this process remembers, and Luigi's scheduler, which a running task holds."""
        state = {name: value for name, value in self.__dict__.items() if name != "_remembered"}
        return {**state, **dict.fromkeys(state.keys() & _LENT_BY_THE_WORKER)}

    def complete(self) -> bool:
        """Say whether all outputs exist, and none of several was left half-published."""
        outputs = [target for _, target in dag.leaves(self.output())]
        if not outputs:
            return bool(super().complete())
        for target in outputs:
            dag.check_is_target(target, self)
        guard = self.guard_of(outputs)
        return all(target.exists() for target in outputs) and not (guard is not None and guard.store.is_marked())

    # Luigi's range tools ask it of the class with some parameters filled in, so that it cannot be inherited as it is.
    bulk_complete = MixinNaiveBulkComplete.__dict__["bulk_complete"]

    @classmethod
    def has_own_complete(cls) -> bool:
        """Say whether the class decides otherwise than by its outputs whether it is complete."""
        return cls.complete is not Task.complete

    def guard_of(self, outputs: list[Any]) -> Target | None:
        """Give the output at which the intent marker is put, None if the outputs change in one step."""
        own = [target for target in map(own_target, outputs) if target is not None]
        return min(own, key=_address) if len(own) > 1 else None  # a set has no first


def _address(target: Target) -> str:
    return str(target.path)


class ExternalTask(Task):
    """Data that are made elsewhere: `output()` says where, and there is no `run`."""

    run = None  # type: ignore[assignment]  # as in Luigi: there is nothing to run


class _AddressParameter(luigi.Parameter):
    def normalize(self, x: Any) -> str:
        return str(x)


class External(ExternalTask):
    """Data that are made elsewhere, by their path or `s3://` address; a slash at the end means a folder or prefix."""

    path = _AddressParameter(description="a local path, or s3://bucket/key; a slash at the end means a folder")

    def output(self) -> Target:
        """Give the target at the path."""
        if not self.path.startswith("s3://"):
            return LocalFolderTarget(self.path) if self.path.endswith("/") else LocalFileTarget(self.path)
        bucket, slash, key = self.path.removeprefix("s3://").partition("/")
        if not slash or not key:
            raise InvalidNameError(
                self.path, "names a bucket, not data", "Give s3://bucket/key or s3://bucket/prefix/."
            )
        return S3PrefixTarget(bucket, key) if key.endswith("/") else S3ObjectTarget(bucket, key)


class TaskWithCleanup:
    """A mixin for tasks whose outputs are short-lived: `class Part(TaskWithCleanup, AtomicTaskWithMetadata)`.

    `run_task` calls `cleanup()` once every task of the run that needed the outputs has succeeded; if one of them
    failed, or did not run, all stays for the next run. What `run_task` itself was asked for is kept. A task whose
    outputs were cleaned up is made again only for a task that needs them: if all of those are complete, it is left
    alone. Outputs that were there before the run are cleaned up as well, once a task of the run has needed them.
    """

    def cleanup(self) -> None:
        """Remove the outputs; their lineage records stay, and say when that was. Override it to remove more, or less.

        What it raises is logged as a warning: the run goes on, and its results are what they are.
        """
        task: Any = self
        for _, target in dag.leaves(task.output()):
            own = own_target(target)
            if own is not None:
                own.remove(keep_metadata=True)
            elif hasattr(target, "remove"):
                target.remove()


class TaskWithMetadata(Task):
    """A task whose `run(self, metadata)` makes its outputs itself and gets a lineage record beside each.

    What `run` puts into the dict `metadata` arrives in the record. While it runs, an intent marker stands at the
    first output, so that outputs whose record was not written do not count.
    """

    offered_arguments: ClassVar[tuple[str, ...]] = ("metadata",)

    def guard_of(self, outputs: list[Any]) -> Target | None:
        """Give one output, also of a single one: it changes while its record does not."""
        own = [target for target in map(own_target, outputs) if target is not None]
        return min(own, key=_address, default=None)  # a set has no first


class AtomicTaskWithMetadata(TaskWithMetadata):
    """A task whose `run(self, input_path, output_path, metadata)` works on private paths.

    `input_path` mirrors the nesting of `requires()`, `output_path` that of `output()`: one path, a list, a tuple, a
    dict, or None. `run` may declare any of the three. It may be a generator, which is sent the private paths of the
    tasks that it yields, or `async`. Outputs are published together with their records once `run` has ended well
    and all of them are there. A target that has no path (a database) is handed over itself.
    """

    offered_arguments: ClassVar[tuple[str, ...]] = ("input_path", "output_path", "metadata")

    def guard_of(self, outputs: list[Any]) -> Target | None:
        """Give the first of several outputs; a single one is published in one step."""
        return Task.guard_of(self, outputs)
