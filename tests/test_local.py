"""Local targets beyond the contract: their paths, what a killed run leaves, and the folders that they touch."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from permissions import binding_permissions

from superluigi import (
    AccessDeniedError,
    InvalidNameError,
    LocalFileTarget,
    LocalFolderTarget,
    StorageError,
    TargetNotFoundError,
    TargetShapeError,
)
from superluigi.storage import files, processes, workplace
from superluigi.storage.cache import CacheEntry
from superluigi.targets import local
from superluigi.targets.publishing import StagedOutput, facts_of

TIMEOUT_S = 20


def write(target: LocalFileTarget, text: str = "new") -> None:
    with target.tmp_write_path() as path:
        (path / "a.csv" if isinstance(target, LocalFolderTarget) else path).write_text(text)


def read(target: LocalFileTarget) -> str:
    with target.tmp_read_path() as path:
        return (path / "a.csv" if isinstance(target, LocalFolderTarget) else path).read_text()


def publish(target: LocalFileTarget, text: str, run_id: str) -> None:
    with target.store.staging() as folder:
        staged = StagedOutput(target, folder)
        (staged.path / "a.csv" if isinstance(target, LocalFolderTarget) else staged.path).write_text(text)
        staged.publish({"run_id": run_id, "output": staged.facts()})


def staging_of(target: LocalFileTarget) -> Path:
    return target.path.parent / ".superluigi"


@pytest.fixture(scope="module")
def dead_token() -> str:
    """The folder name of a process that has ended."""
    program = "from superluigi.storage import processes; print(processes.owner_token())"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    ).stdout.strip()


TARGETS = pytest.mark.parametrize("target_cls", [LocalFileTarget, LocalFolderTarget], ids=["file", "folder"])


# Paths


@TARGETS
@pytest.mark.parametrize(
    ("path", "metadata_path"),
    [
        ("a.csv", "a.csv.metadata.json"),
        ("b/", "b.metadata.json"),
        ("data/./a.csv", "data/a.csv.metadata.json"),
        ("../a", "../a.metadata.json"),
        ("/x/a.csv", "/x/a.csv.metadata.json"),
        (Path("x") / "a", "x/a.metadata.json"),
    ],
    ids=str,
)
def test_the_record_lies_beside_whatever_the_path(target_cls: Any, path: Any, metadata_path: str) -> None:
    assert target_cls(path).metadata_path == Path(metadata_path)


@TARGETS
def test_a_relative_path_is_relative_to_the_working_directory_at_the_time_of_use(
    target_cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target_cls("data/a")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with target.tmp_write_path() as path:
        (path / "a.csv" if target_cls is LocalFolderTarget else path).write_text("new")
    monkeypatch.chdir(tmp_path)

    assert (tmp_path / "elsewhere" / "data" / "a").exists()
    assert not target.exists()


@TARGETS
def test_a_tilde_is_the_home_directory(target_cls: Any) -> None:
    target = target_cls("~/data/a", "~/records/a.json")
    write(target)

    assert target.path == Path.home() / "data" / "a"
    assert target.metadata_path == Path.home() / "records" / "a.json"
    assert read(target) == "new"


@TARGETS
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "names no file or folder"),
        (" ", "names no file or folder"),
        (".", "names no file or folder"),
        ("..", "names no file or folder"),
        ("data/..", "names no file or folder"),
        ("/", "names no file or folder"),
        ("a\0b", "NUL"),
        ("s3://bucket/key", "S3ObjectTarget"),
        ("~nobody-has-this-name/a.csv", "home"),
    ],
    ids=repr,
)
def test_a_path_that_names_nothing_is_refused(target_cls: Any, path: str, message: str) -> None:
    with pytest.raises(InvalidNameError, match=message) as caught:
        target_cls(path)

    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("name", ["é" * 120, "x" * 250], ids=["of-two-byte-letters", "of-250-bytes"])
def test_a_name_that_leaves_no_room_for_a_staging_name_works(tmp_path: Path, name: str) -> None:
    target = LocalFileTarget(tmp_path / name, tmp_path / "record.json")
    write(target)

    assert read(target) == "new"
    assert os.listdir(tmp_path) == [name]


def test_a_name_in_bytes_that_are_no_utf_8_works(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    target = LocalFileTarget(tmp_path / name)
    publish(target, "new", "run-1")

    assert read(target) == "new"
    assert target.read_metadata()["output"]["path"] == str(tmp_path / name)


def test_names_in_a_folder_in_bytes_that_are_no_utf_8_work(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    target = LocalFolderTarget(tmp_path / "folder")
    with target.tmp_write_path() as path:
        (path / name).write_text("new")

    assert target.fingerprint().startswith("sha256-tree:")
    assert os.listdir(tmp_path / "folder") == [name]
    assert [item["name"] for item in facts_of(target)["contents"]] == [name]


# The other shape


@pytest.mark.parametrize(
    ("target_cls", "other_cls"),
    [(LocalFileTarget, "LocalFolderTarget"), (LocalFolderTarget, "LocalFileTarget")],
    ids=["file", "folder"],
)
def test_writing_where_the_other_shape_stands_is_refused_before_any_work(
    tmp_path: Path, target_cls: Any, other_cls: str
) -> None:
    path = tmp_path / "a"
    path.mkdir() if target_cls is LocalFileTarget else path.write_text("file")
    with pytest.raises(TargetShapeError, match=other_cls), target_cls(path).tmp_write_path():
        pytest.fail("the block was entered")

    assert os.listdir(tmp_path) == ["a"]


@TARGETS
def test_asking_whether_the_other_shape_exists_names_the_other_class(tmp_path: Path, target_cls: Any) -> None:
    path = tmp_path / "a"
    path.mkdir() if target_cls is LocalFileTarget else path.write_text("file")

    with pytest.raises(TargetShapeError, match=target_cls.other_shape):
        target_cls(path).exists()


# Staging


@TARGETS
def test_staging_lies_beside_the_destination_and_is_gone_afterwards(tmp_path: Path, target_cls: Any) -> None:
    target = target_cls(tmp_path / "a")
    with target.tmp_write_path() as path:
        (path / "a.csv" if path.is_dir() else path).write_text("new")
        root = staging_of(target)
        is_beside = path.is_relative_to(root)

    assert is_beside
    assert not root.exists()


@TARGETS
@pytest.mark.parametrize("ask", ["exists", "write"])
def test_what_a_killed_run_left_is_swept(tmp_path: Path, target_cls: Any, dead_token: str, ask: str) -> None:
    target = target_cls(tmp_path / "a")
    write(target, "old")
    left = staging_of(target) / dead_token
    left.mkdir(parents=True)
    (left / "a").write_text("half")
    exists = target.exists() if ask == "exists" else write(target, "old")

    assert exists in (True, None)
    assert read(target) == "old"
    assert os.listdir(tmp_path) == ["a"]


@TARGETS
def test_what_a_living_process_stages_is_left_alone(tmp_path: Path, target_cls: Any) -> None:
    target = target_cls(tmp_path / "a")
    theirs = staging_of(target) / processes.owner_token()
    foreign = staging_of(target) / "somebody's notes"
    for folder in (theirs, foreign):
        folder.mkdir(parents=True)
    write(target)

    assert target.exists()
    assert theirs.exists()
    assert foreign.exists()


def test_a_folder_that_a_killed_run_had_moved_aside_comes_back(tmp_path: Path, dead_token: str) -> None:
    target = LocalFolderTarget(tmp_path / "a")
    publish(target, "old", "run-1")
    staged = staging_of(target) / dead_token / "a"
    staged.mkdir(parents=True)
    (staged / "a.csv").write_text("new")
    target.path.rename(files.replaced_name(staged))

    assert target.exists()
    assert read(target) == "old"
    assert target.read_metadata()["run_id"] == "run-1"
    assert sorted(os.listdir(tmp_path)) == ["a", "a.metadata.json"]


@TARGETS
@pytest.mark.parametrize("published", ["old", "new"])
def test_a_record_that_a_killed_run_left_is_settled_as_that_of_the_data(
    tmp_path: Path, target_cls: Any, dead_token: str, published: str
) -> None:
    target = target_cls(tmp_path / "a")
    publish(target, "new", "new")
    new = target.read_metadata()
    publish(target, "old", "old")
    old = target.read_metadata()
    publish(target, published, published)
    target.metadata_path.write_text(json.dumps({**new, "superseded": old}))
    (staging_of(target) / dead_token).mkdir(parents=True)
    before = target.store.read_record()
    assert target.exists()
    after = json.loads(target.metadata_path.read_text())

    assert before == after
    assert after["run_id"] == published
    assert "superseded" not in after
    assert sorted(os.listdir(tmp_path)) == ["a", "a.metadata.json"]


def test_a_record_of_data_that_never_came_is_taken_away_from_older_data_without_one(
    tmp_path: Path, dead_token: str
) -> None:
    target = LocalFileTarget(tmp_path / "a")
    publish(target, "new", "new")
    record = target.read_metadata()
    write(target, "older and foreign")
    target.metadata_path.write_text(json.dumps({**record, "superseded": None}))
    unsettled = target.store.read_record()
    (staging_of(target) / dead_token).mkdir(parents=True)

    assert target.exists()
    assert unsettled is None
    assert os.listdir(tmp_path) == ["a"]


@TARGETS
def test_a_killed_run_before_its_first_output_leaves_a_target_that_does_not_exist(
    tmp_path: Path, target_cls: Any, dead_token: str
) -> None:
    target = target_cls(tmp_path / "a")
    (staging_of(target) / dead_token).mkdir(parents=True)
    target.metadata_path.write_text('{"superseded": null}')

    assert not target.exists()
    assert not staging_of(target).exists()


def test_writers_that_come_and_go_do_not_take_the_staging_from_each_other(tmp_path: Path) -> None:
    target = LocalFileTarget(tmp_path / "a")
    failures: list[BaseException] = []

    def staging_often() -> None:
        try:
            for _ in range(100):
                with target.store.staging() as folder:
                    (folder / "x").touch()
        except BaseException as error:  # noqa: BLE001  (a thread keeps its errors to itself)
            failures.append(error)

    threads = [threading.Thread(target=staging_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a working directory cannot be removed there")
@TARGETS
def test_a_working_directory_that_is_gone_is_an_error_and_no_endless_wait(tmp_path: Path, target_cls: Any) -> None:
    program = (
        "import os, sys; from superluigi import *\n"
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "try:\n"
        f"    with {target_cls.__name__}('a').tmp_write_path(): pass\n"
        "except OSError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )

    assert done.stdout.strip() in ("StorageError", "FileNotFoundError"), done.stderr


def test_a_file_in_the_place_of_the_folder_above_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StorageError, match="See that the folder is there"), LocalFileTarget("file/a").tmp_write_path():
        pass

    assert os.listdir(tmp_path) == ["file"]


def test_a_file_in_the_place_of_the_staging_folder_is_a_clear_error(tmp_path: Path) -> None:
    staging_of(LocalFileTarget(tmp_path / "a")).write_text("a file")

    with pytest.raises(StorageError, match="stage"), LocalFileTarget(tmp_path / "a").tmp_write_path():
        pass


@TARGETS
@pytest.mark.parametrize("use", [write, lambda target: target.remove()], ids=["write", "remove"])
def test_a_folder_where_one_may_not_write_is_left_as_it_is(tmp_path: Path, target_cls: Any, use: Any) -> None:
    folder = tmp_path / "locked"
    target = target_cls(folder / "a")
    write(target, "old")
    folder.chmod(0o555)
    with binding_permissions(), pytest.raises(AccessDeniedError, match="See that you may write there") as caught:
        use(target)

    assert isinstance(caught.value, PermissionError)
    assert folder.stat().st_mode & 0o777 == 0o555
    assert target.exists()


# What is published


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)], ids=["022", "077", "002"])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    target = LocalFolderTarget(tmp_path / "a")
    before = os.umask(umask)
    try:
        publish(target, "new", "run-1")
    finally:
        os.umask(before)

    assert (target.path / "a.csv").stat().st_mode & 0o777 == mode
    assert target.path.stat().st_mode & 0o777 == 0o777 & ~umask
    assert target.metadata_path.stat().st_mode & 0o777 == mode


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what was flushed")
@TARGETS
def test_a_durable_write_is_a_write(tmp_path: Path, target_cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERLUIGI_DURABLE", "true")
    flushed: list[str] = []
    fsync = os.fsync

    def recorded(handle: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    target = target_cls(tmp_path / "a")
    write(target, "old")
    publish(target, "new", "run-1")

    assert read(target) == "new"
    assert str(tmp_path) in flushed
    assert any(name.endswith(("/a", "/a.csv")) for name in flushed)


def test_a_folder_is_swapped_whole(tmp_path: Path) -> None:
    target = LocalFolderTarget(tmp_path / "a")
    write(target, "old")
    (target.path / "superfluous").write_text("old")
    write(target)

    assert os.listdir(target.path) == ["a.csv"]
    assert read(target) == "new"


def test_a_reader_of_a_folder_sees_all_old_files_or_all_new_ones(tmp_path: Path) -> None:
    target = LocalFolderTarget(tmp_path / "a")

    def write_all(text: str) -> None:
        with target.tmp_write_path() as path:
            for number in range(20):
                (path / f"{number}.csv").write_text(text)

    write_all("0")
    is_done = threading.Event()

    def writing() -> None:
        for number in range(1, 20):
            write_all(str(number))
        is_done.set()

    thread = threading.Thread(target=writing)
    thread.start()
    seen = []
    while not is_done.is_set():
        with target.tmp_read_path() as path:
            seen.append({file.read_text() for file in path.iterdir()} | {str(len(list(path.iterdir())))})
    thread.join()

    assert seen
    assert all(len(texts - {"20"}) == 1 and "20" in texts for texts in seen)


def test_a_record_inside_may_bear_another_name(tmp_path: Path) -> None:
    target = LocalFolderTarget(tmp_path / "a", tmp_path / "a" / "lineage.json")
    publish(target, "new", "run-1")
    publish(target, "newer", "run-2")

    assert sorted(os.listdir(target.path)) == ["a.csv", "lineage.json"]
    assert target.read_metadata()["run_id"] == "run-2"
    assert target.read_metadata()["output"]["fingerprint"] == target.fingerprint()
    with target.tmp_read_path() as path:
        assert os.listdir(path) == ["a.csv"]


def test_a_record_deeper_inside_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidNameError, match="replaced whole"):
        LocalFolderTarget(tmp_path / "a", tmp_path / "a" / "records" / "lineage.json")


def test_a_file_that_is_named_like_a_record_inside_is_data_where_the_record_lies_beside(tmp_path: Path) -> None:
    target = LocalFolderTarget(tmp_path / "a")
    with target.store.staging() as folder:
        staged = StagedOutput(target, folder)
        (staged.path / "a.csv").write_text("1")
        (staged.path / ".metadata.json").write_text("2")
        record = {"run_id": "run-1", "output": staged.facts()}
        staged.publish(record)
    by_record = target.fingerprint()
    target.metadata_path.unlink()
    by_bytes = target.fingerprint()
    (target.path / ".metadata.json").write_text("3")

    assert by_record == by_bytes == record["output"]["fingerprint"]
    assert target.fingerprint() != by_bytes


def test_a_fingerprint_is_taken_from_the_record_while_the_data_are_untouched(tmp_path: Path) -> None:
    target = LocalFileTarget(tmp_path / "a")
    publish(target, "new", "run-1")
    record = target.read_metadata()
    target.metadata_path.write_text(json.dumps({**record, "output": {**record["output"], "fingerprint": "recorded"}}))
    trusted = target.fingerprint()
    facts = target.path.stat()
    os.utime(target.path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))

    assert trusted == "recorded"
    assert target.fingerprint() == files.digest(target.path)


def test_a_file_that_is_a_link_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("elsewhere")
    target = LocalFileTarget(tmp_path / "a")
    with pytest.raises(InvalidNameError, match="as a link to"), target.tmp_write_path() as path:
        path.symlink_to(tmp_path / "source")

    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("is_absolute", [False, True], ids=["relative", "absolute"])
def test_a_link_inside_a_folder_holds_after_publishing(tmp_path: Path, is_absolute: bool) -> None:
    target = LocalFolderTarget(tmp_path / "a")
    with target.tmp_write_path() as path:
        (path / "below").mkdir()
        (path / "below" / "file").write_text("new")
        (path / "link").symlink_to(path / "below" / "file" if is_absolute else Path("below", "file"))
        (path / "below" / "back").symlink_to(path / "below" / "file" if is_absolute else Path("file"))

    assert (target.path / "link").read_text() == "new"
    assert (target.path / "below" / "back").read_text() == "new"


@pytest.mark.parametrize("aim", ["outside", "nowhere", "itself"])
def test_a_link_that_leaves_a_folder_is_refused_and_nothing_published(tmp_path: Path, aim: str) -> None:
    (tmp_path / "outside").write_text("elsewhere")
    target = LocalFolderTarget(tmp_path / "a")
    with pytest.raises(InvalidNameError, match=r"'below/link' is a link"), target.tmp_write_path() as path:
        (path / "a.csv").touch()
        (path / "below").mkdir()
        aims = {"outside": tmp_path / "outside", "nowhere": Path("absent"), "itself": path / "below"}
        (path / "below" / "link").symlink_to(aims[aim])

    assert os.listdir(tmp_path) == ["outside"]


def test_looking_at_published_data_leaves_their_links_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "file").write_text("old")
    (folder / "link").symlink_to(folder / "file")
    facts = facts_of(LocalFolderTarget(folder))

    assert facts["files"] == 2
    assert os.readlink(folder / "link") == str(folder / "file")


def test_a_vanished_staging_folder_is_a_clear_error(tmp_path: Path) -> None:
    target = LocalFileTarget(tmp_path / "a")
    with pytest.raises(StorageError, match="publish"), target.store.staging() as folder:
        staged = StagedOutput(target, folder)
        staged.path.write_text("new")
        staged.check()
        files.discard(staging_of(target))
        staged.publish(None)

    assert os.listdir(tmp_path) == []


# Reading


@TARGETS
def test_an_input_may_be_linked_instead_of_copied(
    tmp_path: Path, target_cls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERLUIGI_INPUT_MODE", "link")
    target = target_cls(tmp_path / "a")
    write(target)
    source = target.path / "a.csv" if target_cls is LocalFolderTarget else target.path
    with target.tmp_read_path() as path:
        handed_over = path / "a.csv" if target_cls is LocalFolderTarget else path
        is_same = handed_over.samefile(source)
        handed_over.unlink()

    assert is_same
    assert source.read_text() == "new"


def test_a_source_that_is_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("elsewhere")
    (tmp_path / "a").symlink_to(tmp_path / "source")
    target = LocalFileTarget(tmp_path / "a")

    assert target.exists()
    assert read(target) == "elsewhere"


def test_a_link_to_nowhere_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "absent")

    assert not LocalFileTarget(tmp_path / "a").exists()
    with pytest.raises(TargetNotFoundError):
        read(LocalFileTarget(tmp_path / "a"))


def test_a_disk_that_is_full_gives_up_the_cache_and_copies_again(
    tmp_path: Path, local_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = LocalFileTarget(tmp_path / "a")
    write(target)
    entry = CacheEntry(local_data_dir / "cache", "aws", "bucket", "S3ObjectStore", "a.csv")
    (tmp_path / "published").touch()
    entry.adopt(tmp_path / "published", "1", 0)
    is_full = [True]
    copy = files.copy

    def copying(source: Path, destination: Path) -> None:
        if is_full:
            is_full.clear()
            destination.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, destination)

    monkeypatch.setattr(files, "copy", copying)

    assert read(target) == "new"
    assert not entry.is_fresh("1")


def test_a_fingerprint_is_given_with_a_copy_and_is_that_of_its_bytes(tmp_path: Path) -> None:
    target = LocalFileTarget(tmp_path / "a")
    write(target)
    with workplace.private_folder() as folder:
        copied = target.read_into(folder)

        assert copied.path == folder / "a"
        assert copied.fingerprint == files.digest(copied.path) == target.fingerprint()


def test_a_fingerprint_is_given_while_another_thread_forgets_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            """Keep nothing, as if another thread had cleared it."""

    target = LocalFileTarget(tmp_path / "a.txt")
    with target.tmp_write_path() as path:
        path.write_text("data")
    target.write_metadata({"output": {"fingerprint": "known", "stamp": files.changed_stamp(target.path)}})
    monkeypatch.setattr(local, "_recorded", Forgetful())

    assert target.fingerprint() == "known"
