"""What tasks print and log is kept, task by task, wherever they run, and disturbs nothing."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import QUICK, Engine, all_engines
from executor_tasks import Speaking

from superluigi import AtomicTaskWithMetadata, LocalFileTarget, Parameter, TaskFailedError, run_task
from superluigi.task_log import MAX_LOG_BYTES, TaskLog

_log = logging.getLogger("of.the.user")


class Saying(AtomicTaskWithMetadata):
    """Does with its streams what its test asks for."""

    name = Parameter(default="said")

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"{self.name}.txt")

    def run(self, output_path: Path) -> None:
        WORDS[self.name]()
        output_path.write_text("said")


WORDS: dict[str, Callable[[], Any]] = {}


def said(data_dir: Path, *words: Callable[[], Any], **options: Any) -> dict[str, list[str]]:
    """Run a task for each of the words; gives the lines of their logs, without the title."""
    WORDS.clear()
    WORDS.update({f"task{number}": word for number, word in enumerate(words)})
    run_task([Saying(name=name) for name in WORDS], **options)
    logs = {name: json.loads(Path(f"{name}.txt.metadata.json").read_text())["log_path"] for name in WORDS}
    assert all(log is None or Path(log).is_relative_to(data_dir) for log in logs.values())
    return {name: Path(log).read_text().splitlines()[1:] if log else [] for name, log in logs.items()}


@all_engines
def test_what_a_task_says_is_kept_wherever_it_runs(engine: Engine, tmp_path: Path, local_data_dir: Path) -> None:
    config = {**QUICK, "superluigi": {"local_data_dir": str(local_data_dir)}}

    with pytest.raises(TaskFailedError) as caught:
        engine.run(Speaking(folder=str(tmp_path)), config=config)

    (failure,) = caught.value.failures
    assert Path(str(failure.log)).is_relative_to(local_data_dir)
    text = Path(str(failure.log)).read_text()
    assert text.startswith("# Speaking(folder=")
    for words in ("printed to stdout", "printed to stderr", "logged", "printed by a thread", "invalid literal for int"):
        assert text.count(words) == 1, words
    assert "executor_tasks.py" in text
    assert "execution.py" not in text  # the frames of the library say nothing to who reads it


def test_what_is_said_is_seen_as_before(local_data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(local_data_dir, lambda: (print("out"), print("err", file=sys.stderr), _log.warning("warned")))

    captured = capsys.readouterr()
    assert captured.out.startswith("out\n")
    assert captured.err.startswith("err\n")


def test_streams_and_handlers_are_as_before_once_no_task_runs(local_data_dir: Path) -> None:
    before = sys.stdout, sys.stderr, list(logging.root.handlers)

    def fail() -> None:
        message = "no"
        raise SystemExit(message)

    with pytest.raises(TaskFailedError):
        said(local_data_dir, lambda: print("one"), fail)

    assert (sys.stdout, sys.stderr, list(logging.root.handlers)) == before


def test_a_task_that_says_nothing_has_no_log(local_data_dir: Path) -> None:
    assert said(local_data_dir, lambda: None) == {"task0": []}
    assert not (local_data_dir / "logs").exists()


def test_tasks_that_run_side_by_side_have_logs_of_their_own(local_data_dir: Path) -> None:
    words = [lambda number=number: print(f"I am {number}") for number in range(8)]

    told = said(local_data_dir, *words, executor="async", num_workers=4)

    assert told == {f"task{number}": [f"I am {number}"] for number in range(8)}


def test_what_a_handler_writes_to_the_terminal_is_kept_once(local_data_dir: Path) -> None:
    def with_a_handler_of_its_own() -> None:
        handler = logging.StreamHandler()  # to sys.stderr as it is while the task runs
        _log.addHandler(handler)
        _log.warning("by my handler")
        _log.removeHandler(handler)

    told = said(local_data_dir, with_a_handler_of_its_own, lambda: _log.error("by any"), lambda: _log.debug("unseen"))

    assert told["task0"] == ["by my handler"]
    assert [line.split(": ")[-1] for line in told["task1"]] == ["by any"]
    assert told["task2"] == []


def test_where_there_is_no_handler_warnings_reach_the_terminal_as_ever(
    local_data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])

    told = said(local_data_dir, lambda: _log.warning("by the last resort"))

    assert told == {"task0": ["by the last resort"]}
    assert "by the last resort\n" in capsys.readouterr().err


def test_a_stream_keeps_its_other_sides(local_data_dir: Path) -> None:
    def look() -> None:
        sys.stdout.writelines(["two ", "parts\n"])
        print(sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.writable())

    told = said(local_data_dir, look)

    assert told == {"task0": ["two parts", f"False {sys.stdout.encoding} True"]}


def test_a_task_may_put_streams_of_its_own_in_their_place(local_data_dir: Path) -> None:
    before = sys.stdout

    def replace() -> None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (as a careless task does)

    try:
        said(local_data_dir, replace)
        sys.stdout.close()
    finally:
        sys.stdout, after = before, sys.stdout

    assert after is not before


def test_of_a_long_log_the_end_is_kept(local_data_dir: Path) -> None:
    def chatter() -> None:
        for number in range(3000):
            print(f"{number:06d} {'x' * 1000}")

    (told,) = said(local_data_dir, chatter).values()

    assert told[-1].startswith("002999 ")
    assert sum(map(len, told)) < MAX_LOG_BYTES
    assert len(told) > 500


def test_the_logs_of_the_oldest_runs_go_when_all_take_too_much(local_data_dir: Path) -> None:
    config = {"superluigi": {"logs_max_bytes": "5000"}}

    for number in range(4):
        said(local_data_dir, lambda: print("x" * 2000), config=config)
        for path in (local_data_dir / "logs").iterdir():
            os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
        Path("task0.txt").unlink()
        assert len(list((local_data_dir / "logs").iterdir())) == min(number + 1, 3)


@pytest.mark.parametrize("obstacle", ["a file in its place", "a folder that is gone"])
def test_a_log_that_cannot_be_written_disturbs_no_task(
    local_data_dir: Path, obstacle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak() -> None:
        print("first")
        if obstacle == "a folder that is gone":
            shutil.rmtree(local_data_dir / "logs")
        print("second")

    if obstacle == "a file in its place":
        local_data_dir.mkdir()
        (local_data_dir / "logs").write_text("")
    WORDS["alone"] = speak

    run_task(Saying(name="alone"))

    assert Path("alone.txt").exists()
    assert capsys.readouterr().out.startswith("first\nsecond\n")


def test_a_task_that_is_tried_again_goes_on_with_its_log(local_data_dir: Path) -> None:
    tries = iter(range(2))

    def fail_once() -> None:
        number = next(tries)
        print(f"try {number}")
        assert number

    class Retried(Saying):
        retry_count = 2

    WORDS["retried"] = fail_once
    run_task(Retried(name="retried"), config={**QUICK, "scheduler": {"retry_delay": 0}})

    (log,) = (local_data_dir / "logs").rglob("*.log")
    assert [line for line in log.read_text().splitlines() if line.startswith("try")] == ["try 0", "try 1"]


def test_a_run_within_a_task_keeps_apart_what_its_tasks_say(local_data_dir: Path) -> None:
    def nest() -> None:
        WORDS["inner"] = lambda: print("inside")
        print("before")
        run_task(Saying(name="inner"))
        print("after")

    told = said(local_data_dir, nest)["task0"]

    log = json.loads(Path("inner.txt.metadata.json").read_text())["log_path"]
    assert "inside" in Path(log).read_text()
    assert (told[0], told[-1]) == ("before", "after")
    assert "inside" not in told


def test_a_thread_that_prints_meanwhile_is_not_disturbed(tmp_path: Path) -> None:
    script = tmp_path / "beside.py"
    script.write_text(
        "import sys, threading\n"
        "import luigi\n"
        "from superluigi import *\n"
        "class Part(AtomicTaskWithMetadata):\n"
        "    n = IntParameter()\n"
        "    def output(self): return LocalFileTarget(f'parts/{self.n}.txt')\n"
        "    def run(self, output_path): output_path.write_text('x')\n"
        "ended = []\n"
        "def beat():\n"
        "    while not ended: print('alive')\n"
        "beside = threading.Thread(target=beat, daemon=True)\n"
        "beside.start()\n"
        "run_task([Part(n=n) for n in range(100)], log_level='CRITICAL')\n"
        "ended.append(1)\n"
        "beside.join()\n"
    )

    done = subprocess.run([sys.executable, script], stdout=subprocess.DEVNULL, timeout=60, check=False)

    assert done.returncode == 0  # Python itself broke down where a stream was gone in the midst of a print


def test_a_task_can_set_up_logging_as_if_nobody_listened(
    local_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    before = logging.root.level

    def set_up() -> None:
        logging.basicConfig(level=logging.INFO, filename="my.log", format="mine: %(message)s")
        _log.info("epoch 1")

    try:
        (told,) = said(local_data_dir, set_up).values()
        assert Path("my.log").read_text() == "mine: epoch 1\n"
        assert [line.split(": ")[-1] for line in told] == ["epoch 1"]
    finally:
        logging.root.setLevel(before)
        for handler in logging.root.handlers:
            handler.close()


def test_many_prints_open_the_log_once(local_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    actual = os.open
    monkeypatch.setattr(os, "open", lambda path, *args, **more: opened.append(str(path)) or actual(path, *args, **more))

    said(local_data_dir, lambda: [print(number) for number in range(1000)])

    assert len([path for path in opened if path.endswith(".log")]) == 1


def test_a_title_that_is_no_text_does_not_cost_the_log() -> None:
    log = TaskLog("run", "Family", "id", lambda: "Task(name=\ud800)")

    log.write("said")
    log.close()

    assert log.is_written
    assert b"# Task(name=\\ud800), process" in log.path.read_bytes()
