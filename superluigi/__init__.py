"""Super Luigi: Luigi tasks with private paths, atomic outputs, lineage records and runs on demand."""

import typing as _typing

from superluigi import parameters as _parameters
from superluigi.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ConfigError,
    CredentialsError,
    CycleError,
    DiskFullError,
    ExecutorError,
    InvalidNameError,
    LeaseError,
    MemoryTargetError,
    MetadataError,
    MissingExtraError,
    MissingOutputError,
    MissingParameterError,
    RunSignatureError,
    SchedulerUnavailableError,
    StorageError,
    StoreUnavailableError,
    SuperLuigiError,
    TargetNotFoundError,
    TargetShapeError,
    TaskFailedError,
    TaskFailure,
    TaskTypeError,
    UnknownTaskError,
)
from superluigi.parameters import *  # noqa: F403  (named one by one there)
from superluigi.targets import (
    LocalFileTarget,
    LocalFolderTarget,
    MemoryTarget,
    NoTarget,
    S3ObjectTarget,
    S3PrefixTarget,
    Target,
)
from superluigi.tasks import AtomicTaskWithMetadata, External, ExternalTask, Task, TaskWithCleanup, TaskWithMetadata

if _typing.TYPE_CHECKING:
    from superluigi.task_runner import run_task

__version__ = "0.1.0"

__all__ = [
    "AccessDeniedError",
    "AtomicTaskWithMetadata",
    "BucketNotFoundError",
    "ConfigError",
    "CredentialsError",
    "CycleError",
    "DiskFullError",
    "ExecutorError",
    "External",
    "ExternalTask",
    "InvalidNameError",
    "LeaseError",
    "LocalFileTarget",
    "LocalFolderTarget",
    "MemoryTarget",
    "MemoryTargetError",
    "MetadataError",
    "MissingExtraError",
    "MissingOutputError",
    "MissingParameterError",
    "NoTarget",
    "RunSignatureError",
    "S3ObjectTarget",
    "S3PrefixTarget",
    "SchedulerUnavailableError",
    "StorageError",
    "StoreUnavailableError",
    "SuperLuigiError",
    "Target",
    "TargetNotFoundError",
    "TargetShapeError",
    "Task",
    "TaskFailedError",
    "TaskFailure",
    "TaskTypeError",
    "TaskWithCleanup",
    "TaskWithMetadata",
    "UnknownTaskError",
    "run_task",
]
__all__ += _parameters.__all__


def __getattr__(name: str) -> object:
    """Load `run_task` when it is first asked for: with Luigi's worker it is a third of what an import would cost."""
    if name != "run_task":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from superluigi.task_runner import run_task

    globals()[name] = run_task
    return run_task


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
