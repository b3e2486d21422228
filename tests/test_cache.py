"""Local copies of remote objects: when one is served, who fetches it, how much lies there, and how it is named."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from server_log import recorded_requests

from superluigi import DiskFullError, S3ObjectTarget, S3PrefixTarget, StorageError
from superluigi.storage import cache, files
from superluigi.storage.cache import CacheEntry, readable_name

if TYPE_CHECKING:
    from conftest import S3

TIMEOUT_S = 60

ENTRY_FIELDS = st.tuples(
    st.sampled_from(["aws", "127.0.0.1:9000", "127.0.0.1_9000", "minio:9000/a", ".."]),
    st.sampled_from(["bucket", "arn:aws:s3:us-east-1:1:accesspoint/a", "arn:/../../..", "arn_aws", ".."]),
    st.sampled_from(["S3ObjectStore", "S3PrefixStore"]),
    st.one_of(
        st.text(min_size=1),
        st.lists(st.sampled_from(["a", "A", "..", ".", "", "a ", "a.", "é", "e\u0301", "con", "a\\b", "a:b"])).map(
            "/".join
        ),
    ),
)


@pytest.fixture
def entry(tmp_path: Path) -> CacheEntry:
    return CacheEntry(tmp_path / "cache", "host:9000", "bucket", "S3ObjectStore", "data/features.csv")


def fetching(data: bytes, fingerprint: str = "1") -> Any:
    """A fetch that writes these bytes, and counts its calls in `calls`."""

    def fetch(path: Path) -> str:
        fetch.calls += 1
        path.write_bytes(data)
        return fingerprint

    fetch.calls = 0
    return fetch


def served(entry: CacheEntry, fingerprint: str, fetch: Any, **options: Any) -> bytes:
    with entry.reading(fingerprint, 3, fetch, **options) as path:
        return path.read_bytes()


# When a copy is served


def test_a_fresh_copy_is_served_without_fetching(entry: CacheEntry) -> None:
    fetch = fetching(b"old")

    assert [served(entry, "1", fetch) for _ in range(3)] == [b"old"] * 3
    assert fetch.calls == 1


def test_a_copy_of_another_fingerprint_is_fetched_anew(entry: CacheEntry) -> None:
    served(entry, "1", fetching(b"old"))

    assert served(entry, "2", fetching(b"new", "2")) == b"new"
    assert not entry.is_fresh("1")


def test_a_copy_is_fetched_anew_by_force(entry: CacheEntry) -> None:
    served(entry, "1", fetching(b"old"))

    assert served(entry, "1", fetching(b"new"), force=True) == b"new"


def test_a_copy_that_was_fetched_newer_than_asked_is_kept_as_what_it_is(entry: CacheEntry) -> None:
    newer = served(entry, "1", fetching(b"new", "2"))

    assert newer == b"new"
    assert entry.is_fresh("2")
    assert not entry.is_fresh("1")


@pytest.mark.parametrize(
    "harm", ["same-size", "other-size", "removed", "a-folder", "no-facts", "torn-facts", "other-facts"]
)
def test_a_copy_that_was_tampered_with_is_fetched_anew(entry: CacheEntry, harm: str) -> None:
    served(entry, "1", fetching(b"old"))
    facts = entry.folder / "entry.json"
    before = entry.path.stat()
    if harm == "same-size":
        entry.path.write_bytes(b"bad")
        os.utime(entry.path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # the clock of files may tick slowly
    elif harm == "other-size":
        entry.path.write_bytes(b"longer")
        os.utime(entry.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif harm in ("removed", "a-folder"):
        entry.path.unlink()
        if harm == "a-folder":
            entry.path.mkdir()
    else:
        torn = {"no-facts": None, "torn-facts": facts.read_bytes()[:9], "other-facts": b"[1]"}[harm]
        facts.unlink() if torn is None else facts.write_bytes(torn)
    fetch = fetching(b"old")

    assert served(entry, "1", fetch) == b"old"
    assert fetch.calls == 1


def test_a_fetch_that_fails_leaves_nothing_and_keeps_the_former_copy(entry: CacheEntry, local_data_dir: Path) -> None:
    served(entry, "1", fetching(b"old"))

    def failing(path: Path) -> str:
        path.write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        served(entry, "2", failing)
    assert entry.is_fresh("1")
    assert os.listdir(entry.folder / "copy") == ["features.csv"]
    assert os.listdir(local_data_dir / "tmp") == []


def test_what_was_published_is_adopted_and_served(entry: CacheEntry, tmp_path: Path) -> None:
    (tmp_path / "staged").write_bytes(b"new")
    entry.adopt(tmp_path / "staged", "1", 3)
    fetch = fetching(b"never")

    assert served(entry, "1", fetch) == b"new"
    assert fetch.calls == 0
    assert not (tmp_path / "staged").exists()


def test_a_forgotten_copy_is_gone_and_twice_is_no_error(entry: CacheEntry) -> None:
    served(entry, "1", fetching(b"old"))
    entry.forget()
    entry.forget()

    assert not entry.is_fresh("1")
    assert not entry.folder.exists()


@pytest.mark.parametrize("is_prefix", [False, True], ids=["object", "prefix"])
def test_a_change_of_the_same_size_at_the_remote_is_noticed(s3: S3, is_prefix: bool) -> None:
    target = S3PrefixTarget(s3.bucket, "data") if is_prefix else S3ObjectTarget(s3.bucket, "data/a.csv")
    s3.put("data/a.csv", b"old")
    first = target.download()
    s3.put("data/a.csv", b"new")
    second = target.download()

    assert first == second
    assert (second / "a.csv" if is_prefix else second).read_bytes() == b"new"


@pytest.mark.parametrize("is_prefix", [False, True], ids=["object", "prefix"])
def test_local_tampering_of_the_same_size_is_noticed(s3: S3, is_prefix: bool) -> None:
    target = S3PrefixTarget(s3.bucket, "data") if is_prefix else S3ObjectTarget(s3.bucket, "data/a.csv")
    s3.put("data/a.csv", b"old")
    path = target.download() / "a.csv" if is_prefix else target.download()
    before = path.stat()
    path.write_bytes(b"bad")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    target.download()

    assert path.read_bytes() == b"old"


def test_bytes_that_were_not_published_are_never_in_the_cache(s3: S3, local_data_dir: Path) -> None:
    target = S3ObjectTarget(s3.bucket, "data/a.csv")
    s3.put("data/a.csv", b"old")
    target.download()
    with pytest.raises(ZeroDivisionError), target.tmp_write_path() as path:
        path.write_bytes(b"unpublished")
        raise ZeroDivisionError
    s3.client().delete_bucket_policy(Bucket=s3.bucket)

    assert target.download().read_bytes() == b"old"
    assert [file.read_bytes() for file in local_data_dir.rglob("a.csv")] == [b"old"]


def test_an_upload_that_fails_reaches_no_cache(s3: S3, local_data_dir: Path) -> None:
    target = S3ObjectTarget("no-such-bucket-anywhere", "data/a.csv", metadata_bucket=s3.bucket)
    with pytest.raises(StorageError), target.tmp_write_path() as path:
        path.write_bytes(b"unpublished")

    assert not list(local_data_dir.rglob("a.csv"))


# Who fetches


def download(address: tuple[str, str], barrier: Any, found: Any) -> None:
    target = S3ObjectTarget(*address)
    barrier.wait(TIMEOUT_S)
    found.put(target.download().read_bytes())


def test_several_processes_fetch_one_object_once(s3: S3) -> None:
    s3.put("data/large.csv", b"x" * (1 << 20))
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(3), context.Queue()
    arguments = ((s3.bucket, "data/large.csv"), barrier, found)
    with recorded_requests() as log:
        processes = [context.Process(target=download, args=arguments) for _ in range(3)]
        for process in processes:
            process.start()
        contents = [found.get(timeout=TIMEOUT_S) for _ in processes]
        for process in processes:
            process.join(TIMEOUT_S)

    assert contents == [b"x" * (1 << 20)] * 3
    assert len(log.of("GET", "large.csv")) == 1
    assert len(log.of("HEAD", "large.csv")) == 3


def test_threads_that_ask_at_once_fetch_once(entry: CacheEntry) -> None:
    fetch = fetching(b"old")
    barrier = threading.Barrier(4)
    found: list[bytes] = []

    def reading() -> None:
        barrier.wait(TIMEOUT_S)
        found.append(served(entry, "1", fetch))

    threads = [threading.Thread(target=reading) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [b"old"] * 4
    assert fetch.calls == 1


# How much lies there


@pytest.fixture
def entries(tmp_path: Path) -> list[CacheEntry]:
    """Four copies of 100 bytes; the first is the least recently used."""
    found = [CacheEntry(tmp_path / "cache", "aws", "bucket", "S3ObjectStore", f"{number}.csv") for number in range(4)]
    for number, entry in enumerate(found):
        with entry.reading("1", 100, fetching(b"x" * 100)):
            pass
        os.utime(entry.folder / "entry.json", (1000 + number, 1000 + number))
    return found


def count_of_copies(root: Path) -> int:
    return len(list(root.glob("*/*/*/entry.json")))


def test_the_least_recently_used_copies_go_first(entries: list[CacheEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERLUIGI_CACHE_MAX_BYTES", "450")
    served(entries[0], "1", fetching(b"used again"))
    cache.make_room(entries[0].root, 100)

    assert [entry.is_fresh("1") for entry in entries] == [True, False, True, True]  # a tenth below the limit


def test_a_copy_in_use_is_not_evicted(entries: list[CacheEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERLUIGI_CACHE_MAX_BYTES", "100")
    seen: list[bool] = []

    def evicting() -> None:
        cache.give_up_all(entries[0].root)
        seen.append(True)

    with entries[0].reading("1", 100, fetching(b"")) as path:
        thread = threading.Thread(target=evicting)
        thread.start()
        thread.join()
        content = path.read_bytes()

    assert content == b"x" * 100
    assert [entry.is_fresh("1") for entry in entries] == [True, False, False, False]


def test_what_is_larger_than_the_cache_is_not_kept_after_publishing(
    entry: CacheEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERLUIGI_CACHE_MAX_BYTES", "2")
    (tmp_path / "staged").write_bytes(b"new")
    entry.adopt(tmp_path / "staged", "1", 3)

    assert not entry.is_fresh("1")
    assert (tmp_path / "staged").exists()


def test_a_reserve_of_the_disk_stays_free(entries: list[CacheEntry], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERLUIGI_CACHE_MIN_FREE_BYTES", str(1 << 60))
    cache.make_room(entries[0].root, 0)
    with_small_disk_share = count_of_copies(entries[0].root)

    with pytest.raises(DiskFullError, match="nothing more can be evicted"):
        cache.make_room(entries[0].root, 1 << 60)
    assert with_small_disk_share in (0, 4)  # a twentieth of the disk is free, or it is not
    assert count_of_copies(entries[0].root) == 0


def test_publishing_on_a_full_disk_keeps_no_copy_and_is_no_error(
    entry: CacheEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFullError("cache", "", "the disk is full", "Free some space.")

    monkeypatch.setattr(cache, "make_room", full)
    (tmp_path / "staged").write_bytes(b"new")
    entry.adopt(tmp_path / "staged", "1", 3)

    assert not entry.is_fresh("1")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"bytes": null}', None], ids=repr)
def test_a_damaged_count_is_counted_anew(entries: list[CacheEntry], damage: bytes | None) -> None:
    count = entries[0].root / "usage.json"
    count.unlink() if damage is None else count.write_bytes(damage)
    cache.make_room(entries[0].root, 10)

    assert json.loads(count.read_bytes()) == {"bytes": 410}


def test_what_a_killed_process_left_half_made_is_evicted_first(
    entries: list[CacheEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(entries[0], key="half.csv")
    half.path.parent.mkdir(parents=True)
    half.path.write_bytes(b"x" * 100)
    monkeypatch.setenv("SUPERLUIGI_CACHE_MAX_BYTES", "410")
    cache.make_room(entries[0].root, 50)

    assert not half.folder.exists()
    assert [entry.is_fresh("1") for entry in entries] == [False, True, True, True]


def test_giving_up_a_cache_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    cache.give_up_all(tmp_path / "absent")

    assert count_of_copies(tmp_path / "absent") == 0


def test_copies_of_an_access_point_are_counted_and_evicted_too(entries: list[CacheEntry]) -> None:
    of_access_point = replace(entries[0], bucket="arn:aws:s3:eu-west-1:123456789012:accesspoint/a")
    served(of_access_point, "1", fetching(b"old"))
    count = count_of_copies(entries[0].root)
    cache.give_up_all(entries[0].root)

    assert count == 5
    assert not of_access_point.is_fresh("1")


# Names


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("data/features.csv", "features.csv"),
        ("a", "a"),
        ("data/prefix/", "prefix"),
        ("data/a.tar.gz", "a.tar.gz"),
        ("data/a:b?c*.csv", "a_b_c_.csv"),
        ("data/a\\b", "a_b"),
        ("data/..", "_"),
        ("data/.", "_"),
        ("a/ . .", "_"),
        ("data/.hidden", ".hidden"),
        ("data/trailing. ", "trailing"),
        ("data/con.csv", "_con.csv"),
        ("data/LPT1", "_LPT1"),
        ("data/console.csv", "console.csv"),
        ("data/line\nbreak", "line_break"),
        ("x" * 300 + ".csv", "x" * 196 + ".csv"),
        ("é" * 300 + ".csv", "é" * 98 + ".csv"),
        ("x" * 300, "x" * 199),
        ("a." + "x" * 300, "a." + "x" * 197),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_copy_bears_a_readable_name_that_every_file_system_takes(key: str, name: str) -> None:
    assert readable_name(key) == name


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_name_is_one_safe_part_with_the_suffix_of_its_key(key: str) -> None:
    name = readable_name(key)

    assert 0 < len(name.encode()) <= 201
    assert PureWindowsPath(name).name == name == Path(name).name
    assert not name.endswith((".", " "))
    assert not any(character in '<>:"/\\|?*' or character < " " for character in name)
    assert readable_name(name) == name


@given(ENTRY_FIELDS, ENTRY_FIELDS)
def test_no_two_entries_share_a_folder_and_none_leaves_the_cache(
    first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    root = Path("/data/cache")
    one, two = CacheEntry(root, *first), CacheEntry(root, *second)

    assert (one.folder == two.folder) == (first == second)
    for entry in (one, two):
        assert Path(os.path.normpath(entry.path)) == entry.path
        assert entry.path.is_relative_to(root)
        assert len(entry.folder.relative_to(root).parts) == 3


@given(ENTRY_FIELDS, ENTRY_FIELDS)
def test_folders_of_two_entries_differ_in_more_than_case(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    assume(first != second)
    one, two = (CacheEntry(Path("/data/cache"), *fields).folder.name for fields in (first, second))

    assert one.casefold() != two.casefold()


def test_copies_of_two_endpoints_do_not_mix(s3: S3, local_data_dir: Path) -> None:
    s3.put("data/a.csv", b"here")
    here = S3ObjectTarget(s3.bucket, "data/a.csv")
    there = S3ObjectTarget(s3.bucket, "data/a.csv", endpoint_url=s3.endpoint_url.replace("127.0.0.1", "localhost"))
    at_amazon = S3ObjectTarget(s3.bucket, "data/a.csv", endpoint_url="https://s3.eu-west-1.amazonaws.com")
    paths = [target.local_path for target in (here, there, at_amazon)]

    assert len({*paths}) == 3
    assert here.download() != there.download()
    assert "aws" in paths[2].relative_to(local_data_dir).parts


def test_an_object_and_a_prefix_of_one_name_do_not_mix(s3: S3) -> None:
    s3.put("data", b"object")
    s3.put("data/a.csv", b"below")

    assert S3ObjectTarget(s3.bucket, "data").download().read_bytes() == b"object"
    assert (S3PrefixTarget(s3.bucket, "data").download() / "a.csv").read_bytes() == b"below"
    assert S3ObjectTarget(s3.bucket, "data").download().read_bytes() == b"object"


def test_copies_lie_below_the_data_directory(s3: S3, local_data_dir: Path) -> None:
    assert cache.default_root() == local_data_dir / "cache"
    assert S3ObjectTarget(s3.bucket, "a.csv").local_path.is_relative_to(cache.default_root())


def test_a_copy_on_another_file_system_than_the_staging_is_whole(s3: S3, tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system only")
    root = shm / f"superluigi-test-{os.getpid()}"
    try:
        target = S3PrefixTarget(s3.bucket, "data", local_root=root)
        with target.tmp_write_path() as path:
            (path / "a.csv").write_bytes(b"new")
        with recorded_requests() as log:
            content = (target.download() / "a.csv").read_bytes()
    finally:
        files.discard(root)

    assert content == b"new"
    assert log.of("GET", "a.csv") == []


# What the user asks of it


def filled(root: Path, *sizes: int) -> list[CacheEntry]:
    """Entries of these sizes, the first one the least recently used."""
    entries = [CacheEntry(root, "host", "bucket", "S3ObjectStore", f"{number}.csv") for number in range(len(sizes))]
    for number, (entry, size_bytes) in enumerate(zip(entries, sizes, strict=True)):
        with entry.reading("1", size_bytes, fetching(b"x" * size_bytes)):
            pass
        os.utime(entry.folder / "entry.json", (number, number))
    return entries


def test_usage_tells_what_lies_there_and_touches_nothing(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    before = cache.usage(root)
    filled(tmp_path / "cache", 3, 5)

    after = cache.usage(tmp_path / "cache")

    assert (before.copies, before.size_bytes, root.parent.exists()) == (0, 0, False)
    assert (after.copies, after.size_bytes, after.max_bytes) == (2, 8, 50 << 30)
    assert after.disk_free_bytes > 0


def test_pruning_removes_the_least_recently_used_until_it_is_small_enough(tmp_path: Path) -> None:
    entries = filled(tmp_path, 4, 3, 2)

    removal = cache.prune(tmp_path, 5)

    assert (removal.copies, removal.size_bytes, removal.kept_bytes, removal.in_use) == (1, 4, 5, 0)
    assert [entry.is_fresh("1") for entry in entries] == [False, True, True]
    assert cache.prune(tmp_path, 5).copies == 0


def test_clearing_removes_all_but_what_is_in_use(tmp_path: Path) -> None:
    first, second = filled(tmp_path, 4, 3)

    with first.reading("1", 4, fetching(b"")):
        removal = cache.clear(tmp_path)
        assert first.is_fresh("1")

    assert (removal.copies, removal.size_bytes, removal.kept_bytes, removal.in_use) == (1, 3, 4, 1)
    assert not second.folder.exists()
    assert cache.clear(tmp_path).kept_bytes == 0
    assert cache.usage(tmp_path).copies == 0


def test_clearing_takes_what_a_crash_has_left_half_made(tmp_path: Path) -> None:
    (entry,) = filled(tmp_path, 4)
    (entry.folder / "entry.json").unlink()

    assert cache.clear(tmp_path).copies == 1
    assert not entry.folder.exists()


def test_a_cache_that_is_not_there_is_cleared_without_making_it(tmp_path: Path) -> None:
    assert cache.clear(tmp_path / "none") == cache.Removal(0, 0, 0, 0)
    assert not (tmp_path / "none").exists()


def test_after_clearing_it_is_known_how_much_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 4, 3)
    cache.clear(tmp_path)
    monkeypatch.setenv("SUPERLUIGI_CACHE_MAX_BYTES", "7")
    (entry,) = filled(tmp_path, 6)

    assert entry.is_fresh("1")
    assert json.loads((tmp_path / "usage.json").read_text()) == {"bytes": 6}
