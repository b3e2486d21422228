"""What makes a task stale, and that `rerun_stale` makes again what is, and nothing else."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path  # noqa: TC003  (Luigi's tasks are annotated with it)
from typing import TYPE_CHECKING, Any

import luigi
import pytest
from edited_graphs import GRAPHS, PLACES, EditedGraph, imported
from engines import Engine, engines
from executor_tasks import note, notes
from hypothesis import given, settings
from hypothesis import strategies as st

from superluigi import (
    AtomicTaskWithMetadata,
    ConfigError,
    External,
    LocalFileTarget,
    MemoryTarget,
    NoTarget,
    Task,
    TaskFailedError,
    TaskWithCleanup,
    TaskWithMetadata,
    plan,
    run_task,
)
from superluigi.plans import Verdict
from superluigi.staleness import Cause, Reason
from superluigi.storage import files
from superluigi.targets.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import S3


@pytest.fixture(autouse=True)
def quiet(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Forget the modules that a test has written."""
    before = set(sys.modules)
    yield
    for name in sys.modules.keys() - before:
        if name.startswith("edited_"):
            del sys.modules[name]


@pytest.fixture
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., EditedGraph]:
    """Give what makes a graph that was run once, with X = 40 and Y = 7."""

    def made(shape: str = "chain", place: str = "file", name: str = "work") -> EditedGraph:
        s3: S3 | None = request.getfixturevalue("s3") if place in ("object", "prefix") else None
        graph = EditedGraph(shape, tmp_path / name, place, s3)
        for name_of_input, value in (("X", 40), ("Y", 7)):
            if name_of_input in graph.inputs:
                graph.write(name_of_input, value)
        return graph

    return made


# The changes, each by what does it to a graph. A adds up, and rounds to tens: small changes come out the same.

CHANGES: dict[str, Callable[[EditedGraph], object]] = {
    "nothing": lambda graph: None,
    "input": lambda graph: graph.write("X", 60),
    "input, cut off": lambda graph: graph.write("X", 41),
    "input written again": lambda graph: graph.write("X", 40),
    "parameter of A": lambda graph: setattr(graph.tasks["A"], "factor", 30),
    "parameter of A, cut off": lambda graph: setattr(graph.tasks["A"], "factor", 1),
    "version of A": lambda graph: setattr(graph.tasks["A"], "version", "2"),
    "version of B": lambda graph: setattr(graph.tasks["B"], "version", "2"),
    "code of A": lambda graph: setattr(graph.tasks["A"], "code", "50"),
    "code of A, cut off": lambda graph: setattr(graph.tasks["A"], "code", "1 - 1"),
    "code of B": lambda graph: setattr(graph.tasks["B"], "code", "5"),
    "layout of A": lambda graph: vars(graph.tasks["A"]).update(code="(\n            0\n        )"),
    "comment and docstring of A": lambda graph: vars(graph.tasks["A"]).update(comment="# more", doc="Another."),
    "insignificant and private parameters": lambda graph: graph.notes.update(label="second", token="def"),
    "A deleted": lambda graph: graph.target("A").remove(),
    "A altered": lambda graph: graph.write("A", 99),
    "record of A deleted": lambda graph: graph.lose_record("A"),
    "A deleted, its record stays": lambda graph: graph.lose_data("A"),
    "B deleted": lambda graph: graph.target("B").remove(),
    "A and version of B": lambda graph: (graph.target("A").remove(), setattr(graph.tasks["B"], "version", "2")),
    "another input": lambda graph: setattr(graph.tasks["B"], "requires", "X"),
    "one input more": lambda graph: setattr(graph.tasks["B"], "requires", "AX"),
    "no input": lambda graph: setattr(graph.tasks["B"], "requires", ""),
    "the data are gone": lambda graph: graph.target("X").remove(),
}

# change, and what runs of the chain (X A B C), the diamond (X, A, B and C, D) and the fan (X Y, A, B and C; D of X)
TABLE = """
nothing                                 -       -       -
input                                   ABC     ABCD    ABCD
input, cut off                          A       A       AD
input written again                     -       -       -
parameter of A                          ABC     ABCD    ABC
parameter of A, cut off                 A       A       A
version of A                            A       A       A
version of B                            B       B       B
code of A                               ABC     ABCD    ABC
code of A, cut off                      A       A       A
code of B                               BC      BD      B
layout of A                             -       -       -
comment and docstring of A              -       -       -
insignificant and private parameters    -       -       -
A deleted                               A       A       A
A altered                               A       A       A
A deleted, its record stays             A       A       A
record of A deleted                     A       A       A
B deleted                               B       B       B
A and version of B                      AB      AB      AB
another input                           BC      BD      B
one input more                          BC      BD      B
no input                                BC      BD      B
the data are gone                       -       -       -
"""
ROWS = {
    " ".join(line.split()[:-3]): dict(zip(GRAPHS, line.split()[-3:], strict=True)) for line in TABLE.split("\n")[1:-1]
}
CASES = [(shape, change, runs[shape].replace("-", "")) for change, runs in ROWS.items() for shape in GRAPHS]
IDS = [f"{shape}: {change}" for shape, change, _ in CASES]
IN_S3 = (
    "the data are gone",
    "input",
    "input, cut off",
    "code of A",
    "version of B",
    "A deleted",
    "A altered",
    "record of A deleted",
)


def check(graph: EditedGraph, change: str, runs: str, run: Any = run_task) -> None:
    """Change a graph that was run, plan and run it, and see that the plan told what ran and that nothing is left."""
    assert graph.run(run) == sorted(graph.tasks)
    CHANGES[change](graph)

    plan = graph.plan(rerun_stale=True)
    ran = graph.run(run, rerun_stale=True)

    assert "".join(ran) == runs
    may_run = {type(one.task).__name__ for one in plan if one.verdict.value != "skip"}
    must_run = {type(one.task).__name__ for one in plan if one.verdict.value == "run"}
    assert must_run <= set(ran) <= may_run
    assert graph.run(run, rerun_stale=True) == []


@pytest.mark.parametrize(("shape", "change", "runs"), CASES, ids=IDS)
def test_what_runs_after_a_change(make: Callable[..., EditedGraph], shape: str, change: str, runs: str) -> None:
    check(make(shape), change, runs)


