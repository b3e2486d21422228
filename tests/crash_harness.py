"""Runs a pipeline in a forked process, kills it before its n-th step, and looks at what is left.

A step is each change of the file system and each request to S3; audit hooks and botocore's events tell of them,
so the library holds no code for this. Started by `test_crash.py`; reads one order per line, answers with one line.

What a run finds is made once for all kills of a scenario, and put back before each as it was, to the byte and the
nanosecond. It starts itself a second time, as the S3 server: one that can put back what it stored, and is not slowed
down by what pytest measures.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

sys.dont_write_bytecode = True

import botocore.handlers  # noqa: E402
from moto.core import DEFAULT_ACCOUNT_ID  # noqa: E402

from superluigi import (  # noqa: E402
    AtomicTaskWithMetadata,
    LocalFileTarget,
    LocalFolderTarget,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    run_task,
)
from superluigi.running import durations  # noqa: E402
from superluigi.storage import files  # noqa: E402
from superluigi.storage.s3 import Bucket  # noqa: E402
from superluigi.testing import embedded_s3  # noqa: E402

durations._NOTEWORTHY_S = 0.0  # they are always kept, so that a run takes the same steps however busy the machine is
BUCKET = "crash"
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

root = Path()  # where the scenario has its files
label = "old"


class Stage(AtomicTaskWithMetadata):
    kind = Parameter()

    def output(self):
        name = type(self).__name__.lower()
        places = {
            "file": lambda: LocalFileTarget(root / "out" / f"{name}.txt"),
            "folder": lambda: LocalFolderTarget(root / "out" / name),
            "folder-inside": lambda: LocalFolderTarget(root / "out" / name, metadata_inside_folder=True),
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


class Steps:
    """The steps of this process since `count`; it is killed before the one that is named."""

    def __init__(self) -> None:
        self.kill_at: int | None = None
        self.made: list[str] = []

    def count(self, kill_at: int) -> None:
        self.kill_at = kill_at
        sys.addaudithook(self.on_audit)

    def step(self, sort: str) -> None:
        if self.kill_at is None:
            return
        self.made.append(sort)
        if len(self.made) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_audit(self, event, arguments) -> None:
        if event in CHANGES or (
            event == "open" and str(arguments[0]).startswith(str(root)) and (arguments[2] or 0) & WRITING
        ):
            self.step(f"{event} {what_lies_at(str(arguments[0]))}")

    def on_request(self, event_name, **_) -> None:
        self.step(event_name.removeprefix("before-send."))


def what_lies_at(path: str) -> str:
    """Give the ending of a path, which tells data, records, markers and locks apart; a folder's is empty."""
    ending = Path(path).suffix
    return ending if ending.isascii() and ending[1:].isalpha() else ""


steps = Steps()


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
    return [Source(kind=kind), Sink(kind=kind)] if mode == "forced" else [Source(kind=kind)]


def run(kind: str, mode: str, with_label: str, force: bool) -> None:
    global label  # noqa: PLW0603  (what the tasks of this process write)
    label = with_label
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        run_task(pipeline(kind, mode)[-1], force_upstream=force)


def uses_s3(kind: str) -> bool:
    return "object" in kind or "prefix" in kind


def prepare(kind: str, mode: str) -> None:
    """For a forced run, and to be removed, leave the output of an old one."""
    if mode != "first":
        run(kind, mode, "old", force=False)


def crash(kind: str, mode: str, kill_at: int) -> dict:
    steps.count(kill_at)
    if mode == "removed":
        remove(kind, mode)
    else:
        run(kind, mode, "new", force=mode == "forced")
    return {"steps": steps.made}


def remove(kind: str, mode: str) -> None:
    """Remove what a cleanup removes, and see that the records stay."""
    (task,) = pipeline(kind, mode)
    output = task.output()
    for target in output if isinstance(output, list) else [output]:
        target.remove(keep_metadata=True)
        assert not target.exists()
        assert target.read_metadata()["removed_time"]


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
    found = [str(path) for path in root.rglob("*") if path.name.endswith((".superluigi", ".partial", ".replaced"))]
    found += [str(path) for path in (root / "data" / "tmp").glob("*")]
    if uses_s3(kind):
        found += [item.key for item in Bucket(BUCKET).listing("") if "superluigi" in item.key]
    return found


