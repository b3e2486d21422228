"""What a notebook shows of tasks and targets: all that is asked for, nothing private, soon, and whatever happens."""

from __future__ import annotations

import threading
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import luigi
import pytest
from luigi.parameter import ParameterVisibility
from server_log import recorded_requests

from superluigi import (
    AtomicTaskWithMetadata,
    External,
    IntParameter,
    LocalFileTarget,
    LocalFolderTarget,
    MemoryTarget,
    NoTarget,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    Task,
    TaskFailedError,
    TaskFailure,
    diff,
    lineage,
    plan,
    reproduce,
    run_task,
    tree,
    verify,
    why,
)
from superluigi.targets import cards, store

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "</td></table><script>alert(1)</script>\"'&\u202e\n"


class Card(HTMLParser):
    """Reads a card strictly: what is opened is closed in its order, nothing runs and nothing is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag not in ("script", "img", "iframe", "link", "b")
        assert not {name for name, _ in attrs} - {"class"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if "td" in self.open and "rows" not in data:
            self.cells.append(data)


def card(shown: Any) -> Card:
    return Card(shown._repr_html_())


class Sales(AtomicTaskWithMetadata):
    folder = Parameter()
    shop = Parameter(default="north")
    token = Parameter(default="hunter2", visibility=ParameterVisibility.PRIVATE)
    hidden = Parameter(default="hunter3", visibility=ParameterVisibility.HIDDEN)
    noise = IntParameter(default=7, significant=False)

    def output(self) -> Any:
        return LocalFileTarget(f"{self.folder}/sales.csv")

    def run(self, output_path: Path, metadata: dict[str, Any]) -> None:
        output_path.write_text("shop,amount\n" + "".join(f"{self.shop},{n}\n" for n in range(100)))
        metadata["row_count"] = 100
        metadata["note"] = HOSTILE


class Totals(AtomicTaskWithMetadata):
    folder = Parameter()

    def requires(self) -> Any:
        return {"sales": Sales(folder=self.folder), "raw": External(f"{self.folder}/raw.csv")}

    def output(self) -> Any:
        return {
            "total": LocalFileTarget(f"{self.folder}/total.txt"),
            "parts": LocalFolderTarget(f"{self.folder}/parts"),
        }

    def run(self, output_path: dict[str, Path]) -> None:
        output_path["total"].write_text("4950")
        for number in range(12):
            (output_path["parts"] / f"part-{number:02}.csv").write_text("a\n1\n")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests takes its time."""
    monkeypatch.setattr(cards, "SECONDS", 60.0)


# Tasks


def test_a_task_that_is_missing_shows_parameters_requirements_and_where_it_will_be(tmp_path: Path) -> None:
    shown = card(Totals(folder=str(tmp_path))).text

    assert shown.startswith("Totals ○ missing")
    assert f"parameters folder {tmp_path}" in shown
    assert f"sales Sales(folder={tmp_path}, shop=north) ○ missing" in shown
    assert f"total {tmp_path}/total.txt ○ missing" in shown
    assert f"parts {tmp_path}/parts ○ missing" in shown
    assert not list(tmp_path.iterdir())


def test_a_task_that_is_complete_shows_record_metadata_and_first_rows(tmp_path: Path) -> None:
    task = Sales(folder=str(tmp_path))
    run_task(task)

    shown = card(task)

    assert shown.text.startswith("Sales ✓ complete")
    assert f"{tmp_path}/sales.csv ✓ exists 902 B" in shown.text
    assert "row_count 100" in shown.text
    assert "made at 20" in shown.text
    assert shown.cells[-10:] == [cell for number in range(5) for cell in ("north", str(number))]
    assert '"task_family": "Sales"' in shown.text


def test_private_and_hidden_parameters_are_not_shown_and_insignificant_ones_are(tmp_path: Path) -> None:
    task = Sales(folder=str(tmp_path))
    run_task(task)

    for shown in (task, task.output(), Totals(folder=str(tmp_path))):
        assert "hunter" not in shown._repr_html_()
    assert "noise 7" in card(task).text


def test_outputs_of_one_run_show_what_they_have_in_common_once(tmp_path: Path) -> None:
    task = Totals(folder=str(tmp_path))
    (tmp_path / "raw.csv").touch()
    run_task(task)

    shown = card(task).text

    assert shown.count("made at") == 1
    assert "48 B in 12 files" in shown
    assert "part-04.csv 4 B … and 7 others" in shown


