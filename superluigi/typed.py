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

    from superluigi import parameters, tasks

    @dataclass_transform(
        eq_default=False,
        kw_only_default=True,
        field_specifiers=(
            parameters.BoolParameter,
            parameters.ChoiceListParameter,
            parameters.ChoiceParameter,
            parameters.DateHourParameter,
            parameters.DateIntervalParameter,
            parameters.DateMinuteParameter,
            parameters.DateParameter,
            parameters.DateSecondParameter,
            parameters.DictParameter,
            parameters.EnumListParameter,
            parameters.EnumParameter,
            parameters.FloatParameter,
            parameters.IntParameter,
            parameters.ListParameter,
            parameters.MonthParameter,
            parameters.NumericalParameter,
            parameters.OptionalBoolParameter,
            parameters.OptionalChoiceParameter,
            parameters.OptionalDictParameter,
            parameters.OptionalFloatParameter,
            parameters.OptionalIntParameter,
            parameters.OptionalListParameter,
            parameters.OptionalNumericalParameter,
            parameters.OptionalParameter,
            parameters.OptionalPathParameter,
            parameters.OptionalStrParameter,
            parameters.OptionalTupleParameter,
            parameters.Parameter,
            parameters.PathParameter,
            parameters.StrParameter,
            parameters.TaskParameter,
            parameters.TimeDeltaParameter,
            parameters.TupleParameter,
            parameters.YearParameter,
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
