"""What run_task promises with `central_scheduler=True`, against a real luigid."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from central_scheduler import (
    CLIENTS,
    QUICK,
    STAYING,
    AboveFlaky,
    Brittle,
    Crane,
    Disabled,
    Flaky,
    Long,
    Luigid,
    Patient,
    Ranked,
    Roof,
    Shared,
    Step,
    Walls,
    at_once,
    began,
    clients_of,
    run_together,
    running_luigid,
)

from superluigi import SuperLuigiError, TaskFailedError, run_task
from superluigi.running import central
from superluigi.running.single_flight import lease_of

WORKERS = pytest.mark.parametrize("num_workers", [1, 3], ids=["1-worker", "3-workers"])

# Without prune_on_get_work, luigid looks once a minute which failed tasks may run again.
SETTINGS = """
[scheduler]
prune_on_get_work = true
retry_delay = 0.01
retry_count = 2
[resources]
crane = 3
"""

CHROMIUM = shutil.which("chromium")
# A container has no sandbox for root. Nothing but the page is to be asked for.
HEADLESS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
    *("--disable-default-apps", "--disable-extensions", "--virtual-time-budget=10000", "--dump-dom"),
]


@pytest.fixture(scope="module")
def luigid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Luigid]:
    """A central scheduler with three cranes, which lets a task fail once."""
    with running_luigid(tmp_path_factory.mktemp("luigid"), SETTINGS) as daemon:
        yield daemon


# Two clients


@WORKERS
def test_two_clients_started_together_run_each_task_once(luigid: Luigid, num_workers: int) -> None:
    graph = f"once-{num_workers}"

    run_together(luigid, Shared(graph=graph, number=11), num_workers=num_workers)

    assert sorted(began(graph)) == list(range(12))
    assert clients_of(graph) == set(CLIENTS)
    assert set(luigid.statuses(graph).values()) == {"DONE"}


@WORKERS
def test_two_clients_started_together_both_end_well(luigid: Luigid, num_workers: int) -> None:
    graph = f"both-{num_workers}"

    ended = run_together(luigid, Shared(graph=graph, number=11), num_workers=num_workers)

    assert [client.errors for client in ended] == ["", ""]
    assert [client.path for client in ended] == [f"{graph}/11.txt"] * 2


def test_a_client_gives_its_path_when_the_task_is_done_that_another_client_runs(luigid: Luigid) -> None:
    ended = run_together(luigid, Long(graph="long"), worker=QUICK)

    assert began("long") == [0]
    assert [(client.path, client.exists) for client in ended] == [("long/0.txt", True)] * 2


def test_two_clients_that_force_the_same_tasks_at_the_same_time_run_each_once(luigid: Luigid) -> None:
    luigid.run(Shared(graph="both-forced", number=11))

    ended = run_together(luigid, Shared(graph="both-forced", number=11), force_upstream=True)

    assert [client.errors for client in ended] == ["", ""]
    assert sorted(began("both-forced")[12:]) == list(range(12))


def test_with_single_flight_a_client_waits_for_runs_that_the_scheduler_does_not_know(luigid: Luigid) -> None:
    task = Shared(graph="flights", number=0)
    held = lease_of(task).take()
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(luigid.run, task, single_flight=True)
        with contextlib.suppress(TimeoutError):
            running.result(0.5)
        assert not running.done()
        held.release()
        running.result(60)

    assert began("flights") == [0]


def test_resources_are_shared_by_all_clients(luigid: Luigid) -> None:
    run_together(luigid, Crane(graph="cranes", number=10), num_workers=2)

    assert sorted(began("cranes")) == list(range(11))
    assert clients_of("cranes") == set(CLIENTS)
    assert max(at_once("cranes")) == 3


# One client


@WORKERS
def test_the_scheduler_is_told_of_all_tasks(luigid: Luigid, num_workers: int) -> None:
    graph = f"told-{num_workers}"

    path = luigid.run(Roof(graph=graph), num_workers=num_workers)
    luigid.run(Roof(graph=graph), num_workers=num_workers)

    assert path == Path(graph, "3.txt")
    assert sorted(began(graph)) == [0, 1, 2, 3]
    assert luigid.statuses(graph) == {"Ground 0": "DONE", "Walls 1": "DONE", "Garden 2": "DONE", "Roof 3": "DONE"}


def test_tasks_of_higher_priority_run_first_and_so_does_what_they_require(luigid: Luigid) -> None:
    luigid.run(Ranked(graph="ranked", number=9))

    assert began("ranked") == [5, 0, 4, 3, 2, 1, 9]


# Forcing, which has to work within the ten seconds for which luigid ignores that a task which is done is to run


@WORKERS
@pytest.mark.parametrize(
    ("forcing", "runs"),
    [
        (lambda graph: {"force": True}, [3]),
        (lambda graph: {"force_upstream": True}, [0, 1, 2, 3]),
        (lambda graph: {"force_upstream_to_task": Walls(graph=graph)}, [1, 3]),
        (lambda graph: {"force_upstream_to_task_cls": Walls}, [1, 3]),
    ],
    ids=["force", "force_upstream", "force_upstream_to_task", "force_upstream_to_task_cls"],
)
def test_forcing_works_right_after_a_run_and_again_right_after_that(
    luigid: Luigid,
    forcing: Callable[[str], dict[str, Any]],
    runs: list[int],
    num_workers: int,
    request: pytest.FixtureRequest,
) -> None:
    graph = request.node.callspec.id
    luigid.run(Roof(graph=graph), num_workers=num_workers)

    luigid.run(Roof(graph=graph), num_workers=num_workers, **forcing(graph))
    luigid.run(Roof(graph=graph), num_workers=num_workers, **forcing(graph))

    assert sorted(began(graph)[4:]) == sorted(runs * 2)
    assert set(luigid.statuses(graph).values()) == {"DONE"}


def test_an_output_removed_right_after_a_run_is_made_again(luigid: Luigid) -> None:
    luigid.run(Roof(graph="removed"))
    for number in (1, 3):
        Path(f"removed/{number}.txt").unlink()

    luigid.run(Roof(graph="removed"))

    assert began("removed")[4:] == [1, 3]


# Failures


def test_a_failed_task_is_failed_for_the_scheduler_and_does_not_stand_in_the_way_of_the_next_run(
    tmp_path: Path,
) -> None:
    with running_luigid(tmp_path) as luigid:
        with pytest.raises(TaskFailedError, match="no luck in run 1") as caught:
            luigid.run(AboveFlaky(graph="failed"))
        failed = luigid.statuses("failed")
        luigid.run(AboveFlaky(graph="failed"))
        done = luigid.statuses("failed")

    assert isinstance(caught.value.__cause__, ValueError)
    assert failed == {"AboveFlaky 4": "PENDING", "Flaky 1": "FAILED"}
    assert began("failed") == [1, 1, 4]
    assert done == {"AboveFlaky 4": "DONE", "Flaky 1": "DONE"}


def test_after_an_exception_that_was_let_out_the_next_run_runs_the_task(luigid: Luigid) -> None:
    with pytest.raises(ValueError, match="no luck in run 1"):
        luigid.run(Patient(graph="let-out", number=1), raise_exception=True)

    luigid.run(Patient(graph="let-out", number=1))

    assert began("let-out") == [1, 1]


@WORKERS
def test_a_client_that_stays_runs_a_failed_task_again_as_often_as_the_task_says(
    luigid: Luigid, num_workers: int
) -> None:
    graph = f"patient-{num_workers}"

    luigid.run(Patient(graph=graph, number=3), STAYING, num_workers=num_workers)

    assert began(graph) == [3, 3, 3, 3]
    assert luigid.statuses(graph) == {"Patient 3": "DONE"}


def test_a_task_that_succeeds_when_it_is_run_again_is_followed_by_what_requires_it(luigid: Luigid) -> None:
    luigid.run(AboveFlaky(graph="followed"), STAYING)

    assert began("followed") == [1, 1, 4]


@pytest.mark.parametrize(("task", "runs"), [(Flaky, 2), (Brittle, 1)], ids=["retry_count", "disable_hard_timeout"])
def test_a_task_that_failed_too_often_is_disabled_until_it_is_enabled_again(
    luigid: Luigid, task: type[Step], runs: int
) -> None:
    graph = f"disabled-{runs}"

    with pytest.raises(TaskFailedError, match=f"no luck in run {runs}"):
        luigid.run(task(graph=graph, number=runs), STAYING)
    with pytest.raises(TaskFailedError):
        luigid.run(task(graph=graph, number=runs), STAYING)
    disabled = began(graph), luigid.statuses(graph)
    luigid.call("re_enable_task", task_id=task(graph=graph, number=runs).task_id)
    luigid.run(task(graph=graph, number=runs), STAYING)

    assert disabled == ([runs] * runs, {f"{task.__name__} {runs}": "DISABLED"})
    assert began(graph) == [runs] * (runs + 1)
    assert luigid.statuses(graph) == {f"{task.__name__} {runs}": "DONE"}


def test_the_error_names_a_task_that_the_scheduler_has_disabled(luigid: Luigid) -> None:
    with pytest.raises(TaskFailedError):
        luigid.run(Brittle(graph="named", number=1))

    with pytest.raises(TaskFailedError, match=r"Brittle\(graph=named, number=1\).*disabled"):
        luigid.run(Brittle(graph="named", number=1))


def test_a_task_that_is_disabled_by_itself_does_not_run_and_no_path_is_given(luigid: Luigid) -> None:
    with pytest.raises(TaskFailedError):
        luigid.run(Disabled(graph="itself"))

    assert began("itself") == []
    assert luigid.statuses("itself") == {"Disabled 0": "DISABLED"}


# The address


@pytest.mark.parametrize(
    "settings",
    [
        lambda url, host, port: {"superluigi": {"scheduler_url": url}},
        lambda url, host, port: {"core": {"scheduler_url": url}},
        lambda url, host, port: {"core": {"scheduler_host": host, "scheduler_port": port}},
        lambda url, host, port: {"core": {"default_scheduler_url": url}},
        lambda url, host, port: {"core": {"default-scheduler-host": host, "default-scheduler-port": port}},
    ],
    ids=["superluigi", "url", "host-and-port", "default-url", "default-host-and-port"],
)
@pytest.mark.parametrize("place", ["config", "config_file"])
# Luigi takes the old names and those that begin with rpc, and warns that they are old, or that it does not take them.
@pytest.mark.filterwarnings("ignore:.*'(default_scheduler|rpc)_.*:luigi.parameter.UnconsumedParameterWarning")
@pytest.mark.filterwarnings("ignore:.*default-scheduler-.*:DeprecationWarning")
def test_the_address_comes_from_the_configuration(
    luigid: Luigid,
    settings: Callable[..., dict[str, dict[str, Any]]],
    place: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    host, port = luigid.url.removeprefix("http://").rstrip("/").split(":")
    config = {"worker": QUICK, **settings(luigid.url, host, port)}
    config["core"] = {"rpc_retry_attempts": 1, **config.get("core", {})}
    graph = request.node.callspec.id
    text = "\n".join(
        line
        for section, options in config.items()
        for line in (f"[{section}]", *(f"{option} = {value}" for option, value in options.items()))
    )
    (tmp_path / "own.cfg").write_text(text)

    run_task(
        Step(graph=graph), central_scheduler=True, **{place: config if place == "config" else tmp_path / "own.cfg"}
    )

    assert luigid.statuses(graph) == {"Step 0": "DONE"}


@pytest.mark.filterwarnings("ignore:.*'rpc_.*:luigi.parameter.UnconsumedParameterWarning")
def test_a_scheduler_that_does_not_answer_is_named_with_its_address(tmp_path: Path) -> None:
    with running_luigid(tmp_path) as gone:
        pass
    config = {"core": {"scheduler_url": gone.url, "rpc_retry_attempts": 1}}

    with pytest.raises(SuperLuigiError, match=gone.url.rstrip("/")):
        run_task(Step(graph="nobody"), central_scheduler=True, config=config)

    assert began("nobody") == []


@pytest.mark.filterwarnings("ignore:.*'rpc_.*:luigi.parameter.UnconsumedParameterWarning")
def test_while_no_scheduler_answers_a_sentence_says_so_and_the_password_is_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_luigid(tmp_path) as gone:
        pass
    url = gone.url.replace("://", "://me:secret@")
    monkeypatch.setattr(central, "_FIRST_PAUSE_S", 0)  # Luigi's own is half a minute

    with pytest.raises(SuperLuigiError) as raised:
        run_task(Step(graph="nobody"), central_scheduler=True, config={"core": {"scheduler_url": url}})

    told = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
    assert told[0].startswith(
        f"The central scheduler at {gone.url.rstrip('/').replace('://', '://…@')} does not answer"
    )
    assert told[0].endswith("That was try 1 of 3; the next is in 0 s.")
    assert "secret" not in f"{raised.value}{told}"


# The web page


class Table(HTMLParser):
    """The cells of the table of tasks, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_table = self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._in_table = ("id", "taskTable") in attrs
        elif self._in_table and tag == "tr":
            self.rows.append([])
        elif self._in_table and tag == "td":
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"
        self._in_table = self._in_table and tag != "table"

    def handle_data(self, text: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += text.strip()


IN_THEIR_STATES = [
    ["DONE", "Garden", "graph=page,number=2"],
    ["DONE", "Ground", "graph=page,number=0"],
    ["DONE", "Roof", "graph=page,number=3"],
    ["DONE", "Walls", "graph=page,number=1"],
    ["FAILED", "Flaky", "graph=broken,number=1"],
    ["UPSTREAM_FAILED", "AboveFlaky", "graph=broken,number=4"],
]


def rows_of_page(url: str, folder: Path) -> list[list[str]]:
    """The first three cells of each row of the table on a page, sorted, as Chromium shows it."""
    page = subprocess.run(
        [CHROMIUM, *HEADLESS, f"--user-data-dir={folder / 'chromium'}", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    ).stdout
    return sorted(row[:3] for row in Table(page).rows if row)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian's package chromium) to open the page with")
def test_the_web_page_lists_the_tasks_by_family_and_parameters_with_their_state(tmp_path: Path) -> None:
    with running_luigid(tmp_path) as luigid:
        luigid.run(Roof(graph="page"))
        with pytest.raises(TaskFailedError):
            luigid.run(AboveFlaky(graph="broken"))
        for _ in range(
            3
        ):  # the page asks for one state after the other, and Luigi may put a task into another meanwhile
            rows = rows_of_page(f"{luigid.url}static/visualiser/index.html", tmp_path)
            if rows == IN_THEIR_STATES:
                break

    assert rows == IN_THEIR_STATES