def test_code_that_has_changed_since_the_output_was_made_is_told(tmp_path: Path) -> None:
    def define(text: str) -> type[AtomicTaskWithMetadata]:
        class Versioned(AtomicTaskWithMetadata):
            __version__ = text

            def output(self) -> Any:
                return LocalFileTarget(tmp_path / "out.txt")

            def run(self, output_path: Path) -> None:
                output_path.write_text("x")

        return Versioned

    run_task(define("1")())

    assert "made by other code" not in card(define("1")()).text
    assert "made by other code" in card(define("2")()).text


@pytest.mark.parametrize("method", ["requires", "output", "complete"])
def test_a_method_that_fails_is_told_and_the_rest_is_shown(method: str, tmp_path: Path) -> None:
    def fail(self: Any) -> Any:
        raise ValueError(HOSTILE)

    broken = type("Broken", (Sales,), {method: fail})

    shown = card(broken(folder=str(tmp_path))).text

    assert "! ValueError: </td></table><script>" in shown
    assert "shop north" in shown
    assert (f"{tmp_path}/sales.csv" in shown) == (method != "output")


def test_a_method_that_would_end_the_process_does_not(tmp_path: Path) -> None:
    class Ending(Sales):
        def complete(self) -> bool:
            raise SystemExit(3)

    assert "! RuntimeError: SystemExit(3)" in card(Ending(folder=str(tmp_path))).text


def test_what_is_required_may_have_no_name_that_can_be_told(tmp_path: Path) -> None:
    class Nameless(Sales):
        def to_str_params(self, *args: Any, **kwargs: Any) -> Any:
            raise ValueError(kwargs)

    class Requiring(Sales):
        def requires(self) -> Any:
            return Nameless(folder=str(tmp_path))

    shown = card(Requiring(folder=str(tmp_path))).text

    assert "requires ! ValueError" in shown
    assert f"{tmp_path}/sales.csv" in shown


def test_a_method_that_takes_too_long_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "SECONDS", 1.0)
    never = threading.Event()

    class Waiting(Sales):
        def complete(self) -> bool:
            return never.wait(20)

    run_task(Sales(folder=str(tmp_path)))
    began = time.monotonic()
    shown = card(Waiting(folder=str(tmp_path))).text
    took = time.monotonic() - began
    never.set()

    assert "Waiting ! no answer within 1 s" in shown
    assert "first rows" in shown
    assert took < 10


def test_showing_a_task_calls_no_run_and_remembers_nothing(tmp_path: Path) -> None:
    name = "first"

    class Named(Task):
        def output(self) -> Any:
            return LocalFileTarget(tmp_path / f"{self.task_id}.txt")

        def requires(self) -> Any:
            return External(str(tmp_path / name))

        def run(self) -> None:
            raise AssertionError

    task = Named()
    before = card(task).text
    name = "second"

    assert "first" in before
    assert "second" in card(task).text
    assert task.task_id not in before


def test_many_requirements_outputs_and_parameters_are_shown_in_part(tmp_path: Path) -> None:
    def requires(self: Any) -> Any:
        return [Sales(folder=str(tmp_path), shop=str(number)) for number in range(100)]

    def output(self: Any) -> Any:
        return [LocalFileTarget(tmp_path / f"{number}.txt") for number in range(1000)]

    options = {f"option_{number}": Parameter(default="x" * 10_000) for number in range(100)}
    wide = type("Wide", (Task,), {"requires": requires, "output": output, **options})

    shown = wide()._repr_html_()

    assert len(shown) < 100_000
    assert "… and 80 more" in shown
    assert "… and 995 more outputs" in shown
    assert "… and 50 more" in shown


def test_outputs_that_are_no_files_are_named(tmp_path: Path) -> None:
    class Values(Task):
        def output(self) -> Any:
            return {"value": MemoryTarget(), "effect": NoTarget(), "other": Elsewhere()}

    class Elsewhere(luigi.Target):
        def exists(self) -> bool:
            return True

        def __str__(self) -> str:
            return "a table"

    shown = card(Values()).text

    assert "value MemoryTarget of" in shown
    assert "effect NoTarget of" in shown
    assert "other a table ✓ exists" in shown


