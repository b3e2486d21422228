"""Graphs of tasks that are edited between runs: their inputs, parameters, versions, code, outputs and records.

The tasks are written to a module, anew with every edit of their code, and imported from there, as a notebook or a
script would define them again. They travel to pools by value. Every task adds its name to one file at the end of its
`run`, which is safe between processes.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cloudpickle

from superluigi import run_task

if TYPE_CHECKING:
    from pathlib import Path

    import luigi
    from conftest import S3

# Name: what it requires. A name without a task is data that are made elsewhere.
CHAIN = {"A": "X", "B": "A", "C": "B"}
DIAMOND = {"A": "X", "B": "A", "C": "A", "D": "BC"}
FAN = {"A": "XY", "B": "A", "C": "AY", "D": "X"}
ROOTS = {"chain": "C", "diamond": "D", "fan": "BCD"}
GRAPHS = {"chain": CHAIN, "diamond": DIAMOND, "fan": FAN}

PLACES = ("file", "folder", "object", "prefix")

_HEAD = """
import luigi
from pathlib import Path
from superluigi import *

PLACE, FOLDER, BUCKET, OPTIONS, FACTORS, NOTES = {globals!r}


def place(name):
    if PLACE == "file":
        return LocalFileTarget(f"{{FOLDER}}/{{name}}.txt")
    if PLACE == "folder":
        return LocalFolderTarget(f"{{FOLDER}}/{{name}}")
    if PLACE == "object":
        return S3ObjectTarget(BUCKET, f"{{FOLDER.name}}/{{name}}.txt", **OPTIONS)
    return S3PrefixTarget(BUCKET, f"{{FOLDER.name}}/{{name}}/", **OPTIONS)


def read(path):
    return int((path / "value.txt" if path.is_dir() else path).read_text())


def write(path, value):
    (path / "value.txt" if path.is_dir() else path).write_text(str(value))


def note(name):
    with open(f"{{FOLDER}}/journal", "a", encoding="utf-8") as stream:
        stream.write(f"{{name}}\\n")
"""

_EXTERNAL = '''

class {name}(ExternalTask):
    """Data."""

    def output(self):
        return place("{name}")
'''

_TASK = '''

class {name}(AtomicTaskWithMetadata):
    """{doc}"""

    __version__ = {version!r}
    factor = luigi.IntParameter()
    label = luigi.Parameter(default=NOTES["label"], significant=False)
    token = luigi.Parameter(default=NOTES["token"], visibility=luigi.parameter.ParameterVisibility.PRIVATE)

    def requires(self):
        return {requires}

    def output(self):
        return place("{name}")

    def run(self, input_path, output_path):
        {comment}
        value = sum(read(path) for path in input_path)
        write(output_path, (value + self.factor + {code}) // {coarse})
        note("{name}")
'''


@dataclass
class Task:
    """What can be edited of a task."""

    version: str = "1"
    factor: int = 0
    code: str = "0"
    coarse: int = 1  # the greater, the more often it comes out with the same bytes
    doc: str = "Add up."
    comment: str = "# nothing to say"
    requires: str = ""


@dataclass
class EditedGraph:
    """Tasks over a place, and what was edited of them."""

    shape: str
    folder: Path
    place: str = "file"
    s3: S3 | None = None
    tasks: dict[str, Task] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=lambda: {"label": "first", "token": "abc"})

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        graph = GRAPHS[self.shape]
        if not self.tasks:
            self.tasks = {
                name: Task(coarse=10 if name == "A" else 1, requires=requires) for name, requires in graph.items()
            }
        self.inputs = sorted({name for requires in graph.values() for name in requires} - graph.keys())

    def define(self) -> Any:
        """Define the classes anew; gives their module."""
        options = {}
        if self.s3 is not None:
            options = {"endpoint_url": self.s3.endpoint_url, "region_name": "us-east-1"}
            options |= {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        factors = {name: task.factor for name, task in self.tasks.items()}
        bucket = self.s3 and self.s3.bucket
        named = (self.place, "FOLDER", bucket, options, factors, self.notes)
        parts = [_HEAD.format(globals=named).replace("'FOLDER'", f"Path({str(self.folder)!r})")]
        parts += [_EXTERNAL.format(name=name) for name in self.inputs]
        for name, task in self.tasks.items():
            calls = [f"{one}(factor=FACTORS['{one}'])" if one in self.tasks else f"{one}()" for one in task.requires]
            parts.append(_TASK.format(name=name, **{**vars(task), "requires": f"[{', '.join(calls)}]"}))
        path = self.folder.parent / "code" / f"edited_{uuid.uuid4().hex}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(parts))
        return imported(path)

    def roots(self) -> list[luigi.Task]:
        module = self.define()
        return [getattr(module, name)(factor=self.tasks[name].factor) for name in ROOTS[self.shape]]

    def run(self, run: Any = run_task, **options: Any) -> list[str]:
        """Run the roots; gives the names of the tasks that ran."""
        run(self.roots(), **options)
        return self.ran()

    def plan(self, **options: Any) -> Any:
        return run_task(self.roots(), dry_run=True, **options)

    def ran(self) -> list[str]:
        journal = self.folder / "journal"
        names = journal.read_text().split() if journal.exists() else []
        journal.unlink(missing_ok=True)
        return sorted(names)

    # What is there

    def target(self, name: str) -> Any:
        return self.define().place(name)

    def write(self, name: str, value: object) -> None:
        """Let data be others, as somebody would do who knows nothing of records."""
        inner = {"file": f"{name}.txt", "object": f"{name}.txt"}.get(self.place, f"{name}/value.txt")
        if self.s3 is not None:
            self.s3.put(f"{self.folder.name}/{inner}", str(value).encode())
            return
        path = self.folder / inner
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(value))

    def value(self, name: str) -> int | None:
        target = self.target(name)
        if not target.exists():
            return None
        with target.tmp_read_path() as path:
            return int((path / "value.txt" if path.is_dir() else path).read_text())

    def values(self) -> dict[str, int | None]:
        return {name: self.value(name) for name in self.tasks}

    def record_key(self, name: str) -> str:
        inner = f"{name}.txt" if self.place in ("file", "object") else name
        return f"{inner}.metadata.json"

    def record(self, name: str) -> dict[str, Any] | None:
        if self.s3 is not None:
            key = f"{self.folder.name}/{self.record_key(name)}"
            return json.loads(self.s3.get(key)) if key in set(self.s3.keys()) else None
        path = self.folder / self.record_key(name)
        return json.loads(path.read_text()) if path.exists() else None

    def lose_data(self, name: str) -> None:
        """Let data go, as somebody would do who knows nothing of records."""
        if self.s3 is not None:
            keys = [key for key in self.s3.keys(f"{self.folder.name}/{name}") if not key.endswith(".json")]
            for key in keys:
                self.s3.client().delete_object(Bucket=self.s3.bucket, Key=key)
            return
        path = self.folder / (f"{name}.txt" if self.place == "file" else name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def lose_record(self, name: str) -> None:
        if self.s3 is not None:
            key = f"{self.folder.name}/{self.record_key(name)}"
            self.s3.client().delete_object(Bucket=self.s3.bucket, Key=key)
        else:
            (self.folder / self.record_key(name)).unlink(missing_ok=True)


def imported(path: Path) -> Any:
    """Import a file as a module whose classes travel by value."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module
