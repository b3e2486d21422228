"""Which requests are made to S3, and by which client; nothing else that tasks and targets use imports boto3.

`Bucket` is a value (name, role, client options) that can be pickled; clients are made on first use and
shared by all values with the same settings in one process. Every error of botocore leaves here translated,
see `s3_errors`.
"""

from __future__ import annotations

import contextlib
import copy
import email.utils
import functools
import hashlib
import os
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from superluigi import config
from superluigi.errors import ConfigError, StorageError, SuperLuigiError
from superluigi.forks import open_in_forks
from superluigi.storage.addresses import address_of
from superluigi.storage.concurrency import run_all
from superluigi.storage.s3_errors import NOT_THERE, code_of, no_conditional_put, translation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from botocore.config import Config
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sts import STSClient

    from superluigi.storage.existence import Page

MULTIPART_THRESHOLD_BYTES = 8 << 20
PART_BYTES = 8 << 20
DIGEST_HEADER = "superluigi-digest"
_MAX_TRIES = 5
_HASTY_TRIES = 2
_HASTY_S = 3
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 30
_KEYS_PER_DELETE = 1000
_UNASKED_BYTES = 1 << 20
_CONFLICT_PAUSE_S = 0.05  # doubled from try to try
_MAX_KEPT = 32  # clients, and sessions; credentials in the environment that are renewed by the hour make new ones
_MAX_CONNECTIONS = 256  # places for connections, which are opened when needed; `max_concurrency` bounds how many

_NOT_MET = NOT_THERE | {"412", "PreconditionFailed"}
_CONFLICT = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})
_UNKNOWN = frozenset({"501", "NotImplemented"})

# A change of these gives another client: tests and notebooks point them elsewhere within one process.
_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
)

_CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_OF_SESSION = (*_CREDENTIALS, "region_name")  # of the options of a client: with a role, for who asks for the role

_TIMEOUTS = ("connect_timeout", "read_timeout")

_clients: dict[tuple[Any, ...], S3Client] = {}
_sessions: dict[tuple[Any, ...], Any] = {}
_clients_lock = open_in_forks(threading.Lock())
_known_buckets: set[tuple[Any, ...]] = set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_clients.clear)


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What S3 tells about one object; `etag` without quotes, `metadata` only where a HEAD was made."""

    key: str
    size_bytes: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_encrypted_with_key: bool = False

    @property
    def digest(self) -> str | None:
        """The digest that was put with the object, None for objects that others put."""
        return self.metadata.get(DIGEST_HEADER)

    @property
    def md5(self) -> str | None:
        """The MD5 of the bytes, where the ETag is one: not for multipart uploads, nor under SSE-KMS or SSE-C."""
        return None if "-" in self.etag or self.is_encrypted_with_key else self.etag


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A small object as one answer of S3 told of it; `etag` without quotes."""

    data: bytes
    etag: str
    written_at: datetime | None
    answered_at: str | None

    @property
    def age_s(self) -> float | None:
        """How many seconds old the object was, both times by S3's clock and in whole seconds; None if not told."""
        if self.written_at is None or self.answered_at is None:
            return None
        try:
            return (email.utils.parsedate_to_datetime(self.answered_at) - self.written_at).total_seconds()
        except (TypeError, ValueError):  # no date, or one without a zone
            return None


