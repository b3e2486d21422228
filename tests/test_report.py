"""The report of a run: what it says is what the events said, it says nothing else, and it is a page that works."""

import asyncio
import itertools
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from engines import QUICK, RETRIED, Engine, engines, processes
from executor_tasks import Company, FailingOnce, Piece, Whole, notes
from progress_tasks import SIZE_BYTES, Sent
from report_tasks import SECRET, Both, Going, GoingNowhere, Opening, Refused

from superluigi import (
    AtomicTaskWithMetadata,
    ConfigError,
    External,
    NoTarget,
    Parameter,
    TaskEnded,
    TaskFailedError,
    TaskPaused,
    TransferEnded,
    run_task,
)
from superluigi.markup import Tone
from superluigi.pictures import timeline

DATA = re.compile(r"<script>const DATA = (.*?);</script>")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "data")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "pages" / "run.html"


class Read:
    """What a page says, by names."""

    def __init__(self, page: Path) -> None:
        self.text = page.read_text(encoding="utf-8")
        (found,) = DATA.findall(self.text)
        self.data: dict[str, Any] = json.loads(found)
        self.facts = dict(self.data["facts"])
        self.states = [look[0] for look in self.data["looks"]]
        self.items = {item[0].partition("(")[0]: item for item in self.data["items"]}
        self.bars = [(*bar[:3], self.states[bar[3]], *bar[4:]) for bar in self.data["bars"]]

    def state_of(self, family: str) -> str:
        return self.states[self.items[family][2]]

    def states_of_bars(self, family: str) -> list[str]:
        items = self.data["items"]
        return [bar[3] for bar in sorted(self.bars, key=lambda bar: bar[1]) if items[bar[4]][1] == family]


@engines("none", "forked", "threads", "fork", "dask")
def test_the_page_says_what_the_events_said(engine: Engine, folder: str, page: Path) -> None:
    told: list[Any] = []

    engine.run(Whole(folder=folder), num_workers=1 if engine.name == "none" else 2, progress=told.append, report=page)

    read, ended = Read(page), [event for event in told if isinstance(event, TaskEnded)]
    assert sorted(item[0] for item in read.data["items"]) == sorted(event.task for event in ended)
    took = {event.task: event.duration_s for event in ended}
    assert [item[5] for item in read.data["items"]] == pytest.approx(
        [took[item[0]] for item in read.data["items"]], abs=0.05
    )
    assert len(read.bars) == len(ended) == 4
    assert {bar[3] for bar in read.bars} == {"done"}
    assert read.data["duration"] == pytest.approx(told[-1].duration_s, abs=1e-3)
    assert read.data["state"] == "done"
    assert (read.facts["run"], read.facts["tasks"]) == (told[0].run_id, "4 done")
    assert {bar[6] for bar in read.bars} == {f"process {event.process_id} on {event.host}" for event in ended}
    names = [row[0] for row in read.data["rows"]]
    assert engine.name != "none" or names == ["this process"]
    assert engine.name != "forked" or names in (["worker 1"], ["worker 1", "worker 2"])
    assert engine.name != "dask" or {name[:6] for name in names} == {"tcp://"}
    for row in range(len(names)):
        spans = sorted((bar[1], bar[2]) for bar in read.bars if bar[0] == row)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert read.items["Whole"][8]  # it ended last, so that it ends the longest chain
    assert sum(item[8] for item in read.data["items"]) == 2


def test_what_waits_at_once_on_one_loop_is_on_rows_that_are_not_called_threads(page: Path) -> None:
    begun = {"a": asyncio.Event(), "b": asyncio.Event()}

    class Meeting(AtomicTaskWithMetadata):
        name: str = Parameter()
        other: str = Parameter()

        def output(self) -> NoTarget:
            return NoTarget()

        async def run(self) -> None:
            begun[self.name].set()
            await begun[self.other].wait()

    run_task([Meeting(name="a", other="b"), Meeting(name="b", other="a")], executor="async", report=page)

    assert [row[0] for row in Read(page).data["rows"]] == ["async 1", "async 2"]


