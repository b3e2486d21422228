"""The scheduler of a run without a central one: Luigi's own, without its scan of every task at every step.

Luigi's scheduler decides: this module changes no rule, and copies none but the counting of `count_pending`. It only
keeps an index of what Luigi would find by looking at all tasks, and hands Luigi the few that can matter. What it does
not index (web page, history, mails) is Luigi's and costs what it costs there.

The invariant: between two calls, after `_settle`, the facts kept of a task are what Luigi would read off the task.
Whatever changes a task calls `touch`; `_settle` alone writes to the index. Time per call grows with the logarithm of
the number of tasks, with the tasks touched since the last call and the edges that they open, and with the tasks that
are running.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import luigi.scheduler
from luigi.task_status import BATCH_RUNNING, DISABLED, DONE, FAILED, PENDING, RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Task: TypeAlias = luigi.scheduler.Task
    Entry: TypeAlias = tuple[float, float, int, "_Facts"]  # a task's place: Luigi's rank, ties as in Luigi, the task

_ASKED_BY_GET_WORK = (PENDING, RUNNING)  # nobody else in luigi.scheduler asks for these two together


@dataclass(slots=True, eq=False)
class _Facts:
    """What the index holds of one task, as of the last `_settle`."""

    task: Task
    number: int  # the order in which tasks came
    since: int  # the order in which they took their status
    deps: frozenset[str] = frozenset()
    unmet: int = 0  # how many of them are not done
    barred: int = 0  # how many of them bar their downstream
    is_done: bool = False
    bars: bool = False  # disabled, or pending below something disabled
    counted: tuple[str, ...] = ()  # the workers for whom it counts as pending
    needy: tuple[str, ...] = ()  # the workers for whom it is pending and needs resources
    due: float = math.inf  # when pruning has to look at it
    put_off: bool = False  # it is not to run before `wake` says so
    lot: float | None = None  # what decides between tasks of one priority, instead of their age
    key: tuple[Any, ...] = ()
    entry: Entry | None = None  # its place among the ready tasks; whatever else a queue holds of it is stale


class _Queue:
    """Ready tasks in the order of Luigi's rank."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []

    def push(self, entry: Entry) -> None:
        """Add a task."""
        heapq.heappush(self._heap, entry)

    def first(self, count: float = 1, accept: Callable[[Entry], bool] = lambda _: True) -> list[Entry]:
        """Give the first that are accepted, and leave them in; stale entries that surface are dropped."""
        found: list[Entry] = []
        passed: list[Entry] = []
        while self._heap and len(found) < count:
            entry = heapq.heappop(self._heap)
            if entry[-1].entry is entry:
                passed.append(entry)
                if accept(entry):
                    found.append(entry)
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return found


class _Worker(luigi.scheduler.Worker):
    """Luigi's record of a worker, which asks the index."""

    def is_trivial_worker(self, state: State) -> bool:
        """Say whether no pending task of this worker needs resources, and it is no assistant."""
        if state.holds_strays(self):
            return bool(super().is_trivial_worker(state))
        return not self.assistant and not state.needs_resources(self.id)

    def get_tasks(self, state: State, *statuses: str) -> Iterable[Task]:
        """Give this worker's tasks; to `get_work`, which asks this only of trivial workers, the best and its batch."""
        if statuses != _ASKED_BY_GET_WORK or state.holds_strays(self):
            return super().get_tasks(state, *statuses)  # type: ignore[no-any-return]
        return state.best_of(self.id)


