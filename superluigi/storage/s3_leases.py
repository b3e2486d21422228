"""Leases of outputs in S3: an object beside the output, written by conditional PUTs and renewed while it is held.

No clock is compared with another: how old a lease is, S3 says by its own; how long ago this process renewed one, this
process says by its own. The invariant: whoever writes the object does so over the very ETag that it saw, so a holder
whose renewal succeeds knows that nobody else has held the lease since the one before.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from superluigi import config
from superluigi.errors import LeaseError, StorageError, StoreUnavailableError
from superluigi.storage.addresses import address_of
from superluigi.storage.leases import of_another_process
from superluigi.storage.s3_errors import no_conditional_put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from superluigi.storage.leases import Held
    from superluigi.storage.s3 import Bucket, Snapshot

_log = logging.getLogger("superluigi")

_TRIES = 5
_MIN_TIMEOUT_S = 1.0
_RESOLUTION_S = 1  # of the times that S3 tells
_NO_ETAG = "0" * 32
_MAX_OBSERVED = 1 << 16

# Seconds that go on while the machine sleeps: CLOCK_BOOTTIME does on Linux, CLOCK_MONOTONIC on macOS.
_CLOCK_ID: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

_proven: set[tuple[str, str]] = set()  # the buckets, by endpoint, that were seen to honour conditions
_observed: dict[str, tuple[str, float]] = {}  # which ETag was seen since when, where S3 does not tell the time


def _clock() -> float:
    """Give seconds that only go forward, from any start."""
    return time.monotonic() if _CLOCK_ID is None else time.clock_gettime(_CLOCK_ID)


@dataclass(frozen=True)
class S3Lease:
    """The lease of one object or prefix: the object `key`, which its holder renews every third of `lease_s` seconds.

    The object of a holder that was killed stays, and anybody takes it over once it was not renewed for `lease_s`
    seconds of that holder, and a second more; None takes the setting `lease_s`. In a bucket with versions every renewal
    leaves a version: let a lifecycle rule expire them.
    """

    bucket: Bucket
    key: str
    upload_options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)  # may hold keys
    lease_s: float | None = None

    @property
    def address(self) -> str:
        """The `s3://` address of the object."""
        return address_of(self.bucket.name, self.key)

    def take(self) -> Held | None:
        """Give the lease, None if somebody holds it. From then on one thread of the process renews it.

        One PUT and one GET if it is free; the first lease of a process in a bucket costs two PUTs more, which see that
        the store honours conditions. One PUT and one GET if it is held, two of each if it is taken over.

        Raises:
            LeaseError: the store does not honour conditional PUTs; no lease is left.
            StorageError: the store cannot be asked. A lease that it wrote all the same ends by itself.
        """
        held = self._taken(_HeldObject(self, self._lease_s()))
        if held is None:
            return None
        try:
            self._prove(held)
            _renew_from_now_on(held)
        except BaseException:
            held.release()
            raise
        return held

    def _taken(self, held: _HeldObject) -> _HeldObject | None:
        for _ in range(_TRIES):
            if not held.put(self.bucket, over=None):
                present = self._look()
                if present is None:
                    continue  # it was released between the two requests
                if not held.is_in(present):
                    if not self._is_expired(present):
                        return None
                    held.put(self.bucket, over=present.etag)
            # Whatever was answered, what stands there tells whose it is: the answer to a first try may have been lost,
            # and some stores check and write in two steps, so that two may have written.
            return held if held.adopt(self._look()) else None
        return None

    def is_taken(self) -> bool:
        """Say whether it is held, and not expired. One GET."""
        present = self._look()
        return present is not None and not self._is_expired(present)

    def _look(self) -> Snapshot | None:
        return self.bucket.snapshot(self.key)

    def _lease_s(self) -> float:
        return float(config.lease_s() if self.lease_s is None else self.lease_s)

    def _is_expired(self, present: Snapshot) -> bool:
        lease_s = _decoded(present.data)[1]
        if lease_s is None:  # another program's, or damaged
            lease_s = self._lease_s()
        if present.age_s is not None:
            return present.age_s > lease_s + _RESOLUTION_S
        now = _clock()
        etag, since = _observed.get(self.address, ("", now))
        if etag != present.etag:
            if len(_observed) >= _MAX_OBSERVED:
                _observed.clear()
            _observed[self.address] = present.etag, now
            return False
        return now - since > lease_s

    def _prove(self, held: _HeldObject) -> None:
        """See, on our own lease, that the store refuses what it has to. Two PUTs, once per process and bucket."""
        place = self.bucket.endpoint(), self.bucket.name
        if place in _proven:
            return
        for over, header in ((None, "If-None-Match"), (_NO_ETAG, "If-Match")):
            if self.bucket.put_if(self.key, held.body(), self.upload_options, etag=over) is not None:
                self.bucket.delete([self.key])
                raise no_conditional_put(self.address, f"it does not heed {header}")
        _proven.add(place)


class _HeldObject:
    """An object that this process has written and renews."""

    def __init__(self, lease: S3Lease, lease_s: float) -> None:
        self._lease = lease
        self._bucket = replace(lease.bucket, timeout_s=max(lease_s / 4, _MIN_TIMEOUT_S))
        self._lease_s = lease_s
        self._token = uuid.uuid4().hex
        self._pid = os.getpid()
        self._lock = threading.Lock()  # one renewal of this lease at a time
        self._renewals = 0
        self._etag = ""
        self._began = _clock()  # before the last PUT that succeeded: S3 cannot have dated it earlier
        self._loss: str | None = None
        self._is_failing = False
        self._is_released = False
        self.due = self._began + lease_s / 3  # when the renewing thread is to renew it

    # Taking

    def put(self, bucket: Bucket, *, over: str | None) -> bool:
        """Write the object where there is none, or over one that was seen; say whether the store says that it did."""
        began = _clock()
        etag = bucket.put_if(self._lease.key, self.body(), self._lease.upload_options, etag=over)
        if etag is None:
            return False
        self._etag, self._began, self.due = etag, began, began + self._lease_s / 3
        return True

    def adopt(self, present: Snapshot | None) -> bool:
        """Say whether what stands there is ours, and take it as the last that was written."""
        if present is None or not self.is_in(present):
            return False
        self._etag = present.etag
        return True

    def is_in(self, present: Snapshot) -> bool:
        """Say whether this holder wrote what stands there."""
        return _decoded(present.data)[0] == self._token

    def body(self) -> bytes:
        """Give what is written; no two renewals write the same, so that the ETag changes."""
        facts = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": self._pid,
            "lease_s": self._lease_s,
            "renewals": self._renewals,
        }
        return json.dumps(facts).encode()

    # Holding

    def confirm(self) -> None:
        """See that it is still held: no request within half of `lease_s` after a renewal, else one PUT.

        While the store cannot be reached it is asked again until the lease has run out.
        """
        if self._pid != os.getpid():
            raise of_another_process(self._lease.address)
        if self._is_fresh():
            return
        with self._lock:
            while not self._is_fresh():
                try:
                    self._renew()
                except LeaseError:
                    raise
                except StorageError as error:
                    if self._age_s() > self._lease_s:
                        what = f"cannot be renewed ({error})"
                        raise self._error(what) from error
                    time.sleep(self._pause_s)
                else:
                    return

    def release(self) -> None:
        """Delete the object if it is certainly ours, else leave it to expire. One DELETE, and one PUT if not fresh."""
        if self._pid != os.getpid() or self._is_released:
            return
        self._is_released = True
        _renew_no_more(self)
        if self._loss is not None:
            return
        try:
            with self._lock:
                if not self._is_fresh():
                    self._renew()
                self._bucket.delete_if(self._lease.key, self._etag)
        except StorageError as error:
            _log.warning("%s: the lease could not be released, and ends by itself: %s", self._lease.address, error)
        finally:
            self._loss = "was released"

    def renew_in_background(self) -> None:
        """Renew it, or note when to try again. Raises nothing."""
        if not self._lock.acquire(blocking=False):  # `confirm` is at it, and other leases must not wait
            self.due = _clock() + self._pause_s
            return
        try:
            self._renew()
        except Exception as error:  # noqa: BLE001  (this thread renews the other leases, too)
            # Also after it has run out: a renewal that then succeeds shows that nobody has held it meanwhile.
            self.due = _clock() + self._pause_s if self._loss is None else math.inf
            if self._loss is not None or not self._is_failing:
                _log.warning("The lease %s cannot be renewed: %s", self._lease.address, error)
            self._is_failing = True
        finally:
            self._lock.release()

    @property
    def _pause_s(self) -> float:
        return self._lease_s / 10

    def _age_s(self) -> float:
        return _clock() - self._began

    def _is_fresh(self) -> bool:
        return self._loss is None and self._age_s() < self._lease_s / 2

    def _renew(self) -> None:
        """Write the object over the one that was written last.

        Raises:
            LeaseError: another is there, or none.
            StorageError: the store could not be asked.
        """
        if self._loss is not None:
            raise self._error(self._loss)
        for _ in range(_TRIES):
            self._renewals += 1
            if self.put(self._bucket, over=self._etag):
                self._is_failing = False
                return
            if not self.adopt(self._bucket.snapshot(self._lease.key)):
                self._loss, self.due = "was taken over by another run, or removed", math.inf
                raise self._error(self._loss)
            # Ours: the answer to an earlier PUT was lost. When that was written is not known, so write again.
        operation, problem = "PutObject", "the answers are lost again and again"
        raise StoreUnavailableError(operation, self._lease.address, problem, "Run again.", tries=_TRIES)

    def _error(self, what: str) -> LeaseError:
        return LeaseError(
            "confirm the lease",
            self._lease.address,
            f"the lease {what}, {self._age_s():.0f} s after its last renewal, but a task holds its lease until its "
            "outputs are published",
            f"Nothing was published: run again. If it was not renewed for longer than lease_s ({self._lease_s:g} s), "
            "raise that setting: the machine slept, the network was gone, or a computation held Python's GIL, which "
            "keeps the renewing thread from running.",
        )


def _decoded(data: bytes) -> tuple[str | None, float | None]:
    """Give token and `lease_s` of a lease, None for what cannot be read."""
    try:
        facts = json.loads(data)
    except ValueError:
        return None, None
    if not isinstance(facts, dict):
        return None, None
    token, lease_s = facts.get("token"), facts.get("lease_s")
    is_number = isinstance(lease_s, int | float) and not isinstance(lease_s, bool) and 0 <= lease_s < math.inf
    return token if isinstance(token, str) else None, lease_s if is_number else None


# Renewing


class _Renewing(threading.Thread):
    """The one thread of a process that renews leases; it ends when there are none."""

    def __init__(self) -> None:
        super().__init__(name="superluigi-leases", daemon=True)
        self.leases: set[_HeldObject] = set()

    def run(self) -> None:
        while (lease := self._next_due()) is not None:
            lease.renew_in_background()

    def _next_due(self) -> _HeldObject | None:
        with _changed:
            while self.leases:
                first = min(self.leases, key=lambda lease: lease.due)
                wait_s = first.due - _clock()
                if wait_s <= 0:
                    return first
                _changed.wait(min(wait_s, threading.TIMEOUT_MAX))
            return None


_changed = threading.Condition()
_renewing: _Renewing | None = None


def _renew_from_now_on(lease: _HeldObject) -> None:
    global _renewing  # noqa: PLW0603  (one thread per process)
    with _changed:
        if _renewing is None:
            thread = _Renewing()
            thread.start()
            _renewing = thread
        _renewing.leases.add(lease)
        _changed.notify_all()


def _renew_no_more(lease: _HeldObject) -> None:
    """Take a lease from the renewing thread, and await the end of the thread if that was the last."""
    global _renewing  # noqa: PLW0603  (one thread per process)
    with _changed:
        thread = _renewing
        if thread is None or lease not in thread.leases:
            return
        thread.leases.remove(lease)
        _changed.notify_all()
        if thread.leases:
            return
        _renewing = None  # a lease that is taken from here on gets a new thread
    thread.join()


def _forget_after_fork() -> None:
    global _renewing, _changed  # noqa: PLW0603  (the leases and their thread are the parent's)
    _renewing = None
    _changed = threading.Condition()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
