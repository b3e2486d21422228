"""Local files: copies, digests, folders that are swapped or removed, names that tell who owns a folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from permissions import binding_permissions

from superluigi import AccessDeniedError, InvalidNameError, StorageError, TargetNotFoundError
from superluigi.errors import DiskFullError
from superluigi.storage import files, processes, workplace

TIMEOUT_S = 20

ENTRIES = st.builds(
    files.Entry,
    st.text(min_size=1, max_size=20),
    st.integers(min_value=0, max_value=1 << 40),
    st.text("0123abc:", max_size=8),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, a file below, an empty file and an empty folder."""
    folder = tmp_path / "folder"
    (folder / "below" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.csv").write_bytes(b"first")
    (folder / "below" / "deep" / "b.csv").write_bytes(b"second")
    (folder / "below" / "nothing").touch()
    return folder


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


# Who owns a folder


def test_a_name_is_abandoned_once_its_process_was_killed() -> None:
    program = (
        "import sys; from superluigi.storage import processes\n"
        "print(processes.owner_token(), flush=True); sys.stdin.read()"
    )
    with started(program) as process:
        token = process.stdout.readline().strip()
        while_it_lives = processes.is_abandoned(token)
        process.kill()
        process.wait(TIMEOUT_S)

    assert while_it_lives is False
    assert processes.is_abandoned(token) is True


def test_names_of_this_process_are_fresh_and_never_abandoned() -> None:
    tokens = {processes.owner_token() for _ in range(100)}

    assert len(tokens) == 100
    assert not any(processes.is_abandoned(token) for token in tokens)
    assert all(Path(token).name == token for token in tokens)


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells when a process was started")
@pytest.mark.parametrize("pid", [os.getpid(), os.getppid()], ids=["ours", "another"])
def test_a_name_whose_process_id_was_given_to_a_newer_process_is_abandoned(pid: int) -> None:
    assert processes.is_abandoned(f"{pid}-12345678901-abcdef01@{socket.gethostname()}")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "@",
        "data",
        "1-2-3",
        f"@{socket.gethostname()}",
        f"x-2-3@{socket.gethostname()}",
        f"-1-2-3@{socket.gethostname()}",
        f"1-2@{socket.gethostname()}",
        f"²-0-x@{socket.gethostname()}",
        "4194305-0-abcdef01@another.host",
        f"4194305-0-abcdef01@{socket.gethostname()}.but.longer",
    ],
)
def test_a_name_that_is_none_or_of_another_host_is_not_abandoned(token: str) -> None:
    assert processes.is_abandoned(token) is False


@pytest.mark.skipif(sys.platform != "linux", reason="4194305 may be a process elsewhere")
@pytest.mark.parametrize("pid", [4194305, 1 << 40, 10**30], ids=["above-pid-max", "above-32-bits", "above-64-bits"])
def test_a_process_id_that_cannot_be_is_abandoned(pid: int) -> None:
    assert processes.is_abandoned(f"{pid}-0-abcdef01@{socket.gethostname()}") is True


@given(st.text(max_size=40))
def test_any_name_at_all_is_abandoned_or_not(owner: str) -> None:
    assert processes.is_abandoned(f"{owner}@{socket.gethostname()}") in (True, False)


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells of processes that nobody took notice of")
def test_a_killed_process_that_its_parent_took_no_notice_of_is_gone() -> None:
    with started("from superluigi.storage import processes\nprint(processes.owner_token(), flush=True)") as process:
        token = process.stdout.readline().strip()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert processes.is_abandoned(token) is True


def test_a_process_of_another_user_lives() -> None:
    with binding_permissions():
        assert processes.is_abandoned(f"1-{processes._start_time(1)}-abcdef01@{socket.gethostname()}") is False


def test_the_private_folders_of_killed_processes_are_found_and_no_others(local_data_dir: Path) -> None:
    before = workplace.abandoned_homes()
    with started("from superluigi.storage import processes; print(processes.owner_token())") as process:
        token = process.stdout.readline().strip()
        process.wait(TIMEOUT_S)
    left = local_data_dir / "tmp" / token
    left.mkdir(parents=True)
    (local_data_dir / "tmp" / "somebody's").mkdir()
    with workplace.private_folder():
        found = workplace.abandoned_homes()

    assert before == []
    assert found == [left]


def test_a_private_folder_is_empty_and_goes_also_on_an_error(local_data_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError), workplace.private_folder() as folder:
        content = os.listdir(folder)
        (folder / "x").touch()
        raise ZeroDivisionError

    assert content == []
    assert folder.is_relative_to(local_data_dir)
    assert not folder.exists()


