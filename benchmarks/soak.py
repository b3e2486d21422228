"""Four processes run, force, kill and read random tasks of one graph, over one cache and one S3 server.

Every output holds the label of the run that made it, and so does its record. A violation is a target that exists
and is not whole, or whose record is another run's; whatever is left once a last plain run has healed; or an error
that nothing here explains. Runs that meet a target which another process is just replacing may fail; they are
counted and are no violation.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import uuid
from pathlib import Path

from superluigi import (
    AtomicTaskWithMetadata,
    IntParameter,
    LocalFileTarget,
    LocalFolderTarget,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    StorageError,
    TargetNotFoundError,
    TaskFailedError,
    run_task,
)
from superluigi.storage import files
from superluigi.targets.publishing import recover_abandoned

KINDS = ("file", "folder", "object", "prefix", "file+object")
BUCKET = "soak"
RACES = (TargetNotFoundError, StorageError)


class Node(AtomicTaskWithMetadata):
    """One task of a graph in layers: each requires two of the layer below, of other kinds."""

    root = Parameter(significant=False)
    layer = IntParameter()
    kind = Parameter()

    def requires(self):
        if self.layer == 0:
            return []
        place = KINDS.index(self.kind)
        return [self.clone(layer=self.layer - 1, kind=KINDS[(place + step) % len(KINDS)]) for step in (0, 1)]

    def output(self):
        name = f"layer-{self.layer}-{self.kind}"
        places = {
            "file": lambda: LocalFileTarget(Path(self.root, "out", f"{name}.txt")),
            "folder": lambda: LocalFolderTarget(Path(self.root, "out", f"{name}-folder")),
            "object": lambda: S3ObjectTarget(BUCKET, f"{name}.txt"),
            "prefix": lambda: S3PrefixTarget(BUCKET, f"{name}-prefix"),
        }
        return [places[kind]() for kind in self.kind.split("+")]

    def run(self, input_path, output_path, metadata):
        label = metadata["label"] = uuid.uuid4().hex
        for upstream in input_path:
            for path in upstream:
                if label_at(path) is None:
                    message = f"{path.name} is not whole"
                    raise AssertionError(message)
        for path in output_path:
            if path.is_dir():
                for name in ("a.txt", "b.txt", f"{label}.txt"):
                    (path / name).write_text(label * 50)
            else:
                path.write_text(label * 50)


def label_at(path: Path) -> str | None:
    """Give the label that all bytes at a path hold; None if they do not hold one and the same."""
    texts = {name: file.read_text() for name, file in files.files_in(path)} if path.is_dir() else {"": path.read_text()}
    found = {text[:32] for text in texts.values() if text == text[:32] * 50}
    if len(found) != 1 or any(len(text) != 32 * 50 for text in texts.values()):
        return None
    label = found.pop()
    return label if not path.is_dir() or set(texts) == {"a.txt", "b.txt", f"{label}.txt"} else None


def all_nodes(root: str, layers: int) -> list[Node]:
    """Give every task of the graph."""
    return [Node(root=root, layer=layer, kind=kind) for layer in range(layers) for kind in KINDS]


def read(task: Node) -> str:
    """Look at the outputs of one task; give `whole`, `absent`, `replaced meanwhile`, or what is wrong."""
    answer = "absent"
    for target in task.output():
        try:
            before = target.read_metadata()
            with target.tmp_read_path() as path:
                label = label_at(path)
            after = target.read_metadata()
        except RACES:
            if not target.exists():
                continue
            answer = "replaced meanwhile"
            continue
        if before["run_id"] != after["run_id"] or before["label"] != after["label"]:
            answer = "replaced meanwhile"
        elif label is None:
            return f"{target} is not whole"
        elif label != after["label"]:
            return f"{target} holds {label}, its record {after['label']}"
        else:
            answer = "whole"
    return answer


def act(root: str, layers: int, choice: str) -> str:
    """Do one thing to a random task, in a process of its own; give what came of it."""
    task = random.choice(all_nodes(root, layers))
    if choice == "read":
        return read(task)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            run_task(task, force=choice == "force", force_upstream=choice == "force upstream", log_level="CRITICAL")
    except TaskFailedError as error:
        causes = [failure.exception for failure in error.failures]
        if all(isinstance(cause, RACES) or "Unfulfilled" in str(cause) for cause in causes):
            return "failed in a race"
        return f"unexplained: {error}"
    except RACES:  # an output was replaced while its completeness was asked
        return "failed in a race"
    return "ran"


def forked(root: str, layers: int, choice: str, kill_after_s: float | None) -> str:
    """Act in a forked process, which is killed after a while unless it ends before."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            random.seed()
            answer = act(root, layers, choice)
        except BaseException:  # noqa: BLE001  (whatever it is, it is told)
            answer = f"unexplained: {traceback.format_exc()}"
        os.write(writer, answer.encode()[:60000])
        os._exit(0)
    os.close(writer)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    os.waitpid(pid, 0)
    return answer or "killed"


