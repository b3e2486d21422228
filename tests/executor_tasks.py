"""Tasks for pools of whatever kind: they find each other, and tell what they did, by files in `folder`.

A module of its own, so that the processes of a pool can import it. What waits for another task has a deadline.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luigi

from superluigi import AtomicTaskWithMetadata, LocalFileTarget, S3ObjectTarget

DEADLINE_S = 20


class ColumnError(Exception):
    """An exception of a user's own, which pickles."""


class UnpicklableError(Exception):
    """An exception that cannot leave its process."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


def note(folder: str, name: str, text: object) -> None:
    """Add a line to a file, from whatever process."""
    with open(Path(folder, name), "a", encoding="utf-8") as stream:
        stream.write(f"{text}\n")


def notes(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def wait_for(condition: Any) -> None:
    """Wait until a condition holds; the pause only spares the processor."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            message = "nothing came in time"
            raise TimeoutError(message)
        time.sleep(0.005)


class Piece(AtomicTaskWithMetadata):
    """Writes its name."""

    folder = luigi.Parameter()
    name = luigi.Parameter(default="piece")

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(Path(self.folder, f"{self.name}.txt"))

    def run(self, output_path: Path) -> None:
        output_path.write_text(self.name)


class Whole(Piece):
    """Joins three pieces."""

    name = luigi.Parameter(default="whole")

    def requires(self) -> list[Piece]:
        return [Piece(folder=self.folder, name=name) for name in "abc"]

    def run(self, input_path: list[Path], output_path: Path, metadata: dict[str, Any]) -> None:
        metadata["pid"] = os.getpid()
        output_path.write_text("".join(path.read_text() for path in input_path))


class Meeting(Piece):
    """Notes how many are at work when it begins, and stays until `guests` have begun in all."""

    guests = luigi.IntParameter()

    def run(self, output_path: Path) -> None:
        busy = Path(self.folder, "busy")
        busy.mkdir(exist_ok=True)
        mine = busy / self.name
        mine.touch()
        note(self.folder, "at-work", len(list(busy.iterdir())))
        wait_for(lambda: len(notes(Path(self.folder), "at-work")) >= self.guests)
        mine.unlink()
        output_path.write_text(self.name)


class Yielding(Piece):
    """Yields one piece, then a nesting of them, and joins what it was sent."""

    name = luigi.Parameter(default="yielding")

    def run(self, output_path: Path) -> Iterator[Any]:
        one = yield Piece(folder=self.folder, name="one")
        nested = yield {"x": Piece(folder=self.folder, name="two"), "y": [Piece(folder=self.folder, name="three")]}
        assert not one.is_relative_to(self.folder)  # a private path
        output_path.write_text(f"{one.read_text()} {nested['x'].read_text()} {nested['y'][0].read_text()}")


def look_up(column: str) -> None:
    raise ColumnError(column)


class Failing(Piece):
    name = luigi.Parameter(default="failing")

    def run(self, output_path: Path) -> None:
        output_path.write_text("half")
        look_up("price")


class FailingOddly(Piece):
    name = luigi.Parameter(default="oddly")

    def run(self, output_path: Path) -> None:
        first, second = "this", "that"
        raise UnpicklableError(first, second)


class FailingOnce(Piece):
    name = luigi.Parameter(default="once")
    retry_count = 3

    def run(self, output_path: Path) -> None:
        note(self.folder, "tries", os.getpid())
        if len(notes(Path(self.folder), "tries")) == 1:
            look_up("price")
        output_path.write_text("the second time")


class Reporting(Piece):
    """Tells the scheduler how it goes."""

    name = luigi.Parameter(default="reporting")
    resources = {"memory": 3}  # noqa: RUF012  (as users of Luigi write it)

    def run(self, output_path: Path) -> None:
        self.set_status_message("half of it")
        self.set_progress_percentage(50)
        self.decrease_running_resources({"memory": 2})
        output_path.write_text("told")


class Setting(Piece):
    """Writes what the settings of the call say."""

    name = luigi.Parameter(default="configured")

    def run(self, output_path: Path) -> None:
        output_path.write_text(luigi.configuration.get_config().get("colours", "wall", "none"))


class Remote(AtomicTaskWithMetadata):
    """Writes an object to S3; one that has a number requires the one before and adds a letter."""

    bucket = luigi.Parameter()
    endpoint_url = luigi.Parameter(significant=False)
    number = luigi.IntParameter(default=0)
    part = luigi.IntParameter(default=0)

    def requires(self) -> Any:
        return self.clone(number=self.number - 1) if self.number else None

    def output(self) -> S3ObjectTarget:
        options = {"endpoint_url": self.endpoint_url, "region_name": "us-east-1"}
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        return S3ObjectTarget(
            self.bucket, f"{'objects' if not self.part else self.part}/{self.number}.txt", **options, **keys
        )

    def run(self, input_path: Path | None, output_path: Path, metadata: dict[str, Any]) -> None:
        metadata["home"] = os.environ.get("HOME", "")
        before = "" if input_path is None else input_path.read_text()
        output_path.write_text(before + str(self.number))


