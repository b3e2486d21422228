"""One run at a time makes a task: whose turn it is, without a server.

A task has the lease of one of its outputs, in S3 where it has one there, as other machines see that; else that of a
local one. Who does not get it puts the task off, does other work, and then finds the task complete. Tasks without such
an output (values, effects, databases, groups) are made by every run. The invariant: between taking the lease and
publishing nobody else makes the task, and whether it is complete is asked again once the lease is held.
"""

from __future__ import annotations

import contextlib
import enum
import random
import time
from typing import TYPE_CHECKING

from superluigi import dag
from superluigi.storage import leases
from superluigi.targets.foreign import own_targets
from superluigi.targets.s3 import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import luigi

    from superluigi.storage.leases import Held, Lease

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0


class Turn(enum.Enum):
    """What becomes of a task that is to run."""

    OURS = "it is made now"
    MADE = "it is made already"
    TAKEN = "another run is making it"


def lease_of(task: luigi.Task) -> Lease | None:
    """Give what a run has to hold while it makes a task; None where every run makes it for itself.

    What `output()` raises leaves as it is.
    """
    if dag.is_external(task):
        return None
    own = own_targets(leaf for _, leaf in dag.leaves(task.output()))
    first = min(own, key=lambda target: (not is_remote(target), str(target.path)), default=None)
    return None if first is None else first.store.lease()


def pause_s(tries: int) -> float:
    """Give how many seconds to wait after so many tries: 0.02 at first, then twice as long, up to 1; at random."""
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(tries, 10))
    return longest * random.uniform(0.5, 1)  # noqa: S311  (no secret)


@contextlib.contextmanager
def turn(task: luigi.Task, is_made: Callable[[], bool], *, is_leased: bool, waits: bool) -> Iterator[Turn]:
    """Say whether to make a task, and hold its lease while the block runs; `waits` until nobody else holds it.

    Without `is_leased` it is only asked whether it has to be made.

    Raises:
        LeaseError: the store has no leases.
        StorageError: it cannot be asked.
    """
    lease = lease_of(task) if is_leased else None
    if is_leased and lease is None:
        yield Turn.OURS
        return
    if is_made():  # which costs less than a lease
        yield Turn.MADE
        return
    if lease is None:
        yield Turn.OURS
        return
    held = _taken(lease, waits=waits)
    if held is None:
        yield Turn.TAKEN
        return
    try:
        if is_made():
            yield Turn.MADE
        else:
            with leases.holding(held):
                yield Turn.OURS
    finally:
        held.release()


def _taken(lease: Lease, *, waits: bool) -> Held | None:
    held, tries = lease.take(), 0
    while held is None and waits:
        time.sleep(pause_s(tries))
        tries += 1
        held = None if lease.is_taken() else lease.take()
    return held
