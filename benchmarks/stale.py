"""What it costs to find out that nothing of a complete graph is out of date, against Snakemake's dry run.

The graph: chains of tasks, each reading the output of the one before, and a group of the last ones; all are complete.
`plan(..., rerun_stale=True)` is asked, which compares each task with its record: inputs, parameters, version, code and
output. `snakemake --dry-run` is asked of the same shape, with the metadata of former jobs beside it (`.snakemake/
metadata`): of one chain Snakemake has written them, those of the others are the same but for the number.

Both are whole processes, from the start of the interpreter to its end. "less start" is that less the same for a graph
of one chain. In S3 ours is measured as it is on the machine that has made the outputs, and on one that knows nothing
of them yet; Snakemake, with its plugin for S3, with a smaller graph, as it is slow: what that took beyond its start is
scaled. There it has no metadata of former jobs, and compares times alone.

Snakemake is no dependency: it is taken from `--snakemake`, or found beside the interpreter or on the path, or
installed into an environment of its own with `--install`. `lineage` has no peer: seconds are those of the call alone.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

warnings.simplefilter("ignore")

import luigi  # noqa: E402
from delayed_s3 import add_options, delayed_s3  # noqa: E402

import superluigi  # noqa: E402
from superluigi import (  # noqa: E402
    AtomicTaskWithMetadata,
    LocalFileTarget,
    S3ObjectTarget,
    lineage,
    plan,
    run_task,
)
from superluigi.plans import Verdict  # noqa: E402

BUCKET = "benchmark"
HERE = Path(__file__).resolve()
LINE = "{:<7}{:<9}{:>8}  {:<34}{:>9}{:>12}{:>10}{:>14}"
PLACES = ("local", "s3", "lineage")
SNAKEMAKE = ("snakemake", "snakemake-storage-plugin-s3")
SNAKEFILE = """
SIZE, LENGTH = int(config["size"]), int(config["length"])
rule all:
    input: [f"made/{LENGTH - 1}/{number}" for number in range(SIZE // LENGTH)]
rule made:
    input: lambda wildcards: [f"made/{int(wildcards.level) - 1}/{wildcards.number}"] if int(wildcards.level) else []
    output: "made/{level}/{number}"
    params: factor=3
    shell: "echo x > {output}"
"""


class Made(AtomicTaskWithMetadata):
    place = luigi.Parameter(significant=False)
    number = luigi.IntParameter()
    level = luigi.IntParameter()
    factor = luigi.IntParameter(default=3)

    def requires(self):
        return self.clone(level=self.level - 1) if self.level else None

    def output(self):
        name = f"made/{self.level}/{self.number}"
        return S3ObjectTarget(BUCKET, name) if self.place == "s3" else LocalFileTarget(f"{self.place}/{name}")

    def run(self, output_path):
        output_path.write_text(f"{self.number}\n")


class Everything(luigi.WrapperTask):
    place = luigi.Parameter()
    size = luigi.IntParameter()
    length = luigi.IntParameter()

    def requires(self):
        chains = range(self.size // self.length)
        return [Made(place=self.place, number=number, level=self.length - 1) for number in chains]


class Joined(AtomicTaskWithMetadata):
    """One output that was made of all."""

    place = luigi.Parameter()
    size = luigi.IntParameter()
    length = luigi.IntParameter()
    requires = Everything.requires

    def output(self):
        return LocalFileTarget(f"{self.place}/joined")

    def run(self, output_path):
        output_path.write_text("x")


def ask(place, size, length):
    """Plan here, and say that nothing is to be done."""
    start = time.perf_counter()
    planned = plan(Everything(place=place, size=size, length=length), rerun_stale=True)
    seconds = time.perf_counter() - start
    assert len(planned) == size // length * length + 1, len(planned)
    assert not planned.of(Verdict.RUN), planned
    assert not planned.of(Verdict.UNKNOWN), planned
    print(json.dumps({"seconds": seconds}))


def timed(command, folder, environment=None):
    """Give the seconds of a whole process, and what it wrote."""
    environment = {**os.environ, "PYTHONPATH": str(Path(superluigi.__file__).parents[1]), **(environment or {})}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, done.stdout + done.stderr


class Ours:
    name = "superluigi"

    def __init__(self, folder, place, data_dir):
        self.folder, self.place = folder, place
        self.environment = {"SUPERLUIGI_LOCAL_DATA_DIR": str(data_dir)}

    def make(self, size, length):
        os.environ.update(self.environment)
        root = Everything(place=self.place, size=size, length=length)
        with open(os.devnull, "w") as stream, redirected(stream):
            if self.place == "s3":
                with ThreadPoolExecutor(max_workers=32) as pool:
                    run_task(root, executor=pool)
            else:
                run_task(root)

    def dry_run(self, size, length):
        command = [sys.executable, str(HERE), str(size), "--length", str(length), "--here", self.place]
        return timed(command, self.folder, self.environment)


class redirected:  # noqa: N801  (it is used as a function is)
    """Let what is printed go elsewhere while the block runs."""

    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        self.found, sys.stdout = sys.stdout, self.stream

    def __exit__(self, *error):
        sys.stdout = self.found


class Snakemake:
    name = "snakemake --dry-run"

    def __init__(self, program, folder, *, options=()):
        self.program, self.folder, self.options = program, folder, list(options)
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE)

    def command(self, size, length, *options):
        config = ["--config", f"size={size}", f"length={length}"]
        return [self.program, "--cores", "1", *options, *self.options, *config]

    def make(self, size, length):
        """Make the files from the beginning of each chain on, and the metadata of the jobs that made them."""
        for level in range(length):
            (self.folder / f"made/{level}").mkdir(parents=True)
            for number in range(size // length):
                (self.folder / f"made/{level}/{number}").write_text(f"{number}\n")
        timed(self.command(length, length, "--touch", "--forceall"), self.folder)
        metadata = self.folder / ".snakemake/metadata"
        for level in range(length):
            told = json.loads((metadata / named(f"made/{level}/0")).read_text())
            for number in range(1, size // length):
                inputs = [f"made/{level - 1}/{number}"] if level else []
                facts = {**told, "input": inputs, "shellcmd": f"echo x > made/{level}/{number}"}
                (metadata / named(f"made/{level}/{number}")).write_text(json.dumps(facts))

    def dry_run(self, size, length):
        seconds, told = timed(self.command(size, length, "--dry-run"), self.folder)
        assert "Nothing to be done" in told, told
        assert "missing provenance" not in told, told
        return seconds, told


def named(path):
    """Give the name under which Snakemake keeps what it knows of a file."""
    return base64.b64encode(path.encode()).decode()


def program_of(arguments, folder):
    """Give the path of Snakemake, None if there is none."""
    if arguments.alone:
        return None
    if arguments.install:
        subprocess.run([sys.executable, "-m", "venv", folder / "peer"], check=True)
        subprocess.run([folder / "peer/bin/pip", "install", "--quiet", *SNAKEMAKE], check=True)
        return str(folder / "peer/bin/snakemake")
    beside = Path(sys.executable).with_name("snakemake")
    return arguments.snakemake or (str(beside) if beside.exists() else shutil.which("snakemake"))


def row(shape, size, name, seconds, start, requests, times):
    """Print a row."""
    times = f"{times:.1f}" if times else ""
    print(LINE.format(*shape, f"{size:,}", name, f"{seconds:.2f}", start, requests, times), flush=True)


def compare_local(arguments, folder, program):
    size, length = arguments.size, arguments.length
    shape = "local", f"x {length}"
    peer = None
    runners = [Snakemake(program, folder / "snakemake")] if program else []
    (folder / "ours").mkdir()
    for runner in [*runners, Ours(folder, str(folder / "ours"), folder / "data")]:
        runner.make(size, length)
        first, _ = runner.dry_run(length, length)
        seconds, told = min(runner.dry_run(size, length) for _ in range(arguments.repeat))
        row(shape, size, runner.name, seconds, f"{seconds - first:.2f}", "", peer and peer / seconds)
        if runner.name == Ours.name:
            row(shape, size, "  plan() alone", json.loads(told)["seconds"], "", "", None)
        peer = seconds


def compare_s3(arguments, folder, program):
    size, length = arguments.size, arguments.length
    shape = "s3", f"x {length}"
    (folder / "s3").mkdir()
    with delayed_s3(BUCKET, delay_ms=arguments.delay_ms, server=arguments.server) as running:
        peer = start = None
        ours = Ours(folder / "s3", "s3", folder / "s3/data")
        running.delay(0)
        ours.make(size, length)
        running.delay(arguments.delay_ms)
        if program and arguments.peer_size:
            options = ["--default-storage-provider", "s3", "--default-storage-prefix", f"s3://{BUCKET}"]
            options += ["--storage-s3-endpoint-url", running.endpoint_url, "--storage-s3-access-key", "benchmark"]
            snakemake = Snakemake(program, folder / "s3/snakemake", options=[*options, "--storage-s3-secret-key", "b"])
            few = arguments.peer_size
            running.counts()
            seconds, told = timed(snakemake.command(few, length, "--dry-run"), snakemake.folder)
            assert "Nothing to be done" in told, told
            requests = total(running)
            first, _ = timed(snakemake.command(length, length, "--dry-run"), snakemake.folder)
            row(shape, few, snakemake.name, seconds, f"{seconds - first:.2f}", requests, None)
            peer, start = (seconds - first) / few, first
        first, _ = ours.dry_run(length, length)
        running.counts()
        elsewhere = Ours(folder / "s3", "s3", folder / "s3/nothing")
        for runner, name in ((ours, "superluigi"), (elsewhere, "superluigi, elsewhere")):
            seconds, told = runner.dry_run(size, length)
            requests = total(running)
            times = peer and (start + peer * size) / seconds
            row(shape, size, name, seconds, f"{seconds - first:.2f}", requests, times)
            row(shape, size, "  plan() alone", json.loads(told)["seconds"], "", "", None)


def total(running):
    counts = running.counts()
    counts.pop("at most")
    return sum(counts.values())


def measure_lineage(arguments, folder):
    for length in (1, arguments.length, arguments.size):
        place = folder / f"lineage{length}"
        place.mkdir()
        task = Joined(place=str(place), size=arguments.size, length=length)
        with open(os.devnull, "w") as stream, redirected(stream):
            run_task(task)
        start = time.perf_counter()
        found = lineage(task.output())
        seconds = time.perf_counter() - start
        assert len(found.nodes) == arguments.size // length * length + 1
        row(
            ("local", f"x {length}"),
            len(found.nodes) - 1,
            "lineage() of one that is made of all",
            seconds,
            "",
            "",
            None,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("size", nargs="?", type=int, default=10_000, help="tasks of the graph")
    parser.add_argument("--length", type=int, default=2, help="tasks of a chain")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES)
    parser.add_argument("--peer-size", type=int, default=500, help="tasks of Snakemake's graph in S3; 0 leaves it out")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each local one, of which the fastest counts")
    parser.add_argument("--snakemake", help="the program")
    parser.add_argument("--alone", action="store_true", help="without Snakemake")
    parser.add_argument("--install", action="store_true", help="install Snakemake into an environment of its own")
    parser.add_argument("--folder", type=Path, help="where the outputs are written; default: the system's own")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        ask(arguments.here, arguments.size, arguments.length)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        program = program_of(arguments, Path(folder))
        os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = f"{folder}/data"
        if not (program or arguments.alone):
            print("Snakemake is not installed: see --install")
        print(LINE.format("place", "chains", "tasks", "what", "seconds", "less start", "requests", "times faster"))
        if "local" in arguments.places:
            compare_local(arguments, Path(folder), program)
        if "s3" in arguments.places:
            compare_s3(arguments, Path(folder), program)
        if "lineage" in arguments.places:
            measure_lineage(arguments, Path(folder))


if __name__ == "__main__":
    main()
