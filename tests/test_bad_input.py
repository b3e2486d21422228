"""What bad input gets: an error of its own that is also the builtin, what is so, what was expected, the way out.

Each row calls what a user calls. `is so`, `expected` and `way out` are parts of the one sentence that the user reads.
"""

import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import luigi
import pytest
from botocore.config import Config

from superluigi import (
    AccessDeniedError,
    AtomicTaskWithMetadata,
    BucketNotFoundError,
    ConfigError,
    CredentialsError,
    External,
    InvalidNameError,
    LocalFileTarget,
    LocalFolderTarget,
    MissingOutputError,
    MissingParameterError,
    RunSignatureError,
    S3ObjectTarget,
    S3PrefixTarget,
    StoreUnavailableError,
    SuperLuigiError,
    Target,
    TargetNotFoundError,
    TargetShapeError,
    Task,
    TaskFailedError,
    TaskTypeError,
    UnknownTaskError,
    run_task,
)


class Makes(AtomicTaskWithMetadata):
    """Writes its one file where it is told to."""

    target: Target = LocalFileTarget("made.csv")

    def output(self) -> Target:
        return type(self).target

    def run(self, output_path: Path) -> None:
        output_path.write_text("x")


class MakesFolder(Makes):
    """Writes a folder where a file was promised."""

    def run(self, output_path: Path) -> None:
        output_path.mkdir()


class MakesNothing(Makes):
    """Writes nothing where a file was promised."""

    def run(self, output_path: Path) -> None:
        pass


class MakesFile(MakesFolder):
    """Writes a file where a folder was promised."""

    target = LocalFolderTarget("folder")

    def run(self, output_path: Path) -> None:
        output_path.rmdir()
        output_path.write_text("x")


class Needy(Task):
    """Has a parameter that must be given."""

    day = luigi.DateParameter()


