"""The wrapper around run(): what it hands over, how runs are called, and what is published when."""

import asyncio
import functools
import os
import shutil
from pathlib import Path

import luigi
import luigi.mock
import pytest
from example_tasks import Letter, both_ways, leftovers, mirrored, with_luigi_build, with_run_task

from superluigi import (
    AtomicTaskWithMetadata,
    IntParameter,
    LocalFileTarget,
    LocalFolderTarget,
    MetadataError,
    MissingOutputError,
    Parameter,
    RunSignatureError,
    S3ObjectTarget,
    S3PrefixTarget,
    TargetNotFoundError,
    TargetShapeError,
    Task,
    TaskFailedError,
    TaskWithMetadata,
    run_task,
)
from superluigi.storage import files


class Base(AtomicTaskWithMetadata):
    """Promises `out.txt` in its folder; a test gives the rest."""

    folder = Parameter()

    def output(self):
        return LocalFileTarget(Path(self.folder, "out.txt"))


def result_of(task_cls, folder, run=with_run_task):
    task = task_cls(folder=str(folder))
    run(task)
    assert leftovers(folder) == []
    return Path(folder, "out.txt").read_text()


# What run declares


def takes_nothing(self):
    self.output().path.write_text("")


def takes_output(self, output_path):
    output_path.write_text("output_path")


def takes_metadata(self, metadata):
    metadata["seen"] = True
    self.output().path.write_text("metadata")


def takes_all(self, input_path, output_path, metadata):
    output_path.write_text(f"input_path={input_path} output_path metadata={metadata}")


def takes_them_in_another_order(self, metadata, output_path):
    output_path.write_text(f"metadata={metadata} output_path")


def takes_keywords(self, **kwargs):
    kwargs["output_path"].write_text(" ".join(kwargs))


def takes_one_and_keywords(self, output_path, **kwargs):
    output_path.write_text(" ".join(kwargs))


def takes_anything(self, *args, **kwargs):
    kwargs["output_path"].write_text(f"{args} {' '.join(kwargs)}")


def takes_positions(self, *args):
    self.output().path.write_text(repr(args))


def takes_more_with_a_default(self, output_path, suffix="default"):
    output_path.write_text(suffix)


def takes_keyword_only(self, *, output_path, retries=3):
    output_path.write_text(str(retries))


DECLARED = {
    "output_path": (takes_output, "output_path"),
    "all": (takes_all, "input_path=[] output_path metadata={}"),
    "another order": (takes_them_in_another_order, "metadata={} output_path"),
    "**kwargs": (takes_keywords, "input_path output_path metadata"),
    "output_path, **kwargs": (takes_one_and_keywords, "input_path metadata"),
    "*args, **kwargs": (takes_anything, "() input_path output_path metadata"),
    "a default of its own": (takes_more_with_a_default, "default"),
    "keyword-only": (takes_keyword_only, "3"),
}


@both_ways
@pytest.mark.parametrize(("function", "expected"), DECLARED.values(), ids=DECLARED)
def test_run_is_handed_what_it_declares(function, expected, run, tmp_path):
    class Declares(Base):
        pass

    Declares.run = function

    assert result_of(Declares, tmp_path, run) == expected


@pytest.mark.parametrize("function", [takes_nothing, takes_metadata, takes_positions])
def test_a_run_that_does_not_declare_its_output_path_is_told_so(function, tmp_path):
    class Ignores(Base):
        pass

    Ignores.run = function

    with pytest.raises(MissingOutputError, match="run does not declare output_path") as caught:
        run_task(Ignores(folder=str(tmp_path)), raise_exception=True)

    assert str(tmp_path / "out.txt") in str(caught.value)
    assert "derive from TaskWithMetadata" in str(caught.value)
    assert leftovers(tmp_path) == []


