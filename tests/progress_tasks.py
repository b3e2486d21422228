"""Tasks that print, log and transfer, for processes of pools too; and, as a program, runs of them on a screen."""

import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import luigi
from executor_tasks import Piece, wait_for

from superluigi import AtomicTaskWithMetadata, MemoryTarget, S3ObjectTarget, S3PrefixTarget, Task, run_task

SIZE_BYTES = 10_000_000


class Said(Task):
    """Prints, and logs, a line each."""

    number = luigi.IntParameter()

    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self) -> None:
        print("printed", self.number)
        logging.getLogger("of.a.user").warning("logged %d", self.number)
        print("in ", end="")
        print("pieces", self.number)
        self.output().set(self.number)


class AllSaid(Task):
    count = luigi.IntParameter(default=5)

    def requires(self) -> list[Said]:
        return [Said(number=number) for number in range(self.count)]

    def output(self) -> MemoryTarget:
        return MemoryTarget()

    def run(self) -> None:
        self.output().set(self.count)


class Outer(AllSaid):
    """Has a run within its run."""

    def run(self) -> None:
        run_task(AllSaid(count=3), progress=True)
        super().run()


class Stopping(AllSaid):
    """Opens a debugger."""

    def run(self) -> None:
        answer = 41 + 1
        breakpoint()  # noqa: T100
        print("after", answer)
        super().run()


class Endless(AllSaid):
    """Waits for an interrupt."""

    def run(self) -> None:
        print("waiting")
        wait_for(lambda: False)


class Sent(AtomicTaskWithMetadata):
    """Uploads an object."""

    bucket = luigi.Parameter()
    size_bytes = luigi.IntParameter(default=SIZE_BYTES)

    def output(self) -> Any:
        return S3ObjectTarget(self.bucket, "data/sent.bin")

    def run(self, output_path: Path) -> None:
        output_path.write_bytes(bytes(self.size_bytes))


class SentInFiles(Sent):
    """Uploads many objects."""

    def output(self) -> Any:
        return S3PrefixTarget(self.bucket, "data/many")

    def run(self, output_path: Path) -> None:
        for folder in ("a/x", "a/y"):
            (output_path / folder).mkdir(parents=True)
            for number in range(5):
                (output_path / folder / f"{number}.bin").write_bytes(bytes(self.size_bytes // 10))


class Fetching(Piece):
    """Downloads the object."""

    bucket = luigi.Parameter()

    def requires(self) -> Any:
        return Sent(bucket=self.bucket)

    def run(self, input_path: Path, output_path: Path) -> None:
        output_path.write_text(str(input_path.stat().st_size))


class YieldingOneOfTwo(Piece):
    """Yields one that is there, and one that is not."""

    name = luigi.Parameter(default="yielding")

    def run(self, output_path: Path) -> Iterator[Any]:
        yield Piece(folder=self.folder, name="there")
        yield Piece(folder=self.folder, name="missing")
        output_path.write_text("done")


def ways() -> dict[str, Any]:
    return {
        "here": {},
        "forked": {"num_workers": 2},
        "threads": {"executor": ThreadPoolExecutor(2)},
        "processes": {"executor": ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))},
    }


if __name__ == "__main__":
    import progress_tasks

    logging.getLogger("of.a.user").addHandler(logging.StreamHandler())
    chosen = ways()
    task = getattr(progress_tasks, sys.argv[1])()
    for way in sys.argv[2:]:
        try:
            run_task(task, **chosen[way])
        except KeyboardInterrupt:
            print("interrupted")
    print("over", os.environ.get("SUPERLUIGI_PROGRESS", ""))