def test_a_failed_run_tells_where_it_failed_and_what_did_not_run(folder: str, page: Path) -> None:
    Path(folder).mkdir()
    with pytest.raises(TaskFailedError) as caught:
        run_task(Both(folder=folder), num_workers=2, report=page)

    read = Read(page)
    assert read.data["state"] == "failed"
    assert read.facts["tasks"] == "4 done, 1 failed, 1 did not run"
    assert [read.state_of(family) for family in ("Asked", "Refused", "Both")] == ["done", "failed", "did not run"]
    ((title, why, told, text, item),) = read.data["stories"]
    (failure,) = caught.value.failures
    assert title.startswith("Refused(")
    assert read.data["items"][item][1] == "Refused"
    assert why.startswith("ValueError: </script>")
    assert [line for line in dict(told)["where"] if "in refuse" in line]
    assert dict(told)["inputs"] == [f"given = {failure.inputs[0].path}"]
    assert dict(told)["log"] == [failure.log]
    assert failure.log is not None  # whatever the name of the task
    assert "Traceback" in text
    assert dict(read.items["Both"][9])["waited for"] == [title]


def test_nothing_private_is_told(folder: str, page: Path) -> None:
    with pytest.raises(TaskFailedError):
        run_task(Refused(folder=folder), report=page)

    assert SECRET not in page.read_text(encoding="utf-8")
    assert "***" in page.read_text(encoding="utf-8")


def test_what_is_private_to_an_input_is_not_told_of_its_reader_either(folder: str, page: Path) -> None:
    with pytest.raises(TaskFailedError):
        run_task(Opening(folder=folder), report=page)

    assert SECRET not in page.read_text(encoding="utf-8")
    assert f"{folder}/***.txt holds nothing" in page.read_text(encoding="utf-8")


def test_what_is_too_long_to_be_read_is_cut(folder: str, page: Path) -> None:
    with pytest.raises(TaskFailedError):
        run_task(Refused(folder=folder), report=page)

    assert page.stat().st_size < 700_000


def test_an_exception_that_is_let_out_is_reported(folder: str, page: Path) -> None:
    with pytest.raises(ValueError, match="script"):
        run_task(Refused(folder=folder), raise_exception=True, report=page)

    read = Read(page)
    assert (read.data["state"], read.state_of("Refused")) == ("failed", "failed")
    assert [story[0][:8] for story in read.data["stories"]] == ["Refused("]


def test_an_interrupted_run_is_reported(folder: str, page: Path) -> None:
    class Interrupted(Piece):
        def run(self, output_path: Path) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(Interrupted(folder=folder), report=page)

    read = Read(page)
    assert (read.data["state"], read.state_of("Interrupted")) == ("interrupted", "stopped")
    assert read.facts["tasks"] == "0 done, 1 stopped"
    assert read.data["rows"][0][0] == "this process"


@engines("none", "forked")
def test_a_task_that_yields_has_a_bar_for_each_time_and_its_chain_goes_through_what_it_yielded(
    engine: Engine, folder: str, page: Path
) -> None:
    told: list[Any] = []

    engine.run(Going(folder=folder), report=page, progress=told.append)

    read = Read(page)
    assert sum(isinstance(event, TaskPaused) for event in told) == 2
    assert read.states_of_bars("Going") == ["paused", "paused", "done"]
    assert [item[3] for item in read.data["items"]] == [1, 1, 1]
    assert all(item[8] for item in read.data["items"])
    assert read.data["marked"] == "the longest chain: 3 tasks"


def test_each_try_has_its_bar_with_its_reason(folder: str, page: Path) -> None:
    run_task(FailingOnce(folder=folder), config=RETRIED, report=page)

    read = Read(page)
    assert read.states_of_bars("FailingOnce") == ["failed", "done"]
    assert [bar[6].partition(" on ")[0].partition(",")[0].partition(" ")[0] for bar in read.bars] == ["process", "try"]
    assert read.items["FailingOnce"][3] == 2
    assert read.data["stories"] == []
    assert read.facts["tried more than once"] == "1 task"


def test_what_was_lost_with_its_pool_has_a_bar_in_the_process_that_ran_it(folder: str, page: Path) -> None:
    Path(folder).mkdir()

    with processes("fork") as pool:
        run_task(Company(folder=folder), executor=pool, config=QUICK, report=page)

    read, ran = Read(page), [*notes(Path(folder), "deaths"), *notes(Path(folder), "bystanders")]
    assert [read.states_of_bars(family) for family in ("KilledInCompany", "Bystander")] == [["lost", "done"]] * 2
    assert {re.findall(r"process (\d+)", bar[6])[0] for bar in read.bars} >= set(ran)
    assert "not known" not in {row[0] for row in read.data["rows"]}
    assert (read.facts["tasks"], read.items["Bystander"][3]) == ("3 done", 1)


def test_what_waited_for_what_it_had_yielded_when_the_run_failed_is_told_as_paused(folder: str, page: Path) -> None:
    with pytest.raises(TaskFailedError):
        run_task(GoingNowhere(folder=folder), report=page)

    read = Read(page)
    assert read.facts["tasks"] == "1 done, 1 failed, 1 paused"
    assert read.state_of("GoingNowhere") == "paused"


