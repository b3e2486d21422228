"""A pipeline with types, as users write it, which strict mypy and strict pyright take without ignores.

`test_typing.py` has them read it; nobody runs it. What a checker is to infer is said by `assert_type`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from datetime import date, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import luigi
from typing_extensions import assert_type

import superluigi
from superluigi import (
    AtomicTaskWithMetadata,
    BoolParameter,
    ChoiceParameter,
    DateParameter,
    DictParameter,
    EnumParameter,
    External,
    ExternalTask,
    FloatParameter,
    IntParameter,
    ListParameter,
    LocalFileTarget,
    LocalFolderTarget,
    MemoryTarget,
    NoTarget,
    OptionalIntParameter,
    OptionalStrParameter,
    Parameter,
    PathParameter,
    S3ObjectTarget,
    S3PrefixTarget,
    StrParameter,
    SuperLuigiError,
    Target,
    Task,
    TaskFailedError,
    TaskParameter,
    TaskWithCleanup,
    TaskWithMetadata,
    TimeDeltaParameter,
    accept,
    at_least,
    debug,
    diff,
    graph,
    history,
    lineage,
    plan,
    run_task,
    salted_path,
    tree,
    verify,
    why,
)


class Colour(Enum):
    RED = 1
    BLUE = 2


class Measurements(AtomicTaskWithMetadata):
    """Two of the three arguments, and parameters without annotations."""

    date = DateParameter()
    version = IntParameter(default=1)

    def output(self) -> LocalFileTarget:
        assert_type(self.date.year, int)
        assert_type(self.version, int)
        return LocalFileTarget(f"data/{self.date:%Y%m%d}/{self.task_id}.csv")

    def run(self, output_path: Path, metadata: dict[str, Any]) -> None:
        output_path.write_text("1\n2\n")
        metadata["row_count"] = 2


class Features(AtomicTaskWithMetadata):
    """One input and one output, on S3."""

    __version__ = "2"
    priority = 10
    resources = {"memory": 2}
    retry_count = 3
    expect = {"row_count": at_least(1)}

    date = DateParameter()
    colours = ListParameter(default=("red", "blue"))

    def requires(self) -> Measurements:
        return Measurements(date=self.date)

    def output(self) -> S3ObjectTarget:
        return S3ObjectTarget(bucket="superluigi", object_key=f"features/{self.task_id}.csv")

    def run(self, input_path: Path, output_path: Path, metadata: dict[str, Any]) -> None:
        text = input_path.read_text()
        output_path.write_text(text)
        metadata["row_count"] = len(text.splitlines())


class Model(AtomicTaskWithMetadata):
    """A dict of inputs, one of them made elsewhere, and a folder."""

    depth = OptionalIntParameter(default=None)
    rate = FloatParameter(default=0.1)

    def requires(self) -> dict[str, Task]:
        return {"features": Features(date=date(2022, 12, 15)), "labels": External(path="s3://superluigi/labels.csv")}

    def output(self) -> LocalFolderTarget:
        return LocalFolderTarget(salted_path("data/model-{task_id}", self))

    def run(self, input_path: dict[str, Path], output_path: Path) -> None:
        assert_type(self.depth, "int | None")
        output_path.mkdir()
        (output_path / "labels").write_bytes(input_path["labels"].read_bytes())


class Predictions(AtomicTaskWithMetadata):
    """Lists in a dict, and several outputs."""

    days = IntParameter(default=3)

    def requires(self) -> dict[str, Task | list[Features]]:
        first = date(2022, 12, 15)
        return {"model": Model(), "features": [Features(date=first + timedelta(days=n)) for n in range(self.days)]}

    def output(self) -> dict[str, LocalFileTarget]:
        return {name: LocalFileTarget(f"data/{name}-{self.task_id}.csv") for name in ("scores", "errors")}

    def run(self, input_path: dict[str, Any], output_path: dict[str, Path], metadata: dict[str, Any]) -> None:
        features: list[Path] = input_path["features"]
        output_path["scores"].write_text("".join(path.read_text() for path in features))
        output_path["errors"].touch()
        metadata["scored"] = len(features)


class Everywhere(Predictions):
    """A task inherits parameters, requirements and outputs, and calls the `run` above it."""

    region = StrParameter(default="everywhere")

    def run(self, input_path: dict[str, Any], output_path: dict[str, Path], metadata: dict[str, Any]) -> None:
        super().run(input_path, output_path, metadata)
        metadata["region"] = self.region


class Fetched(AtomicTaskWithMetadata):
    """`async def run`."""

    url = Parameter()

    def output(self) -> list[LocalFileTarget]:
        return [LocalFileTarget("data/fetched.json")]

    async def run(self, output_path: list[Path]) -> None:
        async for chunk in self.chunks():
            output_path[0].write_text(chunk)

    async def chunks(self) -> AsyncIterator[str]:
        yield self.url


class Growing(AtomicTaskWithMetadata):
    """A generator, which is sent the private paths of what it yields."""

    def output(self) -> LocalFileTarget:
        return LocalFileTarget("data/growing.csv")

    def run(self, output_path: Path) -> Generator[Task, Path, None]:
        measured = yield Measurements(date=date(2022, 12, 15))
        output_path.write_bytes(measured.read_bytes())


class Scratch(TaskWithCleanup, AtomicTaskWithMetadata):
    """A mixin of ours, and Luigi's settings as properties."""

    folder = PathParameter(default=Path("scratch"))
    keep = BoolParameter(default=False)

    @property
    def priority(self) -> int:
        return 5

    @property
    def resources(self) -> dict[str, int]:
        return {"disk": 1}

    def output(self) -> tuple[LocalFileTarget, LocalFileTarget]:
        return LocalFileTarget(self.folder / "a"), LocalFileTarget(self.folder / "b")

    def run(self, output_path: tuple[Path, Path]) -> None:
        for path in output_path:
            path.touch()

    def cleanup(self) -> None:
        if not self.keep:
            super().cleanup()


