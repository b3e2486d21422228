"""What `--cov` measures. None of it makes a test do less; it spares much of the time that measuring takes.

A tracer slows all Python code down, measured or not, so code that is none of ours runs without one. What is measured
is a part of what the tests reach, so the figure is at most too low.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from typing import Any

import pytest

from superluigi import testing

# They start programs that do what other tests do in this process: run examples, and count what a graph takes.
OF_PROGRAMS = {"test_benchmarks", "test_docs", "test_readme", "test_tutorial"}
CASES = 10  # of one test; of more, as many are measured, at equal distances


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is not measured."""
    if not config.pluginmanager.hasplugin("_cov"):
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for same in cases.values():
        measured = {position * len(same) // CASES for position in range(CASES)}
        for position, item in enumerate(same):
            if item.path.stem in OF_PROGRAMS or (len(same) > CASES and position not in measured):
                item.add_marker("no_cover")


@pytest.fixture(autouse=True)
def programs_are_measured_as_the_test_is(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a test that is not measured, neither are the programs that it starts."""
    if request.node.get_closest_marker("no_cover") is not None:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def leave_motos_part_unmeasured() -> None:
    """Have the S3 server that runs serve in threads that get no tracer.

    They are no threads of `threading`, which gives each its tracer as it starts. To take that away again, in hundreds
    of threads, is more than Python bears: "Cannot install a trace function while another one is being installed".
    """
    server = testing._moto._server

    def serve(*request: Any) -> None:
        try:
            server.process_request_thread(*request)
        finally:
            threading._active.pop(threading.get_ident(), None)  # what logging has put there for want of a Thread

    server.process_request = lambda *request: _thread.start_new_thread(serve, request)


def _forget_what_the_parent_reached() -> None:
    # A forked child begins with all that its parent has measured so far, and would write it again when it ends.
    if (coverage := sys.modules.get("coverage")) is None or (measuring := coverage.Coverage.current()) is None:
        return
    for reached in measuring._collector.data.values():
        reached.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_what_the_parent_reached)
