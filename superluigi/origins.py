"""Where code comes from: the name of its module, and what belongs to the same user's own code.

The invariant: the answer is the same whether a module was imported, or is the program itself (`python -m pk.pipe`,
`python pk/pipe.py`).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = frozenset({"__main__", "__mp_main__"})  # the latter in a process that was spawned
INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Origin:
    """A module by its full name, and the folder of its file, without symbolic links; None if there is no file.

    A notebook is `__main__` in the working directory.
    """

    name: str
    folder: Path | None = None
    is_package: bool = False

    @property
    def top(self) -> str:
        """The first part of the name: the package, or the module itself."""
        return self.name.partition(".")[0]

    @property
    def is_flat(self) -> bool:
        """Whether it is a single file that belongs to no package."""
        return "." not in self.name and not self.is_package

    @property
    def root(self) -> Path | None:
        """The folder of the package, or of the module itself; None if unknown, or if it is of what is installed."""
        if self.folder is None or INSTALLED.intersection(self.folder.parts):
            return None
        levels = self.name.count(".") + self.is_package
        return self.folder if levels == 0 else self.folder.parents[min(levels, len(self.folder.parents)) - 1]


def origin_of(module: str) -> Origin:
    """Give the origin of a module by its `__name__`; of what is not loaded, no more than that. Costs a few `stat`."""
    loaded = sys.modules.get(module)
    spec, file = getattr(loaded, "__spec__", None), getattr(loaded, "__file__", None)
    is_program = module in _PROGRAM
    if not file:
        return Origin("__main__", Path.cwd().resolve()) if is_program else Origin(module)
    path = Path(os.path.realpath(os.path.dirname(file)), os.path.basename(file))
    is_package = path.stem == "__init__"
    name = str(spec.name) if is_program and spec is not None else module
    if name in _PROGRAM or ("." not in name and not is_package):
        name = _name_by_files(path)
    return Origin(name, path.parent, is_package)


def _name_by_files(path: Path) -> str:
    """Give the name by which a file is imported from outside all the packages that it lies in."""
    parts = [path.stem]
    folder = path.parent
    while folder != folder.parent and (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


class Own:
    """What belongs to the code of a module's author: its package, and the single modules beside it or its package.

    What is installed (in `site-packages`) is of its own package alone.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._origin = origin_of(module)
        self._known: dict[str, bool] = {module: True}

    def holds(self, module: str) -> bool:
        """Say whether a module, by its `__name__`, belongs to it."""
        if module not in self._known:
            self._known[module] = self._is_own(module)
        return self._known[module]

    def _is_own(self, module: str) -> bool:
        if module not in _PROGRAM and module.partition(".")[0] == self._module.partition(".")[0]:
            return True
        own, other = self._origin, origin_of(module)
        if other.top == own.top:
            return True
        if own.root is None or other.root is None:
            return False
        if other.is_flat:
            return other.folder in {own.folder, own.root}
        return own.is_flat and other.folder == own.folder  # a script in a package without an `__init__`
