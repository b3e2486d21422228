"""What it costs to find out which of many targets in S3 are there, against `luigi.contrib.s3`, one by one.

Patterns: 10,000 targets under one prefix of which none, half or all are there; and 2,000 targets with nothing in
common, half of them there, in a bucket that holds 200,000 other objects or none. The peer is asked for 200 of them,
evenly chosen, and what it took is scaled. The server and the proxy before it use the same processors.
"""

import argparse
import hashlib
import io
import os
import random
import time
import warnings
from functools import partial

warnings.simplefilter("ignore")

from delayed_s3 import add_options, delayed_s3  # noqa: E402

BUCKET = "benchmark"
LINE = "{:<51}{:<18}{:>9}{:>10}{:>9}{:>14}"
PATTERNS = ("none", "half", "all", "random", "random-among-others")


def which_exist(keys):
    """Give those that are there, as a run finds out before it begins: by `complete()` of a task for each."""
    import luigi

    from superluigi import ExternalTask, S3ObjectTarget
    from superluigi.forcing import Forcing
    from superluigi.outlook import Outlook
    from superluigi.targets.foresight import foresight

    class Asked(ExternalTask):
        key = luigi.Parameter()

        def output(self):
            return S3ObjectTarget(BUCKET, self.key)

    tasks = [Asked(key=key) for key in keys]
    with foresight():
        Outlook(Forcing()).ask(tasks)
        return {task.key for task in tasks if task.complete()}


def which_exist_to_luigi(keys):
    """Give those that are there, asked for one by one."""
    from luigi.contrib.s3 import S3Client, S3Target

    client = S3Client(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.exists(f"s3://{BUCKET}/absent")  # makes its connection
    start = time.perf_counter()
    found = {key for key in keys if S3Target(f"s3://{BUCKET}/{key}", client=client).exists()}
    return found, time.perf_counter() - start


def pattern_of(name, scale):
    """Give what the pattern is, the keys that are asked for, those of them that are there, and others."""
    if not name.startswith("random"):
        keys = [f"data/date={number:05}/result.csv" for number in range(int(10_000 * scale))]
        there = {"none": [], "half": keys[::2], "all": keys}[name]
        return f"{len(keys):,} under one prefix, {name} there", keys, there, []
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(int(2_000 * scale))]
    others = [f"{random.getrandbits(256):064x}" for _ in range(int(200_000 * scale))] if name != "random" else []
    among = f" among {len(others):,} others" if others else ""
    return f"{len(keys):,} random ones{among}, half there", keys, keys[::2], others


def fill(running, keys):
    """Put empty objects, with as many requests at a time as there may be."""
    from superluigi.storage.concurrency import run_all
    from superluigi.storage.s3 import Bucket

    bucket = Bucket(BUCKET)
    if running.fill(keys):
        return
    run_all((partial(bucket.put_bytes, key, io.BytesIO(), {}) for key in keys), max_concurrency=16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=PATTERNS)
    parser.add_argument("--peer-keys", type=int, default=200, help="how many luigi.contrib.s3 is asked for")
    parser.add_argument("--scale", type=float, default=1, help="times as many targets and objects")
    arguments = parser.parse_args()
    random.seed(0)
    print(f"server: {arguments.server}, {arguments.delay_ms:g} ms added to each request, {os.cpu_count()} processors")
    print(LINE.format("targets", "how", "seconds", "requests", "at once", "times faster"))
    for name in arguments.patterns:
        what, keys, there, others = pattern_of(name, arguments.scale)
        with delayed_s3(BUCKET, delay_ms=arguments.delay_ms, server=arguments.server) as running:
            fill(running, [*there, *others])
            running.counts()
            asked = keys[:: max(1, len(keys) // arguments.peer_keys) | 1]  # an odd step: there and not there
            found, peer = which_exist_to_luigi(asked)
            assert found == set(there) & set(asked)
            counts = running.counts()
            counts.pop("at most")
            share = len(keys) / len(asked)
            figures = f"{peer * share:.1f}", f"{sum(counts.values()) * share:.0f}", 1, "1.0"
            print(LINE.format(what, "luigi, scaled", *figures), flush=True)

            which_exist(["absent"])  # makes its connection, as the peer's was made
            running.counts()
            start = time.perf_counter()
            found = which_exist(keys)
            seconds = time.perf_counter() - start
            assert found == set(there)
            counts = running.counts()
            at_once = counts.pop("at most")
            figures = f"{seconds:.2f}", sum(counts.values()), at_once, f"{peer * share / seconds:.0f}"
            print(LINE.format(what, "superluigi", *figures), flush=True)


if __name__ == "__main__":
    main()