@dataclass(frozen=True)
class Bucket:
    """One bucket as seen with one role and one set of client options.

    Every method makes requests with back-off (5 tries) and raises StorageError or one of its leaves. With `timeout_s` a
    try waits for the network no longer than that, and there are two at most: for callers that try again themselves.
    """

    name: str
    role_arn: str | None = None
    client_options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)  # may hold credentials
    timeout_s: float | None = None

    # Who asks

    def _settings(self) -> tuple[Any, ...]:
        options = tuple(sorted((name, _comparable(value)) for name, value in self.client_options.items()))
        return self.role_arn, options, *map(os.environ.get, _ENVIRONMENT)

    def client(self) -> S3Client:
        """Give the boto3 client of these settings in this process; made on first use. Safe between threads."""
        settings = self._settings()
        key = (*settings, self.timeout_s)
        client = _clients.get(key)
        if client is None:
            with _clients_lock, self.translated("CreateClient", ""):
                client = _clients.get(key)
                if client is None:
                    client = self._make_client(settings)
                    _keep(_clients, key, client)
        return client

    def _make_client(self, settings: tuple[Any, ...]) -> S3Client:
        options = dict(self.client_options)
        config = _client_config(options.pop("config", None), self.timeout_s)
        if self.role_arn:
            options = {name: value for name, value in options.items() if name not in _OF_SESSION}
        client: S3Client = self._session(settings).client("s3", config=config, **options)
        client.meta.events.register("request-created.s3.PutObject", _without_expectation)
        return client

    def _session(self, settings: tuple[Any, ...]) -> Any:
        """Give what has read what botocore knows of S3, and may be used in a forked process; call it with the lock."""
        session = _sessions.get(settings)
        if session is None:
            of_session = {name: value for name, value in self.client_options.items() if name in _OF_SESSION}
            session = _make_session(self.role_arn, of_session if self.role_arn else {})
            _keep(_sessions, settings, session)
        return session

    def endpoint(self) -> str:
        """Give the host that serves the bucket, `aws` for Amazon's own; copies of two endpoints must not mix."""
        host = self.client().meta.endpoint_url.rstrip("/").partition("://")[2]
        return "aws" if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else host

    def sts_client(self) -> STSClient:
        """Give a client that asks who the credentials are; it tries once, and waits some seconds at most."""
        from botocore.config import Config

        region = self.client().meta.region_name or "us-east-1"
        options = {name: value for name, value in self.client_options.items() if name in _CREDENTIALS}
        hasty = Config(connect_timeout=_HASTY_S, read_timeout=_HASTY_S, retries={"total_max_attempts": 1})
        with _clients_lock, self.translated("CreateClient", ""):
            session = self._session(self._settings())
            client: STSClient = session.client("sts", region_name=region, config=hasty, **options)
        return client

    def credentials(self) -> Any:
        """Give what boto3's chain has found, with `method` saying where; None if there are none. Never log it."""
        with self.translated("GetCredentials", ""):
            with _clients_lock:
                session = self._session(self._settings())
            return session.get_credentials()  # the chain may ask the network: nobody else waits for that

    # One object

    def head(self, key: str) -> ObjectFacts | None:
        """Give what S3 tells about an object, None if there is none. One HEAD.

        Raises:
            BucketNotFoundError: the bucket is not there; asked once per bucket and process, after a first 404.
        """
        with self.translated("HeadObject", key):
            try:
                answer = self.client().head_object(Bucket=self.name, Key=key)
            except Exception as error:
                if code_of(error) not in NOT_THERE:
                    raise
                self._check_exists()
                return None
        has_key = answer.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in answer
        etag = answer["ETag"].strip('"')
        return ObjectFacts(
            key, answer["ContentLength"], etag, answer.get("Metadata", {}), is_encrypted_with_key=has_key
        )

    def has(self, key: str) -> bool:
        """Say whether an object is there. One HEAD."""
        return self.head(key) is not None

    def get_bytes(self, key: str) -> bytes | None:
        """Give the bytes of a small object, None if there is none. One GET, and others while the body breaks off."""
        seen = self.snapshot(key)
        return None if seen is None else seen.data

    def snapshot(self, key: str) -> Snapshot | None:
        """Give a small object with its ETag and its times, None if there is none. Requests as `get_bytes`."""
        with self.translated("GetObject", key):
            for tries_left in reversed(range(_MAX_TRIES)):
                try:
                    answer = self.client().get_object(Bucket=self.name, Key=key)
                except Exception as error:  # botocore has tried again itself
                    if code_of(error) in NOT_THERE:
                        return None
                    raise
                try:
                    data = bytes(answer["Body"].read())
                except Exception:
                    if not tries_left:
                        raise
                    continue
                answered_at = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
                return Snapshot(data, answer["ETag"].strip('"'), answer.get("LastModified"), answered_at)
        return None

    def put_bytes(self, key: str, data: bytes | BinaryIO, options: Mapping[str, Any]) -> str:
        """Write a small object, from bytes or an open file, and give its ETag. One PUT."""
        with self.translated("PutObject", key):
            answer = self.client().put_object(Bucket=self.name, Key=key, Body=data, **options)
        return str(answer["ETag"]).strip('"')

    def put_if(self, key: str, data: bytes, options: Mapping[str, Any], *, etag: str | None) -> str | None:
        """Write a small object if there is none (`etag` None), or if the present one has this ETag; give its own ETag.

        None: the condition is not met, or other requests were at work on the key in each of five tries. Where the
        answer to a try was lost, the next try finds what the first wrote and gives None too; who has to know looks.
        One PUT where all goes well. See the S3 user guide, "Add preconditions to S3 operations with conditional
        requests".

        Raises:
            LeaseError: the store says that it does not know the condition.
        """
        plain = {name: value for name, value in options.items() if name not in ("IfMatch", "IfNoneMatch")}
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": f'"{etag}"'}
        with self.translated("PutObject", key):
            for number in range(_MAX_TRIES):
                try:
                    answer = self.client().put_object(Bucket=self.name, Key=key, Body=data, **plain, **condition)  # type: ignore[arg-type]
                    return str(answer["ETag"]).strip('"')
                except Exception as error:
                    code = code_of(error)
                    if code in _NOT_MET:
                        return None
                    if code in _UNKNOWN:
                        raise no_conditional_put(address_of(self.name, key), f"it answers {code}") from error
                    if code not in _CONFLICT:
                        raise
                time.sleep(_CONFLICT_PAUSE_S * 2**number)
        return None

    def delete_if(self, key: str, etag: str) -> None:
        """Delete an object if it has this ETag; if it has another, or is not there, do nothing. One DELETE.

        A store that does not know the condition deletes whatever is there; if it says so, with a second request.
        """
        with self.translated("DeleteObject", key):
            try:
                self.client().delete_object(Bucket=self.name, Key=key, IfMatch=f'"{etag}"')
            except Exception as error:
                if code_of(error) in _UNKNOWN:
                    self.client().delete_object(Bucket=self.name, Key=key)
                elif code_of(error) not in _NOT_MET:
                    raise

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a request; what is not there is no error.

        Raises:
            StorageError: one object or more could not be deleted; each is named.
        """
        pending = list(keys)
        pages = [pending[start : start + _KEYS_PER_DELETE] for start in range(0, len(pending), _KEYS_PER_DELETE)]
        run_all((partial(self._delete_page, page) for page in pages), max_concurrency=self.max_concurrency())

    def _delete_page(self, page: list[str]) -> None:
        with self.translated("DeleteObjects", page[0]):
            answer = self.client().delete_objects(
                Bucket=self.name, Delete={"Objects": [{"Key": key} for key in page], "Quiet": True}
            )
        if refused := answer.get("Errors"):
            reasons = "; ".join(f"{error.get('Key')}: {error.get('Code')}" for error in refused)
            raise StorageError(
                "DeleteObjects",
                address_of(self.name),
                f"{len(refused)} objects could not be deleted: {reasons}",
                "See that the credentials permit s3:DeleteObject and that no retention holds the objects.",
            )

    # Many objects

    def listing(self, prefix: str, *, limit: int | None = None) -> Iterator[ObjectFacts]:
        """Give the objects whose keys start with `prefix`, in the order of their keys; a thousand a request."""
        with self.translated("ListObjectsV2", prefix):
            paginator = self.client().get_paginator("list_objects_v2")
            config = {"PageSize": min(limit, 1000) if limit else 1000}
            if limit:
                config["MaxItems"] = limit
            for page in paginator.paginate(Bucket=self.name, Prefix=prefix, PaginationConfig=config):  # type: ignore[arg-type]
                for item in page.get("Contents", []):
                    yield ObjectFacts(item["Key"], item["Size"], item["ETag"].strip('"'))

    ask = head

    def page(self, prefix: str, start_after: str) -> Page[ObjectFacts]:
        """Give up to a thousand objects whose keys start with `prefix` and come after `start_after`. One request."""
        with self.translated("ListObjectsV2", prefix):
            answer = self.client().list_objects_v2(Bucket=self.name, Prefix=prefix, StartAfter=start_after)
        from superluigi.storage.existence import Page

        listed = answer.get("Contents", [])
        found = {item["Key"]: ObjectFacts(item["Key"], item["Size"], item["ETag"].strip('"')) for item in listed}
        return Page(found, is_last=not answer["IsTruncated"])

    def present(self, keys: Collection[str]) -> set[str]:
        """Give those of the keys that are there, however many are asked for.

        One listing for every thousand keys where that answers many of them, else a HEAD for each; `max_concurrency`
        requests at a time. Without the permission s3:ListBucket, HEADs alone.

        Raises:
            BucketNotFoundError: the bucket is not there.
        """
        from superluigi.storage import existence

        if not keys:
            return set()
        return set(existence.find(self, keys, max_concurrency=self.max_concurrency()))

    # How many at a time

    def max_concurrency(self, *default: int) -> int:
        """Give how many requests may be made at a time: the setting, or the client's own places for connections."""
        places = self.client().meta.config.max_pool_connections  # type: ignore[attr-defined]
        return min(config.max_concurrency(*default), int(places))

    def transfer_manager(self, etags: dict[str, str] | None = None) -> Any:
        """Give boto3's own TransferManager, which sends and fetches in parts: a context, whose threads end with it.

        Into `etags` it puts, by key, the ETags of what it has sent in parts.
        """
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        settings = TransferConfig(
            multipart_threshold=MULTIPART_THRESHOLD_BYTES,
            multipart_chunksize=PART_BYTES,
            max_concurrency=self.max_concurrency(),
            preferred_transfer_client="classic",  # the other one, awscrt, has threads that outlive the call
        )
        client = self.client() if etags is None else _TellingClient(self.client(), etags)
        return create_transfer_manager(client, settings)  # type: ignore[arg-type]

    # What goes wrong

    def _max_tries(self) -> int:
        client = _clients.get((*self._settings(), self.timeout_s))
        retries = {} if client is None else client.meta.config.retries or {}  # type: ignore[attr-defined]
        return int(retries.get("total_max_attempts", _MAX_TRIES))

    def _check_exists(self) -> None:
        known = (self.name, *self._settings())
        if known in _known_buckets:
            return
        try:
            self.client().head_bucket(Bucket=self.name)
        except Exception as error:
            if code_of(error) in {"404", "NoSuchBucket"}:
                raise
            # Anything else does not say that the bucket is missing: s3:ListBucket may simply not be granted.
        _known_buckets.add(known)

    @contextlib.contextmanager
    def translated(self, operation: str, key: str) -> Iterator[None]:
        """Let what boto3 raises in the block leave it in our words, with the object's address."""
        try:
            yield
        except SuperLuigiError:
            raise
        except Exception as error:
            translated = translation(error, operation, address_of(self.name, key), self._max_tries())
            if translated is None:
                raise
            raise translated from error


