"""What the errors of S3 and of boto3 mean, in our words: one table by S3's codes, one by the names of their classes.

boto3 is not imported here: its errors are recognised by their names. The invariant: every error of theirs has a
translation, and no error of anybody else's has one.
"""

from __future__ import annotations

from superluigi.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    CredentialsError,
    LeaseError,
    StorageError,
    StoreUnavailableError,
    TargetNotFoundError,
)

# What stands in the way of everything that is asked of a bucket: for one object of it as for the next.
OF_THE_WHOLE_BUCKET = (BucketNotFoundError, CredentialsError, StoreUnavailableError)
NOT_THERE = frozenset({"404", "NoSuchKey", "NotFound"})  # the codes of an object that is absent

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
# of theirs the last lines of `translation` have a word.
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


def translation(error: Exception, operation: str, address: str, max_tries: int) -> Exception | None:
    """Give the error of ours that says the same, None for errors that are not botocore's."""
    cause = error
    if type(error).__name__ == "S3UploadFailedError" and isinstance(error.__context__, Exception):
        cause = error.__context__  # boto3 wraps the answer of S3 into a mere sentence
    if code := code_of(cause):
        metadata = cause.response.get("ResponseMetadata", {})  # type: ignore[attr-defined]
        request_id = metadata.get("RequestId") or metadata.get("HTTPHeaders", {}).get("x-amz-request-id")
        facts = {"request_id": request_id, "tries": metadata.get("RetryAttempts", 0) + 1}
        if code in NOT_THERE:
            if operation in ("HeadObject", "HeadBucket"):  # without a body; only a missing bucket comes this far
                return BucketNotFoundError(operation, address, "there is no such bucket", _NAME_BUCKET, **facts)
            return TargetNotFoundError.at(address)
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


def code_of(error: BaseException) -> str:
    """Give the code that S3 answered with, or the status as text, or nothing if the error is no answer of S3."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def no_conditional_put(address: str, evidence: str) -> LeaseError:
    """Give the error of a store in which nobody can hold a lease; `evidence` says how that came out."""
    return LeaseError(
        "PutObject",
        address,
        f"the store has no conditional PUT ({evidence}), but a lease is written with If-None-Match and If-Match",
        "Use a store that has them, as Amazon S3 does, or let runs share a central scheduler (luigid), "
        "or leave out single_flight.",
    )
