"""The ways to run tasks, for tests that hold on each: in this process, in forked ones, and on every kind of pool.

Pools are made once per module, as users keep theirs, so that each also serves many runs one after the other. Its
fixtures are there for every test.
"""

import contextlib
import functools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from superluigi import run_task
from superluigi.running import mailbox

# Luigi looks for work again without its pause of a second, so that retries show at once.
QUICK = {"worker": {"wait_interval": 0.05, "wait_jitter": 0}}
RETRIED = {"worker": QUICK["worker"], "scheduler": {"retry_delay": 0}}


@dataclass(frozen=True)
class Engine:
    """A way to run tasks, and what is true of it."""

    name: str
    options: dict[str, Any]

    @property
    def is_elsewhere(self) -> bool:
        """Whether tasks run in processes of a pool."""
        return self.name in ELSEWHERE

    def run(self, task: Any, **options: Any) -> Any:
        return run_task(task, **{"config": QUICK, **self.options, **options})


HERE = ("threads", "async")
ELSEWHERE = ("fork", "spawn", "forkserver", "loky", "dask")
POOLS = (*HERE, *ELSEWHERE)


def processes(method: str, size: int = 2, *, is_far: bool = False) -> ProcessPoolExecutor:
    begin = _be_on_another_machine if is_far else None
    return ProcessPoolExecutor(size, mp_context=multiprocessing.get_context(method), initializer=begin)


def _be_on_another_machine() -> None:
    """Let this process be as one that its caller has not started, and that has no way to tell it anything meanwhile."""
    multiprocessing.parent_process = lambda: None
    mailbox._HERE = "127.0.0.2"  # nobody listens there


def of_loky(size: int = 2) -> Any:
    from loky import ProcessPoolExecutor as LokyExecutor

    return LokyExecutor(size)


@contextlib.contextmanager
def a_dask_client(size: int = 2, *, allowed_failures: int = 0) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    # With none allowed, what a worker ran that dies is not tried again behind the back of the run.
    allowed = {"distributed.scheduler.allowed-failures": allowed_failures}
    with (
        dask.config.set({**allowed, "distributed.logging.distributed": "critical"}),
        LocalCluster(n_workers=size, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def a_pool(name: str) -> contextlib.AbstractContextManager[Any]:
    """Make a pool of two, of a kind; it ends with the block."""
    if name == "dask":
        return a_dask_client()
    if name == "threads":
        return ThreadPoolExecutor(2, "pool-of-threads")  # a name of its own: tests look for threads that calls leave
    return of_loky() if name == "loky" else processes(name)


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[str], Any]]:
    """Give the pool of a kind that the module shares."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda name: stack.enter_context(a_pool(name)))


@pytest.fixture
def engine(request: pytest.FixtureRequest, pools: Callable[[str], Any]) -> Engine:
    name = request.param
    if name in {"none", "forked"}:
        return Engine(name, {} if name == "none" else {"num_workers": 2})
    return Engine(name, {"executor": "async" if name == "async" else pools(name)})


def engines(*names: str) -> Any:
    return pytest.mark.parametrize("engine", names, indirect=True)


all_engines = engines("none", "forked", *POOLS)
all_pools = engines(*POOLS)
