"""Which tasks run: the forcing table, and what a forced run leaves behind.

A graph is written as lines `name: what it requires`, in an order in which each task comes after what it requires.
Every task appends its name to one file at the end of its `run`, which is safe between processes.

The whole table is run in this process. In forked processes and on each kind of pool each row is run on one of them, by
turns, so that each of them has each shape and each argument; the graphs' first runs are run on all. The classes are
made inside a function, so they travel to the pools by value.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import luigi
import pytest

from superluigi import (
    AtomicTaskWithMetadata,
    ConfigError,
    ExternalTask,
    LocalFileTarget,
    Task,
    TaskFailedError,
    TaskTypeError,
    UnknownTaskError,
    run_task,
)

WORKERS = pytest.mark.parametrize("num_workers", [1, 4], ids=["1-worker", "4-workers"])

ENGINES = ("1-worker", "4-workers", "threads", "spawn", "dask")

SHAPES = {
    "single": "A:",
    "chain": "A: | B: A | C: B",
    "diamond": "A: | B: A | C: A | D: B C",
    "fan-in": "A: | B: | C: | D: A B C",
    "fan-out": "A: | B: A | C: A | D: A | roots: B C D",
    "layered": "A: | B: | C: A B | D: A B | E: C D | F: C D | G: E F",
    "external": "external X: | A: X | B: | C: A B",
    "plain-between": "A: | plain P: A | wrapper W: P | B: W | C: A | D: B C",
    "plain-root": "A: | B: A | wrapper W: B",
    "plain-below": "plain P: | A: P | B: | C: A B",
    "shared": "A: | B: A | C: A B | D: B | roots: C D",
    "root-below-root": "A: | B: A | C: B | roots: C B",
    "dynamic": "A: | yielded Y: A | B: | dynamic R: B",
}

# shape, argument, its value, what runs. Values are names: of tasks, or with `.` before them of classes.
TABLE = """
single          force                        yes      A
single          force_upstream               yes      A
single          force_upstream_to_task       A        A
single          force_upstream_to_task_cls   .A       A
chain           force                        yes      C
chain           force_upstream               yes      A B C
chain           force_upstream_to_task       A        A B C
chain           force_upstream_to_task       B        B C
chain           force_upstream_to_task       C        C
chain           force_upstream_to_task_cls   .A       A B C
chain           force_upstream_to_task_cls   'B       B C
chain           force_upstream_to_task_cls   .C       C
chain           force_upstream_to_task_cls   .A,'B    A B C
diamond         force                        yes      D
diamond         force_upstream               yes      A B C D
diamond         force_upstream_to_task       A        A B C D
diamond         force_upstream_to_task       B        B D
diamond         force_upstream_to_task       B,C      B C D
diamond         force_upstream_to_task_cls   .C       C D
diamond         force_upstream_to_task_cls   'A       A B C D
diamond         force_upstream_to_task_cls   .B,.C    B C D
fan-in          force                        yes      D
fan-in          force_upstream               yes      A B C D
fan-in          force_upstream_to_task       B        B D
fan-in          force_upstream_to_task       A,C      A C D
fan-in          force_upstream_to_task_cls   'C       C D
fan-out         force                        yes      B C D
fan-out         force_upstream               yes      A B C D
fan-out         force_upstream_to_task       A        A B C D
fan-out         force_upstream_to_task_cls   .A       A B C D
fan-out         force_upstream_to_task_cls   .B       B
layered         force                        yes      G
layered         force_upstream               yes      A B C D E F G
layered         force_upstream_to_task       A        A C D E F G
layered         force_upstream_to_task       C        C E F G
layered         force_upstream_to_task       B,F      B C D E F G
layered         force_upstream_to_task_cls   .E       E G
layered         force_upstream_to_task_cls   .E,.D    D E F G
external        force                        yes      C
external        force_upstream               yes      A B C
external        force_upstream_to_task       X        A C
external        force_upstream_to_task_cls   .X       A C
external        force_upstream_to_task_cls   'X,.B    A B C
plain-between   force                        yes      D
plain-between   force_upstream               yes      A P W B C D
plain-between   force_upstream_to_task       A        A P W B C D
plain-between   force_upstream_to_task       P        P W B D
plain-between   force_upstream_to_task       W        W B D
plain-between   force_upstream_to_task_cls   .P       P W B D
plain-between   force_upstream_to_task_cls   'W       W B D
plain-between   force_upstream_to_task_cls   .C       C D
plain-root      force                        yes      W
plain-root      force_upstream               yes      A B W
plain-root      force_upstream_to_task       A        A B W
plain-root      force_upstream_to_task_cls   .B       B W
plain-below     force                        yes      C
plain-below     force_upstream               yes      P A B C
plain-below     force_upstream_to_task       P        P A C
plain-below     force_upstream_to_task_cls   'P       P A C
shared          force                        yes      C D
shared          force_upstream               yes      A B C D
shared          force_upstream_to_task       A        A B C D
shared          force_upstream_to_task       B        B C D
shared          force_upstream_to_task       C        C
shared          force_upstream_to_task_cls   .B       B C D
root-below-root force                        yes      B C
root-below-root force_upstream               yes      A B C
root-below-root force_upstream_to_task       B        B C
root-below-root force_upstream_to_task_cls   .A       A B C
dynamic         force                        yes      R
dynamic         force_upstream               yes      A Y B R
dynamic         force_upstream_to_task       B        B R
dynamic         force_upstream_to_task_cls   .B       B R
"""
ROWS = [line.split(maxsplit=3) for line in TABLE.strip().splitlines()]


class Journal:
    """The names of the tasks that ran since the last look, from all processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str) -> None:
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(f"{name}\n")

    def take(self) -> list[str]:
        names = self.path.read_text(encoding="utf-8").split() if self.path.exists() else []
        self.path.unlink(missing_ok=True)
        return names


