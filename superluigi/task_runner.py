"""`run_task`: run a task and all that it needs, now, in this process and its workers.

The way of the data begins here: arguments are checked, forcing is planned, Luigi's worker runs what is missing,
the summary is printed, and the paths of the outputs are given back. The invariant: everything that a call changes
(configuration, logging, forcing) is as before when it returns or raises.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import luigi
from luigi import execution_summary
from luigi.execution_summary import LuigiStatusCode
from luigi.interface import core
from luigi.parameter import ParameterVisibility
from luigi.rpc import RPCError
from luigi.setup_logging import InterfaceLogging
from luigi.task_status import DONE

from superluigi import config as configuration
from superluigi import dag, provenance
from superluigi.errors import (
    ConfigError,
    MissingParameterError,
    SchedulerUnavailableError,
    TaskFailedError,
    TaskFailure,
    TaskTypeError,
    public_name,
)
from superluigi.failures import remember
from superluigi.forcing import TaskClasses, Tasks, plan_forcing
from superluigi.luigi_task import AnyTask
from superluigi.planning import make_plan
from superluigi.register import successor_of, unregister_former
from superluigi.running import bars
from superluigi.running.openlineage import telling
from superluigi.running.progress import Patient, Progress, Receiver
from superluigi.running.state import Run, keys_of
from superluigi.running.watching import transfers_of
from superluigi.running.worker import Factory, Worker
from superluigi.storage import observation, workplace
from superluigi.targets import Target, memory
from superluigi.targets.publishing import recover_abandoned
from superluigi.targets.s3 import S3ObjectTarget, S3PrefixTarget

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Never, Unpack

    from superluigi.luigi_task import Makes
    from superluigi.plans import Plan
    from superluigi.running.events import ProgressEvent
    from superluigi.targets.local import LocalFileTarget, LocalFolderTarget

    class Options(TypedDict, total=False):
        """The arguments of `run_task` by which the type of its result does not change."""

        config: Mapping[str, Mapping[str, Any]] | None
        config_file: str | Path | None
        central_scheduler: bool
        num_workers: int | None
        executor: Any
        force: bool
        force_upstream: bool
        force_upstream_to_task: Tasks | None
        force_upstream_to_task_cls: TaskClasses | None
        rerun_stale: bool | None
        single_flight: bool | None
        raise_exception: bool
        progress: bool | Callable[[ProgressEvent], object] | None
        report: str | Path | None
        log_level: str

    class AllOptions(Options, total=False):
        """All arguments but `dry_run`."""

        local_output: bool
        force_local_download: bool

    Local = LocalFileTarget | LocalFolderTarget
    OnS3 = S3ObjectTarget | S3PrefixTarget

_PUBLIC = ParameterVisibility.PUBLIC
_SUCCESS = (LuigiStatusCode.SUCCESS, LuigiStatusCode.SUCCESS_WITH_RETRY)

Runnable: TypeAlias = AnyTask | type[AnyTask] | Sequence[AnyTask | type[AnyTask]]


# What the result is, where `output()` says it by its annotation: for type checkers. The second is for a task of which
# nothing is known, and without it the next would be chosen for that: `Any` fits each of them.
@overload
def run_task(task: Runnable, *, dry_run: Literal[True], **options: Unpack[AllOptions]) -> Plan: ...
@overload
def run_task(task: Makes[Never], *, dry_run: bool = ..., **options: Unpack[AllOptions]) -> Any: ...
@overload
def run_task(task: Makes[Local], *, dry_run: Literal[False] = ..., **options: Unpack[AllOptions]) -> Path: ...
@overload
def run_task(
    task: Makes[list[Local]], *, dry_run: Literal[False] = ..., **options: Unpack[AllOptions]
) -> list[Path]: ...
@overload
def run_task(
    task: Makes[dict[str, Local]], *, dry_run: Literal[False] = ..., **options: Unpack[AllOptions]
) -> dict[str, Path]: ...
@overload
def run_task(
    task: Makes[OnS3], *, local_output: Literal[True], dry_run: Literal[False] = ..., **options: Unpack[Options]
) -> Path: ...
@overload
def run_task(task: Makes[OnS3], *, dry_run: Literal[False] = ..., **options: Unpack[Options]) -> str: ...
@overload
def run_task(task: Runnable, *, dry_run: bool = ..., **options: Unpack[AllOptions]) -> Any: ...


def run_task(
    task: Runnable | Makes[Any],
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    config_file: str | Path | None = None,
    central_scheduler: bool = False,
    num_workers: int | None = None,
    executor: Any = None,
    local_output: bool = False,
    force_local_download: bool = False,
    force: bool = False,
    force_upstream: bool = False,
    force_upstream_to_task: Tasks | None = None,
    force_upstream_to_task_cls: TaskClasses | None = None,
    rerun_stale: bool | None = None,
    dry_run: bool = False,
    single_flight: bool | None = None,
    raise_exception: bool = False,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
    report: str | Path | None = None,
    log_level: str = "WARNING",
) -> Any:
    """Run a task and whatever it needs that is not there yet; give the paths of its output.

    `task` is a task, a task class whose parameters come from the configuration, or a list of them. The result mirrors
    the nesting of `output()`: a `Path` for local targets, an `s3://` address for remote ones, the target itself where
    it has no path; a list of results for a list of tasks.

    - `config` (sections of options) and `config_file` hold for the call, and are undone afterwards.
    - `num_workers` above 1 runs so many tasks at a time, each in a process of its own.
    - `executor` runs the tasks on a pool of yours instead: a `concurrent.futures` executor or a function that makes
      one, a `dask.distributed` client or the address of its scheduler, an executor of `submitit`, or `"async"`, where
      hundreds of tasks with `async def run` wait at once. `num_workers` then bounds the tasks in it, by default what
      the pool offers.
    - `local_output` gives the local copies of remote outputs; `force_local_download` fetches them anew.
    - `force` makes the task again, `force_upstream` it and everything it needs, `force_upstream_to_task` and
      `force_upstream_to_task_cls` the named tasks, the task itself and all between. At most one of the four.
    - `rerun_stale` makes again what is out of date by its record: other inputs, parameters, version or code. None takes
      the setting `rerun_stale`.
    - `dry_run` gives the `Plan` of what would run, and why; it touches nothing and prints nothing.
    - `single_flight`: of several runs that start the same task at a time, on one machine or over one bucket, one makes
      it, and the others wait and find it complete. None takes the setting `single_flight`.
    - `raise_exception` lets the first exception out as it is, for a debugger; with one worker, or from an executor.
    - `progress` shows bars: for the tasks, and for transfers of more than a few megabytes. None takes the setting
      `progress`, or shows them on a terminal and in a notebook. A function is called instead with each event of the
      run, from whichever thread, but one at a time; what it raises is logged, and changes nothing; `docs/progress.md`.
    - `report` is where a page tells of the run when it is over, also if it failed: what ran when, where and why, and
      what failed. A path that ends in `.html`, whose folder is made; `docs/report.md`.

    Prints Luigi's execution summary, then where the outputs are.

    Raises:
        TaskFailedError: a task failed, or data that are made elsewhere are missing. Names each of them.
        ExecutorError: the pool takes no tasks, no scheduler of Dask answers within 10 s, or a task cannot travel there.
        ConfigError, TaskTypeError, MissingParameterError, UnknownTaskError, CycleError: see there; nothing has run.
    """
    _check_arguments(
        num_workers=num_workers,
        raise_exception=raise_exception and executor is None,
        flags={"single_flight": single_flight, "rerun_stale": rerun_stale, "dry_run": dry_run},
        progress=progress,
        log_level=log_level,
    )
    page = _page(report, dry_run=dry_run)
    with configuration.applied(config, config_file, runs_in_pool=executor is not None), _logging(log_level):
        configuration.check()
        roots = _roots(task)
        unregister_former()
        _warn_of_former(roots)
        with dag.asked_anew(), dag.settled(), workplace.hands_off() if dry_run else contextlib.nullcontext():
            forcing = plan_forcing(
                roots,
                force=force,
                force_upstream=force_upstream,
                force_upstream_to_task=force_upstream_to_task,
                force_upstream_to_task_cls=force_upstream_to_task_cls,
                raise_exception=raise_exception,
            )
            judges = configuration.reruns_stale() if rerun_stale is None else rerun_stale
            if dry_run:
                return make_plan(roots, forcing, rerun_stale=judges, raise_exception=raise_exception, with_cost=True)
            going_by = make_plan(roots, forcing, rerun_stale=True, raise_exception=raise_exception) if judges else None
            is_alone = configuration.is_single_flight() if single_flight is None else single_flight
            run = Run(forcing, plan=going_by, raise_exception=raise_exception, single_flight=is_alone)
            run.begin()
            recover_abandoned()
            wanted = configuration.progress() if progress is None else progress
            course = Progress(run.run_id)
            is_async = executor == "async"
            with _reported(page, run, roots, course, is_async=is_async), _followed(course, wanted):
                try:
                    with provenance.run(run.run_id), memory.holding(run.memory), workplace.keeping_folders():
                        with telling(run, roots, course):
                            _work(
                                run,
                                roots,
                                executor,
                                course,
                                num_workers=num_workers,
                                central_scheduler=central_scheduler,
                            )
                        kept = memory.keep(run.memory, _keys(roots))
                finally:
                    recover_abandoned()  # what processes left that were killed in the course of it
                    if run.failures:
                        remember(list(run.failures))
                as_local = local_output or force_local_download
                paths = [_output_paths(root, kept, as_local=as_local, force=force_local_download) for root in roots]
        for path in paths:
            for _, place in dag.leaves(path):
                print(f"Output: {place}")
    return paths if isinstance(task, list | tuple) else paths[0]


def plan(
    task: Runnable,
    *,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    config_file: str | Path | None = None,
    force: bool = False,
    force_upstream: bool = False,
    force_upstream_to_task: Tasks | None = None,
    force_upstream_to_task_cls: TaskClasses | None = None,
    rerun_stale: bool | None = None,
    raise_exception: bool = False,
) -> Plan:
    """Give what `run_task` would run with these arguments, and why; the same as `run_task(..., dry_run=True)`.

    Touches nothing. Raises what `run_task` raises before any task runs.
    """
    planned: Plan = run_task(
        task,
        config=config,
        config_file=config_file,
        force=force,
        force_upstream=force_upstream,
        force_upstream_to_task=force_upstream_to_task,
        force_upstream_to_task_cls=force_upstream_to_task_cls,
        rerun_stale=rerun_stale,
        raise_exception=raise_exception,
        dry_run=True,
    )
    return planned


def _check_arguments(
    *, num_workers: object, raise_exception: bool, flags: Mapping[str, object], progress: object, log_level: str
) -> None:
    for name, value in flags.items():
        if value is not None and not isinstance(value, bool):
            message = f"{name} is {value!r}, but must be True, False or None (as configured)."
            raise ConfigError(message)
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        message = f"progress is {progress!r}, but must be True, False, None (as configured), or a function of an event."
        raise ConfigError(message)
    num_workers = 1 if num_workers is None else num_workers
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
        message = f"num_workers is {num_workers!r}, but must be a whole number from 1 on."
        raise ConfigError(message)
    if raise_exception and num_workers > 1:
        message = (
            f"raise_exception=True needs the tasks in this process, but num_workers is {num_workers}. "
            "Leave out num_workers, use an executor, or leave out raise_exception and look at the TaskFailedError."
        )
        raise ConfigError(message)
    if not isinstance(logging.getLevelName(str(log_level).upper()), int):
        message = f"log_level is {log_level!r}, but must be DEBUG, INFO, WARNING, ERROR or CRITICAL."
        raise ConfigError(message)


def _page(report: str | Path | None, *, dry_run: bool) -> Path | None:
    """Give where the report is to be, None if there is to be none."""
    if report is None:
        return None
    if dry_run:
        message = (
            "report tells of a run, but dry_run=True runs nothing. Leave out one of them; the Plan is a page in itself."
        )
        raise ConfigError(message)
    from superluigi.running.report import path_of

    return path_of(report)


def _roots(given: Any) -> list[luigi.Task]:
    members = list(given) if isinstance(given, list | tuple) else [given]
    if not members:
        message = "run_task was given an empty list. Give a task, a task class, or a list of them."
        raise TaskTypeError(message)
    return [_task_of(member) for member in members]


def _task_of(given: Any) -> luigi.Task:
    if isinstance(given, type) and issubclass(given, luigi.Task):
        try:
            return given()
        except luigi.parameter.MissingParameterException as error:
            name = given.get_task_family()
            message = (
                f"{error}. Give a task instead of its class, such as {name}(...), or set the parameter: "
                f"run_task({name}, config={{{name!r}: {{...}}}})."
            )
            raise MissingParameterError(message) from error
    if isinstance(given, luigi.Task):
        if not given.initialized():
            name = type(given).__name__
            message = f"{name} overrides __init__ without calling super().__init__(*args, **kwargs). Add the call."
            raise TaskTypeError(message)
        return given
    message = f"run_task was given {given!r}, a {type(given).__name__}. Give a task, a task class, or a list of them."
    raise TaskTypeError(message)


def _warn_of_former(roots: list[luigi.Task]) -> None:
    for name in dict.fromkeys(type(root).__name__ for root in roots if successor_of(type(root)) is not None):
        logging.getLogger("luigi-interface").warning(
            "%s was defined again since the task was made that is run: it runs as it was defined then. Make it anew.",
            name,
        )


@contextlib.contextmanager
def _logging(level: str) -> Iterator[None]:
    """Let Luigi set up its logging once, as its configuration says, and hold the level of this call."""
    logger = logging.getLogger("luigi-interface")
    before = logger.level
    InterfaceLogging.setup(core(log_level="NOTSET"))
    logger.setLevel(str(level).upper())
    try:
        yield
    finally:
        logger.setLevel(before)


def _reported(
    page: Path | None, run: Run, roots: list[luigi.Task], progress: Progress, *, is_async: bool
) -> contextlib.AbstractContextManager[None]:
    """Keep the events for the report, if there is to be one; the page is there when the block ends."""
    if page is None:
        return contextlib.nullcontext()
    from superluigi.running.report import reported

    return reported(page, run, roots, progress, is_async=is_async)


@contextlib.contextmanager
def _followed(progress: Progress, wanted: bool | Receiver | None) -> Iterator[None]:  # noqa: FBT001  (the user's own argument)
    """Tell the user how far the run is, by bars or by calling a function; when the block ends, the run has."""
    with contextlib.ExitStack() as stack:
        if callable(wanted):
            progress.follow(Patient(wanted))
        elif bars.are_wanted(wanted):
            shown = stack.enter_context(bars.shown())
            progress.follow(shown, shown.print)
        if progress.is_followed:
            stack.enter_context(observation.observed(transfers_of(progress.run_id, "", progress.take)))
        stack.enter_context(bars.decided())
        is_success = False
        try:
            yield
            is_success = True
        finally:
            progress.end(is_success=is_success)


def _work(
    run: Run,
    roots: list[luigi.Task],
    executor: Any,
    progress: Progress,
    *,
    num_workers: int | None,
    central_scheduler: bool,
) -> None:
    with contextlib.ExitStack() as stack:
        pool = None
        if executor is not None:
            from superluigi.running.executors import pool_of

            pool = stack.enter_context(contextlib.closing(pool_of(executor)))
        factory = Factory(run, pool, progress)
        settings = core()
        url = ""
        if central_scheduler:
            by_luigi = settings.scheduler_url or f"http://{settings.scheduler_host}:{settings.scheduler_port}/"
            url = configuration.scheduler_url() or by_luigi
            scheduler = factory.create_remote_scheduler(url)
        else:
            scheduler = factory.create_local_scheduler()
        if hasattr(scheduler, "close"):
            stack.callback(scheduler.close)
        worker = factory.create_worker(scheduler, num_workers or (1 if pool is None else pool.size))
        try:
            with worker:
                worker.add_all(roots)
                if pool is not None:
                    pool.check_can_run(worker.to_run(), run)
                gc.freeze()  # the graph stays until the end: looking through it again and again costs a tenth of a run
                try:
                    worker.run()
                finally:
                    gc.unfreeze()  # also what `TaskProcess.start` has frozen since
            worker.end()
            _conclude(run, roots, worker)
            if pool is not None and pool.ends_with_the_run:
                run.memory.bring(_keys(roots))
        except RPCError as error:
            from superluigi.running.central import without_password

            raise SchedulerUnavailableError(without_password(url)) from error


def _conclude(run: Run, roots: list[luigi.Task], worker: Worker) -> None:
    """Print Luigi's execution summary, and raise if not all is well.

    Luigi's own walk over the tasks left pending recurses along the graph; asked in an order in which each task
    comes after all that it requires, it goes one step deep.
    """
    states = execution_summary._partition_tasks(worker)  # noqa: SLF001  (no public function takes an order)
    states["run_by_other_worker"] = execution_summary._get_run_by_other_worker(worker)  # noqa: SLF001
    asked = {*states["still_pending_not_ext"], *(root for root in roots if root not in run.done)}
    there = worker.statuses_there(asked)
    states["completed"] -= run.found_made  # Luigi takes them for this worker's own
    states["already_done"] |= run.found_made
    states["run_by_other_worker"] |= {task for task in states["still_pending_not_ext"] if there[task] == DONE}
    visited: set[luigi.Task] = set()
    for task in dag.walk(states["still_pending_not_ext"], lambda member: run.requirements.get(member, ())):
        execution_summary._depth_first_search(states, task, visited)  # noqa: SLF001
    shown = {name: set(map(_Shown, tasks)) for name, tasks in states.items()}
    text = execution_summary._summary_wrap(execution_summary._summary_format(shown, worker))  # noqa: SLF001
    print(text)
    status = execution_summary._tasks_status(states)  # noqa: SLF001
    undone: list[luigi.Task] = []
    if status in _SUCCESS:  # Luigi counts neither a root that is disabled nor what another client is to run
        undone = [root for root in roots if root in there and there[root] != DONE and not root.complete()]
        if not undone:
            return
    failures = [*run.failures.values(), *map(_missing, sorted(states["still_pending_ext"], key=str))]
    failures = failures or [_not_run(task, there[task]) for task in sorted({*undone, *states["not_run"]}, key=str)]
    raise TaskFailedError(failures, status.value[1]) from next(
        (failure.exception for failure in failures if failure.exception is not None), None
    )


class _Shown:
    """A task as Luigi's summary sees it: without its private and hidden parameters."""

    def __init__(self, task: luigi.Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __hash__(self) -> int:
        return hash(self._task)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shown) and self._task == other._task

    def __str__(self) -> str:
        return public_name(self._task)

    def get_params(self) -> list[tuple[str, luigi.Parameter]]:
        return [(name, param) for name, param in self._task.get_params() if param.visibility == _PUBLIC]


