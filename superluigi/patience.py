"""Questions that are asked of the user's code, a disk or a network, and whose answers are not waited for without end.

For what is only looked at, such as a card in a notebook. The invariant: whoever asks goes on after the time that was
given; a question that has no answer by then goes on by itself, and its answer is lost.
"""

from __future__ import annotations

import contextvars
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")


class Patience:
    """So many seconds in all, for one question after the other."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Give the answer. The question is asked in a thread, with the caller's context.

        Raises:
            TimeoutError: the time is over.
            RuntimeError: the question raises what is no `Exception`, such as SystemExit.
            Exception: what the question raises.
        """
        answers: list[Answer] = []
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                answers.append(question())
            except BaseException as error:  # noqa: BLE001  (it is raised where it was asked)
                errors.append(error)

        if (left_s := self._until - time.monotonic()) > 0:
            asking = threading.Thread(target=contextvars.copy_context().run, args=(wait,), daemon=True)
            asking.start()
            asking.join(left_s)
        for error in errors:
            if not isinstance(error, Exception):  # it would end the process of who only looks
                raise RuntimeError(repr(error)) from error  # noqa: TRY004  (no type was asked for)
            raise error
        if not answers:
            message = f"no answer within {self._seconds:g} s"
            raise TimeoutError(message)
        return answers[0]
