"""What is asked of many remote targets at once, before it is asked of each: whether they exist.

`exists()` stays the one place where that is decided; within `foresight` it finds the answer that `look_ahead` has
fetched. The invariant: an answer holds until the block ends and for the caller's context alone, and what could not be
fetched is asked again by the target itself, so that errors are those of the target.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from superluigi import config
from superluigi.errors import StorageError
from superluigi.storage.concurrency import run_all
from superluigi.storage.s3_errors import OF_THE_WHOLE_BUCKET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from superluigi.storage.s3 import Bucket

Question: TypeAlias = "tuple[Bucket, str]"  # is there such an object; with a slash at its end: is there a prefix

_answers: ContextVar[dict[Question, bool | StorageError] | None] = ContextVar("superluigi_foresight", default=None)


@contextlib.contextmanager
def foresight() -> Iterator[None]:
    """Let the answers of `look_ahead` hold until the block ends."""
    token = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(token)


def answer(bucket: Bucket, key: str) -> bool | None:
    """Give what was found when it was looked for, None if it was not.

    Raises:
        StorageError: the whole bucket could not be asked.
    """
    found = (_answers.get() or {}).get((bucket, key))
    if isinstance(found, StorageError):
        raise found.with_traceback(None)
    return found


def look_ahead(objects: Iterable[Question], prefixes: Iterable[tuple[Question, Callable[[], bool]]]) -> None:
    """Find out what is not known yet; each prefix comes with what asks it alone. For use within `foresight`.

    Objects of a bucket share listings where these answer many at once; the rest is asked one by one, so many at a
    time as `max_concurrency` says.
    """
    answers = _answers.get()
    if answers is None:
        return
    keys: defaultdict[Bucket, list[str]] = defaultdict(list)
    for bucket, key in objects:
        if (bucket, key) not in answers:
            keys[bucket].append(key)
    for bucket, asked in keys.items():
        try:
            present = bucket.present(asked)
        except StorageError as error:
            if isinstance(error, OF_THE_WHOLE_BUCKET):  # ten thousand targets need not each wait for that again
                answers.update(dict.fromkeys(((bucket, key) for key in asked), error))
        else:
            answers.update({(bucket, key): key in present for key in asked})

    def ask(question: Question, exists: Callable[[], bool]) -> None:
        with contextlib.suppress(StorageError, ValueError):  # the target itself will say so
            answers[question] = exists()

    calls = [partial(ask, question, exists) for question, exists in prefixes if question not in answers]
    run_all(calls, max_concurrency=config.max_concurrency())
