"""Super Luigi: Luigi tasks with private paths, atomic outputs, lineage records and runs on demand."""

import typing as _typing

import superluigi.luigi_import as _luigi_import  # noqa: F401  (first, as it tells why Luigi cannot be imported)
from superluigi.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ConfigError,
    CredentialsError,
    CycleError,
    DiskFullError,
    ExecutorError,
    ExpectationError,
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
from superluigi.expectations import at_least, between, history, within
from superluigi.identity import salted_path
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
    from superluigi.ancestry import lineage
    from superluigi.comparison import diff
    from superluigi.debugging import debug
    from superluigi.explaining import accept, tree, why
    from superluigi.reproduction import reproduce, verify
    from superluigi.running.events import (
        ProgressEvent,
        RunEnded,
        RunStarted,
        Tally,
        TaskEnded,
        TaskEvent,
        TaskLeft,
        TaskPaused,
        TasksAdded,
        TaskStarted,
        TaskStatus,
        TransferDirection,
        TransferEnded,
        TransferEvent,
        TransferProgressed,
        TransferStarted,
    )
    from superluigi.task_graph import graph
    from superluigi.task_runner import plan, run_task

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
    "ExpectationError",
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
    "ProgressEvent",
    "RunEnded",
    "RunSignatureError",
    "RunStarted",
    "S3ObjectTarget",
    "S3PrefixTarget",
    "SchedulerUnavailableError",
    "StorageError",
    "StoreUnavailableError",
    "SuperLuigiError",
    "Tally",
    "Target",
    "TargetNotFoundError",
    "TargetShapeError",
    "Task",
    "TaskEnded",
    "TaskEvent",
    "TaskFailedError",
    "TaskFailure",
    "TaskLeft",
    "TaskPaused",
    "TaskStarted",
    "TaskStatus",
    "TaskTypeError",
    "TaskWithCleanup",
    "TaskWithMetadata",
    "TasksAdded",
    "TransferDirection",
    "TransferEnded",
    "TransferEvent",
    "TransferProgressed",
    "TransferStarted",
    "UnknownTaskError",
    "accept",
    "at_least",
    "between",
    "debug",
    "diff",
    "graph",
    "history",
    "lineage",
    "plan",
    "reproduce",
    "run_task",
    "salted_path",
    "tree",
    "verify",
    "why",
    "within",
]
# Those of `parameters`, name by name, because mypy reads no other list.
__all__ += [
    "BoolParameter",
    "ChoiceListParameter",
    "ChoiceParameter",
    "DateHourParameter",
    "DateIntervalParameter",
    "DateMinuteParameter",
    "DateParameter",
    "DateSecondParameter",
    "DictParameter",
    "EnumListParameter",
    "EnumParameter",
    "FloatParameter",
    "IntParameter",
    "ListParameter",
    "MonthParameter",
    "NumericalParameter",
    "OptionalBoolParameter",
    "OptionalChoiceParameter",
    "OptionalDictParameter",
    "OptionalFloatParameter",
    "OptionalIntParameter",
    "OptionalListParameter",
    "OptionalNumericalParameter",
    "OptionalParameter",
    "OptionalParameterMixin",
    "OptionalPathParameter",
    "OptionalStrParameter",
    "OptionalTupleParameter",
    "Parameter",
    "ParameterVisibility",
    "PathParameter",
    "StrParameter",
    "TaskParameter",
    "TimeDeltaParameter",
    "TupleParameter",
    "YearParameter",
]


# Loaded when first asked for: with Luigi's worker they are a third of what an import would cost.
_LATER = {
    "accept": "superluigi.explaining",
    "debug": "superluigi.debugging",
    "diff": "superluigi.comparison",
    "graph": "superluigi.task_graph",
    "lineage": "superluigi.ancestry",
    "plan": "superluigi.task_runner",
    "run_task": "superluigi.task_runner",
    "reproduce": "superluigi.reproduction",
    "tree": "superluigi.explaining",
    "verify": "superluigi.reproduction",
    "why": "superluigi.explaining",
    **dict.fromkeys(
        (
            "ProgressEvent",
            "RunEnded",
            "RunStarted",
            "Tally",
            "TaskEnded",
            "TaskEvent",
            "TaskLeft",
            "TaskPaused",
            "TaskStarted",
            "TaskStatus",
            "TasksAdded",
            "TransferDirection",
            "TransferEnded",
            "TransferEvent",
            "TransferProgressed",
            "TransferStarted",
        ),
        "superluigi.running.events",
    ),
}


if not _typing.TYPE_CHECKING:  # by it, type checkers would take each misspelt name for one that is there

    def __getattr__(name: str) -> object:
        """Load a function, or a class of events, when it is first asked for."""
        if name not in _LATER:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        import importlib

        function = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