@pytest.mark.parametrize("place", PLACES[1:])
@pytest.mark.parametrize("change", IN_S3)
def test_what_runs_in_other_places(make: Callable[..., EditedGraph], place: str, change: str) -> None:
    check(make("chain", place), change, ROWS[change]["chain"].replace("-", ""))


@engines("forked", "threads", "fork", "dask")
@pytest.mark.parametrize(
    ("place", "change"), [("file", "input, cut off"), ("file", "code of A"), ("object", "code of A")]
)
def test_what_runs_is_the_same_on_all_engines(
    make: Callable[..., EditedGraph], engine: Engine, place: str, change: str
) -> None:
    check(make("diamond", place), change, ROWS[change]["diamond"].replace("-", ""), engine.run)


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("change", ["input, cut off", "code of A"])
def test_what_runs_is_the_same_with_leases(make: Callable[..., EditedGraph], num_workers: int, change: str) -> None:
    run = functools.partial(run_task, single_flight=True, num_workers=num_workers)

    check(make("diamond"), change, ROWS[change]["diamond"].replace("-", ""), run)


@pytest.mark.parametrize("change", CHANGES)
def test_without_rerun_stale_only_what_is_missing_runs(make: Callable[..., EditedGraph], change: str) -> None:
    graph = make("fan")
    graph.run()
    CHANGES[change](graph)

    plan = graph.plan()
    ran = graph.run()

    assert ran == (["B"] if change == "B deleted" else [])
    assert [type(one.task).__name__ for one in plan if one.verdict.value == "run"] == ran


# Whatever is edited

NAMES = st.sampled_from(["A", "B", "C", "D"])
SMALL = st.integers(0, 7)
EDITS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from("XY"), st.integers(0, 30)),
    st.tuples(st.just("factor"), NAMES, SMALL),
    st.tuples(st.just("version"), NAMES, st.sampled_from("123")),
    st.tuples(st.just("code"), NAMES, SMALL.map(str)),
    st.tuples(st.just("comment"), NAMES, SMALL.map("# {}".format)),
    st.tuples(st.just("delete"), NAMES, st.none()),
    st.tuples(st.just("lose record"), NAMES, st.none()),
    st.tuples(st.just("alter"), NAMES, st.integers(0, 30)),
    st.tuples(st.just("requires"), NAMES, st.sampled_from(["", "X", "Y", "XY"])),
)


def edit(graph: EditedGraph, kind: str, name: str, value: Any) -> None:
    if name not in (*graph.tasks, *graph.inputs):
        return
    if kind in ("write", "alter"):
        graph.write(name, value)
    elif kind == "delete":
        graph.target(name).remove()
    elif kind == "lose record":
        graph.lose_record(name)
    elif kind != "requires" or set(value) <= set(graph.inputs):
        setattr(graph.tasks[name], kind, value)


def told(graph: EditedGraph) -> dict[str, Any]:
    """Give what the records say of what each task was made from, of those whose data are there as they were made."""
    found = {}
    for name in graph.tasks:
        try:
            record = graph.target(name).read_metadata()
        except FileNotFoundError:
            continue
        inputs = [(one["path"], one["fingerprint"]) for one in record["input"]]
        if graph.target(name).exists():
            found[name] = inputs, record["params"]["factor"], record["version"], record["code"]
    return found


