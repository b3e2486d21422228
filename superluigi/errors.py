"""Every error that Super Luigi raises on purpose, and what they tell of a task that failed.

    SuperLuigiError
     ├─ ConfigError (ValueError)                 a setting or an argument that cannot be used
     │   └─ UnknownTaskError                     a task to force that is nowhere upstream
     ├─ TaskTypeError (TypeError)                something that is not a task
     ├─ RunSignatureError (TypeError)            run() declares an argument that its class does not offer
     ├─ MissingParameterError (ValueError)       a task class whose parameters are not all set
     ├─ CycleError (ValueError)                  tasks that require each other
     ├─ TaskFailedError (RuntimeError)           what run_task raises when a task failed
     ├─ ExecutorError (RuntimeError)             a pool that takes no tasks, or a task that cannot travel to it
     ├─ SchedulerUnavailableError (ConnectionError)  a central scheduler that does not answer
     ├─ MetadataError (TypeError)                metadata that JSON cannot hold
     ├─ ExpectationError (ValueError)            metadata that are not as the task's class expects
     ├─ MemoryTargetError (RuntimeError)         a value that was set before, or that cannot leave its process
     ├─ TargetNotFoundError (FileNotFoundError)  a target that was read and is not there
     ├─ TargetShapeError (ValueError)            a folder where a file was promised, or the reverse
     │   └─ MissingOutputError                   a task or a block that left nothing where an output was promised
     ├─ InvalidNameError (ValueError)            a key, a prefix or a path that cannot name a target
     ├─ StorageError (OSError)                   a store that refused or broke off
     │   ├─ BucketNotFoundError (FileNotFoundError)
     │   ├─ AccessDeniedError (PermissionError)
     │   ├─ CredentialsError (PermissionError)
     │   ├─ StoreUnavailableError (ConnectionError)
     │   ├─ LeaseError (OSError)                 a lease that was lost, or that the store cannot give
     │   └─ DiskFullError (OSError)
     └─ MissingExtraError (ImportError)          an optional dependency that is not installed

Each leaf is also the builtin that a caller would expect. Every message says what is so, what was
expected and the way out. The context is kept in attributes, and all of them survive pickling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luigi.parameter import MissingParameterException

from superluigi.markup import clean

if TYPE_CHECKING:
    from collections.abc import Sequence


def _revive(cls: type[SuperLuigiError], args: tuple[Any, ...], state: dict[str, Any]) -> SuperLuigiError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class SuperLuigiError(Exception):
    """The root of all errors that Super Luigi raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Revive from the finished message: the constructors of the leaves take other arguments."""
        return _revive, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        """Give the message alone, also where the builtin parent would add an errno or quotes."""
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigError(SuperLuigiError, ValueError):
    """A setting or an argument that cannot be used; the message names it and what it takes."""


class ExecutorError(SuperLuigiError, RuntimeError):
    """A pool that takes no tasks, or a task that cannot travel to it; the message says which and why."""


class SchedulerUnavailableError(SuperLuigiError, ConnectionError):
    """The central scheduler does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(
            f"The central scheduler at {url!r} does not answer. Start luigid there, or set its address: "
            "config={'superluigi': {'scheduler_url': 'http://host:8082'}}."
        )


class UnknownTaskError(ConfigError):
    """A task, or a class of tasks, was to be forced and is nowhere upstream of the task that is run."""

    def __init__(self, name: str, root: str, candidates: Sequence[str]) -> None:
        self.name = name
        self.root = root
        self.candidates = tuple(candidates)
        shown = ", ".join(self.candidates[:10]) + (", ..." if len(self.candidates) > 10 else "")
        way_out = "Name one of these" if self.candidates else "For the task itself say force=True"
        super().__init__(
            f"{name} was to be forced, but {root} does not require it, directly or indirectly. "
            f"Upstream are: {shown or 'no tasks'}. {way_out}; tasks that a run() yields are not searched."
        )


class TaskTypeError(SuperLuigiError, TypeError):
    """Something stands where a task is expected."""


class RunSignatureError(SuperLuigiError, TypeError):
    """A run() declares an argument that its class does not offer, or that cannot be handed over by name."""

    def __init__(self, task_cls: str, unknown: Sequence[str], offered: Sequence[str]) -> None:
        self.unknown = tuple(unknown)
        by_position = [name for name in unknown if name in offered]
        others = [name for name in unknown if name not in offered]
        told = []
        if by_position:
            told.append(
                f"{task_cls}.run declares {', '.join(map(repr, by_position))} by position alone, but arguments are "
                "handed over by name. Take the '/' out of its signature."
            )
        if others:
            offer = ", ".join(offered) if offered else "no argument but self"
            told.append(
                f"{task_cls}.run declares {', '.join(map(repr, others))}, but may declare {offer}. "
                "Rename the argument, give it a default, or derive from AtomicTaskWithMetadata, "
                "which offers input_path, output_path and metadata."
            )
        super().__init__(" ".join(told))

    @classmethod
    def without_output(cls, task_cls: str) -> RunSignatureError:
        """Give the error of a class that has no `output()`, so that there is no path to hand over."""
        message = (
            f"{task_cls}.run declares 'output_path', but {task_cls} has no output() that says where. Write "
            "output(self), which returns a target such as LocalFileTarget(path), or leave the argument out."
        )
        error = cls(task_cls, (), ())
        error.args = (message,)
        return error


