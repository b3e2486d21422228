"""Many objects at a time: how many requests there are, how many at once, what a failure leaves; with both engines."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import boto3
import moto
import pytest
from botocore.config import Config
from botocore.retries.standard import ExponentialBackoff
from fault_proxy import FaultProxy, fault_proxy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.s3.models import s3_backends
from server_log import recorded_requests

from superluigi import (
    AccessDeniedError,
    BucketNotFoundError,
    S3PrefixTarget,
    StoreUnavailableError,
    TargetNotFoundError,
    config,
)
from superluigi.storage import existence, fast, transfers
from superluigi.storage.concurrency import run_all
from superluigi.storage.s3 import PART_BYTES, Bucket, ObjectFacts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import S3

    from superluigi.storage.existence import Page

TIMEOUT_S = 60
MANY = 40
QUICK = Config(read_timeout=5, connect_timeout=2, retries={"mode": "standard", "total_max_attempts": 2})


@pytest.fixture(autouse=True)
def no_waiting_before_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Botocore tries as often as ever, but at once: else it waits up to a second each time."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0)


@pytest.fixture(params=["boto3", "obstore"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the engine that serves many small objects in this test."""
    if request.param == "boto3":
        monkeypatch.setitem(sys.modules, "obstore", None)
    else:
        pytest.importorskip("obstore", reason="the extra `fast` is not installed")
    return request.param


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(s3.endpoint_url) as started:
        monkeypatch.setenv("AWS_ENDPOINT_URL", started.endpoint_url)
        yield started