class _TellingClient:
    """A client that keeps the ETags of multipart uploads, which boto3's TransferManager throws away."""

    def __init__(self, client: S3Client, etags: dict[str, str]) -> None:
        self._client = client
        self._etags = etags

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def complete_multipart_upload(self, **arguments: Any) -> Any:
        answer = self._client.complete_multipart_upload(**arguments)
        self._etags[arguments["Key"]] = answer["ETag"].strip('"')
        return answer


def check_upload_options(options: Mapping[str, Any]) -> None:
    """See that boto3 knows every option of an upload.

    Raises:
        ConfigError: it does not know one, or more; all are named.
    """
    if not options:
        return
    from boto3.s3.transfer import S3Transfer

    unknown = sorted(set(options) - set(S3Transfer.ALLOWED_UPLOAD_ARGS))
    if unknown:
        known = ", ".join(sorted(S3Transfer.ALLOWED_UPLOAD_ARGS))
        message = f"upload_options holds {', '.join(map(repr, unknown))}, which boto3 does not know. It knows: {known}."
        raise ConfigError(message)


def etag_of(path: Path) -> str:
    """Give the ETag that S3 gives to this file when `transfers.upload` sends it (not under SSE-KMS or SSE-C).

    MD5 of the bytes, or of the parts' MD5s with the number of parts behind it; see the S3 user guide, "Checking
    object integrity".
    """
    size_bytes = path.stat().st_size
    with open(path, "rb") as reader:
        if size_bytes < MULTIPART_THRESHOLD_BYTES:
            return hashlib.md5(reader.read(), usedforsecurity=False).hexdigest()
        parts = [
            hashlib.md5(part, usedforsecurity=False).digest() for part in iter(lambda: reader.read(PART_BYTES), b"")
        ]
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def _comparable(value: Any) -> str:
    return repr(getattr(value, "_user_provided_options", value))


