"""The contract that every target keeps, whatever its place and shape.

A rig is one target class with the real place behind it, and a way to look into that place past the target. What a
file or folder holds is written as a dict from names to bytes; the one file of a one-file target has the name "".
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import pickle
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi
import pytest
from server_log import recorded_requests

from superluigi import (
    ConfigError,
    InvalidNameError,
    LocalFileTarget,
    LocalFolderTarget,
    MetadataError,
    MissingOutputError,
    S3ObjectTarget,
    S3PrefixTarget,
    Target,
    TargetNotFoundError,
    TargetShapeError,
)
from superluigi.storage import s3 as storage_s3
from superluigi.targets import Shape
from superluigi.targets.publishing import Publication, StagedOutput, facts_of, recover_abandoned
from superluigi.testing import embedded_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

    from superluigi.testing import EmbeddedS3

Content = dict[str, bytes]


def fill(path: Path, content: Content) -> None:
    """Write a file, or files into a folder."""
    for name, data in content.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def content_of(path: Path) -> Content:
    """Read a file, or all files below a folder."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def damage(path: Path) -> None:
    """Change every file at or below a path, and put another beside them."""
    for name, data in content_of(path).items():
        (path / name if name else path).write_bytes(data.swapcase())
    if path.is_dir():
        (path / "added").touch()


@dataclass(frozen=True)
class LocalPlace:
    """A folder of the local disk."""

    root: Path

    def stored(self) -> dict[str, bytes | None]:
        """Everything there, folders as None."""
        return {
            item.relative_to(self.root).as_posix(): None if item.is_dir() else item.read_bytes()
            for item in self.root.rglob("*")
        }

    def put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@dataclass(frozen=True)
class S3Place:
    """A bucket of the embedded server."""

    bucket: str
    client: S3Client

    def stored(self) -> dict[str, bytes | None]:
        """Every object there."""
        return {key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in self.keys()}

    def keys(self) -> list[str]:
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def clear(self) -> None:
        if keys := self.keys():
            self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in keys]})


@dataclass(frozen=True)
class Rig:
    target_cls: type[Target]
    place: LocalPlace | S3Place
    other_cls: str

    @property
    def is_remote(self) -> bool:
        return isinstance(self.place, S3Place)

    @property
    def is_folder(self) -> bool:
        return self.target_cls.shape is Shape.FOLDER

    def target(self, name: str = "data/features.csv", **options: Any) -> Any:
        if isinstance(self.place, S3Place):
            return self.target_cls(self.place.bucket, name, **options)
        return self.target_cls(self.place.root / name, **options)

    def beside(self, name: str) -> dict[str, Any]:
        """The options that put the record elsewhere."""
        if isinstance(self.place, S3Place):
            return {"metadata_object_key": name}
        return {"metadata_path": self.place.root / name}

    @property
    def inside(self) -> dict[str, Any]:
        """The options that put the record of a folder into it."""
        return {"metadata_inside_prefix" if self.is_remote else "metadata_inside_folder": True}

    @property
    def old(self) -> Content:
        return {"a.csv": b"old", "below/b.csv": b"also old"} if self.is_folder else {"": b"old"}

    @property
    def new(self) -> Content:
        return {"a.csv": b"new and longer", "c.csv": b"added"} if self.is_folder else {"": b"new and longer"}

    def of_other_shape(self) -> Content:
        return {"": b"a file"} if self.is_folder else {"part-0.csv": b"a folder"}

    def stands_as(self, content: Content, name: str = "data/features.csv") -> dict[str, bytes | None]:
        """What `stored` gives if there is this content and nothing else."""
        stored: dict[str, bytes | None] = {f"{name}/{part}" if part else name: data for part, data in content.items()}
        if not self.is_remote:
            for key in list(stored):
                stored |= {parent.as_posix(): None for parent in Path(key).parents if parent.name}
        return stored

    def put(self, content: Content, name: str = "data/features.csv") -> None:
        """Put content there without the target."""
        for part, data in content.items():
            self.place.put(f"{name}/{part}" if part else name, data)


RIGS = {
    "local-file": (LocalFileTarget, "LocalFolderTarget"),
    "local-folder": (LocalFolderTarget, "LocalFileTarget"),
    "s3-object": (S3ObjectTarget, "S3PrefixTarget"),
    "s3-prefix": (S3PrefixTarget, "S3ObjectTarget"),
}


@pytest.fixture(scope="module")
def place_in_s3(s3_server: EmbeddedS3) -> S3Place:
    """One bucket for all tests here, which is emptied after each: a bucket for each would take most of their time."""
    place = S3Place("contract", s3_server.client())
    place.client.create_bucket(Bucket=place.bucket)
    return place


