"""Tasks that several runs start at once; each notes in `folder` that its `run` began. For processes of pools, too."""

import os
from pathlib import Path
from typing import Any

import luigi
from executor_tasks import note, wait_for

from superluigi import AtomicTaskWithMetadata, LocalFileTarget, S3ObjectTarget, S3PrefixTarget, TaskWithCleanup


class Flight(AtomicTaskWithMetadata):
    """Makes an output of a kind; waits in `run` until there is a file `go`, if it is told to."""

    folder = luigi.Parameter()
    kind = luigi.Parameter(default="file")
    bucket = luigi.Parameter(default="")
    name = luigi.Parameter(default="flight")
    waits = luigi.BoolParameter(significant=False)

    def output(self) -> Any:
        if self.kind == "object":
            return S3ObjectTarget(self.bucket, f"out/{self.name}.txt")
        if self.kind == "prefix":
            return S3PrefixTarget(self.bucket, f"out/{self.name}")
        return LocalFileTarget(Path(self.folder, "out", f"{self.name}.txt"))

    def run(self, output_path: Path) -> None:
        note(self.folder, "begun", f"{self.name} {os.getpid()}")
        if self.waits:
            wait_for(Path(self.folder, "go").exists)
        path = output_path / "part.txt" if output_path.is_dir() else output_path
        path.write_text(f"{self.name} of {os.getpid()}")


class Pair(Flight):
    """Needs one that others may be making, and one that nobody is."""

    name = luigi.Parameter(default="pair")

    def requires(self) -> Any:
        return [self.clone(Flight, name="taken"), self.clone(Flight, name="free")]


class Short(TaskWithCleanup, Flight):
    name = luigi.Parameter(default="short")


class Reader(Flight):
    """Needs one that is short-lived."""

    name = luigi.Parameter(default="reader")

    def requires(self) -> Any:
        return self.clone(Short, name="short", waits=False)

    def run(self, input_path: Path, output_path: Path) -> None:
        super().run(output_path)


class PlainFlight(luigi.Task):
    """A plain task of Luigi."""

    folder = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder, "plain.txt")))

    def run(self) -> None:
        note(self.folder, "begun", f"plain {os.getpid()}")
        wait_for(Path(self.folder, "go").exists)
        with self.output().open("w") as stream:
            stream.write("plain")
