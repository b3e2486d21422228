"""OpenLineage events: what a run tells by the official client, on every engine, and what if nobody listens."""

import http.server
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import S3
from engines import QUICK, RETRIED, Engine, engines, processes
from openlineage_schema import facets_of, problems
from openlineage_tasks import (
    PASSWORD,
    Failing,
    InS3,
    Interrupted,
    Killed,
    MadeMeanwhile,
    Numbers,
    ReadsFailing,
    ReadsPlain,
    SeesItsStart,
    Total,
    WithDefault,
    Yielding,
    a_company,
)

from superluigi import TaskFailedError, TaskStarted, run_task
from superluigi.running import openlineage
from superluigi.running.openlineage_facts import address_of_remote, dataset_at

EVERYWHERE = engines("none", "forked", "threads", "spawn")
ROOT = Path(__file__).parents[1]


class Listener:
    """Reads what the client's file transport has written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        """Every event, in the order in which they came; each of them as the schema has it."""
        events = [json.loads(line) for line in self.text.splitlines()]
        assert [problem for event in events for problem in problems(event)] == []
        return events

    def runs(self) -> list[tuple[str, str]]:
        """The family of each run of a task, and the states that it went through, in the order in which they began."""
        states = defaultdict(list)
        for event in self.events():
            if "parent" in event["run"]["facets"]:
                states[event["job"]["name"].rpartition(".")[2], event["run"]["runId"]].append(event["eventType"])
        return [(family, " ".join(found)) for (family, _), found in states.items()]

    def last(self, family: str) -> dict[str, Any]:
        return [event for event in self.events() if event["job"]["name"] == f"openlineage_tasks.{family}"][-1]

    def whole(self) -> list[str]:
        """The states of the runs of `run_task` itself."""
        return [event["eventType"] for event in self.events() if "parent" not in event["run"]["facets"]]


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """The client's own configuration, with its transport that writes to a file; a busy machine has time for it."""
    path = tmp_path / "events.jsonl"
    monkeypatch.setattr(openlineage, "_END_WAIT_S", 60)
    monkeypatch.setenv(
        "OPENLINEAGE__TRANSPORT", json.dumps({"type": "file", "log_file_path": str(path), "append": True})
    )
    return Listener(path)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "raw.txt").write_text("1 2 3")
    return str(tmp_path)


def names(datasets: list[dict[str, Any]]) -> list[str]:
    return sorted(f"{dataset['namespace']} {dataset['name']}" for dataset in datasets)


# What is told


@EVERYWHERE
def test_each_task_that_runs_is_one_run_with_its_data_and_the_whole_is_their_parent(
    engine: Engine, folder: str, listener: Listener
) -> None:
    engine.run(Total(folder=folder))

    assert sorted(listener.runs()) == [*[("Numbers", "START COMPLETE")] * 2, ("Total", "START COMPLETE")]
    first, *_, last = events = listener.events()
    assert (first["eventType"], last["eventType"]) == ("START", "COMPLETE")
    assert first["job"]["name"] == last["job"]["name"] == "run_task.openlineage_tasks.Total"
    parents = {event["run"]["facets"]["parent"]["run"]["runId"] for event in events[1:-1]}
    assert parents == {first["run"]["runId"]} == {last["run"]["runId"]}
    total = listener.last("Total")
    assert names(total["inputs"]) == [f"file {folder}/{name}" for name in ("numbers3.txt", "numbers5.txt", "raw.txt")]
    assert names(total["outputs"]) == [f"file {folder}/total.txt"]


def test_what_is_said_of_data_is_what_their_records_say(folder: str, listener: Listener) -> None:
    run_task(Total(folder=folder))

    record = Total(folder=folder).output().read_metadata()
    total = listener.last("Total")
    (made,) = total["outputs"]
    assert made["facets"]["version"]["datasetVersion"] == record["output"]["fingerprint"]
    assert (made["outputFacets"]["outputStatistics"]["size"], record["output"]["size_bytes"]) == (2, 2)
    versions = {dataset["name"]: dataset["facets"]["version"]["datasetVersion"] for dataset in total["inputs"]}
    assert versions == {described["path"]: described["fingerprint"] for described in record["input"].values()}
    read = {dataset["name"]: dataset["inputFacets"]["inputStatistics"] for dataset in total["inputs"]}
    many = read[f"{folder}/numbers5.txt"]
    assert (many["rowCount"], many["size"], many["fileCount"]) == (5, 10, 1)
    assert "rowCount" not in read[f"{folder}/raw.txt"]
    assert record["run_id"] == listener.events()[0]["run"]["runId"].replace("-", "")