def test_the_users_own_error_comes_before_a_missing_output_path(tmp_path):
    class Broken(Base):
        def run(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_task(Broken(folder=str(tmp_path)), raise_exception=True)


OFFERS = {
    "Task": (Task, takes_output, "'output_path'", "no argument but self"),
    "TaskWithMetadata": (TaskWithMetadata, takes_output, "'output_path'", "metadata"),
    "a misspelling": (AtomicTaskWithMetadata, lambda self, outputpath: None, "'outputpath'", "input_path, output_path"),
    "several": (AtomicTaskWithMetadata, lambda self, x, y, *, z: None, "'x', 'y', 'z'", "input_path, output_path"),
}


@pytest.mark.parametrize(("base", "function", "unknown", "offered"), OFFERS.values(), ids=OFFERS)
def test_an_argument_that_is_not_offered_is_named_with_those_that_are(base, function, unknown, offered, tmp_path):
    class Wrong(base):
        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

    Wrong.run = function

    with pytest.raises(RunSignatureError) as caught:
        run_task(Wrong(), raise_exception=True)
    assert f"Wrong.run declares {unknown}" in str(caught.value)
    assert offered in str(caught.value)
    assert leftovers(tmp_path) == []


def logged(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def logged_without_wraps(function):
    def inner(self, *args, **kwargs):
        return function(self, *args, **kwargs)

    return inner


def given_a_suffix(function):
    @functools.wraps(function)
    def inner(self, **kwargs):
        return function(self, suffix="injected", **kwargs)

    return inner


def named_in_full(function):
    @functools.wraps(function)
    def inner(self, output_path):
        return function(self, output_path=output_path, suffix="in full")

    return inner


def takes_a_suffix(self, output_path, suffix):
    output_path.write_text(suffix)


DECORATED = {
    "functools.wraps": (logged, takes_output, "output_path"),
    "functools.wraps twice": (lambda function: logged(logged(function)), takes_output, "output_path"),
    "functools.wraps around **kwargs": (logged, takes_keywords, "input_path output_path metadata"),
    "without functools.wraps": (logged_without_wraps, takes_all, "input_path=[] output_path metadata={}"),
    "one that gives an argument": (given_a_suffix, takes_a_suffix, "injected"),
    "one that names its arguments": (named_in_full, takes_a_suffix, "in full"),
}


@both_ways
@pytest.mark.parametrize(("decorator", "function", "expected"), DECORATED.values(), ids=DECORATED)
def test_a_decorated_run_is_handed_what_is_declared_below_the_decorator(decorator, function, expected, run, tmp_path):
    class Decorated(Base):
        run = decorator(function)

    assert result_of(Decorated, tmp_path, run) == expected


@pytest.mark.parametrize("decorator", [logged, logged_without_wraps], ids=["with functools.wraps", "without"])
def test_a_decorator_around_the_run_of_another_task_class_runs_once(decorator, tmp_path):
    class First(Base):
        def run(self, input_path, output_path, metadata):
            with open(Path(self.folder, "runs"), "a") as stream:
                stream.write("once")
            output_path.write_text("first")

    class Second(Base):
        run = decorator(First.run)

    assert result_of(Second, tmp_path) == "first"
    assert (tmp_path / "runs").read_text() == "once"


def test_a_decorator_that_names_arguments_may_stand_around_the_run_of_another_task_class(tmp_path):
    class First(Base):
        def run(self, output_path):
            output_path.write_text("first")

    def in_capitals(function):
        @functools.wraps(function)
        def inner(self, output_path):
            function(self, output_path)
            output_path.write_text(output_path.read_text().upper())

        return inner

    class Second(Base):
        run = in_capitals(First.run)

    assert result_of(Second, tmp_path) == "FIRST"


# Where run comes from


@both_ways
def test_a_subclass_that_inherits_run_is_wrapped_once(run, tmp_path):
    class First(Base):
        def run(self, output_path):
            with open(Path(self.folder, "runs"), "a") as stream:
                stream.write("once")
            output_path.write_text("inherited")

    class Second(First):
        pass

    class Third(Second):
        pass

    assert Third.run is First.run
    assert result_of(Third, tmp_path, run) == "inherited"
    assert (tmp_path / "runs").read_text() == "once"


class WritesText:
    """A mixin that is no task."""

    def run(self, output_path):
        output_path.write_text("mixed in")


@both_ways
def test_a_run_may_come_from_a_mixin_that_is_no_task(run, tmp_path):
    class Mixed(WritesText, Base):
        pass

    assert result_of(Mixed, tmp_path, run) == "mixed in"
    assert WritesText.run is not Mixed.run
    assert not hasattr(WritesText.run, "__wrapped__")


@both_ways
def test_super_run_may_be_called_with_arguments_over_several_levels(run, tmp_path):
    class First(Base):
        def run(self, output_path, metadata):
            metadata["first"] = 1
            output_path.write_text("1")

    class Second(First):
        def run(self, output_path, metadata):
            super().run(output_path, metadata)
            output_path.write_text(output_path.read_text() + "2")

    class Third(Second):
        def run(self, output_path, metadata):
            super().run(output_path=output_path, metadata=metadata)
            output_path.write_text(output_path.read_text() + "3")

    assert result_of(Third, tmp_path, run) == "123"
    assert Third(folder=str(tmp_path)).output().read_metadata()["first"] == 1


@both_ways
def test_super_run_may_be_called_without_arguments_over_several_levels(run, tmp_path):
    class First(Base):
        def run(self):
            self.steps = ["1"]

    class Second(First):
        def run(self):
            super().run()
            self.steps.append("2")

    class Third(Second):
        def run(self, output_path):
            super().run()
            output_path.write_text("".join(self.steps))

    assert result_of(Third, tmp_path, run) == "12"


@both_ways
def test_super_run_reaches_a_mixin_and_luigis_own_run(run, tmp_path):
    class Second(WritesText, Base):
        def run(self, output_path):
            super().run(output_path)
            Base.run(self)
            luigi.Task.run(self)

    assert result_of(Second, tmp_path, run) == "mixed in"


def test_super_run_that_lacks_an_argument_is_an_error_of_python(tmp_path):
    class Second(Letter):
        def run(self, output_path):
            super().run()

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'output_path'"):
        run_task(Second(folder=str(tmp_path)), raise_exception=True)


@both_ways
def test_super_run_may_be_a_generator(run, tmp_path):
    class First(Base):
        def run(self, output_path):
            path = yield Letter(folder=self.folder)
            output_path.write_text(path.read_text())
            return "returned"

    class Second(First):
        def run(self, output_path, metadata):
            metadata["returned"] = yield from super().run(output_path)

    run(Second(folder=str(tmp_path)))

    assert (tmp_path / "out.txt").read_text() == "a"
    assert Second(folder=str(tmp_path)).output().read_metadata()["returned"] == "returned"


@both_ways
def test_a_run_that_is_assigned_later_is_wrapped(run, tmp_path):
    class Late(Base):
        pass

    Late.run = takes_output

    assert Late.run is not takes_output
    assert result_of(Late, tmp_path, run) == "output_path"


@both_ways
def test_a_task_may_run_another_inside_its_run(run, tmp_path):
    class Outer(Base):
        def run(self, output_path):
            Letter(folder=self.folder).run()
            output_path.write_text(Letter(folder=self.folder).output().path.read_text())

    assert result_of(Outer, tmp_path, run) == "a"


# Called by hand, for unit tests


def test_run_may_be_called_with_explicit_paths(tmp_path):
    class Sum(AtomicTaskWithMetadata):
        def requires(self):
            raise AssertionError

        def output(self):
            raise AssertionError

        def run(self, input_path, output_path, metadata):
            metadata["count"] = len(input_path)
            output_path.write_text("".join(path.read_text() for path in input_path))

    (tmp_path / "a").write_text("A")
    metadata = {}

    Sum().run([tmp_path / "a"], output_path=tmp_path / "sum", metadata=metadata)

    assert (tmp_path / "sum").read_text() == "A"
    assert metadata == {"count": 1}


def test_super_run_without_arguments_is_a_plain_call_when_run_is_called_with_explicit_paths(tmp_path):
    class First(Base):
        def run(self):
            self.greeting = "hello"

    class Second(First):
        def run(self, output_path):
            super().run()
            output_path.write_text(self.greeting)

    Second(folder=str(tmp_path)).run(output_path=tmp_path / "elsewhere")

    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_generator_and_a_coroutine_may_be_called_with_explicit_paths(tmp_path):
    class Yields(Base):
        def run(self, output_path):
            path = yield Letter(folder=self.folder)
            output_path.write_text(path)

    class Awaits(Base):
        async def run(self, output_path):
            output_path.write_text("awaited")

    generator = Yields(folder=str(tmp_path)).run(output_path=tmp_path / "yielded")
    assert next(generator) == Letter(folder=str(tmp_path))
    with pytest.raises(StopIteration):
        generator.send("sent")
    asyncio.run(Awaits(folder=str(tmp_path)).run(output_path=tmp_path / "awaited"))

    assert (tmp_path / "yielded").read_text() == "sent"
    assert (tmp_path / "awaited").read_text() == "awaited"


def test_run_without_arguments_runs_and_publishes(tmp_path):
    task = Letter(folder=str(tmp_path))

    assert task.run() is None
    assert task.complete()
    assert task.output().read_metadata()["task_id"] == task.task_id


# Generators


YIELDED = {
    "one task": (lambda letter: letter("a"), "a"),
    "a list": (lambda letter: [letter("a"), letter("b")], ["a", "b"]),
    "a tuple": (lambda letter: (letter("a"), letter("b")), ("a", "b")),
    "a dict": (lambda letter: {"x": letter("a"), "y": [letter("b")]}, {"x": "a", "y": ["b"]}),
    "an empty list": (lambda letter: [], []),
    "a generator": (lambda letter: (letter(name) for name in "ab"), ["a", "b"]),
    "DynamicRequirements": (lambda letter: luigi.DynamicRequirements({"x": letter("a")}), {"x": "a"}),
}


WITH_WORKERS = {
    **{f"{name}, 1 worker": (*shape, 1) for name, shape in YIELDED.items()},
    "a dict, 4 workers": (*YIELDED["a dict"], 4),
}


@pytest.mark.parametrize("are_complete", [False, True], ids=["missing", "complete"])
@both_ways
@pytest.mark.parametrize("yielded", WITH_WORKERS.values(), ids=WITH_WORKERS)
def test_a_generator_is_sent_private_paths_in_the_nesting_that_it_yielded(yielded, run, are_complete, tmp_path):
    make, expected, num_workers = yielded

    class Dynamic(Base):
        def run(self, output_path):
            paths = yield make(lambda letter: Letter(folder=self.folder, letter=letter))
            output_path.write_text(repr(mirrored(Path.read_text, paths)))
            mirrored(Path.unlink, paths)

    if are_complete:
        for letter in "ab":
            Letter(folder=str(tmp_path), letter=letter).run()

    task = Dynamic(folder=str(tmp_path))
    run(task, num_workers=num_workers)

    assert (tmp_path / "out.txt").read_text() == repr(expected)
    assert task.output().read_metadata()["task_family"] == "Dynamic"
    assert all(path.read_text() == path.stem for path in tmp_path.glob("?.txt"))
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("num_workers", [1, 4], ids=["1 worker", "4 workers"])
@both_ways
def test_a_generator_may_yield_twice_in_a_row_and_what_it_yields_may_depend_on_what_it_read(run, num_workers, tmp_path):
    class Twice(Base):
        def run(self, output_path, metadata):
            first = yield Letter(folder=self.folder, letter="b")
            second = yield [Letter(folder=self.folder, letter=letter) for letter in first.read_text() + "c"]
            output_path.write_text(first.read_text() + "".join(path.read_text() for path in second))

    run(Twice(folder=str(tmp_path)), num_workers=num_workers)

    record = Twice(folder=str(tmp_path)).output().read_metadata()
    assert (tmp_path / "out.txt").read_text() == "bbc"
    first, second = record["dynamic_input"]
    assert first["task_id"] == Letter(folder=str(tmp_path), letter="b").task_id
    assert [described["path"] for described in second] == [str(tmp_path / "b.txt"), str(tmp_path / "c.txt")]
    assert leftovers(tmp_path) == []


def test_the_custom_complete_of_dynamic_requirements_is_asked(tmp_path):
    asked = []

    def never_again(complete_fn):
        asked.append(complete_fn)
        return len(asked) > 1

    class Dynamic(Base):
        def run(self, output_path):
            path = yield luigi.DynamicRequirements(Letter(folder=self.folder), never_again)
            output_path.write_text(path.read_text())

    assert result_of(Dynamic, tmp_path) == "a"
    assert len(asked) == 2


def test_a_generator_that_is_closed_publishes_nothing(tmp_path):
    class Dynamic(Base):
        def run(self, output_path):
            output_path.write_text("too early")
            try:
                yield Letter(folder=self.folder)
            finally:
                Path(self.folder, "closed").touch()

    (tmp_path / "out.txt").write_text("old")
    execution = Dynamic(folder=str(tmp_path)).run()
    next(execution)
    execution.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "out.txt"]
    assert (tmp_path / "out.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_generator_that_nobody_begins_leaves_nothing(tmp_path):
    class Dynamic(Base):
        def run(self, output_path):
            yield Letter(folder=self.folder)

    Dynamic(folder=str(tmp_path)).run()

    assert leftovers(tmp_path) == []


def test_a_generator_that_fails_after_a_yield_publishes_nothing(tmp_path):
    class Dynamic(Base):
        def run(self, output_path):
            path = yield Letter(folder=self.folder)
            output_path.write_text("half")
            raise ValueError(path.read_text())

    with pytest.raises(ValueError, match="a"):
        run_task(Dynamic(folder=str(tmp_path)), raise_exception=True)

    assert not (tmp_path / "out.txt").exists()
    assert leftovers(tmp_path) == []


def test_a_yielded_task_that_cannot_be_asked_leaves_nothing_behind(tmp_path):
    class Broken(Letter):
        def complete(self):
            raise ValueError

    class Dynamic(Base):
        def run(self, output_path):
            yield Broken(folder=self.folder)

    with pytest.raises(TaskFailedError) as caught:
        run_task(Dynamic(folder=str(tmp_path)))

    assert isinstance(caught.value.__cause__, ValueError)
    assert leftovers(tmp_path) == []


@both_ways
def test_a_plain_task_of_ours_is_sent_targets_as_luigi_does(run, tmp_path):
    class Dynamic(Task):
        def output(self):
            return luigi.LocalTarget(str(tmp_path / "out.txt"))

        def run(self):
            targets = yield [Letter(folder=str(tmp_path))]
            with self.output().open("w") as writer, targets[0].open() as reader:
                writer.write(reader.read())

    run(Dynamic())

    assert (tmp_path / "out.txt").read_text() == "a"


@both_ways
def test_a_task_with_metadata_is_sent_targets_and_records_them(run, tmp_path):
    class Dynamic(TaskWithMetadata):
        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        def run(self, metadata):
            target = yield Letter(folder=str(tmp_path))
            self.output().path.write_text(target.path.read_text())

    run(Dynamic())

    assert (tmp_path / "out.txt").read_text() == "a"
    (described,) = Dynamic().output().read_metadata()["dynamic_input"]
    assert described["task_id"] == Letter(folder=str(tmp_path)).task_id
    assert described["fingerprint"] == Letter(folder=str(tmp_path)).output().fingerprint()
    assert leftovers(tmp_path) == []


# Coroutines


class Awaiting(Base):
    async def run(self, output_path, metadata):
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))
        metadata["thread"] = True
        output_path.write_text("awaited")