class Dated:
    """A mixin of the user's, with a parameter."""

    date = DateParameter()


class Report(Dated, TaskWithMetadata):
    """`run(self, metadata)`."""

    colour = EnumParameter(enum=Colour, default=Colour.RED)
    unit = ChoiceParameter(choices=["m", "km"], default="m")
    timeout = TimeDeltaParameter(default=timedelta(hours=1))
    note = OptionalStrParameter(default=None)
    settings: DictParameter[dict[str, Any]] = DictParameter(default={})
    of: TaskParameter[Any] = TaskParameter(default=Measurements)

    def requires(self) -> list[Task]:
        return [self.clone(Measurements), Model(depth=3)]

    def output(self) -> Target:
        return LocalFileTarget("data/report.html")

    def run(self, metadata: dict[str, Any]) -> None:
        assert_type(self.colour, Colour)
        assert_type(self.unit, str)
        assert_type(self.timeout, timedelta)
        assert_type(self.note, "str | None")
        metadata["day"] = self.date.isoformat()

    def complete(self) -> bool:
        return super().complete() and self.settings.get("force") is None

    def on_failure(self, exception: BaseException) -> str:
        return f"{self.task_family}: {exception}"


class Plain(luigi.Task):
    """A plain task of Luigi in the same graph."""

    def output(self) -> list[LocalFileTarget]:
        return [LocalFileTarget("data/plain.csv")]

    def run(self) -> None:
        self.output()[0].path.touch()


class Mixed(Task):
    """`run(self)`, and tasks of both kinds."""

    def requires(self) -> list[luigi.Task | Task]:
        return [*self.plain(), Measurements(date=date(2022, 12, 15))]

    def plain(self) -> list[luigi.Task]:
        return []

    def output(self) -> NoTarget:
        return NoTarget()

    def run(self) -> None:
        if self.set_status_message is not None:
            self.set_status_message("half-way")


class Held(AtomicTaskWithMetadata):
    """A value instead of a file."""

    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self, output_path: MemoryTarget) -> None:
        pass


class Elsewhere(ExternalTask):
    """Data that are made elsewhere."""

    date = DateParameter()

    def output(self) -> S3PrefixTarget:
        return S3PrefixTarget("superluigi", f"raw/{self.date:%Y}/")


@Measurements.event_handler(luigi.Event.SUCCESS)
def note_success(task: Measurements) -> None:
    print(task.date, task.task_id, task.task_hash)


def watch(event: superluigi.ProgressEvent) -> None:
    if isinstance(event, superluigi.TaskEnded):
        print(event.status)


def main() -> None:
    measurements = Measurements(date=date(2022, 12, 15))
    features = Features(date=date(2022, 12, 15))
    assert_type(run_task(measurements, num_workers=2, progress=watch), Path)
    assert_type(run_task(features), str)
    assert_type(run_task(features, local_output=True), Path)
    assert_type(run_task(Fetched(url="https://example.com")), list[Path])
    assert_type(run_task(Everywhere(days=3, region="here"), config={"Model": {"rate": 0.2}}), dict[str, Path])
    run_task([measurements, Growing, Scratch(), Plain], force_upstream_to_task=measurements)
    run_task(Report, config_file=Path("luigi.cfg"), force_upstream_to_task_cls=[Measurements, Plain, "Model"])
    for planned in plan(Mixed(), rerun_stale=True):
        print(planned.task.task_id, planned.reasons)
        if isinstance(planned.task, Measurements):
            assert_type(planned.task.date, date)
    print(plan(measurements)[measurements].reasons, measurements in plan(Mixed()))
    graph(measurements).save("graph.html")
    graph([measurements, features], force_upstream_to_task=measurements).save(Path("graph.svg"))
    print(why(measurements), tree(features, force_upstream=True), lineage(measurements.output()))
    print(diff("a.csv", "b.csv"), bool(verify("a.csv")), [row.value for row in history(Measurements, "row_count")])
    accept(measurements)
    debug(measurements)
    try:
        run_task(Elsewhere(date=date(2022, 12, 15)))
    except TaskFailedError as error:
        print([failure.task for failure in error.failures])
    except SuperLuigiError as error:
        print(error)