def test_parameters_identity_and_source_are_told(folder: str, listener: Listener) -> None:
    task = Numbers(folder=folder, count=4)
    run_task(task)

    event = listener.last("Numbers")
    listed = event["run"]["facets"]["executionParameters"]["parameters"]
    assert {item["key"]: item["value"] for item in listed} == {"folder": folder, "count": "4"}
    ours = event["run"]["facets"]["superluigi_task"]
    assert (ours["task_id"], ours["version"]) == (task.task_id, "3")
    assert ours["params"] == {"folder": folder, "count": "4"}
    assert ours["code"].startswith("sha256:")
    job = event["job"]["facets"]
    assert job["sourceCode"]["language"] == "python"
    assert job["sourceCode"]["sourceCode"].startswith("class Numbers(AtomicTaskWithMetadata):\n")
    assert job["documentation"]["description"] == "Some numbers."
    assert [job["jobType"][name] for name in ("processingType", "integration", "jobType")] == [
        "BATCH",
        "SUPERLUIGI",
        "TASK",
    ]


@engines("none", "forked", "spawn")
def test_a_task_that_yields_is_one_run_and_what_it_yielded_is_its_input(
    engine: Engine, folder: str, listener: Listener
) -> None:
    engine.run(Yielding(folder=folder))

    assert sorted(listener.runs()) == [*[("Numbers", "START COMPLETE")] * 2, ("Yielding", "START COMPLETE")]
    read = listener.last("Yielding")["inputs"]
    assert names(read) == [f"file {folder}/numbers1.txt", f"file {folder}/numbers2.txt"]
    assert all("version" in dataset["facets"] for dataset in read)


@EVERYWHERE
def test_a_failure_tells_why_and_each_try_is_a_run_of_its_own(engine: Engine, folder: str, listener: Listener) -> None:
    engine.run(Failing(folder=folder, password=PASSWORD, retry_count=3), config=RETRIED)

    assert listener.runs() == [("Failing", "START FAIL"), ("Failing", "START COMPLETE")]
    assert listener.whole() == ["START", "COMPLETE"]
    (failed,) = [event for event in listener.events() if event["eventType"] == "FAIL"]
    error = failed["run"]["facets"]["errorMessage"]
    assert error["message"] == "ValueError: refused to let *** in"
    assert "raise ValueError(message)\nValueError: refused to let *** in" in error["stackTrace"]


def test_a_run_that_fails_tells_so_of_itself_and_breaks_off_what_waits(folder: str, listener: Listener) -> None:
    with pytest.raises(TaskFailedError):
        run_task(ReadsFailing(folder=folder))

    assert listener.runs() == [("ReadsFailing", "START ABORT"), ("Failing", "START FAIL")]
    assert listener.whole() == ["START", "FAIL"]
    assert "tasks failed" in listener.events()[-1]["run"]["facets"]["errorMessage"]["message"]


def test_what_raise_exception_lets_out_is_told_first(folder: str, listener: Listener) -> None:
    with pytest.raises(ValueError, match="refused"):
        run_task(Failing(folder=folder), raise_exception=True)

    assert listener.runs() == [("Failing", "START FAIL")]
    assert listener.whole() == ["START", "FAIL"]


def test_ctrl_c_aborts_what_runs(folder: str, listener: Listener) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_task(Interrupted(folder=folder))

    assert listener.runs() == [("Interrupted", "START ABORT")]
    assert listener.whole() == ["START", "ABORT"]


def test_a_task_whose_process_was_killed_has_failed(folder: str, listener: Listener) -> None:
    with pytest.raises(TaskFailedError):
        run_task(Killed(folder=folder), num_workers=2, config=QUICK)

    assert listener.runs() == [("Killed", "START FAIL")]
    assert "killed by SIGKILL" in listener.last("Killed")["run"]["facets"]["errorMessage"]["message"]


def test_a_task_that_was_lost_with_its_pool_is_one_run_that_began_when_it_first_ran(
    folder: str, listener: Listener
) -> None:
    told: list[Any] = []

    with processes("fork") as pool:
        run_task(a_company(folder), executor=pool, config=QUICK, progress=told.append)

    assert sorted(listener.runs()) == [
        (family, "START COMPLETE") for family in ("Bystander", "Company", "KilledInCompany")
    ]
    began: dict[str, str] = {}
    for event in told:
        if isinstance(event, TaskStarted):
            began.setdefault(event.family, event.at.isoformat()[:23])
    starts = [
        event for event in listener.events() if "parent" in event["run"]["facets"] and event["eventType"] == "START"
    ]
    assert {event["job"]["name"].rpartition(".")[2]: event["eventTime"][:23] for event in starts} == began