class AwaitingSuper(Awaiting):
    async def run(self, output_path, metadata):
        await super().run(output_path, metadata)
        output_path.write_text(output_path.read_text().upper())


@pytest.mark.parametrize("num_workers", [1, 4], ids=["1 worker", "4 workers"])
@both_ways
def test_a_run_may_be_a_coroutine(run, num_workers, tmp_path):
    run(AwaitingSuper(folder=str(tmp_path)), num_workers=num_workers)

    assert (tmp_path / "out.txt").read_text() == "AWAITED"
    assert leftovers(tmp_path) == []


@both_ways
def test_a_coroutine_runs_inside_a_running_event_loop(run, tmp_path):
    async def cell():
        await asyncio.sleep(0)
        run(AwaitingSuper(folder=str(tmp_path)))
        return asyncio.get_running_loop().is_running()

    assert asyncio.run(cell())
    assert (tmp_path / "out.txt").read_text() == "AWAITED"


@pytest.mark.parametrize("is_inside", [False, True], ids=["alone", "inside a running event loop"])
def test_the_exception_of_a_coroutine_comes_out(is_inside, tmp_path):
    class Fails(Base):
        async def run(self, output_path):
            await asyncio.sleep(0)
            raise ValueError(output_path.name)

    async def cell():
        run_task(Fails(folder=str(tmp_path)), raise_exception=True)

    with pytest.raises(ValueError, match=r"out\.txt"):
        asyncio.run(cell()) if is_inside else run_task(Fails(folder=str(tmp_path)), raise_exception=True)
    assert leftovers(tmp_path) == []


