"""What a network that misbehaves does to a run: each fault, on each operation, passing and staying."""

import math
import sys

import boto3
import pytest
from botocore.config import Config
from botocore.retries.standard import ExponentialBackoff
from fault_proxy import fault_proxy

from superluigi import (
    AccessDeniedError,
    AtomicTaskWithMetadata,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    StorageError,
    StoreUnavailableError,
    TaskFailedError,
    run_task,
)

PASSING = ["500", "503", "reset", "stall", "truncated body"]
OBJECT_OPERATIONS = ["HeadObject", "GetObject", "PutObject", "RecordPutObject"]
PREFIX_OPERATIONS = ["ListObjectsV2", "GetObject", "PutObject", "RecordPutObject", "DeleteObjects"]
QUICK = Config(read_timeout=0.5, connect_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})

content = "old"


class Stage(AtomicTaskWithMetadata):
    bucket = Parameter()
    kind = Parameter()

    def output(self):
        name = type(self).__name__.lower()
        if self.kind == "object":
            return S3ObjectTarget(self.bucket, f"{name}.txt", config=QUICK)
        return S3PrefixTarget(self.bucket, name, config=QUICK)

    def run(self, input_path, output_path, metadata):
        metadata["content"] = content
        if self.kind == "object":
            output_path.write_text(content * 100)
        else:
            for name in ("a.txt", f"only-{content}.txt"):
                (output_path / name).write_text(content * 100)


class Source(Stage):
    pass


class Sink(Stage):
    def requires(self):
        return self.clone(Source)


@pytest.fixture(autouse=True)
def no_waiting_before_a_retry(monkeypatch):
    """Botocore tries as often as ever, but at once: else it waits up to a second each time."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0)


@pytest.fixture
def proxy(s3_server, bucket, monkeypatch):  # after `bucket`, which points the environment at the server itself
    with fault_proxy(s3_server.endpoint_url) as started:
        monkeypatch.setenv("AWS_ENDPOINT_URL", started.endpoint_url)
        yield started


def read(target):
    with target.tmp_read_path() as path:
        return (path / "a.txt" if path.is_dir() else path).read_text()


CASES = [("object", operation) for operation in OBJECT_OPERATIONS]
CASES += [("prefix", operation) for operation in PREFIX_OPERATIONS]


@pytest.mark.parametrize(("kind", "operation"), CASES, ids=lambda value: value)
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_tried_again_and_the_run_succeeds(fault, kind, operation, proxy, bucket, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "content", "old")
    task = Sink(bucket=bucket, kind=kind)
    run_task(task)
    task.requires().output().store.entry().forget()  # so that it is downloaded again
    monkeypatch.setattr(sys.modules[__name__], "content", "new")
    proxy.misbehave(fault, operation, times=1)

    run_task(task, force=True)

    assert proxy.times == 0, "the fault never came up"
    assert read(task.output()) == "new" * 100
    assert task.output().read_metadata()["content"] == "new"


STAYING = [(fault, *case) for fault in ("500", "reset", "403") for case in CASES]
STAYING += [("stall", "object", "PutObject"), ("stall", "prefix", "GetObject")]


@pytest.mark.parametrize(("fault", "kind", "operation"), STAYING, ids=lambda value: value)
def test_a_fault_that_stays_is_an_error_and_the_old_output_remains(fault, kind, operation, proxy, bucket, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "content", "old")
    task = Source(bucket=bucket, kind=kind)
    run_task(task)
    task.output().store.entry().forget()
    monkeypatch.setattr(sys.modules[__name__], "content", "new")
    proxy.misbehave(fault, operation, times=math.inf)

    if operation == "GetObject":  # a task without inputs reads nothing
        with pytest.raises(StorageError) as caught:
            task.output().download()
        error = caught.value
    else:
        with pytest.raises(TaskFailedError) as failed:
            run_task(task, force=True)
        error = failed.value.__cause__
    proxy.behave()

    assert isinstance(error, AccessDeniedError if fault == "403" else StoreUnavailableError)
    assert bucket in str(error)
    assert error.operation == operation.removeprefix("Record")
    assert error.tries == (1 if fault == "403" else 2)
    assert "R42" in str(error) or fault in ("reset", "stall")
    if kind == "object" or operation == "GetObject":
        assert read(task.output()) == "old" * 100
        assert task.output().read_metadata()["content"] == "old"
    elif task.output().exists():
        assert read(task.output()) == task.output().read_metadata()["content"] * 100
    run_task(task)
    assert task.complete()
    assert read(task.output()) == task.output().read_metadata()["content"] * 100


@pytest.mark.parametrize("kind", ["object", "prefix"])
def test_wrong_bytes_are_downloaded_again_and_never_served(kind, proxy, bucket, monkeypatch):
    task = Source(bucket=bucket, kind=kind)
    run_task(task)
    task.output().store.entry().forget()
    proxy.misbehave("wrong bytes", "GetObject", times=1)

    assert read(task.output()) == content * 100

    task.output().store.entry().forget()
    proxy.misbehave("wrong bytes", "GetObject", times=math.inf)
    with pytest.raises(StorageError, match="other bytes arrive"):
        task.output().download()
    assert not task.output().local_path.exists()


@pytest.mark.parametrize("kind", ["object", "prefix"])
def test_an_object_that_vanishes_while_it_is_read_is_a_clear_error(kind, proxy, bucket):
    task = Source(bucket=bucket, kind=kind)
    run_task(task)
    task.output().store.entry().forget()
    proxy.misbehave("404", "GetObject", times=math.inf)

    with pytest.raises((StorageError, FileNotFoundError), match=bucket):
        task.output().download()


def test_a_multipart_upload_that_fails_is_aborted(proxy, bucket, tmp_path):
    target = S3ObjectTarget(bucket, "large.bin", config=QUICK)
    proxy.misbehave("500", "UploadPart", times=math.inf)

    with pytest.raises(StoreUnavailableError), target.tmp_write_path() as path:
        path.write_bytes(b"x" * (9 << 20))
    proxy.behave()

    assert not target.exists()
    assert "AbortMultipartUpload" in [operation for operation, _ in proxy.log]
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)


def test_a_part_that_fails_once_is_sent_again(proxy, bucket):
    target = S3ObjectTarget(bucket, "large.bin", config=QUICK)
    proxy.misbehave("reset", "UploadPart", times=1)

    with target.tmp_write_path() as path:
        path.write_bytes(b"x" * (9 << 20))

    assert proxy.times == 0
    assert target.download().stat().st_size == 9 << 20
