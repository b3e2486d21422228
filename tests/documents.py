"""The snippets of a document, and a reader who goes through a page: with nothing but the library and an empty home.

How a page is read, by tests/test_docs.py:

- A Python block that begins with an import is a program. One that does not goes on where the block above it ended.
- `title="pipeline.py"` is the name that it is saved under; else it has a name of its own. One that defines a test is
  run by pytest, and a `conftest.py` is only saved; so is any other block with a title, such as a `luigi.cfg`.
- What stands in a `print(...)  # comment` is a line that is printed, and a text block directly below a Python block
  the lines that it prints.
- A console block has commands behind `$ `, and below each all that it prints, on both streams. What stands behind
  `(Pdb) ` is typed.
- `...` stands for whatever has been left out of a line, or, alone in a line, for any number of lines; seconds (`0.1 s`)
  and the width of columns may differ.

All blocks of a page run from top to bottom in one folder, each in a process of its own. These are forked from one that
has imported what they import, or most of the time would be spent on imports.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import json
import multiprocessing.process
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]

_TIMEOUT_S = 120
# Settings that a reader does not have.
_FOREIGN = ("AWS_", "BOTO_", "COVERAGE_", "LUIGI_", "OPENLINEAGE_", "PYTEST_", "SUPERLUIGI_")
_FENCE = re.compile(r'^```(\w+)(?: title="([\w./-]+)")?\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)
_PRINTED = re.compile(r"^\s*(?:print|run_task)\(.*\)  # (.*)$", flags=re.MULTILINE)
_PROMPT = re.compile(r"^\(Pdb\) (.*)$", flags=re.MULTILINE)
_NEXT = "\x1e"  # printed where one block ends and the next goes on


@dataclass(frozen=True)
class Block:
    """A fenced block; `below` is true if nothing stands between it and the block above."""

    language: str
    title: str
    text: str
    line: int
    below: bool


@dataclass
class Step:
    """What a reader does at one time: runs blocks as one program, saves a file, or types a command."""

    kind: str  # "script", "test", "file", "command"
    name: str
    blocks: list[Block]
    command: str = ""
    shown: str = ""  # of a command: all that it prints

    @property
    def typed(self) -> str:
        return "".join(f"{line}\n" for line in re.findall(_PROMPT, self.shown))

    @property
    def text(self) -> str:
        return f"\nprint({_NEXT!r}, flush=True)\n".join(block.text for block in self.blocks)


@dataclass(frozen=True)
class Done:
    """How a step ended, and what it printed, on both streams."""

    code: int
    printed: str


def blocks(markdown: str) -> list[Block]:
    """Give the fenced blocks of a document."""
    found, end = [], 0
    for match in _FENCE.finditer(markdown):
        language, title, text = match.groups()
        below = not markdown[end : match.start()].strip() and end > 0
        found.append(Block(language, title or "", text, markdown.count("\n", 0, match.start()) + 1, below))
        end = match.end()
    return found


def steps(markdown: str) -> list[Step]:
    """Give what there is to be done on a page, from top to bottom."""
    plan: list[Step] = []
    for block in blocks(markdown):
        if block.language == "python":
            begins = re.match(r'(?:"""|from |import )', block.text) is not None
            if begins or block.title or not plan or plan[-1].kind != "script":
                name = block.title or f"snippet_{block.line}.py"
                plan.append(Step(_kind(block), name, [block]))
            else:
                plan[-1].blocks.append(block)
        elif block.language == "console":
            for said in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, shown = said.partition("\n")
                plan.append(Step("command", f"$ {command}", [block], command, shown))
        elif block.title:
            plan.append(Step("file", block.title, [block]))
    return plan


def _kind(block: Block) -> str:
    if block.title.endswith("conftest.py"):
        return "file"
    return "test" if re.search(r"^def test_", block.text, flags=re.MULTILINE) else "script"


def misread(step: Step, done: Done, page_blocks: list[Block]) -> list[str]:
    """Say what is not as the page says it is."""
    if step.kind == "file":
        return []
    if step.kind == "command":
        shown_alone = re.sub(r"(?m)^\(Pdb\) .*\n", "(Pdb) ", step.shown)  # what is typed is not printed
        wrong = [] if _is_all_of(shown_alone, done.printed) else ["prints something else"]
    else:
        wrong = [] if done.code == 0 else [f"ends with {done.code}"]
        parts = done.printed.split(f"{_NEXT}\n")
        for block, printed in zip(step.blocks, parts, strict=False):
            lines = [said for said in _PRINTED.findall(block.text) if not _stands_in(f"{said}\n", printed)]
            after = page_blocks[page_blocks.index(block) + 1 :][:1]
            shown = [other.text for other in after if other.language == "text" and other.below]
            wrong += [f"does not print {said!r}" for said in (*lines, *shown) if not _stands_in(said, printed)]
        if "Warning" in done.printed:
            wrong.append("warns")
    return [f"line {step.blocks[0].line}, {step.name} {problem}:\n{done.printed}" for problem in wrong]


def _pattern(shown: str) -> str:
    lines = [r"(?:.*\n)*?" if line == "..." else _of_line(line) + r" *\n" for line in shown.splitlines()]
    return "".join(lines)


def _of_line(line: str) -> str:
    pattern = ".*?".join(map(re.escape, line.rstrip().split("...")))
    pattern = re.sub(r"(?<=\S)(?:\\ ){2,}", r" {2,}", pattern)  # a table is as wide as what is in it
    return re.sub(r"\d+\\\.\d+\\ s\b", r"\\d+\\.\\d+ s", pattern)