def test_all_that_is_written_in_a_coroutine_bears_the_id_of_the_run(tmp_path):
    class Nested(Base):
        async def run(self, output_path):
            Letter(folder=self.folder).run()
            output_path.touch()

    async def cell():
        run_task(Nested(folder=str(tmp_path)))

    asyncio.run(cell())

    outer = Nested(folder=str(tmp_path)).output().read_metadata()
    assert Letter(folder=str(tmp_path)).output().read_metadata()["run_id"] == outer["run_id"]


# Private inputs


@pytest.mark.parametrize("place", ["file", "folder", "object", "prefix"])
def test_whatever_run_does_to_its_input_the_source_keeps_its_bytes(place, request, tmp_path):
    bucket = request.getfixturevalue("bucket") if place in ("object", "prefix") else None
    target = {
        "file": lambda: LocalFileTarget(tmp_path / "source.csv"),
        "folder": lambda: LocalFolderTarget(tmp_path / "source.d"),
        "object": lambda: S3ObjectTarget(bucket, "data/source.csv"),
        "prefix": lambda: S3PrefixTarget(bucket, "data/source.d"),
    }[place]()
    is_folder = place in ("folder", "prefix")

    class Source(AtomicTaskWithMetadata):
        def output(self):
            return target

        def run(self, output_path):
            (output_path / "part.csv" if is_folder else output_path).write_text("source")

    class Spoiler(Base):
        def requires(self):
            return Source()

        def run(self, input_path, output_path):
            path = input_path / "part.csv" if is_folder else input_path
            output_path.write_text(f"{input_path.name} {path.read_text()}")
            path.write_text("spoilt")
            shutil.rmtree(input_path) if is_folder else path.unlink()

    assert result_of(Spoiler, tmp_path) == f"source.{'d' if is_folder else 'csv'} source"
    with target.tmp_read_path() as path:
        assert (path / "part.csv" if is_folder else path).read_text() == "source"