@settings(max_examples=12)
@given(
    shape=st.sampled_from(sorted(GRAPHS)),
    place=st.sampled_from(["file", "folder"]),
    edits=st.lists(st.lists(EDITS, min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_after_whatever_edits_the_outputs_are_those_of_a_run_from_nothing_and_nothing_ran_in_vain(
    tmp_path_factory: pytest.TempPathFactory, shape: str, place: str, edits: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("edited")
    graph = EditedGraph(shape, folder / "work", place)
    for task in graph.tasks.values():
        task.coarse = 4
    values = dict.fromkeys(graph.inputs, 10)
    for name, value in values.items():
        graph.write(name, value)
    graph.run()
    for number, step in enumerate(edits):
        for kind, name, value in step:
            edit(graph, kind, name, value)
            values |= {name: value} if kind == "write" and name in values else {}
        before = told(graph)

        ran = graph.run(rerun_stale=True)

        assert len(ran) == len(set(ran))
        after = told(graph)
        assert [name for name in ran if before.get(name) == after[name]] == []
        anew = EditedGraph(shape, folder / f"anew{number}", place, tasks=graph.tasks)
        for name, value in values.items():
            anew.write(name, value)
        anew.run()
        made_anew = {name: value for name, value in anew.values().items() if value is not None}
        assert made_anew.items() <= graph.values().items()  # what is no longer required is left as it is


# Reason by reason


class Made(AtomicTaskWithMetadata):
    """Adds up what it is told to read."""

    folder = luigi.Parameter()
    name = luigi.Parameter(default="made")
    reads = luigi.DictParameter(default={}, significant=False)

    def requires(self) -> Any:
        return {role: External(path) for role, path in self.reads.items()}

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"{self.folder}/{self.name}.txt")

    def run(self, input_path: dict[str, Path], output_path: Path) -> None:
        note(self.folder, "ran", type(self).__name__)
        output_path.write_text("".join(input_path[role].read_text() for role in sorted(input_path)))


def reasons(task: luigi.Task, of: luigi.Task | None = None, **options: Any) -> list[tuple[Any, ...]]:
    plan = run_task(task, dry_run=True, rerun_stale=True, **options)
    return [(one.cause, one.subject, one.before, one.after) for one in plan[of or task].reasons]


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def fingerprint(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_an_input_that_changed_is_told_with_both_fingerprints(tmp_path: Path) -> None:
    task = Made(folder=str(tmp_path), reads={"a": write(tmp_path, "a.csv", "1")})
    run_task(task)
    write(tmp_path, "a.csv", "2")

    assert reasons(task) == [(Cause.INPUT_CHANGED, "a", fingerprint("1"), fingerprint("2"))]
    (reason,) = run_task(task, dry_run=True, rerun_stale=True)[task].reasons
    assert str(reason).startswith(f"the input a ({tmp_path}/a.csv) changed: it was sha256:")
    assert reason.to_dict()["path"] == f"{tmp_path}/a.csv"


def test_inputs_that_are_new_gone_or_others_are_told_by_their_paths(tmp_path: Path) -> None:
    a, b, c = (write(tmp_path, f"{name}.csv", "1") for name in "abc")
    run_task(Made(folder=str(tmp_path), reads={"x": a, "y": b}))

    found = reasons(Made(folder=str(tmp_path), reads={"x": c, "z": b}))

    assert found == [
        (Cause.INPUT_REPLACED, "x", a, c),
        (Cause.INPUT_ADDED, "z", None, b),
        (Cause.INPUT_GONE, "y", b, None),
    ]


def test_a_large_input_without_a_record_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Made(folder=str(tmp_path), reads={"a": write(tmp_path, "a.csv", "1")})
    run_task(task)
    read: list[Path] = []
    digest = files.digest
    monkeypatch.setattr(files, "digest", lambda path: read.append(path) or digest(path))

    run_task(task, rerun_stale=True)
    assert read == []

    write(tmp_path, "a.csv", "1")
    os.utime(tmp_path / "a.csv", ns=(0, 0))
    run_task(task, rerun_stale=True)
    assert read == [tmp_path / "a.csv"]


class Salted(Made):
    """Has parameters of every kind, of which its path tells none."""

    size = luigi.IntParameter(default=1)
    shown = luigi.IntParameter(default=1, significant=False)
    hidden = luigi.IntParameter(default=1, visibility=luigi.parameter.ParameterVisibility.HIDDEN)
    private = luigi.IntParameter(default=1, visibility=luigi.parameter.ParameterVisibility.PRIVATE)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"size": 2}, [(Cause.PARAMETER, "size", "1", "2")]),
        ({"shown": 2}, []),
        ({"hidden": 2}, []),
        ({"private": 2}, []),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_of_parameters_those_count_that_are_significant_and_public(
    tmp_path: Path, change: dict[str, int], found: list[Any]
) -> None:
    run_task(Salted(folder=str(tmp_path)))

    assert reasons(Salted(folder=str(tmp_path), **change)) == found


def test_an_output_that_was_altered_is_told_with_both_fingerprints(tmp_path: Path) -> None:
    task = Made(folder=str(tmp_path), reads={"a": write(tmp_path, "a.csv", "1")})
    run_task(task)
    path = write(tmp_path, "made.txt", "22")

    assert reasons(task) == [(Cause.ALTERED, path, fingerprint("1"), fingerprint("22"))]


@pytest.mark.parametrize("record", [None, "{torn", '{"somebody": "else"}'], ids=["missing", "torn", "by hand"])
def test_an_output_without_a_record_of_its_run_is_stale(tmp_path: Path, record: str | None) -> None:
    task = Made(folder=str(tmp_path))
    run_task(task)
    path = tmp_path / "made.txt.metadata.json"
    path.unlink() if record is None else path.write_text(record)

    assert reasons(task) == [(Cause.NO_RECORD, str(tmp_path / "made.txt"), None, None)]


class Twins(Made):
    """Leaves two files."""

    def output(self) -> Any:
        return {name: LocalFileTarget(f"{self.folder}/{name}.txt") for name in ("left", "right")}

    def run(self, output_path: dict[str, Path]) -> None:
        note(self.folder, "ran", "Twins")
        for path in output_path.values():
            path.write_text("one")


class OfTwins(Made):
    def requires(self) -> Any:
        return {Twins(folder=self.folder), Salted(folder=self.folder, name="salted")}

    def run(self, output_path: Path) -> None:
        note(self.folder, "ran", "OfTwins")
        output_path.write_text("of twins")


@pytest.mark.parametrize("change", ["deleted", "altered"])
def test_one_of_several_outputs_decides_for_all(tmp_path: Path, change: str) -> None:
    task = OfTwins(folder=str(tmp_path))
    run_task(task)
    (tmp_path / "right.txt").unlink() if change == "deleted" else write(tmp_path, "right.txt", "other")
    cause = Cause.MISSING if change == "deleted" else Cause.ALTERED

    assert [one[:2] for one in reasons(task, Twins(folder=str(tmp_path)))] == [(cause, str(tmp_path / "right.txt"))]
    run_task(task, rerun_stale=True)
    assert sorted(notes(tmp_path, "ran")) == ["OfTwins", "Salted", "Twins", "Twins"]
    assert (tmp_path / "right.txt").read_text() == "one"


class Silent(luigi.Target):
    """A target that has no path and says nothing of itself, such as those of Luigi for tables of a database."""

    def exists(self) -> bool:
        return True


class Spoken(Silent):
    """One whose path is a method, as gokart's."""

    def path(self) -> str:
        return "table/of/stations"


class Tables(luigi.Task):
    def output(self) -> Any:
        return {"stations": Silent(), "hires": Silent(), "docks": Spoken()}


class OfTables(AtomicTaskWithMetadata):
    folder = luigi.Parameter(significant=False)

    def requires(self) -> Any:
        return Tables()

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"{self.folder}/of_tables.txt")

    def run(self, output_path: Path) -> None:
        output_path.write_text("done")


def test_inputs_that_are_no_files_are_the_same_inputs_the_next_time(tmp_path: Path) -> None:
    run_task(OfTables(folder=str(tmp_path)))

    record = OfTables(folder=str(tmp_path)).output().read_metadata()
    assert {name: told["path"] for name, told in record["input"].items()} == {
        "stations": "a Silent",
        "hires": "a Silent",
        "docks": "table/of/stations",
    }
    assert len(plan(OfTables(folder=str(tmp_path)), rerun_stale=True).of(Verdict.SKIP)) == 2


def test_the_members_of_a_set_may_stand_in_whatever_order(tmp_path: Path) -> None:
    task = OfTwins(folder=str(tmp_path))
    run_task(task)
    path = tmp_path / "made.txt.metadata.json"
    record = json.loads(path.read_text())
    record["input"].reverse()
    path.write_text(json.dumps(record))

    assert reasons(task) == []


def test_a_list_in_another_order_is_another_input(tmp_path: Path) -> None:
    class Listed(Made):
        backwards = luigi.BoolParameter(significant=False)

        def requires(self) -> Any:
            return [External(f"{self.folder}/{name}.csv") for name in ("ba" if self.backwards else "ab")]

        def run(self, output_path: Path) -> None:
            output_path.touch()

    write(tmp_path, "a.csv", "1"), write(tmp_path, "b.csv", "2")
    run_task(Listed(folder=str(tmp_path)))

    found = reasons(Listed(folder=str(tmp_path), backwards=True))

    assert [one[:2] for one in found] == [(Cause.INPUT_REPLACED, "0"), (Cause.INPUT_REPLACED, "1")]


# Tasks of every kind in the middle


class Root(Made):
    """Writes the letters of the input."""

    def requires(self) -> Any:
        return External(f"{self.folder}/x.csv")

    def run(self, input_path: Path, output_path: Path) -> None:
        note(self.folder, "ran", type(self).__name__)
        output_path.write_text("".join(filter(str.isalpha, input_path.read_text())))


class Valued(Made):
    def requires(self) -> Any:
        return Root(folder=self.folder, name="root")

    def output(self) -> Any:
        return MemoryTarget()

    def run(self, input_path: Path, output_path: MemoryTarget) -> None:
        note(self.folder, "ran", type(self).__name__)
        output_path.set(input_path.read_text())


class Mixed(Valued):
    def output(self) -> Any:
        return {"value": MemoryTarget(), "file": LocalFileTarget(f"{self.folder}/mixed.txt")}

    def run(self, input_path: Path, output_path: Any) -> None:
        note(self.folder, "ran", type(self).__name__)
        output_path["value"].set(1)
        output_path["file"].write_text(input_path.read_text())


class ShortLived(TaskWithCleanup, Made):
    name = luigi.Parameter(default="short-lived")

    def requires(self) -> Any:
        return Root(folder=self.folder, name="root")

    def run(self, input_path: Path, output_path: Path) -> None:
        note(self.folder, "ran", type(self).__name__)
        output_path.write_text(input_path.read_text())


class Grouping(luigi.WrapperTask):
    folder = luigi.Parameter()

    def requires(self) -> Any:
        return [Valued(folder=self.folder), Root(folder=self.folder, name="root")]

    def output(self) -> Any:
        return [required.output() for required in self.requires()]


class Effect(Valued):
    def output(self) -> Any:
        return NoTarget()

    def run(self, input_path: Path) -> None:
        note(self.folder, "ran", type(self).__name__)


class PlainBetween(luigi.Task):
    folder = luigi.Parameter()
    name = luigi.Parameter(default="plain")

    def requires(self) -> Any:
        return Root(folder=self.folder, name="root")

    def output(self) -> Any:
        return luigi.LocalTarget(f"{self.folder}/plain.txt")

    def run(self) -> None:
        note(self.folder, "ran", type(self).__name__)
        with self.input().open() as stream:
            text = stream.read()
        with self.output().open("w") as stream:
            stream.write(text)


class OwnWriter(TaskWithMetadata):
    folder = luigi.Parameter()
    name = luigi.Parameter(default="own")

    def requires(self) -> Any:
        return Root(folder=self.folder, name="root")

    def output(self) -> Any:
        return LocalFileTarget(f"{self.folder}/own.txt")

    def run(self, metadata: dict[str, Any]) -> None:
        note(self.folder, "ran", type(self).__name__)
        metadata["rows"] = 1
        with self.input().open() as source, self.output().open("w") as stream:
            stream.write(source.read())


class Last(Made):
    """Requires a task of some kind."""

    between = luigi.Parameter()

    def requires(self) -> Any:
        return BETWEEN[self.between](folder=self.folder)

    def run(self, output_path: Path) -> None:
        note(self.folder, "ran", "Last")
        output_path.write_text("last")


BETWEEN: dict[str, Any] = {
    kind.__name__: kind for kind in (Valued, Mixed, ShortLived, Grouping, Effect, PlainBetween, OwnWriter)
}
ALSO = {"Grouping": "Valued"}  # a group runs nothing of its own


@pytest.mark.parametrize("between", BETWEEN)
def test_what_is_as_before_runs_nothing_whatever_stands_between(tmp_path: Path, between: str) -> None:
    task = Last(folder=str(tmp_path), between=between)
    write(tmp_path, "x.csv", "a1")
    run_task(task)
    before = notes(tmp_path, "ran")

    assert {one.verdict.value for one in run_task(task, rerun_stale=True, dry_run=True)} == {"skip"}
    run_task(task, rerun_stale=True)

    assert notes(tmp_path, "ran") == before


@pytest.mark.parametrize("between", BETWEEN)
def test_a_change_reaches_through_whatever_stands_between(tmp_path: Path, between: str) -> None:
    task = Last(folder=str(tmp_path), between=between)
    write(tmp_path, "x.csv", "a1")
    run_task(task)
    write(tmp_path, "x.csv", "b1")

    run_task(task, rerun_stale=True)

    middle = ALSO.get(between, between)
    assert notes(tmp_path, "ran") == ["Root", middle, "Last"] * 2
    assert {one.verdict.value for one in run_task(task, rerun_stale=True, dry_run=True)} == {"skip"}


@pytest.mark.parametrize("between", BETWEEN)
def test_what_comes_out_the_same_cuts_off_whatever_stands_between(tmp_path: Path, between: str) -> None:
    task = Last(folder=str(tmp_path), between=between)
    write(tmp_path, "x.csv", "a1")
    run_task(task)
    write(tmp_path, "x.csv", "a2")

    run_task(task, rerun_stale=True)

    # A value, or what was cleaned up, has to be made for a task before it is known that this need not run.
    is_short_lived = between in ("Valued", "Mixed", "ShortLived", "Grouping", "Effect")
    middle = [ALSO.get(between, between)] if is_short_lived else []
    assert notes(tmp_path, "ran")[3:] == ["Root", *middle]
    assert {one.verdict.value for one in run_task(task, rerun_stale=True, dry_run=True)} == {"skip"}


# Tasks without records, and a run that broke off between them and what they read


class PlainOfRoot(PlainBetween):
    """Breaks off while there is a file that says how."""

    def run(self) -> None:
        if os.path.exists(f"{self.folder}/fails"):
            raise ValueError
        if os.path.exists(f"{self.folder}/is killed"):
            os._exit(9)
        super().run()


class OursOfRoot(Task):
    folder = luigi.Parameter()
    requires = PlainBetween.requires

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"{self.folder}/ours.txt")

    def run(self) -> None:
        assert not os.path.exists(f"{self.folder}/fails")
        note(self.folder, "ran", type(self).__name__)
        with self.input().open() as source, self.output().open("w") as stream:
            stream.write(source.read())


