"""S3: who asks, what is asked, what the errors mean, and what S3 targets do beyond the contract."""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import pickle
import socket
import string
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3.exceptions
import botocore.credentials
import botocore.exceptions
import botocore.parsers
import pytest
import s3transfer.exceptions
from botocore.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.s3.models import s3_backends
from server_log import recorded_requests

from superluigi import (
    AccessDeniedError,
    BucketNotFoundError,
    ConfigError,
    CredentialsError,
    InvalidNameError,
    LocalFileTarget,
    S3ObjectTarget,
    S3PrefixTarget,
    StorageError,
    StoreUnavailableError,
    TargetNotFoundError,
)
from superluigi.storage import s3 as storage_s3
from superluigi.storage import s3_errors, transfers
from superluigi.storage.s3 import MULTIPART_THRESHOLD_BYTES, PART_BYTES, Bucket, ObjectFacts, etag_of
from superluigi.targets.publishing import StagedOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import S3

TIMEOUT_S = 60
ROLE_ARN = "arn:aws:iam::123456789012:role/reader"
ONE_TRY = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=1)


def write(target: Any, content: dict[str, bytes]) -> None:
    with target.tmp_write_path() as path:
        for name, data in content.items():
            (path / name if name else path).write_bytes(data)


def access_key(bucket: Bucket) -> str:
    return bucket.client()._request_signer._credentials.get_frozen_credentials().access_key


# Who asks


def test_all_buckets_with_the_same_settings_share_a_client(bucket: str) -> None:
    clients = {id(Bucket(name).client()) for name in (bucket, "another", "third")}

    assert len(clients) == 1


def test_targets_do_not_make_a_client_each(s3: S3) -> None:
    s3.put("a.csv")
    before = len(storage_s3._clients)
    for number in range(5):
        S3ObjectTarget(s3.bucket, f"{number}.csv").exists()
        S3PrefixTarget(s3.bucket, f"{number}", metadata_bucket="other").exists()

    assert len(storage_s3._clients) <= before + 1


def test_credentials_that_are_renewed_again_and_again_leave_few_clients(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("a.csv")
    for hour in range(40):
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"of-hour-{hour}")
        assert Bucket(s3.bucket).has("a.csv")

    assert len(storage_s3._clients) == len(storage_s3._sessions) == 32
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-hour-0")
    assert Bucket(s3.bucket).has("a.csv")  # one that was let go is made again


def test_threads_that_ask_at_once_get_one_client(bucket: str) -> None:
    ours = Bucket(bucket, client_options={"region_name": "eu-west-3"})
    barrier = threading.Barrier(4)
    clients: list[Any] = []

    def asking() -> None:
        barrier.wait(TIMEOUT_S)
        clients.append(ours.client())

    threads = [threading.Thread(target=asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(clients) == 4
    assert len({id(client) for client in clients}) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"region_name": "eu-central-1"},
        {"endpoint_url": "http://localhost:1"},
        {"config": Config(max_pool_connections=7)},
        {"config": Config(retries={"total_max_attempts": 1})},
        {"use_ssl": False},
    ],
    ids=["region", "endpoint", "connections", "retries", "ssl"],
)
def test_other_options_give_another_client_and_equal_ones_the_same(bucket: str, options: dict[str, Any]) -> None:
    plain, first, second = (Bucket(bucket, client_options=given).client() for given in ({}, options, dict(options)))

    assert first is second
    assert first is not plain


def test_options_that_are_equal_but_not_the_same_objects_share_a_client(bucket: str) -> None:
    first, second = (
        Bucket(bucket, client_options={"config": Config(max_pool_connections=9), "region_name": "eu-west-1"}),
        Bucket(bucket, client_options={"region_name": "eu-west-1", "config": Config(max_pool_connections=9)}),
    )

    assert first.client() is second.client()


def test_client_options_reach_boto3(bucket: str) -> None:
    target = S3ObjectTarget(
        bucket, "a.csv", region_name="eu-west-2", config=Config(user_agent_extra="mine", max_pool_connections=3)
    )
    client = target.store.bucket.client()

    assert client.meta.region_name == "eu-west-2"
    assert client.meta.config.user_agent_extra == "mine"
    assert client.meta.config.max_pool_connections == 3
    assert client.meta.config.connect_timeout == 10