def test_data_that_are_made_elsewhere_and_missing_are_told(tmp_path: Path, page: Path) -> None:
    class Needing(Piece):
        def requires(self) -> Any:
            return External(str(tmp_path / "missing.csv"))

    with pytest.raises(TaskFailedError):
        run_task(Needing(folder=str(tmp_path)), report=page)

    ((title, why, *_),) = Read(page).data["stories"]
    assert title.startswith("External(")
    assert "does not exist" in why


def test_the_reason_to_run_is_told(folder: str, page: Path) -> None:
    run_task(Piece(folder=folder), report=page)
    first = Read(page)
    run_task(Piece(folder=folder), force=True, report=page)
    second = Read(page)
    Path(folder, "piece.txt").write_text("altered")
    run_task(Piece(folder=folder), rerun_stale=True, report=page)

    assert first.items["Piece"][6].endswith("piece.txt was not there")
    assert second.items["Piece"][6] == "it was forced"
    assert "piece.txt was altered since it was made" in Read(page).items["Piece"][6]


def test_what_waited_for_inputs_that_came_out_as_before_is_still_up_to_date(folder: str, page: Path) -> None:
    run_task(Whole(folder=folder))
    Path(folder, "a.txt").write_text("altered")

    run_task(Whole(folder=folder), rerun_stale=True, report=page)

    read = Read(page)
    assert read.facts["tasks"] == "1 done, 1 still up to date"
    assert (read.state_of("Whole"), read.items["Whole"][3]) == ("still up to date", 0)


def test_a_transfer_has_its_bar_and_its_rate(bucket: str, page: Path) -> None:
    told: list[Any] = []

    run_task(Sent(bucket=bucket), report=page, progress=told.append)

    read = Read(page)
    (event,) = [event for event in told if isinstance(event, TransferEnded)]
    assert [(bar[3], bar[5], read.data["rows"][bar[0]][0]) for bar in read.bars if bar[3] == "upload"] == [
        ("upload", f"upload of {event.address}", "transfers")
    ]
    ((direction, address, size_bytes, _, took_s, rate, task),) = read.data["tables"][1]["rows"]
    assert (direction, address, size_bytes) == ("upload", event.address, SIZE_BYTES)
    assert task == f"Sent(bucket={bucket}, size_bytes={SIZE_BYTES})"
    assert rate == pytest.approx(SIZE_BYTES / took_s)


def test_a_run_that_has_nothing_to_do_says_so(folder: str, page: Path) -> None:
    run_task(Whole(folder=folder))

    run_task(Whole(folder=folder), report=page)

    read = Read(page)
    assert read.data["notes"] == ["Nothing had to run: everything was complete."]
    assert (read.data["bars"], read.facts["found complete"]) == ([], "1 task")


def test_what_is_no_text_becomes_escapes() -> None:
    look = {"done": timeline.Look("✓", Tone.GOOD)}
    bar, item = (
        timeline.Bar(0, 0.0, 1.0, "done", "\ud800"),
        timeline.Item("\ud800", "F", "done", 1, 0.0, 1.0, "</script>", ""),
    )
    told = timeline.Timeline("\u202e", "done", [], 1.0, 0.0, look, [timeline.Row("\ud800")], [bar], [item])

    page = timeline.timeline_page(told)

    assert "\u202e" not in page
    assert page.encode().count(b"ud800") == 3
    assert page.count("</script>") == 3


# Where it is written


