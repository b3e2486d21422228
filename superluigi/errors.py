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

from typing import TYPE_CHECKING, Any

from luigi.parameter import MissingParameterException

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
        super().__init__(
            f"{name} was to be forced, but {root} does not require it, directly or indirectly. "
            f"Upstream are: {shown or 'no tasks'}. Name one of these; tasks that a run() yields are not searched."
        )


class TaskTypeError(SuperLuigiError, TypeError):
    """Something stands where a task is expected."""


class RunSignatureError(SuperLuigiError, TypeError):
    """A run() declares an argument that its class does not offer."""

    def __init__(self, task_cls: str, unknown: Sequence[str], offered: Sequence[str]) -> None:
        self.unknown = tuple(unknown)
        offer = ", ".join(offered) if offered else "no argument but self"
        super().__init__(
            f"{task_cls}.run declares {', '.join(map(repr, unknown))}, but may declare {offer}. "
            "Rename the argument, give it a default, or derive from AtomicTaskWithMetadata, "
            "which offers input_path, output_path and metadata."
        )


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

    `failures` holds, per failed task, its name and parameters, the exception (None where only its text
    could leave the worker process) and the traceback as text. The first exception is the `__cause__`.
    """

    def __init__(self, failures: Sequence[TaskFailure], summary: str) -> None:
        self.failures = tuple(failures)
        self.summary = summary
        lines = [f"{failure.task}: {failure.reason}" for failure in self.failures]
        count = f"{len(lines)} task{'s' if len(lines) != 1 else ''} failed"
        way_out = "Use run_task(..., raise_exception=True) to stop a debugger at the error itself."
        super().__init__("\n  ".join([f"{count}:" if lines else summary, *lines]) + f"\n{way_out}")

    def _repr_html_(self) -> str:
        from superluigi.failure_cards import card_of

        return card_of(self)

    def _render_traceback_(self) -> list[str]:
        """Give what IPython prints where the error leaves a cell."""
        from superluigi.failure_cards import rendered

        return rendered(self)


class TaskFailure:
    """What is known of one failed task; `task` is its name with its significant parameters."""

    __slots__ = ("exception", "reason", "task", "traceback")

    def __init__(self, *, task: str, reason: str, exception: BaseException | None, traceback: str) -> None:
        self.task = task
        self.reason = reason
        self.exception = exception
        self.traceback = traceback

    @classmethod
    def of(cls, task: object, error: BaseException | None, text: str) -> TaskFailure:
        """Give the failure of a task with an exception, or, where there is none, with the last line of a traceback."""
        reason = text.strip().rpartition("\n")[2]
        if error is not None:
            try:
                said = str(error)
            except Exception:  # noqa: BLE001  (the user's own __str__ may fail in whatever way)
                said = ""
            reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        return cls(task=public_name(task), reason=reason, exception=error, traceback=text)

    def __repr__(self) -> str:
        """Show the task and the reason, not the whole traceback."""
        return f"TaskFailure({self.task}: {self.reason})"


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
