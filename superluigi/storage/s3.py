"""S3, and the only module that imports boto3: which requests are made, and what their errors mean.

`Bucket` is a value (name, role, client options) that can be pickled; clients are made on first use and
shared by all values with the same settings in one process. Every error of botocore leaves here translated
by the one table below.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from superluigi.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ConfigError,
    CredentialsError,
    StorageError,
    StoreUnavailableError,
    SuperLuigiError,
    TargetNotFoundError,
)
from superluigi.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

MULTIPART_THRESHOLD_BYTES = 8 << 20
PART_BYTES = 8 << 20
DIGEST_HEADER = "superluigi-digest"
_MAX_TRIES = 5
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 30
_KEYS_PER_DELETE = 1000

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

_clients: dict[tuple[Any, ...], S3Client] = {}
_clients_lock = threading.Lock()
_known_buckets: set[tuple[Any, ...]] = set()


def _forget_after_fork() -> None:
    global _clients_lock  # noqa: PLW0603  (a lock that another thread held at the fork stays locked in the child)
    _clients.clear()
    _clients_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


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


@dataclass(frozen=True)
class Bucket:
    """One bucket as seen with one role and one set of client options.

    Every method makes requests with back-off (5 tries) and raises StorageError or one of its leaves.
    """

    name: str
    role_arn: str | None = None
    client_options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)  # may hold credentials

    # Who asks

    def _settings(self) -> tuple[Any, ...]:
        options = tuple(sorted((name, _comparable(value)) for name, value in self.client_options.items()))
        return self.role_arn, options, *map(os.environ.get, _ENVIRONMENT)

    def client(self) -> S3Client:
        """Give the boto3 client of these settings in this process; made on first use. Safe between threads."""
        settings = self._settings()
        client = _clients.get(settings)
        if client is None:
            with _clients_lock, self._translated("CreateClient", ""):
                client = _clients.get(settings)
                if client is None:
                    client = _clients[settings] = _make_client(self.role_arn, dict(self.client_options))
        return client

    def endpoint(self) -> str:
        """Give the host that serves the bucket, `aws` for Amazon's own; copies of two endpoints must not mix."""
        host = self.client().meta.endpoint_url.rstrip("/").partition("://")[2]
        return "aws" if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else host

    # One object

    def head(self, key: str) -> ObjectFacts | None:
        """Give what S3 tells about an object, None if there is none. One HEAD.

        Raises:
            BucketNotFoundError: the bucket is not there; asked once per bucket and process, after a first 404.
        """
        with self._translated("HeadObject", key):
            try:
                answer = self.client().head_object(Bucket=self.name, Key=key)
            except Exception as error:
                if _code(error) not in {"404", "NoSuchKey", "NotFound"}:
                    raise
                self._check_exists()
                return None
        has_key = answer.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in answer
        etag = answer["ETag"].strip('"')
        return ObjectFacts(
            key, answer["ContentLength"], etag, answer.get("Metadata", {}), is_encrypted_with_key=has_key
        )

    def get_bytes(self, key: str) -> bytes | None:
        """Give the bytes of a small object, None if there is none. One GET, and another if the answer breaks off."""
        with self._translated("GetObject", key):
            for tries_left in reversed(range(_MAX_TRIES)):
                try:
                    return bytes(self.client().get_object(Bucket=self.name, Key=key)["Body"].read())
                except Exception as error:
                    if _code(error) in {"404", "NoSuchKey", "NotFound"}:
                        return None
                    if _code(error) or not tries_left:  # botocore has tried an answer with a code again itself
                        raise
        return None

    def put_bytes(self, key: str, data: bytes, options: Mapping[str, Any]) -> str:
        """Write a small object and give its ETag. One PUT."""
        with self._translated("PutObject", key):
            answer = self.client().put_object(Bucket=self.name, Key=key, Body=data, **options)
        return str(answer["ETag"]).strip('"')

    def put_file(self, key: str, path: Path, options: Mapping[str, Any]) -> str | None:
        """Upload a file and give its ETag, None if somebody else has replaced it since; the object changes in one step.

        One PUT; from 8 MiB on a multipart upload, which is aborted when it fails, and one HEAD.
        """
        with self._translated("PutObject", key):
            if path.stat().st_size < MULTIPART_THRESHOLD_BYTES:
                with open(path, "rb") as body:
                    answer = self.client().put_object(Bucket=self.name, Key=key, Body=body, **options)
                return str(answer["ETag"]).strip('"')
            config = _transfer_config()
            self.client().upload_file(str(path), self.name, key, ExtraArgs=dict(options), Config=config)
            present = self.head(key)
        expected = options.get("Metadata", {}).get(DIGEST_HEADER)
        if present is None or (present.digest != expected if expected else present.etag != etag_of(path)):
            return None
        return present.etag

    def get_file(self, expected: ObjectFacts, destination: Path) -> bool:
        """Download an object into a new file; say whether the bytes that arrived are those that S3 told of.

        One GET, or one per 8 MiB; again if the answer breaks off. What arrives wrong is removed.

        Raises:
            TargetNotFoundError: there is no such object.
        """
        with self._translated("GetObject", expected.key):
            if expected.size_bytes < MULTIPART_THRESHOLD_BYTES:
                data = self.get_bytes(expected.key)
                if data is None:
                    raise _not_found(f"s3://{self.name}/{expected.key}")
                destination.write_bytes(data)
            else:
                try:
                    self.client().download_file(self.name, expected.key, str(destination), Config=_transfer_config())
                except Exception as error:
                    if type(error).__name__ != "S3DownloadFailedError":
                        raise
                    return False  # it was replaced between two of its parts
        if self._holds(destination, expected):
            return True
        files.discard(destination)
        return False

    def _holds(self, path: Path, expected: ObjectFacts) -> bool:
        if path.stat().st_size != expected.size_bytes:
            return False
        if expected.digest is not None:
            return files.digest(path) == expected.digest
        if expected.md5 is None or _md5_of(path) == expected.md5:
            return True
        present = self.head(expected.key)  # a listing does not tell of encryption, and under it an ETag is no MD5
        return present is not None and present.etag == expected.etag and present.md5 is None

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a request; what is not there is no error.

        Raises:
            StorageError: one object or more could not be deleted; each is named.
        """
        pending = list(keys)
        for start in range(0, len(pending), _KEYS_PER_DELETE):
            page = pending[start : start + _KEYS_PER_DELETE]
            with self._translated("DeleteObjects", page[0]):
                answer = self.client().delete_objects(
                    Bucket=self.name, Delete={"Objects": [{"Key": key} for key in page], "Quiet": True}
                )
            if refused := answer.get("Errors"):
                reasons = "; ".join(f"{error.get('Key')}: {error.get('Code')}" for error in refused)
                raise StorageError(
                    "DeleteObjects",
                    f"s3://{self.name}",
                    f"{len(refused)} objects could not be deleted: {reasons}",
                    "See that the credentials permit s3:DeleteObject and that no retention holds the objects.",
                )

    # Many objects

    def listing(self, prefix: str, *, limit: int | None = None) -> Iterator[ObjectFacts]:
        """Give the objects whose keys start with `prefix`, in the order of their keys; a thousand a request."""
        with self._translated("ListObjectsV2", prefix):
            paginator = self.client().get_paginator("list_objects_v2")
            config = {"PageSize": min(limit, 1000) if limit else 1000}
            if limit:
                config["MaxItems"] = limit
            for page in paginator.paginate(Bucket=self.name, Prefix=prefix, PaginationConfig=config):  # type: ignore[arg-type]
                for item in page.get("Contents", []):
                    yield ObjectFacts(item["Key"], item["Size"], item["ETag"].strip('"'))

    # What goes wrong

    def _max_tries(self) -> int:
        client = _clients.get(self._settings())
        retries = {} if client is None else client.meta.config.retries or {}  # type: ignore[attr-defined]
        return int(retries.get("total_max_attempts", _MAX_TRIES))

    def _check_exists(self) -> None:
        known = (self.name, *self._settings())
        if known in _known_buckets:
            return
        try:
            self.client().head_bucket(Bucket=self.name)
        except Exception as error:
            if _code(error) in {"404", "NoSuchBucket"}:
                raise
            # Anything else does not say that the bucket is missing: s3:ListBucket may simply not be granted.
        _known_buckets.add(known)

    @contextlib.contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        try:
            yield
        except SuperLuigiError:
            raise
        except Exception as error:
            address = f"s3://{self.name}/{key}" if key else f"s3://{self.name}"
            translated = _translation(error, operation, address, self._max_tries())
            if translated is None:
                raise
            raise translated from error


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
    """Give the ETag that S3 gives to this file when `put_file` uploads it (not under SSE-KMS or SSE-C).

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


