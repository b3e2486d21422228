"""Runs a pipeline in a forked process, kills it before its n-th step, and looks at what is left.

A step is each change of the file system and each request to S3; audit hooks and botocore's events tell of them,
so the library holds no code for this. Started by `test_crash.py`; reads one order per line, answers with one line.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

sys.dont_write_bytecode = True

import botocore.handlers  # noqa: E402
import botocore.loaders  # noqa: E402

from superluigi import (  # noqa: E402
    AtomicTaskWithMetadata,
    LocalFileTarget,
    LocalFolderTarget,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    run_task,
)
from superluigi.storage import files  # noqa: E402
from superluigi.storage.s3 import Bucket  # noqa: E402

ROOT = Path(os.environ["CRASH_ROOT"])
BUCKET = os.environ["CRASH_BUCKET"]
CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "os.chmod",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

label = "old"


class Stage(AtomicTaskWithMetadata):
    kind = Parameter()

    def output(self):
        name = type(self).__name__.lower()
        places = {
            "file": lambda: LocalFileTarget(ROOT / "out" / f"{name}.txt"),
            "folder": lambda: LocalFolderTarget(ROOT / "out" / name),
            "folder-inside": lambda: LocalFolderTarget(ROOT / "out" / name, metadata_inside_folder=True),
            "object": lambda: S3ObjectTarget(BUCKET, f"out/{name}.txt"),
            "prefix": lambda: S3PrefixTarget(BUCKET, f"out/{name}"),
            "prefix-inside": lambda: S3PrefixTarget(BUCKET, f"out/{name}", metadata_inside_prefix=True),
        }
        kinds = self.kind.split("+")
        targets = [places[kind]() for kind in kinds]
        return targets if len(targets) > 1 else targets[0]

    def run(self, input_path, output_path, metadata):
        metadata["label"] = label
        for path in output_path if isinstance(output_path, list) else [output_path]:
            if path.is_dir():
                (path / "a.txt").write_text("the same each time")
                (path / "sub").mkdir()
                (path / "sub" / "b.txt").write_text(label * 1000)
                (path / f"only-{label}.txt").write_text(label)
            else:
                path.write_text(label * 1000)


class Source(Stage):
    pass


class Sink(Stage):
    def requires(self):
        return Source(kind=self.kind)


def count_steps(kill_at: int) -> None:
    """Count steps from now on, and kill this process before the one that is named."""
    steps = [0]

    def step() -> None:
        steps[0] += 1
        if steps[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_audit(event, arguments) -> None:
        if event in CHANGES or (
            event == "open" and str(arguments[0]).startswith(str(ROOT)) and (arguments[2] or 0) & WRITING
        ):
            step()

    sys.addaudithook(on_audit)
    botocore.handlers.BUILTIN_HANDLERS.append(("before-send", lambda **_: step()))


def in_fork(function, *arguments):
    """Call a function in a forked process; give its answer, or `killed`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            answer = function(*arguments)
        except BaseException:  # noqa: BLE001  (whatever it is, it is told)
            answer = {"error": traceback.format_exc()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == signal.SIGKILL else {"error": f"signal {os.WTERMSIG(status)}"}
    return json.loads(text)


def listed(answer) -> list[str]:
    """Give what a forked look found; a look that broke off is a violation itself."""
    return answer if isinstance(answer, list) else [f"the look broke off: {answer}"]


def pipeline(kind: str, mode: str) -> list[Stage]:
    """Give the tasks, the root last: on a first run the one, over older output two, so that inputs are read, too."""
    return [Source(kind=kind)] if mode == "first" else [Source(kind=kind), Sink(kind=kind)]


def run(kind: str, mode: str, with_label: str, force: bool) -> None:
    global label  # noqa: PLW0603  (what the tasks of this process write)
    label = with_label
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        run_task(pipeline(kind, mode)[-1], force_upstream=force)


def uses_s3(kind: str) -> bool:
    return "object" in kind or "prefix" in kind


def prepare(kind: str, mode: str) -> None:
    """Clear everything, and for a forced run leave the output of an old one."""
    for name in ("out", "data"):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    if uses_s3(kind):
        bucket = Bucket(BUCKET)
        bucket.delete(item.key for item in bucket.listing(""))
    if mode == "forced":
        run(kind, mode, "old", force=False)


def crash(kind: str, mode: str, kill_at: int) -> list[str]:
    prepare(kind, mode)
    count_steps(kill_at)
    run(kind, mode, "new", force=mode == "forced")
    return []


def examine(kind: str, mode: str) -> list[str]:
    """Look, let a plain run heal, look again."""
    violations = look(kind, mode, must_exist=mode == "forced")
    run(kind, mode, "new", force=False)
    violations += look(kind, mode, must_exist=True) + leftovers(kind)
    if not all(task.complete() for task in pipeline(kind, mode)):
        violations.append("the healing run did not complete")
    return violations


def content_label(path: Path) -> str:
    """Give the label of the bytes at a path, or say what is wrong with them."""
    if path.is_dir():
        names = {name for name, _ in files.files_in(path)} - {".metadata.json"}
        text = (path / "sub" / "b.txt").read_text() if "sub/b.txt" in names else ""
        found = text[:3]
        whole = {"a.txt", "sub/b.txt", f"only-{found}.txt"}
        return found if names == whole and text == found * 1000 else f"not whole: {sorted(names)}"
    text = path.read_text()
    return text[:3] if text == text[:3] * 1000 and text else f"not whole: {len(text)} bytes"


def look(kind: str, mode: str, must_exist: bool) -> list[str]:
    """Give every promise that is broken in what lies there now."""
    violations = []
    for task in pipeline(kind, mode):
        labels = set()
        output = task.output()
        for target in output if isinstance(output, list) else [output]:
            if must_exist and isinstance(target, LocalFileTarget) and content_label(target.path) not in ("old", "new"):
                violations.append(f"{target}: {content_label(target.path)}")
            if not target.exists():
                if must_exist and not isinstance(target, S3PrefixTarget):
                    violations.append(f"{target} is gone")
                continue
            with target.tmp_read_path() as path:
                found = content_label(path)
            labels.add(found)
            if found not in ("old", "new"):
                violations.append(f"{target}: {found}")
                continue
            try:
                record = target.read_metadata()
            except FileNotFoundError:
                violations.append(f"{target} ({found}) has no record")
                continue
            if record["label"] != found:
                violations.append(f"{target} is {found}, but its record is {record['label']}")
            if record["output"]["fingerprint"] != target.fingerprint():
                violations.append(f"{target} is not what its record says")
        if task.complete() and len(labels) != 1:
            violations.append(f"{task} counts as complete with {sorted(labels)}")
    return violations


def leftovers(kind: str) -> list[str]:
    """Give what a healed run must not leave."""
    found = [str(path) for path in ROOT.rglob("*") if path.name.endswith((".superluigi", ".partial", ".replaced"))]
    found += [str(path) for path in (ROOT / "data" / "tmp").glob("*")]
    if uses_s3(kind):
        found += [item.key for item in Bucket(BUCKET).listing("") if "superluigi" in item.key]
    return found


def trial(kind: str, mode: str, kill_at: int) -> dict:
    """Kill one run at one step, and say what was wrong then and after healing."""
    crashed = in_fork(crash, kind, mode, kill_at)
    violations = [] if crashed == "killed" else listed(crashed)
    violations += listed(in_fork(examine, kind, mode))
    return {"finished": crashed != "killed", "violations": violations}


if __name__ == "__main__":
    # botocore parses its descriptions of S3 anew in every process: that would be most of the time spent here.
    botocore.loaders.JSONFileLoader.load_file = functools.lru_cache(maxsize=None)(
        botocore.loaders.JSONFileLoader.load_file
    )
    for line in sys.stdin:
        print(json.dumps(trial(**json.loads(line))), flush=True)
