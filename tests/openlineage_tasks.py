"""Tasks whose events are looked at. A module of its own, so that the processes of a pool can import it."""

import os
import signal
from pathlib import Path
from typing import Any

import luigi
from executor_tasks import Company, wait_for
from luigi.mock import MockTarget
from luigi.parameter import ParameterVisibility

from superluigi import AtomicTaskWithMetadata, External, LocalFileTarget, S3ObjectTarget, S3PrefixTarget, Task

PASSWORD = "tulips-and-onions"


class Numbers(AtomicTaskWithMetadata):
    """Some numbers."""

    __version__ = "3"

    folder = luigi.Parameter()
    count = luigi.IntParameter(default=3)
    password = luigi.Parameter(default="", visibility=ParameterVisibility.PRIVATE, significant=False)

    def output(self):
        return LocalFileTarget(f"{self.folder}/numbers{self.count}.txt")

    def run(self, output_path, metadata):
        output_path.write_text("".join(f"{number}\n" for number in range(self.count)))
        metadata["row_count"] = self.count


class Total(AtomicTaskWithMetadata):
    folder = luigi.Parameter()

    def requires(self):
        raw = External(f"{self.folder}/raw.txt")
        return {"few": Numbers(folder=self.folder), "many": Numbers(folder=self.folder, count=5), "raw": raw}

    def output(self):
        return LocalFileTarget(f"{self.folder}/total.txt")

    def run(self, input_path, output_path):
        output_path.write_text(str(sum(len(path.read_text().split()) for path in input_path.values())))


class Yielding(AtomicTaskWithMetadata):
    folder = luigi.Parameter()

    def output(self):
        return LocalFileTarget(f"{self.folder}/yielding.txt")

    def run(self, output_path):
        first = yield Numbers(folder=self.folder, count=1)
        second = yield Numbers(folder=self.folder, count=2)
        output_path.write_text(first.read_text() + second.read_text())


class SeesItsStart(AtomicTaskWithMetadata):
    """Ends when it is told, in a file of events, that it has begun."""

    folder = luigi.Parameter()
    events = luigi.Parameter(significant=False)

    def output(self):
        return LocalFileTarget(f"{self.folder}/seen.txt")

    def run(self, output_path):
        events = Path(self.events)
        wait_for(lambda: events.exists() and '"openlineage_tasks.SeesItsStart"' in events.read_text())
        output_path.touch()


class Failing(AtomicTaskWithMetadata):
    """Fails so many times."""

    folder = luigi.Parameter()
    times = luigi.IntParameter(default=1)
    retry_count = luigi.IntParameter(default=1, significant=False)
    password = luigi.Parameter(default="", visibility=ParameterVisibility.PRIVATE)

    def output(self):
        return LocalFileTarget(f"{self.folder}/failing.txt")

    def run(self, output_path):
        tries = Path(self.folder, "tries")
        tries.write_text(f"{tries.read_text() if tries.exists() else ''}.")
        if len(tries.read_text()) <= self.times:
            message = f"refused to let {self.password} in"
            raise ValueError(message)
        output_path.touch()


class WithDefault(AtomicTaskWithMetadata):
    """Opens with tulips-and-onions."""

    folder = luigi.Parameter()
    password = luigi.Parameter(default="tulips-and-onions", visibility=ParameterVisibility.HIDDEN)

    def output(self):
        return LocalFileTarget(f"{self.folder}/default.txt")

    def run(self, output_path):
        output_path.touch()


class Killed(Task):
    folder = luigi.Parameter()

    def output(self):
        return LocalFileTarget(f"{self.folder}/killed.txt")

    def run(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Interrupted(Killed):
    def run(self):
        raise KeyboardInterrupt


class ReadsFailing(AtomicTaskWithMetadata):
    """Yields what fails, so that it never goes on."""

    folder = luigi.Parameter()

    def output(self):
        return LocalFileTarget(f"{self.folder}/reads.txt")

    def run(self, output_path):
        yield Failing(folder=self.folder, times=9)
        output_path.touch()


class MakesBoth(AtomicTaskWithMetadata):
    """Makes, beside its own output, that of the task which comes after it, as another run might."""

    folder = luigi.Parameter()

    def output(self):
        return LocalFileTarget(f"{self.folder}/first.txt")

    def run(self, output_path):
        with LocalFileTarget(f"{self.folder}/second.txt").open("w") as stream:
            stream.write("made")
        output_path.touch()


class MadeMeanwhile(AtomicTaskWithMetadata):
    folder = luigi.Parameter()

    def requires(self):
        return MakesBoth(folder=self.folder)

    def output(self):
        return LocalFileTarget(f"{self.folder}/second.txt")

    def run(self, output_path):
        output_path.write_text("made again")


class Plain(luigi.Task):
    folder = luigi.Parameter()

    def output(self):
        return luigi.LocalTarget(f"{self.folder}/plain.txt")

    def run(self):
        with self.output().open("w") as stream:
            stream.write("four")


class ReadsPlain(luigi.Task):
    folder = luigi.Parameter()

    def requires(self):
        return Plain(folder=self.folder)

    def output(self):
        return [luigi.LocalTarget(f"{self.folder}/reads-plain.txt"), MockTarget(f"{self.folder}/mock")]

    def run(self):
        for target in self.output():
            with target.open("w") as stream:
                stream.write("done")


class InS3(AtomicTaskWithMetadata):
    bucket = luigi.Parameter()

    def requires(self):
        return External(f"s3://{self.bucket}/raw/numbers.txt")

    def output(self) -> dict[str, Any]:
        return {
            "object": S3ObjectTarget(self.bucket, "made/total.txt"),
            "prefix": S3PrefixTarget(self.bucket, "made/parts/"),
        }

    def run(self, input_path, output_path):
        output_path["object"].write_text(input_path.read_text())
        for name in ("a", "b"):
            (output_path["prefix"] / name).write_text(name)


def a_company(folder):
    """Give a task of another module, whose classes do not get in the way of those here that are named as they are."""
    return Company(folder=folder)