def test_an_option_that_boto3_does_not_know_is_named(bucket: str) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        S3ObjectTarget(bucket, "a.csv", no_such_option=1).exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "another"),
        ("AWS_SECRET_ACCESS_KEY", "another"),
        ("AWS_SESSION_TOKEN", "another"),
        ("AWS_DEFAULT_REGION", "eu-north-1"),
        ("AWS_ENDPOINT_URL", "http://localhost:1"),
        ("AWS_ENDPOINT_URL_S3", "http://localhost:2"),
    ],
)
def test_a_change_of_the_environment_gives_another_client_and_back_the_first(
    bucket: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Bucket(bucket).client()
    with monkeypatch.context() as changed:
        changed.setenv(name, value)
        second = Bucket(bucket).client()

    assert second is not first
    assert Bucket(bucket).client() is first


def test_a_profile_is_used_as_everywhere(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("a.csv", b"old")
    (tmp_path / "config").write_text(f"[profile mine]\nregion = eu-south-1\nendpoint_url = {s3.endpoint_url}\n")
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = of-profile\naws_secret_access_key = secret\n")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    target = S3ObjectTarget(s3.bucket, "a.csv")
    existed, client, key = target.exists(), target.store.bucket.client(), access_key(target.store.bucket)
    monkeypatch.delenv("AWS_PROFILE")  # before the bucket is cleared away

    assert existed
    assert key == "of-profile"
    assert client.meta.region_name == "eu-south-1"


def test_a_profile_that_is_not_there_is_an_error_of_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as changed:
        changed.setenv("AWS_PROFILE", "absent")

        with pytest.raises(CredentialsError, match="profile does not exist"):
            S3ObjectTarget(bucket, "a.csv").exists()


def test_having_no_credentials_says_how_to_get_some(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(CredentialsError, match=r"there are no credentials.*AWS_PROFILE"):
        S3ObjectTarget(bucket, "a.csv").exists()
    with pytest.raises(CredentialsError, match="there are no credentials"):
        S3ObjectTarget(bucket, "a.csv", role_arn=ROLE_ARN).exists()


def asked_in_a_child(bucket: Bucket, parent: int, found: Any) -> None:
    client = bucket.client()
    found.put((id(client) == parent, len(storage_s3._clients), bucket.head("a.csv").size_bytes))


def test_a_client_is_not_carried_over_a_fork(s3: S3) -> None:
    s3.put("a.csv", b"old")
    ours = Bucket(s3.bucket)
    kept = ours.client()
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    with storage_s3._clients_lock:  # as if another thread were making one
        process = context.Process(target=asked_in_a_child, args=(ours, id(kept), found))
        process.start()
    is_same, count, size_bytes = found.get(timeout=TIMEOUT_S)
    process.join(TIMEOUT_S)

    assert (is_same, count, size_bytes) == (False, 1, 3)
    assert ours.client() is kept


def test_a_bucket_pickles_with_its_options() -> None:
    ours = Bucket("bucket", ROLE_ARN, {"region_name": "eu-west-1", "config": Config(max_pool_connections=3)})
    revived = pickle.loads(pickle.dumps(ours))

    assert (revived.name, revived.role_arn) == ("bucket", ROLE_ARN)
    assert revived._settings() == ours._settings()


def test_credentials_are_not_shown() -> None:
    target = S3ObjectTarget("bucket", "a.csv", aws_secret_access_key="s3cr3t", aws_session_token="t0ken")
    shown = repr(target) + str(target) + repr(target.store) + str(target.describe())

    assert "s3cr3t" not in shown
    assert "t0ken" not in shown


# Roles


def test_a_role_is_assumed_when_first_needed_and_once(s3: S3) -> None:
    s3.put("a.csv", b"old")
    target = S3ObjectTarget(s3.bucket, "a.csv", role_arn=ROLE_ARN)
    with recorded_requests() as before:
        target.store.bucket.client()
    with recorded_requests() as log:
        existed = target.exists()
        target.download()

    assert existed
    assert before.requests == []
    assert log.of("POST", "/") == ["/"]
    assert access_key(target.store.bucket).startswith("ASIA")
    assert access_key(Bucket(s3.bucket)) == "embedded-s3"


def test_the_credentials_of_a_role_renew_themselves(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    target = S3ObjectTarget(s3.bucket, "a.csv", role_arn=f"{ROLE_ARN}-renewed")
    target.exists()
    first = access_key(target.store.bucket)
    credentials = target.store.bucket.client()._request_signer._credentials

    def nearly_an_hour_later() -> datetime:
        return datetime.now(timezone.utc) + timedelta(minutes=55)

    monkeypatch.setattr(botocore.credentials, "_local_now", nearly_an_hour_later)
    monkeypatch.setattr(credentials, "_time_fetcher", nearly_an_hour_later)
    with recorded_requests() as log:
        target.exists()

    assert len(log.of("POST", "/")) == 1
    assert access_key(target.store.bucket) != first


def test_each_role_has_a_client_of_its_own(bucket: str) -> None:
    clients = {id(Bucket(bucket, role).client()) for role in (None, ROLE_ARN, f"{ROLE_ARN}-2", ROLE_ARN)}

    assert len(clients) == 3


def test_a_role_is_assumed_with_the_credentials_that_were_given(s3: S3) -> None:
    target = S3ObjectTarget(
        s3.bucket,
        "a.csv",
        role_arn=ROLE_ARN,
        aws_access_key_id="given",
        aws_secret_access_key="given",
    )
    target.exists()

    assert access_key(target.store.bucket).startswith("ASIA")


def test_a_role_is_assumed_in_the_region_that_was_given(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    target = S3ObjectTarget(s3.bucket, "a.csv", role_arn=ROLE_ARN, region_name="eu-west-1")

    assert target.exists() is False
    assert target.store.bucket.client().meta.region_name == "eu-west-1"


# Where


@pytest.mark.parametrize(
    ("options", "endpoint"),
    [
        ({"endpoint_url": "http://localhost:9000"}, "localhost:9000"),
        ({"endpoint_url": "https://minio.example.org/"}, "minio.example.org"),
        ({"endpoint_url": "https://s3.eu-west-1.amazonaws.com"}, "aws"),
        ({"endpoint_url": "https://s3.cn-north-1.amazonaws.com.cn"}, "aws"),
        ({"endpoint_url": "https://s3.amazonaws.com.evil.org"}, "s3.amazonaws.com.evil.org"),
    ],
    ids=["localhost", "minio", "amazon", "amazon-china", "alike"],
)
def test_the_endpoint_tells_who_serves_the_bucket(options: dict[str, Any], endpoint: str) -> None:
    assert Bucket("bucket", client_options={**options, "region_name": "us-east-1"}).endpoint() == endpoint


def test_amazon_is_the_endpoint_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")

    assert Bucket("bucket").endpoint() == "aws"


# Objects


def test_what_is_put_is_told_and_given_back(s3: S3) -> None:
    ours = Bucket(s3.bucket)
    etag = ours.put_bytes("a.csv", b"old", {"Metadata": {"superluigi-digest": "sha256:1"}})
    facts = ours.head("a.csv")

    assert ours.get_bytes("a.csv") == b"old"
    assert facts == ObjectFacts("a.csv", 3, etag, {"superluigi-digest": "sha256:1"})
    assert facts.digest == "sha256:1"
    assert facts.md5 == etag == "149603e6c03516362a8da23f624db945"


def test_what_is_not_there_is_none(s3: S3) -> None:
    assert Bucket(s3.bucket).head("absent") is None
    assert Bucket(s3.bucket).get_bytes("absent") is None


@pytest.mark.parametrize(
    ("facts", "md5"),
    [
        (ObjectFacts("a", 1, "abc"), "abc"),
        (ObjectFacts("a", 1, "abc-2"), None),
        (ObjectFacts("a", 1, "abc", is_encrypted_with_key=True), None),
    ],
    ids=["plain", "multipart", "encrypted"],
)
def test_an_etag_is_an_md5_only_of_plain_objects(facts: ObjectFacts, md5: str | None) -> None:
    assert facts.md5 == md5


@pytest.mark.parametrize(
    "size_bytes",
    [0, 1, MULTIPART_THRESHOLD_BYTES - 1, MULTIPART_THRESHOLD_BYTES, PART_BYTES + 1, 2 * PART_BYTES],
    ids=["empty", "one-byte", "below-the-threshold", "one-part", "two-parts", "two-whole-parts"],
)
def test_the_etag_that_we_compute_is_that_of_the_server(s3: S3, tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"0123456789abcdef" * (size_bytes // 16) + b"x" * (size_bytes % 16))
    ours = Bucket(s3.bucket)
    given_back = transfers.upload(ours, {"large": path}, {})["large"]
    facts = ours.head("large")
    is_whole = transfers.download(ours, [(facts, tmp_path / "back")])

    assert given_back == facts.etag == etag_of(path)
    assert ("-" in facts.etag) == (size_bytes >= MULTIPART_THRESHOLD_BYTES)
    assert is_whole
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size_bytes", [3, MULTIPART_THRESHOLD_BYTES + 1], ids=["small", "large"])
def test_a_large_target_has_the_same_contract(s3: S3, size_bytes: int) -> None:
    target = S3ObjectTarget(s3.bucket, "large.bin")
    data = b"x" * size_bytes
    write(target, {"": data})
    fingerprint = target.fingerprint()
    target.store.entry().forget()

    assert target.download().read_bytes() == data
    assert fingerprint.startswith("sha256:")


def test_a_multipart_upload_that_fails_leaves_no_parts(s3: S3, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (MULTIPART_THRESHOLD_BYTES + 1))
    ours = Bucket(
        s3.bucket, client_options={"config": Config(user_agent_extra="failing", retries={"total_max_attempts": 1})}
    )

    def failing(**_: object) -> None:
        raise botocore.exceptions.ConnectionClosedError(endpoint_url="here")

    ours.client().meta.events.register("before-send.s3.UploadPart", failing)
    with pytest.raises(StoreUnavailableError, match="connection failed"):
        transfers.upload(ours, {"large": path}, {})

    assert s3.client().list_multipart_uploads(Bucket=s3.bucket).get("Uploads", []) == []
    assert s3.keys() == []


def test_downloading_what_is_not_there_is_not_found(s3: S3, tmp_path: Path) -> None:
    for size_bytes in (3, MULTIPART_THRESHOLD_BYTES):
        with pytest.raises(TargetNotFoundError, match="absent"):
            transfers.download(Bucket(s3.bucket), [(ObjectFacts("absent", size_bytes, "1"), tmp_path / "a")])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "expected",
    [
        ObjectFacts("a.csv", 4, "149603e6c03516362a8da23f624db945"),
        ObjectFacts("a.csv", 3, "22af645d1859cb5ca6da0c484f1f37ea"),
        ObjectFacts("a.csv", 3, "149603e6c03516362a8da23f624db945", {"superluigi-digest": "sha256:1"}),
    ],
    ids=["other-size", "other-etag", "other-digest"],
)
def test_bytes_that_are_not_those_that_were_told_are_not_kept(s3: S3, tmp_path: Path, expected: ObjectFacts) -> None:
    s3.put("a.csv", b"old")
    is_whole = transfers.download(Bucket(s3.bucket), [(expected, tmp_path / "a")])

    assert is_whole is False
    assert list(tmp_path.iterdir()) == []


def test_an_etag_that_is_no_md5_is_accepted_after_a_second_look(s3: S3, tmp_path: Path) -> None:
    s3.client().put_object(Bucket=s3.bucket, Key="a.csv", Body=b"old", ServerSideEncryption="aws:kms")
    facts = Bucket(s3.bucket).head("a.csv")
    listed = next(iter(Bucket(s3.bucket).listing("a.csv")))

    assert facts.md5 is None
    assert transfers.download(Bucket(s3.bucket), [(facts, tmp_path / "a")])
    assert transfers.download(Bucket(s3.bucket), [(listed, tmp_path / "b")])


@pytest.mark.parametrize("is_prefix", [False, True], ids=["object", "prefix"])
def test_a_large_object_that_others_put_in_one_piece_is_downloaded(s3: S3, is_prefix: bool) -> None:
    s3.put("data/large", b"x" * (MULTIPART_THRESHOLD_BYTES + 1))
    target = S3PrefixTarget(s3.bucket, "data") if is_prefix else S3ObjectTarget(s3.bucket, "data/large")
    path = target.download()

    assert (path / "large" if is_prefix else path).read_bytes() == b"x" * (MULTIPART_THRESHOLD_BYTES + 1)


def test_a_large_object_that_is_replaced_during_its_download_is_downloaded_anew(s3: S3, tmp_path: Path) -> None:
    large = b"x" * (2 * PART_BYTES)
    options = {"config": Config(user_agent_extra="replaced")}
    s3.put("large", large)
    target = S3ObjectTarget(s3.bucket, "large", **options)
    left = [b"y" * (2 * PART_BYTES)]

    def replacing(**_: object) -> None:
        if left:
            s3.put("large", left.pop())

    target.store.bucket.client().meta.events.register("before-send.s3.GetObject", replacing)

    assert target.download().read_bytes() == b"y" * (2 * PART_BYTES)
    assert left == []


def test_an_object_that_is_always_another_is_a_clear_error(s3: S3) -> None:
    s3.put("a.csv", b"0")
    target = S3ObjectTarget(s3.bucket, "a.csv", config=Config(user_agent_extra="changing"))
    count = iter(range(1000))

    def replacing(**_: object) -> None:
        s3.put("a.csv", str(next(count)).encode() * 3)

    target.store.bucket.client().meta.events.register("before-send.s3.GetObject", replacing)
    with pytest.raises(StorageError, match="again and again"):
        target.download()

    assert not target.local_path.exists()


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_a_prefix_that_changes_during_its_download_is_downloaded_anew(s3: S3, change: str) -> None:
    s3.put("data/a.csv", b"old")
    s3.put("data/b.csv", b"old")
    one_by_one = Config(user_agent_extra=change, max_pool_connections=1)
    target = S3PrefixTarget(s3.bucket, "data", config=one_by_one)
    left = [True]

    def changing(**_: object) -> None:
        if left:
            left.clear()
            if change == "deleted":
                s3.client().delete_object(Bucket=s3.bucket, Key="data/b.csv")
            else:
                s3.put("data/a.csv", b"new")

    target.store.bucket.client().meta.events.register("before-send.s3.GetObject", changing)
    path = target.download()

    assert {file.name: file.read_bytes() for file in path.iterdir()} == (
        {"a.csv": b"old"} if change == "deleted" else {"a.csv": b"new", "b.csv": b"old"}
    )


def test_a_prefix_that_is_always_another_is_a_clear_error(s3: S3) -> None:
    s3.put("data/a.csv", b"0")
    target = S3PrefixTarget(s3.bucket, "data", config=Config(user_agent_extra="changing-prefix"))
    count = iter(range(1000))

    def replacing(**_: object) -> None:
        s3.put("data/a.csv", str(next(count)).encode() * 3)

    target.store.bucket.client().meta.events.register("before-send.s3.GetObject", replacing)
    with pytest.raises(StorageError, match="again and again"):
        target.download()

    assert not target.local_path.exists()


# Deleting and listing


def test_deleting_takes_a_thousand_keys_a_request_and_what_is_absent_is_no_error(s3: S3) -> None:
    s3.put("0")
    s3.put("1000")
    s3.put("stays")
    with recorded_requests() as log:
        Bucket(s3.bucket).delete(str(number) for number in range(1001))
        Bucket(s3.bucket).delete([])

    assert s3.keys() == ["stays"]
    assert [method for method, _ in log.requests if method == "POST"] == ["POST"] * 2


def test_keys_that_are_not_deleted_are_named_each_with_its_reason(server: Answers) -> None:
    server.answer(
        200,
        "<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code></Error>"
        "<Error><Key>b</Key><Code>InternalError</Code></Error></DeleteResult>",
    )

    with pytest.raises(StorageError, match="2 objects could not be deleted: a: AccessDenied; b: InternalError"):
        server.bucket().delete(["a", "b", "c"])


def test_a_listing_goes_over_all_pages_in_the_order_of_keys(s3: S3) -> None:
    backend = s3_backends["123456789012"]["aws"]
    keys = sorted(f"data/{number}" for number in range(1005))
    for key in [*keys, "datum", "other"]:
        backend.put_object(s3.bucket, key, b"x")
    with recorded_requests() as log:
        listed = list(Bucket(s3.bucket).listing("data/"))

    assert [item.key for item in listed] == keys
    assert {item.size_bytes for item in listed} == {1}
    assert len(log.requests) == 2
    Bucket(s3.bucket).delete([*keys, "datum", "other"])  # a thousand at a time, where the fixture takes one


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_a_listing_may_be_limited(s3: S3, limit: int) -> None:
    for key in ("c", "a", "b"):
        s3.put(key)

    assert [item.key for item in Bucket(s3.bucket).listing("", limit=limit)] == ["a", "b", "c"][:limit]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text("aZ/é ._-%+", min_size=1, max_size=6), st.binary(max_size=3), max_size=4))
def test_a_listing_is_what_was_put_in_the_order_of_keys(s3: S3, content: dict[str, bytes]) -> None:
    backend = s3_backends["123456789012"]["aws"]
    for key, data in content.items():
        backend.put_object(s3.bucket, f"p{key}", data)
    listed = list(Bucket(s3.bucket).listing("p"))
    Bucket(s3.bucket).delete(item.key for item in listed)

    assert [(item.key, item.size_bytes) for item in listed] == [
        (f"p{key}", len(data)) for key, data in sorted(content.items(), key=lambda pair: pair[0].encode())
    ]
    assert s3.keys() == []


# Prefixes


def test_a_prefix_sends_only_what_changed_and_deletes_what_is_superfluous(s3: S3) -> None:
    target = S3PrefixTarget(s3.bucket, "data/")
    write(target, {"same": b"1", "changed": b"2", "gone": b"3"})
    with recorded_requests() as log:
        write(target, {"same": b"1", "changed": b"4", "added": b"5"})

    sent = {path.rpartition("/")[2] for path in log.of("PUT")}
    assert sent == {"changed", "added", ".superluigi-unfinished"}
    assert s3.keys() == ["data/added", "data/changed", "data/same"]


def test_a_prefix_that_is_half_written_does_not_exist(s3: S3) -> None:
    target = S3PrefixTarget(s3.bucket, "data")
    write(target, {"a.csv": b"old"})
    s3.put("data/.superluigi-unfinished")
    existed = target.exists()
    with pytest.raises(TargetNotFoundError, match="half-written"):
        target.download()
    with pytest.raises(TargetNotFoundError):
        target.read_metadata()
    write(target, {"a.csv": b"new"})

    assert existed is False
    assert target.exists()
    assert s3.keys() == ["data/a.csv"]


def test_an_upload_that_breaks_off_leaves_a_prefix_that_does_not_exist(s3: S3) -> None:
    target = S3PrefixTarget(
        s3.bucket, "data", config=Config(user_agent_extra="broken-off", retries={"total_max_attempts": 1})
    )
    write(target, {"a.csv": b"old", "b.csv": b"old"})

    def failing(request: Any, **_: object) -> None:
        if request.url.endswith("b.csv"):
            raise botocore.exceptions.ConnectionClosedError(endpoint_url="here")

    target.store.bucket.client().meta.events.register("before-send.s3.PutObject", failing)
    with pytest.raises(StoreUnavailableError):
        write(target, {"a.csv": b"new", "b.csv": b"new"})

    assert not target.exists()
    assert s3.keys() == ["data/.superluigi-unfinished", "data/a.csv", "data/b.csv"]


@pytest.mark.parametrize(
    "keys", [["data/"], ["data/.metadata.json"], ["data"], ["data.csv"], ["data/.superluigi-unfinished"]], ids=repr
)
def test_a_prefix_without_data_does_not_exist(s3: S3, keys: list[str]) -> None:
    for key in keys:
        s3.put(key)

    assert not S3PrefixTarget(s3.bucket, "data", metadata_inside_prefix=True).exists()


def test_a_mark_of_a_folder_is_no_data(s3: S3) -> None:
    for key in ("data/", "data/a.csv", "data/below/", "data/below/b.csv"):
        s3.put(key)

    path = S3PrefixTarget(s3.bucket, "data").download()
    assert sorted(item.name for item in path.rglob("*")) == ["a.csv", "b.csv", "below"]


@pytest.mark.parametrize(
    "key", ["data//a.csv", "data/../a.csv", "data/./a.csv", f"data/{'x' * 256}"], ids=["empty", "above", "here", "long"]
)
def test_a_remote_name_that_cannot_be_a_file_is_refused_with_the_key(s3: S3, key: str, local_data_dir: Path) -> None:
    s3_backends["123456789012"]["aws"].put_object(s3.bucket, key, b"x")
    target = S3PrefixTarget(s3.bucket, "data")
    with pytest.raises(InvalidNameError) as caught:
        target.download()

    assert caught.value.name == f"s3://{s3.bucket}/{key}"
    assert not list(local_data_dir.rglob("copy"))


@pytest.mark.parametrize("name", ["caf\udce9.csv", "x" * 250], ids=["no-utf-8", "key-too-long"])
def test_a_file_whose_name_cannot_be_a_key_is_refused_before_the_prefix_is_touched(s3: S3, name: str) -> None:
    target = S3PrefixTarget(s3.bucket, "p" * 800)
    write(target, {"a.csv": b"old"})
    with pytest.raises(InvalidNameError):
        write(target, {"a.csv": b"new", name: b"new"})

    assert target.exists()
    assert s3.keys() == [f"{'p' * 800}/a.csv"]


def test_a_record_in_another_bucket_hides_no_data(s3: S3) -> None:
    s3.client().create_bucket(Bucket="records-elsewhere")
    target = S3PrefixTarget(s3.bucket, "data", metadata_bucket="records-elsewhere", metadata_object_key="data/a.csv")
    write(target, {"a.csv": b"new"})
    target.write_metadata({"rows": 1})

    assert target.exists()
    assert (target.download() / "a.csv").read_bytes() == b"new"
    assert target.read_metadata() == {"rows": 1}
    assert target.metadata_path == "s3://records-elsewhere/data/a.csv"


# Records of objects


def publish(target: Any, data: bytes, run_id: str) -> None:
    with target.store.staging() as folder:
        staged = StagedOutput(target, folder)
        staged.path.write_bytes(data)
        staged.publish({"run_id": run_id, "output": staged.facts()})


def test_an_object_that_others_replaced_has_no_record(s3: S3) -> None:
    target = S3ObjectTarget(s3.bucket, "a.csv")
    publish(target, b"ours", "run-1")
    s3.put("a.csv", b"theirs")

    with pytest.raises(TargetNotFoundError, match="no lineage record"):
        target.read_metadata()
    assert target.fingerprint().startswith("etag:")


def test_a_record_whose_object_never_came_gives_way_to_that_of_the_old(s3: S3) -> None:
    target = S3ObjectTarget(
        s3.bucket, "a.csv", config=Config(user_agent_extra="no-data", retries={"total_max_attempts": 1})
    )
    publish(target, b"old", "run-1")

    def failing(request: Any, **_: object) -> None:
        if request.url.endswith("a.csv"):
            raise botocore.exceptions.ConnectionClosedError(endpoint_url="here")

    target.store.bucket.client().meta.events.register("before-send.s3.PutObject", failing)
    with pytest.raises(StoreUnavailableError):
        publish(target, b"new", "run-2")
    again = S3ObjectTarget(s3.bucket, "a.csv")

    assert again.read_metadata()["run_id"] == "run-1"
    assert s3.get("a.csv") == b"old"
    publish(again, b"newest", "run-3")
    assert again.read_metadata()["run_id"] == "run-3"


def test_the_same_bytes_of_another_run_have_the_record_of_that_run(s3: S3) -> None:
    target = S3ObjectTarget(s3.bucket, "a.csv")
    publish(target, b"same", "run-1")
    publish(target, b"same", "run-2")

    assert target.read_metadata()["run_id"] == "run-2"
    assert "superseded" not in target.read_metadata()


def test_upload_options_hold_for_data_and_record(s3: S3) -> None:
    options = {"StorageClass": "STANDARD_IA", "Tagging": "team=blue", "Metadata": {"mine": "1"}}
    target = S3ObjectTarget(s3.bucket, "a.csv", upload_options=options)
    publish(target, b"new", "run-1")
    head = s3.client().head_object(Bucket=s3.bucket, Key="a.csv")
    tags = s3.client().get_object_tagging(Bucket=s3.bucket, Key="a.csv.metadata.json")["TagSet"]

    assert head["StorageClass"] == "STANDARD_IA"
    assert head["Metadata"]["mine"] == "1"
    assert tags == [{"Key": "team", "Value": "blue"}]
    assert target.read_metadata()["run_id"] == "run-1"


@pytest.mark.parametrize("target_cls", [S3ObjectTarget, S3PrefixTarget], ids=["object", "prefix"])
def test_upload_options_that_boto3_does_not_know_are_refused_before_any_work(s3: S3, target_cls: Any) -> None:
    target = target_cls(s3.bucket, "a", upload_options={"StorageKlass": "x", "Owner": "y"})
    with pytest.raises(ConfigError, match=r"'Owner', 'StorageKlass'.*StorageClass"), target.tmp_write_path():
        pytest.fail("the block was entered")


# Names


@pytest.mark.parametrize("target_cls", [S3ObjectTarget, S3PrefixTarget], ids=["object", "prefix"])
@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "empty key"),
        ("/", "empty key"),
        (" ", "empty key"),
        (None, "empty key"),
        ("/data/a.csv", "absolute key.*'data/a.csv'"),
        ("s3://bucket/a.csv", "is an address"),
        ("a\0b", "NUL"),
        ("a\ud800b", "UTF-8"),
        ("é" * 513, "1026 bytes"),
    ],
    ids=["empty", "slash", "blank", "none", "absolute", "address", "nul", "no-utf-8", "long"],
)
def test_a_key_that_cannot_be_one_is_refused(target_cls: Any, key: Any, problem: str) -> None:
    with pytest.raises(InvalidNameError, match=problem):
        target_cls("bucket", key)


def test_an_object_key_that_names_a_prefix_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="S3PrefixTarget"):
        S3ObjectTarget("bucket", "data/")