BETWEEN |= {kind.__name__: kind for kind in (PlainOfRoot, OursOfRoot)}


def unsettled(local_data_dir: Path) -> list[Path]:
    folder = local_data_dir / "unsettled"
    return sorted(folder.iterdir()) if folder.exists() else []


def broken_off(tmp_path: Path, between: str = "PlainOfRoot", **options: Any) -> Last:
    """Give what was made of a1, after a run with b1 that broke off when its root was made."""
    task = Last(folder=str(tmp_path), between=between)
    write(tmp_path, "x.csv", "a1")
    run_task(task)
    write(tmp_path, "x.csv", "b1"), write(tmp_path, "fails", "")
    with pytest.raises(TaskFailedError):
        run_task(task, rerun_stale=True, **options)
    (tmp_path / "fails").unlink()
    (tmp_path / "ran").unlink()
    return task


@pytest.mark.parametrize("between", ["PlainOfRoot", "OursOfRoot"])
@pytest.mark.parametrize("options", [{}, {"force_upstream": True}], ids=["stale", "forced"])
def test_what_failed_without_a_record_is_made_again_by_the_next_run(
    tmp_path: Path, local_data_dir: Path, between: str, options: dict[str, bool]
) -> None:
    task = broken_off(tmp_path, between, **options)
    old, new = fingerprint("a"), fingerprint("b")

    assert reasons(task, BETWEEN[between](folder=str(tmp_path))) == [
        (Cause.INPUT_CHANGED, str(tmp_path / "root.txt"), old, new)
    ]
    assert [reason[0] for reason in reasons(task)] == [Cause.UPSTREAM]
    run_task(task, rerun_stale=True)

    assert notes(tmp_path, "ran") == [between, "Last"]
    assert unsettled(local_data_dir) == []
    assert {one.verdict for one in run_task(task, rerun_stale=True, dry_run=True)} == {Verdict.SKIP}


