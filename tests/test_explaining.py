"""What is asked of a task without running it: why, tree, accept, plan."""

import html.parser
import json
from pathlib import Path
from typing import Any

import luigi
import pytest

from superluigi import (
    AtomicTaskWithMetadata,
    External,
    LocalFileTarget,
    MemoryTarget,
    TargetNotFoundError,
    Task,
    TaskFailedError,
    TaskTypeError,
    accept,
    graph,
    plan,
    run_task,
    tree,
    why,
)
from superluigi.plans import Verdict
from superluigi.staleness import Cause


class Source(AtomicTaskWithMetadata):
    letters = luigi.Parameter(default="abc")
    secret = luigi.Parameter(default="hidden", visibility=luigi.parameter.ParameterVisibility.PRIVATE)

    def output(self) -> Any:
        return LocalFileTarget("source.txt")

    def run(self, output_path: Path) -> None:
        output_path.write_text(self.letters)


class Left(AtomicTaskWithMetadata):
    def requires(self) -> Any:
        return Source()

    def output(self) -> Any:
        return LocalFileTarget(f"{type(self).__name__.lower()}.txt")

    def run(self, input_path: Path, output_path: Path) -> None:
        output_path.write_text(input_path.read_text()[:2])


class Right(Left):
    pass


class Top(AtomicTaskWithMetadata):
    def requires(self) -> Any:
        return {"left": Left(), "right": Right()}

    def output(self) -> Any:
        return LocalFileTarget("top.txt")

    def run(self, input_path: Any, output_path: Path) -> None:
        output_path.write_text(input_path["left"].read_text() + input_path["right"].read_text())


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


# why


def test_of_a_missing_task_it_says_what_is_missing() -> None:
    told = why(Source())

    assert str(told) == "Source(letters=abc) will run, because\n  - source.txt does not exist"
    assert [reason.cause for reason in told.reasons] == [Cause.MISSING]


def test_of_a_complete_task_it_says_that_it_is_as_its_record_says() -> None:
    run_task(Top())

    assert str(why(Top())) == "Top() will not run: it is complete, and as its record says."


def test_of_a_stale_task_it_says_field_by_field_what_was_and_what_is(tmp_path: Path) -> None:
    run_task(Source())
    Path("source.txt").write_text("other")

    told = why(Source(letters="abcd"))

    assert repr(told).startswith(
        "Source(letters=abcd) is complete, and a run skips it. With rerun_stale=True it will run"
    )
    assert "source.txt was altered since it was made: it was sha256:" in str(told)
    assert [(reason.cause, reason.subject) for reason in told.reasons] == [(Cause.ALTERED, "source.txt")]
    Path("source.txt").write_text("abc")
    (reason,) = why(Source(letters="abcd")).reasons
    assert (reason.cause, reason.subject, reason.before, reason.after) == (Cause.PARAMETER, "letters", "abc", "abcd")
    assert str(reason) == "the parameter letters was 'abc', and is 'abcd'"


def test_where_runs_are_set_to_make_again_what_is_stale_it_does_not_say_that_they_skip_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_task(Top())
    Path("source.txt").write_text("other")
    monkeypatch.setenv("SUPERLUIGI_RERUN_STALE", "true")

    assert str(why(Source())).startswith("Source(letters=abc) will run, because\n  - source.txt was altered")
    assert str(why(Top())).startswith(
        "Top() is complete. If it will run is decided when what is upstream has run, because"
    )


def test_of_a_task_below_others_that_will_run_it_says_that_this_is_not_known() -> None:
    run_task(Top())
    Path("source.txt").unlink()

    told = why(Top())

    assert told.verdict is Verdict.UNKNOWN
    assert "that is decided when what is upstream has run, because\n  - Left() will run" in str(told)


def test_an_explanation_reads_in_a_notebook_whatever_stands_in_it() -> None:
    run_task(Source())

    page = why(Source(letters="<b>&"))._repr_html_()

    assert "<div>• the parameter letters was &#x27;abc&#x27;, and is &#x27;&lt;b&gt;&amp;&#x27;</div>" in page


# tree


def test_an_explanation_is_a_sentence_whatever_a_parameter_holds() -> None:
    told = str(why(Source(letters="\x1b[2J\n" + "x" * 100_000)))

    assert told.startswith("Source(letters=\\x1b[2J\\nxxx")
    assert len(told) < 500


def test_a_tree_shows_each_task_once_with_its_state() -> None:
    run_task(Top())
    Path("left.txt").unlink()
    Path("right.txt").write_text("altered")

    lines = tree(Top()).to_text().splitlines()

    assert lines[0].startswith("? Top()")
    assert any("left: ○ Left()" in line and "left.txt does not exist" in line for line in lines)
    assert any("right: ↻ Right()" in line and "was altered" in line for line in lines)
    assert sum("✓ Source(letters=abc)" in line for line in lines) == 2
    assert "hidden" not in tree(Top()).to_text()