class MissingParameterError(SuperLuigiError, MissingParameterException, ValueError):
    """A task class was given without all of its parameters being set in the configuration."""


class CycleError(SuperLuigiError, ValueError):
    """Tasks require each other in a circle."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        circle = " -> ".join([*self.tasks, self.tasks[0]])
        super().__init__(f"These tasks require each other in a circle: {circle}. Remove one of the requirements.")


class TaskFailedError(SuperLuigiError, RuntimeError):
    """One task or more did not complete.

    `failures` tells of each, see `TaskFailure`. The first exception is the `__cause__`. A plan remembers nothing for
    `debug(last=True)`: then `is_remembered` is false.
    """

    def __init__(self, failures: Sequence[TaskFailure], summary: str, *, is_remembered: bool = True) -> None:
        self.failures = tuple(failures)
        self.summary = summary
        self.is_remembered = is_remembered
        told = [failure.told() for failure in self.failures[:_MAX_TOLD]]
        told += [failure.headline() for failure in self.failures[_MAX_TOLD:]]
        count = f"{len(told)} task{'s' if len(told) != 1 else ''} failed"
        lines = "\n".join([f"{count}:" if told else summary, *told]).split("\n")
        super().__init__("\n".join(["\n  ".join(lines), *self._ways_out()]))

    @property
    def can_be_debugged(self) -> bool:
        """Whether something of the user's own has failed, and not what was found out before anything ran."""
        return any(failure.is_of_the_user for failure in self.failures)

    def _ways_out(self) -> list[str]:
        if not self.can_be_debugged:
            return []
        if not self.is_remembered:
            return ["superluigi.plan(..., raise_exception=True) lets the error itself out, for a debugger."]
        return [
            "superluigi.debug(last=True) runs the first of them again, on the same inputs and without publishing, and",
            "stands in the debugger where it fails. run_task(..., raise_exception=True) lets the error itself out.",
        ]

    def _repr_html_(self) -> str:
        from superluigi.failure_cards import card_of

        return card_of(self)

    def _render_traceback_(self) -> list[str]:
        """Give what IPython prints where the error leaves a cell."""
        from superluigi.failure_cards import rendered

        return rendered(self)


_MAX_TOLD = 5  # failures that the message tells all about; of the others their names and reasons
_MAX_REASON_LINES = 12
_MAX_INPUTS = 6
_MAX_FRAMES = 4
_MAX_PATH = 4096  # characters, as Linux has it


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a traceback: `line` counts from 1, `source` is empty where it is not known."""

    path: str
    line: int
    function: str
    source: str = ""

    def __str__(self) -> str:
        """Give it as Python does, so that editors find the line."""
        where = f'File "{self.path}", line {self.line}, in {self.function}'
        return f"{where}\n    {self.source}" if self.source else where


@dataclass(frozen=True, slots=True)
class FailureInput:
    """What a failed task was given: the role in `requires()`, the path, and the fingerprint if it was read."""

    role: str
    path: str
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class TaskFailure:
    """What is known of one failed task.

    `task` is its name with its significant parameters, `reason` the exception in words; `exception` is None where only
    its text could leave the process, `traceback` that text. `frames` are the lines of the user's own code that the
    error went through, innermost last. `log` is the file with what the task has printed and logged, None if there is
    none; `host` is where the task ran, if that was another machine.
    """

    task: str
    reason: str
    exception: BaseException | None
    traceback: str
    frames: tuple[Frame, ...] = ()
    inputs: tuple[FailureInput, ...] = ()
    log: str | None = None
    host: str | None = None

    def __repr__(self) -> str:
        """Show the task and the reason, not the whole traceback."""
        return f"TaskFailure({self.task}: {self.reason})"

    @property
    def is_of_the_user(self) -> bool:
        """Whether a debugger leads to the place: not where the library has refused something before `run` began."""
        was_refused = isinstance(self.exception, SuperLuigiError) and self.log is None
        return (self.exception is not None or bool(self.traceback)) and not was_refused

    def headline(self) -> str:
        """Give the task and why it failed; a reason of many lines is cut."""
        first, *more = self.reason.split("\n")
        if len(more) > _MAX_REASON_LINES:
            more[_MAX_REASON_LINES:] = ["..."]
        return "\n".join([f"{clean(self.task)}: {first}", *(f"    {line}" for line in more)])

    def told(self) -> str:
        """Give all that helps to find the error, on several lines."""
        lines = [line for frame in self.frames[-_MAX_FRAMES:] for line in str(frame).split("\n")]
        for title, role, path in self._read():
            lines.append(f"{title}{role} = {path}" if role else f"{title}{path}")
        if len(self.inputs) > _MAX_INPUTS:
            lines.append(f"        and {len(self.inputs) - _MAX_INPUTS} more")
        if self.log is not None:
            lines.append(
                f"log:    {clean(self.log, max_characters=_MAX_PATH)}" + (f" on {self.host}" if self.host else "")
            )
        return "\n".join([self.headline(), *(f"    {line}" for line in lines)])

    def _read(self) -> list[tuple[str, str, str]]:
        titles = ["input:  ", *["        "] * len(self.inputs)]
        shown = zip(titles, self.inputs[:_MAX_INPUTS], strict=False)
        return [(title, clean(given.role), clean(given.path, max_characters=_MAX_PATH)) for title, given in shown]


def public_name(task: Any) -> str:
    """Give a task's name with the significant parameters that everybody may see."""
    params = task.to_str_params(only_significant=True, only_public=True)
    return f"{task.get_task_family()}({', '.join(f'{name}={value}' for name, value in params.items())})"


