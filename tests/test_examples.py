"""Each example, run as its reader would: what it makes, what a second run skips, and what a change makes anew."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from documents import ROOT

FOLDER = ROOT / "examples"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))
TIMEOUT_S = 120


def run(script: Path | str, *arguments: str, succeeds: bool = True) -> str:
    """Run an example in the working directory, which is the test's own, and give what it prints."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), *arguments],
        env={**without_data_dir(), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def without_data_dir() -> dict[str, str]:
    """What a reader has not set, so that an example that does not choose the place itself writes to the home."""
    return {name: value for name, value in os.environ.items() if name != "SUPERLUIGI_LOCAL_DATA_DIR"}


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
