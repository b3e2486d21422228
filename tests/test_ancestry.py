"""Following lineage from the records alone, and what differs between two outputs."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import luigi
import pytest
from html_page import Page
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from permissions import binding_permissions
from server_log import recorded_requests

from superluigi import (
    AtomicTaskWithMetadata,
    External,
    IntParameter,
    InvalidNameError,
    LocalFileTarget,
    LocalFolderTarget,
    MemoryTarget,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    TargetNotFoundError,
    TaskTypeError,
    records,
    run_task,
)
from superluigi.ancestry import Ancestor, lineage

pytestmark = pytest.mark.filterwarnings("ignore::luigi.parameter.OptionalParameterTypeWarning")


class Step(AtomicTaskWithMetadata):
    """Writes its text; what it needs is given by the names of other classes."""

    text = Parameter(default="text")

    def output(self):
        return LocalFileTarget(f"data/{type(self).__name__}.txt")

    def run(self, output_path):
        output_path.write_text(self.text)


class First(Step):
    def requires(self):
        return {"raw": External("raw.csv"), "folder": External("raw/")}


class Left(Step):
    def requires(self):
        return First()


class Right(Step):
    def requires(self):
        return [First(), None]


class Joined(Step):
    def requires(self):
        return {"sides": [Left(), Right()], "again": First()}


@pytest.fixture
def raw():
    Path("raw.csv").write_text("raw")
    Path("raw").mkdir()
    Path("raw/part").write_text("part")


def names(traced):
    return [os.path.basename(node.path.rstrip("/")) for node in traced.nodes]


def states(traced):
    return {os.path.basename(node.path.rstrip("/")): str(node.state) for node in traced.nodes}


def edges(traced):
    nodes = traced.by_key()
    return {
        (os.path.basename(node.path), link.role, os.path.basename(nodes[link.key].path))
        for node in traced.nodes
        for link in node.inputs
    }


# What is followed


def test_a_diamond_is_followed_to_its_raw_data_and_each_record_is_a_node_once(raw, tmp_path):
    run_task(Joined())

    traced = lineage("data/Joined.txt")

    assert names(traced) == ["raw.csv", "raw", "First.txt", "Left.txt", "Right.txt", "Joined.txt"]
    assert states(traced) == {
        **dict.fromkeys(["raw.csv", "raw"], "raw"),
        **{f"{name}.txt": "recorded" for name in ("First", "Left", "Right", "Joined")},
    }
    assert edges(traced) == {
        ("First.txt", ("raw",), "raw.csv"),
        ("First.txt", ("folder",), "raw"),
        ("Left.txt", (), "First.txt"),
        ("Right.txt", (0,), "First.txt"),
        ("Joined.txt", ("sides", 0), "Left.txt"),
        ("Joined.txt", ("sides", 1), "Right.txt"),
        ("Joined.txt", ("again",), "First.txt"),
    }
    assert traced.root is traced.nodes[-1]
    assert traced.root.path == str(tmp_path / "data/Joined.txt")
    assert traced.root.task_family == "Joined"
    assert traced.root.task_id == Joined().task_id
    assert traced.root.record == Joined().output().read_metadata()
    assert traced.root.fingerprint == Joined().output().fingerprint()
    assert {link.fingerprint for link in traced.root.inputs} == {
        task.output().fingerprint() for task in (First(), Left(), Right())
    }


def test_every_way_to_name_an_output_gives_the_same_lineage(raw, tmp_path):
    run_task(Joined())
    expected = lineage("data/Joined.txt")

    assert lineage(Path("data/Joined.txt")) == expected
    assert lineage(tmp_path / "data/Joined.txt") == expected
    assert lineage(Joined().output()) == expected
    assert lineage(luigi.LocalTarget("data/Joined.txt")) == expected
    assert lineage("data/Joined.txt.metadata.json") == expected
    assert lineage(Path("data/Joined.txt.metadata.json")) == expected


def test_the_code_of_the_tasks_is_not_needed(raw, tmp_path):
    run_task(Joined())
    program = "import sys; from superluigi.ancestry import lineage; print(lineage(sys.argv[1]))"

    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data/Joined.txt")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONIOENCODING": "utf-8"},
    )

    assert told.stdout == f"{lineage('data/Joined.txt')}\n"


def test_nothing_is_written_and_each_record_is_read_once(raw, tmp_path):
    run_task(Joined())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    opened = opened_records(lambda: lineage("data/Joined.txt"))

    assert sorted(opened) == sorted(
        str(tmp_path / f"data/{name}.txt.metadata.json") for name in ("First", "Left", "Right", "Joined")
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


_watching = []


def _watch(event, arguments):
    if event == "open" and _watching and str(arguments[0]).endswith(".metadata.json"):
        _watching[0].append(os.fspath(arguments[0]))


sys.addaudithook(_watch)


def opened_records(call):
    _watching[:] = [[]]
    try:
        call()
        return _watching[0]
    finally:
        _watching.clear()


class Folders(Step):
    def requires(self):
        return First()

    def output(self):
        return {
            "beside": LocalFolderTarget("data/beside"),
            "inside": LocalFolderTarget("data/inside", metadata_inside_folder=True),
            "elsewhere": LocalFileTarget("data/elsewhere.txt", "records/one.json"),
        }

    def run(self, output_path):
        (output_path["beside"] / "part").write_text("1")
        (output_path["inside"] / "part").write_text("2")
        output_path["elsewhere"].write_text("3")


class AfterFolders(Step):
    def requires(self):
        return Folders()


def test_folders_records_inside_and_records_elsewhere_are_found(raw):
    run_task(AfterFolders())

    traced = lineage("data/AfterFolders.txt")

    assert states(traced) == {
        "raw.csv": "raw",
        "raw": "raw",
        **dict.fromkeys(["First.txt", "beside", "inside", "elsewhere.txt", "AfterFolders.txt"], "recorded"),
    }
    for name in ("data/beside", "data/beside/", "data/inside", "data/inside/", "data/inside/.metadata.json"):
        assert lineage(name).root.task_family == "Folders"
        assert lineage(name).root.path == os.path.abspath(name.removesuffix(".metadata.json"))
    assert lineage(Folders().output()["elsewhere"]).root.task_family == "Folders"
    assert lineage("data/elsewhere.txt").root.state == "raw"


class Yielding(Step):
    def run(self, output_path):
        yield {"parts": [Left(), Right()]}
        yield First()
        output_path.write_text("text")


def test_what_a_run_has_yielded_is_followed_too(raw):
    run_task(Yielding())

    traced = lineage("data/Yielding.txt")

    assert [(link.role, link.is_dynamic) for link in traced.root.inputs] == [
        ((0, "parts", 0), True),
        ((0, "parts", 1), True),
        ((1,), True),
    ]
    assert "0.parts.0 (yielded): ✓ " in str(traced)


class InMemory(AtomicTaskWithMetadata):
    def requires(self):
        return First()

    def output(self):
        return MemoryTarget()

    def run(self, input_path, output_path):
        output_path.set(input_path.read_text())


class AfterMemory(Step):
    def requires(self):
        return {"value": InMemory()}


def test_a_value_that_a_run_held_is_followed_by_the_record_downstream(raw):
    run_task(AfterMemory())
    record = AfterMemory().output().read_metadata()

    traced = lineage("data/AfterMemory.txt")

    (value,) = (node for node in traced.nodes if node.task_family == "InMemory")
    if "in_memory" in record:
        assert value.state == "in memory"
        assert edges(traced) >= {(value.path, (), "First.txt"), ("First.txt", ("raw",), "raw.csv")}
    else:
        assert value.state == "without record"
        assert value.inputs == ()


# Where nothing more is known


def test_data_that_were_removed_with_their_record_kept_are_followed_further(raw):
    run_task(Joined())
    First().output().remove(keep_metadata=True)

    traced = lineage("data/Joined.txt")

    assert states(traced)["First.txt"] == "removed"
    assert ("First.txt", ("raw",), "raw.csv") in edges(traced)


def test_data_that_are_gone_with_their_record_are_missing_and_raw_data_that_are_gone_too(raw):
    run_task(Joined())
    First().output().remove()

    assert states(lineage("data/Joined.txt")) == {
        "First.txt": "missing",
        **{f"{name}.txt": "recorded" for name in ("Left", "Right", "Joined")},
    }
    missing = lineage("data/Joined.txt").by_key()[os.path.abspath("data/First.txt")]
    assert (missing.task_family, missing.task_id, missing.record) == ("First", First().task_id, None)
    assert missing.fingerprint is not None


def test_a_record_of_other_data_than_were_read_is_told_and_not_followed(raw):
    run_task(Left())
    read = First().output().fingerprint()
    First().output().remove()
    run_task(First(text="other"))
    run_task(Right(), force=True)

    traced = lineage("data/Left.txt")

    (replaced,) = (node for node in traced.nodes if node.state == "replaced")
    assert replaced.path == os.path.abspath("data/First.txt")
    assert replaced.fingerprint == read != replaced.record["output"]["fingerprint"]
    assert replaced.inputs == ()
    assert names(traced) == ["First.txt", "Left.txt"]


class OfBoth(Step):
    def requires(self):
        return [Left(), Right()]


def test_two_that_have_read_different_data_at_one_path_have_two_ancestors_there(raw):
    run_task(Left())
    First().output().remove()
    run_task(First(text="other"))
    run_task(OfBoth())

    traced = lineage("data/OfBoth.txt")

    assert sorted(str(node.state) for node in traced.nodes if node.path.endswith("First.txt")) == [
        "recorded",
        "replaced",
    ]
    assert len({node.key for node in traced.nodes}) == len(traced.nodes)


def test_a_former_record_that_is_still_kept_is_followed_for_who_has_read_the_former_data(raw):
    run_task(Left())
    former = First().output().read_metadata()
    run_task(First(text="other"), force=True)
    path = Path("data/First.txt.metadata.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "superseded": former}))

    traced = lineage("data/Left.txt")

    (first,) = (node for node in traced.nodes if node.path.endswith("First.txt"))
    assert (first.state, first.record) == ("recorded", former)
    assert "raw.csv" in names(traced)
    assert lineage("data/First.txt").root.record["params"] == {"text": "other"}


def test_of_two_records_that_a_killed_run_has_left_the_one_of_the_present_data_is_followed(raw):
    run_task(First())
    former = First().output().read_metadata()
    path = Path("data/First.txt.metadata.json")
    newer = {**former, "params": {"text": "newer"}, "output": {"path": "data/First.txt", "fingerprint": "sha256:new"}}
    path.write_text(json.dumps({**newer, "superseded": former}))

    assert lineage("data/First.txt").root.record == former


class Table(luigi.Target):
    """Is known by no path."""

    def exists(self):
        return True


class Fills(luigi.ExternalTask):
    def output(self):
        return Table()


class FromTable(Step):
    def requires(self):
        return {"table": Fills()}


def test_what_is_no_file_is_shown_as_without_a_record():
    run_task(FromTable())

    table, _ = lineage("data/FromTable.txt").nodes

    assert (table.state, table.task_family, table.record) == ("without record", "Fills", None)


def test_a_record_that_may_not_be_read_is_shown_with_the_reason(raw):
    run_task(Joined())
    os.chmod("data/First.txt.metadata.json", 0)

    with binding_permissions():
        traced = lineage("data/Joined.txt")

    node = traced.by_key()[os.path.abspath("data/First.txt")]
    assert node.state == "unreadable"
    assert node.error == f"{os.path.abspath('data/First.txt.metadata.json')}: Permission denied"
    assert node.error in str(traced)


@pytest.mark.parametrize("name", ["nothing.csv", "nothing/", "nothing.csv.metadata.json", "a/b/c"])
def test_a_path_with_neither_data_nor_a_record_is_an_error(name):
    with pytest.raises(TargetNotFoundError, match=r"neither data nor a lineage record at .*nothing.*|a/b/c.*Correct"):
        lineage(name)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("", InvalidNameError, "cannot be a path"),
        ("a\0b", InvalidNameError, "cannot be a path"),
        ("s3://", InvalidNameError, "names a bucket"),
        ("s3://bucket", InvalidNameError, "names a bucket"),
        ("s3://bucket//", InvalidNameError, "names a bucket"),
        (Path("s3://bucket/key"), InvalidNameError, "drops a slash"),
        (None, TaskTypeError, r"lineage\(\) was given None"),
        (7, TaskTypeError, "a int, but takes a target"),
        (External("x"), TaskTypeError, r"give its output\(\)"),
        (MemoryTarget("x"), TaskTypeError, "a MemoryTarget, but takes"),
    ],
    ids=str,
)
def test_what_names_no_output_is_refused_in_words(given, error, words):
    with pytest.raises(error, match=words):
        lineage(given)


def test_a_record_that_was_written_by_hand_is_one_of_its_own_kind(tmp_path):
    Path("by_hand.csv").write_text("1")
    LocalFileTarget("by_hand.csv").write_metadata({"source": "a friend"})

    root = lineage("by_hand.csv").root

    assert (root.state, root.record, root.inputs) == ("recorded", {"source": "a friend"}, ())


# Relative paths


def test_a_folder_of_outputs_that_was_moved_is_followed_from_anywhere(raw, tmp_path, monkeypatch):
    run_task(Joined())
    expected = states(lineage("data/Joined.txt"))
    moved = tmp_path / "elsewhere" / "project"
    moved.mkdir(parents=True)
    for name in ("data", "raw", "raw.csv"):
        os.rename(name, moved / name)
    monkeypatch.chdir("/")

    for name in ("data/Joined.txt", "data/Joined.txt.metadata.json"):
        traced = lineage(moved / name)
        assert states(traced) == expected
        assert all(node.path.startswith(str(moved)) for node in traced.nodes)


def test_what_lies_flat_beside_a_record_is_found_there(raw, tmp_path, monkeypatch):
    run_task(Left())
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("First", "Left"):
        record = json.loads(Path(f"data/{name}.txt.metadata.json").read_text().replace("data/", ""))
        record["output"]["path"] = "lost/" + record["output"]["path"]
        (flat / f"{name}.txt.metadata.json").write_text(json.dumps(record))
    monkeypatch.chdir("/")

    assert states(lineage(flat / "Left.txt"))["First.txt"] == "recorded"


# S3


class InS3(AtomicTaskWithMetadata):
    bucket = Parameter()
    number = IntParameter()

    def requires(self):
        if self.number:
            return [type(self)(bucket=self.bucket, number=self.number - 1)]
        return {"raw": External(f"s3://{self.bucket}/raw.csv"), "local": External("raw.csv")}

    def output(self):
        if self.number == 1:
            return S3PrefixTarget(self.bucket, "data/1/", metadata_inside_prefix=True)
        if self.number == 2:
            return S3PrefixTarget(self.bucket, "data/2/")
        if self.number == 3:
            return S3ObjectTarget(self.bucket, "data/3.txt", metadata_object_key="records/3")
        return S3ObjectTarget(self.bucket, f"data/{self.number}.txt")

    def run(self, output_path):
        (output_path / "part" if output_path.is_dir() else output_path).write_text(str(self.number))


def test_objects_prefixes_and_local_files_are_followed_together(s3, raw):
    s3.put("raw.csv", b"raw")
    run_task(InS3(bucket=s3.bucket, number=4))

    traced = lineage(f"s3://{s3.bucket}/data/4.txt")

    assert [(node.path.removeprefix(f"s3://{s3.bucket}/"), str(node.state)) for node in traced.nodes] == [
        ("raw.csv", "raw"),
        (os.path.abspath("raw.csv"), "raw"),
        ("data/0.txt", "recorded"),
        ("data/1/", "recorded"),
        ("data/2/", "recorded"),
        ("data/3.txt", "recorded"),
        ("data/4.txt", "recorded"),
    ]
    assert lineage(f"s3://{s3.bucket}/data/4.txt.metadata.json") == traced
    assert lineage(InS3(bucket=s3.bucket, number=4).output()) == traced


def test_a_prefix_is_found_with_and_without_its_slash(s3, raw):
    s3.put("raw.csv", b"raw")
    run_task(InS3(bucket=s3.bucket, number=2))

    for number in (1, 2):
        expected = lineage(InS3(bucket=s3.bucket, number=number).output())
        assert expected.root.path == f"s3://{s3.bucket}/data/{number}/"
        assert lineage(f"s3://{s3.bucket}/data/{number}/") == expected
        assert lineage(f"s3://{s3.bucket}/data/{number}") == expected
    assert lineage(f"s3://{s3.bucket}/data/2.metadata.json") == lineage(f"s3://{s3.bucket}/data/2/")
    assert lineage(f"s3://{s3.bucket}/data/1/.metadata.json") == lineage(f"s3://{s3.bucket}/data/1/")


def test_a_layer_in_s3_takes_one_request_for_each_record_and_two_for_what_has_none(s3):
    for number in range(40):
        s3.put(f"part/{number}.metadata.json", json.dumps(written(f"s3://{s3.bucket}/part/{number}")).encode())
    s3.put("raw", b"1")
    inputs = [described(f"s3://{s3.bucket}/part/{number}") for number in range(40)]
    inputs += [described(f"s3://{s3.bucket}/raw"), described(f"s3://{s3.bucket}/gone/")]
    s3.put("all.metadata.json", json.dumps(written(f"s3://{s3.bucket}/all", inputs)).encode())

    with recorded_requests() as log:
        traced = lineage(f"s3://{s3.bucket}/all")

    assert states(traced) == {
        **{str(n): "recorded" for n in range(40)},
        "raw": "raw",
        "gone": "missing",
        "all": "recorded",
    }
    assert len(log.of("GET", ".metadata.json")) == 40 + 3
    assert len(log.requests) == 40 + 3 + 2


def test_a_bucket_that_is_not_there_is_told_for_each_ancestor_and_asked_once(s3, monkeypatch):
    monkeypatch.setenv("SUPERLUIGI_MAX_CONCURRENCY", "1")
    gone = [described(f"s3://no-such-bucket-{s3.bucket[:20]}/{number}") for number in range(3)]
    s3.put("all.metadata.json", json.dumps(written(f"s3://{s3.bucket}/all", gone)).encode())

    with recorded_requests() as log:
        traced = lineage(f"s3://{s3.bucket}/all")

    refused = traced.nodes[:-1]
    assert [str(node.state) for node in refused] == ["unreadable"] * 3
    assert all("there is no such bucket" in node.error for node in refused)
    asked = {path.split("/")[-1].partition(".")[0] for _, path in log.requests if path.startswith("/no-such")}
    assert asked - {""} - {path.strip("/") for _, path in log.requests} == {"0"}


def test_an_object_of_a_target_without_a_record_is_looked_for(s3):
    s3.put("raw", b"1")
    inputs = [described(f"s3://{s3.bucket}/{name}", metadata_path=None) for name in ("raw", "gone")]
    write("all", inputs)

    assert states(lineage("all")) == {"raw": "raw", "gone": "missing", "all": "recorded"}


def test_a_store_that_denies_access_is_told_for_each_ancestor_and_with_its_words(s3, refusing, monkeypatch):
    s3.put("part", b"1")
    inputs = [described(f"s3://{s3.bucket}/part"), described("local")]
    write("all", inputs)
    Path("local").write_text("1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", refusing)

    traced = lineage("all")

    assert states(traced) == {"part": "unreadable", "local": "raw", "all": "recorded"}
    assert "access is denied" in traced.nodes[0].error
    assert f"s3://{s3.bucket}/part.metadata.json" in traced.nodes[0].error
    root = lineage(S3ObjectTarget(s3.bucket, "part", endpoint_url=s3.endpoint_url)).root
    assert root.state == "raw"
    assert lineage(f"s3://{s3.bucket}/part").root.state == "unreadable"


@pytest.fixture
def refusing():
    """The address of a store that refuses every request as S3 does."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_object_that_is_too_large_for_a_record_is_not_fetched(s3, monkeypatch):
    monkeypatch.setattr(records, "_MAX_RECORD_BYTES", 1000)
    s3.put("huge", b"x" * 1001)
    Path("huge").write_bytes(b"x" * 1001)
    write("all", [described("a", metadata_path=f"s3://{s3.bucket}/huge"), described("b", metadata_path="huge")])

    with recorded_requests() as log:
        traced = lineage("all")

    assert [node.error.rpartition(": ")[2] for node in traced.nodes[:-1]] == [
        "it has 1001 bytes, which no record has"
    ] * 2
    assert not log.of("GET")


