"""Who looks on while much is sent to S3 or fetched from it: nobody, unless a run says otherwise.

Nothing here knows of runs. The invariant: what is transferred, and how, does not depend on whether somebody looks on,
and where nobody does it costs nothing.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

from superluigi.storage.addresses import address_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

WATCHED_BYTES = 4 << 20  # smaller transfers are over before anybody could look at them


class TransferDirection(str, enum.Enum):
    """Which way bytes go; each is also the text that it is named by."""

    UPLOAD = "upload"
    DOWNLOAD = "download"


# Takes bytes as they are sent or arrive, from several threads at a time; fewer than none where some go again.
Advance: TypeAlias = "Callable[[int], object]"
# Is told of a transfer with its address and its size in bytes, and holds it for as long as it lasts.
Observer: TypeAlias = "Callable[[TransferDirection, str, int], AbstractContextManager[Advance]]"

_observer: ContextVar[Observer | None] = ContextVar("superluigi_observer", default=None)


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Let somebody look on at the transfers of the block."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def transfer(
    direction: TransferDirection, bucket: str, sizes: Mapping[str, int]
) -> AbstractContextManager[Advance | None]:
    """Give the block of a transfer, and what to tell of its bytes there; None where nobody looks on.

    `sizes` are the sizes in bytes by key. Several objects are one transfer.
    """
    observer = _observer.get()
    if observer is None or (total_bytes := sum(sizes.values())) < WATCHED_BYTES:
        return contextlib.nullcontext()
    first, last = min(sizes), max(sizes)  # what these have in common, all keys between them do
    common = first if len(sizes) == 1 else _folder_of_both(first, last)
    return observer(direction, f"{address_of(bucket)}/{common}", total_bytes)


def _folder_of_both(first: str, last: str) -> str:
    parts = zip(first.split("/")[:-1], last.split("/")[:-1], strict=False)
    return "".join(f"{part}/" for part, _ in itertools.takewhile(lambda both: both[0] == both[1], parts))
