"""The pages of the site that are made of files outside docs/, and links between the two kinds.

A link is written as GitHub follows it, by the place of the file in the repository; here it becomes one to the page
that is made of that file. One that leads to neither a page nor such a file is left, and `--strict` tells of it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
    "superluigi/pictures/assets/NOTICE.md": "notice.md",
    "benchmarks/README.md": "benchmarks.md",
    "tutorial/superluigi_tutorial.py": "tutorial.md",
    "examples/README.md": "examples/index.md",
}
PAGES |= {f"examples/{path.name}": f"examples/{path.stem}.md" for path in sorted(ROOT.glob("examples/*.py"))}
_SOURCES = {page: source for source, page in PAGES.items()}
_WIDE = ("index.md", "configuration.md")  # their tables need the room of the table of contents
_FENCED_OR_LINK = re.compile(r"^```.*?^```$|\]\(([^)\s#]+)", flags=re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source.startswith("examples/") and source.endswith(".py"):
            text = f"# {posixpath.basename(source)}\n\n```python\n{text.rstrip()}\n```\n"
        elif source.endswith(".py"):
            text = _as_markdown(text)
        elif source == "LICENSE":
            text = f"# Licence\n\n```text\n{text.rstrip()}\n```\n"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages of the site."""
    here = page.file.src_uri
    if here in _WIDE:
        page.meta["hide"] = ["toc"]
    folder = posixpath.dirname(_SOURCES.get(here, f"docs/{here}"))

    def led(match: re.Match[str]) -> str:
        link = match[1]
        if link is None or "://" in link or link.startswith("mailto:"):
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, link))
        if target not in PAGES and not target.startswith("docs/"):
            return match[0]
        uri = PAGES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}"

    return _FENCED_OR_LINK.sub(led, markdown)


def _as_markdown(script: str) -> str:
    """Turn a script with cell marks into text and blocks of code."""
    parts = []
    for cell in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body, flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{body.strip()}\n```\n")
    return "\n".join(parts)
