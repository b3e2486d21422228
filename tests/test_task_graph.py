"""The graph of tasks: what it knows of each task, in every form, and what asking for it costs."""

import html
import json
import re
from pathlib import Path
from typing import Any

import luigi
import pytest
from server_log import recorded_requests

from superluigi import (
    AtomicTaskWithMetadata,
    LocalFileTarget,
    S3ObjectTarget,
    Task,
    TaskTypeError,
    graph,
    plan,
    run_task,
    tree,
)


class Letters(AtomicTaskWithMetadata):
    letters = luigi.Parameter(default="abc")
    note = luigi.Parameter(default="insignificant", significant=False)
    secret = luigi.Parameter(default="hidden", visibility=luigi.parameter.ParameterVisibility.PRIVATE)

    def output(self) -> Any:
        return LocalFileTarget(f"{self.letters}.txt")

    def run(self, output_path: Path, metadata: Any) -> None:
        metadata["row_count"] = 3
        output_path.write_text(self.letters)


class Word(AtomicTaskWithMetadata):
    def requires(self) -> Any:
        return {"first": Letters(), "others": [Letters(letters="def")]}

    def output(self) -> Any:
        return LocalFileTarget("word.txt")

    def run(self, input_path: Any, output_path: Path) -> None:
        output_path.write_text("word")


class Link(Task):
    number = luigi.IntParameter()

    def requires(self) -> Any:
        return [Link(self.number - 1)] if self.number else []

    def output(self) -> Any:
        return LocalFileTarget(f"link-{self.number}.txt")


class Stored(AtomicTaskWithMetadata):
    bucket = luigi.Parameter()
    number = luigi.IntParameter()

    def requires(self) -> Any:
        return [Stored(self.bucket, self.number - 1)] if self.number else []

    def output(self) -> Any:
        return S3ObjectTarget(self.bucket, f"{self.number}.txt")

    def run(self, output_path: Path) -> None:
        output_path.write_text(str(self.number))


def data_of(page: str) -> Any:
    return json.loads(re.search(r"const DATA = (.*);</script>", page)[1])


def test_it_knows_of_each_task_what_a_plan_finds_and_what_its_record_says() -> None:
    run_task(Letters())

    told = {node["task"]: node for node in graph(Word()).to_dict()["nodes"]}

    made = told["Letters(letters=abc)"]
    assert (made["state"], made["params"]) == ("complete", {"letters": "abc", "note": "insignificant"})
    assert made["outputs"] == [{"path": "abc.txt", "exists": True}]
    assert made["record"]["row_count"] == 3
    missing = told["Letters(letters=def)"]
    assert missing["outputs"] == [{"path": "def.txt", "exists": False}]
    assert missing["expected_s"] == made["record"]["duration"]
    assert [reason["cause"] for reason in missing["reasons"]] == ["missing"]
    assert missing["record"] is None
    assert told["Word()"]["requires"] == [
        {"task_id": made["task_id"], "role": "first"},
        {"task_id": missing["task_id"], "role": "others.0"},
    ]


def test_private_parameters_are_in_no_form() -> None:
    run_task(Letters())
    drawn = graph(Word(), force_upstream=True)

    data = json.dumps(data_of(drawn.to_html()))
    for shown in (data, drawn.to_json(), drawn.to_text(), drawn.to_dot(), drawn.to_mermaid()):
        assert "abc" in shown
        assert "secret" not in shown
        assert "hidden" not in shown


class Kept(AtomicTaskWithMetadata):
    """Has a secret in its path, and tells it in its record."""

    token = luigi.Parameter(visibility=luigi.parameter.ParameterVisibility.HIDDEN)

    def output(self) -> Any:
        return LocalFileTarget(f"{self.token}/kept.txt")

    def run(self, output_path: Path, metadata: Any) -> None:
        metadata["seen"] = {"at": [f"https://example.com/?key={self.token}"]}
        output_path.write_text("kept")


class Reader(AtomicTaskWithMetadata):
    def requires(self) -> Any:
        return Kept(token="hunter2")

    def output(self) -> Any:
        return LocalFileTarget("read.txt")

    def run(self, input_path: Path, output_path: Path) -> None:
        output_path.write_text(input_path.read_text())