def _md5_of(path: Path) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as reader:
        for part in iter(lambda: reader.read(PART_BYTES), b""):
            md5.update(part)
    return md5.hexdigest()


def _not_found(address: str) -> TargetNotFoundError:
    return TargetNotFoundError(f"{address} does not exist. Run the task that makes it, or correct the name.")


def _comparable(value: Any) -> str:
    return repr(getattr(value, "_user_provided_options", value))


def _make_client(role_arn: str | None, options: dict[str, Any]) -> S3Client:
    import boto3
    from botocore.config import Config

    defaults = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _MAX_TRIES},
        max_pool_connections=32,
    )
    # A copy, because botocore writes into the retries of a configuration, and then it would be another setting.
    config = defaults.merge(copy.deepcopy(options.pop("config"))) if "config" in options else defaults
    if role_arn is None:
        session = boto3.session.Session()
    else:
        source = {name: options.pop(name) for name in (*_CREDENTIALS, "region_name") if name in options}
        session = _session_with_role(boto3.session.Session(**source), role_arn)
    client: S3Client = session.client("s3", config=config, **options)
    return client


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


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=MULTIPART_THRESHOLD_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=8
    )


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


_THEIRS = ("botocore", "boto3", "s3transfer")
_GRANT = "Ask for the permission, or use other credentials (AWS_PROFILE, role_arn)."
_LOG_IN = "Set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in again (aws sso login)."
_NAME_BUCKET = "Create the bucket, or correct its name or the endpoint (AWS_ENDPOINT_URL)."
_TRY_LATER = "See that the endpoint is right (AWS_ENDPOINT_URL) and reachable, and run again."

