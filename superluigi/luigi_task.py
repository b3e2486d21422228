"""Luigi's task: the class itself at run time, and for type checkers a class that tells what it does.

Luigi's own declares `run(self)`, and mypy checks an override against every base: a `run(self, output_path)` would be an
error in each task of each user. It is also declared as a `dataclass_transform`, by which pyright refuses each argument
of a constructor whose parameter has no annotation, as in `date = DateParameter()`; and most of its methods have no
types. So type checkers see another class here, in which `run` may be anything. The price: to them a task of ours is no
`luigi.Task`; functions that take both say `AnyTask`. The invariant: nothing is different at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import luigi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from typing import Protocol, TypeVar, overload

    from luigi.task_register import Register
    from typing_extensions import Self

    _Callback = TypeVar("_Callback", bound=Callable[..., object])
    _Task = TypeVar("_Task")
    _Output_co = TypeVar("_Output_co", covariant=True)

    class Makes(Protocol[_Output_co]):
        """A task, by what its `output()` is said to give."""

        def output(self) -> _Output_co: ...

    class LuigiTask(metaclass=Register):
        """Luigi's task, https://luigi.readthedocs.io/en/stable/api/luigi.task.html."""

        priority: Any  # a number, or a property that gives one
        disabled: Any
        resources: Any  # a dict of numbers, or a property that gives one
        worker_timeout: Any
        max_batch_size: Any
        retry_count: Any
        disable_hard_timeout: Any
        disable_window: Any
        owner_email: Any
        use_cmdline_section: Any
        accepts_messages: Any
        task_namespace: Any
        param_kwargs: dict[str, Any]
        set_tracking_url: Callable[[str], None] | None
        set_status_message: Callable[[str], None] | None
        set_progress_percentage: Callable[[float], None] | None

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def requires(self) -> Any: ...
        def output(self) -> Any: ...
        def run(self, *args: Any, **kwargs: Any) -> Any: ...
        def input(self) -> Any: ...
        def deps(self) -> list[Any]: ...
        def complete(self) -> bool: ...
        def initialized(self) -> bool: ...
        def process_resources(self) -> Any: ...
        def on_failure(self, exception: BaseException) -> Any: ...
        def on_success(self) -> Any: ...
        def to_str_params(self, only_significant: bool = False, only_public: bool = False) -> dict[str, str]: ...
        def trigger_event(self, event: str, *args: Any, **kwargs: Any) -> None: ...
        def no_unpicklable_properties(self) -> AbstractContextManager[None]: ...
        @overload
        def clone(self, cls: None = None, **kwargs: Any) -> Self: ...
        @overload
        def clone(self, cls: type[_Task], **kwargs: Any) -> _Task: ...
        def clone(self, cls: Any = None, **kwargs: Any) -> Any: ...
        @property
        def batchable(self) -> bool: ...
        @property
        def task_module(self) -> str: ...
        @property
        def task_family(self) -> str: ...
        @classmethod
        def event_handler(cls, event: str) -> Callable[[_Callback], _Callback]: ...
        @classmethod
        def remove_event_handler(cls, event: str, callback: Callable[..., object]) -> None: ...
        @classmethod
        def get_task_namespace(cls) -> str: ...
        @classmethod
        def get_task_family(cls) -> str: ...
        @classmethod
        def get_params(cls) -> list[tuple[str, luigi.Parameter[Any]]]: ...
        @classmethod
        def batch_param_names(cls) -> list[str]: ...
        @classmethod
        def get_param_names(cls, include_significant: bool = False) -> list[str]: ...
        @classmethod
        def get_param_values(
            cls, params: list[tuple[str, luigi.Parameter[Any]]], args: Iterable[Any], kwargs: Mapping[str, Any]
        ) -> list[tuple[str, Any]]: ...
        @classmethod
        def from_str_params(cls, params_str: Mapping[str, str]) -> Self: ...
        @classmethod
        def bulk_complete(cls, parameter_tuples: Any) -> Iterable[Any]: ...

else:
    LuigiTask = luigi.Task

AnyTask: TypeAlias = luigi.Task | LuigiTask
