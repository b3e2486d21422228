"""What is left when a run is killed with SIGKILL before its n-th step, for every n until a run ends untouched."""

import json
import os
import subprocess
import sys
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
@pytest.mark.parametrize("mode", ["first", "forced", "removed"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_kill_leaves_half_an_output_or_another_runs_record(kind, mode, harness, tmp_path, record_property):
    violations = []
    kill_at = 0
    order = {"folder": str(tmp_path), "kind": kind, "mode": mode}
    finished = False
    while not finished:
        kill_at += 1
        harness.stdin.write(json.dumps({**order, "kill_at": kill_at}) + "\n")
        harness.stdin.flush()
        answer = json.loads(harness.stdout.readline())
        finished = answer["finished"]
        violations += [f"killed before step {kill_at}: {violation}" for violation in answer["violations"]]
        order = {}  # the same again
    record_property("kill_points", kill_at - 1)
    print(f"{kind}, {mode} run: killed at {kill_at - 1} points, {len(violations)} violations")

    assert violations == []
    assert kill_at > (10 if mode != "removed" else 3)
    assert (answer["requests"] > 0) == ("object" in kind or "prefix" in kind)  # they count as steps, too