class Server:
    """The S3 server, a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, __file__, "serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.environment = self.answer()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, order: str) -> None:
        """Let it `clear` the bucket, `keep` what is in it, or `restore` just that."""
        print(order, file=self.process.stdin, flush=True)
        assert self.answer() == order

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    from moto.s3.models import s3_backends

    kept = {}
    with embedded_s3(BUCKET):
        print(json.dumps({name: value for name, value in os.environ.items() if name.startswith("AWS_")}), flush=True)
        bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[BUCKET]
        for line in sys.stdin:
            order = line.strip()
            if order == "keep":
                kept = {name: copy.deepcopy(key) for name, key in bucket.keys.items()}
            else:
                for stored in (bucket.keys, bucket.multiparts):
                    for name in list(stored):
                        stored.pop(name)
                for name, key in kept.items() if order == "restore" else ():
                    bucket.keys[name] = copy.deepcopy(key)
            print(json.dumps(order), flush=True)


class Scenario:
    """What a run finds: made once, put back for each run."""

    def __init__(self, server: Server, folder: Path, kind: str, mode: str) -> None:
        global root  # noqa: PLW0603  (where the tasks of this process and of its forks write)
        root = folder / "root"
        os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(root / "data")
        self.server, self.kept, self.kind, self.mode = server, folder / "kept", kind, mode
        server.ask("clear")
        root.mkdir()
        if (failed := in_fork(prepare, kind, mode)) is not None:
            raise RuntimeError(failed)
        shutil.copytree(root, self.kept, symlinks=True)
        server.ask("keep")

    def put_back(self) -> None:
        shutil.rmtree(root)
        shutil.copytree(self.kept, root, symlinks=True)
        self.server.ask("restore")

    def trial(self, kill_at: int) -> dict:
        """Kill one run at one step, and say what was wrong then and after healing; at step 0, let it end.

        A run that ended says the steps that it made.
        """
        self.put_back()
        crashed = in_fork(crash, self.kind, self.mode, kill_at)
        finished = isinstance(crashed, dict)
        violations = [crashed["error"]] if finished and "error" in crashed else []
        violations += listed(in_fork(examine, self.kind, self.mode))
        return {"finished": finished, "violations": violations, **(crashed if finished else {})}


def loaded_by_a_run(folder: str) -> list[str]:
    """Give the modules that a run and a look load."""
    global root  # noqa: PLW0603  (this process is a fork)
    root = Path(folder)
    os.environ["SUPERLUIGI_LOCAL_DATA_DIR"] = str(root / "data")
    for kind in ("file+object", "prefix"):
        run(kind, "forced", "old", force=False)
        run(kind, "forced", "new", force=True)
        examine(kind, "forced")
    return list(sys.modules)


def warm_up(folder: str) -> None:
    """Load once what each fork would load anew: modules, and botocore's descriptions of S3."""
    loaded = in_fork(loaded_by_a_run, folder)
    for name in loaded if isinstance(loaded, list) else ():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    botocore.handlers.BUILTIN_HANDLERS.append(("before-send", steps.on_request))  # a session takes them when it is made
    list(Bucket(BUCKET).listing(""))  # forks do not use this client, but the session below it
    gc.freeze()  # else the first collection in each fork copies all pages


def obey(warm_up_folder: str) -> None:
    server = Server()
    os.environ.update(server.environment)
    warm_up(warm_up_folder)
    scenario = None
    for line in sys.stdin:
        order = json.loads(line)
        if "folder" in order:
            scenario = Scenario(server, Path(order["folder"]), order["kind"], order["mode"])
        print(json.dumps(scenario.trial(order["kill_at"])), flush=True)
    server.stop()


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else obey(sys.argv[1])
