"""The tutorial runs as a script and as a notebook, and each of its runs does exactly what its text says.

It is started as a reader starts it: in a process of its own, with no AWS settings and an empty data directory.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import boto3
import jupytext
import pandas as pd
import pytest
from notebooks import executed

from superluigi.testing import embedded_s3

TUTORIAL = Path(__file__).parents[1] / "tutorial" / "superluigi_tutorial.py"
RULE = "===== Luigi Execution Summary ====="
TIMEOUT_S = 240
FOREIGN = ("AWS_", "BOTO_", "LUIGI_", "SUPERLUIGI_")  # settings that a reader does not have

CHAPTERS = [
    "1. Concepts",
    "2. Defining a task",
    "3. Running it: three tasks run",
    "4. Running it again: none run",
    "5. force=True: one runs",
    "6. force_upstream_to_task_cls=FeaturesTask: two run",
    "7. Reading the output with pandas",
    "8. Opening the lineage record",
    "9. raise_exception=True on a broken task",
    "10. The last file is deleted, and one in the middle: each time one runs",
    "11. A new __version__ of the model: its path moves, and that of the predictions",
    "12. why and lineage",
]


def run_tutorial(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the tutorial with a home and a data directory in `folder`, and with no AWS settings but `environment`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    isolated = {
        "HOME": str(folder),
        "USERPROFILE": str(folder),
        "SUPERLUIGI_LOCAL_DATA_DIR": str(folder / "superluigi-data"),
        "PYTHONPATH": str(TUTORIAL.parents[1]),
        "PYTHONIOENCODING": "utf-8",
    }
    return subprocess.run(
        [sys.executable, str(TUTORIAL), *arguments],
        cwd=folder,
        env={**inherited, **isolated, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )


def aws_settings() -> dict[str, str]:
    """The AWS settings of this process: inside `embedded_s3`, those of its server."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def chapter(output: str, title: str) -> str:
    """The text printed between a chapter's heading and the next."""
    position = CHAPTERS.index(title)
    after = output.split(f"{title}\n{'=' * len(title)}\n")[1]
    return after.split(f"\n{CHAPTERS[position + 1]}\n")[0] if position + 1 < len(CHAPTERS) else after


def counts(output: str) -> list[tuple[int, int]]:
    """How many tasks ran, and how many were found complete, for each summary in the order of printing."""
    summaries = re.findall(f"{RULE}\n(.*?)\n{RULE}", output, flags=re.DOTALL)
    return [
        (number_before("ran successfully", summary), number_before("complete ones were encountered", summary))
        for summary in summaries
    ]