def _keep(kept: dict[tuple[Any, ...], Any], key: tuple[Any, ...], value: Any) -> None:
    """Keep a value, and let go the oldest where there are many; who uses it holds it."""
    kept[key] = value
    while len(kept) > _MAX_KEPT:
        del kept[next(iter(kept))]


def _client_config(given: Any, timeout_s: float | None) -> Config:
    """Give the configuration of a client: ours, what the user has given above it, and the time that a try may take."""
    from botocore.config import Config

    defaults = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _MAX_TRIES},
        max_pool_connections=_MAX_CONNECTIONS,
    )
    # A copy, because botocore writes into the retries of a configuration, and then it would be another setting.
    config = defaults if given is None else defaults.merge(copy.deepcopy(given))
    if timeout_s is not None:
        waits = {name: min(getattr(config, name) or timeout_s, timeout_s) for name in _TIMEOUTS}
        tries = min((config.retries or {}).get("total_max_attempts", _MAX_TRIES), _HASTY_TRIES)  # type: ignore[attr-defined]
        retries = {"mode": "standard", "total_max_attempts": tries}
        config = config.merge(Config(**waits, retries=retries))  # type: ignore[arg-type]
    return config


def _make_session(role_arn: str | None, source: dict[str, Any]) -> Any:
    import boto3
    import botocore.session

    described = botocore.session.get_session()
    # What botocore knows of S3 is read once, not once a session, which costs 60 ms and 13 MB.
    described.register_component("data_loader", _loader_of(described.get_config_variable("data_path")))
    session = boto3.session.Session(botocore_session=described, **source)
    return session if role_arn is None else _session_with_role(session, role_arn)


@functools.lru_cache
def _loader_of(data_path: str | None) -> Any:
    from botocore.loaders import create_loader

    return create_loader(data_path)


def _without_expectation(request: Any, **_: object) -> None:
    """Send small bodies at once: asking first whether they are welcome costs another round trip."""
    if int(request.headers.get("Content-Length") or 0) < _UNASKED_BYTES:
        del request.headers["Expect"]


def _session_with_role(session: Any, role_arn: str) -> Any:
    """Give a session whose credentials are asked of STS when first needed, and again before they expire."""
    import boto3
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
    from botocore.exceptions import NoCredentialsError
    from botocore.session import get_session

    source = session.get_credentials()
    if source is None:
        raise NoCredentialsError
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=session._session.create_client,  # noqa: SLF001  (botocore's own providers are built so)
        source_credentials=source,
        role_arn=role_arn,
        extra_args={"RoleSessionName": "superluigi"},
    )
    with_role = get_session()
    with_role.set_config_variable("region", session.region_name)
    with_role._credentials = DeferredRefreshableCredentials(  # type: ignore[attr-defined]  # noqa: SLF001
        method="assume-role", refresh_using=fetcher.fetch_credentials
    )
    return boto3.session.Session(botocore_session=with_role)
