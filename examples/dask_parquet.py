"""Sum up Parquet files on a Dask cluster: the pipeline stays as it is, only the call of `run_task` changes.

Shops report their sales in one file a month. Each month is summed up by a worker of the cluster, then the months are
put together. The cluster is started here, on this machine; one of many machines is used in the same way.

    pip install 'superluigi[examples]'
    python examples/dask_parquet.py
    python examples/dask_parquet.py --months 5
    python examples/dask_parquet.py --months 5 --workers 0     # without Dask: the same tasks, in this process
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd

from superluigi import AtomicTaskWithMetadata, IntParameter, LocalFileTarget, PathParameter, run_task


class MonthOfSales(AtomicTaskWithMetadata):
    """What the shops report: one row for each sale."""

    month = IntParameter()
    folder = PathParameter(significant=False)

    # All workers have to see the outputs of each other. For those on many machines this is a bucket: give back an
    # `S3ObjectTarget(bucket="shops", object_key=f"sales/{self.month:02}.parquet")`, and nothing else has to change, as
    # `run` is handed local paths in any case.
    def output(self):
        return LocalFileTarget(self.folder / "sales" / f"2022-{self.month:02}.parquet")

    # The path ends in the name of the file, so that writers which go by the suffix do what they should.
    def run(self, output_path, metadata):
        customers = np.random.default_rng(self.month)
        shops = customers.choice(["north", "south", "west"], size=2000)
        sales = pd.DataFrame({"shop": shops, "amount": customers.integers(1, 100, size=2000)})
        sales.to_parquet(output_path)
        metadata["row_count"] = len(sales)


class MonthOfTotals(AtomicTaskWithMetadata):
    """The sum of each shop."""

    month = IntParameter()
    folder = PathParameter(significant=False)

    def requires(self):
        return self.clone(MonthOfSales)  # with the parameters that the two have in common: both

    def output(self):
        return LocalFileTarget(self.folder / "totals" / f"2022-{self.month:02}.parquet")

    # If the worker dies in here, Dask gives the task to another one. It does no harm that it is begun twice: the file
    # appears whole, or not at all.
    def run(self, input_path, output_path):
        sales = pd.read_parquet(input_path)
        totals = sales.groupby("shop", as_index=False)["amount"].sum()
        totals.assign(month=self.month).to_parquet(output_path)


class Overview(AtomicTaskWithMetadata):
    """A row for each month, and a column for each shop."""

    months = IntParameter()
    folder = PathParameter(significant=False)

    def requires(self):
        return [MonthOfTotals(month=month, folder=self.folder) for month in range(1, self.months + 1)]

    def output(self):
        return LocalFileTarget(self.folder / "overviews" / f"2022-first-{self.months}-months.parquet")

    def run(self, input_path, output_path, metadata):
        totals = pd.concat([pd.read_parquet(path) for path in input_path])
        overview = totals.pivot_table(index="month", columns="shop", values="amount", aggfunc="sum")
        overview.to_parquet(output_path)
        metadata["total"] = totals["amount"].sum()


# The guard is needed here: each worker is a process, and imports this file.
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sum up the sales of some months on Dask.")
    parser.add_argument("--folder", type=Path, default=Path("data"), help="where everything is written (data)")
    parser.add_argument("--months", type=int, default=3, help="how many, from January on (3)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the cluster; 0 does without Dask (2)")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()  # a worker may have another working directory
    # Logs and private copies of inputs go to ~/.superluigi/data, unless another place is named. Workers inherit it.
    os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(folder / "superluigi")

    task = Overview(months=arguments.months, folder=folder)
    if arguments.workers == 0:
        path = run_task(task)
    else:
        os.environ["DASK_TEMPORARY_DIRECTORY"] = str(folder / "dask")  # read when Dask is imported
        from distributed import Client, LocalCluster

        cluster = LocalCluster(
            n_workers=arguments.workers,
            threads_per_worker=1,  # with more of them, tasks share a process
            dashboard_address=":0",  # any free port, as the usual one may be taken
        )
        # The tasks travel to the workers; what to run next is decided here, by Luigi's rules. For a cluster that is
        # there already, `executor="tcp://10.0.0.5:8786"` is enough.
        with cluster, Client(cluster) as client:
            path = run_task(task, executor=client)

    print(pd.read_parquet(path))
    print("From the record: the total is", task.output().read_metadata()["total"])
