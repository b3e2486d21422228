"""What counts as the code of a task: its class, and all of the user's own that it reaches; nothing else."""

import importlib
import linecache
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import superluigi
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
    place.mkdir(exist_ok=True)
    (place / "__init__.py").touch()
    (place / "helpers.py").write_text(textwrap.dedent(helpers))
    (place / "tasks.py").write_text(textwrap.dedent(tasks).format(package=package))
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return code_fingerprint(importlib.import_module(f"{package}.tasks").Cleaned)
    finally:
        sys.path.remove(str(folder))


def cell(source: str, number: int, **known: Any) -> dict[str, Any]:
    """Execute a cell as IPython does: as a file of its own that stands in `linecache` alone; give its names."""
    name = f"/tmp/ipykernel_1/{number}-{abs(hash(source))}.py"
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
    names: dict[str, Any] = {"__name__": "__main__", "AtomicTaskWithMetadata": AtomicTaskWithMetadata, **known}
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


SEEN = """
from superluigi import AtomicTaskWithMetadata
from {package}.helpers import *

def make():
    def surrounding():
        return "surrounding"

    class Made(AtomicTaskWithMetadata):
        def output(self):
            return later

        def run(self, output_path):
            output_path.write_text(surrounding())

    if Made is None:
        later = None
    return Made

class Other(AtomicTaskWithMetadata):
    columns = ["a column"]

    @classmethod
    def named(cls):
        return "a class method"

    def unused(self):
        return "unused"

class Sub(Other):
    pass

Cleaned = make()

class Reader(AtomicTaskWithMetadata):
    def run(self, output_path):
        output_path.write_text(Other.named() + Sub.columns[0] + doubled("x"))
"""
SEEN_HELPERS = """
import functools
doubled = functools.lru_cache(
    lambda text: text * 2)
"""


@pytest.mark.parametrize(
    ("task", "before", "after", "is_other"),
    [
        ("Cleaned", '"surrounding"', '"others"', True),
        ("Reader", '"a class method"', '"others"', True),
        ("Reader", '"a column"', '"others"', True),
        ("Reader", '"unused"', '"others"', False),
        ("Reader", "text * 2", "text * 3", True),
        ("Reader", "    lambda text: text * 2)", "    lambda text: text * 2  # twice\n)", False),
    ],
    ids=[
        "what surrounds a later method",
        "a class method of another task",
        "a constant of another task",
        "the rest of another task",
        "a lambda within a call",
        "the layout of that",
    ],
)
def test_what_a_task_reaches_is_seen_wherever_it_stands(
    task: str, before: str, after: str, is_other: bool, tmp_path: Path
) -> None:
    assert before in SEEN + SEEN_HELPERS
    tasks = SEEN if task == "Cleaned" else SEEN.replace("Cleaned = make()", "").replace("class Reader", "class Cleaned")

    former = fingerprint(tmp_path, 1, SEEN_HELPERS, tasks)
    latter = fingerprint(tmp_path, 2, SEEN_HELPERS.replace(before, after), tasks.replace(before, after))

    assert (former != latter) == is_other


class Mocking:
    """Answers to every name, as mocks and `sqlalchemy.func` do."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth

    def __getattr__(self, name: str) -> Any:
        if self.depth > 100:
            pytest.fail("it is asked for ever")
        return Mocking(self.depth + 1)

    def __call__(self) -> None:
        """Do nothing."""


class Refusing:
    """Answers to no name, as proxies do outside of their context."""

    def __getattr__(self, name: str) -> Any:
        message = f"not now: {name}"
        raise RuntimeError(message)


@pytest.mark.parametrize("item", [Mocking, Refusing])
def test_what_answers_to_names_in_its_own_way_is_not_followed(item: Any) -> None:
    text = "class Named(AtomicTaskWithMetadata):\n    def run(self):\n        thing.sum()\n"

    assert code_fingerprint(cell(text, 1, thing=item())["Named"]) is not None


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


def test_the_fingerprint_is_the_same_in_every_version_of_python(tmp_path: Path) -> None:
    # What Python 3.10, 3.11, 3.12 and 3.13 give.
    assert fingerprint(tmp_path, 1) == "sha256:c344f930bb04a783ebb6bb24458d47427217cea729d24d299f9757a055e5b1e6"
    assert limited(tmp_path, 2) == "sha256:1155b5536dd50926b893c383ef7262d6d25eeddaf30f9757159b5898af502d85"


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


# Constants

LIMITED = """
from superluigi import AtomicTaskWithMetadata
from {package} import helpers
from {package}.helpers import QUERY as SQL
import datetime

