"""From the name of a task to its class: `pkg.module.Task`, `path/to/file.py:Task`, or a family with `--module`.

The current directory can be imported from, as with `python -m`. A file is imported under the name that its own
neighbours would import it by, so that it is the same module to them and to `reproduce`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import luigi
from luigi.task_register import Register, TaskClassAmbigiousException, TaskClassNotFoundException

from superluigi.cli import reading
from superluigi.cli.terminal import FailedToImportError, UsageError, listed, nearest

if TYPE_CHECKING:
    from types import ModuleType

_OWN_PACKAGES = ("luigi", "superluigi")


def make_importable(folder: str | None = None) -> None:
    """Let modules of a folder be imported, by default of the current one; unless Python was told not to (`-P`)."""
    if folder is None and getattr(sys.flags, "safe_path", False):
        return
    where = os.getcwd() if folder is None else folder
    if where not in sys.path:
        sys.path.insert(0, where)


def load(module: str) -> ModuleType:
    """Import a module, given by its name or by its file.

    Raises:
        UsageError: there is no such module or file.
        FailedToImportError: it raised when it was imported.
    """
    make_importable()
    return _load_file(module) if _is_file(module) else _load_name(module)


def find(name: str, module: str | None = None) -> type[luigi.Task]:
    """Give the class of a task.

    Raises:
        UsageError: there is none, or several; nearest names are told.
        FailedToImportError: its module raised when it was imported.
    """
    if module is not None:
        return _in_module(load(module), name)
    path, colon, task = name.rpartition(":")
    if colon and _is_file(path):
        return _in_module(load(path), task)
    if _is_file(name):
        raise UsageError(f"{name} is a file. Name a task in it: {_choice(load(name), f'{name}:')}.")
    place, dot, task = name.rpartition(".")
    if not dot or os.sep in name:
        return _by_family(name)
    make_importable()
    if not all(name.split(".")):
        raise UsageError(f"{name!r} names no task. Say pkg.module.Task, or path/to/file.py:Task.")
    loaded = _load_name(place, asked_for=name)
    if isinstance(getattr(loaded, task, None), type(os)) or _is_module_in(loaded, task):
        raise UsageError(f"{name} is a module. Name a task in it: {_choice(load(name), f'{name}.')}.")
    return _in_module(loaded, task)


def is_file_alone(name: str) -> bool:
    """Say whether a name is that of a file, so that the next word may be the task in it."""
    return _is_file(name)


def _is_file(name: str) -> bool:
    return name.endswith(".py")


# Modules


def _load_name(module: str, asked_for: str | None = None) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(module, error) from error
        parent, _, missing = error.name.rpartition(".")
        known = [info.name for info in pkgutil.iter_modules(_path_of(parent))] if _path_of(parent) else []
        asked = f"{asked_for}: " if asked_for else ""
        inside = f" in {parent}" if parent else f" in {os.getcwd()} or where Python looks"
        raise UsageError(
            f"{asked}there is no module {missing}{inside}.{nearest(missing, known)} Say pkg.module.Task, from the "
            "folder in which pkg lies, or path/to/file.py:Task."
        ) from None
    except (Exception, SystemExit) as error:
        raise _failed(module, error) from error


def _path_of(package: str) -> list[str]:
    if not package:
        return [os.getcwd()]
    loaded = sys.modules.get(package)
    return list(getattr(loaded, "__path__", []))


def _is_module_in(package: ModuleType, name: str) -> bool:
    """Say whether a package has a module of this name, and nothing else of it."""
    is_package = hasattr(package, "__path__") and not hasattr(package, name)
    return is_package and importlib.util.find_spec(f"{package.__name__}.{name}") is not None


def _load_file(name: str) -> ModuleType:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        folder = path.parent
        known = [child.name for child in folder.glob("*.py")] if folder.is_dir() else []
        raise UsageError(f"There is no file {name}.{nearest(path.name, known)}")
    if "." in path.stem:
        raise UsageError(f"{name} cannot be imported: its name has a dot too many. Rename the file.")
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.append(folder.name)
        folder = folder.parent
    module = ".".join(reversed(parts))
    make_importable(str(folder))
    loaded = _load_name(module)
    file = getattr(loaded, "__file__", None)
    if file is None or Path(file).resolve() != path:
        raise UsageError(f"{name} cannot be imported: the name {module} belongs to {file or loaded}. Rename the file.")
    return loaded


def _failed(module: str, error: BaseException) -> FailedToImportError:
    return FailedToImportError(f"The module {module} raised {type(error).__name__} when it was imported.")


# Classes


def _in_module(module: ModuleType, name: str) -> type[luigi.Task]:
    """Give the task of a module by the name of its class, or any that is known by its family, as Luigi does."""
    found: Any = getattr(module, name, None)
    if is_task(found):
        return found
    try:
        by_family: type[luigi.Task] = Register.get_task_cls(name)
    except TaskClassNotFoundException:
        if found is not None:
            raise UsageError(f"{module.__name__}.{name} is no task, but {found!r}. Name a subclass of Task.") from None
        known = {*tasks_of(module), *_families()}
        meant = nearest(name, known) or f" It has: {listed(sorted(tasks_of(module))) or 'no tasks'}."
        raise UsageError(f"The module {module.__name__} has no task {name}.{meant}") from None
    except TaskClassAmbigiousException:
        raise _ambiguous(name) from None
    return by_family


def _by_family(name: str) -> type[luigi.Task]:
    try:
        found: type[luigi.Task] = Register.get_task_cls(name)
    except TaskClassNotFoundException:
        places = _places()
        file = reading.file_of(name) if name.isidentifier() else None
        if file is not None and (tasks := reading.tasks_in(file)):
            inside = listed([f"{name}.{task}" for task in tasks], "or")
            raise UsageError(f"{name} is a module. Name a task in it: {inside}.") from None
        by_name = {place.rpartition(":")[2]: place for place in places}
        meant = f" Did you mean {by_name[name]}?" if name in by_name else nearest(name, by_name)
        shown = name or "An empty name"
        raise UsageError(
            f"{shown} does not say where the task is.{meant} Say pkg.module.Task, path/to/file.py:Task, or "
            f"{name or 'Task'} --module pkg.module."
        ) from None
    except TaskClassAmbigiousException:
        raise _ambiguous(name) from None
    return found


_MAX_FILES = 100


def _places() -> list[str]:
    """Give the tasks in the files that lie here and in the folders below, as a command line names them."""
    files = [*sorted(Path().glob("*.py")), *sorted(Path().glob("*/*.py"))]
    return [f"{file.as_posix()}:{task}" for file in files[:_MAX_FILES] for task in reading.tasks_in(file)]


def _ambiguous(name: str) -> UsageError:
    several = [cls for cls in Register._reg if cls.get_task_family() == name]  # noqa: SLF001  (as in dag)
    places = listed([f"{cls.__module__}.{cls.__qualname__}" for cls in several], "or")
    return UsageError(f"{name} is ambiguous. Say {places}.")


def _families() -> list[str]:
    return [
        cls.get_task_family()
        for cls in Register._reg  # noqa: SLF001  (as in dag)
        if cls.__module__.partition(".")[0] not in _OWN_PACKAGES and not issubclass(cls, luigi.Config)
    ]


def is_task(value: Any) -> TypeGuard[type[luigi.Task]]:
    """Say whether something is a class of tasks."""
    return isinstance(value, type) and issubclass(value, luigi.Task)


def tasks_of(module: ModuleType) -> list[str]:
    """Give the names of the tasks in a module, without those that came from Luigi or from us."""
    return [
        name
        for name, value in vars(module).items()
        if is_task(value) and value.__module__.partition(".")[0] not in _OWN_PACKAGES and not name.startswith("_")
    ]


def _choice(module: ModuleType, before: str) -> str:
    names = [f"{before}{name}" for name in tasks_of(module)]
    return listed(names, "or") if names else "there is none yet"
