"""The one wrapper around `run()`.

The way of the data: Luigi calls `run()`; the wrapper opens private copies of the inputs and fresh paths for the
outputs, calls the user's `run`, checks what was left, and publishes it with its record. The invariant: nothing
is published unless all outputs of the task are there and right, and no state of a run is kept on a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import itertools
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luigi

from superluigi import dag, expectations, identity, provenance, task_log
from superluigi.errors import (
    MissingOutputError,
    RunSignatureError,
    SuperLuigiError,
    TargetNotFoundError,
    TaskTypeError,
)
from superluigi.outputs import as_redirected, is_redirected
from superluigi.storage import cache, full_disks, leases, processes, workplace
from superluigi.targets import NoTarget
from superluigi.targets.foreign import fetch_luigi_s3, is_luigi_s3, own_target, own_targets
from superluigi.targets.memory import Draft, PathlessTarget
from superluigi.targets.metadata import now
from superluigi.targets.publishing import FreshFolder, Publication, StagedOutput, facts_of

if TYPE_CHECKING:
    import datetime as dt

    from superluigi.targets.metadata import Metadata

_running: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar("superluigi_running", default=())

shared_loop: contextvars.ContextVar[asyncio.AbstractEventLoop | None]
shared_loop = contextvars.ContextVar("superluigi_shared_loop", default=None)  # on which many coroutines wait at once

# Who looks into an error of the user's `run` before its private paths are gone.
_examiner: contextvars.ContextVar[Callable[[BaseException], None] | None]
_examiner = contextvars.ContextVar("superluigi_examiner", default=None)

_MAX_ORIGINS = 100  # of values that a record tells of; a chain of a thousand tasks must not carry a thousand each


@contextlib.contextmanager
def examined(function: Callable[[BaseException], None]) -> Iterator[None]:
    """Let an error that a `run` raises in the block be looked into while its private paths are still there."""
    token = _examiner.set(function)
    try:
        yield
    finally:
        _examiner.reset(token)


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a `run`: called without arguments it runs the task; with them, or by `super().run()`, it is `function`."""

    @functools.wraps(function)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _run(
            self, function, args, kwargs
        )  # one name of this module: a class that travels takes its globals along

    run.__superluigi_wrapped__ = run  # type: ignore[attr-defined]
    return run


