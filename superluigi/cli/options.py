"""Options that several commands have, and what they mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from superluigi import dag
from superluigi.cli import parsing
from superluigi.cli.terminal import UsageError, listed, nearest
from superluigi.errors import public_name

if TYPE_CHECKING:
    import luigi

    from superluigi.cli.parsing import Parser


def with_config(parser: Parser) -> None:
    parser.add_argument(
        "--config-file", metavar="FILE", help="a configuration of Luigi (.cfg, .ini, .toml) for this call"
    )
    parser.add_argument(
        "--config",
        metavar="SECTION.OPTION=VALUE",
        action="append",
        type=parsing.setting,
        help="a setting of the configuration for this call; may be said again",
    )
    parser.add_argument("--json", action="store_true", help="give the answer as JSON")


def with_task(parser: Parser) -> None:
    parser.add_argument("--module", metavar="MODULE", help="the module or file that defines the task")
    with_config(parser)


def with_forcing(parser: Parser) -> None:
    parser.add_argument("--force", action="store_true", help="make the task again")
    parser.add_argument("--force-upstream", action="store_true", help="make the task and all that it needs again")
    parser.add_argument(
        "--force-upstream-to-task",
        action="append",
        metavar="TASK",
        help="make this task upstream, the task itself and all between again; as plan names it, "
        "'Sales(date=2022-12-15)', or by its task_id; may be said again",
    )
    parser.add_argument(
        "--force-upstream-to-task-cls",
        action="append",
        metavar="NAME",
        help="the same for every task of a class; may be said again",
    )


def with_staleness(parser: Parser) -> None:
    parser.add_argument(
        "--rerun-stale",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="make again what is out of date by its record; by default as configured",
    )


def forcing(task: luigi.Task, options: argparse.Namespace) -> dict[str, Any]:
    names = options.force_upstream_to_task
    flags = ("force", "force_upstream", "force_upstream_to_task", "force_upstream_to_task_cls")
    said = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(options, flag)]
    if len(said) > 1:
        raise UsageError(f"{listed(said)} each say alone what to make again. Say one of them.")
    return {
        "force": options.force,
        "force_upstream": options.force_upstream,
        "force_upstream_to_task": None if names is None else [_upstream(task, name) for name in names],
        "force_upstream_to_task_cls": options.force_upstream_to_task_cls,
    }


_MIN_ID = 6  # characters by which a task may be named


def _upstream(root: luigi.Task, name: str) -> luigi.Task:
    """Give the task upstream that is named: as it is printed, or by its id or the beginning of that."""
    graph = dag.walk([root], dag.upstream_of)
    found = [
        task
        for task in graph
        if name in (public_name(task), str(task)) or (len(name) >= _MIN_ID and str(task.task_id).startswith(name))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"--force-upstream-to-task {name} is ambiguous. Say more of its task_id.")
    names = [public_name(task) for task in graph if task != root]
    shown = ", ".join(names[-10:]) + (", ..." if len(names) > 10 else "")
    raise UsageError(
        f"{public_name(root)} does not require {name}, directly or indirectly.{nearest(name, names)} "
        f"Upstream are: {shown or 'no tasks'}."
    )