@engines("none", "forked", "fork")
@pytest.mark.parametrize("options", [{"rerun_stale": True}, {"force": True}], ids=["stale", "forced"])
def test_what_was_cleaned_up_is_made_again_with_leases_for_who_has_to_run(
    tmp_path: Path, engine: Engine, options: dict[str, bool]
) -> None:
    write(tmp_path, "x.csv", "a")
    task = Last(folder=str(tmp_path), between="ShortLived")
    engine.run(task, single_flight=True)
    write(tmp_path, "x.csv", "b")

    engine.run(task, single_flight=True, **options)
    engine.run(task, single_flight=True, rerun_stale="rerun_stale" in options)

    again = ["Root", "ShortLived", "Last"] if "rerun_stale" in options else ["ShortLived", "Last"]
    assert notes(tmp_path, "ran") == ["Root", "ShortLived", "Last", *again]


def test_it_is_made_again_with_leases_and_by_several_workers_too(tmp_path: Path, local_data_dir: Path) -> None:
    task = broken_off(tmp_path)

    run_task(task, rerun_stale=True, single_flight=True, num_workers=2)

    assert sorted(notes(tmp_path, "ran")) == ["Last", "PlainOfRoot"]
    assert unsettled(local_data_dir) == []


def test_what_a_killed_run_did_not_get_to_is_made_by_the_next(tmp_path: Path, local_data_dir: Path) -> None:
    task = Last(folder=str(tmp_path), between="PlainOfRoot")
    write(tmp_path, "x.csv", "a1")
    run_task(task)
    write(tmp_path, "x.csv", "b1"), write(tmp_path, "is killed", "")
    pid = os.fork()
    if pid == 0:
        try:
            run_task(task, rerun_stale=True)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    (tmp_path / "is killed").unlink()

    run_task(task, rerun_stale=True)

    assert notes(tmp_path, "ran")[3:] == ["Root", "PlainOfRoot", "Last"]
    assert (tmp_path / "plain.txt").read_text() == "b"
    assert unsettled(local_data_dir) == []


@pytest.mark.parametrize("text", ["b1", "a2"])
def test_a_run_that_ends_well_keeps_nothing_of_it(tmp_path: Path, local_data_dir: Path, text: str) -> None:
    task = Last(folder=str(tmp_path), between="PlainOfRoot")
    write(tmp_path, "x.csv", "a1")
    run_task(task)
    write(tmp_path, "x.csv", text)
    run_task(task, rerun_stale=True)

    assert (local_data_dir / "unsettled").exists()
    assert unsettled(local_data_dir) == []


def test_a_plan_leaves_what_is_kept_and_a_run_with_what_was_read_before_lets_it_go(
    tmp_path: Path, local_data_dir: Path
) -> None:
    task = broken_off(tmp_path)
    write(tmp_path, "x.csv", "a1")
    kept = unsettled(local_data_dir)

    plan = run_task(task, rerun_stale=True, dry_run=True)
    assert {one.verdict for one in plan if type(one.task) is not Root} == {Verdict.UNKNOWN, Verdict.SKIP}
    assert len(kept) == 1
    assert unsettled(local_data_dir) == kept
    run_task(task, rerun_stale=True)

    assert notes(tmp_path, "ran") == ["Root"]  # which comes out as the others had read it
    assert unsettled(local_data_dir) == []


def test_what_is_found_as_it_was_read_is_not_made_again(tmp_path: Path, local_data_dir: Path) -> None:
    task = broken_off(tmp_path)
    write(tmp_path, "x.csv", "a1")
    run_task(Root(folder=str(tmp_path), name="root"), rerun_stale=True)

    before = unsettled(local_data_dir)
    assert {one.verdict for one in run_task(task, rerun_stale=True, dry_run=True)} == {Verdict.SKIP}
    assert unsettled(local_data_dir) == before != []
    run_task(task, rerun_stale=True)

    assert notes(tmp_path, "ran") == ["Root"]
    assert unsettled(local_data_dir) == []


def test_what_was_kept_outlasts_a_further_run_that_breaks_off(tmp_path: Path, local_data_dir: Path) -> None:
    task = broken_off(tmp_path)
    kept = unsettled(local_data_dir)[0].read_bytes()
    write(tmp_path, "x.csv", "c1"), write(tmp_path, "fails", "")

    with pytest.raises(TaskFailedError):
        run_task(task, rerun_stale=True)

    assert unsettled(local_data_dir)[0].read_bytes() == kept


