"""A disk that is full: by which errors it is told, and what is said of it to the user whose own writing failed.

Nothing is removed here but what was written to try. The invariant: a disk is called full only if it takes nothing now.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from typing import TYPE_CHECKING

from superluigi import config

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TRIED_BYTES = 1 << 20


def is_meant(error: BaseException) -> bool:
    """Say whether an error tells of a full disk, or of a full quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def way_out(places: Iterable[tuple[Path, Path]]) -> str | None:
    """Give what is full and what to do, None if it is none of these: of each output where it is staged, and is to lie.

    Tries each by writing a megabyte, as the error of a write names no file, and what is free says nothing of a quota.
    """
    for staged_in, destination in places:
        if not _takes_nothing(staged_in):
            continue
        data_dir = config.data_dir()
        if data_dir in staged_in.parents:
            return (
                f"The disk, or the quota, of {data_dir} is full: what goes to S3 is written there first, and private "
                "inputs and local copies are kept there. Copies that nobody uses were removed now, as superluigi cache "
                "clear does. Run again; if that does not do, free some space there, or let the setting local_data_dir "
                "name a folder on another disk."
            )
        return (
            f"The disk, or the quota, of {destination.absolute().parent} is full. Free some space there, "
            "or let output() name a place on another disk."
        )
    return None


def _takes_nothing(folder: Path) -> bool:
    tried = folder / f".superluigi-{uuid.uuid4().hex}.partial"
    try:
        with open(tried, "xb") as stream:
            stream.write(bytes(_TRIED_BYTES))
            stream.flush()
            os.fsync(stream.fileno())  # a network's file system tells of it no sooner
    except OSError as error:
        return is_meant(error)
    finally:
        with contextlib.suppress(OSError):  # the folder goes as a whole
            tried.unlink(missing_ok=True)
    return False