def test_an_input_that_is_not_declared_is_not_copied(bucket, s3_server, tmp_path):
    class Source(luigi.ExternalTask):
        def output(self):
            return S3ObjectTarget(bucket, "source.csv")

    class Ignores(Base):
        def requires(self):
            return Source()

        def run(self, output_path):
            output_path.write_text(repr([path.name for path in output_path.parent.parent.iterdir()]))

    s3_server.client().put_object(Bucket=bucket, Key="source.csv", Body=b"1,2")
    run_task(Ignores(folder=str(tmp_path)))

    assert not Source().output().local_path.exists()
    described = Ignores(folder=str(tmp_path)).output().read_metadata()["input"]
    assert described["fingerprint"].startswith("etag:")


class Elsewhere(luigi.ExternalTask):
    """Calls itself complete without its output."""

    folder = Parameter()

    def output(self):
        return LocalFileTarget(Path(self.folder, "absent"))

    def complete(self):
        return True


def test_an_input_that_is_not_there_is_an_error_if_run_wants_its_path(tmp_path):
    class Wants(Base):
        def requires(self):
            return Elsewhere(folder=self.folder)

        def run(self, input_path, output_path):
            raise AssertionError

    with pytest.raises(TargetNotFoundError, match="absent"):
        run_task(Wants(folder=str(tmp_path)), raise_exception=True)
    assert leftovers(tmp_path) == []


def test_an_input_that_is_not_there_is_recorded_without_fingerprint_if_run_does_not_want_it(tmp_path):
    class Ignores(Base):
        def requires(self):
            return Elsewhere(folder=self.folder)

        def run(self, output_path):
            output_path.touch()

    run_task(Ignores(folder=str(tmp_path)))

    assert Ignores(folder=str(tmp_path)).output().read_metadata()["input"]["fingerprint"] is None


# What was left


def leaves_nothing(output_path):
    pass


def leaves_a_folder(output_path):
    output_path.mkdir()
    (output_path / "part").touch()


def leaves_a_file(output_path):
    output_path.rmdir()
    output_path.touch()


def leaves_an_empty_folder(output_path):
    (output_path / "inner").mkdir()