class Graph:
    """One task, and one class of its own, per name of a shape."""

    def __init__(self, shape: str, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self.tasks: dict[str, luigi.Task] = {}
        self.roots: list[luigi.Task] = []
        for line in shape.split("|"):
            head, _, upstream = line.partition(":")
            required = [self.tasks[name] for name in upstream.split()]
            if head.strip() == "roots":
                self.roots = required
            else:
                *kind, name = head.split()
                self.tasks[name] = KINDS["".join(kind)](self, name, required)
        self.roots = self.roots or [list(self.tasks.values())[-1]]

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def fails_at(self, *names: str) -> None:
        for name in names:
            (self.folder / f"{name}.broken").touch()

    def heals(self) -> None:
        for path in self.folder.glob("*.broken"):
            path.unlink()

    def enter(self, name: str) -> None:
        if (self.folder / f"{name}.broken").exists():
            message = f"{name} is broken"
            raise ValueError(message)
        self.journal.add(name)

    def contents(self) -> dict[str, bytes]:
        """Every file but the journal and what breaks tasks: outputs and lineage records."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.name: path.read_bytes() for path in found if path.suffix not in ("", ".broken")}

    def run(self, **options: Any) -> list[str]:
        run_task(self.roots if len(self.roots) > 1 else self.roots[0], **options)
        return self.journal.take()

    def value_of(self, argument: str, text: str) -> Any:
        """What a row of the table names: True, tasks, classes (`.A`) and names of classes (`'A`), alone or several."""
        if text == "yes":
            return True
        found = [self._named(name) for name in text.split(",")]
        return found if len(found) > 1 else found[0]

    def _named(self, name: str) -> Any:
        if name.startswith("."):
            return type(self.tasks[name[1:]])
        return name[1:] if name.startswith("'") else self.tasks[name]


def atomic(graph: Graph, name: str, required: list[luigi.Task]) -> luigi.Task:
    def run(self: Any, output_path: Path) -> None:
        output_path.write_text(name)
        graph.enter(name)

    return _made(AtomicTaskWithMetadata, name, required, LocalFileTarget(graph.path(name)), run)


def plain(graph: Graph, name: str, required: list[luigi.Task]) -> luigi.Task:
    def run(self: Any) -> None:
        graph.enter(name)
        with self.output().open("w") as stream:
            stream.write(name)

    return _made(luigi.Task, name, required, luigi.LocalTarget(str(graph.path(name))), run)


def wrapper(graph: Graph, name: str, required: list[luigi.Task]) -> luigi.Task:
    def run(self: Any) -> None:
        graph.enter(name)

    return _made(luigi.WrapperTask, name, required, [], run)


def external(graph: Graph, name: str, required: list[luigi.Task]) -> luigi.Task:
    graph.path(name).write_text("raw")
    return _made(ExternalTask, name, required, LocalFileTarget(graph.path(name)), None)


def dynamic(graph: Graph, name: str, required: list[luigi.Task]) -> luigi.Task:
    def run(self: Any, output_path: Path) -> Iterator[luigi.Task]:
        yield graph.tasks["Y"]
        output_path.write_text(name)
        graph.enter(name)

    return _made(AtomicTaskWithMetadata, name, required, LocalFileTarget(graph.path(name)), run)


KINDS: dict[str, Callable[[Graph, str, list[luigi.Task]], luigi.Task]] = {
    "": atomic,
    "yielded": atomic,
    "plain": plain,
    "wrapper": wrapper,
    "external": external,
    "dynamic": dynamic,
}


def _made(base: Any, name: str, required: list[luigi.Task], output: Any, run: Any) -> luigi.Task:
    members = {"run": run, "requires": lambda self: required, "output": lambda self: output, "__module__": __name__}
    return type(base)(name, (base,), {**members, "__qualname__": name, "task_namespace": "forcing"})()


@pytest.fixture
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Graph:
    return Graph(SHAPES[request.param], tmp_path)


def shaped(*names: str) -> Any:
    return pytest.mark.parametrize("graph", names, ids=names, indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest, pools: Callable[[str], Any]) -> dict[str, Any]:
    """The options of run_task that say where tasks run."""
    number, _, workers = request.param.partition("-")
    return {"num_workers": int(number)} if workers else {"executor": pools(number)}


def rows_by_engine() -> list[tuple[str, list[str]]]:
    """All rows in this process, and each once elsewhere: dealt, so that four rows of a shape reach all four."""
    elsewhere = [engine for engine in ENGINES if engine != "1-worker"]
    dealt = [(elsewhere[position % len(elsewhere)], row) for position, row in enumerate(ROWS)]
    return [("1-worker", row) for row in ROWS] + sorted(dealt, key=lambda pair: ENGINES.index(pair[0]))


def test_each_engine_is_given_each_shape_and_each_argument_and_each_row_runs_elsewhere_too() -> None:
    given = rows_by_engine()
    arguments = {row[1] for row in ROWS}

    assert {(engine, row[0]) for engine, row in given} == {(engine, shape) for engine in ENGINES for shape in SHAPES}
    assert {(engine, row[1]) for engine, row in given} == {(engine, name) for engine in ENGINES for name in arguments}
    assert [row for engine, row in given if engine == "1-worker"] == ROWS
    assert sorted(row for engine, row in given if engine != "1-worker") == sorted(ROWS)


@pytest.mark.parametrize(
    ("engine", "graph", "argument", "value", "expected"),
    [(engine, *row) for engine, row in rows_by_engine()],
    ids=["-".join([engine, *row[:3]]) for engine, row in rows_by_engine()],
    indirect=["engine", "graph"],
)
def test_exactly_the_forced_tasks_run_each_once_and_after_what_it_requires(
    graph: Graph, argument: str, value: str, expected: str, engine: dict[str, Any]
) -> None:
    graph.run()

    ran = graph.run(**{argument: graph.value_of(argument, value)}, **engine)

    assert sorted(ran) == sorted(expected.split())
    for name in ran:
        required = [upstream.get_task_family().partition(".")[2] for upstream in graph.tasks[name].deps()]
        assert all(ran.index(upstream) < ran.index(name) for upstream in required if upstream in ran)
    assert graph.run(**engine) == []


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@shaped(*SHAPES)
def test_a_first_run_makes_what_is_missing_and_nothing_else(graph: Graph, engine: dict[str, Any]) -> None:
    external_names = {name for name, task in graph.tasks.items() if task.run is None}

    first = graph.run(**engine)
    second = graph.run(**engine)

    assert sorted(first) == sorted(set(graph.tasks) - external_names)
    assert second == []


@WORKERS
def test_of_a_half_made_graph_only_what_is_missing_is_made(tmp_path: Path, num_workers: int) -> None:
    graph = Graph(SHAPES["layered"], tmp_path)
    graph.run()
    for name in ("A", "E", "G"):
        graph.path(name).unlink()

    assert sorted(graph.run(num_workers=num_workers)) == ["E", "G"]  # A is missing, but nothing that runs needs it
    graph.path("G").unlink()
    graph.path("C").unlink()
    assert sorted(graph.run(num_workers=num_workers)) == ["G"]


@WORKERS
def test_a_forced_run_also_makes_what_is_missing_below_a_forced_task(tmp_path: Path, num_workers: int) -> None:
    graph = Graph(SHAPES["chain"], tmp_path)
    graph.run()
    graph.path("A").unlink()
    graph.path("B").unlink()

    assert graph.run(force=True, num_workers=num_workers) == ["A", "B", "C"]


@WORKERS
@pytest.mark.parametrize(
    ("options", "ran_before_it_failed"),
    [
        pytest.param({"force": True}, [], id="force"),
        pytest.param({"force_upstream": True}, ["A", "B", "C"], id="force_upstream"),
        pytest.param({"force_upstream_to_task_cls": "B"}, ["B"], id="force_upstream_to_task_cls"),
    ],
)
def test_a_forced_run_that_fails_leaves_the_old_output_and_the_next_plain_run_is_plain(
    options: dict[str, Any], ran_before_it_failed: list[str], tmp_path: Path, num_workers: int
) -> None:
    graph = Graph(SHAPES["diamond"], tmp_path)
    graph.run()
    before = graph.contents()
    graph.fails_at("D")

    with pytest.raises(TaskFailedError, match="D is broken"):
        graph.run(**options, num_workers=num_workers)

    after = graph.contents()
    assert sorted(graph.journal.take()) == ran_before_it_failed
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {
        f"{name}.txt.metadata.json" for name in ran_before_it_failed
    }
    assert list(tmp_path.glob(".*")) == []
    graph.heals()
    assert graph.run(num_workers=num_workers) == []
    assert graph.contents() == after


@WORKERS
def test_a_failure_at_the_bottom_leaves_every_output_and_record_as_it_was(tmp_path: Path, num_workers: int) -> None:
    graph = Graph(SHAPES["diamond"], tmp_path)
    graph.run()
    before = graph.contents()
    graph.fails_at("A")

    with pytest.raises(TaskFailedError, match="A is broken"):
        graph.run(force_upstream=True, num_workers=num_workers)

    assert graph.journal.take() == []
    assert graph.contents() == before
    assert graph.run() == []


def test_a_forced_run_ended_by_raise_exception_is_forgotten_as_well(tmp_path: Path) -> None:
    graph = Graph(SHAPES["chain"], tmp_path)
    graph.run()
    before = graph.contents()
    graph.fails_at("A")

    with pytest.raises(ValueError, match="A is broken"):
        graph.run(force_upstream=True, raise_exception=True)

    assert graph.contents() == before
    assert graph.run() == []


@WORKERS
def test_two_forced_runs_in_a_row_force_twice(tmp_path: Path, num_workers: int) -> None:
    graph = Graph(SHAPES["plain-between"], tmp_path)
    graph.run()

    first = graph.run(force_upstream_to_task_cls="P", num_workers=num_workers)
    second = graph.run(force_upstream_to_task_cls="P", num_workers=num_workers)

    assert first == second == ["P", "W", "B", "D"]


def test_forcing_leaves_nothing_on_the_tasks(tmp_path: Path) -> None:
    graph = Graph(SHAPES["plain-between"], tmp_path)
    graph.run()
    before = {name: set(vars(task)) for name, task in graph.tasks.items()}

    graph.run(force_upstream=True)

    assert {name: set(vars(task)) for name, task in graph.tasks.items()} == before
    assert all(task.complete() for task in graph.tasks.values())


@WORKERS
def test_a_forced_record_is_of_the_forced_run(tmp_path: Path, num_workers: int) -> None:
    graph = Graph(SHAPES["chain"], tmp_path)
    graph.run()
    first = graph.tasks["C"].output().read_metadata()["run_id"]

    graph.run(force=True, num_workers=num_workers)

    assert graph.tasks["C"].output().read_metadata()["run_id"] != first
    assert graph.tasks["B"].output().read_metadata()["run_id"] == first


@WORKERS
@shaped("dynamic")
def test_what_a_run_yields_is_made_where_it_is_missing(graph: Graph, num_workers: int) -> None:
    graph.run()
    graph.path("Y").unlink()

    assert graph.run(force=True, num_workers=num_workers) == ["Y", "R"]


def test_a_parameter_tells_apart_the_tasks_of_one_forced_class(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")

    class Part(Task):
        number = luigi.IntParameter()

        def output(self) -> LocalFileTarget:
            return LocalFileTarget(tmp_path / f"{self.number}.txt")

        def run(self) -> None:
            journal.add(f"part{self.number}")
            self.output().path.touch()

    class Whole(Part):
        number = luigi.IntParameter(default=0)

        def requires(self) -> list[luigi.Task]:
            return [Part(number=1), Part(number=2)]

    run_task(Whole())
    journal.take()

    run_task(Whole(), force_upstream_to_task=Part(number=2))
    assert journal.take() == ["part2", "part0"]
    run_task(Whole(), force_upstream_to_task_cls="Part")
    assert sorted(journal.take()) == ["part0", "part1", "part2"]


def test_a_base_class_names_all_tasks_that_derive_from_it(tmp_path: Path) -> None:
    graph = Graph(SHAPES["plain-below"], tmp_path)
    graph.run()

    ran = graph.run(force_upstream_to_task_cls=AtomicTaskWithMetadata)

    assert sorted(ran) == ["A", "B", "C"]


def test_a_class_that_was_defined_again_is_named_by_the_former_one(tmp_path: Path) -> None:
    former = type(Graph("A: | B: A", tmp_path).tasks["A"])
    graph = Graph("A: | B: A | C:", tmp_path)
    graph.roots = [graph.tasks["B"]]
    graph.run()

    assert former is not type(graph.tasks["A"])
    assert graph.run(force_upstream_to_task_cls=former) == ["A", "B"]


@pytest.mark.parametrize(
    "value", [("A", "'B"), ("'forcing.A",), ("'forcing.A", ".B")], ids=["tuple", "family", "family-and-class"]
)
def test_classes_are_named_alone_or_in_any_collection(value: tuple[str, ...], tmp_path: Path) -> None:
    graph = Graph(SHAPES["chain"], tmp_path)
    graph.run()
    classes = {graph._named(name) for name in value if name != "A"} | ({"A"} if "A" in value else set())

    for collection in (list, tuple, set, frozenset):
        assert graph.run(force_upstream_to_task_cls=collection(classes)) == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("argument", "value", "named"),
    [
        ("force_upstream_to_task", "Z", "forcing.Z"),
        ("force_upstream_to_task", "A,Z", "forcing.Z"),
        ("force_upstream_to_task_cls", ".Z", "Z"),
        ("force_upstream_to_task_cls", "'Z", "Z"),
        ("force_upstream_to_task_cls", ".A,'Zz", "Zz"),
    ],
    ids=["task", "one-of-two-tasks", "class", "name", "one-of-two-classes"],
)
def test_a_name_that_is_nowhere_upstream_is_an_error_and_nothing_runs(
    argument: str, value: str, named: str, tmp_path: Path
) -> None:
    graph = Graph("Z: | A: | B: A", tmp_path)
    graph.tasks["Zz"] = graph.tasks["Z"]

    with pytest.raises(UnknownTaskError) as caught:
        graph.run(**{argument: graph.value_of(argument, value)})

    assert caught.value.name.startswith(named)
    assert caught.value.root == str(graph.tasks["B"])
    assert caught.value.candidates == ("forcing.A",)  # and not B, which is the root itself
    assert "Upstream are: forcing.A." in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert graph.journal.take() == []
    assert not graph.path("A").exists()


def test_a_task_that_a_run_yields_cannot_be_named_and_the_error_says_why(tmp_path: Path) -> None:
    graph = Graph(SHAPES["dynamic"], tmp_path)
    graph.run()

    with pytest.raises(UnknownTaskError, match=r"tasks that a run\(\) yields are not searched"):
        graph.run(force_upstream_to_task=graph.tasks["Y"])

    assert graph.journal.take() == []


PAIRS = [
    ("force", "force_upstream"),
    ("force", "force_upstream_to_task"),
    ("force", "force_upstream_to_task_cls"),
    ("force_upstream", "force_upstream_to_task"),
    ("force_upstream", "force_upstream_to_task_cls"),
    ("force_upstream_to_task", "force_upstream_to_task_cls"),
]


@pytest.mark.parametrize("pair", PAIRS, ids=["+".join(pair) for pair in PAIRS])
def test_two_arguments_together_are_an_error_and_nothing_runs(pair: tuple[str, str], tmp_path: Path) -> None:
    graph = Graph(SHAPES["chain"], tmp_path)
    values = {
        "force": True,
        "force_upstream": True,
        "force_upstream_to_task": graph.tasks["A"],
        "force_upstream_to_task_cls": "A",
    }

    with pytest.raises(ConfigError, match=f"{pair[0]} and {pair[1]} are given together.*Give one of them"):
        graph.run(**{name: values[name] for name in pair})

    assert graph.journal.take() == []


@pytest.mark.parametrize(
    ("options", "error_cls", "message"),
    [
        pytest.param({"force_upstream_to_task": "A"}, TaskTypeError, "force_upstream_to_task_cls", id="name-as-task"),
        pytest.param({"force_upstream_to_task": Task}, TaskTypeError, "takes tasks", id="class-as-task"),
        pytest.param({"force_upstream_to_task": [3]}, TaskTypeError, "is 3, a int", id="number-as-task"),
        pytest.param({"force_upstream_to_task_cls": 3}, TaskTypeError, "is 3, but takes task classes", id="number"),
        pytest.param({"force_upstream_to_task_cls": [int]}, TaskTypeError, "<class 'int'>", id="class-of-no-task"),
        pytest.param({"force_upstream_to_task": []}, ConfigError, "is empty", id="no-tasks"),
        pytest.param({"force_upstream_to_task_cls": ()}, ConfigError, "is empty", id="no-classes"),
    ],
)
def test_what_names_no_task_is_an_error_and_nothing_runs(
    options: dict[str, Any], error_cls: type[Exception], message: str, tmp_path: Path
) -> None:
    graph = Graph(SHAPES["chain"], tmp_path)

    with pytest.raises(error_cls, match=message):
        graph.run(**options)

    assert graph.journal.take() == []
    assert os.listdir(tmp_path) == []
