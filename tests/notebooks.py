"""A real IPython kernel for tests: cells go in, and what a notebook would show of them comes back."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 60
TRANSPORT = "ipc" if sys.platform == "linux" else "tcp"  # elsewhere temporary folders are too deep for sockets
FOREIGN = ("AWS_", "BOTO_", "LUIGI_", "SUPERLUIGI_")  # settings that a reader does not have


def environment(folder: Path, **further: str) -> dict[str, str]:
    """The environment of a kernel or a script with a home and a data directory in `folder`, and no foreign settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {
        **inherited,
        "HOME": str(folder),
        "USERPROFILE": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        "SUPERLUIGI_LOCAL_DATA_DIR": str(folder / "superluigi-data"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONIOENCODING": "utf-8",
        **further,
    }


@dataclass
class Cell:
    """What one cell has printed, shown and raised; `error` is the text that the notebook shows, without colours."""

    stdout: str = ""
    stderr: str = ""
    shown: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    error_name: str = ""

    @property
    def text(self) -> str:
        return str(self.shown[-1]["text/plain"])

    @property
    def html(self) -> str:
        return str(self.shown[-1]["text/html"])

    def take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream" and content["name"] == "stdout":
            self.stdout += content["text"]
        elif kind == "stream":
            self.stderr += content["text"]
        elif kind in ("execute_result", "display_data"):
            self.shown.append(content["data"])
        elif kind == "error":
            self.error = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(content["traceback"]))
            self.error_name = content["ename"]


class Kernel:
    """A kernel that is running."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, code: str, *, typed: tuple[str, ...] = ()) -> Cell:
        """Run a cell; `typed` is what is answered where it asks for input."""
        cell, lines = Cell(), list(typed)
        self._client.execute_interactive(
            code,
            allow_stdin=True,
            output_hook=cell.take,
            stdin_hook=lambda _: self._client.input(lines.pop(0)),
            timeout=TIMEOUT_S,
        )
        assert lines == [], cell
        return cell

    def run_all(self, *cells: str) -> Cell:
        """Run cells of which none fails; give the last."""
        for code in cells:
            cell = self.run(code)
            assert not cell.error, cell.error
        return cell


EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient

notebook = nbformat.read("opened.ipynb", as_version=4)
NotebookClient(notebook, kernel_name="python3", timeout=float(sys.argv[1])).execute()
nbformat.write(notebook, "executed.ipynb")
"""


def executed(notebook: Any, folder: Path, **further: str) -> list[Cell]:
    """Execute a notebook from beginning to end, as nbclient does; give its code cells. Fails where a cell does.

    In a process of its own: nbclient leaves sockets open.
    """
    nbformat.write(notebook, folder / "opened.ipynb")
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(TIMEOUT_S)],
        cwd=folder,
        env=environment(folder, **further),
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = nbformat.read(folder / "executed.ipynb", as_version=4)
    return [_cell_of(cell) for cell in told.cells if cell.cell_type == "code"]


def _cell_of(told: Any) -> Cell:
    cell = Cell()
    for output in told.outputs:
        cell.take({"msg_type": output.output_type, "content": output})
    return cell


@contextlib.contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """A kernel whose working directory, home and data directory are in `folder`."""
    manager = KernelManager(kernel_name="python3", connection_file=str(folder / "kernel.json"), transport=TRANSPORT)
    manager.start_kernel(cwd=str(folder), env=environment(folder))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT_S)
        yield Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy()
