"""When Python looks for garbage: not while something large is built of which everything stays.

It would look through all that is there again and again, which takes a fifth of a plan and half of a lineage. The
invariant: afterwards it looks again, if it did before.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def held_off() -> Iterator[None]:
    """Let the collector rest until the block ends; for blocks that leave no circles behind."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()