# Removing


def test_discarding_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    files.discard(tmp_path / "absent")

    assert os.listdir(tmp_path) == []


def test_a_folder_is_discarded_with_all_that_it_holds(folder: Path, tmp_path: Path) -> None:
    files.discard(folder)

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o555, 0o111], ids=oct)
def test_a_folder_that_may_not_be_read_or_written_is_discarded_too(folder: Path, tmp_path: Path, mode: int) -> None:
    (folder / "a.csv").chmod(mode)
    for inner in (folder / "below" / "deep", folder / "below", folder / "empty", folder):
        inner.chmod(mode)
    with binding_permissions():
        files.discard(folder)

    assert os.listdir(tmp_path) == []


def test_discarding_leaves_the_permissions_of_what_is_around(folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with binding_permissions(), pytest.raises(PermissionError):
        files.discard(folder)
    mode = tmp_path.stat().st_mode & 0o777
    tmp_path.chmod(0o755)

    assert mode == 0o555
    assert folder.exists()


@pytest.mark.parametrize("aim", ["folder", "absent"])
def test_a_link_is_discarded_and_not_what_it_points_to(folder: Path, tmp_path: Path, aim: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / aim)
    files.discard(tmp_path / "link")

    assert os.listdir(tmp_path) == ["folder"]
    assert (folder / "a.csv").exists()


# One at a time


def test_a_lock_is_held_against_another_thread_and_freed_after_an_error() -> None:
    is_held, may_end = threading.Event(), threading.Event()

    def holding() -> None:
        with processes.lock("address"):
            is_held.set()
            may_end.wait(TIMEOUT_S)

    thread = threading.Thread(target=holding)
    thread.start()
    is_held.wait(TIMEOUT_S)
    with pytest.raises(BlockingIOError), processes.lock("address", wait=False):
        pytest.fail("two hold it")
    may_end.set()
    thread.join()
    with pytest.raises(ZeroDivisionError), processes.lock("address"):
        raise ZeroDivisionError

    with processes.lock("address", wait=False):
        pass


def test_a_killed_process_leaves_no_lock() -> None:
    program = (
        "import sys; from superluigi.storage import processes\n"
        "with processes.lock('address'): print('held', flush=True); sys.stdin.read()"
    )
    with started(program) as process:
        process.stdout.readline()
        with pytest.raises(BlockingIOError), processes.lock("address", wait=False):
            pass
        process.kill()
        process.wait(TIMEOUT_S)

    with processes.lock("address", wait=False):
        pass


def test_lock_files_are_bounded_in_number(local_data_dir: Path) -> None:
    for number in range(1500):
        with processes.lock(f"address {number} \udce9"):
            pass

    assert len(os.listdir(local_data_dir / "locks")) <= 1024


# Errors of the operating system


@pytest.mark.parametrize(
    ("number", "error_cls"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EACCES, AccessDeniedError),
        (errno.EPERM, AccessDeniedError),
        (errno.EROFS, AccessDeniedError),
        (errno.EIO, StorageError),
        (errno.ENOENT, StorageError),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else value.__name__,
)
def test_an_error_of_the_system_names_operation_and_path(
    tmp_path: Path, number: int, error_cls: type[Exception]
) -> None:
    with pytest.raises(StorageError) as caught, files.translated("publish", tmp_path / "a"):
        raise OSError(number, os.strerror(number), str(tmp_path / "b"))

    assert type(caught.value) is error_cls
    assert caught.value.operation == "publish"
    assert caught.value.address == str(tmp_path / "a")
    assert os.strerror(number) in str(caught.value)
    assert str(tmp_path / "b") in str(caught.value)


@pytest.mark.parametrize("error", [TargetNotFoundError("ours"), ValueError("theirs")], ids=["ours", "no-os-error"])
def test_other_errors_pass_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, files.translated("publish", tmp_path):
        raise error

    assert caught.value is error


# Writing


def test_a_replacement_leaves_nothing_staged(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    files.write_atomically(tmp_path / "a", b"old", staging=tmp_path / "staging")
    files.write_atomically(tmp_path / "a", b"new", staging=tmp_path / "staging")
    files.write_atomically(tmp_path / "b", b"beside")

    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path / "staging") == []
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "staging"]