def removes_the_folder(output_path):
    output_path.rmdir()


WRONG = {
    "nothing for a file": (LocalFileTarget, leaves_nothing, MissingOutputError, "Nothing was written for"),
    "a folder for a file": (LocalFileTarget, leaves_a_folder, TargetShapeError, "use LocalFolderTarget"),
    "a file for a folder": (LocalFolderTarget, leaves_a_file, TargetShapeError, "use LocalFileTarget"),
    "an empty folder": (LocalFolderTarget, leaves_an_empty_folder, MissingOutputError, "No file was written for"),
    "no folder": (LocalFolderTarget, removes_the_folder, MissingOutputError, "No file was written for"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("had_output", [False, True], ids=["first run", "output exists"])
def test_a_wrong_output_is_an_error_that_says_so(wrong, had_output, tmp_path):
    target_cls, leave, error, words = wrong
    target = target_cls(tmp_path / "out")

    class Wrong(AtomicTaskWithMetadata):
        def output(self):
            return target

        def run(self, output_path):
            leave(output_path)

    if had_output:
        with target.tmp_write_path() as path:
            (path / "old" if path.is_dir() else path).touch()
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(error, match=words) as caught:
        run_task(Wrong(), force=True, raise_exception=True)

    assert str(tmp_path / "out") in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("base", [Task, TaskWithMetadata])
@pytest.mark.parametrize("target_cls", [LocalFileTarget, luigi.LocalTarget, luigi.mock.MockTarget])
@both_ways
def test_a_task_that_finishes_without_leaving_its_output_fails(run, base, target_cls, tmp_path):
    class Forgetful(base):
        def output(self):
            return target_cls(str(tmp_path / "out.txt"))

    with pytest.raises(RuntimeError):
        run(Forgetful())
    if target_cls is not luigi.mock.MockTarget:
        with pytest.raises(MissingOutputError, match=r"finished without leaving .*out\.txt"):
            Forgetful().run()
    assert leftovers(tmp_path) == []


def test_all_outputs_that_were_not_left_are_named(tmp_path):
    class Forgetful(Task):
        def output(self):
            return [LocalFileTarget(tmp_path / name) for name in ("a", "b", "c")]

        def run(self):
            (tmp_path / "b").touch()

    with pytest.raises(MissingOutputError, match=f"without leaving {tmp_path}/a, {tmp_path}/c"):
        run_task(Forgetful(), raise_exception=True)


def test_all_outputs_are_checked_before_any_is_published(tmp_path):
    class Half(AtomicTaskWithMetadata):
        def output(self):
            return {"good": LocalFileTarget(tmp_path / "a"), "bad": LocalFolderTarget(tmp_path / "b")}

        def run(self, output_path):
            output_path["good"].write_text("new")

    (tmp_path / "a").write_text("old")

    with pytest.raises(MissingOutputError):
        run_task(Half(), raise_exception=True)
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_metadata_that_json_cannot_hold_fail_the_task_before_anything_is_published(tmp_path):
    class Unclear(Base):
        def run(self, output_path, metadata):
            output_path.write_text("new")
            metadata["model"] = object()

    (tmp_path / "out.txt").write_text("old")

    with pytest.raises(MetadataError, match="model"):
        run_task(Unclear(folder=str(tmp_path)), force=True, raise_exception=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    assert (tmp_path / "out.txt").read_text() == "old"
    assert leftovers(tmp_path) == []


# Several outputs


TARGETS = {
    "ours": (LocalFileTarget, LocalFileTarget),
    "Luigi's": (luigi.LocalTarget, luigi.LocalTarget),
    "one of each": (luigi.LocalTarget, LocalFileTarget),
}


@pytest.mark.parametrize("target_classes", TARGETS.values(), ids=TARGETS)
def test_several_outputs_that_were_published_in_part_do_not_count(target_classes, tmp_path):
    """The second cannot be published, because a folder came to stand there while the task ran."""
    first, second = tmp_path / "first", tmp_path / "second"

    class Two(AtomicTaskWithMetadata):
        is_obstructed = True

        def output(self):
            return [target_cls(str(path)) for target_cls, path in zip(target_classes, (first, second), strict=True)]

        def run(self, output_path):
            for path in output_path:
                path.write_text("new")
            if self.is_obstructed:
                second.unlink()
                second.mkdir()

    first.write_text("old")
    second.write_text("old")
    with pytest.raises(OSError, match="second"):
        run_task(Two(), force=True, raise_exception=True)
    second.rmdir()
    second.write_text("old")

    assert first.read_text() == "new"
    assert not Two().complete()

    Two.is_obstructed = False
    run_task(Two())
    assert Two().complete()
    assert second.read_text() == "new"
    assert leftovers(tmp_path) == []


def test_a_marker_in_s3_keeps_several_outputs_from_counting(bucket, s3_server, tmp_path):
    class Two(AtomicTaskWithMetadata):
        def output(self):
            return [S3ObjectTarget(bucket, "first"), S3ObjectTarget(bucket, "second")]

        def run(self, output_path):
            for path in output_path:
                path.write_text("new")

    run_task(Two())
    listed = s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in listed] == ["first", "first.metadata.json", "second", "second.metadata.json"]
    assert Two().complete()

    Two().output()[0].store.mark("a run")
    assert not Two().complete()


@pytest.mark.parametrize("base", [Task, TaskWithMetadata])
def test_a_run_that_fails_after_it_changed_an_output_leaves_the_task_not_complete(base, tmp_path):
    class Half(base):
        is_obstructed = True

        def output(self):
            return [LocalFileTarget(tmp_path / "a"), luigi.LocalTarget(str(tmp_path / "b"))]

        def run(self):
            (tmp_path / "a").write_text("new")
            if self.is_obstructed:
                raise ValueError
            (tmp_path / "b").write_text("new")

    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("old")
    with pytest.raises(ValueError):
        run_task(Half(), force=True, raise_exception=True)

    assert not Half().complete()

    Half.is_obstructed = False
    run_task(Half())
    assert Half().complete()
    assert leftovers(tmp_path) == []


# Tasks with metadata that write themselves


class Counting(TaskWithMetadata):
    folder = Parameter()

    def output(self):
        return [LocalFileTarget(Path(self.folder, name)) for name in ("a", "b")]

    def run(self, metadata):
        for target in self.output():
            with target.tmp_write_path() as path:
                path.write_text(path.name)
        metadata["written"] = 2


@both_ways
def test_a_task_with_metadata_gets_a_record_beside_each_output(run, tmp_path):
    task = Counting(folder=str(tmp_path))

    run(task)

    for target in task.output():
        record = target.read_metadata()
        assert record["written"] == 2
        assert record["output"]["path"] == str(target.path)
        assert record["output"]["fingerprint"] == files.digest(target.path)
    assert leftovers(tmp_path) == []
    assert task.complete()


@pytest.mark.parametrize("target_name", ["file", "folder", "object", "prefix"])
def test_a_task_with_metadata_may_write_to_every_kind_of_target(target_name, request, tmp_path):
    bucket = request.getfixturevalue("bucket") if target_name in ("object", "prefix") else None
    target = {
        "file": lambda: LocalFileTarget(tmp_path / "out"),
        "folder": lambda: LocalFolderTarget(tmp_path / "out"),
        "object": lambda: S3ObjectTarget(bucket, "out"),
        "prefix": lambda: S3PrefixTarget(bucket, "out"),
    }[target_name]()

    class Writes(TaskWithMetadata):
        def output(self):
            return target

        def run(self, metadata):
            metadata["note"] = "kept"
            with target.tmp_write_path() as path:
                (path / "part" if path.is_dir() else path).write_text("text")

    run_task(Writes())

    record = target.read_metadata()
    assert record["note"] == "kept"
    assert record["output"]["size_bytes"] == 4
    assert record["output"]["fingerprint"] == target.fingerprint()
    assert Writes().complete()


def test_while_a_task_with_metadata_runs_it_is_not_complete(tmp_path):
    seen = []

    class Watched(TaskWithMetadata):
        def output(self):
            return LocalFileTarget(tmp_path / "out")

        def run(self):
            seen.append(self.complete())

    (tmp_path / "out").touch()
    assert Watched().complete()
    run_task(Watched(), force=True)

    assert seen == [False]
    assert Watched().complete()
    assert leftovers(tmp_path) == []


def test_a_task_with_metadata_that_fails_before_it_changed_anything_leaves_the_old_output(tmp_path):
    class Fails(Counting):
        is_obstructed = False

        def run(self, metadata):
            if self.is_obstructed:
                raise ValueError
            super().run(metadata)

    task = Fails(folder=str(tmp_path))
    run_task(task)
    before = [target.read_metadata() for target in task.output()]
    Fails.is_obstructed = True

    with pytest.raises(ValueError):
        run_task(task, force=True, raise_exception=True)

    assert task.complete()
    assert [target.read_metadata() for target in task.output()] == before
    assert leftovers(tmp_path) == []


def test_a_task_with_metadata_that_fails_after_it_changed_something_is_made_again(tmp_path):
    class Fails(Counting):
        is_obstructed = False

        def run(self, metadata):
            super().run(metadata)
            if self.is_obstructed:
                self.output()[1].path.write_text("half")
                raise ValueError

    task = Fails(folder=str(tmp_path))
    run_task(task)
    Fails.is_obstructed = True
    with pytest.raises(ValueError):
        run_task(task, force=True, raise_exception=True)

    assert not task.complete()

    Fails.is_obstructed = False
    run_task(task)
    assert task.complete()
    assert (tmp_path / "b").read_text() == "b"
    assert leftovers(tmp_path) == []


def test_the_users_exception_comes_out_although_an_output_has_the_wrong_shape(tmp_path):
    class Fails(TaskWithMetadata):
        def output(self):
            return LocalFileTarget(tmp_path / "out")

        def run(self):
            (tmp_path / "out").mkdir()
            raise ValueError

    with pytest.raises(ValueError) as caught:
        run_task(Fails(), raise_exception=True)

    assert type(caught.value) is ValueError
    assert caught.value.__context__ is None


def test_a_generator_of_a_task_with_metadata_that_waits_for_others_is_not_marked(tmp_path):
    class Dynamic(TaskWithMetadata):
        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        def run(self):
            yield Letter(folder=str(tmp_path))

    execution = Dynamic().run()
    next(execution)
    assert leftovers(tmp_path) != []
    execution.close()

    assert leftovers(tmp_path) == []


# Failures


class Interrupted(Base):
    kind = IntParameter()

    def run(self, output_path):
        output_path.write_text("half")
        raise (ValueError, KeyboardInterrupt, SystemExit)[self.kind]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["ValueError", "KeyboardInterrupt", "SystemExit"])
def test_an_exception_leaves_no_temporary_folders(kind, tmp_path):
    with pytest.raises((ValueError, KeyboardInterrupt, SystemExit)):
        Interrupted(folder=str(tmp_path), kind=kind).run()

    assert list(tmp_path.iterdir()) == []
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("num_workers", [1, 4], ids=["1 worker", "4 workers"])
@both_ways
def test_a_failing_run_leaves_no_temporary_folders(run, num_workers, tmp_path):
    class Reads(Base):
        def requires(self):
            return Letter(folder=self.folder)

        def run(self, input_path, output_path):
            output_path.write_text("half")
            raise ValueError

    with pytest.raises(RuntimeError):
        run(Reads(folder=str(tmp_path)), num_workers=num_workers)

    assert sorted(path.name for path in tmp_path.glob("*.txt*")) == ["a.txt", "a.txt.metadata.json"]
    assert leftovers(tmp_path) == []


def test_a_run_may_leave_its_output_where_only_its_owner_may_write(tmp_path):
    class Guarded(Base):
        def output(self):
            return LocalFolderTarget(Path(self.folder, "out"))

        def run(self, output_path):
            (output_path / "part").touch()
            os.chmod(output_path / "part", 0o400)

    run_task(Guarded(folder=str(tmp_path)))
    run_task(Guarded(folder=str(tmp_path)), force=True)

    assert leftovers(tmp_path) == []


def test_both_ways_of_running_agree_on_what_a_task_leaves(tmp_path):
    for run, name in ((with_run_task, "ours"), (with_luigi_build, "luigis")):
        (tmp_path / name).mkdir()
        run(Letter(folder=str(tmp_path / name)))

    names = ["a.txt", "a.txt.metadata.json"]
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "luigis").iterdir()) == names