def test_what_was_missing_before_is_not_compared(tmp_path: Path) -> None:
    task = Last(folder=str(tmp_path), between="PlainOfRoot")
    write(tmp_path, "x.csv", "a1")
    run_task(task)
    (tmp_path / "root.txt").unlink(), write(tmp_path, "fails", "")
    with pytest.raises(TaskFailedError):
        run_task(task, rerun_stale=True)
    (tmp_path / "fails").unlink()

    found = reasons(task, PlainOfRoot(folder=str(tmp_path)))

    assert [reason[:2] for reason in found] == [(Cause.NO_RECORD, str(tmp_path / "plain.txt"))]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"\xff", b"[]", b'{"schema": 1, "read": [1]}', b'{"schema": 1, "read": {"a": 1}}', b'{"schema": 2}'],
)
def test_what_is_kept_and_damaged_is_not_believed(tmp_path: Path, local_data_dir: Path, damage: bytes) -> None:
    task = broken_off(tmp_path)
    unsettled(local_data_dir)[0].write_bytes(damage)

    assert {one.verdict for one in run_task(task, rerun_stale=True, dry_run=True)} == {Verdict.SKIP}
    write(tmp_path, "x.csv", "c1")
    run_task(task, rerun_stale=True)

    assert notes(tmp_path, "ran") == ["Root", "PlainOfRoot", "Last"]
    assert unsettled(local_data_dir) == []


def test_what_was_kept_for_long_goes_with_a_run_of_other_tasks(tmp_path: Path, local_data_dir: Path) -> None:
    broken_off(tmp_path)
    other = Made(folder=str(tmp_path))
    run_task(other, rerun_stale=True)
    kept = unsettled(local_data_dir)
    assert len(kept) == 1

    os.utime(kept[0], (0, 0))
    run_task(other, rerun_stale=True)

    assert unsettled(local_data_dir) == []


# What a run has yielded


class Yielded(Made):
    """Copies a file."""

    letter = luigi.Parameter()

    def requires(self) -> Any:
        return External(f"{self.folder}/{self.letter}.csv")

    def output(self) -> Any:
        return LocalFileTarget(f"{self.folder}/yielded-{self.letter}.txt")

    def run(self, input_path: Path, output_path: Path) -> None:
        note(self.folder, "ran", f"Yielded {self.letter}")
        output_path.write_text(input_path.read_text())


class YieldedValue(Yielded):
    def output(self) -> Any:
        return MemoryTarget()

    def run(self, input_path: Path, output_path: MemoryTarget) -> None:
        note(self.folder, "ran", f"Yielded {self.letter}")
        output_path.set(input_path.read_text())


class Yielding(Made):
    """Finds out what it needs while it runs."""

    kind = luigi.Parameter(default="Yielded")

    def run(self, output_path: Path) -> Iterator[Any]:
        kind = {"Yielded": Yielded, "YieldedValue": YieldedValue}[self.kind]
        one = yield kind(folder=self.folder, letter="a")
        more = yield {"more": [External(f"{self.folder}/b.csv")]}
        note(self.folder, "ran", "Yielding")
        text = one.get() if isinstance(one, MemoryTarget) else one.read_text()
        output_path.write_text(text + more["more"][0].read_text())


@pytest.mark.parametrize("kind", ["Yielded", "YieldedValue"])
@pytest.mark.parametrize(("changed", "subject"), [("a", "yielded.0"), ("b", "yielded.1.more.0")])
def test_a_change_of_what_was_yielded_makes_a_task_stale(tmp_path: Path, kind: str, changed: str, subject: str) -> None:
    write(tmp_path, "a.csv", "1"), write(tmp_path, "b.csv", "2")
    task = Yielding(folder=str(tmp_path), kind=kind)
    run_task(task)
    assert reasons(task) == []
    write(tmp_path, "yielded-a.txt" if (kind, changed) == ("Yielded", "a") else f"{changed}.csv", "3")

    before = fingerprint("1" if changed == "a" else "2")
    assert reasons(task) == [(Cause.INPUT_CHANGED, subject, before, fingerprint("3"))]
    run_task(task, rerun_stale=True)

    is_made_anew = (kind, changed) == ("Yielded", "a")  # who has altered it has altered an output of ours
    assert (tmp_path / "made.txt").read_text() == ("12" if is_made_anew else "32" if changed == "a" else "13")
    assert reasons(task) == []


def test_what_was_yielded_and_deleted_is_made_again_by_who_yields_it(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "1"), write(tmp_path, "b.csv", "2")
    task = Yielding(folder=str(tmp_path))
    run_task(task)
    Yielded(folder=str(tmp_path), letter="a").output().remove()

    assert str(run_task(task, rerun_stale=True, dry_run=True)[task].reasons[0]).startswith(
        f"the input yielded.0 ({tmp_path}/yielded-a.txt) is gone: it was sha256:"
    )
    run_task(task, rerun_stale=True)

    assert (tmp_path / "yielded-a.txt").read_text() == "1"
    assert reasons(task) == []


@engines("none", "forked", "threads", "fork")
def test_what_was_yielded_is_made_again_if_it_is_stale_itself(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, "a.csv", "1"), write(tmp_path, "b.csv", "2")
    task = Yielding(folder=str(tmp_path))
    engine.run(task)
    write(tmp_path, "a.csv", "3")

    assert reasons(task) == [(Cause.INPUT_CHANGED, "yielded.0", fingerprint("1"), fingerprint("3"))]
    engine.run(task, rerun_stale=True)

    assert (tmp_path / "made.txt").read_text() == "32"
    assert notes(tmp_path, "ran") == ["Yielded a", "Yielding"] * 2
    assert reasons(task) == []


def test_the_version_of_what_was_yielded_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.csv", "1"), write(tmp_path, "b.csv", "2")
    task = Yielding(folder=str(tmp_path))
    run_task(task)
    monkeypatch.setattr(Yielded, "__version__", "2", raising=False)

    assert reasons(task) == [(Cause.VERSION, "Yielded.__version__", None, "2")]
    run_task(task, rerun_stale=True)

    assert notes(tmp_path, "ran") == ["Yielded a", "Yielding"] * 2
    assert reasons(task) == []


