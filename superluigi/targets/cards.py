"""What a notebook shows of a target: where it is, whether it is there, its record and its first rows.

The invariant: showing changes nothing, fetches no data, takes a few seconds at most and never fails; what cannot be
told is named as such.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from superluigi import markup
from superluigi.errors import SuperLuigiError
from superluigi.markup import Tone
from superluigi.patience import Patience
from superluigi.storage import workplace
from superluigi.targets.metadata import RECORD_FIELDS, REMOVED, duration_s_in
from superluigi.targets.preview import preview

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from superluigi.markup import Markup
    from superluigi.targets.base import Target
    from superluigi.targets.metadata import Metadata
    from superluigi.targets.store import Glimpse

_OR_MORE = " or more"
SECONDS = 5.0  # that a card waits for the user's code, the disk and the network in all
_MAX_ENTRIES = 20  # of the user's metadata
_MAX_VALUE = 80  # characters of one of them


def card_of(target: Target) -> str:
    """Give the card of a target. In S3 it costs a HEAD or a listing, and a GET of the record."""
    patience = Patience(SECONDS)
    try:
        with workplace.hands_off():
            seen = patience.ask(target.store.glimpse)
            sign = present(is_there=seen.exists, is_removed=is_removed(seen))
            rows = [*rows_of(target, seen), *rows_of_record(seen.record)]
            shown = table_in(seen.copy, patience) if seen.copy is not None else ""
            parts = [markup.facts(rows), shown, record_of(seen.record)]
    except Exception as error:  # noqa: BLE001  (a picture must not fail)
        sign, parts = reason(error), []
    title = markup.beside(type(target).__name__, markup.said(str(target.path), kind="path"), sign)
    return markup.card(markup.titled(title), *parts)


def reason(error: BaseException) -> Markup:
    """Say why something cannot be told."""
    try:
        told = str(error)
    except Exception:  # noqa: BLE001  (the user's own __str__ may fail in whatever way)
        told = ""
    if not isinstance(error, SuperLuigiError | TimeoutError):
        told = f"{type(error).__name__}: {told}" if told else type(error).__name__
    return markup.said(f"! {told}", Tone.BAD)


def present(*, is_there: bool, is_removed: bool = False) -> Markup:
    """Say whether data are there."""
    if is_there:
        return markup.said("✓ exists", Tone.GOOD)
    if is_removed:
        return markup.said("− removed, the record stays", Tone.FAINT)  # noqa: RUF001  (a minus)
    return markup.said("○ missing", Tone.PLAIN)


def is_removed(seen: Glimpse) -> bool:
    """Say whether data were removed while their record stayed."""
    return not seen.exists and seen.record is not None


def rows_of(target: Target, seen: Glimpse) -> Iterator[tuple[str, str]]:
    """Give what is seen of the data and of their record."""
    if seen.exists:
        yield "size", size_of(seen)
    yield from rows_of_contents(seen)
    if seen.fingerprint is not None:
        yield "fingerprint", markup.said(seen.fingerprint, kind="path")
    if seen.record is not None:
        yield "record", markup.said(str(target.metadata_path), kind="path")
    else:
        yield from rows_of_no_record(seen)


def size_of(seen: Glimpse) -> str:
    """Give the size, and of a folder or a prefix the number of files."""
    told = markup.size(seen.size_bytes)
    if seen.files is None:
        return told
    return f"{told} in {seen.files:,} file{'s' if seen.files != 1 else ''}{_OR_MORE if seen.has_more else ''}"


def rows_of_contents(seen: Glimpse, max_named: int | None = None) -> Iterator[tuple[str, str]]:
    """Give the first names and sizes in a folder or a prefix."""
    names = [
        markup.beside(markup.said(name, kind="path"), markup.said(markup.size(size_bytes), Tone.FAINT))
        for name, size_bytes in seen.contents[:max_named]
    ]
    left_out = (seen.files or 0) - len(names)
    if left_out or seen.has_more:
        names.append(markup.said(f"… and {left_out:,}{_OR_MORE if seen.has_more else ''} others", Tone.FAINT))
    if names:
        yield "files", markup.lines(names)


def rows_of_no_record(seen: Glimpse) -> Iterator[tuple[str, str]]:
    """Say of data that are there that no record of theirs was found."""
    if seen.exists and seen.record is None:
        told = "not looked for: there are too many files" if seen.has_more else "none that is known to be of these data"
        yield "record", markup.said(told, Tone.FAINT)


def rows_of_record(record: Metadata | None) -> Iterator[tuple[str, str]]:
    """Give the key facts of a record: what made the data, when, of which code, and what the user has put into it."""
    if record is None:
        return
    params = record.get("params")
    if record.get("task_family"):
        given = params.items() if isinstance(params, dict) else ()
        yield "made by", f"{record['task_family']}({', '.join(f'{name}={value}' for name, value in given)})"
    yield from rows_of_run(record)


def rows_of_run(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the same without the task."""
    if record.get("start_time"):
        duration_s = duration_s_in(record)
        took = "" if duration_s is None else f", in {markup.duration(duration_s)}"
        yield "made at", f"{_time(record['start_time'])}{took}"
    if record.get(REMOVED):
        yield "removed at", _time(record[REMOVED])
    code = [f"version {record['version']}"] if record.get("version") else []
    if record.get("git_commit"):
        code.append(f"commit {str(record['git_commit'])[:10]}{' and changes' if record.get('git_dirty') else ''}")
    if code:
        yield "code", ", ".join(code)
    own = [(name, value) for name, value in record.items() if name not in RECORD_FIELDS]
    told = [
        markup.beside(markup.said(name, kind="role"), markup.said(_value(value))) for name, value in own[:_MAX_ENTRIES]
    ]
    if len(own) > len(told):
        told.append(markup.said(f"… and {len(own) - len(told)} more", Tone.FAINT))
    if told:
        yield "metadata", markup.lines(told)


def _time(written: object) -> str:
    """Give a time as records hold it without the fractions of its seconds."""
    day, _, time = str(written).partition("T")
    return f"{day} {time[:8]}{' UTC' if time.endswith(('+00:00', 'Z')) else time[15:]}" if time else day


def _value(value: object) -> str:
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return markup.clean(told, max_characters=_MAX_VALUE)


def record_of(record: Metadata | None) -> Markup:
    """Give the whole record, to be unfolded."""
    if record is None:
        return markup.Markup()
    return markup.folded("the whole record", json.dumps(record, indent=1, ensure_ascii=False, default=str))


def table_in(path: Path, patience: Patience) -> Markup:
    """Give the first rows of a local file, if it is a table; nothing if it is none, or takes too long to read."""
    try:
        found = patience.ask(lambda: preview(path))
    except Exception:  # noqa: BLE001  (it is only not shown)
        found = None
    if found is None:
        return markup.Markup()
    further = found.columns - len(found.head)
    head = [*found.head, *([f"… {further} more"] if further > 0 else [])]
    rows = [[*row, *([""] if further > 0 else [])] for row in found.rows]
    told = "no rows" if not rows else "first rows" if found.count is None else f"first of {found.count:,} rows"
    return markup.Markup(f'<p class="faint">{told}</p>{markup.table(head, rows)}')
