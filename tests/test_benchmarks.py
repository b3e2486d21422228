"""A small version of each benchmark: that it runs, and what it counts. Never what it times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
TIMEOUT_S = 300


def table(script: str, *arguments: str) -> list[str]:
    """Run a benchmark and give the lines of its output."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def column(lines: list[str], start: str, name: str, *, header: str) -> int:
    """Give the number in a column, found by its heading, of the line that starts so."""
    (heading,) = [line for line in lines if line.startswith(header)]
    (line,) = [line for line in lines if line.startswith(start)]
    return int(line[: heading.index(name) + len(name)].split()[-1].replace(",", ""))


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.py") if path.name != "delayed_s3.py"))
def test_each_says_what_it_measures_and_takes_help(script: str) -> None:
    assert any(line.startswith("usage:") for line in table(script, "--help"))


@pytest.mark.parametrize("shape", ["wide", "chain", "layers", "diamonds"])
def test_every_graph_runs_with_every_runner(shape: str) -> None:
    lines = table("graph.py", "12", "--shapes", shape)

    assert [line.split()[:2] for line in lines[1:]] == [[shape, "12"]] * 4
    assert not any("failed" in line for line in lines)


def test_which_targets_exist_takes_few_requests() -> None:
    lines = table("exists.py", "--scale", "0.03", "--peer-keys", "3", "--patterns", "none", "half", "all")

    for there in ("none", "half", "all"):
        start = f"300 under one prefix, {there} there".ljust(51) + "superluigi"
        assert column(lines, start, "requests", header="targets") <= 3


def test_what_is_stale_in_s3_takes_few_requests() -> None:
    lines = table("stale.py", "40", "--alone", "--repeat", "1", "--delay-ms", "0")

    (here,) = [line for line in lines if line.startswith("s3") and "superluigi  " in line]
    (elsewhere,) = [line for line in lines if line.startswith("s3") and "elsewhere" in line]
    assert column(lines, here, "requests", header="place") == 1
    assert column(lines, elsewhere, "requests", header="place") == 1 + 2 * 40
    assert sum("lineage()" in line for line in lines) == 3


def test_objects_move_with_few_requests_and_many_at_a_time() -> None:
    lines = table("transfer.py", "--objects", "20", "--large-bytes", "0", "--runners", "boto3", "transfers")

    for direction in ("up", "down"):
        one = f"20 x 10,000 bytes {direction}".ljust(28) + "boto3"
        many = f"20 x 10,000 bytes {direction}".ljust(28) + "transfers"
        assert column(lines, one, "at once", header="what") == 1
        assert column(lines, many, "at once", header="what") > 4
        assert column(lines, many, "requests", header="what") <= 30


def test_an_import_loads_nothing_that_is_for_later() -> None:
    lines = table("imports.py", "--repeat", "1")

    assert lines[-1].startswith("superluigi")
    assert lines[-1].endswith("nothing of these")


def test_every_engine_runs_all_tasks() -> None:
    engines = 10
    lines = table("workers.py", "6", "--workers", "2", "--task-ms", "1", "--timeout-s", "60")

    assert len(lines) == 1 + engines
    assert not any("failed" in line or "more than" in line for line in lines)
    for line in lines[1:]:
        assert "is not installed" in line or column([lines[0], line], line, "tasks", header="engine") == 6


def test_with_cleanup_the_disk_that_is_used_does_not_grow() -> None:
    lines = table("cleanup.py", "--stages", "5", "--size-bytes", "300000", "--s3")

    for place in ("local", "S3"):
        (grown,) = [line.split() for line in lines if line.startswith(f"{place}, without")]
        (constant,) = [line.split() for line in lines if line.startswith(f"{place}, with Task")]
        assert [float(size) for size in grown[-6:]] == [0.0, 0.3, 0.6, 0.9, 1.2, 1.5]
        assert [float(size) for size in constant[-6:]] == [0.0, 0.3, 0.3, 0.3, 0.3, 0.3]


@pytest.mark.parametrize("place", [[], ["--local"]], ids=["s3", "local"])
def test_processes_that_start_together_make_each_task_once_and_again_for_each_kill(place: list[str]) -> None:
    arguments = ["--processes", "6", "--layers", "3", "--width", "4", "--lasts-ms", "300", "--lease-s", "1"]
    lines = table("single_flight.py", *arguments, "--kills", "4", "--kill-every-s", "0.6", *place)

    assert lines[-1] == "as promised"
    assert [line.split()[-1] for line in lines if line.startswith(("tasks", "missing", "made twice"))] == [
        "12",
        "0",
        "0",
    ]
