"""The in-process scheduler: it answers as Luigi's does, and what a call costs does not grow with the graph."""

import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import luigi.scheduler
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from luigi.task_status import BATCH_RUNNING, DISABLED, DONE, FAILED, PENDING, RUNNING, SUSPENDED, UNKNOWN

from superluigi.running.scheduler import Scheduler

OPTIONS = {
    "retry_delay": 5.0,
    "remove_delay": 7.0,
    "worker_disconnect_delay": 12.0,
    "disable_window": 20,
    "retry_count": 2,
    "disable_persist": 15,
    "stable_done_cooldown_secs": 1,
}
STATUSES = (PENDING, RUNNING, BATCH_RUNNING, FAILED, DONE, DISABLED, UNKNOWN)
WORKERS = st.sampled_from(["w0", "w1", "w2"])
NUMBERS = st.integers(0, 9)
RESOURCES = st.sampled_from([{}, {}, {}, {"db": 1}, {"db": 2}, {"cpu": 1}, {"cpu": 2, "db": 1}, {"unheard_of": 1}])
PRIORITIES = st.sampled_from([0, 0, 0, 1, 5, -2, 0.5])


def _name(number: int) -> str:
    return f"t{number}"


def _upstream(number: int, chosen: list[int]) -> list[str]:
    return [_name(other) for other in chosen if other < number]


def _in_order(get_tasks: Callable[..., Any], worker: Any, state: Any, *statuses: str) -> list[Any]:
    """Give a worker's tasks in the order of their status; Luigi sometimes gives them in the order of a set."""
    tasks = list(get_tasks(worker, state, *statuses))
    place = {id(task): n for n, task in enumerate(itertools.chain(*(state._status_tasks[s].values() for s in statuses)))}
    return sorted(tasks, key=lambda task: (place.get(id(task), len(place)), task.id))


