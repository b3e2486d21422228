"""The first rows of a table in a local file, to look at: CSV, TSV, JSON lines, these compressed by gzip, and Parquet.

They are shown as they stand in the file. The invariant: a preview reads a bounded number of bytes, writes nothing, and
executes and unpickles nothing; what is no table that it can read has no preview, which is no error.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import itertools
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ROWS = 5
_COLUMNS = 12
_CELL_CHARACTERS = 40
_BYTES = 1 << 18  # of the text, after it was decompressed
_PARQUET_BYTES = 32 << 20  # of the columns of its first row group, which is read whole


@dataclass(frozen=True, slots=True)
class Preview:
    """The first rows of a table; `columns` and `count` are how many there are in all, None where that is not known."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    columns: int
    count: int | None = None


def preview(path: Path) -> Preview | None:
    """Give the first rows of the table in a local file; None if it is none, or none that can be read."""
    name = path.name.lower()
    read = _READERS.get(f".{name.removesuffix('.gz').rpartition('.')[2]}")
    if read is None or (name.endswith(".gz") and read is _parquet):
        return None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            return None
        found = read(path)
    except Exception:  # noqa: BLE001  (a picture without rows is a picture; readers fail in whatever way)
        return None
    return found if found is not None and found.head else None


def _start_of(path: Path) -> str | None:
    """Give the whole lines at the beginning of a text; None if it is no text, or its first line does not end."""
    opened = gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")  # noqa: SIM115
    with opened as stream:
        data = stream.read(_BYTES)
        is_whole = not stream.read(1)
    if not is_whole:
        data = data[: data.rfind(b"\n") + 1]
    return None if b"\0" in data else data.decode("utf-8-sig", "replace")


def _csv(path: Path) -> Preview | None:
    return _separated(path, ",")


def _tsv(path: Path) -> Preview | None:
    return _separated(path, "\t")


def _separated(path: Path, usual: str) -> Preview | None:
    """Read rows; the separator is the usual one unless the first line has another alone."""
    text = _start_of(path)
    if not text:
        return None
    first = text.split("\n", 1)[0]
    separator = next((mark for mark in (usual, ";", "\t", "|") if mark in first), usual)
    rows = [row for row in itertools.islice(csv.reader(io.StringIO(text), delimiter=separator), _ROWS + 1) if row]
    return _table(rows[0], rows[1:]) if rows else None


def _json_lines(path: Path) -> Preview | None:
    text = _start_of(path)
    found = [json.loads(line) for line in itertools.islice((text or "").splitlines(), _ROWS) if line.strip()]
    if not found or not all(isinstance(row, dict) for row in found):
        return None
    head = list(dict.fromkeys(str(name) for row in found for name in row))
    return _table(head, [[_as_text(row.get(name, "")) for name in head] for row in found])


def _parquet(path: Path) -> Preview | None:
    """Read the first rows if pyarrow is installed, and what has to be read for them is not much."""
    pyarrow: Any = importlib.import_module("pyarrow.parquet")
    with pyarrow.ParquetFile(path, pre_buffer=False) as file:
        names = file.schema_arrow.names
        group = file.metadata.row_group(0) if file.metadata.num_row_groups else None
        chunks = [] if group is None else [group.column(number) for number in range(group.num_columns)]
        shown = names[:_COLUMNS]
        cost = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in shown)
        if cost > _PARQUET_BYTES:
            return None
        batch = next(file.iter_batches(batch_size=_ROWS, row_groups=[0], columns=shown), None) if group else None
        rows = [] if batch is None else [[_as_text(value) for value in row.values()] for row in batch.to_pylist()]
        return _table(names, rows, file.metadata.num_rows)


_READERS: dict[str, Callable[[Path], Preview | None]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".pq": _parquet,
}


def _as_text(value: object) -> str:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else str(value)


def _table(head: list[str], rows: list[list[str]], count: int | None = None) -> Preview:
    shown = (tuple(map(_shortened, row[:_COLUMNS])) for row in rows)
    return Preview(tuple(map(_shortened, head[:_COLUMNS])), tuple(shown), len(head), count)


def _shortened(cell: str) -> str:
    return cell if len(cell) <= _CELL_CHARACTERS else f"{cell[: _CELL_CHARACTERS - 1]}…"
