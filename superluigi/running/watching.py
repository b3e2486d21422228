"""Who looks on at the transfers of a task, and tells those who follow the run.

The invariant: a transfer is told of a few times a second, and when all its bytes are through, however it is made, and
in the process that makes it alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from superluigi.running.events import TransferEnded, TransferEvent, TransferProgressed, TransferStarted
from superluigi.targets.metadata import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from superluigi.storage.observation import Advance, Observer, TransferDirection

_TOLD_S = 0.25  # between two events of one transfer


def transfers_of(run_id: str, task_id: str, tell: Callable[[TransferEvent], object]) -> Observer:
    """Give who looks on at the transfers of a task, and tells of them."""
    process_id = os.getpid()

    @contextlib.contextmanager
    def look_on(direction: TransferDirection, address: str, total_bytes: int) -> Iterator[Advance]:
        if os.getpid() != process_id:  # what a task has forked itself: nobody reads what it would tell
            yield lambda _: None
            return
        watched = _Transfer(run_id, task_id, direction, address, total_bytes, tell)
        watched.tell(TransferStarted)
        is_whole = False
        try:
            yield watched.advance
            is_whole = True
        finally:
            watched.tell(TransferEnded, duration_s=time.monotonic() - watched.began, is_whole=is_whole)

    return look_on


class _Transfer:
    """One transfer, as far as it is."""

    def __init__(  # noqa: PLR0917  (all that an event says)
        self,
        run_id: str,
        task_id: str,
        direction: TransferDirection,
        address: str,
        total_bytes: int,
        tell: Callable[[TransferEvent], object],
    ) -> None:
        self.began = self._told = time.monotonic()
        self.done_bytes = 0
        self._facts: dict[str, Any] = {
            "run_id": run_id,
            "transfer_id": uuid.uuid4().hex,
            "task_id": task_id,
            "address": address,
            "direction": direction,
            "total_bytes": total_bytes,
        }
        self._tell = tell
        self._lock = threading.Lock()

    def advance(self, size_bytes: int) -> None:
        """Take that bytes were sent or have arrived; tell of it if that was not done a moment ago, or of the last ones.

        Of those nothing else would tell while S3 puts together what was sent.
        """
        with self._lock:
            self.done_bytes += size_bytes
            instant = time.monotonic()
            is_last = self.done_bytes == self._facts["total_bytes"]
            if instant - self._told < _TOLD_S and not is_last:
                return
            self._told = instant
        self.tell(TransferProgressed)

    def tell(self, kind: type[TransferEvent], **facts: Any) -> None:
        self._tell(kind(at=now(), done_bytes=self.done_bytes, **self._facts, **facts))
