"""What is on the screen while a run shows bars, and after it: in a real terminal, and where there is none."""

import fcntl
import io
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import progress_tasks
import pyte
import pytest
import tqdm
from documents import ROOT
from executor_tasks import ColumnError, Failing
from progress_tasks import AllSaid, Sent

from superluigi import TaskFailedError, run_task
from superluigi.running import bars, screen

COLUMNS, ROWS = 100, 120
WAYS = ("here", "forked", "threads", "processes")


class Terminal:
    """A terminal with a program on it, looked at as it goes on."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self._leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", progress_tasks.__file__, *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        os.close(follower)
        self.was_seen: list[list[str]] = []  # its lines after each piece of output

    @property
    def lines(self) -> list[str]:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")

    def write(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def read(self, until: Callable[[list[str]], bool] = lambda _: False) -> list[str]:
        """Give what is on the screen once that is so, be it for a moment, or the program is over."""
        while not until(self.lines):
            count = len(self.was_seen)
            try:
                data = os.read(self._leader, 1 << 16)
            except OSError:  # so Linux says that nobody writes there any more
                break
            if not data:
                break
            for piece in re.split(rb"(?=\r)", data):  # each bar, and what is written over one
                self._stream.feed(piece)
                self.was_seen.append(self.lines)
            if (found := next(filter(until, self.was_seen[count:]), None)) is not None:
                return found
        return self.lines

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)


@pytest.fixture
def terminal(local_data_dir: Path) -> Iterator[Callable[..., Terminal]]:
    opened = []

    def opens(*arguments: str, **environment: str) -> Terminal:
        opened.append(Terminal(*arguments, **environment))
        return opened[-1]

    yield opens
    for one in opened:
        one.close()


def with_a_bar(lines: list[str]) -> list[str]:
    return [line for line in lines if "Tasks:" in line]


def test_what_tasks_print_and_log_stands_above_the_bar_in_whole_lines(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("AllSaid", *WAYS)

    lines = shown.read()

    said = {f"{text} {number}" for text in ("printed", "logged", "in pieces") for number in range(5)}
    assert shown.process.wait() == 0, lines
    assert Counter(line for line in lines if line in said) == dict.fromkeys(said, len(WAYS))
    assert with_a_bar(lines) == []
    assert lines[-1].startswith("over")
    bars = [with_a_bar(seen) for seen in shown.was_seen]
    assert {len(found) for found in bars} == {0, 1}
    assert all(found in ([], seen[-1:]) for found, seen in zip(bars, shown.was_seen, strict=True))
    assert all(line.startswith("Tasks:") for found in bars for line in found)
    assert any("/6 done, " in line for found in bars for line in found)


def test_a_run_within_a_run_shows_no_bars_of_its_own(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("Outer", "here", "forked")

    lines = shown.read()

    seen = {line for found in shown.was_seen for line in with_a_bar(found)}
    assert any("/6 done" in line for line in seen)
    assert not any("/4 done" in line for line in seen)
    assert Counter(lines)["printed 2"] == 4


def test_a_debugger_in_a_task_has_the_screen_for_itself(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("Stopping", "here")

    shown.read(lambda lines: lines[-1].startswith("(Pdb)"))
    shown.write("answer\n")
    asked = shown.read(lambda lines: lines[-1] == "(Pdb)" and "42" in lines)
    shown.write("c\n")
    lines = shown.read()

    assert asked[-3:] == ["(Pdb) answer", "42", "(Pdb)"]
    assert with_a_bar(asked) == []
    assert "after 42" in lines
    assert with_a_bar(lines) == []


def test_a_bar_that_comes_back_below_printed_lines_leaves_room_for_what_a_terminal_shows_of_an_interrupt() -> None:
    written = io.StringIO()
    show = bars._bar_classes()[1].status_printer(written)

    for text in ("x" * 98, "", "y" * 98):
        show(text)

    assert written.getvalue().rpartition("\r")[2] == "y" * 98


@pytest.mark.parametrize("way", ["here", "forked"])
def test_an_interrupt_leaves_the_screen_clean(way: str, terminal: Callable[..., Terminal]) -> None:
    shown = terminal("Endless", way)

    shown.read(lambda lines: "waiting" in lines and bool(with_a_bar(lines)))
    shown.write("\x03")  # the terminal shows it
    shown.read(lambda lines: any("^C" in line for line in lines))
    shown.process.send_signal(signal.SIGINT)
    lines = shown.read()

    assert lines[-2:] == ["interrupted", "over"]
    assert with_a_bar(lines) == []


def test_the_setting_turns_them_off_on_a_terminal(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("AllSaid", "here", SUPERLUIGI_PROGRESS="false")

    lines = shown.read()

    assert lines[-1] == "over false"
    assert not any(map(with_a_bar, shown.was_seen))


# Where there is no terminal


def test_where_there_is_no_terminal_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    run_task(AllSaid())

    assert "Tasks:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("progress", "config"), [(True, None), (None, {"superluigi": {"progress": True}})], ids=["argument", "setting"]
)
def test_they_are_there_if_asked_for(progress: bool | None, config: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_task(AllSaid(), progress=progress, config=config)

    captured = capsys.readouterr()
    assert "/6 done" in captured.err
    assert captured.err.rpartition("\r")[2] == ""  # removed
    assert "printed 4\nin pieces 4\n" in captured.out


def test_a_big_transfer_has_a_bar(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_task(Sent(bucket=bucket), progress=True)

    shown = capsys.readouterr().err
    assert "Upload ..." in shown
    assert "data/sent.bin" in shown
    assert "/10.0M" in shown


def test_the_bar_counts_what_has_failed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(task: Any) -> None:
        message = "no"
        raise ValueError(message)

    monkeypatch.setattr(progress_tasks.Said, "run", fails)
    monkeypatch.setattr("superluigi.running.bars._DRAWN_S", 0.0)

    with pytest.raises(TaskFailedError):
        run_task(AllSaid(), progress=True)

    assert "0/6 done, 0 running, 5 failed, 1 remaining" in capsys.readouterr().err


# Afterwards


def test_when_they_are_gone_all_is_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: vars(getattr(sys, name)).copy() for name in ("stdout", "stderr")}
    lock = getattr(tqdm.tqdm, "_lock", None)

    run_task(AllSaid(), progress=True)
    with pytest.raises(ColumnError):
        run_task(Failing(folder=str(tmp_path)), progress=True, raise_exception=True)

    assert {name: vars(getattr(sys, name)) for name in ("stdout", "stderr")} == before
    assert getattr(tqdm.tqdm, "_lock", None) is lock
    assert screen.id_in_use() is None
    assert [thread.name for thread in threading.enumerate() if thread.name in ("superluigi-bars", "tqdm_monitor")] == []
    assert capsys.readouterr().err.rpartition("\r")[2] == ""


# What is written meanwhile


class Paper(io.StringIO):
    """A stream of a test's own, on a screen that nothing else is on."""