def test_nothing_is_told_of_what_was_there(folder: str, listener: Listener) -> None:
    Numbers(folder=folder)
    run_task(Numbers(folder=folder))
    listener.path.unlink()

    run_task(Total(folder=folder))

    assert listener.runs() == [("Numbers", "START COMPLETE"), ("Total", "START COMPLETE")]
    listener.path.unlink()
    run_task(Total(folder=folder))
    assert listener.runs() == []
    assert listener.whole() == ["START", "COMPLETE"]


@engines("none", "forked", "spawn")
@pytest.mark.parametrize("task_cls", [Total, MadeMeanwhile])
def test_a_task_that_turns_out_to_be_made_says_nothing_and_one_that_does_not_is_told_once(
    task_cls: Any, engine: Engine, folder: str, listener: Listener
) -> None:
    engine.run(task_cls(folder=folder), single_flight=True)

    told = {Total: [("Numbers", "START COMPLETE")] * 2 + [("Total", "START COMPLETE")]}
    assert sorted(listener.runs()) == told.get(task_cls, [("MakesBoth", "START COMPLETE")])


@engines("forked", "threads", "spawn")
def test_the_start_of_a_task_that_is_decided_where_it_runs_is_told_while_it_runs(
    engine: Engine, folder: str, listener: Listener
) -> None:
    engine.run(SeesItsStart(folder=folder, events=str(listener.path)), single_flight=True)

    assert listener.runs() == [("SeesItsStart", "START COMPLETE")]


def test_what_private_parameters_hold_is_told_nowhere(folder: str, listener: Listener) -> None:
    with pytest.raises(TaskFailedError, match=r"refused to let \*\*\* in"):
        run_task(
            [Numbers(folder=folder, password=PASSWORD), WithDefault(folder=folder), Failing(folder, password=PASSWORD)]
        )

    assert listener.runs()
    assert PASSWORD not in listener.text
    assert "password" in listener.last("Numbers")["job"]["facets"]["sourceCode"]["sourceCode"]  # its name is no secret
    assert "sourceCode" not in listener.last("WithDefault")["job"]["facets"]
    assert listener.last("WithDefault")["job"]["facets"]["documentation"]["description"] == "Opens with ***."


def test_files_of_luigi_are_data_and_what_has_no_name_is_not(folder: str, listener: Listener) -> None:
    run_task(ReadsPlain(folder=folder))

    told = listener.last("ReadsPlain")
    assert names(told["outputs"]) == [f"file {folder}/reads-plain.txt"]
    assert names(told["inputs"]) == [f"file {folder}/plain.txt"]
    assert told["inputs"][0]["inputFacets"]["inputStatistics"]["size"] == 4


def test_objects_and_prefixes_are_named_by_bucket_and_key(s3: S3, listener: Listener) -> None:
    s3.put("raw/numbers.txt", b"1")
    run_task(InS3(bucket=s3.bucket))

    told = listener.last("InS3")
    assert names(told["inputs"]) == [f"s3://{s3.bucket} raw/numbers.txt"]
    assert names(told["outputs"]) == [f"s3://{s3.bucket} made/parts", f"s3://{s3.bucket} made/total.txt"]
    parts = min(told["outputs"], key=lambda dataset: dataset["name"])["outputFacets"]["outputStatistics"]
    assert (parts["fileCount"], parts["size"]) == (2, 2)
    assert told["inputs"][0]["facets"]["dataSource"]["uri"] == f"s3://{s3.bucket}"


CHANGING = """
import luigi


class Changing(luigi.Task):
    {} = 1
    has_run = False

    def complete(self):
        return self.has_run

    def run(self):
        self.has_run = True
"""


