"""The task classes: what requires() and output() may give, and that they stay Luigi's tasks in everything else."""

import ast
import datetime as dt
import gc
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import luigi
import luigi.mock
import luigi.tools.range
import luigi.util
import pytest
from example_tasks import Letter, both_ways, leftovers, mirrored, with_luigi_build, with_run_task
from luigi.contrib.s3 import S3Target
from luigi.task_register import Register, load_task

from superluigi import (
    AtomicTaskWithMetadata,
    BoolParameter,
    DateParameter,
    External,
    ExternalTask,
    IntParameter,
    InvalidNameError,
    LocalFileTarget,
    LocalFolderTarget,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    Task,
    TaskFailedError,
    TaskTypeError,
    TaskWithMetadata,
    config,
    run_task,
)

# What requires() and output() may give


REQUIRED = {
    "None": (lambda letter: None, None),
    "one task": (lambda letter: letter("a"), "a"),
    "a list": (lambda letter: [letter("a"), letter("b")], ["a", "b"]),
    "an empty list": (lambda letter: [], []),
    "a tuple": (lambda letter: (letter("a"), letter("b")), ("a", "b")),
    "a dict": (lambda letter: {"x": letter("a"), "y": letter("b")}, {"x": "a", "y": "b"}),
    "a dict of lists": (
        lambda letter: {"x": [letter("a"), letter("b")], "y": {"z": [letter("c")]}},
        {"x": ["a", "b"], "y": {"z": ["c"]}},
    ),
    "a generator": (lambda letter: (letter(name) for name in "ab"), ["a", "b"]),
    "one task twice": (lambda letter: [letter("a"), letter("a")], ["a", "a"]),
}


@both_ways
@pytest.mark.parametrize("required", REQUIRED.values(), ids=REQUIRED)
def test_input_paths_mirror_the_nesting_of_requires(required, run, tmp_path):
    make, expected = required

    class Reader(AtomicTaskWithMetadata):
        def requires(self):
            return make(lambda letter: Letter(folder=str(tmp_path), letter=letter))

        def output(self):
            return LocalFileTarget(tmp_path / "read.txt")

        def run(self, input_path, output_path):
            output_path.write_text(repr(mirrored(Path.read_text, input_path)))

    run(Reader())

    assert ast.literal_eval((tmp_path / "read.txt").read_text()) == expected
    recorded = mirrored_paths(Reader().output().read_metadata()["input"])
    assert recorded == json.loads(json.dumps(mirrored(lambda letter: str(tmp_path / f"{letter}.txt"), expected)))
    assert leftovers(tmp_path) == []


def mirrored_paths(described):
    if isinstance(described, dict) and "metadata_path" in described:
        return described["path"]
    if isinstance(described, dict):
        return {key: mirrored_paths(value) for key, value in described.items()}
    return described if described is None else [mirrored_paths(value) for value in described]


PROMISED = {
    "one target": lambda target: target("a"),
    "a list": lambda target: [target("a"), target("b")],
    "a tuple": lambda target: (target("a"), target("b")),
    "a dict": lambda target: {"x": target("a"), "y": target("b")},
    "a dict of lists": lambda target: {"x": [target("a"), target("b")], "y": {"z": [target("c")]}},
}


@both_ways
@pytest.mark.parametrize("promised", PROMISED.values(), ids=PROMISED)
def test_output_paths_mirror_the_nesting_of_output(promised, run, tmp_path):
    class Writer(AtomicTaskWithMetadata):
        def output(self):
            return promised(lambda name: LocalFileTarget(tmp_path / f"{name}.txt"))

        def run(self, output_path):
            mirrored(lambda path: path.write_text(path.stem), output_path)

    run(Writer())

    expected = promised(lambda name: tmp_path / f"{name}.txt")
    assert run_task(Writer()) == expected
    assert mirrored(Path.read_text, expected) == promised(lambda name: name)
    mirrored(lambda target: target.read_metadata()["output"]["path"], Writer().output())
    assert leftovers(tmp_path) == []


