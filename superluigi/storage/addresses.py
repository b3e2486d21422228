"""Addresses in S3, `s3://bucket/key`: told from local paths, put together and taken apart; what S3 takes for names.

Asks nobody. The invariant: what is put together here and taken apart again is the same bucket and key.
"""

from __future__ import annotations

import re

from superluigi.errors import InvalidNameError

_SCHEME = "s3://"
_MAX_KEY_BYTES = 1024
_DIRECTORY_SUFFIX = "--x-s3"  # see the S3 user guide, "Directory bucket naming rules"
_BUCKET = r"arn:[\w:/.-]+|[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]"


def is_address(path: str) -> bool:
    """Say whether it is an address, and not a local path."""
    return path.startswith(_SCHEME)


def address_of(bucket: str, key: str = "") -> str:
    """Give the address of an object or a prefix, without a key that of the bucket."""
    return f"{_SCHEME}{bucket}/{key}" if key else f"{_SCHEME}{bucket}"


def parts_of(address: str) -> tuple[str, str]:
    """Give bucket and key, of which either may be empty."""
    bucket, _, key = address.removeprefix(_SCHEME).partition("/")
    return bucket, key


def parts_of_data(address: str) -> tuple[str, str]:
    """Give bucket and key of what can be data.

    Raises:
        InvalidNameError: it names no more than a bucket.
    """
    bucket, key = parts_of(address)
    if not bucket or not key.strip("/"):
        raise InvalidNameError(address, "names a bucket, not data", "Give s3://bucket/key or s3://bucket/prefix/.")
    return bucket, key


def is_directory_bucket(bucket: str) -> bool:
    """Say whether a bucket is one of S3 Express, which lists without order and knows one style of addresses."""
    return bucket.endswith(_DIRECTORY_SUFFIX)


def checked_bucket(bucket: object) -> str:
    """Give the name of a bucket.

    Raises:
        InvalidNameError: it cannot be one.
    """
    if isinstance(bucket, str) and re.fullmatch(_BUCKET, bucket) and ".." not in bucket:
        return bucket
    way_out = "Give its bare name, such as 'my-bucket', or the ARN of an access point."
    raise InvalidNameError(str(bucket), "cannot be the name of a bucket", way_out)


def checked_key(key: object) -> str:
    """Give a key.

    Raises:
        InvalidNameError: S3 cannot hold it, or its local copy could not be told from that of another key.
    """
    way_out = "Give a key such as 'data/features.csv'."
    if not isinstance(key, str) or not key.strip("/ "):
        raise InvalidNameError(str(key), "is an empty key", way_out)
    if is_address(key):
        raise InvalidNameError(key, "is an address, not a key", "Give bucket and key as two arguments.")
    if key.startswith("/"):
        raise InvalidNameError(key, "is an absolute key", f"Leave out the slash at its start: {key.lstrip('/')!r}.")
    if "\0" in key:
        raise InvalidNameError(key, "holds a NUL character", way_out)
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidNameError(key, "cannot be written as UTF-8", way_out) from None
    if length > _MAX_KEY_BYTES:
        raise InvalidNameError(key, f"has {length} bytes, but S3 allows {_MAX_KEY_BYTES}", "Shorten it.")
    return key
