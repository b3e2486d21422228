"""Each example, run as its reader would: what it makes, what a second run skips, and what a change makes anew."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from documents import ROOT

FOLDER = ROOT / "examples"
TIMEOUT_S = 120


def run(script: Path | str, *arguments: str, succeeds: bool = True) -> str:
    """Run an example in the working directory, which is the test's own, and give what it prints."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        env=settings(),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def settings() -> dict[str, str]:
    """Those of a reader: an example that does not choose the place itself writes to the home, or to `TMPDIR`.

    Not measured by coverage, which would take longer than they do: what they call is tested by others.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "SUPERLUIGI_"))}
    return {**inherited, "TMPDIR": str(Path.home()), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def ran(output: str) -> dict[str, int]:
    """How many tasks of each class have run, by the last of Luigi's summaries."""
    summary = output.split("===== Luigi Execution Summary =====")[-2]
    part = re.search(r"\* \d+ ran successfully:\n((?:    - .*\n)+)", summary)
    return {name: int(count) for count, name in re.findall(r"- (\d+) (\w+)\(", part[1])} if part else {}


def edited(script: str, old: str, new: str) -> Path:
    """An example in which its reader has changed one line; it bears the same name, in a folder of its own."""
    source = (FOLDER / script).read_text(encoding="utf-8")
    assert source.count(old) == 1
    copy = Path("edited", script).absolute()
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(source.replace(old, new), encoding="utf-8")
    return copy


@pytest.fixture(autouse=True)
def nothing_is_written_elsewhere(tmp_path: Path, local_data_dir: Path):
    """Hold every example to the folder that it is given, by default `data`."""
    yield
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "elsewhere", "edited"}
    assert list(Path.home().iterdir()) == []


def test_the_words_are_counted_once_and_again_when_a_text_changes(tmp_path: Path) -> None:
    first = run("word_count.py")
    again = run("word_count.py")
    (tmp_path / "data" / "texts" / "2012-06-02.txt").write_text("you you you")
    changed = run("word_count.py")
    longer = run("word_count.py", "--days", "2012-06-01-2012-06-06")

    assert ran(first) == {"WordCount": 1}
    assert "the\t3\n" in first
    assert "From the record: {'words': 12, 'different_words': 7}" in first
    assert ran(again) == {}
    assert ran(changed) == {"WordCount": 1}
    assert "you\t5\n" in changed
    assert ran(longer) == {"WordCount": 1}
    counts = sorted(path.name for path in (tmp_path / "data" / "word_counts").glob("*.tsv"))
    assert counts == ["2012-06-01-2012-06-04.tsv", "2012-06-01-2012-06-06.tsv"]


def test_a_text_that_is_missing_is_told_and_nothing_is_counted(tmp_path: Path) -> None:
    run("word_count.py", "--folder", "elsewhere", "--days", "2012-07", succeeds=False)

    assert not (tmp_path / "elsewhere" / "word_counts").exists()
    assert not (tmp_path / "data").exists()


def test_a_month_takes_the_days_of_its_week_and_a_new_version_only_what_follows(tmp_path: Path) -> None:
    week = run("top_artists.py")
    again = run("top_artists.py")
    month = run("top_artists.py", "--days", "2012-01")
    version = run(edited("top_artists.py", '__version__ = "1"', '__version__ = "2"'))

    whole = {"AggregateArtists": 1, "Top10Artists": 1, "ArtistToplistToDatabase": 1}
    assert ran(week) == {"Streams": 7, **whole}
    assert ran(again) == {}
    assert ran(month) == {"Streams": 24, **whole}
    assert ran(version) == {"Top10Artists": 1, "ArtistToplistToDatabase": 1}
    assert len(re.findall(r"^artist-\d\d +\d+$", version, flags=re.MULTILINE)) == 10
    with closing(sqlite3.connect(tmp_path / "data" / "toplists.db")) as connection:
        of_days = dict(connection.execute("SELECT days, COUNT(*) FROM toplists GROUP BY days"))
        of_toplists = connection.execute("SELECT COUNT(DISTINCT made_by) FROM toplists").fetchone()
    assert of_days == {"2012-W03": 20, "2012-01": 10}
    assert of_toplists == (3,)