def made(folder: Path, count: int, *, size_bytes: int = 10) -> dict[str, Path]:
    """New files, by the keys that they are to have."""
    folder.mkdir()
    paths = {f"data/{number:04}": folder / f"{number:04}" for number in range(count)}
    for key, path in paths.items():
        path.write_bytes(key.encode() * (size_bytes // len(key) + 1))
    return paths


def destinations(bucket: Bucket, folder: Path) -> list[tuple[ObjectFacts, Path]]:
    folder.mkdir()
    return [(item, folder / item.key.removeprefix("data/")) for item in bucket.listing("data/")]


def fill(s3: S3, keys: list[str]) -> None:
    for key in keys:
        s3_backends["123456789012"]["aws"].put_object(s3.bucket, key, b"")


def no_threads_of_ours() -> bool:
    return not [thread.name for thread in threading.enumerate() if thread.name.startswith(("superluigi", "ThreadPool"))]


# Both engines


def test_what_goes_up_comes_down_again(engine: str, s3: S3, tmp_path: Path) -> None:
    ours = Bucket(s3.bucket)
    paths = made(tmp_path / "up", MANY)
    (tmp_path / "up" / "empty").touch()
    paths["data/empty"] = tmp_path / "up" / "empty"
    paths["data/a b%20c+é&?#😀"] = paths["data/0000"]
    etags = transfers.upload(ours, paths, {"Metadata": {"superluigi-digest": "sha256:1"}, "ContentType": "text/plain"})
    wanted = destinations(ours, tmp_path / "down")
    head = s3.client().head_object(Bucket=s3.bucket, Key="data/0001")

    assert transfers.download(ours, wanted)
    assert {item.key: path.read_bytes() for item, path in wanted} == {
        key: path.read_bytes() for key, path in paths.items()
    }
    assert etags == {item.key: item.etag for item, _ in wanted}
    assert (head["Metadata"], head["ContentType"]) == ({"superluigi-digest": "sha256:1"}, "text/plain")
    assert no_threads_of_ours()


def test_many_small_objects_are_the_engine_s(engine: str, s3: S3, tmp_path: Path) -> None:
    ours = Bucket(s3.bucket, client_options={"config": Config(read_timeout=29)})
    asked: list[str] = []
    for operation in ("PutObject", "GetObject"):
        ours.client().meta.events.register(f"before-call.s3.{operation}", lambda model, **_: asked.append(model.name))
    transfers.upload(ours, made(tmp_path / "up", MANY), {})
    transfers.download(ours, destinations(ours, tmp_path / "down"))

    assert len(asked) == (2 * MANY if engine == "boto3" else 0)


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_so_many_requests_are_under_way_at_once_and_no_more(
    engine: str, proxy: FaultProxy, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    ours = Bucket(s3.bucket)
    paths = made(tmp_path / "up", MANY)
    peaks = []
    monkeypatch.setenv("SUPERLUIGI_MAX_CONCURRENCY", str(limit))
    proxy.gathers = limit
    transfers.upload(ours, paths, {})
    peaks.append(proxy.at_once)
    proxy.gathers = 0
    wanted = destinations(ours, tmp_path / "down")
    proxy.at_once, proxy.gathers = 0, limit
    transfers.download(ours, wanted)
    peaks.append(proxy.at_once)

    assert peaks == [limit, limit]


def test_parts_are_bounded_too(proxy: FaultProxy, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERLUIGI_MAX_CONCURRENCY", "3")
    ours = Bucket(s3.bucket)
    paths = made(tmp_path / "up", 3, size_bytes=2 * PART_BYTES)
    etags = transfers.upload(ours, paths, {})
    wanted = destinations(ours, tmp_path / "down")

    assert transfers.download(ours, wanted)
    assert all(path.read_bytes() == paths[item.key].read_bytes() for item, path in wanted)
    assert etags == {item.key: item.etag for item, _ in wanted}
    assert 1 < proxy.at_once <= 3
    assert no_threads_of_ours()


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated body"])
def test_a_fault_that_passes_is_tried_again(engine: str, proxy: FaultProxy, s3: S3, tmp_path: Path, fault: str) -> None:
    ours = Bucket(s3.bucket, client_options={"config": QUICK})
    proxy.misbehave(fault, "PutObject", times=1)
    paths = made(tmp_path / "up", MANY)
    transfers.upload(ours, paths, {})
    wanted = destinations(ours, tmp_path / "down")
    proxy.misbehave(fault, "GetObject", times=1)

    assert transfers.download(ours, wanted)
    assert proxy.times == 0
    assert all(path.read_bytes() == paths[item.key].read_bytes() for item, path in wanted)


@pytest.mark.parametrize(
    ("fault", "error_cls"),
    [("500", StoreUnavailableError), ("reset", StoreUnavailableError), ("403", AccessDeniedError)],
    ids=["500", "reset", "403"],
)
def test_a_fault_that_stays_is_the_error_of_one_object_and_stops_the_rest(
    engine: str, proxy: FaultProxy, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, error_cls: Any
) -> None:
    monkeypatch.setenv("SUPERLUIGI_MAX_CONCURRENCY", "2")
    once = Config(read_timeout=5, retries={"total_max_attempts": 1})
    ours = Bucket(s3.bucket, client_options={"config": once})
    proxy.misbehave(fault, "PutObject", times=math.inf)
    with pytest.raises(error_cls, match=rf"s3://{s3.bucket}/data/00") as caught:
        transfers.upload(ours, made(tmp_path / "up", MANY), {})

    assert caught.value.operation == "PutObject"
    assert len(proxy.log) <= 8
    assert s3.keys() == []
    assert no_threads_of_ours()


def test_an_object_that_is_gone_is_not_found_by_its_name(engine: str, s3: S3, tmp_path: Path) -> None:
    ours = Bucket(s3.bucket)
    transfers.upload(ours, made(tmp_path / "up", MANY), {})
    wanted = destinations(ours, tmp_path / "down")
    s3.client().delete_object(Bucket=s3.bucket, Key="data/0007")

    with pytest.raises(TargetNotFoundError, match=f"s3://{s3.bucket}/data/0007"):
        transfers.download(ours, wanted)


def test_bytes_that_arrive_wrong_are_not_kept(engine: str, proxy: FaultProxy, s3: S3, tmp_path: Path) -> None:
    ours = Bucket(s3.bucket)
    transfers.upload(ours, made(tmp_path / "up", MANY), {})
    wanted = destinations(ours, tmp_path / "down")
    proxy.misbehave("wrong bytes", "GetObject", times=math.inf)

    assert not transfers.download(ours, wanted)
    assert list((tmp_path / "down").iterdir()) == []


def test_a_bucket_that_is_missing_is_told(engine: str, s3: S3, tmp_path: Path) -> None:
    with pytest.raises(BucketNotFoundError):
        transfers.upload(Bucket("no-such-bucket-anywhere"), made(tmp_path / "up", MANY), {})


def test_a_prefix_is_the_same_whichever_engine_wrote_it(engine: str, s3: S3, tmp_path: Path) -> None:
    target = S3PrefixTarget(s3.bucket, "data")
    for _ in range(2):
        with recorded_requests() as log, target.tmp_write_path() as path:
            made(path / "below", MANY)

    assert len(log.of("PUT")) == 1  # the marker alone: nothing has changed
    assert len(list((target.download(force_local_download=True) / "below").iterdir())) == MANY


def test_a_role_is_assumed_for_all_objects_at_once(engine: str, s3: S3, tmp_path: Path) -> None:
    ours = Bucket(s3.bucket, f"arn:aws:iam::123456789012:role/{engine}")
    with recorded_requests() as log:
        transfers.upload(ours, made(tmp_path / "up", MANY), {})

    assert log.of("POST", "/") == ["/"]
    assert len(s3.keys()) == MANY


def transferred_in_a_child(bucket: Bucket, paths: dict[str, Path], sent: Any) -> None:
    sent.put(len(transfers.upload(bucket, paths, {})))


def test_a_fork_transfers_as_well(engine: str, s3: S3, tmp_path: Path) -> None:
    ours = Bucket(s3.bucket)
    paths = made(tmp_path / "up", MANY)
    transfers.upload(ours, paths, {})
    context = multiprocessing.get_context("fork")
    sent = context.Queue()
    process = context.Process(target=transferred_in_a_child, args=(ours, paths, sent))
    process.start()

    assert sent.get(timeout=TIMEOUT_S) == MANY
    process.join(TIMEOUT_S)


# Where boto3 has to serve


@pytest.mark.parametrize(
    ("options", "upload_options"),
    [
        ({"verify": False}, {}),
        ({"config": Config(user_agent_extra="mine")}, {}),
        ({"config": Config(proxies={"http": "http://127.0.0.1:1"})}, {}),
        ({"config": Config(s3={"use_accelerate_endpoint": True})}, {}),
        ({}, {"ServerSideEncryption": "aws:kms"}),
        ({}, {"Tagging": "team=blue"}),
        ({}, {"Metadata": {"content-type": "mine"}}),
    ],
    ids=["verify", "user-agent", "proxies", "accelerate", "encryption", "tagging", "metadata"],
)
def test_what_obstore_cannot_honour_is_boto3_s(bucket: str, options: Any, upload_options: Any) -> None:
    assert fast.engine(Bucket(bucket, client_options=options), upload_options) is None


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", "a/../b", "./a", "tab\t"], ids=repr)
def test_a_key_that_obstore_would_change_is_boto3_s(bucket: str, key: str) -> None:
    pytest.importorskip("obstore", reason="the extra `fast` is not installed")

    assert not fast.engine(Bucket(bucket), {}).is_for(key)


def test_inside_moto_s_mocks_nothing_goes_to_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="mocked")
        ours = Bucket("mocked")
        transfers.upload(ours, made(tmp_path / "up", MANY), {})

        assert fast.engine(ours, {}) is None
        assert transfers.download(ours, destinations(ours, tmp_path / "down"))
        assert len(ours.present([f"data/{number:04}" for number in range(100)])) == MANY


def test_the_address_that_obstore_asks_is_boto3_s(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="the extra `fast` is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    found = []
    for options in (
        {},
        {"endpoint_url": "http://127.0.0.1:9000"},
        {"endpoint_url": "http://minio.example.org/below", "config": Config(s3={"addressing_style": "path"})},
        {"endpoint_url": "https://minio.example.org", "config": Config(s3={"addressing_style": "virtual"})},
    ):
        ours = Bucket("shops", client_options=options)
        found.append(fast._address(ours, ours.client()))

    assert found == [
        ("https://s3.eu-west-1.amazonaws.com", False),
        ("http://127.0.0.1:9000", False),
        ("http://minio.example.org/below", False),
        ("https://shops.minio.example.org", True),
    ]


# Many calls


def test_calls_that_calls_give_back_are_made_too() -> None:
    made_calls: list[int] = []

    def call(depth: int) -> list[Any]:
        made_calls.append(depth)
        return [lambda: call(depth - 1)] * 2 if depth else []

    run_all([lambda: call(5)] * 3, max_concurrency=4)

    assert len(made_calls) == 3 * 63
    assert no_threads_of_ours()


def test_calls_see_the_configuration_of_the_caller() -> None:
    seen: list[int] = []
    with config.applied({"superluigi": {"max_concurrency": 5}}, None):
        run_all([lambda: seen.append(config.max_concurrency())] * 8, max_concurrency=3)

    assert seen == [5] * 8


def test_an_interrupt_at_the_moment_when_a_lock_is_taken_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(work: Any) -> None:
        work.changed.acquire()  # and before the block begins that would give it back:
        raise KeyboardInterrupt

    monkeypatch.setattr("superluigi.storage.concurrency._Work.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all([lambda: None] * 100_000, max_concurrency=2)

    assert no_threads_of_ours()


def test_an_interrupt_stops_what_has_not_begun_and_leaves_no_thread() -> None:
    begun: list[int] = []
    is_interrupted = threading.Event()

    def call() -> None:
        begun.append(1)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            is_interrupted.set()
        is_interrupted.wait(TIMEOUT_S)

    with pytest.raises(KeyboardInterrupt):
        run_all([call] * 100_000, max_concurrency=2)

    assert no_threads_of_ours()


# Which are there


PREFIX_KEYS = [f"data/{number:05}.csv" for number in range(10_000)]


@pytest.mark.parametrize(("step", "requests"), [(0, 1), (2, 60), (1, 60)], ids=["none", "half", "all"])
def test_ten_thousand_keys_under_one_prefix_take_few_requests(s3: S3, step: int, requests: int) -> None:
    there = PREFIX_KEYS[::step] if step else []
    fill(s3, [*there, "data", "datum", "other"])
    with recorded_requests() as log:
        found = Bucket(s3.bucket).present(PREFIX_KEYS)

    assert found == set(there)
    assert len(log.requests) <= requests
    Bucket(s3.bucket).delete([*there, "data", "datum", "other"])


def test_keys_in_several_prefixes_jump_over_what_lies_between(s3: S3) -> None:
    keys = [f"{folder}/{number:03}.csv" for folder in ("a", "m", "z") for number in range(300)]
    between = [f"{folder}/{number:04}" for folder in ("b", "n") for number in range(3000)]
    fill(s3, [*keys[::3], *between])
    with recorded_requests() as log:
        found = Bucket(s3.bucket).present(keys)

    assert found == set(keys[::3])
    assert len(log.requests) <= 4
    Bucket(s3.bucket).delete([*keys, *between])


def test_a_listing_that_answers_little_is_given_up(s3: S3) -> None:
    keys = [f"{number * 7919 % 100_003:05}-wanted" for number in range(400)]
    others = [f"{number:05}-{letter}" for number in range(0, 100_000, 20) for letter in "ab"]
    fill(s3, [*keys[:100], *others])
    with recorded_requests() as log:
        found = Bucket(s3.bucket).present(keys)

    assert found == set(keys[:100])
    assert len(log.of("GET")) <= 12
    assert len(log.requests) <= len(keys) + 13
    Bucket(s3.bucket).delete([*keys, *others])


def test_few_keys_are_asked_one_by_one(s3: S3) -> None:
    fill(s3, ["a", "b"])
    with recorded_requests() as log:
        found = Bucket(s3.bucket).present(["a", "b", "c"])
        nothing = Bucket(s3.bucket).present([])

    assert (found, nothing) == ({"a", "b"}, set())
    assert {method for method, _ in log.requests} == {"HEAD"}


class Unordered:
    """A directory bucket of S3 Express, which the embedded server does not have: its listings have no order."""

    name = "ours--use1-az4--x-s3"

    def ask(self, key: str) -> bool | None:
        return True if int(key) % 2 else None

    def page(self, prefix: str, start_after: str) -> Page[bool]:
        pytest.fail(f"a listing of {prefix!r} after {start_after!r} was asked for")


def test_a_directory_bucket_is_not_listed() -> None:
    keys = [f"{number:04}" for number in range(100)]

    assert set(existence.find(Unordered(), keys, max_concurrency=4)) == set(keys[1::2])


def test_heads_are_made_at_once_and_bounded(proxy: FaultProxy, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERLUIGI_MAX_CONCURRENCY", "6")
    ours = Bucket(s3.bucket)
    ours.head("absent")
    proxy.gathers = 6
    ours.present([f"{number}" for number in range(6)])

    assert proxy.at_once == 6


def test_without_the_permission_to_list_every_key_is_asked_for(proxy: FaultProxy, s3: S3) -> None:
    fill(s3, PREFIX_KEYS[:30])
    proxy.misbehave("403", "ListObjectsV2", times=math.inf)
    found = Bucket(s3.bucket).present(PREFIX_KEYS[:100])

    assert found == set(PREFIX_KEYS[:30])
    assert [operation for operation, _ in proxy.log].count("ListObjectsV2") == 1


@pytest.mark.parametrize("count", [3, 100])
def test_present_in_a_bucket_that_is_missing_is_an_error(s3: S3, count: int) -> None:
    with pytest.raises(BucketNotFoundError):
        Bucket("no-such-bucket-anywhere").present(PREFIX_KEYS[:count])


def test_an_error_while_asking_is_the_error(proxy: FaultProxy, s3: S3) -> None:
    proxy.misbehave("500", "HeadObject", times=math.inf)
    with pytest.raises(StoreUnavailableError):
        Bucket(s3.bucket, client_options={"config": QUICK}).present(["a", "b", "c"])

    assert no_threads_of_ours()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.text("aZ/é ._-%+&<😀\ue000\uffee", min_size=1, max_size=5), max_size=25),
    st.sets(st.text("aZ/é ._-%+&<😀\ue000\uffee", min_size=1, max_size=5), max_size=25),
)
def test_present_is_the_intersection_whatever_the_keys(s3: S3, there: set[str], asked: set[str]) -> None:
    fill(s3, [f"p{key}" for key in there])
    with config.applied({"superluigi": {"max_concurrency": 1}}, None):  # so that two keys are enough for a listing
        found = Bucket(s3.bucket).present([f"p{key}" for key in asked | set(list(there)[:3])])
    Bucket(s3.bucket).delete(f"p{key}" for key in there)

    assert found == {f"p{key}" for key in there & (asked | set(list(there)[:3]))}