def _not_run(task: luigi.Task, status: str) -> TaskFailure:
    reason = f"did not run: the scheduler has it as {status.lower()}"
    return TaskFailure(task=public_name(task), reason=reason, exception=None, traceback="")


def _missing(task: luigi.Task) -> TaskFailure:
    if not dag.is_external(task):  # it has begun, and has yielded what is missing
        reason = "waits for what it has yielded: of that something is made elsewhere, and does not exist"
        return TaskFailure(task=public_name(task), reason=reason, exception=None, traceback="")
    places = ", ".join(str(target) for _, target in dag.leaves(task.output()))
    reason = f"is made elsewhere, and does not exist: {places or 'it has no output, and complete() says no'}"
    return TaskFailure(task=public_name(task), reason=reason, exception=None, traceback="")


def _keys(tasks: Sequence[luigi.Task]) -> list[memory.Key]:
    """Give what tells the values that tasks give."""
    return [key for task in tasks for key in keys_of(task)]


def _output_paths(task: luigi.Task, kept: memory.Memory, *, as_local: bool, force: bool) -> Any:
    def path_of(target: Any) -> Any:
        if isinstance(target, memory.PathlessTarget):
            return target.within(kept)
        if as_local and isinstance(target, S3ObjectTarget | S3PrefixTarget):
            return target.download(force_local_download=force)
        if isinstance(target, Target):
            return target.path
        path = dag.path_of(target)
        if isinstance(target, luigi.LocalTarget):
            return Path(str(path))
        return target if path is None else str(path)

    return dag.map_nested(path_of, task.output())
