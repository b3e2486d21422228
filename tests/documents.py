"""The Python blocks of a document, and a reader who runs one: with nothing but the library and an empty home."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

_TIMEOUT_S = 120
_FOREIGN = ("AWS_", "BOTO_", "LUIGI_", "OPENLINEAGE_", "SUPERLUIGI_")  # settings that a reader does not have


def python_blocks(text: str) -> list[str]:
    """Give what stands in each fenced block of Python."""
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def section(text: str, title: str) -> str:
    """Give the text under a heading of the second level."""
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def run_block(block: str, folder: Path, *, extra: str = "") -> subprocess.CompletedProcess[str]:
    """Run one block in a process of its own: as a script, or under pytest where it defines a test."""
    script = folder / "test_block.py"
    script.write_text(block + extra, encoding="utf-8")
    is_test = "\ndef test_" in block
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)] if is_test else []
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    isolated = {
        "HOME": str(folder),
        "USERPROFILE": str(folder),
        "SUPERLUIGI_LOCAL_DATA_DIR": str(folder / "superluigi-data"),
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
    }
    return subprocess.run(
        [sys.executable, *options, str(script)],
        cwd=folder,
        env={**inherited, **isolated},
        capture_output=True,
        encoding="utf-8",
        timeout=_TIMEOUT_S,
        check=False,
    )
