"""Targets without a path: values and effects, alone, in one process, in forked ones, and on every pool."""

import gc
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import luigi
import pytest
import short_lived_tasks as tasks
from engines import RETRIED, Engine, all_engines, engines
from executor_tasks import notes, wait_for

from superluigi import (
    External,
    MemoryTarget,
    MemoryTargetError,
    MissingOutputError,
    NoTarget,
    TargetNotFoundError,
    TaskFailedError,
    TaskTypeError,
    run_task,
)

HERE = ("none", "threads", "async")


def ran(folder: str) -> list[str]:
    return sorted(notes(Path(folder), "ran"))


# Alone


def test_a_value_that_was_set_can_be_got_and_deleted_and_set_again() -> None:
    target = MemoryTarget()

    assert not target.exists()
    target.set(None)
    assert target.exists()
    assert target.get() is None
    target.delete()
    target.remove()
    assert not target.exists()
    target.set(2)
    assert target.get() == 2


def test_setting_twice_is_an_error_and_the_first_value_stays() -> None:
    target = MemoryTarget()
    target.set(1)

    with pytest.raises(MemoryTargetError, match=r"holds a value already.*call delete\(\) before"):
        target.set(2)
    assert target.get() == 1


def test_getting_before_setting_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(TargetNotFoundError, match=r"holds no value.*Run the task"):
        MemoryTarget().get()


def test_two_targets_without_a_name_have_nothing_in_common_and_two_of_one_name_all() -> None:
    MemoryTarget("alone").set(1)
    other = MemoryTarget()
    other.set(2)

    assert MemoryTarget("alone").get() == 1
    assert not MemoryTarget().exists()
    MemoryTarget("alone").delete()
    assert not MemoryTarget("alone").exists()


def test_a_target_pickles_without_its_value() -> None:
    target = MemoryTarget("pickled")
    target.set(threading.Lock())

    assert pickle.loads(pickle.dumps(target)).get() is target.get()
    target.delete()


def test_no_target_never_exists_and_cannot_be_removed() -> None:
    NoTarget().remove()

    assert not NoTarget().exists()


def test_a_target_says_whose_it_is_without_the_parameters(tmp_path: Path) -> None:
    target = tasks.Summed(folder=str(tmp_path)).output()["sum"]

    assert str(target) == "MemoryTarget of Summed.output()['sum']"
    assert str(tmp_path) not in repr(target)


# On every engine


@all_engines
def test_values_go_from_task_to_task_and_come_back_where_they_were_asked_for(engine: Engine, tmp_path: Path) -> None:
    folder = str(tmp_path)

    path = engine.run(tasks.Written(folder=folder))
    assert path.read_text() == "13 13"
    assert ran(folder) == ["Numbers3", "Numbers5", "Summed", "Written"]
    back = engine.run(tasks.Summed(folder=folder))
    assert back["sum"].get() == 13
    assert tasks.Summed(folder=folder).output()["sum"].get() == 13


@all_engines
def test_a_value_ends_with_its_run_so_that_the_next_makes_it_again(engine: Engine, tmp_path: Path) -> None:
    folder = str(tmp_path)
    engine.run(tasks.Written(folder=folder))
    (tmp_path / "written.txt").unlink()

    engine.run(tasks.Written(folder=folder))

    assert ran(folder) == ["Numbers3", "Numbers3", "Numbers5", "Numbers5", "Summed", "Summed", "Written", "Written"]
    assert not tasks.Numbers(folder=folder).complete()


@all_engines
def test_values_come_through_groups_and_by_yielding(engine: Engine, tmp_path: Path) -> None:
    folder = str(tmp_path)

    group, yielded = engine.run([tasks.OfAGroup(folder=folder), tasks.Yielding(folder=folder)])

    assert group.read_text() == "[[0, 1], [0, 1, 2, 3]]"
    assert yielded.read_text() == "[0, 1, 2, 3]"


@all_engines
def test_what_a_run_sets_counts_only_when_it_ends_well(engine: Engine, tmp_path: Path) -> None:
    folder = str(tmp_path)

    path = engine.run(tasks.AfterAFailure(folder=folder), config=RETRIED)

    assert path.read_text() == "2"


@all_engines
def test_tasks_without_private_paths_and_plain_tasks_set_and_get_values(engine: Engine, tmp_path: Path) -> None:
    assert engine.run(tasks.PlainReader(folder=str(tmp_path))).read_text() == "3 as well"


