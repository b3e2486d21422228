"""Targets: where a task's output is, how it is read and written, and the record beside it."""

from superluigi.targets.base import Target
from superluigi.targets.local import LocalFileTarget, LocalFolderTarget
from superluigi.targets.memory import MemoryTarget, NoTarget
from superluigi.targets.s3 import S3ObjectTarget, S3PrefixTarget
from superluigi.targets.store import Shape

__all__ = [
    "LocalFileTarget",
    "LocalFolderTarget",
    "MemoryTarget",
    "NoTarget",
    "S3ObjectTarget",
    "S3PrefixTarget",
    "Shape",
    "Target",
]
