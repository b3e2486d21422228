"""The lineage record: what is written beside every output about where it came from.

One level deep: a record names its direct inputs, and each of them has a record of its own. The invariant:
nothing private reaches a record, and whatever is in it is plain JSON.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import platform
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luigi.parameter import ParameterVisibility

from superluigi import dag, identity, task_log
from superluigi.errors import MetadataError
from superluigi.targets.base import Target
from superluigi.targets.metadata import ACCEPTED, IN_MEMORY, RECORD_FIELDS, Metadata, now, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    import luigi

SCHEMA = "superluigi/1"

_MIN_SECRET = 4  # characters: what is shorter stands everywhere, and hides nothing by being masked

_OUTSIDE_A_RUN = uuid.uuid4().hex
_run_id: ContextVar[str | None] = ContextVar("superluigi_run_id", default=None)


@contextlib.contextmanager
def run(name: str) -> Iterator[None]:
    """Let all records that are written meanwhile bear this id."""
    token = _run_id.set(name)
    try:
        yield
    finally:
        _run_id.reset(token)


def run_id() -> str:
    """Give the id of the run that is under way; outside of `run_task` that of this process."""
    return _run_id.get() or _OUTSIDE_A_RUN


def build(
    task: luigi.Task,
    *,
    inputs: Any,
    dynamic_inputs: list[Any],
    in_memory: Metadata,
    started: datetime,
    metadata: Mapping[str, Any],
) -> Metadata:
    """Give all of the record but its `output`; `inputs` are as `describe_input` gives them, nested as required.

    `in_memory` holds, by task id, what `made_from` gives for the tasks whose values were read.

    Raises:
        MetadataError: the user's metadata hold a value that JSON cannot, or a key that belongs to the record.
    """
    ended = now()
    task_cls = type(task)
    record: Metadata = {
        "schema": SCHEMA,
        "task_family": task.get_task_family(),
        "task_module": task.task_module,
        "task_id": task.task_id,
        "task_hash": task.task_id,
        "version": identity.version_of(task_cls),
        "code": identity.code_of(task_cls),
        "params": plain(public_params(task)),
        "input": keyed_by_text(inputs),
        "output": None,
        "start_time": started.isoformat(),
        "end_time": ended.isoformat(),
        "duration": (ended - started).total_seconds(),
        "run_id": run_id(),
        "log_path": _log_path(),
        "host": socket.gethostname(),
        "user": user(),
        "python": platform.python_version(),
        "packages": _packages(len(sys.modules)),
        **_git(_folder_of(task_cls), run_id()),
    }
    if dynamic_inputs:
        record["dynamic_input"] = keyed_by_text(dynamic_inputs)
    if in_memory:
        record[IN_MEMORY] = in_memory
    values = plain(metadata)
    for key in values:
        if key in RECORD_FIELDS:
            raise MetadataError(key, "stands for a field of the lineage record itself", "Choose another key.")
    return {**record, **values}


def made_from(record: Metadata) -> Metadata:
    """Give what a record says of where a value came from, for the records of those who read the value."""
    fields = ("task_family", "task_module", "task_id", "params", "version", "code", "input", "dynamic_input")
    return {name: record[name] for name in fields if name in record}


def made_by(record: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Give version and code of the class that made the data, or that were accepted as such since."""
    accepted = record.get(ACCEPTED)
    told = {**record, **(accepted if isinstance(accepted, dict) else {})}
    return told.get("version"), told.get("code")


def prepare(task_cls: type[luigi.Task]) -> None:
    """Find out now what every record of a class holds, so that processes forked from this one need not, each anew."""
    identity.code_of(task_cls)
    _git(_folder_of(task_cls), run_id())
    _packages(len(sys.modules))
    user()


def public_params(task: luigi.Task) -> dict[str, str]:
    """Give the parameters that everybody may see, as Luigi writes them; private and hidden ones are left out."""
    return {
        name: param.serialize(task.param_kwargs[name])
        for name, param in type(task).get_params()
        if param.visibility == ParameterVisibility.PUBLIC
    }


def secrets_of(task: luigi.Task) -> frozenset[str]:
    """Give the values of private and hidden parameters as text, those that are long enough to be told from words."""
    found: set[str] = set()
    for name, param in type(task).get_params():
        if param.visibility != ParameterVisibility.PUBLIC:
            for value in (task.param_kwargs[name], getattr(param, "_default", None)):
                with contextlib.suppress(Exception):  # a parameter of the user's own may fail in whatever way
                    found |= {param.serialize(value), *(str(part) for _, part in dag.leaves(value))}
    return frozenset(text for text in found if len(text) >= _MIN_SECRET and text not in ("None", "True", "False"))


