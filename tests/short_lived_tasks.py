"""Tasks whose outputs are values, effects, or short-lived; they tell what they did by lines in files of `folder`.

A module of its own, so that the processes of a pool can import it.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import luigi
from executor_tasks import look_up, note, notes

from superluigi import (
    AtomicTaskWithMetadata,
    External,
    LocalFileTarget,
    LocalFolderTarget,
    MemoryTarget,
    NoTarget,
    Task,
    TaskWithCleanup,
    TaskWithMetadata,
    run_task,
)


class InFolder(AtomicTaskWithMetadata):
    folder = luigi.Parameter()

    def tell(self, text: object = "") -> None:
        note(self.folder, "ran", f"{type(self).__name__}{text}")

    def file(self, name: str) -> LocalFileTarget:
        return LocalFileTarget(Path(self.folder, name))


class Numbers(InFolder):
    """A value."""

    upto = luigi.IntParameter(default=3)

    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self, output_path: MemoryTarget) -> None:
        self.tell(self.upto)
        output_path.set(list(range(self.upto)))


class Summed(InFolder):
    """A value of values, and a file."""

    def requires(self) -> Any:
        return {"few": Numbers(folder=self.folder), "more": [Numbers(folder=self.folder, upto=5)]}

    def output(self) -> Any:
        return {"sum": MemoryTarget(), "text": self.file("sum.txt")}

    def run(self, input_path: Any, output_path: Any) -> None:
        self.tell()
        total = sum(input_path["few"].get()) + sum(input_path["more"][0].get())
        output_path["sum"].set(total)
        output_path["text"].write_text(str(total))


class Written(InFolder):
    """A file of a value."""

    def requires(self) -> Summed:
        return Summed(folder=self.folder)

    def output(self) -> LocalFileTarget:
        return self.file("written.txt")

    def run(self, input_path: Any, output_path: Path) -> None:
        self.tell()
        output_path.write_text(f"{input_path['sum'].get()} {input_path['text'].read_text()}")


class Grouped(luigi.WrapperTask):
    """A group that gives as its own what it groups."""

    folder = luigi.Parameter()

    def requires(self) -> Any:
        return [Numbers(folder=self.folder, upto=2), Numbers(folder=self.folder, upto=4)]

    def output(self) -> Any:
        return [required.output() for required in self.requires()]


class OfAGroup(InFolder):
    def requires(self) -> Any:
        return Grouped(folder=self.folder)

    def output(self) -> LocalFileTarget:
        return self.file("of-a-group.txt")

    def run(self, input_path: Any, output_path: Path) -> None:
        output_path.write_text(str([value.get() for value in input_path]))


class Yielding(InFolder):
    """Finds out what it needs while it runs."""

    def output(self) -> LocalFileTarget:
        return self.file("yielded.txt")

    def run(self, output_path: Path) -> Iterator[Any]:
        few = yield Numbers(folder=self.folder)
        more = yield {"more": Numbers(folder=self.folder, upto=len(few.get()) + 1)}
        output_path.write_text(str(more["more"].get()))


class SetThenFailing(InFolder):
    """Sets its value, and fails the first time."""

    retry_count = 3

    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self, output_path: MemoryTarget) -> None:
        self.tell()
        output_path.set(len(notes(Path(self.folder), "ran")))
        if len(notes(Path(self.folder), "ran")) == 1:
            look_up("price")


class AfterAFailure(InFolder):
    def requires(self) -> SetThenFailing:
        return SetThenFailing(folder=self.folder)

    def output(self) -> LocalFileTarget:
        return self.file("after.txt")

    def run(self, input_path: MemoryTarget, output_path: Path) -> None:
        output_path.write_text(str(input_path.get()))


class WithoutPaths(Task):
    """Sets its value by its own `output()`, as tasks without private paths do."""

    folder = luigi.Parameter()

    def requires(self) -> Numbers:
        return Numbers(folder=self.folder)

    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self) -> None:
        self.output().set(sum(self.input().get()))


class PlainReader(luigi.Task):
    """A plain task of Luigi that reads values."""

    folder = luigi.Parameter()

    def requires(self) -> list[luigi.Task]:
        return [WithoutPaths(folder=self.folder), PlainSetter(folder=self.folder)]

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder, "plain.txt")))

    def run(self) -> None:
        ours, plain = self.input()
        with self.output().open("w") as stream:
            stream.write(f"{ours.get()} {plain.get()}")


class PlainSetter(luigi.Task):
    """A plain task of Luigi that sets a value under a name."""

    folder = luigi.Parameter()

    def output(self) -> MemoryTarget:
        return MemoryTarget("plain")

    def run(self) -> None:
        self.output().set("as well")


class UnnamedPlain(luigi.Task):
    kind = luigi.Parameter()

    def output(self) -> Any:
        return {"memory": MemoryTarget, "none": NoTarget}[self.kind]()

    def run(self) -> None:
        self.output().set(1)


class Silent(InFolder):
    """Forgets to set its value."""

    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self) -> None:
        self.tell()


class SetTwice(Silent):
    def run(self, output_path: MemoryTarget) -> None:
        output_path.set(1)
        output_path.set(2)


class SetsItsInput(Silent):
    def requires(self) -> Numbers:
        return Numbers(folder=self.folder)

    def run(self, input_path: MemoryTarget, output_path: MemoryTarget) -> None:
        output_path.set(1)
        input_path.set(2)


class Locked(Silent):
    """Its value cannot leave the process."""

    def output(self) -> Any:
        return [MemoryTarget(), self.file("beside.txt")]

    def run(self, output_path: Any) -> None:
        output_path[0].set(threading.Lock())
        output_path[1].write_text("beside")


class InThreads(Silent):
    """Reads and sets in threads of its own, which know nothing of the run."""

    def requires(self) -> Numbers:
        return Numbers(folder=self.folder)

    def run(self, input_path: MemoryTarget, output_path: MemoryTarget) -> None:
        with ThreadPoolExecutor(1) as beside:
            beside.submit(lambda: output_path.set(sum(input_path.get()))).result()


class Inner(InFolder):
    """Runs another task while it runs."""

    def requires(self) -> Numbers:
        return Numbers(folder=self.folder)

    def output(self) -> LocalFileTarget:
        return self.file("inner.txt")

    def run(self, input_path: MemoryTarget, output_path: Path) -> None:
        inner = run_task(Numbers(folder=self.folder))
        more = run_task(Numbers(folder=self.folder, upto=4))
        output_path.write_text(f"{input_path.get()} {inner.get()} {more.get()}")


class Travelling:
    """A value that notes in which processes it was packed and unpacked."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Any]:
        note(self.folder, "packed", os.getpid())
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        note(self.folder, "unpacked", os.getpid())