def test_a_class_that_was_changed_is_told_as_it_is_now_and_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    package = tmp_path / "repository" / "flows"
    package.mkdir(parents=True)
    module = package / "changing.py"
    module.write_text(CHANGING.format("first"))
    git = [
        "git",
        "-C",
        str(package.parent),
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@b.c",
        "-c",
        "commit.gpgsign=false",
    ]
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["commit", "-q", "-m", "One"],
        ["remote", "add", "origin", "https://me:token@git.example.com/team/flows.git"],
    ):
        subprocess.run([*git, *words], check=True)
    monkeypatch.syspath_prepend(str(package))
    changing = importlib.import_module("changing")
    run_task(changing.Changing())
    module.write_text(CHANGING.format("second_one"))
    run_task(importlib.reload(changing).Changing())

    jobs = [event["job"] for event in listener.events() if event["job"]["name"] == "changing.Changing"]
    sources = [job["facets"]["sourceCode"]["sourceCode"].split()[2] for job in jobs]
    assert sources == ["first", "first", "second_one", "second_one"]
    where = jobs[0]["facets"]["sourceCodeLocation"]
    assert (where["url"], where["path"], where["branch"]) == (
        "https://git.example.com/team/flows.git",
        "flows/changing.py",
        "main",
    )
    assert len(where["version"]) == 40
    assert "token" not in listener.text


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("git@github.com:team/flows.git", "ssh://github.com/team/flows.git"),
        ("ssh://git:secret@host:2222/flows", "ssh://host:2222/flows"),
        ("https://token@host/flows.git?key=1", "https://host/flows.git"),
        ("/srv/git/flows", "file:///srv/git/flows"),
        ("../flows", None),
        ("", None),
    ],
)
def test_a_remote_is_told_as_an_address_without_credentials(remote: str, address: str | None) -> None:
    assert address_of_remote(remote) == address


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("data/a.csv", ("file", "/work/data/a.csv")),
        ("/data/../a.csv", ("file", "/a.csv")),
        ("s3://bucket/a/b/", ("s3://bucket", "a/b")),
        ("s3a://bucket/a", ("s3://bucket", "a")),
        ("gs://bucket/a", ("gs://bucket", "a")),
        ("s3://bucket", None),
        ("postgresql://me:secret@host/db", None),
    ],
)
def test_data_are_named_as_the_specification_says_or_not_at_all(path: str, place: Any) -> None:
    assert dataset_at(path, "/work") == place


def test_the_namespace_of_jobs_is_the_clients_own_setting(
    folder: str, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "nightly")
    run_task(Numbers(folder=folder))

    assert {event["job"]["namespace"] for event in listener.events()} == {"nightly"}
    assert listener.last("Numbers")["run"]["facets"]["parent"]["job"]["namespace"] == "nightly"


# Off


OFF = """
import os, sys, threading
from openlineage_tasks import Numbers
from superluigi import run_task
run_task(Numbers(folder="."))
print([name for name in sys.modules if name.split(".")[0] == "openlineage"], [t.name for t in threading.enumerate()])
print(sorted(os.listdir(".")), sorted(name for name in os.environ if name.startswith("OPENLINEAGE__")))
"""


