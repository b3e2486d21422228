"""Many calls at a time in threads, bounded: what every bulk request to a store is made with.

Nothing here knows of stores. The invariant: when `run_all` is left, however it is left, each call that was begun has
ended, and none of its threads lives; so no thread is there to be missed after a fork, either.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Call: TypeAlias = "Callable[[], Iterable[Call] | None]"


def run_all(calls: Iterable[Call], *, max_concurrency: int) -> None:
    """Make all calls, and those that they give back; so many at a time, in the order given, new ones first.

    The calls keep their own results, and see the caller's context variables. The first that raises stops what has
    not begun; what is under way is awaited, and then that error is raised. So does an interrupt (Ctrl-C). One call
    alone, or one at a time, is made in the calling thread.
    """
    work = _Work(calls, max_concurrency)
    try:
        work.begin()
        work.wait()
    except BaseException:
        work.stop()
        raise
    finally:
        work.join()
    if work.failure is not None:
        raise work.failure


class _Work:
    """What waits, and what is under way; every field is guarded by `changed`."""

    def __init__(self, calls: Iterable[Call], max_concurrency: int) -> None:
        self.changed = threading.Condition()
        self.waiting = deque(calls)
        self.under_way = 0
        self.is_stopped = False
        self.failure: BaseException | None = None
        self.max_concurrency = max_concurrency
        self.threads: list[threading.Thread] = []

    def begin(self) -> None:
        """Make calls here while there is no second one to make beside them; then let threads do it."""
        while self.waiting and (self.max_concurrency == 1 or len(self.waiting) == 1):
            self.waiting.extendleft(reversed(list(self.waiting.popleft()() or ())))
        self.enlist()

    def enlist(self) -> None:
        with self.changed:
            for _ in range(min(self.max_concurrency, self.under_way + len(self.waiting)) - len(self.threads)):
                thread = threading.Thread(target=contextvars.copy_context().run, args=(self.work,), name="superluigi")
                try:
                    thread.start()
                except RuntimeError:  # the system gives no more threads: fewer do it as well
                    if not self.threads:
                        raise
                    return
                self.threads.append(thread)

    def work(self) -> None:
        while True:
            with self.changed:
                while not self.waiting and self.under_way:
                    self.changed.wait()
                if not self.waiting:
                    return
                call = self.waiting.popleft()
                self.under_way += 1
            more: list[Call] = []
            failure: BaseException | None = None
            try:
                more = list(call() or ())
            except BaseException as error:  # noqa: BLE001  (raised in the thread that asked)
                failure = error
            with self.changed:
                self.under_way -= 1
                if failure is not None and not self.is_stopped:
                    self.failure = failure
                    self.stop()
                if not self.is_stopped:
                    self.waiting.extendleft(reversed(more))
                if more or not self.under_way:
                    self.changed.notify_all()
            if more:
                self.enlist()

    def wait(self) -> None:
        with self.changed:
            while self.waiting or self.under_way:
                self.changed.wait()

    def stop(self) -> None:
        with self.changed:
            self.is_stopped = True
            self.waiting.clear()
            self.changed.notify_all()

    def join(self) -> None:
        # An interrupt may come when the lock was just taken, and the block that gives it back has not begun.
        with contextlib.suppress(RuntimeError):  # this thread does not hold it
            while True:
                self.changed.release()
        for thread in self.threads:
            thread.join()