def test_an_asynchronous_generator_as_run_is_refused_before_it_runs(tmp_path: Path) -> None:
    class Waiting(AtomicTaskWithMetadata):
        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        async def run(self, output_path):
            output_path.write_text("x")
            yield None

    with pytest.raises(TaskFailedError, match="asynchronous generator, which Luigi cannot drive"):
        run_task(Waiting())


def test_an_early_failure_leaves_the_marker_of_the_run_before_it(tmp_path: Path) -> None:
    class Half(TaskWithMetadata):
        fails_early = False

        def output(self):
            return LocalFileTarget(tmp_path / "half.txt")

        def run(self, metadata):
            if not Half.fails_early:
                (tmp_path / "half.txt").write_text("half")
            raise RuntimeError

    for Half.fails_early in (False, True):
        with pytest.raises(TaskFailedError):
            run_task(Half())

        assert not Half().complete()


def test_outputs_in_a_set_are_guarded_by_the_same_one_each_time(tmp_path: Path) -> None:
    class Several(AtomicTaskWithMetadata):
        def output(self):
            return {LocalFileTarget(tmp_path / f"{number}.txt") for number in range(6)}

        def run(self, output_path):
            for path in output_path:
                path.write_text("x")

    run_task(Several())
    Several().guard_of(list(Several().output())).store.mark("a run")

    assert {Several().complete() for _ in range(20)} == {False}


def test_a_relative_output_path_is_handed_over_absolute(tmp_path: Path) -> None:
    class Elsewhere(AtomicTaskWithMetadata):
        def output(self):
            return LocalFileTarget("deep/out.txt")

        def run(self, output_path):
            os.chdir("/")
            output_path.write_text("x")

    try:
        run_task(Elsewhere())
    finally:
        os.chdir(tmp_path)

    assert (tmp_path / "deep" / "out.txt").read_text() == "x"
    assert not list((tmp_path / "deep").glob(".*"))


def test_one_lock_guards_outputs_that_are_named_from_different_working_directories(
    local_data_dir, tmp_path, monkeypatch
):
    class Two(AtomicTaskWithMetadata):
        folder = luigi.Parameter()

        def output(self):
            return [LocalFileTarget(Path(self.folder, name)) for name in ("a.txt", "b.txt")]

        def run(self, output_path):
            for path in output_path:
                path.touch()

    for working_directory, folder in ((tmp_path, "data"), (tmp_path / "data", "."), (tmp_path, str(tmp_path / "data"))):
        monkeypatch.chdir(working_directory)
        run_task(Two(folder=folder), force=True)

    assert len(list((local_data_dir / "locks" / "publications").iterdir())) == 1
