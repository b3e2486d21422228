"""The lineage record: what is in it, what is never in it, and that it is always the record of the data beside it."""

import datetime as dt
import getpass
import json
import os
import platform
import socket
import subprocess
import sys
import threading
from pathlib import Path

import boto3
import hypothesis
import luigi
import pandas as pd
import pytest
from example_tasks import Letter, both_ways, leftovers
from hypothesis import given
from hypothesis import strategies as st
from luigi.parameter import ParameterVisibility

import superluigi
from superluigi import (
    AtomicTaskWithMetadata,
    DateParameter,
    External,
    IntParameter,
    LocalFileTarget,
    LocalFolderTarget,
    MetadataError,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    TargetNotFoundError,
    TaskWithMetadata,
    identity,
    provenance,
    run_task,
)
from superluigi.storage import files
from superluigi.targets.metadata import RECORD_FIELDS

FIELDS = [
    "schema",
    "task_family",
    "task_module",
    "task_id",
    "task_hash",
    "version",
    "code",
    "params",
    "input",
    "output",
    "start_time",
    "end_time",
    "duration",
    "run_id",
    "log_path",
    "host",
    "user",
    "python",
    "packages",
    "git_commit",
    "git_dirty",
]


class Base(AtomicTaskWithMetadata):
    """Promises `out.txt` in its folder and writes it; a test gives the rest."""

    folder = Parameter()

    def output(self):
        return LocalFileTarget(Path(self.folder, "out.txt"))

    def run(self, output_path, metadata):
        output_path.write_text("text")


class Versioned(Base):
    __version__ = 7
    date = DateParameter()
    retries = IntParameter(default=3, significant=False)

    def requires(self):
        return {"letters": [Letter(folder=self.folder, letter=letter) for letter in "ab"]}

    def run(self, output_path, metadata):
        metadata["row_count"] = 2
        metadata["scores"] = {"f1": 0.5}
        output_path.write_text("text")


# Every field


@both_ways
def test_the_record_has_every_field_and_what_the_task_put_into_metadata(run, tmp_path):
    task = Versioned(folder=str(tmp_path), date=dt.date(2022, 12, 15))

    run(task)

    record = json.loads((tmp_path / "out.txt.metadata.json").read_bytes())
    assert list(record) == [*FIELDS, "row_count", "scores"]
    assert record["schema"] == "superluigi/1"
    assert record["task_family"] == "Versioned"
    assert record["task_module"] == __name__
    assert record["task_id"] == record["task_hash"] == task.task_id
    assert record["version"] == "7"
    assert record["code"] == identity.code_fingerprint(Versioned)
    assert record["params"] == {"date": "2022-12-15", "folder": str(tmp_path), "retries": "3"}
    assert record["host"] == socket.gethostname()
    assert record["user"] == getpass.getuser()
    assert record["python"] == platform.python_version()
    assert record["packages"]["luigi"] == luigi.__version__
    assert record["packages"]["superluigi"] == superluigi.__version__
    assert record["packages"]["pandas"] == pd.__version__
    assert record["row_count"] == 2
    assert record["scores"] == {"f1": 0.5}
    assert task.output().read_metadata() == record


def test_the_times_of_the_record_are_utc_and_agree(tmp_path):
    before = dt.datetime.now(dt.timezone.utc)
    run_task(Base(folder=str(tmp_path)))
    after = dt.datetime.now(dt.timezone.utc)

    record = Base(folder=str(tmp_path)).output().read_metadata()
    start, end = (dt.datetime.fromisoformat(record[name]) for name in ("start_time", "end_time"))
    assert start.utcoffset() == dt.timedelta(0)
    assert before <= start <= end <= after
    assert record["duration"] == (end - start).total_seconds()


def test_a_class_without_version_is_recorded_without_one(tmp_path):
    run_task(Base(folder=str(tmp_path)))

    assert Base(folder=str(tmp_path)).output().read_metadata()["version"] is None


def test_all_records_of_one_run_bear_its_id_and_no_other_run_does(tmp_path):
    task = Versioned(folder=str(tmp_path), date=dt.date(2022, 12, 15))

    def ids():
        return {target.read_metadata()["run_id"] for target in (task.output(), *task.input()["letters"])}

    run_task(task, num_workers=2)
    (first,) = ids()
    run_task(task, force_upstream=True)
    (second,) = ids()

    assert first != second
    assert len(first) == 32