def test_objects_that_were_put_again_keep_the_former_record_for_one_generation(s3, raw):
    s3.put("raw.csv", b"raw")
    run_task(InS3(bucket=s3.bucket, number=0))
    run_task(InS3(bucket=s3.bucket, number=0), force=True)

    traced = lineage(f"s3://{s3.bucket}/data/0.txt")

    assert traced.root.record == InS3(bucket=s3.bucket, number=0).output().read_metadata()
    assert "superseded" not in traced.root.record


# Records that are damaged or forged


def described(path, fingerprint="sha256:1", **more):
    facts = {"path": path, "fingerprint": fingerprint, "task_family": "T", "task_id": None}
    return {**facts, "metadata_path": f"{path.rstrip('/')}.metadata.json", **more}


def written(path, inputs=None, fingerprint="sha256:1", **more):
    facts = {"schema": "superluigi/1", "task_family": "T", "task_id": "1", "params": {}, "input": inputs}
    return {**facts, "output": {"path": path, "fingerprint": fingerprint}, **more}


def write(path, inputs=None, **more):
    Path(f"{path}.metadata.json").write_text(json.dumps(written(path, inputs, **more)))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_of_records_ends_and_is_marked(length):
    for number in range(length):
        write(f"{number}", [described(f"{(number + 1) % length}"), described("base")])

    traced = lineage("0")

    assert len(traced.nodes) == length + 1
    assert [link.closes_circle for node in traced.nodes for link in node.inputs].count(True) == 1
    assert "(closes a circle)" in str(traced)
    assert len({node.key for node in traced.nodes}) == length + 1


