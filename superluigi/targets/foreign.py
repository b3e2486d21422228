"""Targets of others, Luigi's own among them: which of ours stands for them, and how their bytes reach a task.

Nothing here writes to one. The invariant: what none of ours stands for stays as it is; who made it answers for it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import luigi

from superluigi.storage import files
from superluigi.targets.base import Target
from superluigi.targets.local import LocalFileTarget, LocalFolderTarget
from superluigi.targets.store import ReadCopy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def own_target(target: Any) -> Target | None:
    """Give the target of ours that stands for a target, Luigi's local ones among them; None if there is none."""
    if isinstance(target, Target):
        return target
    if isinstance(target, luigi.LocalTarget):
        return (LocalFolderTarget if os.path.isdir(target.path) else LocalFileTarget)(target.path)
    return None


def own_targets(targets: Iterable[Any]) -> list[Target]:
    """Give the targets of ours that stand for any of these."""
    return [own for own in map(own_target, targets) if own is not None]


def is_luigi_s3(target: Any) -> bool:
    """Say whether it is one object of Luigi's S3 targets; those that name a folder are handed over themselves."""
    module = sys.modules.get("luigi.contrib.s3")  # who has such a target has imported it, and boto3 with it
    return module is not None and isinstance(target, module.S3Target) and not target.path.endswith("/")


def fetch_luigi_s3(target: Any, folder: Path) -> ReadCopy:
    """Download an object by way of Luigi's own client, which knows the credentials that the user gave to it."""
    copy = folder / target.path.rpartition("/")[2]
    target.fs.get(target.path, str(copy))
    return ReadCopy(copy, files.digest(copy))