def test_outside_a_run_all_records_of_the_process_bear_one_id(tmp_path):
    for letter in "ab":
        Letter(folder=str(tmp_path), letter=letter).run()

    ids = {Letter(folder=str(tmp_path), letter=letter).output().read_metadata()["run_id"] for letter in "ab"}
    assert len(ids) == 1


def test_the_code_of_a_class_that_has_no_source_is_unknown(tmp_path):
    namespace = {"__name__": "typed_in", "Base": Base}
    exec("class Typed(Base):\n    pass", namespace)

    run_task(namespace["Typed"](folder=str(tmp_path)))

    record = Base(folder=str(tmp_path)).output().read_metadata()
    assert record["code"] is None
    assert record["task_module"] == "typed_in"


def test_an_unknown_user_does_not_stop_a_run(tmp_path, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    provenance.user.cache_clear()

    run_task(Base(folder=str(tmp_path)))
    provenance.user.cache_clear()

    assert Base(folder=str(tmp_path)).output().read_metadata()["user"] is None


# Input: one level deep, mirroring requires()


def test_the_record_names_its_direct_inputs_and_not_theirs(tmp_path):
    class Last(AtomicTaskWithMetadata):
        def requires(self):
            return Versioned(folder=str(tmp_path), date=dt.date(2022, 12, 15))

        def output(self):
            return LocalFileTarget(tmp_path / "last.txt")

        def run(self, output_path):
            output_path.touch()

    run_task(Last())

    middle = Last().requires()
    record = Last().output().read_metadata()
    assert record["input"] == {
        "path": str(tmp_path / "out.txt"),
        "fingerprint": files.digest(tmp_path / "out.txt"),
        "task_family": "Versioned",
        "task_id": middle.task_id,
        "metadata_path": str(tmp_path / "out.txt.metadata.json"),
    }
    assert "a.txt" not in json.dumps(record)
    letters = middle.output().read_metadata()["input"]["letters"]
    assert [described["path"] for described in letters] == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert middle.output().read_metadata()["output"]["fingerprint"] == record["input"]["fingerprint"]


def test_an_input_with_several_outputs_is_described_in_their_nesting(tmp_path):
    class Two(AtomicTaskWithMetadata):
        def output(self):
            return {"x": LocalFileTarget(tmp_path / "x"), "y": [LocalFolderTarget(tmp_path / "y")]}

        def run(self, output_path):
            output_path["x"].touch()
            (output_path["y"][0] / "part").touch()

    class Reader(Base):
        def requires(self):
            return [Two()]

    run_task(Reader(folder=str(tmp_path)))

    (described,) = Reader(folder=str(tmp_path)).output().read_metadata()["input"]
    assert described["x"]["fingerprint"] == files.digest(tmp_path / "x")
    assert described["y"][0]["fingerprint"] == LocalFolderTarget(tmp_path / "y").fingerprint()
    assert described["x"]["task_id"] == described["y"][0]["task_id"] == Two().task_id


@both_ways
def test_requires_may_have_keys_that_json_cannot_hold(run, tmp_path):
    class Reader(Base):
        def requires(self):
            letters = [Letter(folder=self.folder, letter=letter) for letter in "abcd"]
            return dict(zip([("a", 1), dt.date(2022, 12, 15), 1, "1"], letters, strict=True))

    run(Reader(folder=str(tmp_path)))

    described = Reader(folder=str(tmp_path)).output().read_metadata()["input"]
    assert {key: Path(value["path"]).stem for key, value in described.items()} == {
        "('a', 1)": "a",
        "2022-12-15": "b",
        "1": "c",
        "str:1": "d",
    }


def test_inputs_in_s3_are_recorded_with_the_fingerprint_of_the_object(bucket, tmp_path):
    boto3.client("s3").put_object(Bucket=bucket, Key="raw/a.csv", Body=b"1,2")

    class Made(AtomicTaskWithMetadata):
        def output(self):
            return S3PrefixTarget(bucket, "made")

        def run(self, output_path):
            (output_path / "part").write_text("made")

    class Reader(Base):
        def requires(self):
            return [External(f"s3://{bucket}/raw/a.csv"), External(f"s3://{bucket}/raw/"), Made()]

    run_task(Reader(folder=str(tmp_path)))

    given, prefix, made = Reader(folder=str(tmp_path)).output().read_metadata()["input"]
    assert given["path"] == f"s3://{bucket}/raw/a.csv"
    assert given["fingerprint"].startswith("etag:")
    assert prefix["fingerprint"] == S3PrefixTarget(bucket, "raw").fingerprint()
    assert made["metadata_path"] == f"s3://{bucket}/made.metadata.json"
    assert made["fingerprint"] == Made().output().read_metadata()["output"]["fingerprint"]


def test_tasks_that_a_run_yielded_are_recorded_in_the_order_of_the_yields(tmp_path):
    class Dynamic(Base):
        def run(self, output_path):
            yield {"first": Letter(folder=self.folder, letter="a")}
            yield [Letter(folder=self.folder, letter="b")]
            output_path.touch()

    run_task(Dynamic(folder=str(tmp_path)))

    record = Dynamic(folder=str(tmp_path)).output().read_metadata()
    first, second = record["dynamic_input"]
    assert first["first"]["fingerprint"] == files.digest(tmp_path / "a.txt")
    assert second[0]["task_id"] == Letter(folder=str(tmp_path), letter="b").task_id
    assert record["input"] == []


FOREIGN = {
    "damaged": b'{"output": {"fing',
    "not text": b"\xff\x00",
    "a list": b"[1]",
    "empty": b"",
    "an output that is text": b'{"output": "x", "superseded": 4}',
    "a fingerprint that is a list": b'{"output": {"fingerprint": [1]}, "superseded": [1]}',
    "superseded by nothing": b'{"superseded": null}',
    "somebody else's": b'{"run_id": 5, "output": "x"}',
    "somebody else's, superseded": b'{"run_id": 5, "output": ["x"], "superseded": {"run_id": 6, "output": 7}}',
}


@pytest.mark.parametrize("record", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_record_beside_a_local_input_does_not_stop_the_task_downstream(record, tmp_path):
    (tmp_path / "raw.csv").write_text("1,2")
    (tmp_path / "raw.csv.metadata.json").write_bytes(record)

    class Reader(Base):
        def requires(self):
            return External(tmp_path / "raw.csv")

        def run(self, input_path, output_path):
            output_path.write_text(input_path.read_text())

    run_task(Reader(folder=str(tmp_path)))

    described = Reader(folder=str(tmp_path)).output().read_metadata()["input"]
    assert described["fingerprint"] == files.digest(tmp_path / "raw.csv")
    assert (tmp_path / "raw.csv.metadata.json").read_bytes() == record


@pytest.mark.parametrize("record", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_record_beside_an_object_is_not_served_and_stops_nobody(record, bucket, tmp_path):
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key="raw.csv", Body=b"1,2")
    client.put_object(Bucket=bucket, Key="raw.csv.metadata.json", Body=record)

    class Reader(Base):
        def requires(self):
            return External(f"s3://{bucket}/raw.csv")

        def run(self, input_path, output_path):
            output_path.write_text(input_path.read_text())

    class Overwrites(AtomicTaskWithMetadata):
        def output(self):
            return S3ObjectTarget(bucket, "raw.csv")

        def run(self, output_path):
            output_path.write_text("new")

    run_task(Reader(folder=str(tmp_path)))
    assert (tmp_path / "out.txt").read_text() == "1,2"

    run_task(Overwrites(), force=True)
    assert Overwrites().output().read_metadata()["task_family"] == "Overwrites"


@pytest.mark.parametrize("name", ["damaged", "not text", "a list", "empty", "superseded by nothing"])
def test_a_damaged_record_is_reported_as_none(name, tmp_path):
    target = LocalFileTarget(tmp_path / "raw.csv")
    target.path.touch()
    target.metadata_path.write_bytes(FOREIGN[name])

    with pytest.raises(TargetNotFoundError, match="no lineage record"):
        target.read_metadata()


# Output


def test_the_output_of_a_file_is_described(tmp_path):
    run_task(Base(folder=str(tmp_path)))

    output = Base(folder=str(tmp_path)).output().read_metadata()["output"]
    assert {name: output[name] for name in ("type", "path", "size_bytes", "fingerprint")} == {
        "type": "LocalFileTarget",
        "path": str(tmp_path / "out.txt"),
        "size_bytes": 4,
        "fingerprint": "sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1",
    }


@pytest.mark.parametrize("place", ["folder", "prefix"])
def test_the_output_of_a_folder_is_described_with_as_many_files_as_the_limit_says(place, request, tmp_path):
    if place == "folder":
        target = LocalFolderTarget(tmp_path / "out", metadata_contents_limit=2)
    else:
        target = S3PrefixTarget(request.getfixturevalue("bucket"), "out", metadata_contents_limit=2)

    class Folder(AtomicTaskWithMetadata):
        def output(self):
            return target

        def run(self, output_path):
            for number in range(3):
                (output_path / f"{number}.txt").write_text("x" * number)

    run_task(Folder())

    output = target.read_metadata()["output"]
    assert output["type"] == type(target).__name__
    assert output["path"] == str(target.path)
    assert output["files"] == 3
    assert output["size_bytes"] == 3
    assert [(entry["name"], entry["size_bytes"]) for entry in output["contents"]] == [("0.txt", 0), ("1.txt", 1)]
    assert all(entry["digest"].startswith("sha256:") for entry in output["contents"])
    assert output["fingerprint"] == target.fingerprint()


def test_each_of_several_outputs_has_a_record_that_describes_it(tmp_path):
    class Two(AtomicTaskWithMetadata):
        def output(self):
            return [LocalFileTarget(tmp_path / "a"), LocalFolderTarget(tmp_path / "b")]

        def run(self, output_path):
            output_path[0].write_text("a")
            (output_path[1] / "b").write_text("b")

    run_task(Two())

    first, second = (target.read_metadata() for target in Two().output())
    assert first.pop("output")["path"] == str(tmp_path / "a")
    assert second.pop("output")["files"] == 1
    assert first == second


# The user's metadata


@pytest.mark.parametrize("key", sorted({*FIELDS, *RECORD_FIELDS}))
def test_a_key_of_the_record_itself_is_refused(key, tmp_path):
    class Greedy(Base):
        def run(self, output_path, metadata):
            output_path.touch()
            metadata[key] = "mine"

    with pytest.raises(MetadataError, match=f"metadata\\['{key}'\\] stands for a field of the lineage record"):
        run_task(Greedy(folder=str(tmp_path)), raise_exception=True)

    assert list(tmp_path.iterdir()) == []


def test_a_run_may_put_in_values_of_the_data_libraries(tmp_path):
    class Scores(TaskWithMetadata):
        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        def run(self, metadata):
            table = pd.DataFrame({"score": [0.5, 1.5]})
            metadata.update(total=table["score"].sum(), rows=table.shape, at=pd.Timestamp("2022-12-15"))
            with self.output().tmp_write_path() as path:
                path.touch()

    run_task(Scores())

    record = Scores().output().read_metadata()
    assert (record["total"], record["rows"], record["at"]) == (2.0, [2, 1], "2022-12-15T00:00:00")


# What never reaches a record


class Confidential(Base):
    token = Parameter(visibility=ParameterVisibility.PRIVATE)
    password = Parameter(visibility=ParameterVisibility.HIDDEN)
    shown = Parameter(default="public")

    def run(self, output_path):
        output_path.touch()


@both_ways
def test_private_and_hidden_parameters_reach_neither_record_nor_text(run, tmp_path, caplog, capfd):
    task = Confidential(folder=str(tmp_path), token="s3cr3t-token", password="s3cr3t-password")
    caplog.set_level("DEBUG", logger="luigi-interface")

    run(task)

    record = task.output().read_metadata()
    assert record["params"] == {"folder": str(tmp_path), "shown": "public"}
    assert "s3cr3t" not in (tmp_path / "out.txt.metadata.json").read_text()
    assert str(task) == f"Confidential(folder={tmp_path}, shown=public)"
    assert repr(task) == str(task)
    assert "s3cr3t" not in "".join(f"{entry.getMessage()}" for entry in caplog.records)


def test_credentials_of_a_target_reach_no_record(bucket, s3_server, tmp_path):
    keys = {"aws_access_key_id": "AKIAS3CR3T", "aws_secret_access_key": "s3cr3t"}
    options = {**keys, "endpoint_url": s3_server.endpoint_url}

    class Writer(AtomicTaskWithMetadata):
        def output(self):
            return S3ObjectTarget(bucket, "out", **options)

        def run(self, output_path):
            output_path.touch()

    class Reader(Base):
        def requires(self):
            return Writer()

    run_task(Reader(folder=str(tmp_path)))

    texts = json.dumps([Writer().output().read_metadata(), Reader(folder=str(tmp_path)).output().read_metadata()])
    assert "s3cr3t" not in texts
    assert "AKIA" not in texts


# Lineage before data


_watched: dict[str, list[str]] = {}
_lock = threading.Lock()


def _watch(event, arguments):
    """Note every rename onto a watched folder. Hooks cannot be removed, so there is one, which is mostly idle."""
    if event == "os.rename" and _watched:
        destination = os.path.abspath(os.fsdecode(arguments[1]))
        with _lock:
            for folder, seen in _watched.items():
                if os.path.dirname(destination) == folder:
                    seen.append(os.path.basename(destination))


sys.addaudithook(_watch)


@pytest.fixture
def renamed(tmp_path):
    """The names in `tmp_path` that were replaced by a rename, in order."""
    _watched[str(tmp_path)] = []
    yield _watched[str(tmp_path)]
    del _watched[str(tmp_path)]


def test_the_record_is_in_place_before_the_data(renamed, tmp_path):
    run_task(Base(folder=str(tmp_path)))

    assert renamed == ["out.txt.metadata.json", "out.txt"]


def test_the_record_is_in_place_before_new_data_replace_old_ones(renamed, tmp_path):
    run_task(Base(folder=str(tmp_path)))
    renamed.clear()
    run_task(Base(folder=str(tmp_path)), force=True)

    assert renamed == ["out.txt.metadata.json", "out.txt", "out.txt.metadata.json"]
    assert "superseded" not in json.loads((tmp_path / "out.txt.metadata.json").read_bytes())


def test_the_record_is_put_before_the_object(bucket):
    """S3 tells the time of a change in whole seconds, so the requests themselves are watched."""
    requests = []
    target = S3ObjectTarget(bucket, "out.txt")
    target.store.bucket.client().meta.events.register(
        "before-call.s3.PutObject", lambda params, **_: requests.append(params["url_path"].rpartition("/")[2])
    )

    class Writer(AtomicTaskWithMetadata):
        def output(self):
            return target

        def run(self, output_path):
            output_path.write_text("text")

    run_task(Writer())

    assert requests == ["out.txt.metadata.json", "out.txt"]


# Records of objects that are not their own


class Numbers(AtomicTaskWithMetadata):
    bucket = Parameter()
    text = "first"

    def output(self):
        return S3ObjectTarget(self.bucket, "data/numbers.csv")

    def run(self, output_path, metadata):
        output_path.write_text(self.text)
        metadata["text"] = self.text


def test_an_object_that_somebody_else_wrote_has_no_record(bucket):
    target = Numbers(bucket=bucket).output()
    run_task(Numbers(bucket=bucket))
    assert target.read_metadata()["text"] == "first"

    boto3.client("s3").put_object(Bucket=bucket, Key="data/numbers.csv", Body=b"foreign")

    with pytest.raises(TargetNotFoundError, match="no lineage record"):
        target.read_metadata()


def test_an_object_that_was_deleted_has_no_record(bucket):
    run_task(Numbers(bucket=bucket))

    boto3.client("s3").delete_object(Bucket=bucket, Key="data/numbers.csv")

    with pytest.raises(TargetNotFoundError):
        Numbers(bucket=bucket).output().read_metadata()


@pytest.mark.parametrize("had_data", [False, True], ids=["first run", "forced run"])
def test_after_a_crash_between_record_and_data_the_record_of_the_old_data_is_served(had_data, bucket):
    """The second run is cut off by a request that the client refuses to send."""
    target = Numbers(bucket=bucket).output()
    if had_data:
        run_task(Numbers(bucket=bucket))

    class Cut(Numbers):
        text = "second"

    def refuse(params, **_):
        if params["url_path"].endswith("/numbers.csv"):
            raise KeyboardInterrupt

    client = target.store.bucket.client()
    client.meta.events.register("before-call.s3.PutObject", refuse)
    try:
        with pytest.raises(KeyboardInterrupt):
            Cut(bucket=bucket).run()
    finally:
        client.meta.events.unregister("before-call.s3.PutObject", refuse)

    stored = boto3.client("s3").get_object(Bucket=bucket, Key="data/numbers.csv.metadata.json")["Body"].read()
    assert json.loads(stored)["text"] == "second"
    if had_data:
        assert target.read_metadata()["text"] == "first"
        assert "superseded" not in target.read_metadata()
    else:
        assert not target.exists()
    run_task(Cut(bucket=bucket), force=had_data)
    assert target.read_metadata()["text"] == "second"


@pytest.mark.parametrize("is_repeated", [False, True], ids=["once", "twice in a row"])
def test_a_record_that_was_written_alone_is_not_served(is_repeated, bucket):
    target = Numbers(bucket=bucket).output()
    run_task(Numbers(bucket=bucket))
    own = target.read_metadata()
    record = {**own, "run_id": "another", "text": "another", "superseded": own if is_repeated else None}
    boto3.client("s3").put_object(Bucket=bucket, Key="data/numbers.csv.metadata.json", Body=json.dumps(record).encode())

    if is_repeated:
        assert target.read_metadata() == own
    else:
        with pytest.raises(TargetNotFoundError):
            target.read_metadata()


def test_a_run_that_writes_the_same_bytes_has_its_own_record(bucket):
    target = Numbers(bucket=bucket).output()
    run_task(Numbers(bucket=bucket))
    first = target.read_metadata()["run_id"]

    run_task(Numbers(bucket=bucket), force=True)

    assert target.read_metadata()["run_id"] != first


# Git


def git(folder, *words):
    author = {f"GIT_{role}_{fact}": "t" for role in ("AUTHOR", "COMMITTER") for fact in ("NAME", "EMAIL")}
    environment = {**os.environ, **author}
    done = subprocess.run(["git", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


TASK_SOURCE = """
from superluigi import AtomicTaskWithMetadata, LocalFileTarget, run_task

class InRepository(AtomicTaskWithMetadata):
    def output(self):
        return LocalFileTarget("out.txt")

    def run(self, output_path):
        output_path.touch()

run_task(InRepository())
"""


@pytest.mark.parametrize("state", ["clean", "dirty", "untracked files", "no commit", "no repository"])
def test_the_commit_of_the_code_is_recorded_and_whether_files_differ_from_it(state, tmp_path):
    repository, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    repository.mkdir()
    elsewhere.mkdir()
    (repository / "tasks.py").write_text(TASK_SOURCE)
    commit = None
    if state != "no repository":
        git(repository, "init", "-q")
    if state not in ("no repository", "no commit"):
        git(repository, "add", ".")
        git(repository, "commit", "-qm", "first")
        commit = git(repository, "rev-parse", "HEAD")
    if state == "dirty":
        (repository / "tasks.py").write_text(f"{TASK_SOURCE}\n")
    if state == "untracked files":
        (repository / "notes.txt").touch()

    subprocess.run([sys.executable, str(repository / "tasks.py")], cwd=elsewhere, capture_output=True, check=True)

    record = LocalFileTarget(elsewhere / "out.txt").read_metadata()
    assert record["git_commit"] == commit
    assert record["git_dirty"] is {"dirty": True, "clean": False, "untracked files": False}.get(state)


def test_what_was_committed_or_edited_since_the_last_run_is_in_the_record(tmp_path, monkeypatch):
    class Cell(Base):
        __module__ = "a_module_without_file"  # as in a notebook
        number = IntParameter()

    asked = []
    ask_git = provenance.ask_git
    monkeypatch.setattr(provenance, "ask_git", lambda *words: asked.append(words) or ask_git(*words))
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    found, expected = [], []
    for text, is_committed in [("first", True), ("second", True), ("edited", False)]:
        (tmp_path / "notebook.ipynb").write_text(text)
        if is_committed:
            git(tmp_path, "add", "notebook.ipynb")
            git(tmp_path, "commit", "-qm", text)
        expected.append((git(tmp_path, "rev-parse", "HEAD"), not is_committed))

        run_task([Cell(folder=str(tmp_path), number=number) for number in range(3)], force=True)

        record = Cell(folder=str(tmp_path), number=2).output().read_metadata()
        found.append((record["git_commit"], record["git_dirty"]))

    assert found == expected
    assert len(asked) == 2 * 3  # not once per task


def test_a_machine_without_git_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    run_task(Base(folder=str(tmp_path)))

    record = Base(folder=str(tmp_path)).output().read_metadata()
    assert (record["git_commit"], record["git_dirty"]) == (None, None)


def test_the_code_of_a_notebook_is_looked_for_in_the_working_directory(tmp_path):
    class Cell(Base):
        __module__ = "a_module_without_file"

    assert provenance._folder_of(Cell) == str(Path.cwd())


# Properties


@hypothesis.settings(max_examples=25)
@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda key: key not in RECORD_FIELDS),
        st.text() | st.integers(-(2**70), 2**70) | st.lists(st.booleans() | st.none()),
        max_size=4,
    )
)
def test_whatever_a_task_puts_into_metadata_arrives_in_its_record(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("record")
    task = Filling(folder=str(folder))
    task.run(output_path=folder / "unused", metadata={})
    _values[str(folder)] = values

    task.run()

    record = task.output().read_metadata()
    assert {key: record[key] for key in values} == values
    assert list(record) == [*FIELDS, *values]
    assert leftovers(folder) == []


_values: dict[str, dict] = {}


class Filling(Base):
    def run(self, output_path, metadata):
        metadata.update(_values.get(self.folder, {}))
        output_path.touch()