@all_engines
def test_a_task_without_output_runs_once_in_every_run_and_data_made_elsewhere_are_read(
    engine: Engine, tmp_path: Path
) -> None:
    folder = str(tmp_path)
    raw = tmp_path / "raw.txt"
    raw.write_text("raw")

    path = engine.run([tasks.AfterTheEffect(folder=folder), tasks.Effect(folder=folder)])[0]
    assert path.read_text() == "raw"
    assert ran(folder) == ["AfterTheEffect", "Effect3", "Numbers3"]
    target = engine.run(tasks.Effect(folder=folder))
    assert ran(folder) == ["AfterTheEffect", "Effect3", "Effect3", "Numbers3", "Numbers3"]
    assert not target.exists()
    assert not tasks.Effect(folder=folder).complete()
    assert engine.run(External(str(raw))) == raw


@all_engines
def test_a_value_that_is_not_set_is_an_error_that_names_the_task(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(TaskFailedError, match=r"finished without leaving MemoryTarget of Silent\.output\(\)") as caught:
        engine.run(tasks.Silent(folder=str(tmp_path)))

    assert isinstance(caught.value.__cause__, MissingOutputError)


@all_engines
@pytest.mark.parametrize(
    ("task_cls", "whose"), [(tasks.SetTwice, "SetTwice"), (tasks.SetsItsInput, "Numbers")], ids=["own", "input"]
)
def test_setting_twice_and_setting_an_input_fail_the_task(
    engine: Engine, tmp_path: Path, task_cls: Any, whose: str
) -> None:
    with pytest.raises(TaskFailedError, match=rf"{whose}\.output\(\) holds a value already"):
        engine.run(task_cls(folder=str(tmp_path)))


@all_engines
def test_a_value_that_cannot_leave_its_process_is_an_error_before_anything_is_published(
    engine: Engine, tmp_path: Path
) -> None:
    task = tasks.Locked(folder=str(tmp_path))

    if engine.name in HERE:
        value = engine.run(task)[0].get()
        assert value.acquire(blocking=False)
    elif engine.name == "dask":  # where it stays in the process that made it
        assert engine.run(task)[1].read_text() == "beside"
    else:
        with pytest.raises(
            TaskFailedError, match=r"value of Locked\.output\(\)\[0\], a lock, cannot leave .*ThreadPoolExecutor"
        ):
            engine.run(task)
        assert not (tmp_path / "beside.txt").exists()


@all_engines
def test_threads_that_a_run_starts_find_its_values(engine: Engine, tmp_path: Path) -> None:
    assert engine.run(tasks.InThreads(folder=str(tmp_path))).get() == 3


@all_engines
def test_a_run_within_a_run_has_values_of_its_own(engine: Engine, tmp_path: Path) -> None:
    folder = str(tmp_path)

    path = engine.run(tasks.Inner(folder=folder))

    assert path.read_text() == "[0, 1, 2] [0, 1, 2] [0, 1, 2, 3]"
    assert ran(folder) == ["Numbers3", "Numbers3", "Numbers4"]


@engines("dask")
def test_on_dask_a_value_goes_from_worker_to_worker_and_not_through_the_client(engine: Engine, tmp_path: Path) -> None:
    folder = str(tmp_path)

    engine.run([tasks.Arriving(folder=folder, number=number) for number in range(4)])

    assert str(os.getpid()) not in [*notes(tmp_path, "packed"), *notes(tmp_path, "unpacked")]
    assert len(notes(tmp_path, "made-in")) == 1


@engines("dask")
def test_a_value_on_dask_is_fetched_when_it_is_asked_for(engine: Engine, tmp_path: Path) -> None:
    target = engine.run(tasks.Departing(folder=str(tmp_path)))

    assert notes(tmp_path, "unpacked") == []
    assert type(target.get()).__name__ == "Travelling"
    assert notes(tmp_path, "unpacked") == [str(os.getpid())]


@engines("dask")
def test_a_value_on_a_cluster_that_is_named_by_its_address_outlives_the_connection(
    engine: Engine, tmp_path: Path
) -> None:
    address = engine.options["executor"].scheduler.address

    assert run_task(tasks.Numbers(folder=str(tmp_path)), executor=address).get() == [0, 1, 2]


@engines("dask")
def test_dask_is_told_how_large_a_value_is(engine: Engine, tmp_path: Path) -> None:
    target = engine.run(tasks.Numbers(folder=str(tmp_path), upto=100_000))
    client = engine.options["executor"]

    def held() -> list[int]:
        gc.collect()  # errors of earlier tests hold on to the frames of their runs
        return [size for key, size in client.run_on_scheduler(_sizes).items() if "run_and_keep" in key]

    wait_for(lambda: len(held()) == 1)  # those of earlier runs are gone
    assert held()[0] > 800_000
    assert len(target.get()) == 100_000


def _sizes(dask_scheduler: Any) -> dict[str, int]:
    return {str(key): state.nbytes for key, state in dask_scheduler.tasks.items()}


@engines("none", "forked", "fork", "loky")
def test_a_value_is_unpacked_once_in_a_process_and_only_where_it_is_asked_for(engine: Engine, tmp_path: Path) -> None:
    engine.run([tasks.Arriving(folder=str(tmp_path), number=number) for number in range(2)])

    assert str(os.getpid()) not in notes(tmp_path, "unpacked")
    assert len(notes(tmp_path, "packed")) == (0 if engine.name == "none" else 1)


# Elsewhere


@pytest.mark.parametrize("kind", ["memory", "none"])
def test_a_plain_task_cannot_own_a_target_without_a_name(kind: str) -> None:
    with pytest.raises(TaskFailedError, match=r"is a plain luigi\.Task.*Derive it from superluigi\.Task") as caught:
        run_task(tasks.UnnamedPlain(kind=kind))

    assert isinstance(caught.value.__cause__, TaskTypeError)


def test_luigi_build_holds_values_in_its_process(tmp_path: Path) -> None:
    folder = str(tmp_path)

    assert luigi.build([tasks.Written(folder=folder)], local_scheduler=True, log_level="ERROR")

    assert (tmp_path / "written.txt").read_text() == "13 13"
    for task in (tasks.Numbers(folder=folder), tasks.Numbers(folder=folder, upto=5)):
        task.output().delete()
    tasks.Summed(folder=folder).output()["sum"].delete()


def test_luigis_own_forked_workers_would_lose_a_value_which_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    is_done = luigi.build([tasks.Written(folder=str(tmp_path))], local_scheduler=True, workers=2, log_level="ERROR")

    assert not is_done
    assert not (tmp_path / "written.txt").exists()


def test_a_task_that_is_run_by_hand_may_be_run_again(tmp_path: Path) -> None:
    task = tasks.Numbers(folder=str(tmp_path))

    task.run()
    task.run()

    assert task.output().get() == [0, 1, 2]
    task.output().delete()


def test_a_target_of_the_task_itself_is_not_that_of_another_with_the_same_name_elsewhere(tmp_path: Path) -> None:
    class Numbers(tasks.Numbers):
        pass

    outer, inner = run_task([tasks.Numbers(folder=str(tmp_path)), Numbers(folder=str(tmp_path), upto=1)])

    assert (outer.get(), inner.get()) == ([0, 1, 2], [0])


def test_output_that_is_a_generator_or_a_set_of_targets_is_still_bound(tmp_path: Path) -> None:
    class Generating(tasks.InFolder):
        def output(self) -> Any:
            return (MemoryTarget() for _ in range(2))

        def run(self, output_path: Any) -> None:
            for number, target in enumerate(output_path):
                target.set(number)

    first, second = run_task(Generating(folder=str(tmp_path)))

    assert (first.get(), second.get()) == (0, 1)


def test_outputs_in_iterators_at_any_level_are_all_made(tmp_path: Path) -> None:
    run_task(tasks.OfIterators(folder=str(tmp_path)))

    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["a.txt", "b.txt", "c.txt"]


def test_a_class_that_adds_a_value_to_those_of_its_base_has_both(tmp_path: Path) -> None:
    assert [target.get() for target in run_task(tasks.Extended(folder=str(tmp_path)))] == [0, 1]


def test_two_values_in_a_set_are_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(TaskFailedError, match=r"several targets without a path in one set.*Give a list or a dict"):
        run_task(tasks.SetOfTwo(folder=str(tmp_path)))


def test_an_output_may_take_arguments_that_have_a_default(tmp_path: Path) -> None:
    class Suffixed(tasks.InFolder):
        def output(self, suffix: str = "txt") -> Any:
            return self.file(f"suffixed.{suffix}")

        def run(self, output_path: Path) -> None:
            output_path.write_text(self.output(suffix="csv").path.suffix)

    assert run_task(Suffixed(folder=str(tmp_path))).read_text() == ".csv"


def test_an_output_that_is_a_static_method_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.StaticallyPlaced, "place", str(tmp_path / "static.txt"))

    assert run_task(tasks.StaticallyPlaced(folder=str(tmp_path))).read_text() == "static"


def test_a_long_chain_of_values_does_not_carry_all_its_ancestors_along(tmp_path: Path) -> None:
    class Last(tasks.InFolder):
        def requires(self) -> Any:
            return tasks.Link(folder=self.folder, number=150)

        def output(self) -> Any:
            return self.file("last.txt")

        def run(self, input_path: Any, output_path: Path) -> None:
            output_path.write_text(str(input_path.get()))

    assert run_task(Last(folder=str(tmp_path))).read_text() == "150"

    told = Last(folder=str(tmp_path)).output().read_metadata()["in_memory"]
    assert len(told) == 100
    assert tasks.Link(folder=str(tmp_path), number=150).task_id in told
    assert ran(str(tmp_path)).count("Link gone 7") == 1
