"""What tasks that run in other processes of this machine have to say to the scheduler of their run.

The invariant: a call is confirmed before the task goes on, so that none is overtaken by the task's report; and what
cannot be sent never fails a task.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import secrets
import socket
import threading
import traceback
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from superluigi.forks import open_in_forks

if TYPE_CHECKING:
    from superluigi.running.task_process import Call, Results

_log = logging.getLogger("superluigi")

_HERE = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """Where a mailbox of this machine is, and the key to it."""

    port: int
    key: bytes


class Mailbox:
    """Takes calls to the scheduler from processes of this machine, and confirms each: none is overtaken by a report."""

    def __init__(self, results: Results) -> None:
        key = secrets.token_bytes(32)
        self._results = results
        self._listener = connection.Listener((_HERE, 0), backlog=64, authkey=key)
        self._door: socket.socket = self._listener._listener._socket  # type: ignore[attr-defined]  # noqa: SLF001
        self._is_closing, self._closing = multiprocessing.Pipe(duplex=False)
        self.address = Address(self._listener.address[1], key)
        self._thread = threading.Thread(target=self._listen, name="superluigi-mailbox", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        callers: list[connection.Connection] = []
        while True:
            ready = connection.wait([self._is_closing, self._door, *callers])
            if self._is_closing in ready:
                break
            if self._door in ready:
                with contextlib.suppress(OSError, EOFError, multiprocessing.AuthenticationError):
                    callers.append(self._listener.accept())
            for caller in [caller for caller in callers if caller in ready]:
                try:
                    call = caller.recv()
                    if call is not None:
                        self._results.take(None, call)
                    caller.send(None)
                except (OSError, EOFError):
                    callers.remove(caller)
                    caller.close()
        for caller in callers:
            caller.close()

    def close(self) -> None:
        """Take no more."""
        self._closing.send_bytes(b".")  # to close it would not be noticed: forked processes hold it too
        self._thread.join()
        self._closing.close()
        self._is_closing.close()
        with contextlib.suppress(OSError):  # forked processes hold it too; without this they would keep it open
            self._door.shutdown(socket.SHUT_RDWR)
        self._listener.close()


_posts: dict[Address, Any] = {}
_posts_lock = open_in_forks(threading.Lock())

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_posts.clear)  # what two processes send on one connection would get mixed up


def send_to(address: Address | None, call: Call | None) -> bool:
    """Send a call to the scheduler of the run, None to ask whether it goes on; say whether that arrived.

    What cannot be sent, from another machine, is dropped.
    """
    if address is None:
        return False
    with _posts_lock:
        try:
            if address not in _posts:
                for former in _posts.values():
                    former.close()
                _posts.clear()
                _posts[address] = connection.Client((_HERE, address.port), authkey=address.key)
            _posts[address].send(call)
            _posts[address].recv()
        except (OSError, EOFError, multiprocessing.AuthenticationError):
            if address in _posts:
                _posts.pop(address).close()
            _log.debug("%s did not reach the scheduler: %s", call, traceback.format_exc(limit=1))
            return False
    return True