DAMAGED = {
    "empty": b"",
    "no JSON": b"{'a': 1}",
    "cut off": b'{"schema": "superluigi/1", "inp',
    "binary": bytes(range(256)),
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "another schema": b'{"schema": "bioschemas/3"}',
    "a newer schema": b'{"schema": "superluigi/2"}',
    "schema of a wrong type": b'{"schema": {}}',
    "a number as input": b'{"input": {"a": 5}}',
    "text as input": b'{"input": "data/x.csv"}',
    "an input without text": b'{"input": {"path": "x", "fingerprint": 5}}',
    "an input of a wrong task": b'{"input": {"path": "x", "task_family": []}}',
    "output of a wrong type": b'{"output": []}',
    "fingerprint of a wrong type": b'{"output": {"fingerprint": {}}}',
    "params of a wrong type": b'{"params": 3}',
    "packages of a wrong type": b'{"packages": [1]}',
    "family of a wrong type": b'{"task_family": 3}',
    "former record of a wrong type": b'{"superseded": 3}',
    "memory of a wrong type": b'{"in_memory": {"id": 3}}',
    "not a number": b'{"value": NaN}',
    "infinite": b'{"value": 1e999}',
    "nested deep": b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
    "nested deeper than Python reads": b"[" * 200_000,
    "an integer of many digits": b'{"a": ' + b"9" * 5_000 + b"}",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_record_that_is_none_is_unreadable_and_says_why(data):
    Path("part.metadata.json").write_bytes(data)
    write("whole", described("part"))

    traced = lineage("whole")

    assert states(traced) == {"part": "unreadable", "whole": "recorded"}
    assert traced.nodes[0].error.startswith(os.path.abspath("part.metadata.json"))
    assert traced.nodes[0].inputs == ()
    for drawn in (str(traced), traced.to_html(), traced.to_json(), traced.to_dot(), traced.to_mermaid()):
        assert drawn.encode()


def test_brackets_within_text_are_no_levels():
    write("part", note="[" * 1_000 + '"' + "{" * 1_000)

    assert lineage("part").root.state == "recorded"


@pytest.mark.parametrize(
    "path",
    ["/dev/zero", "/dev", "a\0b", "x" * 5_000, "\ud800", "~", "", "s3://", "s3://b", "s3:///x", "s3://b-b/\0", "."],
    ids=ascii,
)
def test_a_record_that_names_no_possible_place_does_no_harm(path, bucket):
    write("whole", [described(path, metadata_path=path), described(path)])

    traced = lineage("whole")

    assert traced.root.state == "recorded"
    assert {str(node.state) for node in traced.nodes[:-1]} <= {"unreadable", "missing", "raw"}


def test_a_pipe_that_is_named_as_a_record_is_not_waited_for():
    os.mkfifo("pipe")
    write("whole", described("x", metadata_path="pipe"))

    assert states(lineage("whole"))["x"] == "unreadable"


FIELDS = ["schema", "input", "dynamic_input", "output", "path", "fingerprint", "metadata_path", "task_id", "params"]
fields = st.sampled_from([*FIELDS, "superseded", "in_memory", "removed_time", "task_family", "packages"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a", "b", "s3://"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | fields, inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(records=st.lists(st.dictionaries(fields, values, max_size=6), min_size=2, max_size=2), cut=st.integers(0, 400))
@example(records=[{"input": {"path": "a", "metadata_path": "a.metadata.json"}}, {}], cut=400)
def test_whatever_records_hold_their_lineage_can_be_followed_and_drawn(records, cut, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    for name, record in zip("ab", records, strict=True):
        text = json.dumps(record).replace("s3://", "r3://")  # nobody is asked
        Path(f"{name}.metadata.json").write_text(text[:cut] if name == "b" else text)
    write("whole", {"a": described("a", None), "b": described("b", None)})

    traced = lineage("whole")

    assert {str(node.state) for node in traced.nodes[:-1]} & {"recorded", "removed", "unreadable"}
    position = {node.key: number for number, node in enumerate(traced.nodes)}
    for node in traced.nodes:
        for link in node.inputs:
            assert link.closes_circle or position[link.key] < position[node.key]
    assert json.loads(traced.to_json()) == json.loads(json.dumps(traced.to_dict()))
    for drawn in (str(traced), traced.to_html(), traced.to_dot(), traced.to_mermaid(), traced._repr_html_()):
        drawn.encode()


# Ten thousand ancestors


def test_a_chain_of_ten_thousand_takes_one_read_each_and_no_recursion():
    for number in range(10_000):
        write(f"{number}", described(f"{number - 1}") if number else None)

    found = []
    opened = opened_records(lambda: found.append(lineage("9999")))

    (traced,) = found
    assert names(traced) == [str(number) for number in range(10_000)]
    assert len(opened) == len(set(opened)) == 10_000
    assert len(str(traced)) < 2_000_000


def test_wide_layers_of_ten_thousand_take_one_read_each():
    layers = [[f"{layer}-{number}" for number in range(100)] for layer in range(100)]
    for layer, members in enumerate(layers):
        for name in members:
            write(name, [described(upstream) for upstream in (layers[layer - 1] if layer else [])[:20]])
    write("all", {name: described(name) for layer in layers for name in layer})

    found = []
    opened = opened_records(lambda: found.append(lineage("all")))

    (traced,) = found
    assert len(traced.nodes) == 10_001
    assert len(opened) == len(set(opened)) == 10_001


# Its forms


def test_the_text_shows_paths_roles_tasks_and_states(raw, tmp_path):
    run_task(Right())

    assert str(lineage("data/Right.txt")).splitlines() == [
        f"Lineage of {tmp_path}/data/Right.txt",
        f"✓ {tmp_path}/data/Right.txt  Right(text=text)",
        f"└── 0: ✓ {tmp_path}/data/First.txt  First(text=text)",
        f"    ├── raw: ○ {tmp_path}/raw.csv  External()",
        f"    └── folder: ○ {tmp_path}/raw  External()",
        "✓ recorded: its record is there; ○ raw: data without a record",
    ]


def test_the_other_forms_hold_every_node_and_edge(raw):
    run_task(Joined())
    traced = lineage("data/Joined.txt")

    assert traced.to_mermaid().count("-->") == traced.to_dot().count("->") == 7
    assert Page(traced.to_html()).tags.count("a") == 2
    assert Page(traced._repr_html_()).tags[0] == "div"
    told = json.loads(traced.to_json())
    assert told == traced.to_dict() | {"nodes": json.loads(json.dumps(traced.to_dict()["nodes"]))}
    assert [node["path"] for node in told["nodes"]] == [node.path for node in traced.nodes]
    assert told["nodes"][-1]["inputs"][0] == {
        "role": ["sides", 0],
        "key": os.path.abspath("data/Left.txt"),
        "fingerprint": Left().output().fingerprint(),
        "is_dynamic": False,
        "closes_circle": False,
    }
    assert told["nodes"][-1]["record"] == Joined().output().read_metadata()


def test_a_lineage_is_a_value_that_compares_hashes_and_cannot_be_changed(raw):
    run_task(Right())
    one, other = lineage("data/Right.txt"), lineage("data/Right.txt")

    assert one == other
    assert hash(one) == hash(other)
    assert isinstance(one.root, Ancestor)
    with pytest.raises(AttributeError):
        one.root = other.root


def test_names_in_records_open_no_tag(tmp_path):
    write("whole", {"<b>": described("<script>alert(1)</script>", task_family="<img src=x onerror=y>")})

    parsed = Page(lineage("whole").to_html())

    assert {"script", "b", "img"} & set(parsed.tags) == set()
    assert any("<script>alert(1)</script>" in word for word in parsed.words)