@pytest.mark.parametrize(
    ("options", "forced"),
    [
        ({}, []),
        ({"force": True}, ["Top"]),
        ({"force_upstream_to_task_cls": "Left"}, ["Left", "Top"]),
        ({"force_upstream": True}, ["Left", "Right", "Source", "Top"]),
    ],
    ids=["nothing", "the task", "down from one", "all"],
)
def test_a_tree_shows_what_forcing_would_make_again(options: dict[str, Any], forced: list[str]) -> None:
    run_task(Top())

    shown = tree(Top(), **options)

    assert sorted(node.label.partition("(")[0] for node in shown.graph.nodes if node.state == "forced") == forced


def test_a_tree_is_in_colour_where_it_is_asked_for_and_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" not in str(tree(Source()))
    assert "\x1b[34m○ Source" in tree(Source()).to_text(colour=True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[" in str(tree(Source()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in repr(tree(Source()))


def test_a_tree_is_drawn_in_every_language() -> None:
    shown = tree(Top())
    parser = html.parser.HTMLParser()

    parser.feed(shown.to_html())
    parser.feed(shown._repr_html_())
    assert shown.to_mermaid().startswith("flowchart")
    assert shown.to_dot().startswith("digraph")
    assert "Source(letters=abc)" in shown.to_html()


# accept


def redefined(text: str) -> type[Source]:
    class Source(globals()["Source"]):  # type: ignore[misc]
        __version__ = text

    Source.__qualname__ = "Source"
    return Source


def test_an_accepted_output_is_not_made_again_for_its_code_or_version(tmp_path: Path) -> None:
    run_task(redefined("1")())
    changed = redefined("2")()
    assert [reason.cause for reason in why(changed).reasons] == [Cause.VERSION]

    accept(changed)

    assert why(changed).verdict is Verdict.SKIP
    record = changed.output().read_metadata()
    assert record["version"] == "1"
    assert record["accepted"]["version"] == "2"
    assert record["accepted"]["time"] > record["end_time"]
    assert [reason.cause for reason in why(redefined("3")()).reasons] == [Cause.VERSION]


def test_what_else_makes_a_task_stale_is_not_accepted() -> None:
    run_task(Source())

    accept(Source(letters="abcd"))

    assert [reason.cause for reason in why(Source(letters="abcd")).reasons] == [Cause.PARAMETER]


def test_without_an_output_or_a_record_there_is_nothing_to_accept() -> None:
    class WithoutRecord(Task):
        def output(self) -> Any:
            return LocalFileTarget("without.txt")

    class AValue(AtomicTaskWithMetadata):
        def output(self) -> Any:
            return MemoryTarget()

    with pytest.raises(TargetNotFoundError, match=r"source\.txt has no lineage record"):
        accept(Source())
    for task_cls in (WithoutRecord, AValue):
        with pytest.raises(TargetNotFoundError, match="leaves no records, so there is nothing"):
            accept(task_cls())


@pytest.mark.parametrize("change", [{"schema": "superluigi/2"}, {"params": [1]}, {"task_id": None}])
def test_a_record_by_which_nothing_is_judged_accepts_nothing(change: dict[str, Any]) -> None:
    run_task(Source())
    path = Source().output().metadata_path
    record = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))
    before = path.read_text()

    with pytest.raises(TargetNotFoundError, match=r"The record of source\.txt .* run the task again"):
        accept(Source())

    assert path.read_text() == before


# plan, and all of them


def test_plan_is_run_task_without_running(tmp_path: Path) -> None:
    planned = plan(Top(), force_upstream=True)

    assert [item.verdict for item in planned] == [Verdict.RUN] * 4
    assert str(planned) == str(run_task(Top(), force_upstream=True, dry_run=True))
    assert list(tmp_path.glob("*.txt")) == []


def test_asking_touches_nothing(tmp_path: Path, local_data_dir: Path) -> None:
    run_task(Top())
    Path("source.txt").unlink()
    before = files(tmp_path), files(local_data_dir)

    for ask in (why, tree, plan, lambda task: plan(task, rerun_stale=True)):
        str(ask(Top()))

    assert (files(tmp_path), files(local_data_dir)) == before


# What is no task, data made elsewhere, values


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Source, r"was given the class Source: give a task, Source\(\.\.\.\)"),
        ([Source, Source], "was given a list of 2: give one task at a time"),
        ("Source", "was given 'Source', a str: give a task"),
        (None, "was given None, a NoneType: give a task"),
    ],
    ids=["class", "list", "text", "none"],
)
@pytest.mark.parametrize("function", [why, tree, accept], ids=lambda function: function.__name__)
def test_asking_something_that_is_no_task_is_an_error_that_says_what_to_give(
    function: Any, given: Any, said: str
) -> None:
    with pytest.raises(TaskTypeError, match=rf"{function.__name__}\(\) {said}"):
        function(given)


class Failing(AtomicTaskWithMetadata):
    place = luigi.Parameter()

    def _fail_in(self, place: str) -> None:
        if self.place == place:
            raise ZeroDivisionError(place)

    def requires(self) -> Any:
        self._fail_in("requires")

    def output(self) -> Any:
        self._fail_in("output")
        return LocalFileTarget("failing.txt")

    def complete(self) -> bool:
        self._fail_in("complete")
        return False


