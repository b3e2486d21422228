"""Locks that a forked process finds open.

A lock that another thread held at the fork stays locked in the child, where that thread is not. The invariant: a child
never waits for a thread of its parent.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

_Lock = TypeVar("_Lock")


def open_in_forks(lock: _Lock) -> _Lock:
    """Give the lock, or condition, itself; for those of modules, as it is never let go."""
    if hasattr(os, "register_at_fork"):
        made: Any = lock
        os.register_at_fork(after_in_child=made._at_fork_reinit)  # noqa: SLF001  (the standard library's own way)
    return lock