def worker(root: str, layers: int, seconds: float, results: multiprocessing.Queue) -> None:
    """Act until the time is up."""
    counts: collections.Counter[str] = collections.Counter()
    violations: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        choice = random.choice(["run", "run", "force", "force upstream", "read", "read", "read"])
        kill_after_s = random.uniform(0, 0.4) if choice != "read" and random.random() < 0.5 else None
        answer = forked(root, layers, choice, kill_after_s)
        if answer in ("ran", "whole", "absent", "replaced meanwhile", "failed in a race", "killed"):
            counts[f"{choice}: {answer}"] += 1
        else:
            counts["violations"] += 1
            violations.append(f"{choice}: {answer}")
    results.put(json.dumps({"counts": counts, "violations": violations}))


def leftovers(root: str, client) -> list[str]:
    """Give what must not be there once all is healed."""
    found = [str(path) for path in Path(root).rglob("*") if path.name.endswith((".superluigi", ".replaced"))]
    found += [str(path) for path in Path(root, "data", "tmp").glob("*")]
    listing = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return found + [item["Key"] for item in listing if "superluigi" in item["Key"]]


def main() -> int:
    """Run the soak and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="how long to run (default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=4, help="how many processes act at once (default: %(default)s)"
    )
    parser.add_argument("--layers", type=int, default=3, help="layers of five tasks each (default: %(default)s)")
    options = parser.parse_args()
    from superluigi.testing import embedded_s3

    with tempfile.TemporaryDirectory() as root, embedded_s3(BUCKET) as server:
        os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(Path(root, "data"))
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        arguments = (root, options.layers, options.seconds, results)
        processes = [context.Process(target=worker, args=arguments) for _ in range(options.processes)]
        for process in processes:
            process.start()
        answers = [json.loads(results.get()) for _ in processes]
        for process in processes:
            process.join()
        counts = sum((collections.Counter(answer["counts"]) for answer in answers), collections.Counter())
        violations = [violation for answer in answers for violation in answer["violations"]]
        recover_abandoned()
        top = [task for task in all_nodes(root, options.layers) if task.layer == options.layers - 1]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            for task in all_nodes(root, options.layers):
                run_task(task)
            run_task(top)
        states = {str(task): read(task) for task in all_nodes(root, options.layers)}
        violations += [f"after healing: {task}: {state}" for task, state in states.items() if state != "whole"]
        violations += [f"left behind: {name}" for name in leftovers(root, server.client())]

    for name, count in sorted(counts.items()):
        print(f"{name:40} {count:6}")
    operations = sum(counts.values())
    kills = sum(count for name, count in counts.items() if name.endswith(": killed"))
    print(f"\n{operations} operations, {kills} kills, {len(violations)} violations")
    for violation in violations:
        print(f"  {violation}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