def test_another_parameter_or_version_makes_another_model_and_the_old_ones_stay(tmp_path: Path) -> None:
    first = run("salted_model.py")
    again = run("salted_model.py")
    straight = run("salted_model.py", "--degree", "1")
    version = run(edited("salted_model.py", '__version__ = "1"', '__version__ = "2"'))

    assert ran(first) == {"Measurements": 1, "Features": 1, "Model": 1, "Evaluation": 1}
    assert ran(again) == {}
    assert ran(straight) == {"Model": 1, "Evaluation": 1}
    assert "params.degree: '3' -> '1'" in straight
    assert ran(version) == {"Features": 1, "Model": 1, "Evaluation": 1}
    assert "version: '1' -> '2'" in version
    assert len(list((tmp_path / "data" / "models").glob("*.joblib"))) == 3
    errors_kw = {
        (told["degree"], told["error_kw"])
        for path in (tmp_path / "data" / "evaluations").glob("*.json")
        if "error_kw" in (told := json.loads(path.read_text())) and "degree" in told
    }
    assert len(errors_kw) == 2  # a version that changes nothing comes to the same
    assert dict(errors_kw)[3] < dict(errors_kw)[1]


def test_a_backfill_makes_the_days_that_are_missing_and_all_of_a_new_version(tmp_path: Path) -> None:
    some = run("backfill.py", "--at-most", "5")
    rest = run("backfill.py")
    (gap,) = (tmp_path / "data" / "daily_means").glob("2022-12-03-????????????????????????????????.csv")
    gap.unlink()
    longer = run("backfill.py", "--stop", "2022-12-09")
    again = run("backfill.py", "--stop", "2022-12-09")
    version = run(edited("backfill.py", '__version__ = "1"', '__version__ = "2"'))

    assert ran(some) == {"DailyMeans": 5, "RangeDaily": 1}
    assert "Made in this run: 2022-12-06 2022-12-07\n" in rest
    assert "Made in this run: 2022-12-03 2022-12-08\n" in longer
    assert ran(again) == {}
    assert gap.read_text() == "station,celsius\nnorth,-1.0\nsouth,1.0\n"
    assert ran(version) == {"DailyMeans": 7, "RangeDaily": 1}
    assert len(list((tmp_path / "data" / "daily_means").glob("*.csv"))) == 8 + 7


def test_what_dask_has_made_is_there_without_it_and_another_month_takes_one_more_of_each(tmp_path: Path) -> None:
    on_dask = run("dask_parquet.py", "--months", "2")
    without = run("dask_parquet.py", "--months", "2", "--workers", "0")
    longer = run("dask_parquet.py", "--months", "3", "--workers", "0")

    assert ran(on_dask) == {"MonthOfSales": 2, "MonthOfTotals": 2, "Overview": 1}
    assert ran(without) == {}
    assert ran(longer) == {"MonthOfSales": 1, "MonthOfTotals": 1, "Overview": 1}
    sales = pd.concat([pd.read_parquet(path) for path in (tmp_path / "data" / "sales").glob("*.parquet")])
    overview = pd.read_parquet(tmp_path / "data" / "overviews" / "2022-first-3-months.parquet")
    assert overview.sum().to_dict() == sales.groupby("shop")["amount"].sum().to_dict()
    assert list(overview.index) == [1, 2, 3]
    assert f"the total is {sales['amount'].sum()}\n" in longer


def test_the_table_has_a_row_for_each_of_them() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")

    listed = re.findall(r"^\| \[`(\w+\.py)`\]\((\w+\.py)\) \|", readme, flags=re.MULTILINE)
    assert sorted(listed) == [(path.name, path.name) for path in sorted(FOLDER.glob("*.py"))]