class Further(Yielded):
    """Stands between what is yielded and what that was made from."""

    def requires(self) -> Any:
        return Yielded(folder=self.folder, letter=self.letter)

    def output(self) -> Any:
        return LocalFileTarget(f"{self.folder}/further-{self.letter}.txt")


class YieldingFurther(Made):
    def run(self, output_path: Path) -> Iterator[Any]:
        further = yield Further(folder=self.folder, letter="a")
        output_path.write_text(further.read_text())


@pytest.mark.parametrize("lost", ["all", "record", "{", "{}"])
def test_what_was_yielded_is_made_anew_where_a_record_upstream_of_it_is_lost(tmp_path: Path, lost: str) -> None:
    write(tmp_path, "a.csv", "1")
    task = YieldingFurther(folder=str(tmp_path))
    run_task(task)
    assert reasons(task) == []
    write(tmp_path, "a.csv", "2")
    target = Yielded(folder=str(tmp_path), letter="a").output()
    if lost == "all":
        target.remove()
    elif lost == "record":
        target.metadata_path.unlink()
    else:
        target.metadata_path.write_text("{")

    told = (
        (Cause.INPUT_CHANGED, "yielded.0", fingerprint("1"), None) if lost == "all" else (Cause.NO_RECORD, str(target))
    )
    assert reasons(task)[0][: len(told)] == told
    run_task(task, rerun_stale=True)

    assert (tmp_path / "made.txt").read_text() == "2"
    assert reasons(task) == []


@pytest.mark.parametrize("kind", ["object", "prefix"])
def test_what_was_yielded_is_looked_at_in_s3(s3: S3, tmp_path: Path, kind: str) -> None:
    class Remote(Made):
        def run(self, output_path: Path) -> Iterator[Any]:
            yield External(f"s3://{s3.bucket}/a.csv" if kind == "object" else f"s3://{s3.bucket}/a/")
            output_path.touch()

    key = "a.csv" if kind == "object" else "a/1.csv"
    s3.put(key, b"1")
    task = Remote(folder=str(tmp_path))
    run_task(task)
    assert reasons(task) == []

    s3.put(key, b"2")

    assert [one[:2] for one in reasons(task)] == [(Cause.INPUT_CHANGED, "yielded.0")]


# Classes that are defined again, as in a notebook

DEFINED = '''
import luigi
from superluigi import AtomicTaskWithMetadata, LocalFileTarget


class Again(AtomicTaskWithMetadata):
    """A task."""

    folder = luigi.Parameter()
    __version__ = "1"

    def output(self):
        return LocalFileTarget(f"{self.folder}/again.txt")

    def run(self, output_path):
        output_path.write_text("1")
'''


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ('"1")\n', '"2")\n', Cause.CODE),
        ('__version__ = "1"', '__version__ = "2"', Cause.VERSION),
        ('    __version__ = "1"\n', "", Cause.VERSION),
        ('"""A task."""', '"""The same task."""', None),
        ("    def run", "    # It writes.\n\n    def run", None),
        ('write_text("1")', 'write_text(\n            "1"\n        )', None),
    ],
    ids=["code", "version", "no version", "docstring", "comment", "layout"],
)
def test_a_class_that_is_defined_again(tmp_path: Path, before: str, after: str, cause: Cause | None) -> None:
    def define(number: int, text: str) -> Any:
        path = tmp_path / f"edited_{number}_{tmp_path.name}.py"
        path.write_text(text)
        return imported(path).Again(folder=str(tmp_path))

    run_task(define(1, DEFINED))
    assert before in DEFINED

    assert [one[0] for one in reasons(define(2, DEFINED.replace(before, after)))] == ([cause] if cause else [])


# Together with the rest


def test_what_is_forced_is_told_as_forced_and_what_is_stale_beside_it_runs_too(tmp_path: Path) -> None:
    task = Last(folder=str(tmp_path), between="OwnWriter")
    write(tmp_path, "x.csv", "a1")
    run_task(task)
    write(tmp_path, "x.csv", "b1")

    plan = run_task(task, force=True, rerun_stale=True, dry_run=True)
    run_task(task, force=True, rerun_stale=True)

    found = {type(one.task).__name__: [reason.cause for reason in one.reasons] for one in plan if one.reasons}
    assert found == {"Root": [Cause.INPUT_CHANGED], "OwnWriter": [Cause.UPSTREAM], "Last": [Cause.FORCED]}
    assert notes(tmp_path, "ran")[3:] == ["Root", "OwnWriter", "Last"]


def test_a_task_that_fails_leaves_the_next_plan_as_it_was(tmp_path: Path) -> None:
    class Breaking(Made):
        def run(self, input_path: Any, output_path: Path) -> None:
            assert not (tmp_path / "broken").exists()
            output_path.write_text("made")

    task = Breaking(folder=str(tmp_path), reads={"a": write(tmp_path, "a.csv", "1")})
    run_task(task)
    write(tmp_path, "a.csv", "2"), write(tmp_path, "broken", "")
    before = reasons(task)

    with pytest.raises(TaskFailedError):
        run_task(task, rerun_stale=True)

    assert before
    assert reasons(task) == before
    assert (tmp_path / "made.txt").read_text() == "made"


def test_data_that_are_gone_are_missed_only_by_what_would_read_them(make: Callable[..., EditedGraph]) -> None:
    graph = make("fan")
    graph.run()
    graph.target("X").remove()
    graph.tasks["A"].version = "2"

    plan = {type(one.task).__name__: one for one in graph.plan(rerun_stale=True)}

    assert plan["X"].verdict is Verdict.RUN
    assert plan["D"].verdict is Verdict.SKIP
    with pytest.raises(TaskFailedError, match=r"(?s)1 task failed:.*X\(\): is made elsewhere, and does not exist"):
        graph.run(rerun_stale=True)
    assert graph.ran() == []