def number_before(words: str, summary: str) -> int:
    found = re.search(rf"\* (\d+) {words}", summary)
    return int(found.group(1)) if found else 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The tutorial, run once from beginning to end on its embedded S3 server."""
    return run_tutorial(tmp_path_factory.mktemp("tutorial"))


def test_the_tutorial_ends_well_and_says_so(finished: subprocess.CompletedProcess[str]) -> None:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.endswith("\nAll done.\n")
    assert "Warning" not in finished.stderr


def test_the_chapters_come_in_order(finished: subprocess.CompletedProcess[str]) -> None:
    headings = re.findall(r"^(\d+\. .*)\n=+$", finished.stdout, flags=re.MULTILINE)

    assert headings == CHAPTERS


def test_it_opens_and_runs_as_a_notebook_and_shows_pictures(
    finished: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    notebook = jupytext.read(TUTORIAL)

    cells = executed(notebook, tmp_path, PYTHONPATH=os.pathsep.join(map(str, (TUTORIAL.parents[1], TUTORIAL.parent))))

    assert [cell.error for cell in cells if cell.error] == []
    assert [cell.stderr for cell in cells if cell.stderr] == []
    assert counts("".join(cell.stdout for cell in cells)) == counts(finished.stdout)
    pictures = [picture["text/html"] for cell in cells for picture in cell.shown if "text/html" in picture]
    task, whole, last, deleted, versioned, why, lineage = pictures
    assert "✓ complete" in task
    assert "predicted_hires" in task  # the first rows
    assert "○ missing" not in whole
    assert all("○ missing" in picture for picture in (last, deleted, versioned))
    assert "will not run" in why
    assert "Lineage of s3://superluigi/data/predictions/" in lineage
    assert cells[-1].stdout.endswith("All done.\n")


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        pytest.param("3. Running it: three tasks run", [(3, 0)], id="first"),
        pytest.param("4. Running it again: none run", [(0, 1)], id="again"),
        pytest.param("5. force=True: one runs", [(1, 2)], id="force"),
        pytest.param("6. force_upstream_to_task_cls=FeaturesTask: two run", [(2, 1)], id="force-from-features"),
        pytest.param(CHAPTERS[9], [(1, 2), (1, 2)], id="deleted"),
        pytest.param(CHAPTERS[10], [(2, 1)], id="version"),
    ],
)
def test_each_summary_counts_what_the_chapter_promises(
    finished: subprocess.CompletedProcess[str], title: str, expected: list[tuple[int, int]]
) -> None:
    printed = chapter(finished.stdout, title)

    assert counts(printed) == expected
    assert ("Did not run any tasks" in printed) == (expected[0][0] == 0)
    assert "This progress looks :)" in printed
    assert "s3://superluigi/data/predictions/date=20221215/" in printed


def test_forcing_from_the_features_leaves_the_model_alone(finished: subprocess.CompletedProcess[str]) -> None:
    printed = chapter(finished.stdout, "6. force_upstream_to_task_cls=FeaturesTask: two run")

    complete, ran = printed.split("ran successfully")
    assert "ModelTask" in complete
    assert "ModelTask" not in ran
    assert "FeaturesTask(date=2022-12-15, version=4)" in ran
    assert "PredictionsTask(date=2022-12-15, version=4)" in ran


def test_the_output_and_the_lineage_record_are_shown(finished: subprocess.CompletedProcess[str]) -> None:
    reading = chapter(finished.stdout, "7. Reading the output with pandas")
    record = chapter(finished.stdout, "8. Opening the lineage record")

    assert re.search(r"^s3://superluigi/data/predictions/date=20221215/[0-9a-f]{32}\.csv$", reading, flags=re.MULTILINE)
    assert "predicted_hires" in reading
    assert '"task_family": "PredictionsTask"' in record
    assert '"row_count": 200' in record


def test_the_tree_says_what_is_deleted_and_what_is_not_known(finished: subprocess.CompletedProcess[str]) -> None:
    deleted = chapter(finished.stdout, CHAPTERS[9])
    versioned = chapter(finished.stdout, CHAPTERS[10])

    assert "✓ PredictionsTask(" in deleted
    assert "○ PredictionsTask(" in deleted
    assert "? PredictionsTask(" in deleted
    assert "features: ○ FeaturesTask(" in deleted
    assert "model: ✓ ModelTask(" in deleted
    assert "model: ○ ModelTask(" in versioned
    before, now = re.findall(r"^(?:before|now): +(s3://\S+)$", versioned, flags=re.MULTILINE)
    assert before != now


def test_the_lineage_leads_back_to_both_inputs(finished: subprocess.CompletedProcess[str]) -> None:
    told = chapter(finished.stdout, CHAPTERS[11])

    assert "PredictionsTask(date=2022-12-15, version=4) will not run" in told
    assert len(re.findall(r"^[├└]── (?:features|model): ✓ s3://", told, flags=re.MULTILINE)) == 2


def test_the_broken_task_stops_in_its_own_line_and_publishes_nothing(
    finished: subprocess.CompletedProcess[str],
) -> None:
    printed = chapter(finished.stdout, "9. raise_exception=True on a broken task")

    assert "ZeroDivisionError: " in printed
    assert "The traceback ends in run(), line " in printed
    assert 'metadata["docks_per_station"] = ' in printed
    assert "Was anything published? False" in printed


def test_aws_runs_on_the_account_and_the_bucket_that_are_named(tmp_path: Path) -> None:
    with embedded_s3("my-own-bucket"):
        first = run_tutorial(tmp_path, "--aws", "--bucket", "my-own-bucket", **aws_settings())
        second = run_tutorial(tmp_path, "--aws", "--bucket", "my-own-bucket", **aws_settings())
        listing = boto3.client("s3").list_objects_v2(Bucket="my-own-bucket")["Contents"]
        keys = [item["Key"] for item in listing if not item["Key"].endswith(".metadata.json")]
        features, *models, _, predictions = sorted(keys)  # of two versions of the model
        table = pd.read_csv(f"s3://my-own-bucket/{predictions}")

    assert first.returncode == 0, first.stdout + first.stderr
    assert second.returncode == 0, second.stdout + second.stderr
    assert counts(first.stdout)[:4] == [(3, 0), (0, 1), (1, 2), (2, 1)]
    assert counts(second.stdout)[:4] == [(0, 1), (0, 1), (1, 2), (2, 1)]
    assert re.fullmatch(r"data/features/date=20221215/[0-9a-f]{32}\.csv", features)
    assert len(models) == 2
    assert all(re.fullmatch(r"data/models/[0-9a-f]{32}\.joblib", model) for model in models)
    assert re.fullmatch(r"data/predictions/date=20221215/[0-9a-f]{32}\.csv", predictions)
    assert len(table) == 200
    assert table["predicted_hires"].nunique() > 50
    assert table["predicted_hires"].min() > 0


@pytest.mark.parametrize("arguments", [["--aws"], ["--bucket", "my-own-bucket"]], ids=["no-bucket", "no-aws"])
def test_aws_and_bucket_go_together(tmp_path: Path, arguments: list[str]) -> None:
    refused = run_tutorial(tmp_path, *arguments)

    assert refused.returncode == 2
    assert "--aws and --bucket go together" in refused.stderr
    assert list(tmp_path.iterdir()) == []
