"""Nested values and the walk over a graph: nesting is kept, each node is visited once, cycles are printed."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import luigi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superluigi import CycleError, LocalFileTarget, Task, TaskTypeError, dag


class Pair(NamedTuple):
    left: Any
    right: Any


SCALARS = st.integers() | st.text(max_size=3)
NESTED = st.recursive(
    st.none() | SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=20,
)


class Leaf(luigi.Task):
    name = luigi.Parameter(default="leaf")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("a", "A", id="lone-text"),
        pytest.param(["a", "b"], ["A", "B"], id="list"),
        pytest.param(("a", "b"), ("A", "B"), id="tuple"),
        pytest.param((), (), id="empty-tuple"),
        pytest.param(Pair("a", ["b"]), Pair("A", ["B"]), id="named-tuple"),
        pytest.param({"x": "a", 1: ["b", None]}, {"x": "A", 1: ["B", None]}, id="dict"),
        pytest.param(MappingProxyType({"x": "a"}), {"x": "A"}, id="any-mapping"),
        pytest.param(iter(["a", "b"]), ["A", "B"], id="iterator"),
        pytest.param({"a"}, ["A"], id="set"),
    ],
)
def test_a_function_is_applied_to_every_leaf_and_the_nesting_is_kept(value: Any, expected: Any) -> None:
    result = dag.map_nested(str.upper, value)

    assert result == expected
    assert type(result) is type(expected)


def test_tasks_and_targets_are_leaves_although_a_target_may_be_iterable() -> None:
    class Rows(luigi.Target):
        def exists(self) -> bool:
            return True

        def __iter__(self) -> Iterator[int]:
            return iter([1, 2])

    rows = Rows()

    assert dag.map_nested(id, [rows, Leaf()]) == [id(rows), id(Leaf())]
    assert list(dag.leaves([rows, b"bytes"])) == [((0,), rows), ((1,), b"bytes")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(None, [], id="none"),
        pytest.param("a", [((), "a")], id="lone"),
        pytest.param(["a", ["b", "c"]], [((0,), "a"), ((1, 0), "b"), ((1, 1), "c")], id="nested-list"),
        pytest.param({"y": "a", "x": ("b",)}, [(("y",), "a"), (("x", 0), "b")], id="dict-in-its-order"),
        pytest.param({1: "a"}, [((1,), "a")], id="number-as-key"),
        pytest.param({True: "a"}, [(("bool:True",), "a")], id="boolean-as-key"),
        pytest.param({None: "a", 1.5: "b"}, [(("NoneType:None",), "a"), (("float:1.5",), "b")], id="other-keys"),
        pytest.param({"x": {"a"}}, [(("x", None), "a")], id="set"),
        pytest.param(["a", None, []], [((0,), "a")], id="nothing-within"),
        pytest.param((item for item in "ab"), [((0,), "a"), ((1,), "b")], id="generator"),
    ],
)
def test_each_leaf_comes_with_the_keys_and_positions_that_lead_to_it(value: Any, expected: Any) -> None:
    assert list(dag.leaves(value)) == expected


@given(NESTED)
def test_the_leaves_are_those_that_a_function_is_applied_to_in_the_same_order(value: Any) -> None:
    seen: list[Any] = []

    mapped = dag.map_nested(lambda leaf: seen.append(leaf) or leaf, value)

    assert mapped == value
    assert [leaf for _, leaf in dag.leaves(value)] == seen
    assert len({role for role, _ in dag.leaves(value)}) == len(seen)


def test_a_value_that_is_nested_ten_thousand_deep_has_its_leaf() -> None:
    value: Any = "bottom"
    for _ in range(10_000):
        value = [value]

    ((role, leaf),) = dag.leaves(value)

    assert leaf == "bottom"
    assert len(role) == 10_000


def test_what_deps_adds_to_requires_comes_last_and_without_a_role() -> None:
    class WithDeps(luigi.Task):
        def requires(self) -> Any:
            return {"x": Leaf()}

        def deps(self) -> Any:
            return [*super().deps(), Leaf(name="extra")]

    assert dag.required(WithDeps()) == [(("x",), Leaf()), ((None,), Leaf(name="extra"))]
    assert dag.upstream_of(WithDeps()) == [Leaf(), Leaf(name="extra")]


@pytest.mark.parametrize("name", ["deps", "_requires"])
def test_what_a_class_adds_to_what_it_inherits_comes_last(name: str) -> None:
    def added(self: Any) -> Any:
        return [*getattr(super(Adding, self), name)(), Leaf(name="extra")]

    class Adding(Task):
        def requires(self) -> Any:
            return {"x": Leaf()}

    setattr(Adding, name, added)

    assert dag.upstream_of(Adding()) == [Leaf(), Leaf(name="extra")]
    assert list(Adding().deps()) == [Leaf(), Leaf(name="extra")]


@pytest.mark.parametrize(
    ("given_back", "message"),
    [
        (LocalFileTarget("raw.csv"), r"gives the target LocalFileTarget\('raw.csv'\)\. Wrap it: External\(path\)"),
        (luigi.LocalTarget("raw.csv"), r"gives the target .*Wrap it"),
        (Leaf, r"gives <class .*Leaf'>, a Register\. Give tasks"),
        ("raw.csv", r"gives 'raw.csv', a str\. Give tasks"),
        (Path("raw.csv"), r"gives PosixPath\('raw.csv'\)"),
        ([Leaf(), 3], r"gives 3, a int"),
    ],
    ids=["target", "luigi-target", "class", "text", "path", "number-in-a-list"],
)
def test_whatever_is_no_task_is_refused_with_what_it_is(given_back: Any, message: str) -> None:
    class Wrong(luigi.Task):
        def requires(self) -> Any:
            return given_back

    with pytest.raises(TaskTypeError, match=message) as caught:
        dag.required(Wrong())

    assert isinstance(caught.value, TypeError)


def graphs() -> st.SearchStrategy[dict[int, list[int]]]:
    """Graphs without a cycle: every node leads to smaller ones only."""
    return st.integers(1, 12).flatmap(
        lambda size: st.fixed_dictionaries(
            {node: st.lists(st.integers(0, node - 1), max_size=4) if node else st.just([]) for node in range(size)}
        )
    )


@given(graphs())
def test_each_node_comes_once_and_after_all_that_it_leads_to(graph: dict[int, list[int]]) -> None:
    asked: list[int] = []

    def edges(node: int) -> list[int]:
        asked.append(node)
        return graph[node]

    order = dag.walk(graph, edges)

    assert sorted(order) == sorted(asked) == sorted(graph)
    assert order == {node: tuple(upstream) for node, upstream in graph.items()}
    positions = {node: position for position, node in enumerate(order)}
    assert all(positions[upstream] < positions[node] for node in order for upstream in order[node])


def test_only_what_the_roots_lead_to_is_visited() -> None:
    assert list(dag.walk([1], {1: [0], 0: [], 2: [1]}.__getitem__)) == [0, 1]
    assert dag.walk([], lambda node: [node]) == {}


def test_a_chain_deeper_than_pythons_stack_is_walked() -> None:
    assert list(dag.walk([5_000], lambda node: [node - 1] if node else [])) == list(range(5_001))


def test_a_node_with_many_edges_costs_no_more_than_its_edges() -> None:
    looked_at = 0

    def edges(node: int) -> Iterator[int]:
        nonlocal looked_at
        for following in range(node):
            looked_at += 1
            yield following

    dag.walk([300], edges)

    assert looked_at == sum(range(301))


@pytest.mark.parametrize(
    ("graph", "circle"),
    [
        ({0: [0]}, ("0",)),
        ({0: [1], 1: [0]}, ("0", "1")),
        ({0: [1], 1: [2, 3], 2: [], 3: [4], 4: [1]}, ("1", "3", "4")),
    ],
    ids=["itself", "two", "behind-a-tail"],
)
def test_a_circle_is_printed_from_where_it_begins_to_where_it_closes(
    graph: dict[int, list[int]], circle: tuple[str, ...]
) -> None:
    with pytest.raises(CycleError) as caught:
        dag.walk([0], graph.__getitem__)

    assert caught.value.tasks == circle
    assert " -> ".join([*circle, circle[0]]) in str(caught.value)
    assert isinstance(caught.value, ValueError)
