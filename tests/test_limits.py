"""What a full disk, a vanished folder, a huge file and read-only places do: clear errors, nothing half-published."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from permissions import binding_permissions

from superluigi import (
    AccessDeniedError,
    AtomicTaskWithMetadata,
    DiskFullError,
    External,
    LocalFileTarget,
    LocalFolderTarget,
    MissingOutputError,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    StorageError,
    TaskFailedError,
    run_task,
)

MEGABYTE = 1 << 20


class Copying(AtomicTaskWithMetadata):
    source = Parameter()
    destination = Parameter()

    def requires(self):
        return External(self.source)

    def output(self):
        return LocalFileTarget(self.destination)

    def run(self, input_path, output_path):
        output_path.write_bytes(input_path.read_bytes())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of eight megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can be mounted by root on Linux alone")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_disk_that_is_full_while_staging_leaves_the_old_output(small_disk, tmp_path):
    (tmp_path / "source.bin").write_bytes(b"x" * MEGABYTE)
    task = Copying(source=str(tmp_path / "source.bin"), destination=str(small_disk / "out.bin"))
    run_task(task)
    (tmp_path / "source.bin").write_bytes(b"y" * 10 * MEGABYTE)

    with pytest.raises(TaskFailedError) as failed:
        run_task(task, force=True)

    assert "No space left" in str(failed.value)
    assert set((small_disk / "out.bin").read_bytes()) == set(b"x")
    assert task.output().read_metadata()["output"]["size_bytes"] == MEGABYTE
    assert names_below(small_disk) == ["out.bin", "out.bin.metadata.json"]


def test_a_disk_that_is_full_while_inputs_are_copied_is_a_clear_error(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(small_disk / "data"))
    (tmp_path / "source.bin").write_bytes(b"x" * 10 * MEGABYTE)
    task = Copying(source=str(tmp_path / "source.bin"), destination=str(tmp_path / "out.bin"))

    with pytest.raises(TaskFailedError) as failed:
        run_task(task)

    assert isinstance(failed.value.__cause__, DiskFullError)
    assert "Free some space" in str(failed.value)
    assert not task.complete()
    assert list((small_disk / "data" / "tmp").iterdir()) == []


def test_where_the_data_directory_is_full_it_is_named_and_not_the_output(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(small_disk / "data"))
    (tmp_path / "source.bin").touch()
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "filling").write_bytes(b"x" * 10 * MEGABYTE)
    task = Copying(source=str(tmp_path / "source.bin"), destination=str(tmp_path / "out.bin"))

    with pytest.raises(TaskFailedError) as failed:
        run_task(task)

    assert isinstance(failed.value.__cause__, DiskFullError)
    assert failed.value.__cause__.address.startswith(str(small_disk / "data"))
    assert "the setting local_data_dir names another place" in str(failed.value)


def test_older_copies_are_given_up_before_a_full_disk_is_an_error(small_disk, s3, monkeypatch):
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(small_disk / "data"))
    for name in "abcd":  # together they are larger than the disk
        s3.put(f"{name}.bin", name.encode() * 3 * MEGABYTE)
    targets = {name: S3ObjectTarget(s3.bucket, f"{name}.bin") for name in "abcd"}

    for name, target in targets.items():
        assert set(target.download().read_bytes()) == set(name.encode())

    assert not targets["a"].local_path.exists()


def test_a_run_that_fills_the_disk_fails_and_gives_up_the_copies_so_that_the_next_succeeds(small_disk, s3, monkeypatch):
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(small_disk / "data"))
    for name in "ab":
        s3.put(f"{name}.bin", name.encode() * 3 * MEGABYTE)
        S3ObjectTarget(s3.bucket, f"{name}.bin").download()

    class Making(AtomicTaskWithMetadata):
        def output(self):
            return S3ObjectTarget(s3.bucket, "made.bin")

        def run(self, output_path):
            output_path.write_bytes(b"x" * 3 * MEGABYTE)

    with pytest.raises(OSError, match="No space left"):
        run_task(Making(), raise_exception=True)
    assert not Making().complete()

    run_task(Making())

    assert Making().complete()


class Filling(AtomicTaskWithMetadata):
    address = Parameter()
    scratch = Parameter(default="")

    def output(self):
        if self.address.startswith("s3://"):
            return S3ObjectTarget(*self.address.removeprefix("s3://").split("/"))
        return LocalFileTarget(self.address)

    def run(self, output_path):
        (Path(self.scratch) / "made.bin" if self.scratch else output_path).write_bytes(b"x" * 10 * MEGABYTE)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_run_that_fills_the_data_directory_is_told_so_and_what_to_do(num_workers, small_disk, s3, monkeypatch):
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(small_disk / "data"))

    with pytest.raises(TaskFailedError) as failed:
        run_task(Filling(address=f"s3://{s3.bucket}/made.bin"), num_workers=num_workers)

    (failure,) = failed.value.failures
    said, advice = failure.reason.split("\n")
    assert said.startswith("OSError: [Errno 28]")
    assert f"{small_disk / 'data'} is full" in advice
    assert "superluigi cache clear" in advice
    assert "local_data_dir" in advice
    assert not [name for name in names_below(small_disk) if name.endswith((".bin", ".partial"))]


def test_a_run_that_fills_the_disk_of_its_output_is_told_which(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(tmp_path / "data"))

    with pytest.raises(TaskFailedError, match=f"{small_disk} is full.*let output\\(\\) name") as failed:
        run_task(Filling(address=str(small_disk / "made.bin")))

    assert "local_data_dir" not in str(failed.value)
    assert names_below(small_disk) == []


def test_a_run_that_fills_a_disk_of_its_own_choice_is_told_nothing_of_others(small_disk, tmp_path):
    with pytest.raises(TaskFailedError, match="No space left") as failed:
        run_task(Filling(address=str(tmp_path / "made.bin"), scratch=str(small_disk)))

    assert "is full" not in str(failed.value)


def test_an_object_larger_than_the_disk_is_a_clear_error(small_disk, s3, monkeypatch):
    s3.put("large.bin", b"x" * 10 * MEGABYTE)
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(small_disk / "data"))

    with pytest.raises(DiskFullError, match="local_data_dir"):
        S3ObjectTarget(s3.bucket, "large.bin").download()

    assert not [name for name in names_below(small_disk) if name.endswith(".bin")]


def test_a_folder_that_may_not_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "source.txt").write_text("x")
    (tmp_path / "locked").mkdir(mode=0o555)
    task = Copying(source=str(tmp_path / "source.txt"), destination=str(tmp_path / "locked" / "out.txt"))

    with binding_permissions(), pytest.raises(TaskFailedError) as failed:
        run_task(task)

    assert isinstance(failed.value.__cause__, AccessDeniedError)
    assert "See that you may write there" in str(failed.value)


class Sabotage(AtomicTaskWithMetadata):
    """Removes the folder that it was given to write in."""

    place = Parameter()

    def output(self):
        return LocalFileTarget(Path(self.place) / "deep" / "out.txt")

    def run(self, output_path):
        import shutil

        output_path.write_text("x")
        shutil.rmtree(output_path.parent.parent)


def test_a_staging_folder_that_is_removed_meanwhile_is_a_clear_error(tmp_path):
    task = Sabotage(place=str(tmp_path))

    with pytest.raises(TaskFailedError) as failed:
        run_task(task)

    assert isinstance(failed.value.__cause__, MissingOutputError)
    assert not task.complete()


def test_a_destination_whose_folder_vanishes_while_publishing_is_a_clear_error(tmp_path):
    target = LocalFileTarget(tmp_path / "deep" / "out.txt")

    with pytest.raises((StorageError, MissingOutputError)), target.tmp_write_path() as path:
        path.write_text("x")
        os.rename(tmp_path / "deep", tmp_path / "elsewhere")

    assert not target.exists()


PASS_THROUGH = """
import os, resource, sys