def test_the_values_of_private_parameters_are_shown_neither_in_paths_nor_in_reasons_nor_in_records() -> None:
    missing = graph(Reader())
    run_task(Reader())
    complete = graph(Reader())
    Path("hunter2/kept.txt").write_text("other")
    stale = graph(Reader())

    assert "***/kept.txt does not exist" in missing.to_text()
    assert "***/kept.txt was altered" in stale.to_text()
    assert "https://example.com/?key=***" in complete.to_json()
    for drawn in (missing, complete, stale, tree(Reader())):
        for shown in (drawn.to_html(), drawn.to_json(), drawn.to_text(), drawn.to_dot(), drawn.to_mermaid()):
            assert "hunter2" not in shown


class Growing(AtomicTaskWithMetadata):
    def output(self) -> Any:
        return LocalFileTarget("growing.txt")

    def run(self, output_path: Path) -> Any:
        paths = yield [Letters(), Letters(letters="def")]
        output_path.write_text("".join(path.read_text() for path in paths))


def test_of_a_task_that_has_run_it_is_told_what_it_has_yielded() -> None:
    run_task(Growing())
    (told,) = graph(Growing()).facts

    assert [section.rows for section in told.sections() if section.title == "Has yielded"] == [(("Letters", "2"),)]


def test_the_page_holds_what_is_known_once() -> None:
    run_task(Letters())

    data = data_of(graph(Word()).to_html())

    assert data["title"] == "Word()"
    assert [look for look, *_ in data["looks"]][:1] == ["complete"]
    (made,) = (node for node in data["nodes"] if node[1] == "Letters(letters=abc)")
    shown = {data["names"][title]: rows for title, _, rows in made[-1]}
    assert list(shown) == ["Parameters", "Run", "Outputs", "Record"]
    assert ["row_count", "3"] in [[data["names"][name], fact] for name, fact in shown["Record"]]


def test_several_tasks_are_one_graph_and_the_same_twice_is_one() -> None:
    drawn = graph([Word(), Letters(letters="xyz"), Word()])

    assert len(drawn.graph.roots) == 2
    assert len(drawn.to_dict()["nodes"]) == 4
    assert data_of(drawn.to_html())["title"] == "2 tasks and what they require"


@pytest.mark.parametrize("given", [Word, [], "Word", [Word]], ids=["class", "nothing", "text", "classes"])
def test_something_else_than_tasks_is_refused(given: Any) -> None:
    with pytest.raises(TaskTypeError, match="graph"):
        graph(given)


def test_its_states_are_those_of_the_tree_also_when_forced() -> None:
    run_task(Word())

    for options in ({}, {"force": True}, {"force_upstream_to_task_cls": "Letters"}):
        assert graph(Word(), **options).to_text() == tree(Word(), **options).to_text()


def test_it_is_saved_in_the_form_that_the_name_says(tmp_path: Path) -> None:
    assert graph(Letters()).save("page.html") == Path("page.html")

    assert "cytoscape" in Path("page.html").read_text(encoding="utf-8")
    assert not Path("abc.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_notebook_shows_the_page_in_a_frame_and_of_a_large_one_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = graph(Letters())

    shown = drawn._repr_html_()
    monkeypatch.setattr("superluigi.task_graph._MAX_IN_NOTEBOOK", 1000)
    bounded = drawn._repr_html_()

    assert html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == drawn.to_html()
    assert 'sandbox="allow-scripts"' in shown
    assert "iframe" not in bounded
    assert "Letters(letters=abc)" in bounded


def test_a_long_chain_is_drawn_too() -> None:
    drawn = graph(Link(3000))

    assert len(data_of(drawn.to_html())["nodes"]) == 3001


def test_it_asks_s3_no_more_than_the_plan_does(s3: Any) -> None:
    run_task(Stored(s3.bucket, 2))

    with recorded_requests() as planned:
        plan(Stored(s3.bucket, 3), rerun_stale=True)
    with recorded_requests() as asked:
        told = graph(Stored(s3.bucket, 3)).to_dict()["nodes"]

    assert sorted(asked.requests) == sorted(planned.requests)
    assert [node["record"] is not None for node in told] == [True, True, True, False]