def written(text_to_write: Callable[[Any], object]) -> str:
    """What stands on a screen after something was written to it while a bar was there."""
    paper = Paper()
    with screen.shared(paper) as held, tqdm.tqdm(total=2, file=held.file, leave=False, desc="Tasks") as bar:
        bar.update()
        text_to_write(paper)
        bar.refresh()
    shown = pyte.Screen(COLUMNS, 20)
    pyte.Stream(shown).feed(paper.getvalue().replace("\n", "\r\n"))
    return "\n".join(line.rstrip() for line in shown.display).rstrip()


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["one\ntwo\n"], "one\ntwo"),
        (["in ", "pieces", "\n", "more"], "in pieces\nmore"),
        (["25 %\r50 %", "\r75 %", "\r100 %\n"], "100 %"),
        (["windows\r", "\n", "lines\r\n"], "windows\nlines"),
        (["x" * 50] * 400, "\n".join(["x" * COLUMNS] * 19)),
    ],
    ids=["lines", "pieces", "own-bar", "windows", "endless"],
)
def test_lines_are_written_whole(pieces: list[str], expected: str) -> None:
    def write(paper: Any) -> None:
        for piece in pieces:
            assert paper.write(piece) == len(piece)

    assert written(write)[-len(expected) :] == expected


def test_a_bar_of_the_users_own_stands_below() -> None:
    def write(paper: Any) -> None:
        with tqdm.tqdm(total=3, file=paper, desc="mine", mininterval=0) as bar:
            bar.update(3)
            tqdm.tqdm.write("said", file=paper)

    lines = written(write).splitlines()

    assert lines[0] == "said"
    assert lines[1].startswith("mine: 100%")
    assert with_a_bar(lines) == []


def test_a_handler_that_holds_the_stream_writes_above_the_bar() -> None:
    def write(paper: Any) -> None:
        handler = logging.StreamHandler(paper)
        handler.handle(logging.makeLogRecord({"msg": "logged"}))
        handler.handle(logging.makeLogRecord({"msg": "again"}))

    assert written(write) == "logged\nagain"


def test_a_fork_writes_as_if_there_were_no_bars() -> None:
    def write(paper: Any) -> None:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            paper.write("in the child, and no line")
            os.write(writer, paper.getvalue()[-25:].encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 100) == b"in the child, and no line"
        os.close(reader)
        os.close(writer)

    assert written(write) == ""
