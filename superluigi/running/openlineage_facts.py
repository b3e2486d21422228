"""What OpenLineage events tell of a task: its job, its parameters, its code, and the places of its data.

Gathered in the thread that runs the tasks, where the user's `output()` may be called; nothing here knows the client or
sends anything. The invariant: private and hidden values are in `secrets`, and in no other field.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import luigi

from superluigi import dag, identity, provenance
from superluigi.origins import origin_of
from superluigi.source import source_of
from superluigi.targets import LocalFileTarget, LocalFolderTarget

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DatasetName = tuple[str, str]  # the namespace and the name of a dataset, as the specification of OpenLineage has them

_BUCKETS = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs"}  # as schemes are written, and as datasets are named


@dataclass(frozen=True)
class Location:
    """Where in a repository the source of a class is."""

    url: str
    path: str
    version: str
    branch: str | None


@dataclass(frozen=True)
class Code:
    """What is the same for all tasks of a class."""

    job: str
    source: str | None = None
    location: Location | None = None
    version: str | None = None
    fingerprint: str | None = None
    doc: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is told of one task."""

    code: Code
    task_id: str
    params: dict[str, str] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()  # targets, those of what is required
    outputs: tuple[Any, ...] = ()
    secrets: frozenset[str] = frozenset()


class Gatherer:
    """Finds out the facts of tasks, those of a class once."""

    def __init__(self) -> None:
        self._codes: dict[type, Code] = {}
        self._locations: dict[str, tuple[str, str, str | None, str] | None] = {}

    def facts(self, task: luigi.Task) -> Facts:
        """Give what is told of a task; whatever of the user's fails is left out, and fails again where it is run."""
        return Facts(
            code=self._code(type(task)),
            task_id=str(task.task_id),
            params=provenance.public_params(task),
            inputs=targets_of(_upstream(task)),
            outputs=targets_of([task]),
            secrets=provenance.secrets_of(task),
        )

    def _code(self, task_cls: type[luigi.Task]) -> Code:
        if task_cls not in self._codes:
            self._codes[task_cls] = Code(
                job=job_name(task_cls),
                source=source_of(task_cls),
                location=self._location(task_cls),
                version=identity.version_of(task_cls),
                fingerprint=identity.code_of(task_cls),
                doc=task_cls.__dict__.get("__doc__"),
            )
        return self._codes[task_cls]

    def _location(self, task_cls: type[luigi.Task]) -> Location | None:
        """Give where a class is, None if that is no file of a repository with a remote; git is asked once a folder."""
        file = getattr(sys.modules.get(task_cls.__module__), "__file__", None)
        if file is None:
            return None
        folder, name = os.path.split(os.path.abspath(file))
        if folder not in self._locations:
            self._locations[folder] = _repository(folder)
        found = self._locations[folder]
        if found is None:
            return None
        url, version, branch, within = found
        return Location(url, f"{within}{name}", version, branch)


def _repository(folder: str) -> tuple[str, str, str | None, str] | None:
    """Give the address of a folder's repository, the commit, the branch, and the folder's path in it."""
    remote = provenance.ask_git(folder, "config", "--get", "remote.origin.url")
    told = provenance.ask_git(folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD", "--show-prefix") if remote else None
    url = address_of_remote(remote or "")
    if not told or url is None:
        return None
    commit, branch, *prefix = told.splitlines()
    return url, commit, None if branch == "HEAD" else branch, prefix[0] if prefix else ""


def address_of_remote(remote: str) -> str | None:
    """Give a remote of git as an address without credentials; None if it names none."""
    host, colon, path = remote.partition(":")
    if "://" not in remote and colon and "/" not in host:  # git@host:path, which is no address
        remote = f"ssh://{host}/{path.lstrip('/')}"
    try:
        parts = urlsplit(remote)
        if parts.scheme and parts.hostname:
            place = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
            return f"{parts.scheme}://{place}{parts.path}"
        return Path(remote).as_uri() if os.path.isabs(remote) else None
    except ValueError:
        return None


def job_name(task_cls: type[luigi.Task]) -> str:
    """Give module and family; a script has the name by which others would import it."""
    return f"{origin_of(task_cls.__module__).name}.{task_cls.get_task_family()}"


def job_name_of_run(roots: Sequence[luigi.Task]) -> str:
    """Give the name of the job that a call of `run_task` is: that of the tasks which it was given."""
    names = list(dict.fromkeys(job_name(type(root)) for root in roots))
    return f"run_task.{names[0]}" + (f"+{len(names) - 1}" if len(names) > 1 else "")


def _upstream(task: luigi.Task) -> Iterable[luigi.Task]:
    with contextlib.suppress(Exception):
        return dag.upstream_of(task) if dag.is_ours(task) else task.deps()
    return ()


def targets_of(tasks: Iterable[luigi.Task]) -> tuple[Any, ...]:
    """Give the targets of tasks; none of those whose `output()` fails."""
    found: list[Any] = []
    for task in tasks:
        with contextlib.suppress(Exception):
            found += [target for _, target in dag.leaves(dag.output(task))]
    return tuple(found)


# Datasets


def dataset_of(target: Any, folder: str) -> DatasetName | None:
    """Give what names the data of a target, None where nothing does; local paths are relative to the folder."""
    path = dag.path_of(target)
    if not isinstance(path, str | os.PathLike):
        return None
    is_local = isinstance(target, LocalFileTarget | LocalFolderTarget | luigi.LocalTarget)
    return dataset_at(os.fsdecode(path), folder if is_local else None)


def dataset_at(path: str, folder: str | None) -> DatasetName | None:
    """Give what names the data at an address, or, with a folder, at a local path."""
    scheme, mark, rest = path.partition("://")
    if not mark:
        return None if folder is None else ("file", os.path.normpath(os.path.join(folder, path)))
    bucket, _, key = rest.partition("/")
    name = key.strip("/")
    return (f"{_BUCKETS[scheme]}://{bucket}", name) if scheme in _BUCKETS and bucket and name else None