class Departing(InFolder):
    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self, output_path: MemoryTarget) -> None:
        note(self.folder, "made-in", os.getpid())
        output_path.set(Travelling(self.folder))


class Arriving(InFolder):
    number = luigi.IntParameter(default=0)

    def requires(self) -> Departing:
        return Departing(folder=self.folder)

    def output(self) -> LocalFileTarget:
        return self.file(f"arrived{self.number}.txt")

    def run(self, input_path: MemoryTarget, output_path: Path) -> None:
        output_path.write_text(type(input_path.get()).__name__)


class Effect(InFolder):
    """Leaves nothing."""

    def requires(self) -> Numbers:
        return Numbers(folder=self.folder)

    def output(self) -> NoTarget:
        return NoTarget()

    def run(self, input_path: MemoryTarget) -> None:
        self.tell(sum(input_path.get()))


class AfterTheEffect(InFolder):
    def requires(self) -> Any:
        return [Effect(folder=self.folder), External(str(Path(self.folder, "raw.txt")))]

    def output(self) -> LocalFileTarget:
        return self.file("after-the-effect.txt")

    def run(self, input_path: Any, output_path: Path) -> None:
        self.tell()
        output_path.write_text(input_path[1].read_text())


# Short-lived


class Part(TaskWithCleanup, InFolder):
    """A file that goes when nobody needs it any more."""

    name = luigi.Parameter(default="part")
    below = luigi.IntParameter(default=0)

    def requires(self) -> Any:
        return self.clone(below=self.below - 1) if self.below else None

    def output(self) -> Any:
        return self.file(f"{self.name}{self.below}.bin")

    def run(self, input_path: Path | None, output_path: Path) -> None:
        self.tell(self.below)
        output_path.write_text(f"{self.below}" if input_path is None else f"{input_path.read_text()}{self.below}")


