"""Addresses in S3: told from paths, put together and taken apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superluigi import InvalidNameError
from superluigi.storage.addresses import address_of, is_address, parts_of, parts_of_data


@given(st.text().filter(lambda name: "/" not in name), st.text())
def test_what_is_put_together_comes_apart_again(bucket: str, key: str) -> None:
    address = address_of(bucket, key)

    assert is_address(address)
    assert parts_of(address) == (bucket, key)


@pytest.mark.parametrize(
    "path", ["", "bucket/key", "/s3://bucket/key", "s3:/bucket/key", "S3://bucket/key", "gs://b/k"]
)
def test_any_other_path_is_no_address(path: str) -> None:
    assert not is_address(path)


@pytest.mark.parametrize("address", ["s3://", "s3://bucket", "s3://bucket/", "s3://bucket//", "s3:///key"])
def test_a_bucket_alone_is_no_data(address: str) -> None:
    with pytest.raises(InvalidNameError, match="names a bucket, not data"):
        parts_of_data(address)