OWN = {own}
TODAY = datetime.date({year}, 1, 1)
UNUSED = {unused}
OWN_LATER = 1
OWN_LATER += {own}

class Cleaned(AtomicTaskWithMetadata):
    def run(self, output_path):
        output_path.write_text(f"{{OWN}} {{SQL}} {{TODAY}} {{helpers.LIMITS[0]}} {{OWN_LATER}}")
"""
CONSTANTS = HELPERS + '\nQUERY = "SELECT 1"\nLIMITS: tuple = (24 * 60, {"a": [-1]})\n'


def limited(folder: Path, number: int, helpers: str = CONSTANTS, **values: Any) -> Any:
    """Give the fingerprint of a task that uses constants of its module and of another one."""
    tasks = LIMITED
    for name, value in {"own": 5, "year": 2020, "unused": 1, **values}.items():
        tasks = tasks.replace(f"{{{name}}}", str(value))
    return fingerprint(folder, number, helpers, tasks)


@pytest.mark.parametrize(
    ("helpers", "values"),
    [
        (CONSTANTS, {"own": 6}),
        (CONSTANTS.replace("SELECT 1", "SELECT 2"), {}),
        (CONSTANTS.replace("[-1]", "[-2]"), {}),
    ],
    ids=["of the module", "imported by another name", "of a module, in a dictionary"],
)
def test_another_value_of_a_constant_is_another_code(helpers: str, values: Any, tmp_path: Path) -> None:
    assert limited(tmp_path, 1) != limited(tmp_path, 2, helpers, **values)


@pytest.mark.parametrize(
    ("helpers", "values"),
    [
        (CONSTANTS, {"year": 2021}),
        (CONSTANTS, {"unused": 2}),
        (CONSTANTS.replace('QUERY = "SELECT 1"', "QUERY = 'SELECT 1'  # all"), {}),
        (CONSTANTS.replace('QUERY = "SELECT 1"', "from {package}.more import QUERY"), {}),
    ],
    ids=["computed", "not used", "layout", "moved"],
)
def test_what_is_computed_or_unused_or_only_written_otherwise_is_not(helpers: str, values: Any, tmp_path: Path) -> None:
    for number in (1, 2):
        place = tmp_path / f"package{number}_{tmp_path.name.replace('-', '_')}"
        place.mkdir()
        (place / "more.py").write_text('QUERY = "SELECT 1"\n')
    helpers = helpers.replace("{package}", f"package2_{tmp_path.name.replace('-', '_')}")

    assert limited(tmp_path, 1) == limited(tmp_path, 2, helpers, **values)


def test_a_constant_of_the_same_cell_counts() -> None:
    text = "LIMIT = {}\n\nclass Limited(AtomicTaskWithMetadata):\n    def run(self):\n        return LIMIT\n"

    five, again, six = (cell(text.format(value), number)["Limited"] for number, value in enumerate(("5", "(5)", "6")))

    assert code_fingerprint(five) == code_fingerprint(again)
    assert code_fingerprint(five) != code_fingerprint(six)


# Files that are edited after they were loaded

EDITED = """
from superluigi import AtomicTaskWithMetadata
from {package} import helpers

class Cleaned(AtomicTaskWithMetadata):
    depth = 1

    def step(self, power=3):
        return power

    def run(self, output_path):
        output_path.write_text(helpers.clean("x") * helpers.TIMES * (lambda number: number)(self.step()))
"""
EDITED_HELPERS = """
TIMES = 24 * 60

def decorated(function):
    def inner(text):
        return function(text)
    return inner

def clean(text, limit=5):
    return strip(text)[:limit]

