"""The in-process scheduler: it answers as Luigi's does, and what a call costs does not grow with the graph."""

import inspect
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partialmethod
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
WORKER_IDS = ["w0", "w1", "w2"]
WORKERS = st.sampled_from(WORKER_IDS)
NUMBERS = st.integers(0, 9)
RESOURCES = st.sampled_from([{}, {}, {}, {"db": 1}, {"db": 2}, {"cpu": 1}, {"cpu": 2, "db": 1}, {"unheard_of": 1}])
PRIORITIES = st.sampled_from([0, 0, 0, 1, 5, -2, 0.5])
BATCHED = st.sampled_from([["day"], ["day", "place"], ["unheard_of"]])
OUTCOMES = st.sampled_from([None, None, DONE, DONE, DONE, FAILED])
TASKS = NUMBERS.map("t{}".format)


def _calls(name: str, **arguments: Any) -> Any:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


CALLS = st.one_of(
    _calls("add_worker", worker=WORKERS, info=st.fixed_dictionaries({"workers": st.integers(1, 3)})),
    _calls("disable_worker", worker=st.just("w2")),
    _calls("update_resource", resource=st.sampled_from(["db", "cpu"]), amount=st.integers(0, 3)),
    _calls("mark_as_done", task_id=TASKS),
    _calls("forgive_failures", task_id=TASKS),
    _calls("re_enable_task", task_id=TASKS),
    _calls("decrease_running_task_resources", task_id=TASKS, decrease_resources=RESOURCES),
    _calls(
        "task_list", status=st.sampled_from(["", *STATUSES]), upstream_status=st.sampled_from(["", "UPSTREAM_DISABLED"])
    ),
    _calls("worker_list"),
    _calls("resource_list"),
    _calls("graph"),
    _calls("prune"),
)


def _name(number: int) -> str:
    return f"t{number}"


def _upstream(number: int, chosen: list[int]) -> list[str]:
    return [_name(other) for other in chosen if 0 <= other < number]


def _in_order(worker: Any, get_tasks: Callable[..., Any], state: Any, *statuses: str) -> list[Any]:
    """Give a worker's tasks in the order of their status; Luigi sometimes gives them in the order of a set."""
    tasks = list(get_tasks(worker, state, *statuses))
    place = {
        id(task): n for n, task in enumerate(itertools.chain(*(state._status_tasks[s].values() for s in statuses)))
    }
    return sorted(tasks, key=lambda task: (place.get(id(task), len(place)), task.id))