def test_a_group_that_is_asked_for_misses_data_that_are_gone(tmp_path: Path) -> None:
    class Whole(luigi.WrapperTask):
        def requires(self) -> Any:
            return [External(str(tmp_path / "a.csv")), Inner()]

    class Inner(luigi.WrapperTask):
        def requires(self) -> Any:
            return External(str(tmp_path / "b.csv"))

    write(tmp_path, "a.csv", "1"), write(tmp_path, "b.csv", "1")
    run_task(Whole(), rerun_stale=True)
    (tmp_path / "b.csv").unlink()

    with pytest.raises(TaskFailedError, match=r"b\.csv\): is made elsewhere, and does not exist"):
        run_task(Whole(), rerun_stale=True)


def test_the_setting_holds_where_the_argument_is_left_out(tmp_path: Path) -> None:
    config = {"superluigi": {"rerun_stale": "true"}}
    task = Made(folder=str(tmp_path), reads={"a": write(tmp_path, "a.csv", "1")})
    run_task(task, config=config)
    write(tmp_path, "a.csv", "2")

    assert len(run_task(task, dry_run=True, config=config)[task].reasons) == 1
    assert len(run_task(task, dry_run=True, config=config, rerun_stale=False)[task].reasons) == 0
    run_task(task, config=config)

    assert (tmp_path / "made.txt").read_text() == "2"


@pytest.mark.parametrize("argument", ["rerun_stale", "dry_run"])
@pytest.mark.parametrize("value", ["yes", 2, 1, []], ids=str)
def test_an_argument_that_is_no_yes_or_no_is_refused(tmp_path: Path, argument: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{argument} is"):
        run_task(Made(folder=str(tmp_path)), **{argument: value})


def test_a_long_chain_is_judged_in_a_time_that_grows_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()

    class Link(Made):
        number = luigi.IntParameter()

        def requires(self) -> Any:
            asked["requires"] += 1
            return self.clone(number=self.number - 1) if self.number else None

        def output(self) -> Any:
            return LocalFileTarget(f"{self.folder}/{self.number}.txt")

    length = 5000
    task = Link(folder=str(tmp_path), number=length - 1)
    read = LocalStore.stored_record
    monkeypatch.setattr(LocalStore, "stored_record", lambda self: asked.update(["records"]) or read(self))
    for number in range(length):
        write(tmp_path, f"{number}.txt", "")

    plan = run_task(task, rerun_stale=True, dry_run=True)

    assert len(plan) == length
    assert {one.reasons[0].cause for one in plan} == {Cause.NO_RECORD}
    assert asked["requires"] <= length
    assert asked["records"] <= 3 * length


# Records that are damaged or forged, and tasks that say by themselves whether they are complete


class Reads(AtomicTaskWithMetadata):
    def requires(self) -> Any:
        return External("raw.txt")

    def output(self) -> Any:
        return LocalFileTarget("reads.txt")

    def run(self, input_path: Path, output_path: Path) -> None:
        output_path.write_text(input_path.read_text())


_INPUT = {"path": "raw.txt", "fingerprint": "sha256:00", "task_family": "A", "task_id": "a", "metadata_path": "m.json"}
UNREADABLE: dict[str, dict[str, Any]] = {
    "schema": {"schema": "superluigi/9"},
    "task_family": {"task_family": [1]},
    "path of an input": {"input": {**_INPUT, "path": ["raw.txt"]}},
    "params": {"params": [1]},
    "output": {"output": [1]},
    "dynamic_input": {"dynamic_input": [3, "x"]},
    "address": {"dynamic_input": [{**_INPUT, "path": "s3://", "metadata_path": "s3://"}]},
    "address of a record": {"dynamic_input": [{**_INPUT, "metadata_path": "s3://bucket/"}]},
    "no path": {"dynamic_input": [{**_INPUT, "path": "a\0b"}]},
    "too long a path": {"dynamic_input": [{**_INPUT, "path": "a" * 300}]},
    "in_memory": {"in_memory": {"a": {"params": 3}}},
}


@pytest.mark.parametrize("field", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_record_that_cannot_be_read_is_none_and_the_run_makes_the_task_again(
    field: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "raw.txt").write_text("1")
    run_task(Reads())
    path = tmp_path / "reads.txt.metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **field}))

    reasons = plan(Reads(), rerun_stale=True)[Reads()].reasons
    run_task(Reads(), rerun_stale=True)

    assert [reason.cause for reason in reasons] == [Cause.NO_RECORD]
    assert plan(Reads(), rerun_stale=True)[Reads()].verdict is Verdict.SKIP


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999"])
def test_a_record_that_holds_no_finite_number_is_damaged_and_replaced(value: str, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("1")
    run_task(Reads())
    path = tmp_path / "reads.txt.metadata.json"
    path.write_text(path.read_text().replace('"duration": ', f'"duration": {value}, "was": '))

    assert str(plan(Reads(), force=True)).startswith("1 to run")
    run_task(Reads(), rerun_stale=True)

    assert plan(Reads(), rerun_stale=True)[Reads()].verdict is Verdict.SKIP


def test_an_input_whose_recorded_path_is_an_empty_list_is_another_input(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("1")
    run_task(Reads())
    path = tmp_path / "reads.txt.metadata.json"
    odd = {"path": [], "fingerprint": None, "task_family": None, "task_id": None, "metadata_path": None}
    path.write_text(json.dumps({**json.loads(path.read_text()), "input": odd}))

    (reason,) = plan(Reads(), rerun_stale=True)[Reads()].reasons

    assert reason.cause is Cause.INPUT_ADDED


def test_data_that_are_not_there_of_a_task_with_its_own_complete_are_not_judged(tmp_path: Path) -> None:
    class Elsewhere(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return LocalFileTarget("never-there.txt")

        def complete(self) -> bool:
            return True

        def run(self, output_path: Path) -> None:
            output_path.write_text("again")

    run_task(Elsewhere(), rerun_stale=True)

    assert plan(Elsewhere(), rerun_stale=True)[Elsewhere()].verdict is Verdict.SKIP
    assert not (tmp_path / "never-there.txt").exists()


@pytest.mark.parametrize("kind", ["sha256", "sha256-tree", "etag"])
def test_digests_of_every_kind_are_shortened_in_reasons(kind: str) -> None:
    told = str(Reason(Cause.INPUT_CHANGED, "x", f"{kind}:{'0123456789abcdef' * 2}", f"{kind}:{'f' * 32}"))

    assert told == f"the input x changed: it was {kind}:0123456789ab, and is {kind}:ffffffffffff"