@pytest.mark.filterwarnings("ignore:Task Notice.* without outputs has no custom complete")
def test_a_task_without_outputs_gets_no_output_path_and_is_never_complete(tmp_path):
    class Notice(AtomicTaskWithMetadata):
        def output(self):
            return None

        def run(self, output_path):
            with open(tmp_path / "seen", "a") as stream:
                stream.write(repr(output_path))

    for _ in range(2):
        run_task(Notice())

    assert (tmp_path / "seen").read_text() == "NoneNone"
    assert not Notice().complete()


@both_ways
def test_something_that_is_no_task_in_requires_is_named(run, tmp_path):
    class Confused(AtomicTaskWithMetadata):
        def requires(self):
            return LocalFileTarget(tmp_path / "a.csv")

    with pytest.raises((RuntimeError, TaskTypeError)):
        run(Confused())


# Data that are made elsewhere


class WithoutRun(AtomicTaskWithMetadata):
    run = None
    folder = Parameter()

    def output(self):
        return LocalFileTarget(Path(self.folder, "given.txt"))


@pytest.mark.parametrize("num_workers", [1, 4])
def test_a_class_whose_run_is_none_is_made_elsewhere(num_workers, tmp_path):
    task = WithoutRun(folder=str(tmp_path))

    with pytest.raises(TaskFailedError, match=r"given\.txt"):
        run_task(task, num_workers=num_workers)

    task.output().path.write_text("given")
    assert run_task(task, num_workers=num_workers).read_text() == "given"


EXTERNAL = {
    "a local file": ("data/a.csv", LocalFileTarget, "data/a.csv"),
    "a local folder": ("data/", LocalFolderTarget, "data"),
    "a path object": (Path("data/a.csv"), LocalFileTarget, "data/a.csv"),
    "an object": ("s3://bucket/data/a.csv", S3ObjectTarget, "s3://bucket/data/a.csv"),
    "a prefix": ("s3://bucket/data/", S3PrefixTarget, "s3://bucket/data/"),
}


@pytest.mark.parametrize(("path", "target_cls", "expected"), EXTERNAL.values(), ids=EXTERNAL)
def test_external_takes_paths_and_addresses(path, target_cls, expected):
    target = External(path).output()

    assert type(target) is target_cls
    assert str(target.path) == expected


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/", "s3://"])
def test_external_refuses_an_address_without_a_key(address):
    with pytest.raises(InvalidNameError, match="names a bucket, not data"):
        External(address).output()