class Pair:
    """Luigi's scheduler and ours, given the same calls at the same times."""

    def open(self, resources: dict[str, int], **options: Any) -> None:
        self.now = 1_000_000.0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(time, "time", lambda: self.now)
        self.patch.setattr(
            luigi.scheduler.Worker, "get_tasks", partialmethod(_in_order, luigi.scheduler.Worker.get_tasks)
        )
        self.folder = tempfile.TemporaryDirectory()
        options = {**OPTIONS, "state_path": os.path.join(self.folder.name, "state"), **options}
        self.pair = [cls(resources=dict(resources), **options) for cls in (luigi.scheduler.Scheduler, Scheduler)]
        self.running: dict[str, str] = {}

    def close(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()
            self.folder.cleanup()

    def both(self, name: str, **arguments: Any) -> Any:
        answers = []
        for scheduler in self.pair:
            try:
                answers.append(getattr(scheduler, name)(**arguments))
            except (KeyError, AttributeError, IndexError) as error:  # where Luigi stumbles, so do we
                answers.append(type(error))
        assert answers[0] == answers[1]
        return answers[0]

    def add(self, number: int, deps: list[int] | None, **arguments: Any) -> None:
        self.both(
            "add_task",
            task_id=_name(number),
            deps=deps and _upstream(number, deps),
            family=f"F{number // 8 % 2}",
            params={"day": str(number), "place": str(number % 2)},
            **arguments,
        )

    def send_batchers(self, worker: str, names: list[str], size: float) -> None:
        for family in ("F0", "F1"):
            self.both("add_task_batcher", worker=worker, task_family=family, batched_args=names, max_batch_size=size)

    def get_work(self, worker: str, *, claims: bool = True, **arguments: Any) -> None:
        reply = self.both("get_work", worker=worker, host="h", **arguments)
        if not isinstance(reply, dict):
            return
        if reply["task_id"] is not None:
            self.running[reply["task_id"]] = worker
        elif "batch_id" in reply and claims:  # else the worker dies before it says that it runs the batch
            task_id = "batch-" + reply["batch_id"][:4]
            family, batch_id = reply["task_family"], reply["batch_id"]
            params = {"day": "all"}
            self.both(
                "add_task",
                worker=worker,
                task_id=task_id,
                family=family,
                params=params,
                status=RUNNING,
                batch_id=batch_id,
            )
            self.running[task_id] = worker

    def report(self, task_id: str, status: str, resources: dict[str, int], **arguments: Any) -> None:
        self.both(
            "add_task",
            worker=self.running.pop(task_id),
            task_id=task_id,
            status=status,
            expl='"why"',
            runnable=None,
            resources=resources,
            **arguments,
        )

    def assert_alike(self) -> None:
        held = []
        for scheduler in self.pair:
            state = scheduler._state
            tasks = [{**vars(task), "workers": list(task.workers)} for task in state._tasks.values()]
            held.append((tasks, {s: list(state._status_tasks[s]) for s in STATUSES}, list(state._active_workers)))
        assert held[0] == held[1]
        for worker in held[0][2]:
            self.both("count_pending", worker=worker)


class SchedulerMachine(Pair, RuleBasedStateMachine):
    """Calls in any order."""

    @initialize(
        prunes=st.booleans(),
        retry_delay=st.sampled_from([5.0, 5.0, 0.0, -1.0]),
        resources=st.sampled_from([{"db": 1, "cpu": 3}, {"db": 2}, {"cpu": 0}]),
        processes=st.sampled_from([(), (1, 1, 2), (3, 2, 1)]),
        batched=st.none() | BATCHED,
        data=st.data(),
    )
    def start(
        self,
        prunes: bool,
        retry_delay: float,
        resources: dict[str, int],
        processes: tuple[int, ...],
        batched: Any,
        data: Any,
    ) -> None:
        self.open(resources, prune_on_get_work=prunes, retry_delay=retry_delay)
        for number, count in enumerate(processes):
            self.both("add_worker", worker=f"w{number}", info={"workers": count})
            if batched:
                self.send_batchers(f"w{number}", batched, 3)
        self.schedule_graph(data)

    def teardown(self) -> None:
        self.close()

    @rule(data=st.data())
    def schedule(self, data: Any) -> None:
        self.schedule_graph(data)

    def schedule_graph(self, data: Any) -> None:
        """Let workers schedule a graph, as they do when they start: most tasks are alike."""
        ours = data.draw(st.lists(WORKERS, min_size=1, max_size=2, unique=True))
        alike = {"batchable": data.draw(st.booleans()), "resources": data.draw(RESOURCES), "priority": 0}
        numbers = data.draw(st.permutations(range(10)))
        for number in numbers[: data.draw(st.integers(3, 10))]:
            deps = data.draw(st.sampled_from([[], [], [number - 1], [number - 2, number - 3]]))
            change = data.draw(
                st.sampled_from([{}, {}, {}, {"priority": 3}, {"resources": {"db": 1}}, {"runnable": False}])
            )
            for worker in ours[: data.draw(st.sampled_from([1, 2, 2]))]:
                self.add(number, deps, worker=worker, **{**alike, **change})

    @rule(
        number=NUMBERS,
        worker=WORKERS,
        status=st.sampled_from([PENDING] * 5 + [DONE, FAILED, DISABLED, UNKNOWN, SUSPENDED, RUNNING]),
        deps=st.none() | st.lists(NUMBERS, max_size=4),
        priority=PRIORITIES,
        resources=RESOURCES,
        runnable=st.booleans(),
        assistant=st.sampled_from([False, False, True]),
        batchable=st.sampled_from([None, True, False]),
        retry_policy_dict=st.sampled_from([None, None, {"retry_count": 1}, {"disable_hard_timeout": 4}]),
    )
    def add_task(self, **arguments: Any) -> None:
        self.add(**arguments)

    @rule(worker=WORKERS, names=BATCHED, size=st.sampled_from([2, 3, float("inf")]))
    def add_task_batcher(self, worker: str, names: list[str], size: float) -> None:
        self.send_batchers(worker, names, size)

    @rule(
        steps=st.lists(st.tuples(WORKERS, OUTCOMES), min_size=1, max_size=8),
        assistant=st.sampled_from([False] * 5 + [True]),
        dice=NUMBERS,
    )
    def work(self, steps: list[tuple[str, str | None]], assistant: bool, dice: int) -> None:
        """Let workers ask for work, and now and then report on a task that they run."""
        for worker, outcome in steps:
            current = [task for task, runner in self.running.items() if runner == worker]
            current_tasks = None if dice == 0 else current[1:] if dice == 1 else current
            self.get_work(worker, claims=dice < 9, assistant=assistant, current_tasks=current_tasks)
            if outcome and self.running:
                self.report(next(iter(self.running)), outcome, {}, assistant=assistant)

    @rule(number=NUMBERS, new_deps=st.lists(NUMBERS, min_size=1, max_size=2), resources=RESOURCES)
    def need_more(self, number: int, new_deps: list[int], resources: dict[str, int]) -> None:
        """Let a running task turn out to need others."""
        if _name(number) in self.running:
            self.report(_name(number), PENDING, resources, new_deps=_upstream(number, new_deps))

    @rule(seconds=st.sampled_from([0.25, 1, 1, 3, 3, 6, 9, 16]), alive=st.lists(WORKERS, unique=True))
    def wait(self, seconds: float, alive: list[str]) -> None:
        self.now += seconds
        for worker in alive:
            self.both("ping", worker=worker)

    @rule(worker=WORKERS)
    def pause(self, worker: str) -> None:
        self.both("pause")
        self.both("get_work", worker=worker)
        self.both("unpause")

    @rule(call=CALLS)
    def call(self, call: tuple[str, dict[str, Any]]) -> None:
        name, arguments = call
        self.both(name, **arguments)

    @rule()
    def restart(self) -> None:
        for scheduler in self.pair:
            scheduler.dump()
            scheduler.load()

    @invariant()
    def both_hold_the_same(self) -> None:
        if hasattr(self, "pair"):
            self.assert_alike()


TestSchedulerAnswersAsLuigis = SchedulerMachine.TestCase
TestSchedulerAnswersAsLuigis.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("seed", range(100))
def test_a_run_of_a_crowded_graph_goes_as_with_luigi(seed):
    """Workers share tasks, resources are short and batches form, so that nearly every call has several candidates."""
    chance = random.Random(seed)
    both = Pair()
    both.open({"db": chance.randint(1, 2), "cpu": 3}, prune_on_get_work=chance.random() < 0.7)
    kinds = [{}, {"resources": {"db": 1}}, {"resources": {"db": 1, "cpu": 1}}, {"resources": {"cpu": 2}}]
    kinds = chance.sample(kinds, chance.randint(1, 3))
    batching = chance.random() < 0.5
    try:
        for worker, count in zip(WORKER_IDS, chance.choice([(1, 3, 2), (1, 1, 1), (1, 0, 0)]), strict=True):
            both.both("add_worker", worker=worker, info={"workers": count})
            if batching and worker != "w2":
                both.send_batchers(worker, ["day"], chance.choice([2, 3, 1e9]))
        for number in chance.sample(range(32), 32):
            kind = {**chance.choice(kinds), "priority": chance.choice([0, 0, 0, 1, 2]), "batchable": batching}
            deps = chance.choice([[], [], [], [number - 1], [number - 2, number - 3]])
            for worker in chance.sample(WORKER_IDS, chance.randint(1, 3)):
                both.add(number, deps, worker=worker, runnable=chance.random() < 0.8, **kind)
            both.now += chance.choice([0, 0.1])
        for _ in range(120):
            worker = chance.choice(["w0", "w1", "w1", "w2"])
            current = [task for task, runner in both.running.items() if runner == worker]
            both.get_work(
                worker,
                claims=chance.random() < 0.95,
                assistant=worker == "w2" and seed % 3 == 0,
                current_tasks=current if chance.random() < 0.95 else current[1:],
            )
            if both.running and chance.random() < 0.4:
                task_id = chance.choice(sorted(both.running))
                both.report(
                    task_id, chance.choice([DONE, DONE, DONE, FAILED]), chance.choice(kinds).get("resources", {})
                )
            if batching and chance.random() < 0.1:
                both.send_batchers(worker, chance.choice([["day"], ["day", "place"]]), chance.choice([2, 3]))
            both.now += chance.choice([0, 0, 0, 0.1, 1, 4])
            both.assert_alike()
    finally:
        both.close()


def _lines_executed(size: int, kind: dict[str, Any]) -> int:
    """Give how many lines of Python the scheduler executes while a worker runs the first tasks of a graph."""
    scheduler = Scheduler(
        resources={"db": 1}, retry_delay=0.0, retry_count=3, prune_on_get_work="worker_of" not in kind
    )
    scheduler.add_worker(worker="w", info={"workers": 2})
    if "batchable" in kind:
        scheduler.add_task_batcher(worker="w", task_family="F", batched_args=["day"], max_batch_size=3)
    if "deps" in kind:
        scheduler.add_task(worker="w", task_id="root", status=kind["root"])
    for number in range(size):
        params = {"day": str(number), "place": str(number // 2)}
        arguments = {name: value for name, value in kind.items() if name not in ("root", "fails", "worker_of")}
        worker = kind["worker_of"](number) if "worker_of" in kind and number >= 40 else "w"
        scheduler.add_task(worker=worker, task_id=_name(number), family="F", params=params, **arguments)
    scheduler.count_pending(worker="w")
    lines = 0
    running: list[str] = []

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    for step in range(40):
        sys.settrace(trace)
        try:
            reply = scheduler.get_work(worker="w", current_tasks=running)
            if "batch_id" in reply:
                reply["task_id"] = "batch-" + reply["batch_id"]
                batch_id = reply["batch_id"]
                scheduler.add_task(worker="w", task_id=reply["task_id"], family="F", status=RUNNING, batch_id=batch_id)
            if reply["task_id"] is not None:
                running.append(reply["task_id"])
            if len(running) == 2 or (running and reply["task_id"] is None):
                status = FAILED if kind.get("fails") and step % 3 == 0 else DONE
                scheduler.add_task(worker="w", task_id=running.pop(0), family="F", status=status, expl="0")
        finally:
            sys.settrace(before)
    return lines


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"deps": ["root"], "root": DONE},
        {"deps": ["root"], "root": DISABLED},
        {"resources": {"db": 1}},
        {"resources": {"unheard_of": 1}},
        {"fails": True},
        {"batchable": True},
        {"batchable": True, "resources": {"db": 1}},
    ],
    ids=[
        "independent",
        "below-done",
        "below-disabled",
        "one-at-a-time",
        "short-of-all",
        "failing",
        "batches",
        "batches-short",
    ],
)
def test_a_call_costs_no_more_in_a_larger_graph(kind):
    small, large = _lines_executed(100, kind), _lines_executed(2_000, kind)

    assert large < 1.2 * small