@pytest.mark.parametrize("settings", [{}, {"OPENLINEAGE_DISABLED": "true", "OPENLINEAGE_URL": "http://127.0.0.1:9"}])
def test_without_a_configuration_nothing_is_imported_started_or_written(
    settings: dict[str, str], tmp_path: Path
) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", OFF],
        cwd=tmp_path,
        env={**os.environ, **settings, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert finished.stdout.splitlines()[-2:] == [
        "[] ['MainThread']",
        "['numbers3.txt', 'numbers3.txt.metadata.json'] []",
    ]
    assert finished.stderr == ""


@pytest.mark.parametrize("written", ["", "facets:\n  environment_variables: [HOME]\n", "transport:\n  type: noop\n"])
def test_a_configuration_without_a_transport_is_silent(
    written: str, folder: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Path("openlineage.yml").write_text(written)
    before = threading.active_count()
    run_task(Numbers(folder=folder))

    assert threading.active_count() == before
    assert "eventType" not in "".join(capfd.readouterr())
    assert [record.message for record in caplog.records if "console" in record.message] == []


def test_a_configuration_file_is_found_where_the_client_looks_for_it(folder: str) -> None:
    Path("openlineage.yml").write_text("transport:\n  type: file\n  log_file_path: told.jsonl\n  append: true\n")
    run_task(Numbers(folder=folder))

    assert Listener(Path("told.jsonl")).runs() == [("Numbers", "START COMPLETE")]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_configuration_without_the_package_is_said_once_and_the_runs_go_on(
    folder: str, listener: Listener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client", None)  # Python says then what it says of what is missing
    monkeypatch.setattr(openlineage, "_said", set())
    for count in (1, 2):
        run_task(Numbers(folder=folder, count=count))

    (said,) = warnings_of(caplog)
    assert "superluigi[openlineage]" in said
    assert listener.text == ""


@pytest.mark.parametrize(
    "transport", [{"type": "no.such.Transport"}, {"type": "http", "url": "nowhere"}, {"type": "file"}]
)
def test_a_configuration_that_the_client_refuses_is_said_and_the_run_goes_on(
    transport: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT", json.dumps(transport))
    run_task(Numbers(folder=folder))

    assert len([said for said in warnings_of(caplog) if said.startswith("OpenLineage is configured, but")]) == 1


# Receivers


@pytest.fixture
def receiver() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The port of a receiver, and what it has got."""
    got: list[dict[str, Any]] = []

    class Takes(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201 if self.path == "/api/v1/lineage" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Takes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, got
        server.shutdown()


def test_a_receiver_gets_every_event_before_the_run_returns_and_the_environment_stays(
    receiver: tuple[int, list[dict[str, Any]]], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, got = receiver
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(openlineage, "_END_WAIT_S", 60)
    before = dict(os.environ)
    run_task(Total(folder=folder), num_workers=2)

    assert [event["eventType"] for event in got].count("COMPLETE") == 4
    assert len(got) == 8
    assert [problem for event in got for problem in problems(event)] == []
    assert dict(os.environ) == before


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a receiver that lets everybody in and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as door:
        yield door.getsockname()[1]


@pytest.fixture
def shut() -> int:
    """A port at which nobody is."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


def sends_to(port: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    transport = {"type": "http", "url": f"http://me:secret-of-mine@127.0.0.1:{port}", **settings}
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT", json.dumps(transport))
    monkeypatch.setattr(openlineage, "_receiver_is_down", False)


def ended(emitters: list[threading.Thread]) -> bool:
    for thread in emitters:
        thread.join(30)
    return not any(thread.is_alive() for thread in emitters)


def senders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "superluigi-openlineage"]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_receiver_that_hangs_holds_no_run_up_and_is_waited_for_once(
    num_workers: int,
    deaf: int,
    folder: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sends_to(deaf, monkeypatch, timeout=1.5, retry={"total": 0})
    monkeypatch.setattr(openlineage, "_END_WAIT_S", 0.2)
    run_task(Total(folder=folder), num_workers=num_workers)

    (sender,) = senders()  # still at its first event: the run did not wait for it
    (said,) = warnings_of(caplog)
    assert "8 of 8 could not be sent in time" in said
    assert Path(folder, "total.txt").exists()
    assert openlineage._receiver_is_down  # the next run waits less
    assert ended([sender])
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("retry", [{"total": 0}, {"total": 3, "backoff_factor": 0}])
def test_a_receiver_that_is_down_fails_no_run_and_is_complained_of_once(
    retry: dict[str, Any], shut: int, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sends_to(shut, monkeypatch, retry=retry)
    run_task(Total(folder=folder))

    (said,) = warnings_of(caplog)
    assert "refused" in said
    assert "secret-of-mine" not in said
    assert senders() == []


def test_what_waits_to_be_sent_is_bounded(
    deaf: int, folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sends_to(deaf, monkeypatch, timeout=0.7, retry={"total": 0})
    monkeypatch.setattr(openlineage, "_END_WAIT_S", 0.1)
    monkeypatch.setattr(openlineage, "_MAX_WAITING", 5)
    run_task([Numbers(folder=folder, count=count) for count in range(1, 10)])

    (said,) = warnings_of(caplog)
    assert "5 of them wait to be sent" in said
    assert ended(senders())


def test_a_receiver_that_is_back_is_waited_for_again(
    receiver: tuple[int, list[dict[str, Any]]], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, got = receiver
    sends_to(port, monkeypatch)
    monkeypatch.setattr(openlineage, "_receiver_is_down", True)
    run_task(Numbers(folder=folder))

    assert ended(senders())
    assert not openlineage._receiver_is_down
    assert got[0]["eventType"] == "START"


# The schema that these tests hold events to


def test_the_schema_finds_what_is_wrong(folder: str, listener: Listener) -> None:
    run_task(Numbers(folder=folder))
    (event,) = [event for event in listener.events() if event["eventType"] == "COMPLETE"][:1]
    assert {name for name, _ in facets_of(event)} >= {"parent", "jobType", "sourceCode", "outputStatistics", "version"}

    def broken(*path: Any, value: Any) -> list[str]:
        copy = json.loads(json.dumps(event))
        inner = copy
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return problems(copy)

    assert broken("eventType", value="DONE")
    assert broken("eventTime", value="2024-01-01T00:00:00")
    assert broken("run", "runId", value="1")
    assert broken("producer", value="superluigi")
    assert broken("outputs", 0, "name", value=None)
    assert broken("outputs", 0, "more", value=1)
    assert broken("outputs", 0, "outputFacets", "outputStatistics", "size", value="6")
    assert broken("run", "facets", "parent", "job", value={"name": "x"})
    assert broken("run", "facets", "parent", "_schemaURL", value="https://openlineage.io/spec/facets/9/None.json")
    assert broken("run", "facets", "parent", "_producer", value=None)
