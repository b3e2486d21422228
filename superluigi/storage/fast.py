"""The engine of the extra `fast`: the same requests as boto3's, made by obstore, at a tenth of the cost in Python.

It is for many small objects. Large ones in parts are boto3's in any case: there the bytes cost, not the requests.

Everything that decides is boto3's: endpoint, region, credentials, time-outs. Where this engine would not do as boto3
does there is no engine, and where it fails the object is boto3's to try again, and its error the one that is told. The
invariant: obstore is never used in a process that was forked from one that used it, because its threads are not there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from superluigi.forks import open_in_forks
from superluigi.storage.addresses import is_directory_bucket

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import S3Store

    from superluigi.storage.s3 import Bucket

_MAX_FAILURES = 8  # then boto3 takes over the rest of a bulk call: it is not the objects that are at fault
_MAX_TRANSFER_S = 600
_CREDENTIALS_LAST = timedelta(minutes=6)  # obstore asks again five minutes before they end; botocore renews them

# The options that mean the same to both; with any other boto3 serves.
_CLIENT_OPTIONS = {
    "endpoint_url",
    "region_name",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "use_ssl",
    "config",
}
_CONFIG_OPTIONS = {"connect_timeout", "read_timeout", "retries", "max_pool_connections", "region_name", "s3"}
_S3_OPTIONS = {"addressing_style", "payload_signing_enabled"}
_UPLOAD_OPTIONS = {
    "CacheControl": "Cache-Control",
    "ContentDisposition": "Content-Disposition",
    "ContentEncoding": "Content-Encoding",
    "ContentLanguage": "Content-Language",
    "ContentType": "Content-Type",
    "StorageClass": "Storage-Class",
}
_OTHER_TRUST = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")  # certificates that would stand beside the system's own
# obstore reads these too, and boto3 does not.
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_REQUEST_PAYER",
    "AWS_SKIP_SIGNATURE",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_CHECKSUM_ALGORITHM",
)

_known: dict[tuple[Any, ...], S3Store] = {}
_lock = open_in_forks(threading.Lock())
_used_in: int | None = None  # the process whose threads obstore has


def engine(bucket: Bucket, options: Mapping[str, Any]) -> Engine | None:
    """Give the engine for these uploads or, with empty options, downloads; None where boto3 has to serve."""
    attributes = _attributes(options)
    if attributes is None or importlib.util.find_spec("obstore") is None or _used_in not in {None, os.getpid()}:
        return None
    with _lock:
        store = _store_of(bucket)
    return None if store is None else Engine(store, attributes)


class Engine:
    """obstore's requests for one bulk call. What they raise says nothing: the object is asked of boto3 again."""

    max_concurrency = 128  # unless it is set: here a request costs little more than its round trip

    def __init__(self, store: S3Store, attributes: dict[str, str]) -> None:
        self._store = store
        self._attributes = attributes
        self._failures = 0

    def is_for(self, key: str) -> bool:
        """Say whether this object is this engine's: its key is one that obstore takes as it is, and all goes well."""
        is_plain = key.isprintable() and not any(part in {"", ".", ".."} for part in key.split("/"))
        return is_plain and self._failures < _MAX_FAILURES

    def failed(self) -> None:
        """Count one failure."""
        self._failures += 1

    def put(self, key: str, data: bytes) -> str:
        """Write a small object and give its ETag. One PUT, tried once."""
        import obstore

        answer = obstore.put(self._store, key, data, attributes=self._attributes, use_multipart=False)
        return _etag(answer["e_tag"])

    def get(self, key: str) -> bytes:
        """Give the bytes of a small object. One GET, tried once."""
        import obstore

        return bytes(obstore.get(self._store, key).bytes())

    def look(self, key: str) -> tuple[bytes, str]:
        """Give the bytes of a small object and its ETag. One GET, tried once."""
        import obstore

        answer = obstore.get(self._store, key)
        return bytes(answer.bytes()), _etag(answer.meta["e_tag"])

    def head(self, key: str) -> tuple[str, dict[str, str]]:
        """Give the ETag of an object and its own metadata. One HEAD, tried once."""
        import obstore

        answer = obstore.get(self._store, key, options={"head": True})
        names = set(_UPLOAD_OPTIONS.values())
        own = {str(name): str(value) for name, value in answer.attributes.items() if name not in names}
        return _etag(answer.meta["e_tag"]), own


@dataclass(frozen=True, slots=True)
class _Credentials:
    """boto3's credentials, as obstore asks for them; roles renew themselves on the way."""

    credentials: Any

    def __call__(self) -> dict[str, Any]:
        frozen = self.credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(timezone.utc) + _CREDENTIALS_LAST,
        }


