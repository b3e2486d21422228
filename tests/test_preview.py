"""The first rows of tables: of every kind of file that is read, bounded, and nothing of what is no table."""

from __future__ import annotations

import gzip
import os
import pickle
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superluigi.targets.preview import Preview, preview

if TYPE_CHECKING:
    from pathlib import Path

ROWS = (("north", "1"), ("south", "2"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "shop,amount\nnorth,1\nsouth,2\n"),
        ("a.CSV", "\ufeffshop,amount\r\nnorth,1\r\nsouth,2"),
        ("semicolons.csv", "shop;amount\nnorth;1\nsouth;2\n"),
        ("quoted.csv", '"shop","amount"\n"north","1"\n"south","2"\n'),
        ("a.tsv", "shop\tamount\nnorth\t1\nsouth\t2\n"),
        ("a.jsonl", '{"shop": "north", "amount": 1}\n{"shop": "south", "amount": 2}\n'),
        ("a.ndjson", '{"shop": "north", "amount": 1}\n\n{"amount": 2, "shop": "south"}\n'),
    ],
)
def test_the_rows_are_shown_as_they_stand_in_the_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, newline="")
    with gzip.open(tmp_path / f"{name}.gz", "wt", newline="") as stream:
        stream.write(text)

    assert preview(tmp_path / name) == Preview(("shop", "amount"), ROWS, 2)
    assert preview(tmp_path / f"{name}.gz") == preview(tmp_path / name)


def test_parquet_is_read_where_pyarrow_is_installed(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"shop": ["north", "south"] * 500, "amount": range(1000), "tags": [["a", None]] * 1000})
    parquet.write_table(table, tmp_path / "a.parquet")
    parquet.write_table(table[:0], tmp_path / "empty.parquet")
    wide = pyarrow.table({f"c{number}": ["x" * 4000] * 10_000 for number in range(3)})
    parquet.write_table(wide, tmp_path / "wide.parquet", use_dictionary=False)

    shown = preview(tmp_path / "a.parquet")

    assert shown is not None
    assert (shown.head, shown.rows[1], shown.count) == (("shop", "amount", "tags"), ("south", "1", '["a", null]'), 1000)
    assert preview(tmp_path / "empty.parquet") == Preview(("shop", "amount", "tags"), (), 3, 0)
    assert preview(tmp_path / "wide.parquet") is None  # 120 MB would be read for it


def test_a_large_table_is_read_in_part(tmp_path: Path) -> None:
    row = ",".join(f"value {number} of a long row that goes on" for number in range(100))
    (tmp_path / "a.csv").write_text("\n".join([row] * 10_000))

    shown = preview(tmp_path / "a.csv")

    assert shown is not None
    assert (shown.columns, len(shown.head), len(shown.rows)) == (100, 12, 5)
    assert max(map(len, shown.head)) <= 40


def test_what_grows_when_it_is_unpacked_is_unpacked_in_part(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wb") as stream:
        for _ in range(100):
            stream.write(b"a,b\n" * 250_000)

    shown = preview(tmp_path / "a.csv.gz")

    assert shown is not None
    assert shown.rows[0] == ("a", "b")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pkl", pickle.dumps(Bomb())),
        ("a.csv", pickle.dumps(Bomb())),
        ("a.parquet", pickle.dumps(Bomb())),
        ("a.parquet.gz", b"x"),
        ("a.csv.gz", b"no gzip"),
        ("a.csv", b""),
        ("a.jsonl", b""),
        ("a.jsonl", b"[1, 2]\n"),
        ("a.jsonl", b"{\n"),
        ("a.jsonl", b'{"a": ' * 100_000),
        ("a.csv", b"x" * 1_000_000),
        ("a.txt", b"a,b\n1,2\n"),
        ("noname", b"a,b\n"),
    ],
)
def test_what_is_no_table_has_no_preview_and_runs_nothing(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)

    assert preview(tmp_path / name) is None
    assert not (tmp_path / "executed").exists()


def test_what_is_no_file_has_no_preview(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()

    assert preview(tmp_path / "pipe.csv") is None
    assert preview(tmp_path / "folder.csv") is None
    assert preview(tmp_path / "gone.csv") is None


@given(data=st.binary(max_size=300), name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.parquet"]))
def test_no_bytes_make_it_fail(data: bytes, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("preview") / name
    path.write_bytes(data)

    preview(path)
