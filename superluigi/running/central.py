"""The connection to a central scheduler: Luigi's own, which says in one sentence that there is no answer yet.

The invariant: once the scheduler has answered, tries and pauses are those of Luigi's configuration. Before that nothing
has begun, so that there is little to wait for: the pauses are short, unless the configuration says how long they are.
"""

from __future__ import annotations

import logging
import time
import urllib.parse
from typing import Any

from luigi import configuration
from luigi.rpc import RemoteScheduler

_log = logging.getLogger("luigi-interface")

_FIRST_PAUSE_S = 2
_TOLD_S = 1.0  # between two sentences: Luigi's thread that says that the client lives tries, too


class CentralScheduler(RemoteScheduler):
    """A scheduler that is asked by HTTP."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        # It has with the first answer; whoever configures the pause wants it from the first try on.
        self._has_begun = configuration.get_config().has_option("core", "rpc-retry-wait")
        self._told_at = -_TOLD_S

    def _get_retryer(self) -> Any:
        pause_s = self._rpc_retry_wait if self._has_begun else min(_FIRST_PAUSE_S, self._rpc_retry_wait)
        return super()._get_retryer().copy(wait=lambda _: pause_s, after=lambda _: None, before_sleep=self._tell)

    def _fetch(self, *args: Any) -> Any:
        answer = super()._fetch(*args)
        self._has_begun = True
        return answer

    def _tell(self, tried: Any) -> None:
        if not self._rpc_log_retries or time.monotonic() - self._told_at < _TOLD_S:
            return
        self._told_at = time.monotonic()
        error = None if tried.outcome is None else tried.outcome.exception()
        _log.warning(
            "The central scheduler at %s does not answer (%s). That was try %d of %d; the next is in %.0f s.",
            without_password(self._url),
            type(error).__name__,
            tried.attempt_number,
            self._rpc_retry_attempts,
            tried.upcoming_sleep,
        )


def without_password(url: str) -> str:
    """Give an address without the user and the password that may stand in it."""
    where = urllib.parse.urlsplit(url).netloc
    return url.replace(f"{where.rpartition('@')[0]}@", "…@") if "@" in where else url