def _attributes(options: Mapping[str, Any]) -> dict[str, str] | None:
    """Give the options of an upload as obstore takes them, None if it does not take them all."""
    own = {name: str(value) for name, value in options.items() if name != "Metadata"}
    metadata = dict(options.get("Metadata", {}))
    if own.keys() - _UPLOAD_OPTIONS.keys() or {name.title() for name in metadata} & {*_UPLOAD_OPTIONS.values()}:
        return None
    return {**metadata, **{_UPLOAD_OPTIONS[name]: value for name, value in own.items()}}


def _store_of(bucket: Bucket) -> S3Store | None:
    """Give obstore's view of the bucket, None where boto3's client does what obstore would not."""
    global _used_in  # noqa: PLW0603  (one runtime per process)
    client = bucket.client()
    credentials = client._request_signer._credentials  # type: ignore[attr-defined]  # noqa: SLF001  (boto3 tells nobody)
    if credentials is None or not _is_plain(bucket, client):
        return None
    endpoint, is_virtual = _address(bucket, client)
    if endpoint is None:
        return None
    config = client.meta.config
    timeouts_s: tuple[float, float] = (config.connect_timeout, config.read_timeout)  # type: ignore[attr-defined]
    facts = (bucket.name, endpoint, is_virtual, client.meta.region_name, id(credentials), *timeouts_s)
    if facts in _known:
        return _known[facts]

    from obstore.store import S3Store

    _used_in = os.getpid()
    store = _known[facts] = S3Store(
        bucket.name,
        endpoint=endpoint,
        region=client.meta.region_name,
        virtual_hosted_style_request=is_virtual,
        credential_provider=_Credentials(credentials),  # type: ignore[arg-type]
        retry_config={"max_retries": 0},  # it is boto3 that tries again
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=timeouts_s[0]),
            "read_timeout": timedelta(seconds=timeouts_s[1]),
            "timeout": timedelta(seconds=_MAX_TRANSFER_S),
        },
    )
    return store


def _is_plain(bucket: Bucket, client: Any) -> bool:
    """Say whether the client sends to S3 itself what obstore would send, and nobody stands between."""
    config = client.meta.config
    given = bucket.client_options.get("config")
    named = set(getattr(given, "_user_provided_options", ()))
    return (
        not bucket.client_options.keys() - _CLIENT_OPTIONS
        and not named - _CONFIG_OPTIONS
        and not (config.s3 or {}).keys() - _S3_OPTIONS
        and config.signature_version == "s3v4"
        and not config.proxies
        and client.meta.region_name not in {None, "aws-global"}
        and None not in {config.connect_timeout, config.read_timeout}
        and not any(os.environ.get(name) for name in _ENVIRONMENT)
        and not (client.meta.endpoint_url.startswith("https:") and any(os.environ.get(name) for name in _OTHER_TRUST))
        and not bucket.name.startswith("arn:")
        and not is_directory_bucket(bucket.name)
        and not _is_intercepted(client)
    )


def _is_intercepted(client: Any) -> bool:
    """Say whether requests are answered inside the process: moto's mocks, and whatever else stands there in tests.

    They register for botocore's event `before-send`, for which botocore itself has no use, or replace its `send`.
    moto registers when it is imported, and is `enabled` only inside its mocks.
    """
    handlers = client.meta.events._emitter._handlers.prefix_search("before-send.s3.PutObject")  # noqa: SLF001
    handlers += client.meta.events._emitter._handlers.prefix_search("before-send.s3.GetObject")  # noqa: SLF001
    send = sys.modules["botocore.httpsession"].URLLib3Session.send
    return any(getattr(handler, "enabled", True) for handler in handlers) or send.__module__ != "botocore.httpsession"


def _address(bucket: Bucket, client: Any) -> tuple[str | None, bool]:
    """Give where the bucket is asked, and whether its name is part of the host; None where boto3 has other ways."""
    endpoint = client.meta.endpoint_url.rstrip("/")
    if bucket.endpoint() == "aws":
        return endpoint, False  # AWS serves both styles under all names that are not those of directory buckets
    shown = client.generate_presigned_url("head_object", Params={"Bucket": bucket.name, "Key": "k"})
    address = shown.partition("?")[0].removesuffix("/k")
    if address == f"{endpoint}/{bucket.name}":
        return endpoint, False
    scheme, _, rest = endpoint.partition("://")
    return (address, True) if address == f"{scheme}://{bucket.name}.{rest}" else (None, False)


def _etag(told: str | None) -> str:
    if not told:
        message = "the store gave no ETag"
        raise ValueError(message)
    return told.strip('"')