@both_ways
def test_external_data_are_read_privately(run, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("raw")

    class Spoiler(AtomicTaskWithMetadata):
        def requires(self):
            return External(f"{tmp_path}/raw/")

        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        def run(self, input_path, output_path):
            (input_path / "a.txt").replace(output_path)

    run(Spoiler())

    assert (tmp_path / "raw" / "a.txt").read_text() == "raw"
    assert (tmp_path / "out.txt").read_text() == "raw"


def test_an_external_task_may_leave_its_output_to_complete(tmp_path):
    class Table(ExternalTask):
        def complete(self):
            return True

    class Reader(AtomicTaskWithMetadata):
        def requires(self):
            return Table()

        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        def run(self, input_path, output_path):
            output_path.write_text(repr(input_path))

    assert run_task(Reader()).read_text() == "[]"


EXTERNALIZED = {
    "class": lambda folder: luigi.task.externalize(Letter)(folder=folder),
    "instance": lambda folder: luigi.task.externalize(Letter(folder=folder)),
}


@pytest.mark.parametrize("externalized", EXTERNALIZED.values(), ids=EXTERNALIZED)
def test_an_externalized_task_is_not_run(externalized, tmp_path):
    external = externalized(str(tmp_path))

    with pytest.raises(TaskFailedError, match="made elsewhere"):
        run_task(external)

    (tmp_path / "a.txt").write_text("given")
    assert run_task(external).read_text() == "given"
    assert Letter.run is not None
    assert Letter(folder=str(tmp_path)).run is not None


# Luigi's tasks and targets upstream and downstream


class PlainLetters(luigi.Task):
    folder = Parameter()

    def output(self):
        return luigi.LocalTarget(os.path.join(self.folder, "plain.txt"))

    def run(self):
        with self.output().open("w") as stream:
            stream.write("plain")


@both_ways
def test_plain_luigi_tasks_stand_upstream_and_downstream(run, tmp_path):
    class Middle(AtomicTaskWithMetadata):
        def requires(self):
            return PlainLetters(folder=str(tmp_path))

        def output(self):
            return LocalFileTarget(tmp_path / "middle.txt")

        def run(self, input_path, output_path):
            input_path.rename(output_path)

    class Last(luigi.Task):
        def requires(self):
            return {"middle": Middle()}

        def output(self):
            return luigi.LocalTarget(str(tmp_path / "last.txt"))

        def run(self):
            with self.input()["middle"].open() as reader, self.output().open("w") as writer:
                writer.write(f"{reader.read()}, {self.input()['middle'].path.name}")

    run(Last())

    assert (tmp_path / "last.txt").read_text() == "plain, middle.txt"
    assert (tmp_path / "plain.txt").read_text() == "plain"
    described = Middle().output().read_metadata()["input"]
    assert described["task_id"] == PlainLetters(folder=str(tmp_path)).task_id
    assert described["path"] == str(tmp_path / "plain.txt")
    assert described["fingerprint"].startswith("sha256:")


@both_ways
def test_a_luigi_s3_target_upstream_becomes_a_private_path(run, bucket, s3_server, tmp_path):
    class InLuigisS3(luigi.Task):
        def output(self):
            return S3Target(f"s3://{bucket}/data/numbers.csv")

        def run(self):
            with self.output().open("w") as stream:
                stream.write("1,2")

    class Reader(AtomicTaskWithMetadata):
        def requires(self):
            return [InLuigisS3()]

        def output(self):
            return S3ObjectTarget(bucket, "data/read.csv")

        def run(self, input_path, output_path):
            output_path.write_text(f"{input_path[0].name}: {input_path[0].read_text()}")
            input_path[0].write_text("spoilt")

    run(Reader())

    with Reader().output().open() as stream:
        assert stream.read() == "numbers.csv: 1,2"
    assert s3_server.client().get_object(Bucket=bucket, Key="data/numbers.csv")["Body"].read() == b"1,2"
    (described,) = Reader().output().read_metadata()["input"]
    assert described["path"] == f"s3://{bucket}/data/numbers.csv"
    assert described["fingerprint"].startswith("sha256:")


@both_ways
def test_a_luigi_s3_target_that_names_a_folder_is_handed_over_itself(run, bucket, s3_server, tmp_path):
    s3_server.client().put_object(Bucket=bucket, Key="day/", Body=b"")

    class Folder(luigi.ExternalTask):
        def output(self):
            return S3Target(f"s3://{bucket}/day/")

    class Reader(AtomicTaskWithMetadata):
        def requires(self):
            return Folder()

        def output(self):
            return LocalFileTarget(tmp_path / "read.txt")

        def run(self, input_path, output_path):
            output_path.write_text(input_path.path)

    run(Reader())

    assert (tmp_path / "read.txt").read_text() == f"s3://{bucket}/day/"


@both_ways
def test_an_object_of_ours_is_read_by_a_plain_luigi_task(run, bucket, tmp_path):
    class Ours(AtomicTaskWithMetadata):
        def output(self):
            return S3ObjectTarget(bucket, "ours.txt")

        def run(self, output_path):
            output_path.write_text("ours")

    class Theirs(luigi.Task):
        def requires(self):
            return Ours()

        def output(self):
            return S3Target(f"s3://{bucket}/theirs.txt")

        def run(self):
            with S3Target(self.input().path).open() as reader, self.output().open("w") as writer:
                writer.write(reader.read())

    run(Theirs())

    with S3Target(f"s3://{bucket}/theirs.txt").open() as stream:
        assert stream.read() == "ours"


@both_ways
def test_a_luigi_local_target_as_output_is_published_with_its_record(run, tmp_path):
    class Writer(AtomicTaskWithMetadata):
        def output(self):
            return luigi.LocalTarget(str(tmp_path / "out.txt"))

        def run(self, output_path):
            output_path.write_text("text")

    run(Writer())

    assert (tmp_path / "out.txt").read_text() == "text"
    assert LocalFileTarget(tmp_path / "out.txt").read_metadata()["task_family"] == "Writer"


@both_ways
def test_a_luigi_local_target_of_a_task_that_writes_itself_gets_its_record(run, tmp_path):
    class Writer(TaskWithMetadata):
        def output(self):
            return luigi.LocalTarget(str(tmp_path / "out.txt"))

        def run(self, metadata):
            metadata["rows"] = 1
            with self.output().open("w") as stream:
                stream.write("text")

    run(Writer())

    assert LocalFileTarget(tmp_path / "out.txt").read_metadata()["rows"] == 1
    assert leftovers(tmp_path) == []


@both_ways
def test_a_target_without_a_path_is_handed_over_itself(run, tmp_path):
    class InMemory(AtomicTaskWithMetadata):
        def output(self):
            return luigi.mock.MockTarget(f"{tmp_path}/memory")

        def run(self, output_path):
            with output_path.open("w") as stream:
                stream.write("remembered")

    class Reader(AtomicTaskWithMetadata):
        def requires(self):
            return InMemory()

        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        def run(self, input_path, output_path):
            with input_path.open() as stream:
                output_path.write_text(stream.read())

    run(Reader())

    assert (tmp_path / "out.txt").read_text() == "remembered"
    described = Reader().output().read_metadata()["input"]
    assert described["path"] == f"{tmp_path}/memory"
    assert described["fingerprint"] is None
    assert described["metadata_path"] is None


def test_luigis_requires_inherits_and_copies_work_on_our_tasks(tmp_path):
    @luigi.util.requires(Letter)
    class Upper(AtomicTaskWithMetadata):
        def output(self):
            return LocalFileTarget(Path(self.folder, "upper.txt"))

        def run(self, input_path, output_path):
            output_path.write_text(input_path.read_text().upper())

    @luigi.util.inherits(Letter)
    class Pair(AtomicTaskWithMetadata):
        def requires(self):
            return {"lower": self.clone_parent(), "upper": self.clone(Upper)}

        def output(self):
            return LocalFileTarget(Path(self.folder, "pair.txt"))

        def run(self, input_path, output_path):
            output_path.write_text(input_path["lower"].read_text() + input_path["upper"].read_text())

    @luigi.util.copies(Pair)
    class Copy(TaskWithMetadata):
        def output(self):
            return LocalFileTarget(Path(self.folder, "copy.txt"))

    class OfDict(AtomicTaskWithMetadata):
        def output(self):
            return LocalFileTarget(tmp_path / "of-dict.txt")

        def run(self, input_path, output_path):
            output_path.write_text(input_path["one"].read_text())

    named = luigi.util.requires(one=Letter)(OfDict)

    run_task([Copy(folder=str(tmp_path), letter="b"), named(folder=str(tmp_path), letter="c")])

    assert (tmp_path / "copy.txt").read_text() == "bB"
    assert LocalFileTarget(tmp_path / "copy.txt").read_metadata()["task_family"] == "Copy"
    assert (tmp_path / "of-dict.txt").read_text() == "c"
    assert load_task(None, "Copy", {"folder": "x", "letter": "y"}).letter == "y"


def test_luigi_tasks_may_read_and_write_our_targets_without_a_with_block(tmp_path):
    class OldStyle(luigi.Task):
        def requires(self):
            return Letter(folder=str(tmp_path))

        def output(self):
            return LocalFileTarget(tmp_path / "out.txt")

        def run(self):
            writer = self.output().open("w")
            for line in self.input().open():
                writer.write(line.upper())
            writer.write(self.input().open().read())
            assert not self.output().exists()
            writer.close()
            writer.close()

    with_luigi_build(OldStyle())

    assert (tmp_path / "out.txt").read_text() == "Aa"


def test_a_file_that_is_never_closed_is_not_published(tmp_path):
    target = LocalFileTarget(tmp_path / "out.txt")

    target.open("w").write("lost")
    gc.collect()

    assert not target.exists()
    assert leftovers(tmp_path) == []


def test_luigis_delegates_work_on_our_tasks(tmp_path):
    @luigi.util.delegates
    class Boss(Task):
        def subtasks(self):
            return [Letter(folder=str(tmp_path), letter="a"), Letter(folder=str(tmp_path), letter="b")]

        def output(self):
            return LocalFileTarget(tmp_path / "boss.txt")

        def run(self):
            with self.output().open("w") as stream:
                stream.write("".join(task.output().path.read_text() for task in self.subtasks()))

    assert run_task(Boss()).read_text() == "ab"


def test_a_wrapper_task_of_luigi_is_complete_with_its_requirements(tmp_path):
    class All(Task, luigi.WrapperTask):
        def requires(self):
            return [Letter(folder=str(tmp_path), letter=letter) for letter in "ab"]

        def complete(self):
            return luigi.WrapperTask.complete(self)

    class AllAtomic(luigi.WrapperTask, AtomicTaskWithMetadata):
        def requires(self):
            return All()

    run_task(AllAtomic())

    assert AllAtomic().complete()
    assert sorted(path.name for path in tmp_path.glob("?.txt")) == ["a.txt", "b.txt"]


# User parameters


@both_ways
def test_parameters_may_bear_the_names_that_the_library_uses(run, tmp_path):
    class Busy(AtomicTaskWithMetadata):
        version = IntParameter()
        force = BoolParameter()
        metadata = Parameter()
        path = Parameter()
        name = Parameter()
        shape = Parameter()
        store = Parameter()
        input_path = Parameter()

        def output(self):
            return LocalFileTarget(tmp_path / f"{self.name}.txt")

        def run(self, input_path, output_path, metadata):
            metadata["note"] = "kept"
            output_path.write_text(f"{self.version} {self.force} {self.metadata} {self.path} {input_path}")

    names = {"metadata": "m", "path": "p", "name": "n", "shape": "s", "store": "t", "input_path": "i"}
    task = Busy(version=4, force=True, **names)
    run(task)

    record = task.output().read_metadata()
    assert (tmp_path / "n.txt").read_text() == "4 True m p []"
    assert record["params"] == {"version": "4", "force": "True", **names}
    assert record["version"] is None
    assert record["note"] == "kept"
    assert task == Busy(version=4, force=True, **names)
    assert len(task.task_id) == 32


# Completeness


def test_a_task_is_complete_once_all_its_outputs_exist(tmp_path):
    class Two(Task):
        def output(self):
            return [LocalFileTarget(tmp_path / "a"), luigi.LocalTarget(str(tmp_path / "b"))]

    task = Two()
    assert not task.complete()
    (tmp_path / "a").touch()
    assert not task.complete()
    (tmp_path / "b").touch()

    assert task.complete()


@both_ways
def test_a_complete_of_the_users_own_decides(run, tmp_path):
    class Database(Task):
        def output(self):
            return LocalFileTarget(tmp_path / "never")

        def complete(self):
            return (tmp_path / "done").exists()

        def run(self):
            (tmp_path / "done").touch()

    run(Database())

    assert Database().complete()
    assert not (tmp_path / "never").exists()


@both_ways
def test_a_task_with_metadata_and_its_own_complete_need_not_leave_its_output(run, tmp_path):
    class Database(TaskWithMetadata):
        def output(self):
            return [LocalFileTarget(tmp_path / "never"), LocalFileTarget(tmp_path / "always")]

        def complete(self):
            return (tmp_path / "always").exists()

        def run(self):
            (tmp_path / "always").touch()

    run(Database())

    assert [path.name for path in sorted(tmp_path.iterdir())] == ["always", "always.metadata.json"]


def test_making_a_task_asks_nobody():
    class Careful(AtomicTaskWithMetadata):
        def requires(self):
            raise AssertionError

        def output(self):
            raise AssertionError

    task = Careful()

    assert task == Careful()
    assert hash(task) == hash(Careful())
    assert task.initialized()
    assert task != Letter(folder="x")
    assert task != 4


def test_a_task_whose_constructor_was_not_called_is_not_initialized():
    assert not Letter.__new__(Letter).initialized()


def test_the_hash_is_the_id(tmp_path):
    task = Letter(folder=str(tmp_path))

    assert task.task_hash == task.task_id
    assert len(task.task_id) == 32


# Pickling


def test_a_task_pickles_without_what_this_process_remembers():
    task = Letter(folder="x")
    expected = task.task_id

    revived = pickle.loads(pickle.dumps(task))

    assert "_remembered" not in revived.__dict__
    assert revived == task
    assert hash(revived) == hash(task)
    assert revived.task_id == expected


class PicklesItself(AtomicTaskWithMetadata):
    folder = Parameter()

    def output(self):
        return LocalFileTarget(Path(self.folder, "pickled"))

    def run(self, output_path):
        output_path.write_bytes(pickle.dumps(self))


@pytest.mark.parametrize("num_workers", [1, 4])
def test_a_running_task_pickles_without_luigis_scheduler(num_workers, tmp_path):
    task = PicklesItself(folder=str(tmp_path))

    pickled = run_task(task, num_workers=num_workers).read_bytes()

    revived = pickle.loads(pickled)
    assert revived == task
    assert revived.set_status_message is None
    assert len(pickled) < 2000


# Luigi's own services


@pytest.mark.parametrize("num_workers", [1, 4])
def test_luigis_events_reach_their_handlers(num_workers, tmp_path):
    class Heard(Letter):
        pass

    for event in (luigi.Event.START, luigi.Event.SUCCESS, luigi.Event.FAILURE):

        def handler(*_args, event=event):
            with open(tmp_path / "heard", "a") as stream:
                stream.write(f"{event}\n")

        Heard.event_handler(event)(handler)

    run_task(Heard(folder=str(tmp_path)), num_workers=num_workers)

    assert (tmp_path / "heard").read_text().split() == [luigi.Event.START, luigi.Event.SUCCESS]


class Ordered(AtomicTaskWithMetadata):
    folder = Parameter()
    priority = IntParameter()

    def output(self):
        return LocalFileTarget(Path(self.folder, f"{self.priority}.txt"))

    def run(self, output_path):
        output_path.touch()
        with open(Path(self.folder, "order"), "a") as stream:
            stream.write(f"{self.priority} ")


@both_ways
def test_luigis_priorities_hold(run, tmp_path):
    class All(luigi.WrapperTask):
        def requires(self):
            return [Ordered(folder=str(tmp_path), priority=priority) for priority in (2, 9, 5)]

    run(All())

    assert (tmp_path / "order").read_text() == "9 5 2 "


class Exclusive(AtomicTaskWithMetadata):
    folder = Parameter()
    number = IntParameter()
    resources = {"printer": 1}  # noqa: RUF012  (as Luigi's documentation writes it)

    def output(self):
        return LocalFileTarget(Path(self.folder, f"{self.number}.txt"))

    def run(self, output_path):
        lock = os.open(Path(self.folder, "printer"), os.O_CREAT | os.O_EXCL)  # fails if another task is at work
        output_path.touch()
        os.close(lock)
        Path(self.folder, "printer").unlink()


@both_ways
def test_luigis_resources_hold(run, tmp_path):
    class All(luigi.WrapperTask):
        def requires(self):
            return [Exclusive(folder=str(tmp_path), number=number) for number in range(4)]

    run(All(), num_workers=4)

    assert len(list(tmp_path.glob("?.txt"))) == 4


class Daily(AtomicTaskWithMetadata):
    date = DateParameter()
    folder = Parameter()

    def output(self):
        return LocalFileTarget(Path(self.folder, f"{self.date}.txt"))

    def run(self, output_path):
        output_path.touch()


@pytest.mark.filterwarnings('ignore:Parameter "param_name" with value "None" is not of type string')
@both_ways
def test_luigis_range_tools_run_the_missing_days(run, tmp_path):
    first = dt.date(2022, 12, 14)
    (tmp_path / "2022-12-15.txt").write_text("made before")

    run(
        luigi.tools.range.RangeDaily(
            of=Daily,
            of_params={"folder": str(tmp_path)},
            start=first,
            stop=first + dt.timedelta(days=3),
            now=int(dt.datetime(2022, 12, 20, tzinfo=dt.timezone.utc).timestamp()),
            days_back=30,
        )
    )

    days = ["2022-12-14.txt", "2022-12-15.txt", "2022-12-16.txt"]
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == days
    assert (tmp_path / "2022-12-15.txt").read_text() == "made before"


class Batched(AtomicTaskWithMetadata):
    folder = Parameter()
    number = IntParameter(batch_method=max)

    def output(self):
        return LocalFileTarget(Path(self.folder, f"{self.number}.txt"))

    def run(self, output_path):
        output_path.touch()
        with open(Path(self.folder, "runs"), "a") as stream:
            stream.write(f"{self.number} ")


@both_ways
def test_luigi_runs_a_batch_as_one_task(run, tmp_path):
    class All(luigi.WrapperTask):
        def requires(self):
            return [Batched(folder=str(tmp_path), number=number) for number in range(3)]

    with pytest.raises(RuntimeError):  # the batch wrote for its greatest number only, as Luigi has it
        run(All())

    assert (tmp_path / "runs").read_text().split()[0] == "2"
    assert (tmp_path / "2.txt").exists()


def test_a_task_runs_from_luigis_command_line(tmp_path):
    (tmp_path / "command_line_tasks.py").write_text(
        textwrap.dedent("""
        from pathlib import Path

        from superluigi import *


        class Numbers(AtomicTaskWithMetadata):
            count = IntParameter()

            def output(self):
                return LocalFileTarget(f"numbers-{self.count}.txt")

            def run(self, output_path):
                output_path.write_text(" ".join(map(str, range(self.count))))


        class Total(AtomicTaskWithMetadata):
            date = DateParameter()

            def output(self):
                return LocalFolderTarget(f"total-{self.date}")

            def run(self, output_path, metadata):
                paths = yield {"small": Numbers(count=3), "large": [Numbers(count=5)]}
                metadata["total"] = sum(map(int, paths["large"][0].read_text().split()))
                (output_path / "total.txt").write_text(str(metadata["total"]))
        """)
    )
    command = [sys.executable, "-m", "luigi", "--module", "command_line_tasks", "Total", "--date", "2022-12-15"]
    command += ["--local-scheduler", "--workers", "2"]
    environment = {**os.environ, "SUPERLUIGI_LOCAL_DATA_DIR": str(config.data_dir()), "PYTHONPATH": str(tmp_path)}

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "total-2022-12-15" / "total.txt").read_text() == "10"
    assert json.loads((tmp_path / "total-2022-12-15.metadata.json").read_text())["total"] == 10
    assert "3 ran successfully" in done.stderr
    assert leftovers(tmp_path) == []