from superluigi import LocalFileTarget, S3ObjectTarget

large, place = sys.argv[1:]
make = LocalFileTarget if place == "local" else lambda name: S3ObjectTarget("large", name)
for name in ("small", "large"):
    target = make(f"{name}.bin")
    with target.tmp_write_path() as path:
        if name == "small":
            path.write_bytes(b"x" * 10)
        else:
            os.rename(large, path)
    if place == "s3":
        target.store.entry().forget()
    with target.tmp_read_path() as path:
        print(path.stat().st_size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

# The server is a process of its own: what it keeps would otherwise burden all tests that come after.
SERVE = """
import json, os, sys

from superluigi.testing import embedded_s3

with embedded_s3("large"):
    print(json.dumps({name: value for name, value in os.environ.items() if name.startswith("AWS_")}), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_large_file_passes_through_in_little_memory(place, tmp_path):
    size_bytes = 300 * MEGABYTE
    with open(tmp_path / "large.bin.new", "wb") as file:
        file.truncate(size_bytes)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVE], **pipes) as server:
        environment = {**os.environ, **json.loads(server.stdout.readline())}

        done = subprocess.run(
            [sys.executable, "-c", PASS_THROUGH, str(tmp_path / "large.bin.new"), place],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=tmp_path,
            env=environment,
        )

        server.stdin.close()
    (_, before_kib), (found, after_kib) = [map(int, line.split()) for line in done.stdout.splitlines()]
    assert found == size_bytes
    assert (after_kib - before_kib) * 1024 < 200 * MEGABYTE


@pytest.mark.parametrize("kind", ["object", "prefix"])
def test_upload_options_hold_for_data_and_record(kind, s3):
    options = {"StorageClass": "STANDARD_IA", "ServerSideEncryption": "AES256", "Tagging": "team=a"}
    target = (
        S3ObjectTarget(s3.bucket, "data.txt", upload_options=options)
        if kind == "object"
        else S3PrefixTarget(s3.bucket, "data", upload_options=options)
    )

    class Making(AtomicTaskWithMetadata):
        def output(self):
            return target

        def run(self, output_path):
            (output_path if kind == "object" else output_path / "a.txt").write_text("x")

    run_task(Making())

    client = s3.client()
    for key in ("data.txt", "data.txt.metadata.json") if kind == "object" else ("data/a.txt", "data.metadata.json"):
        answer = client.head_object(Bucket=s3.bucket, Key=key)
        assert (answer["StorageClass"], answer["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")
        assert client.get_object_tagging(Bucket=s3.bucket, Key=key)["TagSet"] == [{"Key": "team", "Value": "a"}]


def test_an_upload_option_that_boto3_does_not_know_is_refused_before_the_task_runs(bucket, tmp_path):
    class Making(AtomicTaskWithMetadata):
        def output(self):
            return S3ObjectTarget(bucket, "data.txt", upload_options={"StorageKlass": "STANDARD_IA"})

        def run(self, output_path):
            (tmp_path / "ran").touch()
            output_path.write_text("x")

    with pytest.raises(TaskFailedError, match=r"'StorageKlass', which boto3 does not know.*StorageClass"):
        run_task(Making())

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_linked_inputs_share_the_bytes_of_the_source(kind, tmp_path):
    source = tmp_path / "source"
    if kind == "folder":
        (source / "sub").mkdir(parents=True)
        (source / "sub" / "a.txt").write_text("x")
    else:
        source.write_text("x")
    target = LocalFolderTarget(source) if kind == "folder" else LocalFileTarget(source)
    seen = []

    class Reading(AtomicTaskWithMetadata):
        def requires(self):
            return External(f"{source}/" if kind == "folder" else str(source))

        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        def run(self, input_path, output_path):
            file = input_path / "sub" / "a.txt" if kind == "folder" else input_path
            seen.append(os.stat(file).st_ino)
            output_path.write_text(file.read_text())

    run_task(Reading(), config={"superluigi": {"input_mode": "link"}})

    assert seen == [os.stat(source / "sub" / "a.txt" if kind == "folder" else source).st_ino]
    assert target.exists()
