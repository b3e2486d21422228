"""Fill in the days that are missing: a backfill over a range of dates, with Luigi's range tools.

A task makes one day. `RangeDaily` asks which days between two dates are not there yet, and requires these. So the same
call serves for the first load, for every morning, and for the gaps.

    python examples/backfill.py
    python examples/backfill.py --stop 2022-12-11
"""

import argparse
import os
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
from luigi.tools.range import RangeDaily

from superluigi import AtomicTaskWithMetadata, DateParameter, ExternalTask, LocalFileTarget, PathParameter, run_task

FIRST_DAY = date(2022, 12, 1)


class RawReadings(ExternalTask):
    """What the thermometers send every day; no task makes it."""

    date = DateParameter()
    folder = PathParameter(significant=False)

    def output(self):
        return LocalFileTarget(self.folder / "readings" / f"{self.date}.csv")


class DailyMeans(AtomicTaskWithMetadata):
    """The mean temperature of each station on one day."""

    # The version stands in the id, and the id in the name of the file. With version 2 no day is there yet, so the same
    # call makes all of them again; what reads those of version 1 has them until the last one is made.
    __version__ = "1"
    date = DateParameter()
    folder = PathParameter(significant=False)

    def requires(self):
        return self.clone(RawReadings)  # with the parameters that the two have in common: both

    def output(self):
        return LocalFileTarget(self.folder / "daily_means" / f"{self.date}-{self.task_id}.csv")

    # A day appears whole or not at all. A backfill that is killed half-way leaves no half of a day that would be taken
    # for complete: start it again, and it goes on where it was.
    def run(self, input_path, output_path, metadata):
        readings = pd.read_csv(input_path)
        readings.groupby("station")["celsius"].mean().round(2).to_csv(output_path)
        metadata["readings"] = len(readings)


def receive_readings(folder, stop):
    """Make what the stations would have sent before `stop`; what is there stays as it is."""
    (folder / "readings").mkdir(parents=True, exist_ok=True)
    for number in range((stop - FIRST_DAY).days):
        path = folder / "readings" / f"{FIRST_DAY + timedelta(days=number)}.csv"
        if not path.exists():
            path.write_text(f"station,celsius\nnorth,{-number}\nnorth,{2 - number}\nsouth,{number / 2}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the daily means that are missing.")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="where everything is written (data)")
    parser.add_argument("--start", type=date.fromisoformat, default=FIRST_DAY, help="the first day (2022-12-01)")
    parser.add_argument("--stop", type=date.fromisoformat, default=date(2022, 12, 8), help="the day after the last")
    parser.add_argument("--at-most", type=int, default=50, help="days in one run; the oldest come first (50)")
    arguments = parser.parse_args()
    # Logs and private copies of inputs go to ~/.superluigi/data, unless another place is named.
    os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(arguments.folder / "superluigi")

    receive_readings(arguments.folder, arguments.stop)
    today = datetime.now(timezone.utc).date()
    days = RangeDaily(
        of=DailyMeans,
        of_params={"folder": str(arguments.folder)},
        param_name="date",
        start=arguments.start,
        stop=arguments.stop,
        task_limit=arguments.at_most,
        days_back=(today - arguments.start).days + 1,  # Luigi's default looks no more than 100 days back
    )
    # Two days at a time, each in a process of its own.
    run_task(days, num_workers=2)
    print("Made in this run:", *(task.date for task in days.requires()))