class Parts(Part):
    """A folder that does."""

    def output(self) -> Any:
        return LocalFolderTarget(Path(self.folder, self.name), metadata_inside_folder=True)

    def run(self, output_path: Path) -> None:
        self.tell()
        (output_path / "a.txt").write_text("a")


class Whole(InFolder):
    """Needs a chain of parts."""

    name = luigi.Parameter(default="whole")
    below = luigi.IntParameter(default=2)
    fails = luigi.BoolParameter(significant=False)

    def requires(self) -> Any:
        return Part(folder=self.folder, below=self.below)

    def output(self) -> LocalFileTarget:
        return self.file(f"{self.name}.txt")

    def run(self, input_path: Path, output_path: Path) -> None:
        self.tell(f" {self.name}")
        if self.name in notes(Path(self.folder), "failing"):
            look_up(self.name)
        output_path.write_text(input_path.read_text())


class Both(InFolder):
    """Needs two that need the same part."""

    def requires(self) -> Any:
        return [Whole(folder=self.folder, name="left"), Whole(folder=self.folder, name="right")]

    def output(self) -> LocalFileTarget:
        return self.file("both.txt")

    def run(self, input_path: list[Path], output_path: Path) -> None:
        output_path.write_text("".join(path.read_text() for path in input_path))


class AWholeGroup(luigi.WrapperTask):
    """A group in which a part and what needs it stand side by side."""

    folder = luigi.Parameter()

    def requires(self) -> Any:
        return [Part(folder=self.folder, below=2), Whole(folder=self.folder)]


class PartsOfAGroup(luigi.WrapperTask):
    folder = luigi.Parameter()

    def requires(self) -> Any:
        return [Part(folder=self.folder, name="one"), Part(folder=self.folder, name="two")]

    def output(self) -> Any:
        return [required.output() for required in self.requires()]


class ThroughAGroup(InFolder):
    """Reads parts by way of a group."""

    def requires(self) -> Any:
        return PartsOfAGroup(folder=self.folder)

    def output(self) -> LocalFileTarget:
        return self.file("through.txt")

    def run(self, input_path: list[Path], output_path: Path) -> None:
        output_path.write_text("".join(path.read_text() for path in input_path))


class YieldingAPart(InFolder):
    def output(self) -> LocalFileTarget:
        return self.file("yielding.txt")

    def run(self, output_path: Path) -> Iterator[Any]:
        part = yield Part(folder=self.folder)
        output_path.write_text(part.read_text())


class Obstinate(Part):
    """Cannot be cleaned up."""

    name = luigi.Parameter(default="obstinate")

    def cleanup(self) -> None:
        message = "the share is read-only"
        raise OSError(message)


class NeedingOddParts(InFolder):
    def requires(self) -> Any:
        return [
            Obstinate(folder=self.folder),
            Parts(folder=self.folder, name="parts"),
            PlainPart(folder=self.folder),
            ValuePart(folder=self.folder),
            OwnRecord(folder=self.folder),
        ]

    def output(self) -> LocalFileTarget:
        return self.file("odd.txt")

    def run(self, output_path: Path) -> None:
        output_path.write_text("done")


class PlainPart(TaskWithCleanup, luigi.Task):
    """A plain task of Luigi that is short-lived."""

    folder = luigi.Parameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.folder, "plain-part.txt")))

    def run(self) -> None:
        with self.output().open("w") as stream:
            stream.write("plain")