@pytest.fixture
def s3_place(place_in_s3: S3Place, local_data_dir: Path) -> Iterator[S3Place]:
    with embedded_s3():
        yield place_in_s3
    place_in_s3.clear()


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    target_cls, other_cls = RIGS[request.param]
    if target_cls in (S3ObjectTarget, S3PrefixTarget):
        return Rig(target_cls, request.getfixturevalue("s3_place"), other_cls)
    root = tmp_path / "place"
    root.mkdir()
    return Rig(target_cls, LocalPlace(root), other_cls)


def rigs(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rig", names or list(RIGS), ids=names or list(RIGS), indirect=True)


def write(target: Target, content: Content) -> None:
    with target.tmp_write_path() as path:
        fill(path, content)


def read(target: Target) -> Content:
    with target.tmp_read_path() as path:
        return content_of(path)


def publish(target: Target, content: Content, **record: Any) -> dict[str, Any]:
    """Publish as a task does, with a record; gives the record."""
    with target.store.staging() as folder:
        staged = StagedOutput(target, folder)
        fill(staged.path, content)
        full = {"run_id": "run-1", **record, "output": staged.facts()}
        staged.publish(full)
    full["output"]["fingerprint"] = target.fingerprint()  # of a prefix S3 has the last word
    return full


@contextlib.contextmanager
def failing(error: type[BaseException] = ZeroDivisionError) -> Iterator[None]:
    with pytest.raises(error):
        yield


# Writing and reading


@rigs()
def test_a_target_exists_only_once_something_was_written(rig: Rig) -> None:
    target = rig.target()
    before = target.exists()
    write(target, rig.old)

    assert before is False
    assert target.exists() is True
    assert isinstance(target, luigi.Target)


@rigs()
def test_what_was_written_is_read_back_and_nothing_else_is_left(rig: Rig, local_data_dir: Path) -> None:
    target = rig.target()
    write(target, rig.old)

    assert read(target) == rig.old
    assert rig.place.stored() == rig.stands_as(rig.old)
    assert not list((local_data_dir / "tmp").glob("*"))


@rigs()
def test_what_others_put_there_is_read(rig: Rig) -> None:
    rig.put(rig.old)

    assert rig.target().exists()
    assert read(rig.target()) == rig.old


@rigs()
def test_a_second_write_replaces_the_whole(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    write(target, rig.new)

    assert read(target) == rig.new
    assert rig.place.stored() == rig.stands_as(rig.new)


@rigs()
def test_paths_that_are_handed_out_end_in_the_name_of_the_target(rig: Rig) -> None:
    target = rig.target("data/some features.csv.gz")
    with target.tmp_write_path() as path:
        written_to = path
        fill(path, rig.old)
    with target.tmp_read_path() as path:
        read_from = path

    assert [written_to.name, read_from.name] == ["some features.csv.gz"] * 2
    assert isinstance(written_to, Path)
    assert written_to.is_absolute()
    assert read_from.is_absolute()


@rigs()
def test_a_file_to_write_is_not_there_and_a_folder_is_there_and_empty(rig: Rig) -> None:
    with rig.target().tmp_write_path() as path:
        stood_there = list(path.iterdir()) if rig.is_folder else path.exists()
        fill(path, rig.old)

    assert stood_there == ([] if rig.is_folder else False)


@rigs("local-folder", "s3-prefix")
def test_code_that_makes_the_folder_itself_works_too(rig: Rig) -> None:
    with rig.target().tmp_write_path() as path:
        path.mkdir()
        (path / "below").mkdir()
        fill(path, rig.old)
        with pytest.raises(FileExistsError):
            path.mkdir()

    assert read(rig.target()) == rig.old


@rigs()
def test_nothing_is_seen_before_the_block_ends(rig: Rig) -> None:
    target = rig.target()
    with target.tmp_write_path() as path:
        fill(path, rig.old)
        existed = target.exists()
    with target.tmp_write_path() as path:
        fill(path, rig.new)
        seen = read(target)

    assert existed is False
    assert seen == rig.old


@rigs()
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit], ids=lambda error: error.__name__)
@pytest.mark.parametrize("had_data", [False, True], ids=["at-first", "over-old-data"])
def test_a_block_that_raises_publishes_nothing(
    rig: Rig, error: type[BaseException], had_data: bool, local_data_dir: Path
) -> None:
    target = rig.target()
    if had_data:
        publish(target, rig.old)
    before = rig.place.stored()
    with failing(error), target.tmp_write_path() as path:
        fill(path, rig.new)
        raise error

    assert rig.place.stored() == before or not had_data
    assert target.exists() is had_data
    assert {key: data for key, data in rig.place.stored().items() if data is not None} == {
        key: data for key, data in before.items() if data is not None
    }
    assert not list((local_data_dir / "tmp").glob("*"))