def _run(task: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if args or kwargs or id(task) in _running.get():
        return _inside(task, function, task, *args, **kwargs)
    execution = _Execution(task, function).steps()
    try:
        first = next(execution)
    except StopIteration:
        return None
    except _StoppedError as stopped:
        raise stopped.error from None  # as the user's run has raised it
    return _resumed(execution, first)


class _StoppedError(Exception):
    """Carries a `StopIteration` of the user's out of a generator, which Python would turn into another error."""

    def __init__(self, error: StopIteration) -> None:
        self.error = error
        super().__init__(error)


def _inside(task: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call something of a task's run: what it calls by `super().run()` is then no run of its own."""
    token = _running.set((*_running.get(), id(task)))
    try:
        return call(*args, **kwargs)
    except StopIteration as error:
        if isinstance(getattr(call, "__self__", None), Generator):
            raise  # the end of the user's generator
        raise _StoppedError(error) from None
    finally:
        _running.reset(token)


def _resumed(execution: Generator[Any, Any, None], first: Any) -> Generator[Any, Any, None]:
    with contextlib.closing(execution):
        answer = yield first
        while True:
            try:
                following = execution.send(answer)
            except StopIteration:
                return
            answer = yield following


def prepare_to_fork(task: luigi.Task) -> None:
    """Find out now what processes that are forked from this one would each find out for themselves."""
    task_cls: Any = type(task)
    if hasattr(task_cls, "offered_arguments"):
        with contextlib.suppress(Exception):  # it is the task that fails then, when it runs
            _declared(task_cls.run.__wrapped__, task_cls)
        for kind in (Mapping, Iterable):  # what `dag` asks of each leaf; abstract classes remember their answers
            for leaf in (_Input, StagedOutput, FreshFolder, type(Path())):
                issubclass(leaf, kind)
        provenance.prepare(task_cls)
        processes.prepare_to_fork()
        workplace.prepare_to_fork()


def copies_inputs(task: luigi.Task) -> bool:
    """Say whether the inputs of a task are brought to where it runs: not if its `run` does not declare them."""
    task_cls: Any = type(task)
    try:
        return "input_path" in _declared(task_cls.run.__wrapped__, task_cls)
    except Exception:  # noqa: BLE001  (it is no task of ours, or fails with it when it runs)
        return False


class _Execution:
    """One run of one task, from its inputs to its published outputs."""

    def __init__(self, task: Any, function: Callable[..., Any]) -> None:
        self.task = task
        self.function = function
        task_cls: Any = type(task)
        self.declared = _declared(function, task_cls)
        self.has_record = "metadata" in task.offered_arguments
        self.is_atomic = "output_path" in task.offered_arguments
        self.metadata: Metadata = {}
        self.dynamic_inputs: list[Any] = []
        self.in_memory: Metadata = {}
        self.reads = 0
        self.draft = Draft(identity.bearer_of(task))

    def steps(self) -> Generator[Any, Any, None]:
        """Run the task; yields what the user's generator yields, and is sent the targets of those tasks."""
        started = now()
        with contextlib.ExitStack() as stack:
            self._stack = stack
            inputs, described = self._open_inputs()
            if self.has_record and (log := task_log.current()) is not None:
                log.read = {"input": described, "dynamic_input": self.dynamic_inputs}
            nested = self._open_outputs()
            self.draft.own = [leaf.key for _, leaf in dag.leaves(nested) if isinstance(leaf, PathlessTarget)]
            outputs = [output for _, output in dag.leaves(nested)]
            arguments = {"input_path": inputs, "output_path": dag.map_nested(_handed_out, nested)}
            arguments["metadata"] = self.metadata
            with self._guarded(outputs):
                call = functools.partial(self.function, self.task)
                try:
                    yield from self._called(call, {name: arguments[name] for name in self.declared})
                except (Exception, SystemExit) as error:
                    if full_disks.is_meant(error):
                        self._tell_of_full_disk(error, outputs)
                    if (examine := _examiner.get()) is not None:
                        examine(
                            error.error if isinstance(error, _StoppedError) else error
                        )  # as long as the private paths are there
                    raise
                self._check_declares_output(outputs)
                with self.draft.open():
                    self._publish(outputs, described, started)

    def _called(self, call: Callable[..., Any], arguments: dict[str, Any]) -> Generator[Any, Any, None]:
        result = self._inside(call, **arguments)
        if inspect.iscoroutine(result):
            self._inside(_awaited, result)
        elif isinstance(result, Generator):
            with contextlib.closing(result):
                answer = None
                while True:
                    try:
                        required = self._inside(result.send, answer)
                    except StopIteration:
                        return
                    if isinstance(required, Iterator):
                        required = list(required)  # Luigi looks through it several times
                    self._check_yielded(required, result)
                    yielded = yield required
                    answer = self._received(required, yielded)

    def _check_yielded(self, required: Any, generator: Generator[Any, Any, None]) -> None:
        """See that tasks were yielded; if not, the error is raised where the user's code yields."""
        try:
            for _, member in dag.leaves(getattr(required, "requirements", required)):
                dag.check_is_task(member, self.task, "run() yields")
        except TaskTypeError as error:
            self._inside(generator.throw, error)
            raise

    def _inside(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self.draft.open():
            return _inside(self.task, call, *args, **kwargs)

    # Inputs

    def _open_inputs(self) -> tuple[Any, Any]:
        """Give the private input paths and what the record says of them, both as nested as `requires()`."""
        if not self.has_record:
            return None, None
        return self._read(dag.requires(self.task), with_copies="input_path" in self.declared)

    def _received(self, required: Any, targets: Any) -> Any:
        """Give what the user's generator is sent for the tasks that it yielded."""
        if not self.has_record:
            return targets
        tasks = required.requirements if isinstance(required, luigi.DynamicRequirements) else required
        paths, described = self._read(tasks, with_copies=self.is_atomic)
        self.dynamic_inputs.append(described)
        return paths if self.is_atomic else targets

    @functools.cached_property
    def _folder_for_inputs(self) -> Path:
        return self._stack.enter_context(workplace.private_folder())

    def _read(self, tasks: Any, *, with_copies: bool) -> tuple[Any, Any]:
        def read(task: luigi.Task) -> Any:
            return dag.map_nested(lambda target: self._input(task, target, with_copies=with_copies), dag.output(task))

        inputs = dag.map_nested(read, tasks)
        handed_over = dag.map_nested(lambda given: given.handed_over, inputs)
        return handed_over, dag.map_nested(lambda given: given.described, inputs)

    def _input(self, task: luigi.Task, target: Any, *, with_copies: bool) -> _Input:
        own = own_target(target)
        if with_copies and self.is_atomic and (own is not None or is_luigi_s3(target)):
            folder = self._folder_for_inputs / str(self.reads)
            self.reads += 1
            folder.mkdir()
            copied = own.read_into(folder) if own is not None else fetch_luigi_s3(target, folder)
            return _Input(copied.path, provenance.describe_input(task, own or target, copied.fingerprint, copied.stamp))
        if isinstance(target, PathlessTarget):
            described = provenance.describe_input(task, target, None)
            if target.origin is not None:
                made_from, others = target.origin
                nearest_first = {described["task_id"]: made_from, **self.in_memory, **others}
                self.in_memory = dict(itertools.islice(nearest_first.items(), _MAX_ORIGINS))
            return _Input(target.within(self.draft), described)
        fingerprint = stamp = None
        with contextlib.suppress(TargetNotFoundError):  # a task may call itself complete without it
            stamp = own.store.stamp() if own is not None else None
            fingerprint = own.fingerprint() if own is not None else None
        return _Input(target, provenance.describe_input(task, own or target, fingerprint, stamp))

    # Outputs

    def _open_outputs(self) -> Any:
        """Give a staged output for each target that has a path, else the target, as nested as `output()`."""
        nested = as_redirected(self.task, self.task.output())  # an output() that is no plain function is not wrapped
        if not self.is_atomic:
            return nested

        def opened(target: Any) -> Any:
            if isinstance(target, PathlessTarget):
                return target.within(self.draft)
            dag.check_is_target(target, self.task)
            own = own_target(target)
            return target if own is None else StagedOutput(own, self._stack.enter_context(own.store.staging()))

        return dag.map_nested(opened, nested)

    def _check_declares_output(self, outputs: list[Any]) -> None:
        """Say of a task that could not leave what it promises why that is so."""
        staged = [str(output.target) for output in outputs if isinstance(output, StagedOutput)]
        if staged and "output_path" not in self.declared:
            name = type(self.task).__name__
            if inspect.unwrap(self.function) is luigi.Task.run:
                message = (
                    f"{name} has no run(), so nothing writes {', '.join(staged)}. Write run(self, output_path), or "
                    "derive from ExternalTask if the data are made elsewhere."
                )
                raise MissingOutputError(message)
            message = (
                f"{name}.run does not declare output_path, so it cannot write {', '.join(staged)}. "
                "Add the argument, or derive from TaskWithMetadata and write to the targets themselves."
            )
            raise MissingOutputError(message)

    def _tell_of_full_disk(self, error: BaseException, outputs: list[Any]) -> None:
        """Let the user's error, which stays as it is, say what is full; and let the next run have more room."""
        staged = [output for output in outputs if isinstance(output, StagedOutput)]
        told = full_disks.way_out((Path(output.path).parent, Path(str(output.target.path))) for output in staged)
        cache.give_up_all(cache.default_root())
        if told is not None:
            vars(error).setdefault("__notes__", []).append(told)  # as add_note does, which Python 3.10 lacks

    @contextlib.contextmanager
    def _guarded(self, outputs: list[Any]) -> Iterator[None]:
        """Keep the intent marker up while a run that is not atomic writes to its outputs.

        A run that failed before it changed any of them leaves them as they were.
        """
        guard = None if self.is_atomic else self.task.guard_of(outputs)
        if guard is None:
            yield
            return
        store = guard.store  # fixed now: a run may change the working directory
        was_marked = store.is_marked()  # then what is there is already a half-written output of an earlier run
        before = [_state_of(target) for target in outputs]
        store.mark(provenance.run_id())
        try:
            yield
        except BaseException:
            if not was_marked and before == [_state_of(target) for target in outputs]:
                store.unmark()
            raise
        store.unmark()

    def _publish(self, outputs: list[Any], described: Any, started: dt.datetime) -> None:
        """Check all outputs, then publish each with its record."""
        staged = [output for output in outputs if isinstance(output, StagedOutput)]
        others = [output for output in outputs if not isinstance(output, StagedOutput)]
        for output in staged:
            output.check()
        for target in others:
            if isinstance(target, NoTarget):
                target.mark()
        absent = [target for target in others if not target.exists()]
        if absent and not self.task.has_own_complete():
            named = ", ".join(map(str, absent))
            message = f"{self.task} finished without leaving {named}. Let run() write it, or correct output()."
            raise MissingOutputError(message)
        if not self.has_record:
            self.draft.check()
            leases.confirm()
        else:
            self._record(staged, [target for target in others if target not in absent], described, started)
        self.draft.settle()

    def _record(self, staged: list[StagedOutput], others: list[Any], described: Any, started: dt.datetime) -> None:
        record = provenance.build(
            self.task,
            inputs=described,
            dynamic_inputs=self.dynamic_inputs,
            in_memory=self.in_memory,
            started=started,
            metadata=self.metadata,
        )
        expectations.check(self.task, record)
        if any(isinstance(target, PathlessTarget) for target in others):
            self.draft.tell_origin(provenance.made_from(record), self.in_memory)
        self.draft.check()
        leases.confirm()
        self._publish_staged(staged, record)
        for own in own_targets(others):
            own.store.write_record({**record, "output": facts_of(own)})
        published = [*(output.target for output in staged), *others]
        if not is_redirected(self.task):
            expectations.remember(self.task, record, self.metadata, ", ".join(map(str, published)))

    def _publish_staged(self, staged: list[StagedOutput], record: Metadata) -> None:
        if not staged:
            return
        steps = tuple((output.store, output.check(), {**record, "output": output.facts()}) for output in staged)
        guard = self.task.guard_of([output.target for output in staged])
        guard_store = next((output.store for output in staged if output.target is guard), None)
        Publication(provenance.run_id(), steps, guard_store).carry_out()


@dataclass(frozen=True, slots=True)
class _Input:
    """One output of an upstream task: what `run` gets of it, and what the record says of it."""

    handed_over: Any
    described: Metadata


def _handed_out(output: Any) -> Any:
    return output.path if isinstance(output, StagedOutput) else output


def _state_of(target: Any) -> object:
    """Give what changes when a target changes: None if it is not there, never the same twice if it cannot be read."""
    own = own_target(target)
    try:
        return None if own is None else own.fingerprint()
    except TargetNotFoundError:
        return None
    except SuperLuigiError:
        return object()


@functools.lru_cache(maxsize=4096)
def _declared(function: Callable[..., Any], task_cls: Any) -> tuple[str, ...]:
    """Give which of the offered arguments a `run` declares.

    A decorator that takes any (`**kwargs`) gets what is declared by the `run` that it wraps.

    Raises:
        RunSignatureError: it needs one that is not offered.
    """
    if inspect.isasyncgenfunction(function):
        message = (
            f"{task_cls.__name__}.run is an asynchronous generator, which Luigi cannot drive. "
            "Await without yielding, or yield requirements from a plain generator."
        )
        raise TaskTypeError(message)
    offered: tuple[str, ...] = task_cls.offered_arguments
    parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())[1:]
    if _takes_any(parameters):
        wrapped = inspect.signature(function).parameters
        return offered if _takes_any(wrapped.values()) else tuple(name for name in offered if name in wrapped)
    named = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    if positional := [item.name for item in named if item.kind is item.POSITIONAL_ONLY]:
        raise RunSignatureError(task_cls.__name__, positional, offered)  # arguments are handed over by name
    needed = [item.name for item in named if item.default is item.empty]
    if "output_path" in needed and "output_path" in offered and task_cls.output is luigi.Task.output:
        raise RunSignatureError.without_output(task_cls.__name__)
    unknown = [name for name in needed if name not in offered]
    if unknown:
        raise RunSignatureError(task_cls.__name__, unknown, offered)
    return tuple(item.name for item in named if item.name in offered)


def _takes_any(parameters: Iterable[inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine to its end, also where an event loop is running already (a notebook)."""
    loop = shared_loop.get()
    if loop is not None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(coroutine)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=1) as beside:
        beside.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()
