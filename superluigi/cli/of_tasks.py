"""The commands that are given a task: run, plan, why, tree, graph, accept, debug; and history, of a class.

Each is two functions: which options it adds, and what it gives. None prints anything.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

import superluigi
from superluigi import dag, provenance
from superluigi.cli import drawings, naming, parsing, terminal
from superluigi.cli import options as shared
from superluigi.cli.terminal import Answer, ExitCode, PostMortem, UsageError
from superluigi.errors import TaskFailedError, public_name

if TYPE_CHECKING:
    import luigi

    from superluigi.cli.parsing import Parser


# run, plan


def run_options(parser: Parser) -> None:
    shared.with_task(parser)
    shared.with_forcing(parser)
    shared.with_staleness(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="run nothing, give the plan: the same as the command plan"
    )
    parser.add_argument(
        "--workers",
        dest="num_workers",
        type=parsing.count,
        metavar="N",
        help="how many tasks at a time, each in a process of its own",
    )
    parser.add_argument(
        "--executor",
        metavar="POOL",
        help="run the tasks on dask://host:port, on 'threads' or 'processes' (as many as --workers says), or 'async'",
    )
    parser.add_argument(
        "--central-scheduler", action="store_true", help="let the luigid that is configured hand out the tasks"
    )
    parser.add_argument(
        "--local-scheduler",
        dest="central_scheduler",
        action="store_false",
        help="do without luigid; this is the default",
    )
    parser.add_argument("--local-output", action="store_true", help="give local copies of outputs in S3")
    parser.add_argument(
        "--force-local-download", action="store_true", help="give local copies that are fetched anew, whatever is held"
    )
    parser.add_argument(
        "--single-flight",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="of several runs that start the same task, let one make it; by default as configured",
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show bars for the tasks and for large transfers; by default on a terminal, or as configured",
    )
    parser.add_argument(
        "--report",
        metavar="FILE.html",
        help="write a page there that tells of the run: what ran when, where and why, and what failed",
    )
    parser.add_argument(
        "--raise-exception", action="store_true", help="end with the traceback of the first exception, as it is"
    )
    parser.add_argument("--pdb", action="store_true", help="enter a debugger where the first exception was raised")
    parser.add_argument(
        "--log-level",
        default="WARNING",
        type=str.upper,
        choices=["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        help="how much Luigi logs, by default WARNING",
    )


# The arguments of run_task that are told as they are; tests compare them, and the other options, with its signature.
_AS_THEY_ARE = (
    "central_scheduler",
    "num_workers",
    "local_output",
    "force_local_download",
    "rerun_stale",
    "single_flight",
    "progress",
    "report",
    "log_level",
)


def run(task: luigi.Task, options: argparse.Namespace) -> Answer:
    if options.dry_run:
        if options.report is not None:
            raise UsageError("--report tells of a run, but --dry-run runs nothing. Leave out one of them.")
        return plan(task, options)
    from superluigi.task_runner import run_task

    if options.pdb and ((options.num_workers or 1) > 1 or options.executor not in (None, "threads", "async")):
        raise UsageError("--pdb needs the tasks in this process. Leave out --workers and --executor.")
    if options.raise_exception and (options.num_workers or 1) > 1 and not options.executor:
        raise UsageError("--raise-exception needs the tasks in this process. Leave out --workers, or it.")
    arguments = {name: getattr(options, name) for name in _AS_THEY_ARE}
    try:
        output = run_task(
            task,
            **arguments,
            **shared.forcing(task, options),
            executor=_executor(options),
            raise_exception=options.raise_exception or options.pdb,
        )
    except TaskFailedError as error:
        if options.json:
            return _failed(task, error)
        raise
    except Exception as error:
        if options.pdb and not isinstance(error, superluigi.SuperLuigiError):
            raise PostMortem(task) from error
        raise
    paths = [str(place) for _, place in dag.leaves(output)]
    return Answer(
        "\n".join(paths),
        {**_named(task), "status": "done", "output": provenance.keyed_by_text(output), "failures": []},
        is_told=True,
    )


def _named(task: luigi.Task) -> dict[str, str | None]:
    """Give the name of a task and its id, which is None where the user's `requires()` fails."""
    try:
        task_id = str(task.task_id)
    except Exception:  # noqa: BLE001  (the user's code may fail in whatever way, and this failure is told already)
        task_id = None
    return {"task": public_name(task), "task_id": task_id}


