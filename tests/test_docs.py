"""What README.md and docs/ say is so: every snippet runs and prints what it says, and no link leads nowhere."""

from __future__ import annotations

import configparser
import json
import re
import runpy
from typing import TYPE_CHECKING

import pytest
from documents import ROOT, Step, blocks, misread, python_blocks, reader, run_block, section, steps

from superluigi import config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from documents import Reader

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
SCALING = TEXTS["docs/scaling.md"]

# Of scaling.md: what needs a cluster, a queue, or a server at an address that nobody has. They are compiled.
ELSEWHERE = ("dask_kubernetes", "dask_jobqueue", "submitit", "LocalCluster", "central_scheduler=True")
WITH_SNIPPETS = [name for name, text in TEXTS.items() if any(step.kind != "file" for step in steps(text))]


def is_run_here(step: Step) -> bool:
    return not any(word in step.text for word in ELSEWHERE)


def anchors(page: Path) -> set[str]:
    """The names that headings get: in small letters, without punctuation, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(link: str, page: Path) -> bool:
    """Whether a link of a page leads to a file that is there, and to a heading in it."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


@pytest.fixture(scope="module")
def somebody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with reader(tmp_path_factory.mktemp("reader")) as process:
        yield process


@pytest.mark.parametrize("name", WITH_SNIPPETS)
def test_every_snippet_of_a_page_runs_and_prints_what_it_says(name: str, somebody: Reader, tmp_path: Path) -> None:
    plan = [step for step in steps(TEXTS[name]) if is_run_here(step)]
    if name == "docs/scaling.md":
        plan.insert(0, the_pipeline_of_scaling())

    done = somebody.follow(plan, tmp_path)

    page_blocks = blocks(TEXTS[name])
    problems = [said for step, ended in zip(plan, done, strict=True) for said in misread(step, ended, page_blocks)]
    assert not problems, f"{name}: " + "\n".join(problems)


def the_pipeline_of_scaling() -> Step:
    """A module `pipeline` with a ReportTask, as the snippets for many machines import it."""
    first = next(block for block in blocks(section(SCALING, "A laptop")) if block.language == "python")
    text = first.text.partition("if __name__")[0] + "\n\nReportTask = SumTask\n"
    return Step("file", "pipeline.py", [type(first)("python", "pipeline.py", text, first.line, below=False)])


def test_no_snippet_is_left_out() -> None:
    fences = {name: len(re.findall(r"^ *```\w+", text, flags=re.MULTILINE)) for name, text in TEXTS.items()}
    scaling = [step for step in steps(SCALING) if not is_run_here(step)]

    assert [name for name, count in fences.items() if count != len(blocks(TEXTS[name]))] == []
    assert [name for name in TEXTS if name != "docs/scaling.md" and not all(map(is_run_here, steps(TEXTS[name])))] == []
    assert len(scaling) == len(ELSEWHERE)
    for step in scaling:
        compile(step.text, "scaling.md", "exec")
        assert "run_task(" in step.text


def test_the_snippet_for_dask_runs_with_a_pipeline_in_a_module(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    (block,) = [block for block in python_blocks(SCALING) if "LocalCluster" in block]
    (tmp_path / "pipeline.py").write_text(the_pipeline_of_scaling().text, encoding="utf-8")

    finished = run_block(block.replace("n_workers=4", "n_workers=2"), tmp_path)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.splitlines()[-1] == "data/sum.txt"
    assert (tmp_path / "data" / "sum.txt").read_text() == "285"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text)

    assert [link for link in links if "://" not in link and not leads_somewhere(link, page)] == []


def test_the_picture_is_the_one_that_its_source_draws() -> None:
    drawn = runpy.run_path(str(DOCS / "pictures" / "way_of_the_data.py"))["picture"]()

    assert (DOCS / "pictures" / "way_of_the_data.svg").read_text(encoding="utf-8") == drawn


def test_settings_commands_and_records_that_are_shown_can_be_used() -> None:
    shown = [(name, block) for name, text in TEXTS.items() for block in blocks(text)]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"^(\w+) = \[", section_of(pyproject, "project.optional-dependencies"), flags=re.MULTILINE))

    for name, block in shown:
        if block.language == "ini":
            parser = configparser.ConfigParser()
            parser.read_string(block.text)
            if parser.has_section("superluigi"):
                assert set(parser["superluigi"]) <= set(config.readers()), name
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "bash":
            assert set(re.findall(r"superluigi\[([\w,]+)\]", block.text)) <= extras, name
    assert {block.language for _, block in shown} <= {"python", "text", "console", "bash", "ini", "json"}


def section_of(toml: str, name: str) -> str:
    """The text of a table of a TOML file."""
    return toml.split(f"\n[{name}]\n")[1].split("\n[", maxsplit=1)[0]