@pytest.mark.parametrize("target_cls", [S3ObjectTarget, S3PrefixTarget], ids=["object", "prefix"])
@pytest.mark.parametrize(
    "bucket",
    [
        "",
        "a",
        "ab",
        "s3://bucket",
        "bucket/a",
        "-bucket",
        "bucket-",
        "bu cket",
        "bucket\n",
        "..",
        "arn:a/../../b",
        3,
        None,
        "b" * 256,
    ],
    ids=repr,
)
def test_a_bucket_that_cannot_be_one_is_refused(target_cls: Any, bucket: Any) -> None:
    with pytest.raises(InvalidNameError, match="bare name"):
        target_cls(bucket, "data")


@pytest.mark.parametrize("target_cls", [S3ObjectTarget, S3PrefixTarget], ids=["object", "prefix"])
@pytest.mark.parametrize(
    "bucket",
    ["abc", "My_Old.Bucket-1", "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", "b" * 255],
    ids=["short", "old", "access-point", "long"],
)
def test_a_bucket_that_can_be_one_is_taken(target_cls: Any, bucket: str) -> None:
    assert str(target_cls(bucket, "data")).startswith(f"s3://{bucket}/data")


@pytest.mark.parametrize("prefix", ["data", "data/"])
def test_the_slash_of_a_prefix_may_be_left_out(prefix: str) -> None:
    target = S3PrefixTarget("bucket", prefix)

    assert target.path == "s3://bucket/data/"
    assert target.metadata_path == "s3://bucket/data.metadata.json"
    assert target.name == "data"