def test_a_call_costs_no_more_among_many_workers_with_tasks_of_their_own():
    lines = [_lines_executed(size, {"worker_of": "w{}".format}) for size in (100, 2_000)]

    assert lines[1] < 1.2 * lines[0]


def test_priority_climbs_a_chain_that_is_too_deep_for_recursion():
    scheduler = Scheduler()
    for number in range(10_000):
        scheduler.add_task(worker="w", task_id=_name(number), deps=[_name(number - 1)] if number else [])

    scheduler.add_task(worker="w", task_id="last", deps=[_name(9_999)], priority=7)

    assert scheduler.get_work(worker="w")["task_id"] == "t0"
    assert {task.priority for task in scheduler._state.get_active_tasks()} == {7}


def test_priority_climbs_layers_once_and_not_along_every_path():
    scheduler = Scheduler()
    for number in range(2_000):
        above = number - number % 2
        deps = [_name(above - 1), _name(above - 2)] if above else []
        scheduler.add_task(worker="w", task_id=_name(number), deps=deps)

    scheduler.add_task(worker="w", task_id="last", deps=[_name(1_999)], priority=7)

    assert scheduler._state.get_task("t0").priority == 7


def test_every_call_of_luigis_scheduler_takes_the_same_arguments():
    for name in luigi.scheduler.RPC_METHODS:
        theirs = inspect.signature(getattr(luigi.scheduler.Scheduler, name))
        ours = inspect.signature(getattr(Scheduler, name))

        assert list(ours.parameters) == list(theirs.parameters)


@pytest.mark.parametrize("resources", [{}, {"db": 1}], ids=["free", "short"])
def test_a_batch_is_filled_past_tasks_that_do_not_belong_in_it(resources):
    """One place is worker w0's, and two of a kind go into a batch; between those stand other places and workers."""
    both = Pair()
    both.open({"db": 9})
    try:
        both.send_batchers("w0", ["day"], 2)
        both.send_batchers("w1", ["day", "place"], 2)
        for number, workers in [(0, ["w0"]), (2, ["w1"]), (1, ["w0"]), (3, ["w0", "w1"]), (4, ["w1"]), (6, ["w0"])]:
            both.now += 1
            for worker in workers:
                both.add(number, [], worker=worker, batchable=True, resources=resources)

        for _ in range(4):
            both.get_work("w0", current_tasks=list(both.running))
            both.assert_alike()
    finally:
        both.close()
