"""What makes a task stale, and that `rerun_stale` makes again what is, and nothing else."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import pytest
from edited_graphs import GRAPHS, PLACES, EditedGraph
from engines import Engine, engines
from hypothesis import given, settings
from hypothesis import strategies as st

from superluigi import run_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
"""
ROWS = {
    " ".join(line.split()[:-3]): dict(zip(GRAPHS, line.split()[-3:], strict=True)) for line in TABLE.split("\n")[1:-1]
}
CASES = [(shape, change, runs[shape].replace("-", "")) for change, runs in ROWS.items() for shape in GRAPHS]
IDS = [f"{shape}: {change}" for shape, change, _ in CASES]
IN_S3 = ("input", "input, cut off", "code of A", "version of B", "A deleted", "A altered", "record of A deleted")


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
        assert graph.values() == anew.values()