def test_the_page_is_written_in_one_step_and_its_place_is_told(
    folder: str, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_task(Piece(folder=folder), report=str(page))

    assert f"Report: {page}\n" in capsys.readouterr().out
    assert [path.name for path in page.parent.iterdir()] == ["run.html"]


@pytest.mark.parametrize("given", ["run.txt", 5, "", True, b"run.html"])
def test_what_is_no_path_of_a_page_is_refused(given: Any, folder: str) -> None:
    with pytest.raises(ConfigError, match="must be the path of a page"):
        run_task(Piece(folder=folder), report=given)


@pytest.mark.parametrize("name", ["a.html", "file/b.html", "nul\0.html", f"{'x' * 300}.html"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(name: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="cannot be written to"):
        run_task(Piece(folder=folder), report=tmp_path / name)

    assert not Path(folder).exists()


def test_there_is_no_report_of_a_plan(folder: str, page: Path) -> None:
    with pytest.raises(ConfigError, match="dry_run"):
        run_task(Piece(folder=folder), report=page, dry_run=True)


def test_a_page_that_cannot_be_written_at_the_end_fails_nothing(
    folder: str, page: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Hindering(Piece):
        def run(self, output_path: Path) -> None:
            page.parent.rmdir()
            page.parent.touch()
            output_path.write_text("x")

    with caplog.at_level(logging.WARNING, "superluigi"):
        made = run_task(Hindering(folder=folder), report=page)

    assert made.read_text() == "x"
    assert [record.getMessage() for record in caplog.records if record.name == "superluigi"] == [
        f"The report of the run could not be written to {page}."
    ]


def test_an_earlier_page_stays_if_the_run_cannot_begin(folder: str, page: Path) -> None:
    page.parent.mkdir()
    page.write_text("earlier")

    with pytest.raises(ConfigError):
        run_task(Piece(folder=folder), report=page, config={"superluigi": {"no_such_setting": 1}})

    assert page.read_text() == "earlier"


# In a browser


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about a run of five tasks, one of which failed, with names that are no names."""
    place = tmp_path_factory.mktemp("failed")
    (place / "data").mkdir()
    with ThreadPoolExecutor(2) as pool, pytest.raises(TaskFailedError):
        run_task(Both(folder=str(place / "data")), executor=pool, report=place / "run.html")
    return place / "run.html"


DRAWN = "return document.body.dataset.drawn === 'yes'"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_is_drawn_without_a_complaint_and_asks_nobody(browser: Browser, failed: Path, dark: bool) -> None:
    browser.open(failed, dark=dark, until=DRAWN)

    assert (browser.problems(), browser.requests()) == ([], [])
    assert browser.run("return document.title").startswith("Run of Both(")  # nothing of the data has run
    assert browser.run("return document.querySelectorAll('img').length") == 0
    painted = """
        const canvas = document.querySelector('#chart canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const colours = new Set();
        for (let i = 0; i < data.length; i += 4) if (data[i + 3]) colours.add(data.slice(i, i + 3).join());
        return [colours.size, getComputedStyle(document.body).backgroundColor];
    """
    colours, ground = browser.run(painted)
    assert colours > 20
    assert ground == ("rgb(22, 25, 29)" if dark else "rgb(255, 255, 255)")
    assert len(browser.picture()) > 20_000


def test_on_paper_the_timeline_is_as_wide_as_the_page(browser: Browser, failed: Path) -> None:
    browser.open(failed, until=DRAWN)
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    narrowed = (
        "document.body.style.width = '600px';"
        "return ['#chart canvas', '#chart'].map((part) => document.querySelector(part).getBoundingClientRect().width)"
    )

    drawn, width = browser.run(narrowed)  # nothing was drawn again meanwhile
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})

    assert 300 < drawn <= width < 600


def test_a_click_on_a_bar_tells_of_its_task(browser: Browser, failed: Path) -> None:
    browser.open(failed, until=DRAWN)
    painted = """
        const fill = getComputedStyle(document.documentElement).getPropertyValue('--bad-fill').trim();
        const canvas = document.querySelector('#chart canvas');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        for (let i = 0; i < data.length; i += 4) {
            const colour = '#' + [...data.slice(i, i + 3)].map((part) => part.toString(16).padStart(2, '0')).join('');
            if (colour === fill) return [(i / 4) % canvas.width, Math.floor(i / 4 / canvas.width)];
        }
    """
    x, y = browser.run(painted)

    browser.click_at("#chart", x + 1, y + 3)

    assert browser.run("return document.getElementById('details').hidden") is False
    assert "Refused(" in browser.text("#detail h3")
    assert "ValueError: </script>" in browser.text("#detail")
    browser.click("#close")
    assert browser.run("return document.getElementById('details').hidden") is True
    assert browser.problems() == []


def test_the_table_is_searched_sorted_and_leads_to_details(browser: Browser, failed: Path) -> None:
    def names() -> list[str]:
        found = browser.run("return [...document.querySelectorAll('#lines td.name')].map((cell) => cell.textContent)")
        return [name.partition("(")[0] for name in found]

    browser.open(failed, until=DRAWN)
    every = names()
    browser.click("#head th:nth-child(1) button")
    by_name = names()
    browser.type("#search", "did not run")
    found = names()
    browser.click("#lines tr")

    assert sorted(every) == by_name == ["Asked", "Both", "Piece", "Piece", "Piece", "Refused"]
    assert found == ["Both"]
    assert "waited for" in browser.text("#detail")
    browser.click("#stories h3 button")
    assert "Refused(" in browser.text("#detail h3")
    browser.click("#mark")
    browser.click("#nearer")
    assert browser.problems() == []