def test_a_plain_target_of_luigi_is_shown_as_ours(tmp_path: Path) -> None:
    class Plainly(Task):
        def output(self) -> Any:
            return luigi.LocalTarget(str(tmp_path / "a.csv"))

    (tmp_path / "a.csv").write_text("a,b\n1,2\n")

    assert "first rows a b 1 2" in card(Plainly()).text


# Targets


def test_a_file_shows_its_record_and_first_rows(tmp_path: Path) -> None:
    task = Sales(folder=str(tmp_path))
    run_task(task)

    shown = card(task.output()).text

    assert shown.startswith(f"LocalFileTarget {tmp_path}/sales.csv ✓ exists")
    assert f"fingerprint {task.output().fingerprint()}" in shown
    assert "made by Sales(folder=" in shown
    assert "first rows shop amount north 0" in shown


def test_a_file_that_was_altered_has_no_record(tmp_path: Path) -> None:
    target = Sales(folder=str(tmp_path)).output()
    run_task(Sales(folder=str(tmp_path)))
    target.path.write_text("shop,amount\nsouth,1\n")

    shown = card(target).text

    assert "none that is known to be of these data" in shown
    assert "made by" not in shown
    assert "south" in shown


def test_a_large_file_is_not_read_to_know_whether_its_record_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Sales(folder=str(tmp_path)).output()
    run_task(Sales(folder=str(tmp_path)))
    monkeypatch.setattr("superluigi.targets.local.MAX_DIGESTED_BYTES", 10)
    monkeypatch.setattr("superluigi.storage.files.digest", None)

    untouched = card(target).text
    target.path.write_text("other bytes than before")

    assert "made by Sales" in untouched
    assert "none that is known" in card(target).text


def test_data_that_were_removed_show_the_record_that_stays(tmp_path: Path) -> None:
    target = Sales(folder=str(tmp_path)).output()
    run_task(Sales(folder=str(tmp_path)))
    target.remove(keep_metadata=True)

    shown = card(target).text

    assert "− removed, the record stays" in shown  # noqa: RUF001
    assert "removed at 20" in shown


def test_a_folder_shows_its_first_names_and_sizes(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / "data" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "deep" / f"{number:02}.txt").write_text("x" * number)

    shown = card(LocalFolderTarget(tmp_path / "data")).text

    assert "435 B in 30 files" in shown
    assert "deep/09.txt 9 B … and 20 others" in shown


def test_a_folder_of_very_many_files_is_not_counted_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superluigi.targets.local.MAX_COUNTED", 20)
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").touch()
    target = LocalFolderTarget(folder)
    target.write_metadata({"note": "by hand"})

    shown = card(target).text

    assert "20 files or more" in shown
    assert "not looked for" in shown


def test_a_target_of_the_other_shape_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    assert "is a folder, but one file was expected" in card(LocalFileTarget(tmp_path / "a")).text


def test_what_a_killed_process_left_is_left_alone(tmp_path: Path) -> None:
    left = tmp_path / ".superluigi" / "p1-1-0-x" / "a.txt"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    before = sorted(tmp_path.rglob("*"))

    card(LocalFileTarget(tmp_path / "a.txt"))

    assert sorted(tmp_path.rglob("*")) == before


