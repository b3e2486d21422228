"""What a task costs beside its work on each engine: luigi.build, run_task's own processes, pools, Dask, plain futures.

All tasks are independent, write one byte, and sleep for `--task-ms`, so that cores do not count. They are
AtomicTaskWithMetadata on LocalFileTarget and write their lineage records, except those of the two peers: "luigi.build"
runs luigi.Task on luigi.LocalTarget, and "plain Dask futures" call a function that writes the file and renames it.

Every line has a process of its own. Seconds are those of the whole call; what a pool costs once is apart, as "start s":
it is made and has run two tasks per worker before the clock starts. Only luigi.build and num_workers start a process
for each task, if there is more than one worker. Times ideal: seconds by those of the sleep alone on so many workers.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import functools
import importlib.util
import itertools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import luigi

from superluigi import AtomicTaskWithMetadata, LocalFileTarget, run_task

ENGINES = {
    "luigi": "luigi.build, bare tasks",
    "luigi-atomic": "luigi.build, atomic tasks",
    "num_workers": "run_task, num_workers",
    "threads": "run_task, thread pool",
    "fork": "run_task, forked process pool",
    "spawn": "run_task, spawned process pool",
    "loky": "run_task, loky",
    "async": "run_task, one event loop",
    "dask": "run_task, Dask LocalCluster",
    "futures": "plain Dask futures",
}
NEEDS = {"loky": "loky", "dask": "distributed", "futures": "distributed"}
LINE = "{:<32}{:>8}{:>8}{:>10}{:>10}{:>10}{:>13}"
WARM_UP_MS = 50  # long enough that no worker of a pool takes the tasks of another


class Bare(luigi.Task):
    number = luigi.IntParameter()
    task_ms = luigi.FloatParameter()
    folder = luigi.Parameter(significant=False)

    def output(self):
        return luigi.LocalTarget(f"{self.folder}/{self.number}")

    def run(self):
        time.sleep(self.task_ms / 1000)
        with self.output().open("w") as stream:
            stream.write("x")


class Atomic(AtomicTaskWithMetadata):
    number = luigi.IntParameter()
    task_ms = luigi.FloatParameter()
    folder = luigi.Parameter(significant=False)

    def output(self):
        return LocalFileTarget(f"{self.folder}/{self.number}")

    def run(self, output_path):
        time.sleep(self.task_ms / 1000)
        output_path.write_text("x")


class Waiting(Atomic):
    async def run(self, output_path):
        await asyncio.sleep(self.task_ms / 1000)
        output_path.write_text("x")


def write(path, task_ms):
    """Do the same without a task."""
    time.sleep(task_ms / 1000)
    with open(f"{path}.partial", "w") as stream:
        stream.write("x")
    os.replace(f"{path}.partial", path)


def run(engine, pool, size, workers, task_ms):
    """Run so many tasks in a new folder; give the seconds of the call."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{number}" for number in range(size)]
        kind = {"luigi": Bare, "async": Waiting}.get(engine, Atomic)
        tasks = [kind(number=number, task_ms=task_ms, folder=folder) for number in range(size)]
        start = time.perf_counter()
        if engine == "futures":
            pool.gather([pool.submit(write, path, task_ms, pure=False) for path in paths])
        elif engine.startswith("luigi"):
            luigi.build(tasks, local_scheduler=True, workers=workers, log_level="CRITICAL")
        else:
            run_task(tasks, executor=pool, num_workers=workers)
        seconds = time.perf_counter() - start
        missing = [path for path in paths if not os.path.exists(path)]
        assert not missing, f"{len(missing)} of {size} tasks did not run"
    return seconds


@contextlib.contextmanager
def made(engine, workers):
    """Make the pool of an engine, or None where it needs none."""
    with contextlib.ExitStack() as stack:
        pool = "async" if engine == "async" else None
        if engine == "threads":
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))
        elif engine in {"fork", "spawn"}:
            context = multiprocessing.get_context(engine)
            pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(workers, mp_context=context))
        elif engine == "loky":
            from loky import ProcessPoolExecutor

            pool = stack.enter_context(ProcessPoolExecutor(workers))
        elif engine in {"dask", "futures"}:
            from distributed import Client, LocalCluster

            options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
            cluster = stack.enter_context(LocalCluster(**options, silence_logs=logging.CRITICAL))
            pool = stack.enter_context(Client(cluster))
        yield pool


def measure(engine, size, workers, task_ms):
    """Run an engine here, and tell on the standard error what it cost."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    start = time.perf_counter()
    with made(engine, workers) as pool:
        if pool is not None:
            run(engine, pool, 2 * workers, workers, WARM_UP_MS)
        start_seconds = time.perf_counter() - start if pool is not None else 0
        seconds = run(engine, pool, size, workers, task_ms)
        print(json.dumps({"seconds": seconds, "start_seconds": start_seconds}), file=sys.stderr, flush=True)


def measured_apart(engine, workers, arguments):
    """Give what `measure` finds in processes of their own, the median by seconds, or why there is nothing."""
    needed = NEEDS.get(engine)
    if needed is not None and importlib.util.find_spec(needed) is None:
        return None, f"{needed} is not installed"
    # Imported, not run as a script: a class of a script would be sent with every task, not named.
    statement = f"import workers; workers.measure({engine!r}, {arguments.tasks}, {workers}, {arguments.task_ms})"
    places = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": places, "PYTHONWARNINGS": "ignore"}
    costs = []
    for _ in range(arguments.repeat):
        with subprocess.Popen(
            [sys.executable, "-c", statement],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                _, errors = process.communicate(timeout=arguments.timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes of its pool
                return None, f"more than {arguments.timeout_s:.0f} s"
        found = [line for line in errors.splitlines() if line.startswith('{"seconds"')]
        if process.returncode or not found:
            return None, f"failed: {errors.strip().rpartition(chr(10))[2]}"
        costs.append(json.loads(found[0]))
    return sorted(costs, key=lambda cost: cost["seconds"])[len(costs) // 2], ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="?", type=int, default=300)
    parser.add_argument("--task-ms", type=float, default=0, help="how long each task sleeps")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--repeat", type=int, default=1, help="how often each is run; the median counts")
    parser.add_argument("--timeout-s", type=float, default=300, help="per run; what takes longer is left out")
    arguments = parser.parse_args()
    print(LINE.format("engine", "workers", "tasks", "start s", "seconds", "ms/task", "times ideal"))
    for engine, workers in itertools.product(arguments.engines, arguments.workers):
        line = functools.partial(LINE.format, ENGINES[engine], workers, arguments.tasks)
        cost, problem = measured_apart(engine, workers, arguments)
        if cost is None:
            print(f"{line(*4 * ' ').rstrip()}  {problem}", flush=True)
            continue
        seconds = cost["seconds"]
        ideal = arguments.tasks * arguments.task_ms / 1000 / workers
        figures = f"{seconds:.2f}", f"{1000 * seconds / arguments.tasks:.2f}", f"{seconds / ideal:.2f}" if ideal else ""
        print(line(f"{cost['start_seconds']:.2f}", *figures).rstrip(), flush=True)


if __name__ == "__main__":
    main()