def test_a_home_directory_in_local_root_is_that_of_the_user() -> None:
    target = S3ObjectTarget(
        "bucket", "a.csv", local_root="~/copies", endpoint_url="http://localhost:1", region_name="x"
    )

    assert target.local_path.is_relative_to(Path.home() / "copies")


def test_objects_below_an_object_name_are_counted(s3: S3) -> None:
    for number in range(3):
        s3.put(f"data/{number}")

    with pytest.raises(ValueError, match="a prefix holding 3 objects"):
        S3ObjectTarget(s3.bucket, "data").download()
    for number in range(1000):
        s3_backends["123456789012"]["aws"].put_object(s3.bucket, f"data/more-{number}", b"")
    with pytest.raises(ValueError, match="holding 1000 or more objects"):
        S3ObjectTarget(s3.bucket, "data").download()
    Bucket(s3.bucket).delete(f"data/more-{number}" for number in range(1000))


# Errors


class Answers:
    """A server that answers every request with one status and body."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self.status = 200
        self.body = b""
        self.count = 0

    def answer(self, status: int, body: str = "") -> None:
        self.status, self.body = status, body.encode()

    def error(self, status: int, code: str, message: str = "told by the store") -> None:
        self.answer(
            status, f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>4711</RequestId></Error>"
        )

    def bucket(self, **options: Any) -> Bucket:
        return Bucket("bucket", None, {"endpoint_url": self.endpoint_url, "config": ONE_TRY, **options})


@pytest.fixture(scope="module")
def answering() -> Iterator[Answers]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answers.count += 1
            self.send_response(answers.status)
            self.send_header("x-amz-request-id", "4711")
            self.send_header("Content-Length", str(len(answers.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answers.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  (the names are the base class's)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answers = Answers(f"http://127.0.0.1:{httpd.server_port}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield answers
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def server(answering: Answers, monkeypatch: pytest.MonkeyPatch) -> Answers:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    answering.count = 0
    return answering


CODES = [
    ("NoSuchBucket", BucketNotFoundError),
    ("AccessDenied", AccessDeniedError),
    ("AllAccessDisabled", AccessDeniedError),
    ("InvalidAccessKeyId", CredentialsError),
    ("SignatureDoesNotMatch", CredentialsError),
    ("ExpiredToken", CredentialsError),
    ("ExpiredTokenException", CredentialsError),
    ("InvalidToken", CredentialsError),
    ("InvalidClientTokenId", CredentialsError),
    ("RequestTimeTooSkewed", CredentialsError),
    ("SlowDown", StoreUnavailableError),
    ("ServiceUnavailable", StoreUnavailableError),
    ("InternalError", StoreUnavailableError),
    ("RequestTimeout", StoreUnavailableError),
]
STATUSES = [
    (403, AccessDeniedError),
    (500, StoreUnavailableError),
    (502, StoreUnavailableError),
    (503, StoreUnavailableError),
    (504, StoreUnavailableError),
]


def test_every_row_of_the_table_of_codes_is_tried_here() -> None:
    assert {code for code, _ in CODES} | {str(status) for status, _ in STATUSES} == set(s3_errors._BY_CODE)


@pytest.mark.parametrize(("code", "error_cls"), CODES, ids=[code for code, _ in CODES])
def test_what_the_store_answers_is_told_in_our_words(server: Answers, code: str, error_cls: type[StorageError]) -> None:
    server.error(400, code)
    with pytest.raises(StorageError) as caught:
        server.bucket().put_bytes("data/a.csv", b"", {})

    assert type(caught.value) is error_cls
    assert str(caught.value).startswith(f"s3://bucket/data/a.csv: {s3_errors._BY_CODE[code][1]} (told by the store)")
    assert s3_errors._BY_CODE[code][2] in str(caught.value)
    assert (caught.value.operation, caught.value.address) == ("PutObject", "s3://bucket/data/a.csv")
    assert (caught.value.tries, caught.value.request_id) == (1, "4711")
    assert isinstance(caught.value.__cause__, botocore.exceptions.ClientError)


@pytest.mark.parametrize(("status", "error_cls"), STATUSES, ids=[str(status) for status, _ in STATUSES])
def test_an_answer_without_a_body_is_told_by_its_status(
    server: Answers, status: int, error_cls: type[StorageError]
) -> None:
    server.answer(status)
    with pytest.raises(StorageError) as caught:
        server.bucket().head("data/a.csv")

    assert type(caught.value) is error_cls
    assert s3_errors._BY_CODE[str(status)][1] in str(caught.value)
    assert caught.value.operation == "HeadObject"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            400,
            "<Error><Code>InvalidObjectState</Code><Message>archived</Message></Error>",
            "InvalidObjectState: archived",
        ),
        (400, "<Error><Code>OnlyACode</Code></Error>", "OnlyACode"),
        (418, "", "418"),
        (400, "<Error></Error>", "the request failed"),
        (407, "<html><body>Proxy login</body></html>", "the request failed"),
        (400, "no xml at all", "400"),
        (200, "<html><p>captive portal<p></html>", "the store failed"),
    ],
    ids=["unknown-code", "code-alone", "status-alone", "no-code", "html", "no-xml", "html-that-is-ok"],
)
def test_an_answer_that_no_table_knows_is_a_storage_error(
    server: Answers, status: int, body: str, message: str
) -> None:
    server.answer(status, body)

    with pytest.raises(StorageError, match=message) as caught:
        list(server.bucket().listing("data/"))
    assert str(caught.value).startswith("s3://bucket/data/: ")


def test_a_store_that_cannot_serve_is_asked_again(server: Answers) -> None:
    server.answer(500)
    config = Config(retries={"total_max_attempts": 2})
    with pytest.raises(StoreUnavailableError, match="2 tries") as caught:
        server.bucket(config=config).head("a")

    assert caught.value.tries == 2
    assert server.count == 2


def test_a_store_that_is_not_there_is_asked_as_often_as_botocore_asks(server: Answers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    config = Config(retries={"total_max_attempts": 2}, connect_timeout=2)
    ours = server.bucket(endpoint_url=f"http://127.0.0.1:{port}", config=config)
    asked: list[str] = []
    ours.client().meta.events.register("before-send.s3.GetObject", lambda request, **_: asked.append(request.url))

    with pytest.raises(StoreUnavailableError, match="2 tries"):
        ours.get_bytes("a")
    assert len(asked) == 2


def test_a_refusal_is_not_asked_again(server: Answers) -> None:
    server.error(403, "AccessDenied")
    with pytest.raises(AccessDeniedError):
        server.bucket(config=Config()).get_bytes("a")

    assert server.count == 1


def test_a_refused_deletion_and_a_refused_upload_of_parts_are_translated(server: Answers, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * MULTIPART_THRESHOLD_BYTES)
    server.error(403, "AccessDenied")
    with pytest.raises(AccessDeniedError, match="s3://bucket/a"):
        server.bucket().delete(["a"])
    with pytest.raises(AccessDeniedError, match="s3://bucket/large") as caught:
        transfers.upload(server.bucket(), {"large": tmp_path / "large"}, {})

    assert isinstance(caught.value.__cause__, botocore.exceptions.ClientError)
    assert caught.value.request_id == "4711"


def test_nobody_at_the_endpoint_is_told_with_the_endpoint(server: Answers) -> None:
    with pytest.raises(StoreUnavailableError, match=r"localhost:1.*AWS_ENDPOINT_URL"):
        server.bucket(endpoint_url="http://localhost:1").head("a")


def test_an_unknown_bucket_is_told_whatever_is_asked(s3: S3) -> None:
    absent = Bucket("no-such-bucket-anywhere")
    for ask in (
        lambda: absent.head("a"),
        lambda: list(absent.listing("a")),
        lambda: absent.put_bytes("a", b"", {}),
        lambda: absent.delete(["a"]),
        lambda: absent.get_bytes("a"),
    ):
        with pytest.raises(BucketNotFoundError, match="Create the bucket") as caught:
            ask()
        assert isinstance(caught.value, FileNotFoundError)


def test_a_bucket_that_is_there_is_asked_for_once(s3: S3) -> None:
    ours = Bucket(s3.bucket)
    ours.head("absent")
    with recorded_requests() as log:
        ours.head("absent")

    assert log.requests == [("HEAD", f"/{s3.bucket}/absent")]


def test_a_bucket_that_one_may_not_ask_for_is_taken_to_be_there(server: Answers) -> None:
    ours = server.bucket()

    def answering_by_key(request: Any, **_: object) -> None:
        server.answer(404 if request.url.endswith("absent") else 403)

    ours.client().meta.events.register("before-send.s3", answering_by_key)
    try:
        assert ours.head("absent") is None
    finally:
        ours.client().meta.events.unregister("before-send.s3", answering_by_key)


THEIRS = [botocore.exceptions, boto3.exceptions, s3transfer.exceptions, botocore.parsers]


def every_error_of_theirs() -> list[type[Exception]]:
    return sorted(
        {
            value
            for module in THEIRS
            for value in vars(module).values()
            if inspect.isclass(value)
            and issubclass(value, Exception)
            and not issubclass(value, Warning)
            and value.__module__.partition(".")[0] in ("botocore", "boto3", "s3transfer")
        },
        key=lambda value: (value.__module__, value.__name__),
    )


def made(error_cls: type[Exception]) -> Exception:
    """An instance; where its constructor takes more than a format's fields, one without its constructor."""
    fields = {name for _, name, _, _ in string.Formatter().parse(getattr(error_cls, "fmt", "")) if name}
    with contextlib.suppress(Exception):
        return error_cls(**dict.fromkeys({*fields, "error"} & {*fields}, "given"))
    with contextlib.suppress(Exception):
        return error_cls(**dict.fromkeys({*fields, "error"}, "given"))
    return error_cls.__new__(error_cls)


