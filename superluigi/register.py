"""The register of task classes: it wraps the `run` and the `output` of each, and knows which was defined again.

The invariant: of the classes that a notebook or a module has defined one after the other in the same place, the last is
the one that is found.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from luigi.task_register import Register

from superluigi import dag, source
from superluigi.execution import wrapped
from superluigi.outputs import wrap_output

_INTERNALS = frozenset({"_unconsumed_params", "_namespace_at_class_time"})  # Luigi's; they change no parameter


class TaskRegister(Register):
    """Luigi's register, which also wraps `run` and `output`; a class that is defined again replaces the former."""

    # ruff: noqa: N805  (a metaclass: its instances are classes)

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> None:
        super().__init__(name, bases, namespace, **options)
        source.note_definition(cls)
        registered = Register._reg  # noqa: SLF001  (Luigi has no public way to unregister a class)
        registered[:] = [known for known in registered if known is cls or not _is_former(known, cls)]
        _wrap_run(cls)
        wrap_output(cls)

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "run":
            _wrap_run(cls)
        if name == "output":
            wrap_output(cls)
        if name not in _INTERNALS:
            dag.forget()


def _is_former(known: Any, cls: Any) -> bool:
    if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
        return False
    is_one_family: bool = known.get_task_family() == cls.get_task_family()  # a factory may make one for each namespace
    return is_one_family


def successor_of(task_cls: type) -> type | None:
    """Give the class that was defined again in place of this one, in a notebook or a module; None if there is none.

    Classes that a function makes replace none: each of them may be meant.
    """
    if "<locals>" in task_cls.__qualname__:
        return None
    if isinstance(task_cls, TaskRegister):
        registered = Register._reg  # noqa: SLF001  (as above)
        return next((known for known in registered if known is not task_cls and _is_former(task_cls, known)), None)
    latest = _at(task_cls.__module__, task_cls.__qualname__)
    is_another = isinstance(latest, Register) and latest is not task_cls and _is_former(task_cls, latest)
    return latest if is_another else None


def _at(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def unregister_former() -> None:
    """Let Luigi find plain tasks, too, by the names of classes that were defined again; ours it finds anyway."""
    registered = Register._reg  # noqa: SLF001  (Luigi has no public way to unregister a class)
    names = Counter((known.__module__, known.__qualname__) for known in registered)
    former = {
        known
        for known in registered
        if names[known.__module__, known.__qualname__] > 1
        and not isinstance(known, TaskRegister)
        and successor_of(known) in registered
    }
    if former:
        registered[:] = [known for known in registered if known not in former]


def _wrap_run(cls: Any) -> None:
    function = cls.run
    # A decorator that copies the attributes of a wrapped run copies this one, too: it has to name its own bearer.
    if callable(function) and getattr(function, "__superluigi_wrapped__", None) is not function:
        type.__setattr__(cls, "run", wrapped(function))
