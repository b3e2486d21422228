"""Small tasks that several test modules run, the two ways to run them, and what must not be left behind.

A module of its own, so that worker processes and the command line can import the tasks.
"""

from pathlib import Path
from typing import Any

import luigi
import pytest

from superluigi import AtomicTaskWithMetadata, LocalFileTarget, Parameter, config, run_task


class Letter(AtomicTaskWithMetadata):
    """Writes one letter to a file in `folder`."""

    folder = Parameter()
    letter = Parameter(default="a")

    def output(self):
        return LocalFileTarget(Path(self.folder, f"{self.letter}.txt"))

    def run(self, output_path):
        output_path.write_text(self.letter)


def with_run_task(task: luigi.Task, num_workers: int = 1) -> None:
    run_task(task, num_workers=num_workers)


def with_luigi_build(task: luigi.Task, num_workers: int = 1) -> None:
    if not luigi.build([task], local_scheduler=True, workers=num_workers, log_level="CRITICAL"):
        message = f"luigi.build failed at {task}"
        raise RuntimeError(message)


both_ways = pytest.mark.parametrize("run", [with_run_task, with_luigi_build], ids=["run_task", "luigi.build"])


def leftovers(folder: Path) -> list[Path]:
    """Give what a run left behind: staging folders with all in them, and private copies in the data directory."""
    private = config.data_dir() / "tmp"
    staging = [path for path in folder.rglob(".superluigi") if not path.is_relative_to(config.data_dir())]
    within = [path for place in staging for path in place.rglob("*")]
    return [*staging, *within, *(private.iterdir() if private.exists() else [])]


def mirrored(function: Any, nested: Any) -> Any:
    """Apply a function to every leaf of nested dicts, lists and tuples, without the code under test."""
    if nested is None:
        return None
    if isinstance(nested, dict):
        return {key: mirrored(function, item) for key, item in nested.items()}
    if isinstance(nested, list | tuple):
        return type(nested)(mirrored(function, item) for item in nested)
    return function(nested)
