"""A process may be forked while other threads hold whatever locks."""

import os
import threading
from typing import Any

import pytest

from superluigi import config, source, testing
from superluigi.running import mailbox
from superluigi.storage import fast, s3

LOCKS = {
    "configuration": config._changed,
    "clients": s3._clients_lock,
    "engine": fast._lock,
    "parser": source._parsing,
    "mailbox": mailbox._posts_lock,
    "server": testing._lock,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_a_lock_that_another_thread_held_at_the_fork_is_open_in_the_child(lock: Any) -> None:
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            is_held.set()
            may_end.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if lock.acquire(timeout=5) else 1)
    _, status = os.waitpid(child, 0)
    may_end.set()
    holder.join()

    assert status == 0
    assert lock.acquire(timeout=5)  # and the parent's is its own
    lock.release()