@decorated
def strip(text):
    return text.strip()
"""


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("helpers", "return text.strip()", "return text.rstrip()"),
        ("helpers", "return function(text)", "return function(text) * 2"),
        ("helpers", "limit=5", "limit=6"),
        ("helpers", "24 * 60", "24 * 61"),
        ("tasks", "depth = 1", "depth = 2"),
        ("tasks", "power=3", "power=4"),
        ("tasks", "return power", "return power + 1"),
        ("tasks", "(lambda number: number)", "(lambda number: -number)"),
        ("tasks", "    depth = 1", "    def complete(self):\n        return True\n    depth = 1"),
    ],
    ids=[
        "function",
        "decorator",
        "default",
        "constant",
        "class",
        "default of a method",
        "method",
        "lambda",
        "new method",
    ],
)
def test_code_that_is_edited_after_it_was_loaded_is_neither_the_former_nor_the_new_source(
    file: str, before: str, after: str, tmp_path: Path
) -> None:
    former = fingerprint(tmp_path, 1, EDITED_HELPERS, EDITED)
    package = next(tmp_path.glob("package1*"))
    path = package / f"{file}.py"
    path.write_text(path.read_text().replace(before, after))
    later(path)
    modules = [sys.modules[f"{package.name}.{name}"] for name in ("helpers", "tasks")]

    edited = code_fingerprint(modules[1].Cleaned)
    importlib.reload(modules[0])
    reloaded = code_fingerprint(importlib.reload(modules[1]).Cleaned)
    new = fingerprint(tmp_path, 2, *(text.replace(before, after) for text in (EDITED_HELPERS, EDITED)))

    assert edited not in (former, new, None)
    assert reloaded == new != former


@pytest.mark.parametrize("file", ["helpers", "tasks"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("def clean", "def unused():\n    return 1\n\ndef clean"),
        ("class Cleaned", "# comment\n\nOTHER = 2\n\nclass Cleaned"),
        ("24 * 60", "(24 * 60)"),
        ("return power", '"""Give the power."""\n        return power'),
    ],
    ids=["saved", "what is not reached", "comment", "layout", "docstring"],
)
def test_a_file_that_is_saved_again_with_the_same_code_gives_the_same(
    file: str, before: str, after: str, tmp_path: Path
) -> None:
    former = fingerprint(tmp_path, 1, EDITED_HELPERS, EDITED)
    package = next(tmp_path.glob("package1*"))
    path = package / f"{file}.py"
    path.write_text(path.read_text().replace(before, after))
    later(path)

    assert code_fingerprint(sys.modules[f"{package.name}.tasks"].Cleaned) == former


def test_classes_that_are_not_what_they_assign_are_compared_as_far_as_they_are(tmp_path: Path) -> None:
    tasks = """
    import dataclasses, enum, typing
    from superluigi import AtomicTaskWithMetadata

    class Colour(enum.IntEnum):
        RED = 1

    class Pair(typing.NamedTuple):
        left: int = 1

    @dataclasses.dataclass(slots=True)
    class Slotted:
        width: int = 1

        def area(self):
            return self.width

    class Cleaned(AtomicTaskWithMetadata):
        __private = 1
        later: int

        def run(self):
            return Colour.RED, Pair(), Slotted()
    """
    former = fingerprint(tmp_path, 1, tasks=tasks)
    place = next(tmp_path.glob("package1*"))
    os.utime(place / "tasks.py", ns=(0, 0))

    assert code_fingerprint(sys.modules[f"{place.name}.tasks"].Cleaned) == former


def test_a_record_tells_the_code_that_ran_where_the_file_was_edited_meanwhile(tmp_path: Path) -> None:
    helpers = "def word():\n    return 'former'\n"
    (tmp_path / "words.py").write_text(helpers)
    (tmp_path / "flow.py").write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            import os, words
            from superluigi import AtomicTaskWithMetadata, LocalFileTarget, run_task

            class Said(AtomicTaskWithMetadata):
                def output(self):
                    return LocalFileTarget({str(tmp_path / "said.txt")!r})

                def run(self, output_path):
                    output_path.write_text(words.word())
                    Path(words.__file__).write_text("def word():\\n    return 'present'\\n")
                    os.utime(words.__file__, ns=(2**62, 2**62))

            run_task(Said(), rerun_stale=True)
            print(Path({str(tmp_path / "said.txt")!r}).read_text())
            """
        )
    )

    words = [said(tmp_path, "flow.py")[-1] for _ in range(3)]

    assert words == ["former", "present", "present"]


