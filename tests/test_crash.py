"""What is left when a run is killed with SIGKILL before its n-th step, for every n until a run ends untouched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = ["file", "folder", "folder-inside", "object", "prefix", "prefix-inside", "file+object", "folder+file"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
@pytest.mark.parametrize("mode", ["first", "forced"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_kill_leaves_half_an_output_or_another_runs_record(kind, mode, s3_server, bucket, tmp_path, record_property):
    # Measuring coverage would write files of its own, each of which would be another step to be killed at.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment.update({"CRASH_ROOT": str(tmp_path), "CRASH_BUCKET": bucket})
    environment["SUPERLUIGI_LOCAL_DATA_DIR"] = str(tmp_path / "data")
    violations = []
    kill_at = 0
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crash_harness.py"))],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as harness:
        finished = False
        while not finished:
            kill_at += 1
            harness.stdin.write(json.dumps({"kind": kind, "mode": mode, "kill_at": kill_at}) + "\n")
            harness.stdin.flush()
            answer = json.loads(harness.stdout.readline())
            finished = answer["finished"]
            violations += [f"killed before step {kill_at}: {violation}" for violation in answer["violations"]]
        harness.stdin.close()
    record_property("kill_points", kill_at - 1)
    print(f"{kind}, {mode} run: killed at {kill_at - 1} points, {len(violations)} violations")

    assert violations == []
    assert kill_at > 10
