"""What tasks that run in other processes of this machine have to say to the scheduler of their run.

The invariant: a call is confirmed before the task goes on, so that none is overtaken by the task's report; and what
cannot be sent never fails a task.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import secrets
import socket
import struct
import threading
import traceback
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from superluigi.forks import open_in_forks

if TYPE_CHECKING:
    from superluigi.running.progress import News
    from superluigi.running.task_process import Call, Reading, Results

_log = logging.getLogger("superluigi")

_HERE = "127.0.0.1"
_KEY_BYTES = 32
_ANSWER_S = 30.0
_PART_S = 5  # between two parts of a message
_PATIENCE = struct.pack("ll", _PART_S, 0) if os.name == "posix" else 1000 * _PART_S  # as the system takes it


@dataclass(frozen=True)
class Address:
    """Where a mailbox of this machine is, and the key to it."""

    port: int
    key: bytes


class Mailbox:
    """Takes calls to the scheduler from processes of this machine, and confirms each: none is overtaken by a report."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._door = socket.create_server((_HERE, 0), backlog=64)
        self._is_closing, self._closing = multiprocessing.Pipe(duplex=False)
        self.address = Address(self._door.getsockname()[1], secrets.token_bytes(_KEY_BYTES))
        self._thread = threading.Thread(target=self._listen, name="superluigi-mailbox", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        callers: list[connection.Connection] = []
        while True:
            ready = connection.wait([self._is_closing, self._door, *callers])
            if self._is_closing in ready:
                break
            if self._door in ready:
                with contextlib.suppress(OSError):
                    callers.append(self._let_in())
            for caller in [caller for caller in callers if caller in ready]:
                try:
                    self._take(caller.recv_bytes())
                    caller.send_bytes(b"")
                except (OSError, EOFError):
                    callers.remove(caller)
                    caller.close()
        for caller in callers:
            caller.close()

    def _let_in(self) -> connection.Connection:
        caller, _ = self._door.accept()
        # Nobody is waited for to say who he is: each message bears the key. Nor for the rest of one for long.
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        return connection.Connection(caller.detach())

    def _take(self, message: bytes) -> None:
        """Take a call; one that cannot be loaded is dropped.

        Raises:
            PermissionError: it does not bear the key.
        """
        key, pickled = message[:_KEY_BYTES], message[_KEY_BYTES:]
        if not secrets.compare_digest(key, self.address.key):
            raise PermissionError
        try:
            call = pickle.loads(pickled)  # noqa: S301  (it bears the key)
        except Exception:  # noqa: BLE001  (whatever a user's class may do)
            _log.debug("What a task has told the scheduler cannot be loaded: %s", traceback.format_exc(limit=1))
        else:
            if call is not None:
                self._results.take(None, call)

    def close(self) -> None:
        """Take no more."""
        self._closing.send_bytes(b".")  # to close it would not be noticed: forked processes hold it too
        self._thread.join()
        self._closing.close()
        self._is_closing.close()
        with contextlib.suppress(OSError):  # forked processes hold it too; without this they would keep it open
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()


_posts: dict[Address, Any] = {}
_posts_lock = open_in_forks(threading.Lock())

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_posts.clear)  # what two processes send on one connection would get mixed up


def send_to(address: Address | None, call: Call | Reading | News | None) -> bool:
    """Send a call to the scheduler of the run, None to ask whether it goes on; say whether that arrived.

    What cannot be sent, from another machine or because it does not pickle, is dropped. The answer is waited for half a
    minute: whoever has let the message in is there, however busy.
    """
    if address is None:
        return False
    try:
        message = address.key + pickle.dumps(call)
        _post(address, message)
    except Exception:  # noqa: BLE001  (also whatever a user's class may do when it is pickled)
        # Without the lock: who logs may be listened to by somebody who sends what is logged.
        _log.debug("A call did not reach the scheduler: %s", traceback.format_exc(limit=1))
        return False
    return True


def _post(address: Address, message: bytes) -> None:
    with _posts_lock:
        try:
            if address not in _posts:
                for former in _posts.values():
                    former.close()
                _posts.clear()
                _posts[address] = connection.Client((_HERE, address.port))
            _posts[address].send_bytes(message)
            if _posts[address].poll(_ANSWER_S):
                _posts[address].recv_bytes()
            else:
                _posts.pop(address).close()
        except Exception:
            if address in _posts:
                _posts.pop(address).close()
            raise