class MetadataError(SuperLuigiError, TypeError):
    """A value of the metadata cannot be written as JSON, or a key belongs to the lineage record itself."""

    def __init__(self, key: str, problem: str, way_out: str) -> None:
        self.key = key
        super().__init__(f"metadata[{key!r}] {problem}. {way_out}")


class ExpectationError(SuperLuigiError, ValueError):
    """A value in the metadata is not as the class of the task expects; `problems` has a sentence for each."""

    def __init__(self, task_cls: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(
            f"{task_cls}: {'; '.join(self.problems)}. Nothing was published. Look at what changed, then correct the "
            f"data, or {task_cls}.expect if this is how they are now."
        )


class MemoryTargetError(SuperLuigiError, RuntimeError):
    """A value was set a second time, or cannot leave the process that made it."""


class TargetNotFoundError(SuperLuigiError, FileNotFoundError):
    """A target, or its lineage record, was read and is not there."""

    @classmethod
    def at(cls, address: object) -> TargetNotFoundError:
        """Give the error of a path or an `s3://` address at which nothing is."""
        return cls(f"{address} does not exist. Run the task that makes it, or correct the path.")


class TargetShapeError(SuperLuigiError, ValueError):
    """A folder stands where a file was promised, or a file where a folder was."""


class MissingOutputError(TargetShapeError):
    """Nothing was left where an output was promised."""


class InvalidNameError(SuperLuigiError, ValueError):
    """A bucket, a key, a prefix or a path cannot name a target."""

    def __init__(self, name: str, problem: str, way_out: str) -> None:
        self.name = name
        super().__init__(f"{name!r} {problem}. {way_out}")


class StorageError(SuperLuigiError, OSError):
    """A store refused a request, or broke off: S3, or the local disk.

    `operation` and `address` (a path, or `s3://bucket/key`) say what was asked; `tries` and `request_id` are None
    where no request was made.
    """

    def __init__(
        self,
        operation: str,
        address: str,
        problem: str,
        way_out: str,
        *,
        request_id: str | None = None,
        tries: int | None = None,
    ) -> None:
        self.operation = operation
        self.address = address
        self.request_id = request_id
        self.tries = tries
        count = "" if tries is None else f", {tries} {'try' if tries == 1 else 'tries'}"
        trace = count + (f", request id {request_id}" if request_id else "")
        super().__init__(f"{address}: {problem} ({operation}{trace}). {way_out}")


class BucketNotFoundError(StorageError, FileNotFoundError):
    """The bucket does not exist."""


class AccessDeniedError(StorageError, PermissionError):
    """The credentials are valid, but do not permit the request."""


class CredentialsError(StorageError, PermissionError):
    """There are no credentials, or the store does not accept them."""


class StoreUnavailableError(StorageError, ConnectionError):
    """The store did not answer, or answered that it cannot serve now."""


class LeaseError(StorageError):
    """A task that is to be made once at a time has lost its lease, or the store cannot give one."""


class DiskFullError(StorageError):
    """The disk, or the quota, is full, and nothing in the cache could be given up for it."""


class MissingExtraError(SuperLuigiError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, module: str) -> None:
        self.extra = extra
        self.module = module
        super().__init__(
            f"The module {module!r} is not installed; it comes with an extra. Run: pip install 'superluigi[{extra}]'"
        )
