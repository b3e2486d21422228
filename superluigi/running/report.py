"""The report of a run: a page that is written when the run is over, however it ended.

What it tells is kept by `account`, put together by `report_page` and drawn by `pictures.timeline`. The invariant: a run
does not fail because of its report; where none can be written is found out before anything runs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from superluigi import garbage
from superluigi.errors import ConfigError
from superluigi.pictures.timeline import timeline_page
from superluigi.running.account import Account
from superluigi.running.report_page import Telling
from superluigi.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import luigi

    from superluigi.running.progress import Progress
    from superluigi.running.state import Run

_log = logging.getLogger("superluigi")


def path_of(given: object) -> Path:
    """Give where the report is to be, a place that can be written; the folder is made if there is none.

    Raises:
        ConfigError: it is no path of a page, or nothing can be written there.
    """
    if not isinstance(given, str | os.PathLike) or not str(given).lower().endswith((".html", ".htm")):
        message = f"report is {given!r}, but must be the path of a page, such as 'run.html', or None."
        raise ConfigError(message)
    path = Path(given).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(path).st_mode):
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
        tempfile.TemporaryFile(dir=path.parent).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"The report cannot be written to {path}: {why}. Give another path."
        raise ConfigError(message) from error
    return path


@contextlib.contextmanager
def reported(
    path: Path, run: Run, roots: Sequence[luigi.Task], progress: Progress, *, is_async: bool
) -> Iterator[None]:
    """Follow a run, until it has ended; when the block ends, however it does, the page is written in one step.

    `is_async` says that its tasks share one loop.
    """
    account = Account()
    progress.follow(account)
    raised: BaseException | None = None
    try:
        yield
    except BaseException as error:
        raised = error
        raise
    finally:
        try:
            with garbage.held_off():
                telling = Telling(account, run, roots, progress.tasks(), raised, is_async=is_async)
                page = timeline_page(telling.timeline())
            files.write_atomically(path, page.encode("utf-8", "backslashreplace"))
            print(f"Report: {path}")  # noqa: T201  (as run_task prints where the outputs are)
        except Exception:  # noqa: BLE001  (a report that fails must not hide how the run ended)
            _log.warning("The report of the run could not be written to %s.", path, exc_info=True)