class SchedulerMachine(RuleBasedStateMachine):
    """Luigi's scheduler and ours, given the same calls at the same times."""

    @initialize(
        prunes=st.booleans(),
        retry_delay=st.sampled_from([5.0, 5.0, 0.0, -1.0]),
        resources=st.sampled_from([{"db": 1, "cpu": 3}, {"db": 2}, {"cpu": 0}]),
    )
    def start(self, prunes: bool, retry_delay: float, resources: dict[str, int]) -> None:
        self.now = 1_000_000.0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(time, "time", lambda: self.now)
        self.patch.setattr(
            luigi.scheduler.Worker, "get_tasks", _method(partial(_in_order, luigi.scheduler.Worker.get_tasks))
        )
        options = {**OPTIONS, "prune_on_get_work": prunes, "retry_delay": retry_delay}
        self.pair = [cls(resources=dict(resources), **options) for cls in (luigi.scheduler.Scheduler, Scheduler)]
        self.running: dict[str, str] = {}

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    def both(self, name: str, **arguments: Any) -> Any:
        answers = []
        for scheduler in self.pair:
            try:
                answers.append(getattr(scheduler, name)(**arguments))
            except (KeyError, AttributeError, IndexError) as error:  # where Luigi stumbles, so do we
                answers.append(type(error))
        assert answers[0] == answers[1]
        return answers[0]

    @rule(
        number=NUMBERS,
        worker=WORKERS,
        status=st.sampled_from([PENDING] * 8 + [DONE, DONE, FAILED, DISABLED, UNKNOWN, SUSPENDED, RUNNING]),
        deps=st.none() | st.lists(NUMBERS, max_size=4),
        priority=PRIORITIES,
        resources=RESOURCES,
        runnable=st.sampled_from([True, True, True, False]),
        assistant=st.sampled_from([False, False, False, True]),
        batchable=st.sampled_from([None, True, True, False]),
        policy=st.sampled_from([None, None, {"retry_count": 1}, {"disable_hard_timeout": 4}]),
    )
    def add_task(self, number: int, deps: list[int] | None, policy: Any, **arguments: Any) -> None:
        self.both(
            "add_task",
            task_id=_name(number),
            deps=deps and _upstream(number, deps),
            family=f"F{number % 2}",
            params={"day": str(number), "place": str(number // 6)},
            retry_policy_dict=policy,
            **arguments,
        )

    @rule(worker=WORKERS, names=st.sampled_from([["day"], ["day", "place"], ["unheard_of"]]), size=st.sampled_from([2, 3, 1e9]))
    def add_task_batcher(self, worker: str, names: list[str], size: float) -> None:
        for family in ("F0", "F1"):
            self.both("add_task_batcher", worker=worker, task_family=family, batched_args=names, max_batch_size=size)

    @rule(worker=WORKERS, assistant=st.sampled_from([False] * 5 + [True]), forgets=st.integers(0, 9))
    def get_work(self, worker: str, assistant: bool, forgets: int) -> None:
        current = [task for task, runner in self.running.items() if runner == worker]
        current_tasks = None if forgets == 0 else current[1:] if forgets == 1 else current
        reply = self.both("get_work", worker=worker, host="h", assistant=assistant, current_tasks=current_tasks)
        if not isinstance(reply, dict):
            return
        if reply["task_id"] is not None:
            self.running[reply["task_id"]] = worker
        elif "batch_id" in reply and forgets < 9:  # else the worker dies before it says that it runs the batch
            task_id = "batch-" + reply["batch_id"][:4]
            self.both(
                "add_task",
                worker=worker,
                task_id=task_id,
                family=reply["task_family"],
                params={"day": "all"},
                status=RUNNING,
                batch_id=reply["batch_id"],
            )
            self.running[task_id] = worker

    @rule(
        data=st.data(),
        status=st.sampled_from([DONE, DONE, DONE, FAILED, FAILED, PENDING]),
        new_deps=st.lists(NUMBERS, max_size=3),
        resources=RESOURCES,
        assistant=st.sampled_from([False, False, False, True]),
    )
    def report(self, data: Any, status: str, new_deps: list[int], resources: dict[str, int], assistant: bool) -> None:
        if not self.running:
            return
        task_id = data.draw(st.sampled_from(sorted(self.running)))
        number = int(task_id[1:]) if task_id.startswith("t") else 0
        self.both(
            "add_task",
            worker=self.running.pop(task_id),
            task_id=task_id,
            status=status,
            expl='"why"',
            runnable=None,
            resources=resources,
            assistant=assistant,
            new_deps=_upstream(number, new_deps) if status == PENDING else [],
        )

    @rule(seconds=st.sampled_from([0.25, 1, 1, 3, 3, 6, 9, 16]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(workers=st.lists(WORKERS, unique=True))
    def ping(self, workers: list[str]) -> None:
        for worker in workers:
            self.both("ping", worker=worker)

    @rule(worker=WORKERS, processes=st.integers(1, 3))
    def add_worker(self, worker: str, processes: int) -> None:
        self.both("add_worker", worker=worker, info={"workers": processes})

    @rule(worker=WORKERS, dice=st.integers(0, 3))
    def disable_worker(self, worker: str, dice: int) -> None:
        if dice == 0:
            self.both("disable_worker", worker=worker)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.both("pause" if paused else "unpause")

    @rule(name=st.sampled_from(["db", "cpu"]), amount=st.integers(0, 3))
    def update_resource(self, name: str, amount: int) -> None:
        self.both("update_resource", resource=name, amount=amount)

    @rule(number=NUMBERS, name=st.sampled_from(["mark_as_done", "forgive_failures", "re_enable_task"]))
    def change_by_hand(self, number: int, name: str) -> None:
        self.both(name, task_id=_name(number))

    @rule(number=NUMBERS)
    def decrease_running_task_resources(self, number: int) -> None:
        self.both("decrease_running_task_resources", task_id=_name(number), decrease_resources={"db": 1, "cpu": 1})

    @rule(status=st.sampled_from(["", *STATUSES]), upstream=st.sampled_from(["", "UPSTREAM_DISABLED", "UPSTREAM_FAILED"]))
    def look(self, status: str, upstream: str) -> None:
        self.both("task_list", status=status, upstream_status=upstream)
        self.both("worker_list")
        self.both("resource_list")
        self.both("graph")

    @rule()
    def restart(self) -> None:
        for scheduler in self.pair:
            scheduler._state.set_state(scheduler._state.get_state())

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "pair"):
            return
        held = []
        for scheduler in self.pair:
            state = scheduler._state
            tasks = [{**vars(task), "workers": list(task.workers)} for task in state._tasks.values()]
            held.append((tasks, {s: list(state._status_tasks[s]) for s in STATUSES}, list(state._active_workers)))
        assert held[0] == held[1]
        for worker in held[0][2]:
            self.both("count_pending", worker=worker)


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *arguments: function(self, *arguments)


TestSchedulerAnswersAsLuigis = SchedulerMachine.TestCase
TestSchedulerAnswersAsLuigis.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