# Definitions that come again, as in a notebook


def test_a_class_that_is_defined_again_replaces_the_former(tmp_path):
    def define(text):
        class Changing(AtomicTaskWithMetadata):
            def output(self):
                return LocalFileTarget(tmp_path / "out.txt")

            def run(self, output_path):
                output_path.write_text(text)

        return Changing

    define("old")
    latest = define("new")

    assert type(load_task(None, "Changing", {})) is latest
    assert run_task(load_task(None, "Changing", {})).read_text() == "new"


def test_a_decorated_class_that_is_defined_again_replaces_the_former(tmp_path):
    def define(text):
        @luigi.util.copies(Letter)
        class Changing(AtomicTaskWithMetadata):
            note = text

            def output(self):
                return LocalFileTarget(tmp_path / "out.txt")

        return Changing

    define("old")
    latest = define("new")

    assert Register.get_task_cls("Changing") is latest


def test_classes_of_one_factory_in_different_namespaces_do_not_unregister_each_other():
    def made_for(country):
        class Made(Task):
            task_namespace = country

        return Made

    dutch, swedish = made_for("nl"), made_for("se")
    latest = made_for("se")

    assert Register.get_task_cls("nl.Made") is dutch
    assert Register.get_task_cls("se.Made") is latest
    assert swedish not in Register._reg


def test_two_classes_of_one_name_in_different_places_stay_ambiguous():
    def here():
        class Twin(Task):
            pass

        return Twin

    def there():
        class Twin(Task):
            pass

        return Twin

    assert here() is not there()

    with pytest.raises(luigi.task_register.TaskClassAmbigiousException):
        Register.get_task_cls("Twin")


def test_both_ways_of_running_report_a_failure(tmp_path):
    class Broken(Letter):
        def run(self):
            raise ValueError

    for run in (with_run_task, with_luigi_build):
        with pytest.raises(RuntimeError):
            run(Broken(folder=str(tmp_path)))
