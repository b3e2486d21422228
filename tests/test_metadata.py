"""The JSON form of metadata: what is converted, what is refused, and that it reads back as the same value."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import subprocess
import sys
import uuid
from collections import OrderedDict
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superluigi import LocalFileTarget, MetadataError
from superluigi.targets.metadata import decode, encode, plain


class Colour(enum.Enum):
    RED = "red"
    NESTED = ("a", 1)


class Level(enum.IntEnum):
    HIGH = 3


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Score:
    name: str
    value: np.float64
    seen: dt.date


class Point(NamedTuple):
    x: int
    y: int


UTC = dt.timezone.utc

CONVERTED = {
    "None": (None, None),
    "a boolean": (True, True),
    "an integer": (4, 4),
    "a great integer": (2**64, 2**64),
    "a float": (0.5, 0.5),
    "text": ("x\n\u00e9\U0001f600", "x\n\u00e9\U0001f600"),
    "a lone surrogate": ("\ud800", "\ud800"),
    "a NumPy boolean": (np.bool_(True), True),
    "a NumPy int8": (np.int8(-4), -4),
    "a NumPy uint64": (np.uint64(2**64 - 1), 2**64 - 1),
    "a NumPy float32": (np.float32(0.5), 0.5),
    "a NumPy float64": (np.float64(0.5), 0.5),
    "a NumPy text": (np.str_("x"), "x"),
    "a NumPy array without dimensions": (np.array(4), 4),
    "a NumPy date": (np.datetime64("2022-12-15"), "2022-12-15"),
    "a NumPy time in seconds": (np.datetime64("2022-12-15T10:00:00"), "2022-12-15T10:00:00"),
    "a NumPy time in nanoseconds": (np.datetime64(1, "ns"), "1970-01-01T00:00:00.000000001"),
    "a NumPy time in an array": (np.array(np.datetime64("2022-12-15")), "2022-12-15"),
    "a NumPy duration in days": (np.timedelta64(2, "D"), 172800.0),
    "a NumPy duration in nanoseconds": (np.timedelta64(5, "ns"), 5e-09),
    "a pandas time": (pd.Timestamp("2022-12-15T10:00", tz="UTC"), "2022-12-15T10:00:00+00:00"),
    "a pandas duration": (pd.Timedelta("90s"), 90.0),
    "a value of a table": (pd.DataFrame({"a": [1, 2]})["a"].sum(), 3),
    "a path": (pathlib.PurePosixPath("a/b"), "a/b"),
    "a date": (dt.date(2022, 12, 15), "2022-12-15"),
    "a time": (dt.datetime(2022, 12, 15, 10, tzinfo=UTC), "2022-12-15T10:00:00+00:00"),
    "a time of day": (dt.time(10, 30), "10:30:00"),
    "a duration": (dt.timedelta(minutes=1, milliseconds=500), 60.5),
    "an enum": (Colour.RED, "red"),
    "an enum of a tuple": (Colour.NESTED, ["a", 1]),
    "an enum of integers": (Level.HIGH, 3),
    "a flag": (Access.READ | Access.WRITE, 3),
    "a decimal": (decimal.Decimal("1.10"), "1.10"),
    "a UUID": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "a list": ([1, np.int64(2), [None]], [1, 2, [None]]),
    "a tuple": ((1, "x"), [1, "x"]),
    "a named tuple": (Point(1, 2), [1, 2]),
    "a set": ({"b", "a"}, ["a", "b"]),
    "a set of several types": (frozenset({2, 10, "a", None}), sorted([2, 10, "a", None], key=json.dumps)),
    "a dict": ({"a": {"b": np.int64(1)}}, {"a": {"b": 1}}),
    "an ordered dict": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "another mapping": (MappingProxyType({"a": 1}), {"a": 1}),
    "keys of other types": (
        {1: "a", None: "b", Colour.RED: "c", dt.date(2022, 12, 15): "d", np.int64(7): "e", 0.5: "f", False: "g"},
        {"1": "a", "None": "b", "red": "c", "2022-12-15": "d", "7": "e", "0.5": "f", "False": "g"},
    ),
    "a dataclass": (
        Score("f1", np.float64(0.5), dt.date(2022, 12, 15)),
        {"name": "f1", "value": 0.5, "seen": "2022-12-15"},
    ),
    "one list twice": ([[1]] * 2, [[1], [1]]),
    "empty ones": ([{}, [], (), set()], [{}, [], [], []]),
}


@pytest.mark.parametrize(("value", "expected"), CONVERTED.values(), ids=CONVERTED)
def test_a_value_is_converted_and_reads_back(value, expected):
    converted = plain({"key": value})

    assert converted == {"key": expected}
    assert type(converted["key"]) is type(expected)
    assert decode(encode(converted)) == converted


def circle():
    holder = {"inner": []}
    holder["inner"].append(holder)
    return holder


def circle_of_dataclasses():
    first = Score("a", np.float64(1), dt.date(2022, 12, 15))
    first.value = [first]
    return first


def deep(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED = {
    "NaN": (math.nan, "key", "is nan"),
    "infinity": (math.inf, "key", "is inf"),
    "minus infinity": (-math.inf, "key", "is -inf"),
    "a NumPy NaN": (np.float32("nan"), "key", "is nan"),
    "a missing time of NumPy": (np.datetime64("NaT"), "key", "NaT"),
    "a missing time of NumPy in nanoseconds": (np.datetime64("NaT", "ns"), "key", "NaT"),
    "a missing duration of NumPy": (np.timedelta64("NaT", "ns"), "key", "NaT"),
    "a missing time of pandas": (pd.NaT, "key", "is NaT"),
    "a missing value of pandas": (pd.NA, "key", "is <NA>"),
    "a duration in months": (np.timedelta64(1, "M"), "key", "is a timedelta64"),
    "bytes": (b"x", "key", "is a bytes"),
    "NumPy bytes": (np.bytes_(b"x"), "key", "is a bytes"),
    "a complex number": (1j, "key", "is a complex"),
    "a NumPy complex number": (np.complex64(1), "key", "is a complex"),
    "a long float of NumPy": (np.longdouble(1), "key", "is a longdouble"),
    "an object": (object(), "key", "is a object"),
    "a function": (plain, "key", "is a function"),
    "a class": (Score, "key", "is a type"),
    "a generator": ((letter for letter in "ab"), "key", "is a generator"),
    "an array": (np.arange(3), "key", "is a ndarray"),
    "a table": (pd.DataFrame({"a": [1]}), "key", "is a DataFrame"),
    "an integer of thousands of digits": (10**5000, "key", "thousands of digits"),
    "something in a list": ([1, [object()]], "key[1][0]", "is a object"),
    "something in a dict": ({"a": {"b": b"x"}}, "key.a.b", "is a bytes"),
    "something in a set": ({b"x"}, "key[0]", "is a bytes"),
    "something in a dataclass": (Score("f1", math.nan, None), "key.value", "is nan"),
    "a key that is a tuple": ({("a", 1): 1}, "key.('a', 1)", "is no key"),
    "a key of bytes": ({b"a": 1}, "key.b'a'", "is a bytes"),
    "a key that is NaN": ({math.nan: 1}, "key.nan", "is nan"),
    "two keys of one text": ({1: "a", "1": "b"}, "key.1", "stands twice"),
    "a circle": (circle(), "key.inner[0]", "holds itself"),
    "a circle of dataclasses": (circle_of_dataclasses(), "key.value[0]", "holds itself"),
    "a hundred levels": (deep(100), f"key{'[0]' * 99}", "nested more than 100 levels"),
    "ten thousand levels": (deep(10_000), f"key{'[0]' * 99}", "nested more than 100 levels"),
}


@pytest.mark.parametrize(("value", "key", "problem"), REFUSED.values(), ids=REFUSED)
def test_a_value_that_json_cannot_hold_is_refused_with_its_key(value, key, problem):
    with pytest.raises(MetadataError) as caught:
        plain({"good": 1, "key": value})

    assert caught.value.key == key
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"metadata[{key!r}]")
    assert isinstance(caught.value, TypeError)


def test_metadata_that_hold_themselves_are_refused():
    metadata = {}
    metadata["self"] = metadata

    with pytest.raises(MetadataError, match=r"metadata\['self'\] holds itself"):
        plain(metadata)


def test_ninety_nine_levels_are_held():
    metadata = {"key": deep(99)}

    assert decode(encode(plain(metadata))) == metadata


def test_a_long_value_is_shown_in_part():
    class Long:
        def __repr__(self):
            return "x" * 1000

    with pytest.raises(MetadataError) as caught:
        plain({"key": Long()})

    assert f"({'x' * 57}...)" in str(caught.value)


def test_the_copy_shares_nothing_with_what_was_given():
    metadata = {"inner": {"list": [1]}}
    copied = plain(metadata)

    metadata["inner"]["list"].append(2)

    assert copied == {"inner": {"list": [1]}}


def test_a_record_is_text_that_people_can_read():
    assert encode({"name": "\u00e9", "count": 1}) == b'{\n  "name": "\xc3\xa9",\n  "count": 1\n}\n'


DAMAGED = {
    "nothing": b"",
    "half": encode({"a": [1, 2, 3]})[:-5],
    "not UTF-8": b'{"a": "\xff"}',
    "a list": b"[1, 2]",
    "a number": b"4",
    "binary": b"\x00\x01\x02",
    "too deep": b'{"a":' * 100_000,
    "an integer of thousands of digits": b'{"a": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damaged_bytes_are_no_record(data):
    assert decode(data) is None


def test_write_metadata_refuses_before_it_writes(tmp_path):
    target = LocalFileTarget(tmp_path / "a.csv")
    target.path.touch()
    target.write_metadata({"note": "old"})

    with pytest.raises(MetadataError):
        target.write_metadata({"note": {1, 2}, "bad": object()})

    assert target.read_metadata() == {"note": "old"}


def test_no_data_library_is_imported_to_convert_a_value():
    code = "import sys; from superluigi.targets.metadata import plain; plain({'a': 1.5}); print('numpy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


# Properties


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
hashables = scalars | st.dates() | st.uuids() | decimals | st.sampled_from(Colour)
scores = st.builds(Score, st.text(), st.floats(0, 1).map(np.float64), st.dates())
all_values = st.recursive(
    hashables | st.datetimes() | st.timedeltas() | scores,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(hashables, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_what_is_plain_json_stays_as_it_is(metadata):
    assert plain(metadata) == metadata
    assert decode(encode(plain(metadata))) == metadata


@given(st.dictionaries(st.text(), all_values, max_size=4))
def test_whatever_is_let_through_reads_back_as_the_same_value(metadata):
    converted = plain(metadata)

    assert decode(encode(converted)) == converted
    assert plain(converted) == converted
    assert json.loads(json.dumps(converted, allow_nan=False)) == converted


@given(st.binary())
def test_whatever_bytes_stand_there_reading_them_is_no_error(data):
    assert decode(data) is None or isinstance(decode(data), dict)


@given(st.sets(hashables))
def test_a_set_is_written_in_one_order_whatever_order_it_was_filled_in(values):
    backwards = set()
    for value in reversed(list(values)):
        backwards.add(value)

    assert plain({"key": values}) == plain({"key": backwards})