def test_values_of_a_run_show_whether_they_are_there(tmp_path: Path) -> None:
    class Value(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return MemoryTarget()

        def run(self, output_path: MemoryTarget) -> None:
            output_path.set(HOSTILE)

    target = run_task(Value())

    assert "✓ there" in card(target).text
    assert "script" not in card(target).text
    target.delete()
    assert "○ not there" in card(target).text
    assert "NoTarget of no task" in card(NoTarget()).text


# S3


def test_an_object_shows_its_record_and_the_rows_of_the_local_copy_alone(s3: Any) -> None:
    class Remote(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return S3ObjectTarget(s3.bucket, "a.csv")

        def run(self, output_path: Path) -> None:
            output_path.write_text("shop,amount\nnorth,1\n")

    task = Remote()
    run_task(task)
    with recorded_requests() as log:
        shown = card(task.output()).text
    other = S3ObjectTarget(s3.bucket, "a.csv", local_root="elsewhere")

    assert log.requests == [("HEAD", f"/{s3.bucket}/a.csv"), ("GET", f"/{s3.bucket}/a.csv.metadata.json")]
    assert "made by Remote()" in shown
    assert "first rows shop amount north 1" in shown
    assert "first rows" not in card(other).text
    assert "20 B" in card(other).text


def test_a_task_in_s3_costs_few_requests_and_fetches_no_data(s3: Any, tmp_path: Path) -> None:
    class Source(AtomicTaskWithMetadata):
        number = IntParameter()

        def output(self) -> Any:
            return S3ObjectTarget(s3.bucket, f"source-{self.number}.csv", local_root=tmp_path / "elsewhere")

        def run(self, output_path: Path) -> None:
            output_path.write_text("a\n1\n")

    class Joined(Source):
        def requires(self) -> Any:
            return [Source(number=number) for number in (1, 2)]

    run_task(Joined(number=3))
    with recorded_requests() as log:
        shown = card(Joined(number=3)).text

    assert shown.count("✓ complete") == 3
    assert [path for method, path in log.requests if method == "GET" and path.endswith(".csv")] == []
    assert len(log.requests) <= 5


def test_a_prefix_shows_its_first_names_and_sizes(s3: Any) -> None:
    for number in range(12):
        s3.put(f"data/{number:02}.txt", b"x" * number)

    with recorded_requests() as log:
        shown = card(S3PrefixTarget(s3.bucket, "data")).text

    assert "66 B in 12 files" in shown
    assert "09.txt 9 B … and 2 others" in shown
    assert len(log.requests) == 2


def test_a_prefix_that_is_half_written_does_not_exist(s3: Any) -> None:
    s3.put("data/a.txt", b"x")
    s3.put("data/.superluigi-unfinished", b"x")

    assert "○ missing" in card(S3PrefixTarget(s3.bucket, "data")).text


def test_a_bucket_that_is_not_there_is_told(s3: Any) -> None:
    shown = card(S3ObjectTarget("no-such-bucket-at-all", "a.csv")).text

    assert "! s3://no-such-bucket-at-all" in shown


@pytest.mark.parametrize("make", [LocalFileTarget, LocalFolderTarget, S3ObjectTarget, S3PrefixTarget])
def test_no_store_forgets_what_a_card_asks_of_it(make: Any) -> None:
    target = make("bucket", "key") if make in (S3ObjectTarget, S3PrefixTarget) else make("path")

    assert callable(target.store.glimpse)
    assert store.Glimpse(exists=False).size_bytes is None


# Failures


def test_a_failed_run_shows_each_task_its_reason_and_its_traceback() -> None:
    failures = [
        TaskFailure(task=f"Task{number}()", reason=HOSTILE, exception=None, traceback=f"{HOSTILE} in line {number}")
        for number in range(30)
    ]

    shown = card(TaskFailedError(failures, "summary")).text

    assert shown.startswith("✗ 30 tasks failed task Task0() why </td></table><script>")
    assert "in line 19" in shown
    assert "… and 10 more" in shown
    assert card(TaskFailedError([], "Nothing was run.")).text == "✗ Nothing was run."


def test_outside_of_ipython_a_failure_renders_as_python_does() -> None:
    rendered = "".join(TaskFailedError([], "Nothing was run.")._render_traceback_())

    assert "superluigi.errors.TaskFailedError: Nothing was run." in rendered


def test_a_very_long_reason_and_traceback_are_cut() -> None:
    failure = TaskFailure(task="A()", reason="why\n" * 10_000, exception=None, traceback="x" * 1_000_000)

    assert len(TaskFailedError([failure], "")._repr_html_()) < 50_000


# Where no HTML is shown


class Word(AtomicTaskWithMetadata):
    folder = Parameter(significant=False)

    def output(self) -> LocalFileTarget:
        return LocalFileTarget(f"{self.folder}/word.txt")

    def run(self, output_path: Path) -> None:
        output_path.write_text("word")


@pytest.mark.parametrize("asked", [plan, tree, why, lineage, verify, reproduce, lambda path: diff(path, path)])
def test_a_terminal_with_ipython_shows_what_print_does(asked: Any, tmp_path: Path) -> None:
    pretty = pytest.importorskip("IPython.lib.pretty")
    path = run_task(Word(folder=str(tmp_path)))

    shown = asked(Word(folder=str(tmp_path)) if asked in {plan, tree, why} else path)

    assert pretty.pretty(shown) == str(shown)