# What S3 answers, by its error code: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_BY_CODE: dict[str, tuple[type[StorageError], str, str]] = {
    "NoSuchBucket": (BucketNotFoundError, "there is no such bucket", _NAME_BUCKET),
    "403": (AccessDeniedError, "access is denied (or the object is absent and s3:ListBucket is not granted)", _GRANT),
    "AccessDenied": (AccessDeniedError, "access is denied", _GRANT),
    "AllAccessDisabled": (AccessDeniedError, "access is disabled", _GRANT),
    "InvalidAccessKeyId": (CredentialsError, "the access key is not known", _LOG_IN),
    "SignatureDoesNotMatch": (CredentialsError, "the secret key does not belong to the access key", _LOG_IN),
    "ExpiredToken": (CredentialsError, "the session token has expired", _LOG_IN),
    "ExpiredTokenException": (CredentialsError, "the session token has expired", _LOG_IN),
    "InvalidToken": (CredentialsError, "the session token is not valid", _LOG_IN),
    "InvalidClientTokenId": (CredentialsError, "the access key is not known", _LOG_IN),
    "RequestTimeTooSkewed": (CredentialsError, "the clock of this machine is wrong", "Set the clock."),
    "SlowDown": (StoreUnavailableError, "the store asks for fewer requests", _TRY_LATER),
    "ServiceUnavailable": (StoreUnavailableError, "the store cannot serve now", _TRY_LATER),
    "InternalError": (StoreUnavailableError, "the store failed", _TRY_LATER),
    "RequestTimeout": (StoreUnavailableError, "the upload came too slowly", _TRY_LATER),
    "500": (StoreUnavailableError, "the store failed", _TRY_LATER),
    "502": (StoreUnavailableError, "a gateway before the store failed", _TRY_LATER),
    "503": (StoreUnavailableError, "the store cannot serve now", _TRY_LATER),
    "504": (StoreUnavailableError, "the store did not answer in time", _TRY_LATER),
}

