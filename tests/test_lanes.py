"""Which rows tasks fill, and which chain of them is the longest."""

import itertools
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superluigi.running.lanes import Stretch, assigned, lanes_of, longest_chain
from superluigi.running.progress import Site

HERE = Site(socket.gethostname(), os.getpid())
SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)).map(lambda span: (span[0], span[0] + span[1])))


@given(SPANS.map(sorted))
def test_spans_on_one_row_do_not_overlap_and_rows_are_as_few_as_can_be(spans) -> None:
    rows = assigned(spans)

    for row in set(rows):
        own = [span for span, its_row in zip(spans, rows, strict=True) if its_row == row]
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))
    at_a_time = [sum(begin <= instant < end for begin, end in spans) for instant in range(60)]
    assert len(set(rows)) == max(at_a_time)


@pytest.mark.parametrize(
    ("places", "names"),
    [
        pytest.param([HERE, HERE], ["this process"], id="here"),
        pytest.param([Site("a", 1), Site("a", 2)], ["worker 1"], id="processes of their own"),
        pytest.param([Site("a", 1), Site("a", 1)], ["process 1"], id="a process of a pool"),
        pytest.param([Site("a", 1), Site("b", 2)], ["a worker 1", "b worker 1"], id="two machines"),
        pytest.param([Site("a", 1, "tcp://1"), Site("a", 1, "tcp://2")], ["tcp://1", "tcp://2"], id="workers of Dask"),
        pytest.param([Site(), Site("a", 2)], ["not known", "worker 1"], id="a pool that was lost"),
    ],
)
def test_a_row_is_named_by_what_ran_there(places, names) -> None:
    stretches = [Stretch(str(number), number, number + 1, place) for number, place in enumerate(places)]

    lanes = lanes_of(stretches)

    assert [lane.name for lane in lanes] == names
    assert sum(lane.busy_s for lane in lanes) == len(places)
    assert {stretch.lane for stretch in stretches} == set(range(len(names)))


def test_what_runs_at_a_time_in_one_process_is_in_threads() -> None:
    lanes = lanes_of([Stretch("a", 0, 2, HERE), Stretch("b", 1, 3, HERE), Stretch("c", 2, 3, HERE)])

    assert [(lane.name, lane.busy_s) for lane in lanes] == [("thread 1", 3), ("thread 2", 2)]


def test_what_waits_at_a_time_on_one_loop_is_not_called_threads() -> None:
    lanes = lanes_of([Stretch("a", 0, 2, HERE), Stretch("b", 1, 3, HERE)], is_async=True)

    assert [lane.name for lane in lanes] == ["async 1", "async 2"]


def test_the_longest_chain_leads_back_over_what_ended_last() -> None:
    early, late, aside, last = (Stretch(name, begin, end, HERE) for name, begin, end in
                                [("early", 0, 1), ("late", 0, 4), ("aside", 4, 6), ("last", 4, 7)])  # fmt: skip
    needs = {"last": [early, late, aside, last]}

    chain = longest_chain([early, late, aside, last], lambda stretch: needs.get(stretch.task_id, []))

    assert [stretch.task_id for stretch in chain] == ["late", "last"]
    assert longest_chain([], lambda _: []) == []
