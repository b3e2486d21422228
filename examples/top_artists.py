"""Top artists: the longer example of Luigi's documentation, with its tasks moved over one at a time.

A music service writes down each day what was streamed. Of some days the streams of each artist are counted, and the ten
most played go into a database. Two tasks are Super Luigi's by now, two are still as they were: all stand in one graph.

    python examples/top_artists.py
    python examples/top_artists.py --days 2012-01
"""

import argparse
import os
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import luigi

from superluigi import (
    AtomicTaskWithMetadata,
    DateIntervalParameter,
    LocalFileTarget,
    PathParameter,
    between,
    run_task,
)


# Still plain Luigi: `run` opens the target and writes into it.
class Streams(luigi.Task):
    date = luigi.DateParameter()
    folder = luigi.PathParameter(significant=False)

    def output(self):
        return luigi.LocalTarget(self.folder / "streams" / f"{self.date}.tsv")

    def run(self):
        listeners = random.Random(self.date.toordinal())
        with self.output().open("w") as stream:
            for _ in range(1000):
                artist = int(30 * listeners.random() ** 2)  # the first ones are played most
                stream.write(f"{self.date}\tartist-{artist:02}\ttrack-{listeners.randrange(5)}\n")


# Moved over. What it requires is not, and need not be: `input_path` has the paths of Luigi's own targets as well.
class AggregateArtists(AtomicTaskWithMetadata):
    days = DateIntervalParameter()
    folder = PathParameter(significant=False)

    # Values that the task puts into `metadata`, and what they have to be. One that is not fails the task before
    # anything is published. `within(0.2, of_last=5)` would compare it with those of former runs.
    expect = {"streams": between(1, 1_000_000)}

    def requires(self):
        return [Streams(date=date, folder=self.folder) for date in self.days.dates()]

    def output(self):
        return LocalFileTarget(self.folder / "artists" / f"{self.days}.tsv")

    def run(self, input_path, output_path, metadata):
        counts: Counter[str] = Counter()
        for path in input_path:
            counts.update(line.split("\t")[1] for line in path.read_text().splitlines())
        output_path.write_text("".join(f"{artist}\t{count}\n" for artist, count in sorted(counts.items())))
        metadata["streams"] = counts.total()


# Moved over as well. The version is part of the task's identity, which is the hash that `task_id` gives. As it stands
# in the name of the file, version 2 has a file of its own: raise it when you change what `run` does, and the toplist is
# made again, while the streams and the counts stay.
class Top10Artists(AtomicTaskWithMetadata):
    __version__ = "1"
    days = DateIntervalParameter()
    folder = PathParameter(significant=False)

    def requires(self):
        return AggregateArtists(days=self.days, folder=self.folder)

    def output(self):
        return LocalFileTarget(self.folder / "toplists" / f"{self.days}-{self.task_id}.tsv")

    def run(self, input_path, output_path):
        counts = [line.split("\t") for line in input_path.read_text().splitlines()]
        top = sorted(counts, key=lambda row: int(row[1]), reverse=True)[:10]
        output_path.write_text("".join(f"{artist}\t{count}\n" for artist, count in top))


# Not moved, and it may stay: its output is no file, but rows of a database. A target of your own is all Luigi asks for.
class Toplist(luigi.Target):
    def __init__(self, database, made_by):
        self.database = database
        self.made_by = made_by

    def __str__(self):
        return f"the rows of {self.made_by} in {self.database}"

    def exists(self):
        if not self.database.exists():
            return False
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute("SELECT 1 FROM toplists WHERE made_by = ?", [self.made_by]).fetchone() is not None


class ArtistToplistToDatabase(luigi.Task):
    days = luigi.DateIntervalParameter()
    folder = luigi.PathParameter(significant=False)

    def requires(self):
        return Top10Artists(days=self.days, folder=self.folder)

    def output(self):
        # The rows bear the id of the toplist that they come from: another version of it brings rows of its own.
        return Toplist(self.folder / "toplists.db", made_by=self.requires().task_id)

    def run(self):
        # A target of Super Luigi, used as Luigi's own are: it has a path, and its record.
        lines = Path(self.input().path).read_text().splitlines()
        rows = [(str(self.days), *line.split("\t"), self.output().made_by) for line in lines]
        with closing(sqlite3.connect(self.output().database)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS toplists (days TEXT, artist TEXT, streams INT, made_by TEXT)"
            )
            connection.executemany("INSERT INTO toplists VALUES (?, ?, ?, ?)", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Find the ten artists that were played most.")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="where everything is written (data)")
    parser.add_argument("--days", default="2012-W03", help="a week as 2012-W03, a month as 2012-01, ... (2012-W03)")
    arguments = parser.parse_args()
    # Logs and private copies of inputs go to ~/.superluigi/data, unless another place is named.
    os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(arguments.folder / "superluigi")

    days = DateIntervalParameter().parse(arguments.days)
    task = ArtistToplistToDatabase(days=days, folder=arguments.folder)
    run_task(task)

    rows = "SELECT artist, streams FROM toplists WHERE made_by = ?"
    with closing(sqlite3.connect(arguments.folder / "toplists.db")) as connection:
        for artist, streams in connection.execute(rows, [task.output().made_by]):
            print(f"{artist}  {streams:5}")