# What botocore and its kin themselves raise, by class name along the exception's own base classes; for all others
# of theirs the last lines of `_translation` have a word.
_BY_CLASS: dict[str, tuple[type[StorageError], str, str]] = {
    "NoCredentialsError": (CredentialsError, "there are no credentials", _LOG_IN),
    "PartialCredentialsError": (CredentialsError, "the credentials are incomplete", _LOG_IN),
    "CredentialRetrievalError": (CredentialsError, "the credentials could not be fetched", _LOG_IN),
    "ProfileNotFound": (CredentialsError, "the profile does not exist", _LOG_IN),
    "TokenRetrievalError": (CredentialsError, "the login has expired", _LOG_IN),
    "UnauthorizedSSOTokenError": (CredentialsError, "the login has expired", _LOG_IN),
    "SSOTokenLoadError": (CredentialsError, "there is no login", _LOG_IN),
    "RefreshWithMFAUnsupportedError": (CredentialsError, "the login with MFA has expired", _LOG_IN),
    "ParamValidationError": (StorageError, "the request is not valid", "Correct the argument that is named."),
    "HTTPClientError": (StoreUnavailableError, "the connection failed", _TRY_LATER),
    "ConnectionError": (StoreUnavailableError, "the connection failed", _TRY_LATER),
    "IncompleteReadError": (StoreUnavailableError, "the answer broke off", _TRY_LATER),
    "RetriesExceededError": (StoreUnavailableError, "the download broke off again and again", _TRY_LATER),
    "ResponseParserError": (StoreUnavailableError, "the answer is not one of S3", _TRY_LATER),
    "S3DownloadFailedError": (StoreUnavailableError, "the object was replaced while it was read", _TRY_LATER),
}


def _translation(error: Exception, operation: str, address: str, max_tries: int) -> Exception | None:
    """Give the error of ours that says the same, None for errors that are not botocore's."""
    cause = error
    if type(error).__name__ == "S3UploadFailedError" and isinstance(error.__context__, Exception):
        cause = error.__context__  # boto3 wraps the answer of S3 into a mere sentence
    if code := _code(cause):
        metadata = cause.response.get("ResponseMetadata", {})  # type: ignore[attr-defined]
        request_id = metadata.get("RequestId") or metadata.get("HTTPHeaders", {}).get("x-amz-request-id")
        facts = {"request_id": request_id, "tries": metadata.get("RetryAttempts", 0) + 1}
        if code in {"404", "NoSuchKey", "NotFound"}:
            if operation == "HeadObject":  # a HEAD has no body: only a missing bucket lets it come this far
                return BucketNotFoundError(operation, address, "there is no such bucket", _NAME_BUCKET, **facts)
            return _not_found(address)
        told = cause.response.get("Error", {}).get("Message") or code  # type: ignore[attr-defined]
        error_cls, problem, way_out = _BY_CODE.get(
            code, (StorageError, f"the store answered {code}: {told}", "See the cause.")
        )
        if told not in problem and code in _BY_CODE and not code.isdigit():
            problem = f"{problem} ({told})"
        return error_cls(operation, address, problem, way_out, **facts)
    theirs = [base.__name__ for base in type(cause).__mro__ if base.__module__.partition(".")[0] in _THEIRS]
    if not theirs:
        return None
    known = (_BY_CLASS[name] for name in theirs if name in _BY_CLASS)
    error_cls, problem, way_out = next(known, (StorageError, "the request failed", "See the cause."))
    tries = max_tries if error_cls is StoreUnavailableError else None
    return error_cls(operation, address, f"{problem} ({cause})", way_out, tries=tries)
