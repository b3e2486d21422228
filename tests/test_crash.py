"""What is left when a run is killed with SIGKILL before its n-th step.

With `--every-kill` that is every n. Without it, it is a third of them: of each kind of step (what is done, to what sort
of file) every third from one that is drawn, so that each kind is killed at in each scenario, if it has only one. The
draw has a seed, which pytest's head names; `--kill-seed` draws the same again.
"""

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

KINDS = ["file", "folder", "folder-inside", "object", "prefix", "prefix-inside", "file+object", "folder+file"]
# Measuring coverage would write files of its own, each of which would be another step to be killed at.
FOREIGN = ("COV", "AWS_", "BOTO_", "LUIGI_", "SUPERLUIGI_")


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """The process that runs, kills and looks. Started once: it has loaded what its forks need."""
    home = tmp_path_factory.mktemp("crash")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crash_harness.py")), str(home / "warm-up")],
        cwd=home,
        env={**environment, "HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def trial(harness, tmp_path, kind, mode):
    """Runs the scenario once and kills it before a step, or never, if that is 0; gives what the harness says."""
    order = {"folder": str(tmp_path), "kind": kind, "mode": mode}

    def trial(kill_at):
        harness.stdin.write(json.dumps({**order, "kill_at": kill_at}) + "\n")
        harness.stdin.flush()
        order.clear()  # the same again
        return json.loads(harness.stdout.readline())

    return trial


def every_third_of_each_kind(steps, drawn):
    """Give the numbers, from 1, of a third of the steps, and of one at least of each kind."""
    of_kind = defaultdict(list)
    for number, step in enumerate(steps, start=1):
        of_kind[step].append(number)
    return sorted(number for same in of_kind.values() for number in same[drawn.randrange(min(3, len(same))) :: 3])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
@pytest.mark.parametrize("mode", ["first", "forced", "removed"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_kill_leaves_half_an_output_or_another_runs_record(kind, mode, trial, pytestconfig, record_property):
    untouched = trial(kill_at=0)
    steps = untouched["steps"]
    drawn = random.Random(f"{pytestconfig.getoption('kill_seed')} {kind} {mode}")
    every = range(1, len(steps) + 1)
    points = every if pytestconfig.getoption("every_kill") else every_third_of_each_kind(steps, drawn)
    trials = {point: trial(kill_at=point) for point in points}
    record_property("kill_points", len(points))
    violations = [
        f"killed before step {point} ({steps[point - 1]}): {violation}"
        for point, answer in trials.items()
        for violation in answer["violations"]
    ]
    print(f"{kind}, {mode} run: killed at {len(points)} of {len(steps)} points, {len(violations)} violations")

    assert untouched["violations"] + violations == []
    assert [point for point, answer in trials.items() if answer["finished"]] == []  # all others make the same steps
    assert {steps[point - 1] for point in points} == set(steps)
    assert len(steps) > (10 if mode != "removed" else 3)
    assert any(step.startswith("s3.") for step in steps) == ("object" in kind or "prefix" in kind)


def test_a_sample_holds_a_third_and_every_kind_and_is_drawn_anew():
    steps = ["mkdir"] * 20 + ["rename", "put", "rename"] + ["mkdir"] * 10
    samples = [every_third_of_each_kind(steps, random.Random(seed)) for seed in range(50)]

    assert all({steps[number - 1] for number in sample} == {"mkdir", "rename", "put"} for sample in samples)
    assert all(12 <= len(sample) <= 13 for sample in samples)
    assert set().union(*samples) == set(range(1, len(steps) + 1))
    assert every_third_of_each_kind(steps, random.Random(7)) == samples[7]
