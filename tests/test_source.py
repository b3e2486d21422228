"""What counts as the code of a task: its class, and all of the user's own that it reaches; nothing else."""

import importlib
import linecache
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from superluigi import AtomicTaskWithMetadata
from superluigi.source import code_fingerprint

HELPERS = """
import functools

def clean(text):
    return strip(text)

def strip(text):
    return text.strip()

def unused(text):
    return text

@functools.lru_cache
def remembered(text):
    return text

class Base:
    def inherited(self):
        return 1
"""
TASKS = """
from superluigi import AtomicTaskWithMetadata
from {package} import helpers
from {package}.helpers import Base, remembered

class Cleaned(Base, AtomicTaskWithMetadata):
    def run(self, output_path):
        output_path.write_text(helpers.clean("x") + remembered("y"))
"""


def fingerprint(folder: Path, number: int, helpers: str = HELPERS, tasks: str = TASKS) -> Any:
    """Write a package of two modules, and give the fingerprint of its task."""
    package = f"package{number}_{folder.name.replace('-', '_')}"
    place = folder / package
    place.mkdir()
    (place / "__init__.py").touch()
    (place / "helpers.py").write_text(textwrap.dedent(helpers))
    (place / "tasks.py").write_text(textwrap.dedent(tasks).format(package=package))
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return code_fingerprint(importlib.import_module(f"{package}.tasks").Cleaned)
    finally:
        sys.path.remove(str(folder))


def cell(source: str, number: int) -> dict[str, Any]:
    """Execute a cell as IPython does: as a file of its own that stands in `linecache` alone; give its names."""
    name = f"/tmp/ipykernel_1/{number}-{abs(hash(source))}.py"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    names: dict[str, Any] = {"__name__": "__main__", "AtomicTaskWithMetadata": AtomicTaskWithMetadata}
    exec(compile(source, name, "exec"), names)
    return names


CELL = """
def make():
    class Inner(AtomicTaskWithMetadata):
        depth = {inner}
    return Inner

@(lambda cls: cls)
class Twice(AtomicTaskWithMetadata):
    depth = 1
first = Twice

class Twice(AtomicTaskWithMetadata):
    depth = {depth}

class Plain:
    def step(self):
        return {plain}

class User(Plain, AtomicTaskWithMetadata):
    pass
"""


def test_classes_of_a_cell_have_their_code_each_its_own() -> None:
    kept, edited = cell(CELL.format(inner=1, depth=2, plain=3), 1), cell(CELL.format(inner=4, depth=5, plain=6), 2)
    again = cell("# a comment\n" + CELL.format(inner=1, depth=2, plain=3), 3)

    for name in ("Twice", "User", "first"):
        assert code_fingerprint(kept[name]) is not None
        assert code_fingerprint(kept[name]) == code_fingerprint(again[name])
    assert code_fingerprint(kept["make"]()) == code_fingerprint(again["make"]()) is not None
    for name in ("Twice", "User"):
        assert code_fingerprint(kept[name]) != code_fingerprint(edited[name])
    assert code_fingerprint(kept["make"]()) != code_fingerprint(edited["make"]())
    assert code_fingerprint(kept["first"]) == code_fingerprint(edited["first"])


def test_a_class_whose_cell_is_gone_has_no_code() -> None:
    names = cell(CELL.format(inner=1, depth=2, plain=3), 1)
    linecache.cache.clear()

    assert code_fingerprint(names["Twice"]) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return text.strip()", "return text.rstrip()"),
        ("return strip(text)", "return strip(text) + '.'"),
        ("        return 1", "        return 2"),
        ("def remembered(text):\n    return text", "def remembered(text):\n    return text * 2"),
    ],
    ids=["a function of a function", "a function of a module", "a base class", "a decorated function"],
)
def test_a_change_of_what_a_task_reaches_changes_it(before: str, after: str, tmp_path: Path) -> None:
    assert before in HELPERS

    assert fingerprint(tmp_path, 1) != fingerprint(tmp_path, 2, HELPERS.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return text.strip()", "return text.strip()  # of white space"),
        ("    return strip(text)", '    """Clean a text."""\n\n    return (\n        strip(text)\n    )'),
        ("def unused(text):\n    return text", "def unused(text):\n    return text * 3"),
    ],
    ids=["a comment", "docstring and layout", "what is not reached"],
)
def test_nothing_else_does(before: str, after: str, tmp_path: Path) -> None:
    assert before in HELPERS

    assert fingerprint(tmp_path, 1) == fingerprint(tmp_path, 2, HELPERS.replace(before, after))


def test_functions_that_call_each_other_are_looked_at_once(tmp_path: Path) -> None:
    helpers = HELPERS.replace("return text.strip()", "return clean(text) if text else ''")

    assert fingerprint(tmp_path, 1, helpers).startswith("sha256:")


def test_a_class_without_a_source_has_no_fingerprint() -> None:
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec("class Gone:\n    pass", namespace)

    assert code_fingerprint(namespace["Gone"]) is None


def test_the_code_of_a_task_that_is_required_is_not_that_of_the_task(tmp_path: Path) -> None:
    tasks = """
    from superluigi import AtomicTaskWithMetadata

    class Upstream(AtomicTaskWithMetadata):
        __version__ = "1"

    class Cleaned(AtomicTaskWithMetadata):
        def requires(self):
            return Upstream()
    """

    assert fingerprint(tmp_path, 1, tasks=tasks) == fingerprint(tmp_path, 2, tasks=tasks.replace('"1"', '"2"'))