class Forgetful(Task):
    """Does not call Luigi's constructor."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


class Misspelt(Makes):
    """Declares an argument that is not offered."""

    def run(self, output: Path) -> None:
        pass


class GivesText(Makes):
    """Gives a path where a target is expected."""

    def output(self) -> Any:
        return "made.csv"


class YieldsText(Makes):
    """Yields what is no task."""

    def run(self, output_path: Path) -> Any:
        yield "Makes"


class HasNoRun(AtomicTaskWithMetadata):
    """Promises an output that nothing writes."""

    def output(self) -> Target:
        return LocalFileTarget("made.csv")


class HasNoOutput(AtomicTaskWithMetadata):
    """Declares a path that nothing names."""

    def run(self, output_path: Path) -> None:
        output_path.write_text("x")


class NotATask:
    """A class of something else."""


def row(
    name: str, call: Callable[..., Any], error_cls: type[Exception], parent: type[Exception], *parts: str, **marks: Any
) -> Any:
    return pytest.param(call, error_cls, parent, parts, id=name, **marks)


def made_at(target: Any, monkeypatch: pytest.MonkeyPatch) -> Makes:
    monkeypatch.setattr(Makes, "target", target)
    return Makes()


def check(error: BaseException, error_cls: type[Exception], parent: type[Exception], parts: tuple[str, ...]) -> None:
    """The class, its builtin parent, every part of the sentence, and the same again on the other side of a pipe."""
    message = str(error)
    assert type(error) is error_cls
    assert isinstance(error, SuperLuigiError)
    assert isinstance(error, parent)
    assert [part for part in parts if part not in message] == []
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_cls
    assert str(copy) == message
    assert vars(copy).keys() == vars(error).keys()


TASK_WAY_OUT = "Give a task, a task class, or a list of them."
NAMING = [
    row("number-as-task", lambda: run_task(3), TaskTypeError, TypeError, "was given 3, a int", TASK_WAY_OUT),
    row("text-as-task", lambda: run_task("Makes"), TaskTypeError, TypeError, "'Makes', a str", TASK_WAY_OUT),
    row("none-as-task", lambda: run_task(None), TaskTypeError, TypeError, "None, a NoneType", TASK_WAY_OUT),
    row("target-as-task", lambda: run_task(LocalFileTarget("a")), TaskTypeError, TypeError, "'a'", TASK_WAY_OUT),
    row("class-of-no-task", lambda: run_task(NotATask), TaskTypeError, TypeError, "NotATask", TASK_WAY_OUT),
    row("dict-as-task", lambda: run_task({"a": Makes()}), TaskTypeError, TypeError, "a dict", TASK_WAY_OUT),
    row("number-among-tasks", lambda: run_task([Makes(), 3]), TaskTypeError, TypeError, "given 3", TASK_WAY_OUT),
    row("no-tasks", lambda: run_task([]), TaskTypeError, TypeError, "an empty list", "Give a task"),
    row(
        "constructor-not-called",
        lambda: run_task(Forgetful()),
        TaskTypeError,
        TypeError,
        "Forgetful overrides __init__ without calling super().__init__",
        "Add the call",
    ),
    row(
        "missing-parameter",
        lambda: run_task(Needy),
        MissingParameterError,
        ValueError,
        "Needy",
        "requires the 'day' parameter to be set",
        "Give a task instead of its class, such as Needy(...)",
        "config={'Needy': {...}}",
    ),
    row(
        "missing-parameter-is-luigis-too",
        lambda: run_task([Makes(), Needy]),
        MissingParameterError,
        luigi.parameter.MissingParameterException,
        "'day'",
    ),
    row(
        "unknown-task",
        lambda: run_task(Makes(), force_upstream_to_task_cls="Nowhere"),
        UnknownTaskError,
        ValueError,
        "Nowhere was to be forced, but Makes() does not require it",
        "Upstream are: no tasks",
        "For the task itself say force=True",
    ),
    row(
        "wrong-value-of-a-setting",
        lambda: run_task(Makes(), config={"superluigi": {"input_mode": "lnk"}}),
        ConfigError,
        ValueError,
        "input_mode is 'lnk'",
        "takes copy or link",
    ),
    row(
        "raise-with-workers",
        lambda: run_task(Makes(), raise_exception=True, num_workers=2),
        ConfigError,
        ValueError,
        "num_workers is 2",
        "needs the tasks in this process",
        "Leave out num_workers",
    ),
    # Names of objects, prefixes and buckets
    row(
        "empty-key", lambda: S3ObjectTarget("b-b", ""), InvalidNameError, ValueError, "'' is an empty key", "Give a key"
    ),
    row("slashes-as-key", lambda: S3ObjectTarget("b-b", "//"), InvalidNameError, ValueError, "'//' is an empty key"),
    row(
        "empty-prefix", lambda: S3PrefixTarget("b-b", ""), InvalidNameError, ValueError, "is an empty key", "Give a key"
    ),
    row(
        "absolute-key",
        lambda: S3ObjectTarget("b-b", "/data/a.csv"),
        InvalidNameError,
        ValueError,
        "'/data/a.csv' is an absolute key",
        "Leave out the slash at its start: 'data/a.csv'",
    ),
    row("absolute-prefix", lambda: S3PrefixTarget("b-b", "/data"), InvalidNameError, ValueError, "absolute", "'data'"),
    row(
        "address-as-key",
        lambda: S3ObjectTarget("b-b", "s3://b-b/a"),
        InvalidNameError,
        ValueError,
        "is an address, not a key",
        "Give bucket and key as two arguments",
    ),
    row(
        "prefix-as-object",
        lambda: S3ObjectTarget("b-b", "data/"),
        InvalidNameError,
        ValueError,
        "'data/' ends in a slash",
        "names a prefix",
        "Use S3PrefixTarget",
    ),
    row("nul-in-key", lambda: S3ObjectTarget("b-b", "a\0b"), InvalidNameError, ValueError, "holds a NUL character"),
    row(
        "key-too-long",
        lambda: S3ObjectTarget("b-b", "ä" * 600),
        InvalidNameError,
        ValueError,
        "has 1200 bytes",
        "S3 allows 1024",
        "Shorten it",
    ),
    row(
        "key-not-unicode", lambda: S3ObjectTarget("b-b", "\ud800"), InvalidNameError, ValueError, "UTF-8", "Give a key"
    ),
    row("number-as-key", lambda: S3ObjectTarget("b-b", 3), InvalidNameError, ValueError, "'3'", "Give a key"),
    row(
        "empty-bucket",
        lambda: S3ObjectTarget("", "a"),
        InvalidNameError,
        ValueError,
        "cannot be the name",
        "'my-bucket'",
    ),
    row("address-as-bucket", lambda: S3PrefixTarget("s3://b-b", "a"), InvalidNameError, ValueError, "bare name"),
    row(
        "key-in-bucket",
        lambda: S3ObjectTarget("b-b/data", "a"),
        InvalidNameError,
        ValueError,
        "'b-b/data'",
        "bare name",
    ),
    row(
        "two-places-for-the-record-of-a-prefix",
        lambda: S3PrefixTarget("b-b", "a", metadata_object_key="m", metadata_inside_prefix=True),
        InvalidNameError,
        ValueError,
        "'m' is given together with metadata_inside_prefix",
        "Give one of the two",
    ),
    # Names of files and folders
    row(
        "empty-path", lambda: LocalFileTarget(""), InvalidNameError, ValueError, "'' names no file", "Give the path of"
    ),
    row(
        "dot-as-path", lambda: LocalFileTarget("."), InvalidNameError, ValueError, "'.' names no file", "Give the path"
    ),
    row("root-as-path", lambda: LocalFolderTarget("/"), InvalidNameError, ValueError, "'/' names no file or folder"),
    row("nul-in-path", lambda: LocalFileTarget("a\0b"), InvalidNameError, ValueError, "holds a NUL character"),
    row(
        "address-as-path",
        lambda: LocalFileTarget("s3://b-b/a"),
        InvalidNameError,
        ValueError,
        "is an address in S3, not a local path",
        "Use S3ObjectTarget or S3PrefixTarget",
    ),
    row(
        "two-places-for-the-record-of-a-folder",
        lambda: LocalFolderTarget("a", "m", metadata_inside_folder=True),
        InvalidNameError,
        ValueError,
        "'m' is given together with metadata_inside_folder",
        "Give one of the two",
    ),
    row(
        "bucket-as-external",
        lambda: External("s3://b-b").output(),
        InvalidNameError,
        ValueError,
        "'s3://b-b' names a bucket, not data",
        "Give s3://bucket/key or s3://bucket/prefix/",
    ),
    row(
        "mode-of-open",
        lambda: LocalFileTarget("a").open("a").__enter__(),
        ConfigError,
        ValueError,
        "'a' is no mode of a target",
        "Use 'r', 'rb', 'w' or 'wb'",
    ),
    row(
        "open-of-a-folder",
        lambda: LocalFolderTarget("a").open("r").__enter__(),
        TargetShapeError,
        ValueError,
        "a is a folder and cannot be opened",
        "Use tmp_read_path() or tmp_write_path()",
    ),
    row(
        "absent-file", lambda: LocalFileTarget("no.csv").fingerprint(), TargetNotFoundError, FileNotFoundError, "no.csv"
    ),
]


@pytest.mark.parametrize(("call", "error_cls", "parent", "parts"), NAMING)
def test_what_cannot_be_named_gets_an_error_of_its_own(
    call: Callable[[], Any], error_cls: type[Exception], parent: type[Exception], parts: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(error_cls) as caught:
        call()

    check(caught.value, error_cls, parent, parts)
    assert list(tmp_path.iterdir()) == []


# What a run leaves, and what stands where a target should be

LEFT = [
    row(
        "folder-for-a-file",
        MakesFolder,
        TargetShapeError,
        ValueError,
        "A folder was written for made.csv",
        "LocalFileTarget holds one file",
        "use LocalFolderTarget",
    ),
    row(
        "file-for-a-folder",
        MakesFile,
        TargetShapeError,
        ValueError,
        "A file was written for folder",
        "LocalFolderTarget holds a folder of files",
        "use LocalFileTarget",
    ),
    row(
        "nothing",
        MakesNothing,
        MissingOutputError,
        ValueError,
        "Nothing was written for made.csv",
        "LocalFileTarget holds one file",
        "Write it to the path that was given",
    ),
    row(
        "unknown-argument",
        Misspelt,
        RunSignatureError,
        TypeError,
        "Misspelt.run declares 'output'",
        "may declare input_path, output_path, metadata",
        "Rename the argument",
    ),
    row(
        "text-as-output",
        GivesText,
        TaskTypeError,
        TypeError,
        "GivesText.output() gives 'made.csv', a str",
        "Give targets",
        "LocalFileTarget(path)",
    ),
    row("text-yielded", YieldsText, TaskTypeError, TypeError, "run() yields 'Makes', a str", "Give tasks"),
    row(
        "no-run",
        HasNoRun,
        MissingOutputError,
        ValueError,
        "HasNoRun has no run(), so nothing writes made.csv",
        "Write run(self, output_path), or derive from ExternalTask",
    ),
    row(
        "no-output",
        HasNoOutput,
        RunSignatureError,
        TypeError,
        "HasNoOutput.run declares 'output_path'",
        "has no output()",
        "Write output(self)",
        marks=pytest.mark.filterwarnings("ignore:Task .* without outputs has no custom complete:UserWarning"),
    ),
]


@pytest.mark.parametrize("num_workers", [1, 2], ids=["1-worker", "2-workers"])
@pytest.mark.parametrize(("task_cls", "error_cls", "parent", "parts"), LEFT)
def test_what_a_run_does_wrong_gets_an_error_of_its_own(
    task_cls: type[Task], error_cls: type[Exception], parent: type[Exception], parts: tuple[str, ...], num_workers: int
) -> None:
    with pytest.raises(TaskFailedError) as caught:
        run_task(task_cls(), num_workers=num_workers)

    assert caught.value.__cause__ is not None
    check(caught.value.__cause__, error_cls, parent, parts)
    assert caught.value.failures[0].exception is caught.value.__cause__
    assert f"{task_cls.__name__}(): {error_cls.__name__}: " in str(caught.value)
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_stands_where_a_file_is_expected(tmp_path: Path) -> None:
    (tmp_path / "made.csv").mkdir()

    for call in (LocalFileTarget("made.csv").exists, lambda: run_task(Makes(), raise_exception=True)):
        with pytest.raises(TargetShapeError) as caught:
            call()
        parts = "made.csv is a folder", "one file was expected", "Use LocalFolderTarget"
        check(caught.value, TargetShapeError, ValueError, parts)


def test_a_file_stands_where_a_folder_is_expected(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("x")

    for call in (LocalFolderTarget("raw").exists, lambda: run_task(External("raw/"), raise_exception=True)):
        with pytest.raises(TargetShapeError) as caught:
            call()
        check(caught.value, TargetShapeError, ValueError, ("raw is a file", "a folder of files", "Use LocalFileTarget"))


def test_a_prefix_stands_where_an_object_is_expected(s3: Any) -> None:
    s3.put("data/x/1")
    s3.put("data/x/2")

    with pytest.raises(TargetShapeError) as caught:
        S3ObjectTarget(s3.bucket, "data/x").download()

    parts = "is a prefix holding 2 objects", "S3ObjectTarget expects one object", "Use S3PrefixTarget"
    check(caught.value, TargetShapeError, ValueError, (f"s3://{s3.bucket}/data/x ", *parts))


def test_an_object_stands_where_a_prefix_is_expected(s3: Any) -> None:
    s3.put("data/x")

    with pytest.raises(TargetShapeError) as caught:
        S3PrefixTarget(s3.bucket, "data/x").download()

    parts = "is one object", "S3PrefixTarget expects a prefix", "Use S3ObjectTarget"
    check(caught.value, TargetShapeError, ValueError, (f"s3://{s3.bucket}/data/x ", *parts))


# Stores that refuse

ONE_TRY = {"config": Config(retries={"total_max_attempts": 1}, connect_timeout=5)}


def write(target: Target) -> None:
    with target.tmp_write_path() as path:
        (path / "part" if target.shape.name == "FOLDER" else path).write_text("x")


USES: dict[str, Callable[[Any], Any]] = {
    "exists": lambda target: target.exists(),
    "read": lambda target: target.tmp_read_path().__enter__(),
    "write": write,
    "download": lambda target: target.download(),
    "fingerprint": lambda target: target.fingerprint(),
    "read-metadata": lambda target: target.read_metadata(),
    "write-metadata": lambda target: target.write_metadata({}),
    "remove": lambda target: target.remove(),
}
EVERY_USE = pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
EVERY_TARGET = pytest.mark.parametrize("target_cls", [S3ObjectTarget, S3PrefixTarget], ids=["object", "prefix"])


@pytest.fixture
def forbidding() -> Iterator[str]:
    """The address of a store that refuses every request as S3 does."""

    class Refusal(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            if self.raw_requestline and self.parse_request():
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
                self.send_response(403)
                self.send_header("x-amz-request-id", "REQUEST-ID")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that nobody asks about."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@EVERY_USE
@EVERY_TARGET
@pytest.mark.usefixtures("credentials")
def test_a_store_that_denies_access_is_named_with_the_request(
    use: Callable[[Any], Any], target_cls: Any, forbidding: str
) -> None:
    target = target_cls("forbidden-bucket", "data/x", endpoint_url=forbidding, **ONE_TRY)

    with pytest.raises(AccessDeniedError) as caught:
        use(target)

    parts = "s3://forbidden-bucket", "access is denied", "1 try, request id REQUEST-ID", "Ask for the permission"
    check(caught.value, AccessDeniedError, PermissionError, parts)
    assert "secret" not in str(caught.value)


@EVERY_USE
@EVERY_TARGET
def test_an_unknown_bucket_is_named(use: Callable[[Any], Any], target_cls: Any, bucket: str) -> None:
    target = target_cls(f"{bucket}-x", "data/x")

    with pytest.raises(BucketNotFoundError) as caught:
        use(target)

    parts = f"s3://{bucket}-x", "there is no such bucket", "Create the bucket, or correct its name"
    check(caught.value, BucketNotFoundError, FileNotFoundError, parts)
    assert caught.value.operation
    assert caught.value.__cause__ is not None


@EVERY_USE
@EVERY_TARGET
@pytest.mark.usefixtures("bucket")
def test_without_credentials_the_error_says_how_to_get_some(
    use: Callable[[Any], Any], target_cls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)

    with pytest.raises(CredentialsError) as caught:
        use(target_cls("some-bucket", "data/x"))

    parts = "s3://some-bucket", "there are no credentials", "Set AWS_PROFILE or AWS_ACCESS_KEY_ID", "aws sso login"
    check(caught.value, CredentialsError, PermissionError, parts)


@EVERY_TARGET
def test_a_profile_that_does_not_exist_is_named(target_cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobodys")

    with pytest.raises(CredentialsError) as caught:
        target_cls("some-bucket", "data/x").exists()

    check(caught.value, CredentialsError, PermissionError, ("the profile does not exist", "nobodys", "Set AWS_PROFILE"))


@EVERY_TARGET
@pytest.mark.usefixtures("credentials")
def test_a_store_that_does_not_answer_is_named(target_cls: Any) -> None:
    target = target_cls("some-bucket", "data/x", endpoint_url="http://127.0.0.1:1", **ONE_TRY)

    with pytest.raises(StoreUnavailableError) as caught:
        target.exists()

    parts = "s3://some-bucket/data/x", "the connection failed", "See that the endpoint is right", "run again"
    check(caught.value, StoreUnavailableError, ConnectionError, parts)


@EVERY_TARGET
def test_an_absent_object_or_prefix_is_named(target_cls: Any, bucket: str) -> None:
    with pytest.raises(TargetNotFoundError) as caught:
        target_cls(bucket, "data/x").download()

    parts = f"s3://{bucket}/data/x", "does not exist", "Run the task that makes it, or correct the path"
    check(caught.value, TargetNotFoundError, FileNotFoundError, parts)


@pytest.mark.parametrize("num_workers", [1, 2], ids=["1-worker", "2-workers"])
@EVERY_TARGET
def test_run_task_names_the_task_whose_bucket_does_not_exist(
    target_cls: Any, num_workers: int, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = made_at(target_cls(f"{bucket}-x", "data/x"), monkeypatch)

    with pytest.raises(TaskFailedError, match=r"^1 task failed:\n  Makes\(\): BucketNotFoundError: s3://") as caught:
        run_task(task, num_workers=num_workers)

    cause = caught.value.__cause__
    assert cause is not None
    check(cause, BucketNotFoundError, FileNotFoundError, (f"s3://{bucket}-x", "no such bucket", "Create the bucket"))


@pytest.mark.usefixtures("credentials")
def test_run_task_names_the_task_that_is_denied_access(forbidding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = made_at(S3ObjectTarget("forbidden-bucket", "x", endpoint_url=forbidding, **ONE_TRY), monkeypatch)

    with pytest.raises(TaskFailedError, match=r"Makes\(\): AccessDeniedError: s3://forbidden-bucket/x"):
        run_task(task)
    with pytest.raises(AccessDeniedError):
        run_task(task, raise_exception=True)


@pytest.mark.usefixtures("bucket")
def test_run_task_names_the_task_that_has_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    task = made_at(S3PrefixTarget("some-bucket", "x"), monkeypatch)

    with pytest.raises(TaskFailedError, match=r"Makes\(\): CredentialsError: s3://some-bucket"):
        run_task(task)


def test_external_data_in_an_unknown_bucket_are_named_with_the_task(bucket: str) -> None:
    with pytest.raises(TaskFailedError, match=r"External\(path=s3://.*-x/raw.csv\): BucketNotFoundError"):
        run_task(External(f"s3://{bucket}-x/raw.csv"))


@pytest.mark.parametrize(("value", "parent"), [("Monday", ValueError), ("", ValueError)], ids=["not-a-date", "empty"])
def test_a_parameter_in_the_configuration_that_cannot_be_parsed_is_named(value: str, parent: type[Exception]) -> None:
    with pytest.raises(parent, match=r"Needy.*'day'"):
        run_task(Needy, config={"Needy": {"day": value}})