def later(path: Path) -> None:
    """Let a file be written in the future, whatever the resolution of the file system's clock."""
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 10**10))


# Programs

PIPE = """
import sys
from superluigi import AtomicTaskWithMetadata
from superluigi.expectations import key_of
from superluigi.source import code_fingerprint
{imports}

LIMIT = 5

def prepared():
    return helpers.clean("x") * LIMIT

class Cleaned(AtomicTaskWithMetadata):
    def run(self, output_path):
        output_path.write_text(prepared())

if __name__ == "__main__":
    print(code_fingerprint(Cleaned), key_of(Cleaned))
"""
AS_IMPORTED = "from {0} import Cleaned, code_fingerprint, key_of; print(code_fingerprint(Cleaned), key_of(Cleaned))"


def said(folder: Path, *arguments: str) -> list[str]:
    """Run Python in a folder; give the code and the key that it prints."""
    path = os.pathsep.join([str(folder), str(Path(superluigi.__file__).parent.parent)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()


def test_a_task_of_a_program_has_the_code_and_the_history_that_it_has_when_it_is_imported(tmp_path: Path) -> None:
    (tmp_path / "pk").mkdir()
    (tmp_path / "pk" / "__init__.py").touch()
    (tmp_path / "pk" / "helpers.py").write_text(HELPERS)
    (tmp_path / "pk" / "pipe.py").write_text(PIPE.format(imports="from pk import helpers"))

    imported = said(tmp_path, "-c", AS_IMPORTED.format("pk.pipe"))
    programs = [said(tmp_path, "-m", "pk.pipe"), said(tmp_path, "pk/pipe.py")]
    (tmp_path / "pk" / "helpers.py").write_text(HELPERS.replace("text.strip()", "text.rstrip()"))
    edited = said(tmp_path, "-m", "pk.pipe")

    assert programs == [imported, imported]
    assert imported[1] == "pk.pipe.Cleaned"
    assert edited[0] != imported[0]
    assert edited[1] == imported[1]


def test_a_module_beside_a_script_is_followed(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    (tmp_path / "pipe.py").write_text(PIPE.format(imports="import helpers"))

    imported, script = said(tmp_path, "-c", AS_IMPORTED.format("pipe")), said(tmp_path, "pipe.py")
    (tmp_path / "helpers.py").write_text(HELPERS.replace("text.strip()", "text.rstrip()"))
    edited = said(tmp_path, "pipe.py")

    assert script == imported
    assert script[1] == f"{tmp_path.resolve()}/pipe.Cleaned"
    assert edited[0] != script[0]


@pytest.mark.parametrize(
    ("place", "is_followed"),
    [
        ("beside.py", True),
        ("elsewhere/beside.py", False),
        ("site-packages/beside.py", False),
        ("beside/__init__.py", False),
    ],
)
def test_a_flat_module_follows_the_modules_beside_it_but_no_other_packages(
    place: str, is_followed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = []
    home = tmp_path / "site-packages" if place.startswith("site-packages") else tmp_path
    home.mkdir(exist_ok=True)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(home)
    (home / "flat_pipe.py").write_text(
        "from superluigi import AtomicTaskWithMetadata\nfrom beside import step\n"
        "class Flat(AtomicTaskWithMetadata):\n    def run(self):\n        step()\n"
    )
    for number in range(2):
        (tmp_path / place).write_text(f"def step():\n    return {'1' * (number + 1)}\n")
        for name in ("flat_pipe", "beside"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        codes.append(code_fingerprint(importlib.import_module("flat_pipe").Flat))
    for name in ("flat_pipe", "beside"):
        monkeypatch.delitem(sys.modules, name)

    assert (codes[0] != codes[1]) == is_followed
