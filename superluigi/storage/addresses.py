"""Addresses in S3, `s3://bucket/key`: told from local paths, put together and taken apart.

Asks nobody, and judges no names: what a bucket or a key can be, targets know. The invariant: what is put together here
and taken apart again is the same bucket and key.
"""

from __future__ import annotations

from superluigi.errors import InvalidNameError

_SCHEME = "s3://"


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