def _failed(task: luigi.Task, error: TaskFailedError) -> Answer:
    failures = [
        {"task": failure.task, "reason": failure.reason, "traceback": failure.traceback} for failure in error.failures
    ]
    code = terminal.report(error)
    return Answer("", {**_named(task), "status": "failed", "output": None, "failures": failures}, code)


def _executor(options: argparse.Namespace) -> Any:
    if options.executor not in ("threads", "processes"):
        if options.executor is not None and ":" not in options.executor and options.executor != "async":
            meant = terminal.nearest(options.executor, ("threads", "processes", "async"))
            raise UsageError(
                f"--executor is {options.executor!r}, but takes threads, processes, async, or dask://host:port.{meant}"
            )
        return options.executor
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    pool_cls = ThreadPoolExecutor if options.executor == "threads" else ProcessPoolExecutor
    size = options.num_workers or os.cpu_count() or 1
    return lambda: pool_cls(size)


def plan_options(parser: Parser) -> None:
    shared.with_task(parser)
    shared.with_forcing(parser)
    shared.with_staleness(parser)
    parser.add_argument("--exit-code", action="store_true", help="end with 3 if a task would run, or may")


def plan(task: luigi.Task, options: argparse.Namespace) -> Answer:
    from superluigi.plans import Verdict
    from superluigi.task_runner import plan

    planned = plan(task, **shared.forcing(task, options), rerun_stale=options.rerun_stale)
    is_idle = not planned.of(Verdict.RUN) and not planned.of(Verdict.UNKNOWN)
    differs = getattr(options, "exit_code", False) and not is_idle
    return Answer(str(planned), planned.to_dict(), ExitCode.DIFFERS if differs else ExitCode.OK)


# why, tree, graph, accept, debug, history


def why(task: luigi.Task, _: argparse.Namespace) -> Answer:
    from superluigi.explaining import why

    found = why(task)
    reasons = [reason.to_dict() for reason in found.reasons]
    return Answer(str(found), {"task": found.task, "verdict": found.verdict.value, "reasons": reasons})


def tree_options(parser: Parser) -> None:
    shared.with_task(parser)
    shared.with_forcing(parser)


def tree(task: luigi.Task, options: argparse.Namespace) -> Answer:
    from superluigi.explaining import tree

    drawn = tree(task, **shared.forcing(task, options))
    return Answer(lambda colour: drawn.to_text(colour=colour), drawn.to_dict())


def graph_options(parser: Parser) -> None:
    shared.with_task(parser)
    shared.with_forcing(parser)
    drawings.add_options(parser, "mermaid")


def graph(task: luigi.Task, options: argparse.Namespace) -> Answer:
    from superluigi.task_graph import graph

    return drawings.drawn(graph(task, **shared.forcing(task, options)), options, "mermaid")


def accept(task: luigi.Task, _: argparse.Namespace) -> Answer:
    from superluigi.explaining import accept
    from superluigi.staleness import own_outputs

    accept(task)
    paths = [str(target.path) for target in own_outputs(task)]
    lines = [f"{path} counts as made by today's code of {type(task).__name__}." for path in paths]
    return Answer("\n".join(lines), {"task": public_name(task), "accepted": paths})


def debug_options(parser: Parser) -> None:
    shared.with_task(parser)
    parser.add_argument("--last", action="store_true", help="the task that failed last; so it is without a task, too")
    parser.add_argument("--step", action="store_true", help="stand at the beginning of run, not where it fails")


def debug(task: luigi.Task | None, options: argparse.Namespace) -> Answer:
    from superluigi.debugging import debug

    if task is not None and options.last:
        raise UsageError("debug takes a task or --last. Leave out one of them.")
    debug(task, last=task is None, step=options.step)
    return Answer("")


def history_options(parser: Parser) -> None:
    parser.add_argument("task", metavar="TASK", help="pkg.module.Task, path/to/file.py:Task, or a name with --module")
    parser.add_argument("name", metavar="NAME", help="the name under which run put the value into metadata")
    shared.with_task(parser)


def history(options: argparse.Namespace) -> Answer:
    from superluigi.expectations import history

    found = history(naming.find(options.task, options.module), options.name)
    rows = [{"time": row.time, "value": row.value, "params": dict(row.params), "path": row.path} for row in found]
    text = str(found) if rows else f"No run on this machine has put {options.name} into the metadata of {options.task}."
    return Answer(text, rows)