class Waiting(Piece):
    """Awaits until as many as `guests` wait at once, however few threads there are."""

    name = luigi.Parameter(default="waiting")
    guests = luigi.IntParameter(default=1)

    async def run(self, output_path: Path) -> None:
        _waiting.add(self.name)
        _peak.append(len(_waiting))
        note(self.folder, "began", self.name)
        async with asyncio.timeout(DEADLINE_S) if hasattr(asyncio, "timeout") else contextlib.nullcontext():
            while max(_peak) < self.guests:  # noqa: ASYNC110  (many loops may come by here; an event has one)
                await asyncio.sleep(0.005)
        _waiting.remove(self.name)
        note(self.folder, "loops", id(asyncio.get_running_loop()))
        output_path.write_text(self.name)  # noqa: ASYNC240  (a few bytes)


_waiting: set[str] = set()
_peak: list[int] = []


def peak_of_waiting() -> int:
    return max(_peak)


def forget_waiting() -> None:
    _waiting.clear()
    _peak.clear()


class Killed(Piece):
    """Kills its own process; once, if `times` says so."""

    name = luigi.Parameter(default="killed")
    times = luigi.IntParameter(default=1_000)

    def run(self, output_path: Path) -> None:
        note(self.folder, "deaths", os.getpid())
        if len(notes(Path(self.folder), "deaths")) <= self.times:
            output_path.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        output_path.write_text("the next time")


class KilledInCompany(Killed):
    """Kills its own process once an innocent is in the pool with it."""

    name = luigi.Parameter(default="killed-in-company")

    def run(self, output_path: Path) -> None:
        if not notes(Path(self.folder), "deaths"):
            wait_for(Path(self.folder, "innocent-began").exists)
        super().run(output_path)


class Innocent(Piece):
    """Is at work when another task kills the pool, and needs nothing but to be run again."""

    name = luigi.Parameter(default="innocent")

    def run(self, output_path: Path) -> None:
        Path(self.folder, "innocent-began").touch()
        wait_for(lambda: notes(Path(self.folder), "deaths"))
        output_path.write_text(self.name)


class Bystander(Innocent):
    """Is at work when another task kills the pool, and does not end before the pool ends it."""

    name = luigi.Parameter(default="bystander")

    def run(self, output_path: Path) -> None:
        note(self.folder, "bystanders", os.getpid())
        Path(self.folder, "innocent-began").touch()
        wait_for(lambda: len(notes(Path(self.folder), "bystanders")) > 1)
        output_path.write_text(self.name)


class Company(Piece):
    """Requires one task that kills its process, once, and one that is lost with it."""

    name = luigi.Parameter(default="company")

    def requires(self) -> list[Piece]:
        return [KilledInCompany(folder=self.folder, times=1), Bystander(folder=self.folder)]


class Pair(Piece):
    """Requires one task that kills its process, and one that does not."""

    name = luigi.Parameter(default="pair")
    times = luigi.IntParameter(default=1_000)

    def requires(self) -> list[Piece]:
        return [KilledInCompany(folder=self.folder, times=self.times), Innocent(folder=self.folder)]


class Lasting(Piece):
    """Says that it began, and lasts until it is told to end."""

    name = luigi.Parameter(default="lasting")

    def run(self, output_path: Path) -> None:
        output_path.write_text("half")
        note(self.folder, "pids", os.getpid())
        note(self.folder, "began", self.name)
        wait_for(Path(self.folder, "end").exists)
        output_path.write_text(self.name)


def parse(text: str) -> int:
    """A helper of the user's, in which the error is."""
    return int(text)  # the line that fails


class Speaking(AtomicTaskWithMetadata):
    """Prints, warns and logs, then fails, unless it is told otherwise."""

    folder = luigi.Parameter()
    fails = luigi.BoolParameter(default=True)

    def requires(self) -> Any:
        return {"numbers": Piece(folder=self.folder, name="numbers")}

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"{self.folder}/spoken.txt")

    def run(self, input_path: dict[str, Path], output_path: Path) -> None:
        print("printed to stdout")
        print("printed to stderr", file=sys.stderr)
        logging.getLogger("of.the.user").warning("logged")
        thread = threading.Thread(target=print, args=("printed by a thread",))
        thread.start()
        thread.join()
        output_path.write_text("spoken")
        if self.fails:
            parse(input_path["numbers"].read_text())