def test_a_replacement_that_fails_leaves_nothing_staged(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    with pytest.raises(OSError, match="directory"):
        files.write_atomically(tmp_path / "a", b"new")

    assert os.listdir(tmp_path) == ["a"]


def test_many_write_to_one_place_at_a_time_and_each_whole(tmp_path: Path) -> None:
    contents = {bytes([number]) * 100_000 for number in range(8)}

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(lambda data: files.write_atomically(tmp_path / "a", data), contents))

    assert (tmp_path / "a").read_bytes() in contents
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such permissions")
@pytest.mark.parametrize(("mode", "expected"), [(0o666, 0o640), (0o600, 0o600)])
def test_who_may_read_what_is_written_is_as_asked_less_the_umask(tmp_path: Path, mode: int, expected: int) -> None:
    former = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "a", b"new", mode=mode)
    finally:
        os.umask(former)

    assert (tmp_path / "a").stat().st_mode & 0o777 == expected


EXCHANGES = pytest.mark.parametrize("has_exchange", [True, False], ids=["one-step", "two-renames"])


@EXCHANGES
def test_a_swapped_folder_leaves_the_old_one_in_its_stead(
    tmp_path: Path, folder: Path, has_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_exchange:
        monkeypatch.setattr(sys, "platform", "another")
    destination = tmp_path / "destination"
    destination.mkdir()
    (destination / "old").touch()
    files.swap_folder(folder, destination)

    assert sorted(os.listdir(destination)) == ["a.csv", "below", "empty"]
    assert os.listdir(folder) == ["old"]
    assert sorted(os.listdir(tmp_path)) == ["destination", "folder"]


@EXCHANGES
def test_a_folder_takes_a_free_place(
    tmp_path: Path, folder: Path, has_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_exchange:
        monkeypatch.setattr(sys, "platform", "another")
    files.swap_folder(folder, tmp_path / "destination")

    assert os.listdir(tmp_path) == ["destination"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_an_exchange_that_the_file_system_refuses_is_done_by_renames(tmp_path: Path, folder: Path) -> None:
    inside = folder / "below"
    (inside / "marker").touch()

    with pytest.raises(OSError, match="destination"):
        files._exchange(folder, tmp_path / "destination")
    assert files._exchange(inside, folder) is False  # EINVAL: one holds the other
    assert (inside / "marker").exists()


def test_a_move_within_one_file_system_is_a_rename(tmp_path: Path, folder: Path) -> None:
    before = (folder / "a.csv").stat().st_ino
    files.move(folder, tmp_path / "moved")

    assert (tmp_path / "moved" / "a.csv").stat().st_ino == before
    assert not folder.exists()


@pytest.fixture
def other_file_system(tmp_path: Path) -> Any:
    """A folder on another file system than `tmp_path`."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    folder = shm / f"superluigi-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_move_across_file_systems_copies_and_removes(folder: Path, other_file_system: Path) -> None:
    files.move(folder, other_file_system / "moved")

    assert (other_file_system / "moved" / "below" / "deep" / "b.csv").read_bytes() == b"second"
    assert not folder.exists()


def test_a_move_across_file_systems_that_fails_leaves_the_source(folder: Path, other_file_system: Path) -> None:
    (folder / "z-link").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        files.move(folder, other_file_system / "moved")

    assert (folder / "a.csv").exists()
    assert os.listdir(other_file_system) == []


def test_a_move_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.move(tmp_path / "absent", tmp_path / "moved")


def test_links_inside_a_folder_become_relative(folder: Path, tmp_path: Path) -> None:
    (folder / "below" / "to-file").symlink_to(folder / "a.csv")
    (folder / "to-folder").symlink_to(folder / "below" / "deep")
    (folder / "relative").symlink_to("a.csv")
    files.settle_links(folder)
    folder.rename(tmp_path / "renamed")

    assert os.readlink(tmp_path / "renamed" / "below" / "to-file") == os.path.join("..", "a.csv")
    assert os.readlink(tmp_path / "renamed" / "relative") == "a.csv"
    assert (tmp_path / "renamed" / "to-folder" / "b.csv").read_bytes() == b"second"


# Copies


def test_a_copy_is_the_source_s_and_its_changes_do_not_reach_it(tmp_path: Path, folder: Path) -> None:
    files.copy(folder, tmp_path / "copy")
    same = files.listing(tmp_path / "copy") == files.listing(folder)
    (tmp_path / "copy" / "a.csv").write_bytes(b"other")

    assert same
    assert (tmp_path / "copy" / "empty").is_dir()
    assert (folder / "a.csv").read_bytes() == b"first"


@pytest.mark.parametrize("size_bytes", [0, 1, (1 << 20) - 1, 1 << 20, (2 << 20) + 3])
@pytest.mark.parametrize("has_kernel_copy", [True, False], ids=["in-the-kernel", "by-shutil"])
def test_a_file_of_any_size_is_copied_whole(
    tmp_path: Path, size_bytes: int, has_kernel_copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_kernel_copy:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size_bytes))
    source.chmod(0o444)
    files.copy(source, tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert os.access(tmp_path / "copy", os.W_OK)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_file_whose_size_is_not_told_is_copied_whole(tmp_path: Path) -> None:
    files.copy(Path("/proc/self/status"), tmp_path / "copy")

    assert b"Name:" in (tmp_path / "copy").read_bytes()


def test_a_copy_across_file_systems_is_whole(folder: Path, other_file_system: Path) -> None:
    files.copy(folder, other_file_system / "copy")

    assert files.listing(other_file_system / "copy") == files.listing(folder)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS], ids=["EXDEV", "ENOSYS"])
def test_a_system_that_refuses_the_kernel_copy_gets_the_usual_one(
    folder: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refusing, raising=False)
    files.copy(folder, tmp_path / "copy")

    assert files.listing(tmp_path / "copy") == files.listing(folder)


def test_a_full_disk_is_not_taken_for_a_refusal(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full, raising=False)

    with pytest.raises(OSError, match="No space"):
        files.copy(folder, tmp_path / "copy")


def test_a_link_shares_the_bytes_and_removing_it_leaves_them(folder: Path, tmp_path: Path) -> None:
    files.link(folder, tmp_path / "linked")
    is_same = (tmp_path / "linked" / "a.csv").samefile(folder / "a.csv")
    files.discard(tmp_path / "linked")

    assert is_same
    assert (folder / "a.csv").read_bytes() == b"first"


def test_a_link_across_file_systems_is_symbolic(folder: Path, other_file_system: Path) -> None:
    files.link(folder, other_file_system / "linked")

    assert (other_file_system / "linked" / "a.csv").is_symlink()
    assert (other_file_system / "linked" / "below" / "deep" / "b.csv").read_bytes() == b"second"


def test_a_link_to_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.link(tmp_path / "absent", tmp_path / "linked")


# Digests


def test_a_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"x" * ((2 << 20) + 1))

    assert files.digest(tmp_path / "empty") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert files.digest(tmp_path / "large") == f"sha256:{hashlib.sha256(b'x' * ((2 << 20) + 1)).hexdigest()}"


def test_a_listing_holds_every_file_sorted_and_no_empty_folder(folder: Path) -> None:
    assert [(entry.name, entry.size_bytes) for entry in files.listing(folder)] == [
        ("a.csv", 5),
        ("below/deep/b.csv", 6),
        ("below/nothing", 0),
    ]


def test_the_digest_of_a_folder_is_pinned(folder: Path) -> None:
    assert (
        files.digest_of_entries(files.listing(folder))
        == "sha256-tree:7d28863e77b404aa58d33829969ac653081c33fcdb7a3c207af8b73026284749"
    )


@given(st.lists(ENTRIES, max_size=6, unique_by=lambda entry: entry.name), st.randoms())
def test_the_digest_of_entries_does_not_hang_on_their_order(entries: list[files.Entry], random: Any) -> None:
    shuffled = random.sample(entries, len(entries))

    assert files.digest_of_entries(shuffled) == files.digest_of_entries(entries)


@given(*[st.lists(ENTRIES, max_size=4, unique_by=lambda entry: entry.name)] * 2)
def test_different_entries_have_different_digests(first: list[files.Entry], second: list[files.Entry]) -> None:
    def as_set(entries: list[files.Entry]) -> set[tuple[str, int, str]]:
        return {(entry.name, entry.size_bytes, entry.digest) for entry in entries}

    is_same = files.digest_of_entries(first) == files.digest_of_entries(second)

    assert is_same == (as_set(first) == as_set(second))


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.dictionaries(NAMES, st.binary(max_size=8), max_size=5))
def test_a_listing_is_what_was_written_in_the_order_of_names(tmp_path: Path, content: dict[str, bytes]) -> None:
    with workplace.private_folder() as folder:
        for name, data in content.items():
            (folder / name).write_bytes(data)
        listing = files.listing(folder)

    assert [entry.name for entry in listing] == sorted(content)
    assert {entry.name: entry.size_bytes for entry in listing} == {name: len(data) for name, data in content.items()}


# Stamps


def test_a_stamp_changes_with_size_and_time_and_not_with_looking(folder: Path) -> None:
    file = folder / "a.csv"
    first = files.changed_stamp(file), files.changed_stamp(folder)
    file.read_bytes()
    looked_at = files.changed_stamp(file), files.changed_stamp(folder)
    facts = file.stat()
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    touched = files.changed_stamp(file), files.changed_stamp(folder)
    file.write_bytes(b"longer than before")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    longer = files.changed_stamp(file), files.changed_stamp(folder)

    assert looked_at == first
    assert len({first[0], touched[0], longer[0]}) == 3
    assert len({first[1], touched[1], longer[1]}) == 3


def test_a_stamp_may_leave_a_file_out(folder: Path) -> None:
    first = files.changed_stamp(folder, leave_out="a.csv")
    (folder / "a.csv").write_text("longer than before")
    without = files.changed_stamp(folder, leave_out="a.csv")
    (folder / "another").touch()

    assert first == without
    assert files.changed_stamp(folder, leave_out="a.csv") != first


# Names


@pytest.mark.parametrize(
    ("aim", "problem"),
    [
        ("../outside", "outside the folder"),
        ("absent", "which is not there"),
        (".", "holds the link"),
        ("link", "which is not there"),
    ],
    ids=["outside", "nowhere", "the-folder-above", "itself"],
)
def test_a_link_that_leaves_the_folder_or_turns_in_a_circle_is_refused(folder: Path, aim: str, problem: str) -> None:
    (folder.parent / "outside").touch()
    (folder / "link").symlink_to(aim)

    with pytest.raises(InvalidNameError, match=problem) as caught:
        files.files_in(folder)
    assert caught.value.name == "link"


def test_links_inside_are_followed_under_their_own_names(folder: Path) -> None:
    (folder / "to-file").symlink_to("a.csv")
    (folder / "to-folder").symlink_to(folder / "below")

    assert [name for name, _ in files.files_in(folder)] == [
        "a.csv",
        "below/deep/b.csv",
        "below/nothing",
        "to-file",
        "to-folder/deep/b.csv",
        "to-folder/nothing",
    ]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a//b"], "empty part"),
        (["/a"], "empty part"),
        (["a/"], "empty part"),
        ([""], "empty part"),
        (["../a"], r"'\.\.'"),
        (["a/../b"], r"'\.\.'"),
        (["."], r"'\.'"),
        (["a/./b"], r"'\.'"),
        (["a\0b"], "NUL"),
        (["x" * 256], "255 bytes"),
        (["a/" + "é" * 128], "255 bytes"),
        (["a", "a/b"], "folder of others"),
        (["a/b/c", "a/b"], "folder of others"),
        (["a", "b", "a"], "same file"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_remote_names_that_cannot_be_files_in_one_folder_are_refused(names: list[str], problem: str) -> None:
    with pytest.raises(InvalidNameError, match=problem) as caught:
        files.check_names(names, "s3://bucket/prefix/")

    assert caught.value.name.startswith("s3://bucket/prefix/")
    assert "S3ObjectTarget" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "platform"),
    [
        (["a/B", "a/b"], "darwin"),
        (["\u00e9", "e\u0301"], "darwin"),
        (["stra\u00dfe", "STRASSE"], "win32"),
        (["A", "a/b"], "win32"),
        (["a:b"], "win32"),
        (["a\\b"], "win32"),
        (["a. "], "win32"),
        (["x/con.txt"], "win32"),
        (["LPT1"], "win32"),
    ],
    ids=repr,
)
def test_names_that_another_platform_cannot_tell_apart_are_refused_there(
    names: list[str], platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.check_names(names, "s3://bucket/") if sys.platform == "linux" else None
    monkeypatch.setattr(sys, "platform", platform)

    with pytest.raises(InvalidNameError):
        files.check_names(names, "s3://bucket/")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "..", ".", "", "A", "a\\b", " ", "c:"]), min_size=1, max_size=3), max_size=5
    )
)
def test_names_that_are_let_through_are_files_of_their_own_in_one_folder(parts: list[list[str]]) -> None:
    names = ["/".join(part) for part in parts]
    try:
        files.check_names(names, "s3://bucket/")
    except InvalidNameError:
        return
    with workplace.private_folder() as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

        assert [(found, path.read_text()) for found, path in files.files_in(folder)] == [(n, n) for n in sorted(names)]
