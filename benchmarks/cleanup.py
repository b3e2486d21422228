"""How much disk a pipeline takes while it runs, with TaskWithCleanup and without.

Stages in a row, each of which reads the file of the one before and writes one of the same size. The size of all files
below the folder of the pipeline is taken when a stage begins, and when the run has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

from superluigi import (
    AtomicTaskWithMetadata,
    IntParameter,
    LocalFileTarget,
    Parameter,
    S3ObjectTarget,
    TaskWithCleanup,
    run_task,
)

BUCKET = "stages"


class Stage(AtomicTaskWithMetadata):
    root = Parameter(significant=False)
    number = IntParameter()
    size_bytes = IntParameter()
    in_s3 = IntParameter(default=0)

    def requires(self):
        return self.clone(number=self.number - 1) if self.number else None

    def output(self):
        name = f"{type(self).__name__}/{self.number}.bin"
        return S3ObjectTarget(BUCKET, name) if self.in_s3 else LocalFileTarget(Path(self.root, "out", name))

    def run(self, output_path):
        sizes.append(used(self))
        output_path.write_bytes(os.urandom(self.size_bytes))


class ShortLivedStage(TaskWithCleanup, Stage):
    pass


sizes: list[int] = []


def used(task: Stage) -> int:
    """Give the bytes of all stages, staged files and records among them."""
    if task.in_s3:
        import boto3

        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=type(task).__name__)
        return sum(item["Size"] for page in pages for item in page.get("Contents", []))
    found = 0
    for folder, _, names in os.walk(Path(task.root, "out")):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += os.path.getsize(os.path.join(folder, name))
    return found


def measured(task_cls: type[Stage], stages: int, size_bytes: int, *, in_s3: bool) -> list[int]:
    """Run the stages; give what was used when each began, and at the end."""
    sizes.clear()
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
        task = task_cls(root=root, number=stages - 1, size_bytes=size_bytes, in_s3=int(in_s3))
        run_task(task, config={"superluigi": {"local_data_dir": str(Path(root, "data"))}})
        return [*sizes, used(task)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=50)
    parser.add_argument("--size-bytes", type=int, default=4_000_000, help="of the file of each stage")
    parser.add_argument("--s3", action="store_true", help="also in the embedded S3 server")
    options = parser.parse_args()
    steps = [round(step * options.stages / 5) for step in range(1, 6)]
    print(f"{'MB when a stage begins':<38}" + "".join(f"{f'{step}th':>9}" for step in steps) + f"{'at the end':>12}")

    def tell(place: str, *, in_s3: bool) -> None:
        for name, task_cls in (("without cleanup", Stage), ("with TaskWithCleanup", ShortLivedStage)):
            used_bytes = measured(task_cls, options.stages, options.size_bytes, in_s3=in_s3)
            shown = [used_bytes[step - 1] for step in steps]
            cells = "".join(f"{size / 1e6:>9.1f}" for size in shown)
            print(f"{place + ', ' + name:<38}{cells}{used_bytes[-1] / 1e6:>12.1f}")

    tell("local", in_s3=False)
    if options.s3:
        from superluigi.testing import embedded_s3

        with embedded_s3(BUCKET):
            tell("S3", in_s3=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