class State(luigi.scheduler.SimpleTaskState):
    """Luigi's tasks and workers, and the index over them."""

    def __init__(self, config: luigi.scheduler.scheduler, *, shuffles: bool = False) -> None:
        super().__init__(config.state_path)
        self._config = config
        self._shuffles = shuffles
        self._clear()

    def _clear(self) -> None:
        self._order = itertools.count()
        self._facts: dict[str, _Facts] = {}
        self._touched: set[_Facts] = set()
        self._downstream: defaultdict[str, set[_Facts]] = defaultdict(set)
        # Tasks that differ for get_work in their rank alone stand in one queue: by worker, and None for all of them.
        self._alike: defaultdict[str | None, dict[tuple[Any, ...], _Queue]] = defaultdict(dict)
        self._batches: dict[tuple[Any, ...], _Queue] = {}  # tasks that may run in one batch
        self._batched_names: defaultdict[str, set[str]] = defaultdict(set)  # by family, of all workers
        self._deadlines: list[tuple[float, int, _Facts]] = []
        self._sleeping: list[tuple[float, int, _Facts]] = []
        self._pending: Counter[str] = Counter()  # by worker, like the three that follow
        self._unique: Counter[str] = Counter()
        self._last: Counter[str] = Counter()
        self._needy: Counter[str] = Counter()
        self._strays: set[str] = set()

    # Changes

    def touch(self, task: Task, *, moved: bool = False) -> None:
        """Note that something about a task may have changed; moved: it went to the end of its status."""
        facts = self._facts.get(task.id)
        if facts is None:
            number = next(self._order)
            facts = self._facts[task.id] = _Facts(task, number, number)
            facts.lot = random.random() if self._shuffles else None  # noqa: S311  (no secret)
        elif moved:
            facts.since = next(self._order)
        self._touched.add(facts)

    def get_task(self, task_id: str, default: Task | None = None, setdefault: Task | None = None) -> Task | None:
        """Give a task; setdefault comes only from `add_task`, which goes on to change it."""
        task = super().get_task(task_id, default, setdefault)
        if setdefault is not None:
            self.touch(task)
        return task  # type: ignore[no-any-return]

    def set_status(self, task: Task, new_status: str, config: Any = None) -> None:
        """Change the status of a task, and as Luigi does of the rest of its batch."""
        status = task.status
        super().set_status(task, new_status, config)
        self.touch(task, moved=task.status != status)

    def put_off(self, task: Task, until: float) -> None:
        """Let a task that runs be pending again, and not be given to anybody before a time."""
        self.set_status(task, PENDING)
        task.worker_running = None
        facts = self._facts[task.id]
        facts.put_off = True
        heapq.heappush(self._sleeping, (until, next(self._order), facts))

    def wake(self) -> None:
        """Let the tasks be given again whose time has come."""
        while self._sleeping and self._sleeping[0][0] <= time.time():
            facts = heapq.heappop(self._sleeping)[-1]
            facts.put_off = False
            self._touched.add(facts)

    def next_to_wake(self) -> float | None:
        """Give when the next task that was put off may be given again, None if there is none."""
        return self._sleeping[0][0] if self._sleeping else None

    def set_batcher(self, worker_id: str, family: str, batcher_args: list[str], max_batch_size: float) -> None:
        """Note which parameters of a family may differ within a batch."""
        super().set_batcher(worker_id, family, batcher_args, max_batch_size)
        if not self._batched_names[family].issuperset(batcher_args):
            self._batched_names[family].update(batcher_args)
            for task in self._tasks.values():
                if task.family == family:
                    self.touch(task)

    def inactivate_tasks(self, delete_tasks: Iterable[str]) -> None:
        """Forget tasks. Luigi's workers do not forget them, see `holds_strays`."""
        gone = [self._facts[task_id] for task_id in delete_tasks]
        super().inactivate_tasks([facts.task.id for facts in gone])
        self._touched.update(gone)
        self._settle()
        for facts in gone:
            del self._facts[facts.task.id]
            self._strays.update(facts.task.workers)

    def get_worker(self, worker_id: str) -> _Worker:
        """Give a worker, known from now on."""
        if worker_id not in self._active_workers:
            self._active_workers[worker_id] = _Worker(worker_id)
        return self._active_workers[worker_id]  # type: ignore[no-any-return]

    def _remove_workers_from_tasks(self, workers: Iterable[str], remove_stakeholders: bool = True) -> None:  # noqa: FBT001, FBT002
        gone = set(workers)
        if gone:  # Luigi calls this at every pruning
            super()._remove_workers_from_tasks(gone, remove_stakeholders)
            self._strays -= gone
            for task in self._tasks.values():
                self.touch(task)

    def set_state(self, state: Any) -> None:
        """Take over tasks and workers from a file."""
        super().set_state(state)
        self._clear()
        for batchers in self._task_batchers.values():
            for family, (names, _) in batchers.items():
                self._batched_names[family].update(names)
        for task in self._tasks.values():
            self.touch(task)
        for worker in self._active_workers.values():
            if any(self._tasks.get(task.id) is not task for task in worker.tasks):
                self._strays.add(worker.id)

    # The index

    def _settle(self) -> None:
        """Bring the index up to what is now true of the touched tasks, and of those that this opens or bars."""
        while self._touched:
            facts = self._touched.pop()
            task = facts.task
            status = task.status if self._tasks.get(task.id) is task else None
            self._settle_upstream(facts, task.deps if status else set())
            self._settle_downstream(
                facts, is_done=status == DONE, bars=status == DISABLED or (status == PENDING and facts.barred > 0)
            )

            workers = tuple(task.workers)
            counted = workers if status == FAILED or (status == PENDING and not facts.barred) else ()
            if counted != facts.counted:
                self._count(facts.counted, -1)
                self._count(counted, 1)
                facts.counted = counted
            needy = workers if status == PENDING and task.resources else ()
            if needy != facts.needy:
                self._needy.subtract(facts.needy)
                self._needy.update(needy)
                facts.needy = needy

            due = self._due(task) if status else math.inf
            if due != facts.due:
                facts.due = due
                heapq.heappush(self._deadlines, (due, facts.number, facts))
            self._settle_place(facts, workers, is_ready=status == PENDING and not facts.unmet and not facts.put_off)

    def _settle_upstream(self, facts: _Facts, deps: set[str]) -> None:
        if facts.deps == deps:
            return
        for dep in facts.deps - deps:
            self._downstream[dep].discard(facts)
        for dep in deps - facts.deps:
            self._downstream[dep].add(facts)
        known = [self._facts[dep] for dep in deps if dep in self._facts]
        facts.deps = frozenset(deps)
        facts.unmet = len(deps) - sum(upstream.is_done for upstream in known)
        facts.barred = sum(upstream.bars for upstream in known)

    def _settle_downstream(self, facts: _Facts, *, is_done: bool, bars: bool) -> None:
        met, barred = is_done - facts.is_done, bars - facts.bars
        facts.is_done, facts.bars = is_done, bars
        if met or barred:
            for downstream in self._downstream.get(facts.task.id, ()):
                before = downstream.unmet == 0, downstream.barred == 0
                downstream.unmet -= met
                downstream.barred += barred
                if before != (downstream.unmet == 0, downstream.barred == 0):
                    self._touched.add(downstream)

    def _settle_place(self, facts: _Facts, workers: tuple[str, ...], *, is_ready: bool) -> None:
        task = facts.task
        if not is_ready:
            facts.entry = None
            return
        resources = tuple(sorted(task.resources.items()))
        alike = resources, workers, task.runnable
        batch = self._batch(task, resources)
        key = alike, batch, -task.priority, task.time if facts.lot is None else facts.lot, facts.since
        if facts.entry is None or key != facts.key:
            facts.key = key
            facts.entry = (*key[2:], facts)
            queue = self._alike[None].setdefault(alike, _Queue())
            queue.push(facts.entry)
            for worker in workers:
                self._alike[worker][alike] = queue
            if batch:
                self._batches.setdefault(batch, _Queue()).push(facts.entry)

    def _batch(self, task: Task, resources: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give what the tasks of one batch have in common, whichever worker runs it; nothing if it runs alone."""
        batched = self._batched_names.get(task.family)
        if not batched or not task.is_batchable():
            return ()
        fixed = sorted((name, str(value)) for name, value in task.params.items() if name not in batched)
        return task.family, resources, tuple(fixed)

    def _count(self, workers: tuple[str, ...], step: int) -> None:
        for worker in workers:
            self._pending[worker] += step
        if len(workers) == 1:
            self._unique[workers[0]] += step
        if workers:
            self._last[workers[-1]] += step

    def _due(self, task: Task) -> float:
        """Give when Luigi's `fail_dead_worker_task`, `update_status` and `may_prune` next do anything to a task."""
        is_running = task.status in (RUNNING, BATCH_RUNNING)
        if is_running and task.worker_running and task.worker_running not in task.stakeholders:
            return 0  # on a worker that is gone, or on an assistant, which may go at any time
        if not task.stakeholders and task.remove is None and task.status != RUNNING:
            return 0
        due = task.remove or math.inf
        if task.status == DISABLED and task.scheduler_disable_time is not None:
            due = min(due, task.scheduler_disable_time + self._config.disable_persist)
        if task.status == FAILED and self._config.retry_delay >= 0:
            due = min(due, task.retry)  # type: ignore[type-var]  # a task that failed has one
        return float(due)

    # Answers

    def take_due(self) -> list[Task]:
        """Give the tasks that pruning has to look at, oldest first; they count as touched."""
        self._settle()
        due: list[_Facts] = []
        while self._deadlines and self._deadlines[0][0] <= time.time():
            deadline, _, facts = heapq.heappop(self._deadlines)
            if deadline == facts.due:
                facts.due = math.inf
                self._touched.add(facts)
                due.append(facts)
        return [facts.task for facts in sorted(due, key=lambda facts: facts.number)]

    def count(self, worker_id: str) -> tuple[int, int, int]:
        """Give how many tasks of a worker are pending: all, those that are only its own, those that it added last."""
        self._settle()
        return self._pending[worker_id], self._unique[worker_id], self._last[worker_id]

    def needs_resources(self, worker_id: str) -> bool:
        """Say whether any pending task of a worker needs resources."""
        self._settle()
        return self._needy[worker_id] > 0

    def holds_strays(self, worker: luigi.scheduler.Worker) -> bool:
        """Say whether Luigi might answer a worker with tasks that it has forgotten.

        A worker's own set keeps forgotten tasks, and Luigi reads that set while it is the smaller one. What is asked
        then is left to Luigi.
        """
        return worker.id in self._strays and len(worker.tasks) < sum(
            len(self._status_tasks[status]) for status in (PENDING, RUNNING, FAILED)
        )

    def best_of(self, worker_id: str) -> list[Task]:
        """Give the best of the ready tasks of a worker, and those that may run in one batch with it, in order."""
        self._settle()
        best = min(self._heads(1, worker_id), default=None)
        if best is None:
            return []
        mates = self._mates(best, worker_id, lambda task: worker_id in task.workers)
        return [entry[-1].task for entry in sorted({best, *mates})]

    def get_active_tasks_by_status(self, *statuses: str) -> Iterable[Task]:
        """Give the tasks by status; to `get_work`, which asks this where resources count, those that can matter.

        Those are the running ones, and of the ready ones that are alike in all but rank as many as there are places
        on workers: Luigi gives each place to one task while it reserves resources for better ones, and where a task
        finds no place or no resources, those alike behind it find none either.
        """
        if statuses != _ASKED_BY_GET_WORK:
            return super().get_active_tasks_by_status(*statuses)  # type: ignore[no-any-return]
        self._settle()
        places = sum(worker.info.get("workers", 1) for worker in self._active_workers.values())
        shown = set(self._heads(max(1, places)))
        for entry, worker_id in itertools.product(tuple(shown), self._active_workers if self._batches else ()):
            shown.update(self._mates(entry, worker_id))
        return [entry[-1].task for entry in sorted(shown)] + list(self._status_tasks[RUNNING].values())

    def _heads(self, count: int, worker_id: str | None = None) -> Iterator[Entry]:
        """Give the first of each kind of ready tasks, of all or of one worker."""
        kinds = self._alike[worker_id]
        for alike, queue in tuple(kinds.items()):
            heads = queue.first(count)
            yield from heads
            if not heads:
                del kinds[alike]

    def _mates(self, best: Entry, worker_id: str, accept: Callable[[Task], bool] = lambda _: True) -> list[Entry]:
        """Give a task, and those behind it that a worker may run in one batch with it; nothing if it runs alone."""
        task = best[-1].task
        names, size = self.get_batcher(worker_id, task.family)
        queue = self._batches.get(best[-1].key[1])
        if not names or queue is None:
            return []
        fixed = [(name, value) for name, value in task.params.items() if name not in names]

        def fits(entry: Entry) -> bool:
            other = entry[-1].task
            return entry >= best and accept(other) and all(other.params.get(name) == value for name, value in fixed)

        return queue.first(size, fits)


class Scheduler(luigi.scheduler.Scheduler):
    """Luigi's scheduler for local runs: the same calls and the same answers, from an index."""

    _state: State

    def __init__(self, *args: Any, shuffles: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        metrics = self._state._metrics_collector  # noqa: SLF001
        self._state = State(self._config, shuffles=shuffles)  # several schedulers of one graph then begin elsewhere
        self._state._metrics_collector = metrics  # noqa: SLF001

    def get_work(  # Luigi's own signature: its remote schedulers call it by names
        self,
        host: Any = None,
        assistant: bool = False,  # noqa: FBT001, FBT002
        current_tasks: Any = None,
        worker: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Give a worker the best task that is ready and not put off."""
        self._state.wake()
        return super().get_work(host, assistant, current_tasks, worker, **kwargs)

    def put_off(self, task_id: str, pause_s: float) -> None:
        """Take back a task that was given to a worker, and give it to none for so many seconds."""
        task = self._state.get_task(task_id)
        assert task is not None
        self._state.put_off(task, time.time() + pause_s)

    def seconds_to_next(self) -> float | None:
        """Give how long until a task that was put off may be given again, None if there is none."""
        until = self._state.next_to_wake()
        return None if until is None else max(0.0, until - time.time())

    def count_pending(self, worker: str) -> dict[str, Any]:
        """Give what is left to do for a worker, and what runs of it."""
        asking = self._state.get_worker(worker)
        if self._state.holds_strays(asking):
            return super().count_pending(worker)  # type: ignore[no-any-return]
        running = []
        for task in self._state.get_active_tasks_by_status(RUNNING):
            if worker in task.workers:
                runner = self._state.get_worker(task.worker_running)  # type: ignore[arg-type]  # it is running
                running.append({"task_id": task.id, "worker": str(runner), **runner.info})
        pending, unique, last = self._state.count(worker)
        return {
            "n_pending_tasks": pending,
            "n_unique_pending": unique,
            "n_pending_last_scheduled": last,
            "worker_state": asking.state,
            "running_tasks": running,
        }

    def _prune_tasks(self) -> None:
        assistants = {worker.id for worker in self._state.get_assistants()}
        gone = []
        for task in self._state.take_due():
            self._state.fail_dead_worker_task(task, self._config, assistants)
            self._state.update_status(task, self._config)
            if self._state.may_prune(task):
                gone.append(task.id)
        self._state.inactivate_tasks(gone)

    def _update_priority(self, task: Task, prio: float, worker: str) -> None:  # noqa: ARG002
        """Raise the priority of a task, and of all upstream that is below it; every `add_task` comes by here."""
        if isinstance(task.priority, (int, float)):  # a state that was saved may hold anything
            prio = max(prio, task.priority)
        task.priority = prio
        rising = [task]
        while rising:
            risen = rising.pop()
            self._state.touch(risen)
            for dep in risen.deps:
                upstream = self._state.get_task(dep)
                if upstream is not None and prio > upstream.priority:
                    upstream.priority = prio
                    rising.append(upstream)