@rigs()
def test_a_generator_that_is_closed_publishes_nothing(rig: Rig) -> None:
    target = rig.target()

    def writing() -> Iterator[None]:
        with target.tmp_write_path() as path:
            fill(path, rig.new)
            yield

    generator = writing()
    next(generator)
    generator.close()

    assert not target.exists()
    assert not [key for key, data in rig.place.stored().items() if data is not None]


@rigs()
def test_a_file_where_a_folder_was_promised_or_the_reverse_names_the_other_class(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    with pytest.raises(TargetShapeError, match=rig.other_cls) as caught, target.tmp_write_path() as path:
        if rig.is_folder:
            path.rmdir()
        fill(path, rig.of_other_shape())

    assert str(target) in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert rig.place.stored() == rig.stands_as(rig.old)


@rigs()
def test_leaving_nothing_is_an_error_and_keeps_the_old(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    with pytest.raises(MissingOutputError, match="Write ") as caught, target.tmp_write_path():
        pass

    assert str(target) in str(caught.value)
    assert rig.place.stored() == rig.stands_as(rig.old)


@rigs("local-folder", "s3-prefix")
@pytest.mark.parametrize("left", ["empty-folders", "no-folder"])
def test_a_folder_without_a_file_is_nothing(rig: Rig, left: str) -> None:
    with pytest.raises(MissingOutputError, match="at least one"), rig.target().tmp_write_path() as path:
        if left == "no-folder":
            path.rmdir()
        else:
            (path / "a" / "b").mkdir(parents=True)

    assert not rig.target().exists()


@rigs()
def test_reading_what_has_the_other_shape_names_the_other_class(rig: Rig) -> None:
    rig.put(rig.of_other_shape())
    target = rig.target()

    with pytest.raises(TargetShapeError, match=rig.other_cls), target.tmp_read_path():
        pass
    with pytest.raises(TargetShapeError, match=rig.other_cls):
        target.fingerprint()


@rigs()
@pytest.mark.parametrize(
    "use",
    [
        read,
        lambda target: target.fingerprint(),
        lambda target: target.read_metadata(),
        lambda target: target.write_metadata({"a": 1}),
        lambda target: target.download() if hasattr(target, "download") else read(target),
        facts_of,
    ],
    ids=["tmp_read_path", "fingerprint", "read_metadata", "write_metadata", "download", "facts_of"],
)
def test_what_is_not_there_is_named(rig: Rig, use: Any) -> None:
    with pytest.raises(TargetNotFoundError) as caught:
        use(rig.target("data/absent.csv"))

    assert "absent.csv" in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    assert not [key for key, data in rig.place.stored().items() if data is not None]


@rigs()
@pytest.mark.parametrize("harm", ["changed", "deleted"])
def test_what_happens_to_a_private_copy_reaches_neither_source_nor_cache(rig: Rig, harm: str) -> None:
    target = rig.target()
    rig.put(rig.old)
    with target.tmp_read_path() as path:
        if harm == "changed":
            damage(path)
        else:
            (path / "a.csv" if rig.is_folder else path).unlink()

    assert rig.place.stored() == rig.stands_as(rig.old)
    assert read(target) == rig.old
    if rig.is_remote:
        assert content_of(target.local_path) == rig.old


@rigs()
def test_a_private_copy_is_gone_after_its_block(rig: Rig, local_data_dir: Path) -> None:
    rig.put(rig.old)
    with rig.target().tmp_read_path() as path:
        pass
    with failing(), rig.target().tmp_read_path() as path_of_failure:
        raise ZeroDivisionError

    assert not path.exists()
    assert not path_of_failure.exists()
    assert not list((local_data_dir / "tmp").glob("*"))


@rigs()
def test_two_readers_have_a_copy_each(rig: Rig) -> None:
    rig.put(rig.old)
    with rig.target().tmp_read_path() as first, rig.target().tmp_read_path() as second:
        damage(first)
        content = content_of(second)

    assert first != second
    assert content == rig.old


@rigs()
def test_threads_that_write_one_target_leave_one_of_them_whole(rig: Rig, local_data_dir: Path) -> None:
    target = rig.target()
    contents = [{name: data + str(number).encode() for name, data in rig.old.items()} for number in range(4)]
    failures: list[BaseException] = []

    def writing(content: Content) -> None:
        try:
            write(target, content)
        except BaseException as error:  # noqa: BLE001  (a thread keeps its errors to itself)
            failures.append(error)

    threads = [threading.Thread(target=writing, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert read(target) in contents
    assert rig.place.stored() == rig.stands_as(read(target))


# Opening


@rigs("local-file", "s3-object")
@pytest.mark.parametrize(
    ("suffix", "data"), [("", "grün\n"), ("t", "grün\n"), ("b", b"\x00\xff")], ids=["text", "explicit-text", "bytes"]
)
def test_a_file_opens_as_luigis_targets_do(rig: Rig, suffix: str, data: str | bytes) -> None:
    target = rig.target()
    with target.open(f"w{suffix}") as stream:
        stream.write(data)
        existed = target.exists()
    with target.open(f"r{suffix}") as stream:
        found = stream.read()

    assert existed is False
    assert found == data


@rigs("local-file", "s3-object")
def test_a_file_that_was_opened_is_not_published_by_an_error(rig: Rig) -> None:
    with failing(), rig.target().open("w") as stream:
        stream.write("half")
        raise ZeroDivisionError

    assert not rig.target().exists()


@rigs("local-file", "s3-object")
@pytest.mark.parametrize("mode", ["a", "r+", "x", ""])
def test_a_mode_that_a_target_does_not_have_is_refused(rig: Rig, mode: str) -> None:
    with pytest.raises(ConfigError, match="Use 'r', 'rb', 'w' or 'wb'"), rig.target().open(mode):
        pass


@rigs("local-folder", "s3-prefix")
def test_a_folder_does_not_open(rig: Rig) -> None:
    with pytest.raises(TargetShapeError, match="tmp_read_path"), rig.target().open():
        pass


@rigs("local-file", "s3-object")
def test_a_file_opens_without_a_with_block_too(rig: Rig) -> None:
    target = rig.target()
    stream = target.open("w")
    stream.write("first\nsecond\n")
    existed = target.exists()
    stream.close()
    stream.close()

    assert existed is False
    assert target.open().read() == "first\nsecond\n"
    assert list(target.open()) == ["first\n", "second\n"]


# The record


@rigs()
def test_the_record_of_a_target_lies_beside_it_by_default(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    target.write_metadata({"rows": 3})

    assert str(target.metadata_path) == f"{str(target.path).rstrip('/')}.metadata.json"
    assert json.loads(rig.place.stored()["data/features.csv.metadata.json"] or b"") == {"rows": 3}
    assert read(target) == rig.old


@rigs()
def test_the_record_lies_where_it_is_said_to(rig: Rig) -> None:
    target = rig.target(**rig.beside("records/of/features.json"))
    record = publish(target, rig.old)

    assert str(target.metadata_path).endswith("records/of/features.json")
    assert target.read_metadata() == record
    assert json.loads(rig.place.stored()["records/of/features.json"] or b"") == record
    assert "data/features.csv.metadata.json" not in rig.place.stored()


@rigs("local-folder", "s3-prefix")
def test_the_record_may_lie_inside_and_is_no_part_of_the_data(rig: Rig) -> None:
    target = rig.target(**rig.inside)
    record = publish(target, rig.old)
    fingerprint = target.fingerprint()
    target.write_metadata({**record, "note": "longer"})

    assert str(target.metadata_path).endswith("features.csv/.metadata.json")
    assert target.read_metadata() == {**record, "note": "longer"}
    assert "data/features.csv/.metadata.json" in rig.place.stored()
    assert target.fingerprint() == fingerprint
    assert facts_of(target)["files"] == len(rig.old)
    assert read(target) == rig.old


@rigs("local-folder", "s3-prefix")
def test_the_record_inside_is_replaced_and_removed_with_the_data(rig: Rig) -> None:
    target = rig.target(**rig.inside)
    publish(target, rig.old)
    write(target, rig.new)
    without = rig.place.stored()
    record = publish(target, rig.old, run_id="run-2")

    assert without == rig.stands_as(rig.new)
    assert target.read_metadata() == record


@rigs("local-folder", "s3-prefix")
def test_a_record_inside_and_elsewhere_is_refused(rig: Rig) -> None:
    with pytest.raises(InvalidNameError, match="metadata_inside_"):
        rig.target(**rig.inside, **rig.beside("elsewhere.json"))


@rigs()
def test_a_record_is_read_back_as_it_was_written(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    target.write_metadata({"text": "grün", "none": None, "nested": {"list": [1, 2.5, True]}, "path": Path("a/b")})

    assert target.read_metadata() == {
        "text": "grün",
        "none": None,
        "nested": {"list": [1, 2.5, True]},
        "path": str(Path("a/b")),
    }


@rigs()
def test_a_record_that_json_cannot_hold_leaves_the_former_one(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    target.write_metadata({"rows": 3})
    with pytest.raises(MetadataError, match=r"metadata\['rows'\]"):
        target.write_metadata({"rows": math.nan})

    assert target.read_metadata() == {"rows": 3}


@rigs()
@pytest.mark.parametrize(
    "stored",
    [None, b"", b"{", b"[1]", b"\xff\xfe", b'"text"'],
    ids=["absent", "empty", "torn", "list", "bytes", "text"],
)
def test_a_record_that_is_absent_or_damaged_is_not_found(rig: Rig, stored: bytes | None) -> None:
    rig.put(rig.old)
    if stored is not None:
        rig.place.put("data/features.csv.metadata.json", stored)

    with pytest.raises(TargetNotFoundError, match=r"features\.csv\.metadata\.json"):
        rig.target().read_metadata()
    assert read(rig.target()) == rig.old


@rigs()
@pytest.mark.parametrize(
    "record",
    [
        {"output": None},
        {"output": "s3://elsewhere"},
        {"output": []},
        {"run_id": 3, "output": "text"},
        {"run_id": None, "output": None},
        {"superseded": None, "output": "text"},
        {"superseded": 4, "output": None},
    ],
    ids=json.dumps,
)
def test_a_record_of_another_program_stops_neither_reading_nor_writing(rig: Rig, record: dict[str, Any]) -> None:
    rig.put(rig.old)
    rig.place.put("data/features.csv.metadata.json", json.dumps(record).encode())
    target = rig.target()
    with contextlib.suppress(TargetNotFoundError):
        assert isinstance(target.read_metadata(), dict)
    fingerprint = target.fingerprint()
    own = publish(target, rig.new)

    assert fingerprint != target.fingerprint()
    assert target.read_metadata()["run_id"] == own["run_id"]


@rigs()
def test_what_is_published_with_a_record_has_it(rig: Rig) -> None:
    target = rig.target()
    record = publish(target, rig.old, note="first")
    again = publish(target, rig.new, run_id="run-2", note="second")

    assert target.read_metadata() == again
    assert target.read_metadata()["output"]["fingerprint"] == target.fingerprint() != record["output"]["fingerprint"]
    assert json.loads(rig.place.stored()["data/features.csv.metadata.json"] or b"")["run_id"] == "run-2"


@rigs()
def test_a_write_without_a_record_removes_that_of_the_former_data(rig: Rig) -> None:
    target = rig.target()
    publish(target, rig.old)
    write(target, rig.new)

    with pytest.raises(TargetNotFoundError, match="no lineage record"):
        target.read_metadata()
    assert rig.place.stored() == rig.stands_as(rig.new)


@rigs()
def test_facts_tell_type_path_size_and_fingerprint(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    facts = facts_of(target)

    assert facts["type"] == rig.target_cls.__name__
    assert facts["path"] == str(target.path)
    assert facts["size_bytes"] == sum(map(len, rig.old.values()))
    assert facts["fingerprint"] == target.fingerprint()


@rigs("local-folder", "s3-prefix")
@pytest.mark.parametrize(("limit", "names"), [(0, []), (1, ["a.csv"]), (10, ["a.csv", "below/b.csv"])])
def test_facts_of_a_folder_count_all_files_and_name_some(rig: Rig, limit: int, names: list[str]) -> None:
    target = rig.target(metadata_contents_limit=limit)
    write(target, rig.old)
    facts = facts_of(target)

    assert facts["files"] == 2
    assert [item["name"] for item in facts["contents"]] == names
    assert all(item["digest"].startswith("sha256:") for item in facts["contents"])
    assert [item["size_bytes"] for item in facts["contents"]] == [len(rig.old[name]) for name in names]


# Fingerprints


@rigs()
def test_a_fingerprint_changes_with_the_content_and_with_nothing_else(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    first = target.fingerprint()
    write(target, rig.old)
    written_again = target.fingerprint()
    write(target, {name: data.swapcase() for name, data in rig.old.items()})
    of_same_size = target.fingerprint()
    target.write_metadata({"rows": 3})
    with_record = target.fingerprint()
    publish(target, rig.old)
    with_own_record = target.fingerprint()

    assert first == written_again == with_own_record
    assert of_same_size == with_record
    assert of_same_size != first


@rigs("local-folder", "s3-prefix")
@pytest.mark.parametrize(
    "content",
    [
        {"a.csv": b"old"},
        {"a.csv": b"old", "below/c.csv": b"also old"},
        {"a.csv": b"also old", "below/b.csv": b"old"},
        {"a.csv": b"old", "below/b.csv": b"also old", "empty": b""},
    ],
    ids=["fewer", "renamed", "swapped", "one-more"],
)
def test_the_fingerprint_of_a_folder_tells_names_and_bytes_of_all_files(rig: Rig, content: Content) -> None:
    target = rig.target()
    write(target, rig.old)
    first = target.fingerprint()
    write(target, content)

    assert target.fingerprint() != first


@rigs()
def test_equal_content_at_two_places_has_one_fingerprint(rig: Rig) -> None:
    write(rig.target("a/x.csv"), rig.old)
    write(rig.target("b/y.csv"), rig.old)

    assert rig.target("a/x.csv").fingerprint() == rig.target("b/y.csv").fingerprint()


@rigs()
def test_a_change_behind_the_back_of_a_target_changes_its_fingerprint(rig: Rig) -> None:
    target = rig.target()
    publish(target, rig.old)
    first = target.fingerprint()
    rig.put({name: data + b"!" for name, data in rig.old.items()})

    assert target.fingerprint() != first
    assert read(target) == {name: data + b"!" for name, data in rig.old.items()}


# Removing


@rigs()
def test_removing_takes_data_and_record_and_twice_is_no_error(rig: Rig) -> None:
    target = rig.target()
    publish(target, rig.old)
    rig.place.put("data/other.csv", b"stays")
    target.remove()
    target.remove()

    assert not target.exists()
    assert {key for key, data in rig.place.stored().items() if data is not None} == {"data/other.csv"}


@rigs("local-folder", "s3-prefix")
def test_removing_takes_a_record_that_lies_inside(rig: Rig) -> None:
    target = rig.target(**rig.inside)
    publish(target, rig.old)
    target.remove()

    assert not {key for key, data in rig.place.stored().items() if data is not None}


@rigs()
def test_names_that_begin_alike_are_not_taken_for_one_another(rig: Rig) -> None:
    target = rig.target("data/a")
    write(target, rig.old)
    write(rig.target("data/ab"), rig.new)
    write(rig.target("data/a.b"), rig.new)
    target.remove()

    assert not target.exists()
    assert read(rig.target("data/ab")) == rig.new
    assert read(rig.target("data/a.b")) == rig.new


@rigs()
@pytest.mark.parametrize(
    "name",
    [
        "a b.csv",
        "grün.csv",
        "a+b&c=d%20?.csv",
        "date=20221215/x.csv",
        "'\"$(x)`;.csv",
        "{x}[y]*.csv",
        "#~!@.csv",
        ".hidden",
    ],
)
def test_unusual_names_work(rig: Rig, name: str) -> None:
    target = rig.target(f"data/{name}")
    publish(target, rig.old)

    assert read(target) == rig.old
    assert target.read_metadata()["output"]["path"] == str(target.path)
    assert f"data/{name}.metadata.json" in rig.place.stored()


@rigs("local-folder", "s3-prefix")
def test_unusual_names_inside_work(rig: Rig) -> None:
    content = {
        "a b.csv": b"1",
        "grün/ü.csv": b"2",
        "a+b&c=d%20?.csv": b"3",
        ".hidden": b"4",
        "x/y/z/../deep".replace("../", ""): b"5",
    }
    target = rig.target()
    write(target, content)

    assert read(target) == content


@rigs()
def test_empty_files_are_data(rig: Rig) -> None:
    content = dict.fromkeys(rig.old, b"")
    target = rig.target()
    write(target, content)

    assert target.exists()
    assert read(target) == content


# The intent marker


@rigs()
def test_an_intent_marker_stands_until_it_is_taken_away(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    before = rig.place.stored()
    target.store.mark("run-1")
    target.store.mark("run-2")
    marked = target.store.is_marked(), read(target)
    owners = [target.store.is_unfinished_by(run) for run in ("run-1", "run-2")]
    target.store.unmark()
    target.store.unmark()

    assert marked == (True, rig.old)
    assert owners == [False, True]
    assert not target.store.is_unfinished_by("run-2")
    assert not target.store.is_marked()
    assert rig.place.stored() == before


@rigs()
def test_removing_takes_the_intent_marker_too(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    target.store.mark("run-1")
    target.remove()

    assert not target.store.is_marked()
    assert not {key for key, data in rig.place.stored().items() if data is not None}


# The lease


@rigs()
def test_one_at_a_time_can_have_the_lease_which_lies_beside_the_data(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    before = rig.place.stored()
    held = target.store.lease().take()
    refused = rig.target().store.lease().take()
    during = set(rig.place.stored()) - set(before)
    write(target, rig.new)
    held.confirm()
    held.release()

    beside = "data/features.csv.superluigi-lease" if rig.is_remote else "data/.superluigi/features.csv.lock"
    assert refused is None
    assert beside in during
    assert target.store.lease().address.endswith(f"/{beside}")
    assert pickle.loads(pickle.dumps(target.store.lease())) == target.store.lease()
    assert rig.place.stored() == rig.stands_as(rig.new)


@rigs()
def test_the_lease_of_data_that_are_removed_stays_with_its_holder(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    held = target.store.lease().take()
    target.remove()
    held.confirm()
    held.release()

    assert not {key for key, data in rig.place.stored().items() if data is not None}


@rigs("s3-object", "s3-prefix")
def test_upload_options_hold_for_the_lease(rig: Rig) -> None:
    assert isinstance(rig.place, S3Place)
    held = rig.target(upload_options={"Metadata": {"team": "blue"}}).store.lease().take()
    key = "data/features.csv.superluigi-lease"
    stored = rig.place.client.head_object(Bucket=rig.place.bucket, Key=key)
    held.release()

    assert stored["Metadata"] == {"team": "blue"}


# Ending what a killed run began


def staged_publication(target: Target, folder: Path, content: Content, *, is_guarded: bool) -> Publication:
    """A publication that is checked and about to begin."""
    staged = StagedOutput(target, folder)
    fill(staged.path, content)
    record = {"run_id": "run-1", "output": staged.facts()}
    guard = target.store if is_guarded else None
    return Publication("run-1", ((target.store, staged.check(), record),), guard)


@rigs()
@pytest.mark.parametrize("is_guarded", [False, True], ids=["one-output", "guarded"])
def test_a_publication_puts_data_and_record_in_place(rig: Rig, is_guarded: bool) -> None:
    target = rig.target()
    write(target, rig.old)
    with target.store.staging() as folder:
        staged_publication(target, folder, rig.new, is_guarded=is_guarded).carry_out()

    assert read(target) == rig.new
    assert target.read_metadata()["run_id"] == "run-1"
    assert not target.store.is_marked()


@rigs()
def test_a_publication_that_was_begun_is_ended_by_its_recovery(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    with target.store.staging() as folder:
        publication = staged_publication(target, folder, rig.new, is_guarded=True)
        target.store.mark("run-1")
        publication.recover()

    assert read(target) == rig.new
    assert target.read_metadata()["run_id"] == "run-1"
    assert not target.store.is_marked()


@rigs()
@pytest.mark.parametrize("marked_by", [None, "run-2"], ids=["nobody", "a-later-run"])
def test_a_publication_that_was_not_begun_leaves_the_old(rig: Rig, marked_by: str | None) -> None:
    target = rig.target()
    write(target, rig.old)
    with target.store.staging() as folder:
        publication = staged_publication(target, folder, rig.new, is_guarded=True)
        if marked_by is not None:
            target.store.mark(marked_by)
        publication.recover()

    assert read(target) == rig.old
    assert target.store.is_marked() is (marked_by is not None)


@rigs()
def test_a_journal_holds_all_that_a_recovery_needs(rig: Rig) -> None:
    target = rig.target()
    with target.store.staging() as folder:
        journal = pickle.dumps(staged_publication(target, folder, rig.new, is_guarded=True))
        target.store.mark("run-1")
        pickle.loads(journal).recover()

    assert read(target) == rig.new


@pytest.fixture
def abandoned(local_data_dir: Path) -> Path:
    """The home of a process that is gone: no process has this number."""
    home = local_data_dir / "tmp" / f"{1 << 40}-0-abcdef01@{socket.gethostname()}"
    (home / "journals").mkdir(parents=True)
    return home


@rigs()
def test_what_a_killed_process_began_to_publish_is_ended_by_the_next(rig: Rig, abandoned: Path) -> None:
    target = rig.target()
    write(target, rig.old)
    with target.store.staging() as folder:
        journal = pickle.dumps(staged_publication(target, folder, rig.new, is_guarded=True))
        (abandoned / "journals" / "1").write_bytes(journal)
        target.store.mark("run-1")
        recover_abandoned()
        recover_abandoned()

    assert read(target) == rig.new
    assert not abandoned.exists()


@pytest.mark.parametrize("journal", [None, b"", b"torn"], ids=["absent", "empty", "torn"])
def test_a_journal_that_cannot_be_read_is_told_and_cleared(
    abandoned: Path, journal: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    if journal is not None:
        (abandoned / "journals" / "1").write_bytes(journal)
    with caplog.at_level("WARNING", logger="superluigi"):
        recover_abandoned()

    assert not abandoned.exists()
    assert [record.levelname for record in caplog.records] == ([] if journal is None else ["WARNING"])


def test_a_target_that_does_not_pickle_is_published_without_a_journal(tmp_path: Path) -> None:
    target = LocalFileTarget(tmp_path / "a.csv")
    with target.store.staging() as folder:
        publication = staged_publication(target, folder, {"": b"new"}, is_guarded=True)
        vars(publication.guard)["unpicklable"] = lambda: None
        publication.carry_out()

    assert target.path.read_text() == "new"


# Values


@rigs()
def test_making_a_target_does_no_work(rig: Rig, local_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_s3, "_clients", {})
    monkeypatch.setattr(storage_s3.Bucket, "_make_client", lambda *_: pytest.fail("a client was made"))
    before = rig.place.stored()
    with recorded_requests() as log:
        target = rig.target("somewhere/new.csv")
        copies = [copy.copy(target), copy.deepcopy(target), pickle.loads(pickle.dumps(target))]
        shown = [
            str(target),
            repr(target),
            target.path,
            target.metadata_path,
            target.name,
            target.store,
            target.describe(),
        ]

    assert len(shown) + len(copies) == 10
    assert log.requests == []
    assert rig.place.stored() == before
    assert not local_data_dir.exists()


@rigs()
def test_a_target_that_was_pickled_is_the_same_target(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    revived = pickle.loads(pickle.dumps(target))

    assert str(revived) == str(target)
    assert revived.metadata_path == target.metadata_path
    assert revived.fingerprint() == target.fingerprint()
    assert read(revived) == rig.old


@rigs()
def test_a_target_shows_its_class_and_path(rig: Rig) -> None:
    target = rig.target()

    assert str(target) == str(target.path)
    assert repr(target) == f"{rig.target_cls.__name__}({str(target.path)!r})"
    assert target.describe() == {"type": rig.target_cls.__name__, "path": str(target.path)}


@rigs("local-file", "local-folder", "s3-object")
def test_a_record_that_would_lie_on_the_data_is_refused(rig: Rig) -> None:
    with pytest.raises(InvalidNameError, match="record"):
        rig.target(**rig.beside("data/features.csv"))


# Remote targets


@rigs("s3-object", "s3-prefix")
def test_a_download_is_kept_and_served_without_fetching_it_again(rig: Rig) -> None:
    rig.put(rig.old)
    target = rig.target()
    first = target.download()
    with recorded_requests() as log:
        second = target.download()

    assert first == second == target.local_path
    assert content_of(first) == rig.old
    assert first.name == "features.csv"
    assert log.of("GET", ".csv") == []
    assert len(log.requests) == 1


@rigs("s3-object", "s3-prefix")
def test_a_download_by_force_fetches_again(rig: Rig) -> None:
    rig.put(rig.old)
    target = rig.target()
    target.download()
    with recorded_requests() as log:
        copied = target.download(force_local_download=True)

    assert content_of(copied) == rig.old
    assert len(log.of("GET", ".csv")) == len(rig.old)


@rigs("s3-object", "s3-prefix")
def test_what_was_written_here_is_not_downloaded(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    with recorded_requests() as log:
        content = read(target)

    assert content == rig.old
    assert log.of("GET", ".csv") == []


@rigs("s3-object", "s3-prefix")
def test_local_copies_lie_where_local_root_says(rig: Rig, tmp_path: Path, local_data_dir: Path) -> None:
    rig.put(rig.old)
    target = rig.target(local_root=tmp_path / "copies")
    copied = target.download()

    assert copied.is_relative_to(tmp_path / "copies")
    assert rig.target().local_path.is_relative_to(local_data_dir)
    assert content_of(copied) == rig.old


@rigs("s3-object", "s3-prefix")
def test_asking_for_the_local_path_asks_nobody(rig: Rig) -> None:
    with recorded_requests() as log:
        path = rig.target().local_path

    assert not path.exists()
    assert log.requests == []


@rigs("s3-object", "s3-prefix")
def test_removing_takes_the_local_copy(rig: Rig) -> None:
    target = rig.target()
    write(target, rig.old)
    held = target.local_path.exists()
    target.remove()

    assert held
    assert not target.local_path.exists()
