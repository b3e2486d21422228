"""What a machine knows of objects by their ETags: when it is believed, and what becomes of the file."""

from __future__ import annotations

import multiprocessing
import sqlite3
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
from permissions import binding_permissions

from superluigi.storage import known, workplace
from superluigi.storage.concurrency import run_all
from superluigi.storage.known import Known
from superluigi.storage.s3 import Bucket

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import S3

TIMEOUT_S = 60


@pytest.fixture
def file(local_data_dir: Path) -> Path:
    return local_data_dir / "known" / "objects.sqlite3"


@pytest.fixture
def objects(s3: S3) -> Bucket:
    return Bucket(s3.bucket)


def test_what_was_told_is_known_under_the_same_etag_alone(objects: Bucket) -> None:
    told = {"a": Known("1", {"superluigi-digest": "sha256:0"}), "é'\"": Known("2", data=b"\0record")}
    known.remember(objects, told)

    assert known.recall(objects, {"a": "1", "é'\"": "2", "c": "3"}) == told
    assert known.recall(objects, {"a": "2", "é'\"": "1"}) == {}
    assert known.recall(Bucket("another-bucket"), {"a": "1"}) == {}
    known.remember(objects, {"a": Known("4")})
    assert known.recall(objects, {"a": "1"}) == {}
    assert known.recall(objects, {"a": "4"}) == {"a": Known("4")}


def test_nothing_is_asked_or_made_where_nothing_is_known(objects: Bucket, file: Path) -> None:
    assert known.recall(objects, {"a": "1"}) == {}
    assert not file.exists()


def test_more_objects_are_recalled_than_one_question_takes(objects: Bucket) -> None:
    told = {str(number): Known(str(number)) for number in range(1201)}
    known.remember(objects, told)

    assert known.recall(objects, {key: one.etag for key, one in told.items()}) == told


def test_who_only_looks_keeps_nothing(objects: Bucket, file: Path) -> None:
    with workplace.hands_off():
        known.remember(objects, {"a": Known("1")})

    assert not file.exists()


@pytest.mark.parametrize("column", ["data", "facts", "etag", "key", "place", "digest"])
def test_a_row_that_was_changed_is_not_believed(objects: Bucket, file: Path, column: str) -> None:
    known.remember(objects, {"a": Known("1", data=b"record")})
    with sqlite3.connect(file) as database:
        given = {"etag": "2", "key": "b", "place": f"{objects.endpoint()}\nother-bucket", "facts": '{"a": "b"}'}
        database.execute(f"UPDATE objects SET {column} = ?", (given.get(column, b"other"),))
    database.close()

    other = Bucket("other-bucket") if column == "place" else objects
    assert known.recall(other, {"a": "1", "b": "1"}) == {}
    assert known.recall(other, {"a": "2"}) == {}


@pytest.mark.parametrize("damage", ["no database", "torn", "empty"])
def test_a_damaged_file_is_not_believed_and_made_anew(objects: Bucket, file: Path, damage: str) -> None:
    told = {str(number): Known("1", data=bytes([number]) * 500) for number in range(100)}
    known.remember(objects, told)
    data = file.read_bytes()
    file.write_bytes({"no database": b"x" * 9000, "torn": data[:5000] + b"\xff" * 20_000, "empty": b""}[damage])

    found = known.recall(objects, dict.fromkeys(told, "1"))

    assert found.items() <= told.items()
    assert len(found) < len(told)
    for _ in range(2):  # the first finds that it is damaged
        known.remember(objects, told)
    assert known.recall(objects, dict.fromkeys(told, "1")) == told


def test_the_file_is_bounded_and_the_oldest_are_given_up(
    objects: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "MAX_BYTES", 100_000)
    for number in range(20):
        told = {f"{number}-{each}": Known("1", data=b"x" * 2000) for each in range(10)}
        known.remember(objects, told)

    assert file.stat().st_size < 200_000
    assert known.recall(objects, dict.fromkeys(told, "1")) == told
    assert known.recall(objects, {"0-0": "1"}) == {}


def test_what_is_too_large_for_a_record_is_not_kept(objects: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "MAX_OBJECT_BYTES", 10)
    known.remember(objects, {"a": Known("1", data=b"x" * 11), "b": Known("1", data=b"x" * 10)})

    assert known.recall(objects, {"a": "1", "b": "1"}).keys() == {"b"}


@pytest.mark.skipif(sys.platform == "win32", reason="permissions")
def test_it_is_for_nobody_else_and_what_may_not_be_written_is_let_be(objects: Bucket, file: Path) -> None:
    known.remember(objects, {"a": Known("1")})
    assert file.parent.stat().st_mode & 0o077 == 0
    file.chmod(0o400)

    with binding_permissions():
        known.remember(objects, {"a": Known("2")})
        assert known.recall(objects, {"a": "1"}) == {"a": Known("1")}


def test_without_sqlite_everything_is_asked(objects: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known.remember(objects, {"a": Known("1")})
    monkeypatch.setitem(sys.modules, "sqlite3", None)

    known.remember(objects, {"b": Known("1")})

    assert known.recall(objects, {"a": "1"}) == {}


def test_threads_keep_what_all_were_told(objects: Bucket) -> None:
    def remember(name: str) -> None:
        for number in range(20):
            known.remember(objects, {f"{name}{number}": Known("1", data=b"x" * 1000)})
            assert known.recall(objects, {f"{name}{number}": "1"})

    run_all([partial(remember, name) for name in "abcdefgh"], max_concurrency=8)

    keys = [f"{name}{number}" for name in "abcdefgh" for number in range(20)]
    assert known.recall(objects, dict.fromkeys(keys, "1")).keys() == set(keys)


def remember_many(bucket: str, name: str) -> None:
    for number in range(40):
        known.remember(Bucket(bucket), {f"{name}{number}": Known("1", data=b"x" * 1000)})


def test_two_processes_keep_what_both_were_told(s3: S3) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=remember_many, args=(s3.bucket, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_S)

    keys = [f"{name}{number}" for name in "ab" for number in range(40)]
    assert [process.exitcode for process in processes] == [0, 0]
    assert known.recall(Bucket(s3.bucket), dict.fromkeys(keys, "1")).keys() == set(keys)
