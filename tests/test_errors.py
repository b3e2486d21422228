"""The errors: their tree, the builtins they claim to be, their messages, and what is left of them after pickling."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re

import pytest
from luigi.parameter import MissingParameterException

import superluigi
from superluigi import errors
from superluigi.errors import StorageError, SuperLuigiError, TaskFailure

REASONS = {"operation": "GetObject", "address": "s3://bucket/key", "problem": "it broke off", "way_out": "Run again."}
REQUEST = {**REASONS, "request_id": "4711", "tries": 5}

EXAMPLES = {
    "ConfigError": {"args": ("a",)},
    "UnknownTaskError": {"kwargs": {"name": "X", "root": "Root()", "candidates": ["A", "B"]}},
    "TaskTypeError": {"args": ("a",)},
    "RunSignatureError": {"kwargs": {"task_cls": "T", "unknown": ["inputs"], "offered": ["metadata"]}},
    "MissingParameterError": {"args": ("a",)},
    "CycleError": {"kwargs": {"tasks": ["A()", "B()"]}},
    "TaskFailedError": {
        "kwargs": {
            "failures": [TaskFailure(task="A()", reason="ValueError: no", exception=ValueError("no"), traceback="tb")],
            "summary": "one failed",
        }
    },
    "MetadataError": {"kwargs": {"key": "rows", "problem": "is NaN", "way_out": "Leave it out."}},
    "ExpectationError": {"kwargs": {"task_cls": "Totals", "problems": ["metadata['rows'] is 3, but was expected"]}},
    "MemoryTargetError": {"args": ("a",)},
    "TargetNotFoundError": {"args": ("a",)},
    "TargetShapeError": {"args": ("a",)},
    "MissingOutputError": {"args": ("a",)},
    "InvalidNameError": {"kwargs": {"name": "a//b", "problem": "is empty", "way_out": "Rename it."}},
    "StorageError": {"kwargs": REASONS},
    "BucketNotFoundError": {"kwargs": REQUEST},
    "AccessDeniedError": {"kwargs": REQUEST},
    "CredentialsError": {"kwargs": REQUEST},
    "StoreUnavailableError": {"kwargs": REQUEST},
    "LeaseError": {"kwargs": REASONS},
    "DiskFullError": {"kwargs": REASONS},
    "MissingExtraError": {"kwargs": {"extra": "testing", "module": "moto"}},
    "ExecutorError": {"args": ("The pool is closed. Hand over another.",)},
    "SchedulerUnavailableError": {"kwargs": {"url": "http://localhost:8082/"}},
}


def every_error() -> list[type[SuperLuigiError]]:
    """All classes of the module, the root left out."""
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, SuperLuigiError) and value is not SuperLuigiError
    ]


def example(error_cls: type[SuperLuigiError]) -> SuperLuigiError:
    arguments = EXAMPLES[error_cls.__name__]
    return error_cls(*arguments.get("args", ()), **arguments.get("kwargs", {}))


def drawn() -> dict[str, tuple[str, str | None]]:
    """The tree of the docstring: the parent of each class, and the builtin that it is said to be."""
    tree: dict[str, tuple[str, str | None]] = {}
    above = {0: "SuperLuigiError"}
    for line in inspect.getdoc(errors).splitlines():
        if drawn_as := re.match(r"^([ │]+)[├└]─ (\w+)(?: \((\w+)\))?", line):
            depth = (len(drawn_as[1]) - 5) // 4 + 1
            above[depth] = drawn_as[2]
            tree[drawn_as[2]] = above[depth - 1], drawn_as[3]
    return tree


ERRORS = pytest.mark.parametrize("error_cls", every_error(), ids=lambda error_cls: error_cls.__name__)


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    parents = {
        error_cls.__name__: next(base.__name__ for base in error_cls.__bases__ if issubclass(base, SuperLuigiError))
        for error_cls in every_error()
    }

    assert {name: parent for name, (parent, _) in drawn().items()} == parents


@ERRORS
def test_an_error_is_the_builtin_that_it_is_drawn_as(error_cls: type[SuperLuigiError]) -> None:
    _, builtin = drawn()[error_cls.__name__]

    assert builtin is None or issubclass(error_cls, getattr(builtins, builtin))
    assert any(
        base.__module__ == "builtins" and base not in (Exception, BaseException, object) for base in error_cls.__mro__
    )


@ERRORS
def test_an_error_survives_pickling_with_message_and_attributes(error_cls: type[SuperLuigiError]) -> None:
    error = example(error_cls)
    for revived in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(revived) is error_cls
        assert str(revived) == str(error)
        assert revived.args == error.args
        assert {name: str(value) for name, value in vars(revived).items()} == {
            name: str(value) for name, value in vars(error).items()
        }


@ERRORS
def test_an_error_shows_its_message_alone(error_cls: type[SuperLuigiError]) -> None:
    error = example(error_cls)

    assert str(error) == error.args[0]
    assert "[Errno" not in str(error)


@ERRORS
def test_an_error_is_exported(error_cls: type[SuperLuigiError]) -> None:
    assert error_cls.__name__ in superluigi.__all__
    assert getattr(superluigi, error_cls.__name__) is error_cls


def test_the_root_is_exported_and_no_builtin_of_its_own() -> None:
    assert "SuperLuigiError" in superluigi.__all__
    assert SuperLuigiError.__bases__ == (Exception,)
    assert str(SuperLuigiError()) == "SuperLuigiError"


def test_a_missing_parameter_is_luigis_error_too() -> None:
    assert issubclass(errors.MissingParameterError, MissingParameterException)


@pytest.mark.parametrize(
    ("candidates", "shown"),
    [
        ([], "Upstream are: no tasks."),
        (["A"], "Upstream are: A."),
        ([f"T{number}" for number in range(12)], "T8, T9, ...."),
    ],
    ids=["none", "one", "twelve"],
)
def test_an_unknown_task_is_told_what_could_be_named(candidates: list[str], shown: str) -> None:
    error = errors.UnknownTaskError("X", "Root()", candidates)

    assert shown in str(error)
    assert (error.name, error.root, error.candidates) == ("X", "Root()", tuple(candidates))


@pytest.mark.parametrize(
    ("offered", "shown"), [([], "no argument but self"), (["metadata"], "may declare metadata")], ids=["none", "one"]
)
def test_a_wrong_run_is_told_what_it_may_declare(offered: list[str], shown: str) -> None:
    assert shown in str(errors.RunSignatureError("T", ["inputs"], offered))


def test_a_cycle_is_printed_as_one() -> None:
    assert "A() -> B() -> A()" in str(errors.CycleError(["A()", "B()"]))


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "summary"), (1, "1 task failed:"), (2, "2 tasks failed:")], ids=["none", "one", "two"]
)
def test_failed_tasks_are_named_each_with_its_reason(count: int, shown: str) -> None:
    failures = [TaskFailure(task=f"T{n}()", reason=f"reason {n}", exception=None, traceback="") for n in range(count)]
    message = str(errors.TaskFailedError(failures, "summary"))

    assert message.startswith(shown)
    assert all(f"T{n}(): reason {n}" in message for n in range(count))
    assert [repr(failure) for failure in failures] == [f"TaskFailure(T{n}(): reason {n})" for n in range(count)]


@pytest.mark.parametrize(
    ("tries", "request_id", "trace"),
    [
        (None, None, "(GetObject)"),
        (1, None, "(GetObject, 1 try)"),
        (5, "4711", "(GetObject, 5 tries, request id 4711)"),
        (None, "4711", "(GetObject, request id 4711)"),
    ],
    ids=["no-request", "one-try", "tries-and-id", "id"],
)
def test_a_storage_error_says_which_request_it_was(tries: int | None, request_id: str | None, trace: str) -> None:
    error = StorageError(*REASONS.values(), tries=tries, request_id=request_id)

    assert str(error) == f"s3://bucket/key: it broke off {trace}. Run again."
    assert (error.operation, error.address, error.tries, error.request_id) == (
        "GetObject",
        "s3://bucket/key",
        tries,
        request_id,
    )


def test_an_argument_that_is_positional_only_is_told_to_be_handed_over_by_name() -> None:
    alone = str(errors.RunSignatureError("T", ["output_path"], ["input_path", "output_path"]))
    both = str(errors.RunSignatureError("T", ["output_path", "x"], ["input_path", "output_path"]))

    assert alone == (
        "T.run declares 'output_path' by position alone, but arguments are handed over by name. "
        "Take the '/' out of its signature."
    )
    assert both.startswith(alone)
    assert "T.run declares 'x', but may declare input_path, output_path" in both
