"""Tasks whose constructors are checked: parameters annotated with their class, and the import from `superluigi.typed`.

Read like `typed_pipeline.py`, by `test_typing.py`; nobody runs it.
"""

from __future__ import annotations

from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

from typing_extensions import assert_type

from superluigi import (
    DateParameter,
    DictParameter,
    EnumParameter,
    IntParameter,
    ListParameter,
    LocalFileTarget,
    OptionalIntParameter,
    PathParameter,
    TaskWithCleanup,
    run_task,
)
from superluigi.typed import AtomicTaskWithMetadata, ExternalTask, Task, TaskWithMetadata


class Colour(Enum):
    RED = 1


class Page(IntParameter):
    """A parameter of the user's."""


class Raw(ExternalTask):
    date: DateParameter = DateParameter()

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"raw/{self.date:%Y%m%d}.csv")


class Features(AtomicTaskWithMetadata):
    date: DateParameter = DateParameter()
    version: IntParameter = IntParameter(default=1)

    def requires(self) -> Raw:
        return Raw(date=self.date)

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"data/{self.task_id}.csv")

    def run(self, input_path: Path, output_path: Path, metadata: dict[str, Any]) -> None:
        assert_type(self.version, int)
        output_path.write_bytes(input_path.read_bytes())
        metadata["day"] = self.date.isoformat()


class Wider(TaskWithCleanup, Features):
    page: Page = Page()
    depth: OptionalIntParameter = OptionalIntParameter(default=None)
    colour: EnumParameter[Colour] = EnumParameter(enum=Colour, default=Colour.RED)
    days: ListParameter[tuple[int, ...]] = ListParameter(default=())
    settings: DictParameter[dict[str, Any]] = DictParameter(default={})
    folder: PathParameter = PathParameter(default=Path("data"))


class Report(TaskWithMetadata):
    def run(self, metadata: dict[str, Any]) -> None:
        metadata["rows"] = 3


class All(Task):
    def requires(self) -> list[Task]:
        return [Report(), Features(date=date(2022, 12, 15)), Wider(date=date(2022, 12, 15), page=4, depth=3)]


def main() -> None:
    run_task(All())
    features = Features(date=date(2022, 12, 15), version=2)
    assert_type(run_task(features), Path)
    assert_type(features.date, date)
    Wider(date=date(2022, 12, 15), page=1, colour=Colour.RED, days=(1, 2), settings={"a": 1}, folder=Path("elsewhere"))