def masked(text: str, secrets: Iterable[str]) -> str:
    """Give a text in which asterisks stand for secrets."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


class Mask:
    """Puts asterisks into what is told of tasks, for their secrets and those of what they require directly.

    Their paths may hold them, and reasons and errors name paths. Each class is looked at once: most have no secrets.
    """

    def __init__(self) -> None:
        self._has_secrets: dict[type, bool] = {}

    def __call__(self, text: str, task: luigi.Task, required: Iterable[luigi.Task] = ()) -> str:
        """Give the text with asterisks."""
        secrets = self.secrets(task, required)
        return masked(text, secrets) if secrets else text

    def secrets(self, task: luigi.Task, required: Iterable[luigi.Task] = ()) -> frozenset[str]:
        """Give what has to be hidden where one tells of a task."""
        secretive = [one for one in (task, *required) if self._is_secretive(type(one))]
        return frozenset(secret for one in secretive for secret in secrets_of(one))

    def _is_secretive(self, task_cls: type[luigi.Task]) -> bool:
        if task_cls not in self._has_secrets:
            params = task_cls.get_params()
            self._has_secrets[task_cls] = any(param.visibility != ParameterVisibility.PUBLIC for _, param in params)
        return self._has_secrets[task_cls]


def describe_input(task: luigi.Task, target: Any, fingerprint: str | None, stamp: str | None = None) -> Metadata:
    """Give what a record says of one output of an upstream task; what cannot be known is None.

    The `stamp` is there for local data without a record, which are not read again as long as they bear it.
    """
    return {
        "path": dag.place_of(target),
        "fingerprint": fingerprint,
        "task_family": task.get_task_family(),
        "task_id": task.task_id,
        "metadata_path": str(target.metadata_path) if isinstance(target, Target) else None,
        **({} if stamp is None else {"stamp": stamp}),
    }


def keyed_by_text(nested: Any) -> Any:
    """Give what mirrors `requires()` with keys that JSON can hold, whatever keys the task chose."""
    if isinstance(nested, list | tuple):
        return [keyed_by_text(item) for item in nested]
    if not isinstance(nested, Mapping):
        return nested
    result: Metadata = {}
    for key, item in nested.items():
        try:
            (text,) = plain({key: None})
        except MetadataError:
            text = str(key)
        result[f"{type(key).__name__}:{text}" if text in result else text] = keyed_by_text(item)
    return result


def _log_path() -> str | None:
    log = task_log.current()
    return str(log.path) if log is not None and log.is_written else None


@functools.lru_cache(maxsize=1)
def user() -> str | None:
    """Give the name of who runs this; None if the system does not tell."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None


@functools.lru_cache(maxsize=4)
def _packages(_loaded_modules: int) -> dict[str, str]:
    """Give the versions of the packages that are loaded, as far as they tell their own."""
    versions = {}
    for name, module in sorted(sys.modules.items()):
        version = getattr(module, "__dict__", {}).get("__version__")  # a module's own __getattr__ may warn or import
        if "." not in name and isinstance(version, str) and name not in sys.stdlib_module_names and name[0] != "_":
            versions[name] = version
    return versions


@functools.lru_cache(maxsize=64)
def _folder_of(task_cls: type[luigi.Task]) -> str:
    file = getattr(sys.modules.get(task_cls.__module__), "__file__", None)
    return os.path.dirname(os.path.abspath(file)) if file else str(Path.cwd())


@functools.lru_cache(maxsize=64)
def _git(folder: str, _run: str) -> dict[str, Any]:
    """Give the commit that the code is at and whether files differ from it; asked once per folder, run and process."""
    commit = ask_git(folder, "rev-parse", "HEAD")
    status = ask_git(folder, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {"git_commit": commit or None, "git_dirty": None if status is None else bool(status)}


def ask_git(folder: str, *words: str) -> str | None:
    """Give what git answers in a folder; None if there is no git, no repository, or no answer."""
    try:
        done = subprocess.run(  # noqa: S603  (words of our own; the folder is one argument)
            ["git", "--no-optional-locks", "-C", folder, *words],  # noqa: S607  (the user's own git)
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