def _is_all_of(shown: str, printed: str) -> bool:
    end = "\n" if shown else ""
    return re.fullmatch(_pattern(shown), printed.rstrip() + end) is not None


def _stands_in(shown: str, printed: str) -> bool:
    return re.search(rf"(?:^|\n){_pattern(shown)}", printed) is not None


def python_blocks(text: str) -> list[str]:
    """Give what stands in each fenced block of Python."""
    return [block.text for block in blocks(text) if block.language == "python"]


def section(text: str, title: str) -> str:
    """Give the text under a heading of the second level."""
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def _settings(folder: Path) -> dict[str, str]:
    return {
        "HOME": str(folder),
        "USERPROFILE": str(folder),
        "SUPERLUIGI_LOCAL_DATA_DIR": str(folder / "superluigi-data"),
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
    }


def _environment(folder: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**inherited, **_settings(folder)}


def run_block(block: str, folder: Path, *, extra: str = "") -> subprocess.CompletedProcess[str]:
    """Run one block as a script in a new interpreter."""
    script = folder / "test_block.py"
    script.write_text(block + extra, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        encoding="utf-8",
        timeout=_TIMEOUT_S,
        check=False,
    )


class Reader:
    """A process that has imported everything, and is forked for each step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def follow(self, plan: list[Step], folder: Path) -> list[Done]:
        """Do the steps of a page in a folder, one after the other."""
        told = [[step.kind, step.name, step.command or step.text, step.typed] for step in plan]
        into, out_of = self._process.stdin, self._process.stdout
        assert into is not None
        assert out_of is not None
        into.write(json.dumps({"folder": str(folder), "steps": told}) + "\n")
        into.flush()
        return [Done(*done) for done in json.loads(out_of.readline())]


@contextmanager
def reader(home: Path) -> Iterator[Reader]:
    """Start a reader."""
    with subprocess.Popen(
        [sys.executable, __file__],
        cwd=home,
        env=_environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        yield Reader(process)
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    """Take pages from stdin, and tell how each of their steps ended."""
    import boto3  # noqa: F401
    import moto.server  # noqa: F401
    import pandas as pd  # noqa: F401
    import pytest  # noqa: F401
    import s3fs  # noqa: F401

    import superluigi.ancestry
    import superluigi.cli.commands
    import superluigi.comparison
    import superluigi.explaining
    import superluigi.reproduction
    import superluigi.storage.s3
    import superluigi.task_runner
    import superluigi.testing

    with superluigi.testing.embedded_s3("warm") as server:  # moto and botocore load most of what they need late
        server.client().put_object(Bucket="warm", Key="up", Body=b"")
    sys.path.remove(str(Path(__file__).parent))  # what is beside this file is not beside the reader's
    gc.freeze()
    for line in sys.stdin:
        page = json.loads(line)
        folder = Path(page["folder"])
        done = [_do(*step, folder) for step in page["steps"]]
        sys.stdout.write(json.dumps(done) + "\n")
        sys.stdout.flush()


def _do(kind: str, name: str, text: str, typed: str, folder: Path) -> tuple[int, str]:
    if kind != "command":
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    if kind == "file":
        return 0, ""
    with open(folder / ".printed", "w+b") as printed:
        child = os.fork()
        if child == 0:
            _in_child(_action(kind, name, text), typed, folder, printed)
        _, status = os.waitpid(child, 0)
        printed.seek(0)
        return os.waitstatus_to_exitcode(status), printed.read().decode()


def _action(kind: str, name: str, text: str) -> Callable[[], Any]:
    if kind == "test":
        return lambda: __import__("pytest").main(["-q", "-p", "no:cacheprovider", "--rootdir", ".", name])
    if kind == "script":
        return lambda: _run_script([name])
    typed, tells_code, _ = text.partition("; echo $?")
    typed, apart, errors = typed.partition(" 2> ")
    words = shlex.split(typed)
    if words[0] == "superluigi":
        return lambda: _run_superluigi(words[1:], errors if apart else None, tells_code=bool(tells_code))
    if words[0] == "python":
        return lambda: _run_script(words[1:])
    return lambda: subprocess.run(["bash", "-c", text], check=False).returncode


def _run_superluigi(words: list[str], errors: str | None, *, tells_code: bool) -> int:
    from superluigi.cli import main

    if errors is not None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    code = main(words)
    if tells_code:
        print(code)
    return code


def _run_script(words: list[str]) -> None:
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _in_child(action: Callable[[], Any], typed: str, folder: Path, printed: IO[bytes]) -> NoReturn:
    import luigi.configuration

    (folder / ".typed").write_text(typed, encoding="utf-8")
    sys.stdin = open(folder / ".typed", encoding="utf-8")  # noqa: SIM115
    os.dup2(sys.stdin.fileno(), 0)
    os.dup2(printed.fileno(), 1)
    os.dup2(printed.fileno(), 2)
    faulthandler.register(signal.SIGALRM, chain=True)  # a step that hangs tells where, and ends
    signal.alarm(_TIMEOUT_S)
    sys.stdout.reconfigure(line_buffering=True)  # so that both streams are in the order of time
    os.chdir(folder)
    multiprocessing.process.ORIGINAL_DIR = str(folder)  # where spawned processes look for the script
    os.environ.update(_settings(folder), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    sys.path.insert(0, str(folder))
    luigi.configuration.LuigiConfigParser._instance = None  # a luigi.cfg is looked for in the working directory
    code = 1
    try:
        code = int(action() or 0)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    # As an interpreter ends, but without taking down all that was imported before the fork: that takes half a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
