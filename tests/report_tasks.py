"""Tasks whose runs are reported on, for processes of pools too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luigi
from executor_tasks import Piece
from luigi.parameter import ParameterVisibility

from superluigi import LocalFileTarget

SECRET = "hunter2-is-secret"
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">&amp;{a|b}\u202e\x1b[31m"


class Asked(Piece):
    """Has a private parameter, and a name that a page might take for markup."""

    label = luigi.Parameter(default=HOSTILE)
    token = luigi.Parameter(default=SECRET, visibility=ParameterVisibility.PRIVATE, significant=False)
    name = luigi.Parameter(default="asked")


class Refused(Asked):
    """Fails with more than anybody can read, and with what nobody may."""

    name = luigi.Parameter(default="refused")

    def requires(self) -> Any:
        return {"given": Asked(folder=self.folder)}

    def run(self, input_path: Any, output_path: Path) -> None:
        self.refuse(f"{HOSTILE} {self.token} {'x' * 10_000_000}")

    def refuse(self, said: str) -> None:
        raise ValueError(said)


class Vault(Piece):
    """Has its secret in its path."""

    name = luigi.Parameter(default="vault")
    token = luigi.Parameter(default=SECRET, visibility=ParameterVisibility.HIDDEN)

    def output(self) -> Any:
        return LocalFileTarget(f"{self.folder}/{self.token}.txt")


class Opening(Piece):
    """Has no secret itself, and fails with one in the paths of its inputs."""

    name = luigi.Parameter(default="opening")

    def requires(self) -> Any:
        return {"vault": Vault(folder=self.folder)}

    def run(self, input_path: Any, output_path: Path) -> None:
        message = f"{self.input()['vault'].path} holds nothing"
        raise ValueError(message)


class Both(Piece):
    """Needs what fails, and what does not."""

    name = luigi.Parameter(default="both")

    def requires(self) -> Any:
        return [Refused(folder=self.folder), *(Piece(folder=self.folder, name=f"part{number}") for number in range(3))]


class GoingNowhere(Piece):
    """Yields one that fails."""

    name = luigi.Parameter(default="nowhere")

    def run(self, output_path: Path) -> Iterator[Any]:
        yield Refused(folder=self.folder)
        output_path.write_text("done")


class Going(Piece):
    """Yields two, one after the other."""

    name = luigi.Parameter(default="going")

    def run(self, output_path: Path) -> Iterator[Any]:
        yield Piece(folder=self.folder, name="first")
        yield Piece(folder=self.folder, name="second")
        output_path.write_text("done")