class ReadsFailing(Left):
    place = luigi.Parameter()

    def requires(self) -> Any:
        return Failing(place=self.place)


@pytest.mark.parametrize("place", ["requires", "output", "complete"])
@pytest.mark.parametrize("function", [why, tree, graph, plan], ids=lambda function: function.__name__)
def test_whatever_is_asked_a_task_that_fails_to_answer_is_named(function: Any, place: str) -> None:
    with pytest.raises(TaskFailedError) as failed:
        function(ReadsFailing(place=place))

    (failure,) = failed.value.failures
    assert failure.task == f"Failing(place={place})"
    assert failure.reason == f"ZeroDivisionError: {place}"
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert "plan(..., raise_exception=True)" in str(failed.value)


@pytest.mark.parametrize("function", [tree, graph], ids=lambda function: function.__name__)
def test_what_fails_while_a_picture_is_drawn_is_not_kept_for_the_debugger(function: Any) -> None:
    with pytest.raises(TaskFailedError, match=r"Failing\(place=requires\)") as failed:
        function(ReadsFailing(place="requires"), force_upstream_to_task_cls=Failing)

    assert not failed.value.is_remembered


def test_data_made_elsewhere_are_said_to_be_there_or_not_and_never_to_run() -> None:
    missing, picture = str(why(External("raw.csv"))), str(tree(External("raw.csv")))
    Path("raw.csv").write_text("1")

    assert missing == (
        "External(path=raw.csv) is not there. It is made elsewhere, so no run makes it:\n  - raw.csv does not exist"
    )
    assert "is made elsewhere, so no run makes it" in picture
    assert str(why(External("raw.csv"))) == "External(path=raw.csv) is there. It is made elsewhere, so no run makes it."
    assert "as its record says" not in str(tree(External("raw.csv")))


def test_a_task_that_lacks_data_made_elsewhere_is_said_to_be_unable_to_run(tmp_path: Path) -> None:
    class Needing(AtomicTaskWithMetadata):
        def requires(self) -> Any:
            return [External(f"raw-{number}.csv") for number in range(self.count)]

        def output(self) -> Any:
            return LocalFileTarget("needing.txt")

        count = luigi.IntParameter()

    one, many = Needing(count=1), Needing(count=5)

    assert str(why(one)).splitlines()[-1] == (
        "But it cannot, until External(path=raw-0.csv) is there, which is made elsewhere."
    )
    assert "External(path=raw-2.csv) and 2 more are there, which are made elsewhere" in why(many)._repr_html_()
    planned = plan(many)
    assert [str(data.reasons[0]) for data in planned.gone] == [
        f"raw-{number}.csv does not exist" for number in range(5)
    ]
    assert str(planned).startswith("1 to run, 0 unknown, 0 to skip, 5 gone, which no run makes:")
    assert [line.split()[0] for line in str(planned).splitlines()[2:]] == ["gone"] * 5 + ["run"]
    assert "5 gone, which no run makes" in planned._repr_html_()
    (tmp_path / "raw-0.csv").touch()
    assert "cannot" not in str(why(one))


def values_of(version: str, reader_version: str = "1") -> tuple[Any, Any]:
    """A task that reads a value made from another value, and the task that sets the first."""

    class First(AtomicTaskWithMetadata):
        __version__ = version

        def output(self) -> Any:
            return MemoryTarget()

        def run(self) -> None:
            self.output().set("a")

    class Second(AtomicTaskWithMetadata):
        __version__ = version

        def requires(self) -> Any:
            return First()

        def output(self) -> Any:
            return MemoryTarget()

        def run(self, input_path: Any) -> None:
            self.output().set(input_path.get())

    class Reader(AtomicTaskWithMetadata):
        __version__ = reader_version

        def requires(self) -> Any:
            return {"value": Second()}

        def output(self) -> Any:
            return LocalFileTarget("reader.txt")

        def run(self, input_path: Any, output_path: Path) -> None:
            output_path.write_text(input_path["value"].get())

    return Reader(), First()


def test_accepting_a_reader_accepts_the_tasks_whose_values_it_read() -> None:
    run_task(values_of("1")[0])
    reader, first = values_of("2")
    assert [(reason.cause, reason.subject) for reason in why(reader).reasons] == [
        (Cause.VERSION, "Second.__version__"),
        (Cause.VERSION, "First.__version__"),
    ]

    with pytest.raises(TargetNotFoundError, match="accept the tasks that require this one"):
        accept(first)
    accept(reader)

    assert why(reader).verdict is Verdict.SKIP
    told = reader.output().read_metadata()["in_memory"].values()
    assert [(one["version"], one["accepted"]["version"]) for one in told] == [("1", "2"), ("1", "2")]
    assert [reason.cause for reason in why(values_of("3")[0]).reasons] == [Cause.VERSION, Cause.VERSION]
