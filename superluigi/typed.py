"""The task classes once more, for pipelines whose constructors a type checker is to check.

`from superluigi.typed import AtomicTaskWithMetadata` gives the very class that `superluigi` exports. Type checkers see
in it a `dataclass_transform`: with parameters that are annotated with their own class, as in `date: DateParameter =
DateParameter()`, they know what the constructor takes. They then refuse arguments of parameters without an annotation,
and so this is asked for by the import. The invariant: nothing is different at run time.
"""

from typing import TYPE_CHECKING

__all__ = ["AtomicTaskWithMetadata", "ExternalTask", "Task", "TaskWithMetadata"]

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    from superluigi import tasks
    from superluigi.parameters import (
        BoolParameter,
        ChoiceListParameter,
        ChoiceParameter,
        DateHourParameter,
        DateIntervalParameter,
        DateMinuteParameter,
        DateParameter,
        DateSecondParameter,
        DictParameter,
        EnumListParameter,
        EnumParameter,
        FloatParameter,
        IntParameter,
        ListParameter,
        MonthParameter,
        NumericalParameter,
        OptionalBoolParameter,
        OptionalChoiceParameter,
        OptionalDictParameter,
        OptionalFloatParameter,
        OptionalIntParameter,
        OptionalListParameter,
        OptionalNumericalParameter,
        OptionalParameter,
        OptionalPathParameter,
        OptionalStrParameter,
        OptionalTupleParameter,
        Parameter,
        PathParameter,
        StrParameter,
        TaskParameter,
        TimeDeltaParameter,
        TupleParameter,
        YearParameter,
    )

    @dataclass_transform(
        eq_default=False,
        kw_only_default=True,
        field_specifiers=(
            BoolParameter,
            ChoiceListParameter,
            ChoiceParameter,
            DateHourParameter,
            DateIntervalParameter,
            DateMinuteParameter,
            DateParameter,
            DateSecondParameter,
            DictParameter,
            EnumListParameter,
            EnumParameter,
            FloatParameter,
            IntParameter,
            ListParameter,
            MonthParameter,
            NumericalParameter,
            OptionalBoolParameter,
            OptionalChoiceParameter,
            OptionalDictParameter,
            OptionalFloatParameter,
            OptionalIntParameter,
            OptionalListParameter,
            OptionalNumericalParameter,
            OptionalParameter,
            OptionalPathParameter,
            OptionalStrParameter,
            OptionalTupleParameter,
            Parameter,
            PathParameter,
            StrParameter,
            TaskParameter,
            TimeDeltaParameter,
            TupleParameter,
            YearParameter,
        ),
    )
    class Task(tasks.Task):
        """See `superluigi.Task`."""

    class ExternalTask(Task, tasks.ExternalTask):
        """See `superluigi.ExternalTask`."""

    class TaskWithMetadata(Task, tasks.TaskWithMetadata):
        """See `superluigi.TaskWithMetadata`."""

    class AtomicTaskWithMetadata(TaskWithMetadata, tasks.AtomicTaskWithMetadata):
        """See `superluigi.AtomicTaskWithMetadata`."""

else:
    from superluigi.tasks import AtomicTaskWithMetadata, ExternalTask, Task, TaskWithMetadata