@pytest.mark.parametrize(
    "error_cls", every_error_of_theirs(), ids=lambda error_cls: f"{error_cls.__module__}.{error_cls.__name__}"
)
def test_no_error_of_botocore_passes_untranslated(error_cls: type[Exception]) -> None:
    with pytest.raises(StorageError) as caught, Bucket("bucket").translated("GetObject", "a.csv"):
        raise made(error_cls)

    assert str(caught.value).startswith("s3://bucket/a.csv: ")
    assert isinstance(caught.value.__cause__, error_cls)


CLASSES = {
    "NoCredentialsError": CredentialsError,
    "PartialCredentialsError": CredentialsError,
    "CredentialRetrievalError": CredentialsError,
    "ProfileNotFound": CredentialsError,
    "TokenRetrievalError": CredentialsError,
    "UnauthorizedSSOTokenError": CredentialsError,
    "SSOTokenLoadError": CredentialsError,
    "RefreshWithMFAUnsupportedError": CredentialsError,
    "ParamValidationError": StorageError,
    "EndpointConnectionError": StoreUnavailableError,
    "ConnectTimeoutError": StoreUnavailableError,
    "ReadTimeoutError": StoreUnavailableError,
    "ConnectionClosedError": StoreUnavailableError,
    "SSLError": StoreUnavailableError,
    "ProxyConnectionError": StoreUnavailableError,
    "ResponseStreamingError": StoreUnavailableError,
    "IncompleteReadError": StoreUnavailableError,
    "HTTPClientError": StoreUnavailableError,
    "ConnectionError": StoreUnavailableError,
    "RetriesExceededError": StoreUnavailableError,
    "ResponseParserError": StoreUnavailableError,
    "S3DownloadFailedError": StoreUnavailableError,
    "InvalidRegionError": StorageError,
}


@pytest.mark.parametrize("name", CLASSES)
def test_what_botocore_raises_is_told_in_our_words(name: str) -> None:
    error_cls = next(value for module in THEIRS if inspect.isclass(value := getattr(module, name, None)))
    with pytest.raises(StorageError) as caught, Bucket("bucket").translated("GetObject", "a.csv"):
        raise made(error_cls)

    assert type(caught.value) is CLASSES[name]


def test_every_row_of_the_table_of_classes_names_a_class() -> None:
    assert set(s3_errors._BY_CLASS) <= {error_cls.__name__ for error_cls in every_error_of_theirs()}


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("1"), OSError("2"), ConnectionError("3"), TargetNotFoundError("4")], ids=repr
)
def test_errors_that_are_not_theirs_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, Bucket("bucket").translated("GetObject", "a.csv"):
        raise error

    assert caught.value is error


# Beside others


def test_a_local_and_a_remote_target_of_the_same_bytes_have_one_fingerprint(s3: S3, tmp_path: Path) -> None:
    local, remote = LocalFileTarget(tmp_path / "a.csv"), S3ObjectTarget(s3.bucket, "a.csv")
    for target in (local, remote):
        write(target, {"": b"same"})

    assert local.fingerprint() == remote.fingerprint()