class ValuePart(TaskWithCleanup, InFolder):
    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self, output_path: MemoryTarget) -> None:
        output_path.set(1)

    def cleanup(self) -> None:
        super().cleanup()
        self.tell(f" is there: {self.output().exists()}")


class OwnRecord(TaskWithCleanup, TaskWithMetadata):
    folder = luigi.Parameter()

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(Path(self.folder, "own-record.txt"))

    def run(self, metadata: dict[str, Any]) -> None:
        metadata["rows"] = 3
        with self.output().tmp_write_path() as path:
            path.write_text("rows")


# What was found to go wrong


class OfIterators(InFolder):
    """Its outputs stand in iterators, at several levels."""

    def output(self) -> Any:
        return {"first": (self.file(f"{name}.txt") for name in "ab"), "second": [map(self.file, ["c.txt"])]}

    def run(self, output_path: Any) -> None:
        for path in [*output_path["first"], *output_path["second"][0]]:
            path.write_text("made")


class BaseOfTwo(InFolder):
    def output(self) -> Any:
        return [MemoryTarget()]

    def run(self, output_path: Any) -> None:
        for number, target in enumerate(output_path):
            target.set(number)


class Extended(BaseOfTwo):
    def output(self) -> Any:
        return [MemoryTarget(), *super().output()]


class SetOfTwo(BaseOfTwo):
    def output(self) -> Any:
        return {MemoryTarget(), MemoryTarget()}


class StaticallyPlaced(InFolder):
    place = ""

    @staticmethod
    def output() -> Any:
        return LocalFileTarget(StaticallyPlaced.place)

    def run(self, output_path: Path) -> None:
        output_path.write_text("static")


class HandedOn(Task):
    """Gives as its own what it requires, after a look at it."""

    folder = luigi.Parameter()

    def requires(self) -> Any:
        return Part(folder=self.folder, name="handed-on")

    def output(self) -> Any:
        return self.requires().output()

    def complete(self) -> bool:
        return bool(notes(Path(self.folder), "looked")) and super().complete()

    def run(self) -> None:
        note(self.folder, "looked", self.input().path)


class ReadsWhatIsHandedOn(InFolder):
    def requires(self) -> Any:
        return HandedOn(folder=self.folder)

    def output(self) -> LocalFileTarget:
        return self.file("handed-on.txt")

    def run(self, input_path: Path, output_path: Path) -> None:
        output_path.write_text(input_path.read_text())


class Link(TaskWithCleanup, InFolder):
    """A value that is made from the one before, and goes."""

    number = luigi.IntParameter()

    def requires(self) -> Any:
        return self.clone(number=self.number - 1) if self.number else None

    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self, input_path: Any, output_path: MemoryTarget) -> None:
        output_path.set(0 if input_path is None else input_path.get() + 1)

    def cleanup(self) -> None:
        super().cleanup()
        self.tell(f" gone {self.number}")


class ReadsTwoParts(InFolder):
    """Finds one part gone when it reads: another run has cleaned it up since this one was planned."""

    def requires(self) -> Any:
        return [Part(folder=self.folder, name="there"), Before(folder=self.folder)]

    def output(self) -> LocalFileTarget:
        return self.file("two.txt")

    def run(self, input_path: list[Path], output_path: Path) -> None:
        output_path.write_text(input_path[0].read_text())


class Before(InFolder):
    """Does what another run does meanwhile."""

    def output(self) -> LocalFileTarget:
        return self.file("before.txt")

    def run(self, output_path: Path) -> None:
        Part(folder=self.folder, name="there").cleanup()
        output_path.write_text("cleaned up")


class WritesItself(TaskWithMetadata):
    """Writes by its own target, while it has lost its lease."""

    folder = luigi.Parameter()
    lock = ""

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(Path(self.folder, "itself.txt"))

    def run(self) -> None:
        Path(self.lock).unlink()
        with self.output().tmp_write_path() as path:
            path.write_text("after the lease was lost")
