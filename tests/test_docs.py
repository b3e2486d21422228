"""What docs/ says is so: the snippets for one machine run, the others compile, and no link leads nowhere."""

import re
from pathlib import Path

import pytest
from documents import ROOT, python_blocks, run_block, section

DOCS = ROOT / "docs"
SCALING = (DOCS / "scaling.md").read_text(encoding="utf-8")
OPENLINEAGE = (DOCS / "openlineage.md").read_text(encoding="utf-8")
HERE = [*python_blocks(section(SCALING, "A laptop")), *python_blocks(section(SCALING, "One big machine"))]
ELSEWHERE = [block for block in python_blocks(SCALING) if block not in HERE]
HERE += python_blocks(OPENLINEAGE)
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

# What a block prints, by what stands beside its print: what is said there has to be the last line.
PRINTED = re.compile(r"print\(.*\)  # (.*)$", flags=re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that headings get: in small letters, without punctuation, with hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(link: str, page: Path) -> bool:
    """Whether a link of a page leads to a file that is there, and to a heading in it."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


@pytest.mark.parametrize("block", HERE, ids=[f"block{position}" for position in range(1, len(HERE) + 1)])
def test_every_snippet_for_one_machine_runs_and_prints_what_it_says(block: str, tmp_path: Path) -> None:
    finished = run_block(block, tmp_path)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Warning" not in finished.stderr
    assert [said for said in PRINTED.findall(block) if said not in finished.stdout.splitlines()] == []


def test_there_are_snippets_for_a_laptop_and_for_one_big_machine() -> None:
    assert len(python_blocks(section(SCALING, "A laptop"))) == 2
    assert len(python_blocks(section(SCALING, "One big machine"))) == 3


@pytest.mark.parametrize("block", ELSEWHERE, ids=[f"block{position}" for position in range(1, len(ELSEWHERE) + 1)])
def test_every_snippet_for_many_machines_compiles_and_calls_run_task(block: str) -> None:
    compile(block, "scaling.md", "exec")

    assert "run_task(" in block


def test_the_snippet_for_dask_runs_with_a_pipeline_in_a_module(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    (block,) = [block for block in ELSEWHERE if "LocalCluster" in block]
    first = HERE[0].partition("if __name__")[0]
    (tmp_path / "pipeline.py").write_text(f"{first}\n\nReportTask = SumTask\n", encoding="utf-8")

    finished = run_block(block.replace("n_workers=4", "n_workers=2"), tmp_path)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.splitlines()[-1] == "data/sum.txt"
    assert (tmp_path / "data" / "sum.txt").read_text() == "285"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text)

    assert [link for link in links if "://" not in link and not leads_somewhere(link, page)] == []
