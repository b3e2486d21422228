"""Targets: where a task's output is, how it is read and written, and the record beside it."""

from superluigi.targets.base import Shape, Target
from superluigi.targets.local import LocalFileTarget, LocalFolderTarget
from superluigi.targets.s3 import S3ObjectTarget, S3PrefixTarget

__all__ = ["LocalFileTarget", "LocalFolderTarget", "S3ObjectTarget", "S3PrefixTarget", "Shape", "Target"]
