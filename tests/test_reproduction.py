"""Whether data are those of their record, and whether their task makes the same ones again."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import luigi
import pytest
from example_tasks import leftovers
from luigi.parameter import ParameterVisibility
from server_log import recorded_requests

from superluigi import (
    AtomicTaskWithMetadata,
    DateParameter,
    External,
    IntParameter,
    LocalFileTarget,
    LocalFolderTarget,
    MemoryTarget,
    MissingParameterError,
    NoTarget,
    Parameter,
    S3ObjectTarget,
    S3PrefixTarget,
    TargetNotFoundError,
    TaskTypeError,
    TaskWithMetadata,
    run_task,
)
from superluigi.ancestry import lineage
from superluigi.reproduction import reproduce, verify

count = itertools.count()


class Upper(AtomicTaskWithMetadata):
    """Writes the raw text in capitals."""

    times = IntParameter(default=1)

    def requires(self):
        return {"raw": External("raw.txt")}

    def output(self):
        return LocalFileTarget("data/upper.txt")

    def run(self, input_path, output_path):
        output_path.write_text(input_path["raw"].read_text().upper() * self.times)


class Folder(Upper):
    def output(self):
        return LocalFolderTarget("data/folder", metadata_contents_limit=2)

    def run(self, input_path, output_path):
        for name in ("a", "b", "c"):
            (output_path / name).write_text(name * self.times)


class Inside(Folder):
    def output(self):
        return LocalFolderTarget("data/inside", metadata_inside_folder=True)


class InS3(Upper):
    bucket = Parameter()

    def output(self):
        return S3ObjectTarget(self.bucket, "data/object.txt")


class PrefixInS3(Folder):
    bucket = Parameter()
    limit = IntParameter(default=2)

    def output(self):
        return S3PrefixTarget(self.bucket, "data/prefix/", metadata_contents_limit=self.limit)


@pytest.fixture(autouse=True)
def raw():
    Path("raw.txt").write_text("raw")


def fields(result):
    return [change.field for change in result.mismatches]


def tree(folder):
    """Everything in a folder with its bytes and times."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None for path in folder.rglob("*")
    }


# Verifying


@pytest.mark.parametrize("task_cls", [Upper, Folder, Inside])
def test_local_data_that_are_untouched_are_what_their_record_tells_of(task_cls, tmp_path):
    path = run_task(task_cls())
    before = tree(tmp_path)

    for given in (path, str(path), task_cls().output(), luigi.LocalTarget(str(path)), lineage(path).root.record_path):
        found = verify(given)
        assert found
        assert found.mismatches == ()
        assert found.path == os.path.abspath(path)
    assert str(verify(path)) == f"{os.path.abspath(path)} is what its record tells of."
    assert tree(tmp_path) == before
    assert leftovers(tmp_path) == []


class Elsewhere(Upper):
    def output(self):
        return LocalFileTarget("data/elsewhere.txt", "records/elsewhere.txt.metadata.json")


def test_a_record_elsewhere_leads_to_its_data_and_one_that_was_moved_along_to_those_beside_it(tmp_path, monkeypatch):
    run_task([Elsewhere(), Upper()])

    assert verify("records/elsewhere.txt.metadata.json").path == str(tmp_path / "data/elsewhere.txt")
    assert reproduce("records/elsewhere.txt.metadata.json")
    os.rename("data", "moved")
    assert verify("moved/upper.txt.metadata.json").path == str(tmp_path / "moved/upper.txt")


def test_bytes_that_were_changed_are_found_even_with_size_and_time_as_before():
    path = run_task(Upper())
    facts = os.stat(path)
    path.write_text("RAV")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    found = verify(path)

    assert not found
    assert fields(found) == ["fingerprint"]
    assert found.mismatches[0].before == lineage(path).root.fingerprint
    lines = str(found).splitlines()
    assert lines[0] == f"{os.path.abspath(path)} is not what its record tells of:"
    assert lines[1].startswith("  fingerprint: sha256:")
    assert "fingerprint" in found._repr_html_()


def test_what_was_changed_in_a_folder_is_named():
    path = run_task(Folder())
    (path / "a").write_text("other")
    (path / "d").write_text("new")

    assert fields(verify(path)) == ["fingerprint", "size_bytes", "files", "contents.a"]

    path = run_task(Inside())
    (path / "b").unlink()
    (path / "d").write_text("b")
    assert fields(verify(path)) == ["fingerprint", "contents.b", "contents.d"]


@pytest.mark.parametrize("task_cls", [InS3, PrefixInS3])
def test_data_in_s3_are_downloaded_anew_and_compared(task_cls, s3, tmp_path, local_data_dir):
    task = task_cls(bucket=s3.bucket)
    address = run_task(task)
    cached = tree(local_data_dir / "cache")

    with recorded_requests() as log:
        assert verify(address)
    assert log.of("GET", ".txt" if task_cls is InS3 else "/c")
    assert not [method for method, _ in log.requests if method not in ("GET", "HEAD")]
    assert verify(task.output())
    assert {path for path in tree(local_data_dir / "cache") if path.is_file()} == {
        path for path in cached if path.is_file()
    }
    assert leftovers(tmp_path) == []

    s3.put("data/object.txt" if task_cls is InS3 else "data/prefix/a", b"other")
    found = verify(address)
    assert fields(found) == ["fingerprint", "size_bytes", *([] if task_cls is InS3 else ["contents.a"])]


class InsideInS3(PrefixInS3):
    def output(self):
        return S3PrefixTarget(self.bucket, "data/inside", metadata_inside_prefix=True)


def test_a_prefix_with_its_record_inside_is_verified_by_its_address(s3):
    run_task(InsideInS3(bucket=s3.bucket))

    assert verify(f"s3://{s3.bucket}/data/inside")
    assert reproduce(f"s3://{s3.bucket}/data/inside/")


def test_an_object_that_bears_the_digest_of_other_bytes_is_found(s3):
    address = run_task(InS3(bucket=s3.bucket))
    head = s3.client().head_object(Bucket=s3.bucket, Key="data/object.txt")
    s3.client().put_object(Bucket=s3.bucket, Key="data/object.txt", Body=b"RAV", Metadata=head["Metadata"])

    assert fields(verify(address)) == ["fingerprint"]


def test_an_object_of_a_forced_run_is_compared_with_its_own_record(s3):
    run_task(InS3(bucket=s3.bucket))
    Path("raw.txt").write_text("other")
    address = run_task(InS3(bucket=s3.bucket), force=True)

    assert verify(address)


@pytest.mark.parametrize("function", [verify, reproduce])
def test_what_has_no_data_or_no_record_cannot_be_compared(function):
    with pytest.raises(TargetNotFoundError, match="neither data nor a lineage record"):
        function("nothing.txt")
    with pytest.raises(TargetNotFoundError, match=r"there is no record of it\. Give the target"):
        function("raw.txt")
    Path("raw.txt.metadata.json").write_text("[]")
    with pytest.raises(TargetNotFoundError, match=r"its record cannot be read: .*instead of fields"):
        function("raw.txt")
    with pytest.raises(TaskTypeError, match=rf"{function.__name__}\(\) was given 7"):
        function(7)


@pytest.mark.parametrize("keep_metadata", [True, False])
def test_data_that_were_removed_cannot_be_verified(keep_metadata):
    path = run_task(Upper())
    Upper().output().remove(keep_metadata=keep_metadata)

    with pytest.raises(TargetNotFoundError):
        verify(path)


def test_a_record_by_hand_that_tells_nothing_of_the_data_does_not_confirm_them():
    LocalFileTarget("raw.txt").write_metadata({"source": "a friend"})

    assert fields(verify("raw.txt")) == ["fingerprint"]


# Reproducing


@pytest.mark.parametrize("task_cls", [Upper, Folder, Inside])
def test_a_task_that_makes_the_same_bytes_again_is_identical_and_touches_nothing(task_cls, tmp_path):
    path = run_task(task_cls(times=3))
    before = tree(tmp_path)

    for given in (path, task_cls(times=3).output(), lineage(path).root.record_path):
        made = reproduce(given)
        assert made
        assert (made.mismatches, made.changes, made.alterations) == ((), (), ())
    assert str(made) == f"{os.path.abspath(path)}: {task_cls.__name__}(times=3) makes the same bytes again."
    assert tree(tmp_path) == before
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("limit", [0, 2, 10])
def test_outputs_in_s3_are_made_in_a_temporary_folder_and_nothing_is_sent(limit, s3):
    tasks = [InS3(bucket=s3.bucket), PrefixInS3(bucket=s3.bucket, limit=limit)]
    addresses = run_task(tasks)

    with recorded_requests() as log:
        made = [reproduce(address) for address in addresses]

    assert all(made)
    assert not any(each.alterations for each in made)
    assert not [method for method, _ in log.requests if method not in ("GET", "HEAD")]
    Path("raw.txt").write_text("other")
    assert not reproduce(addresses[0])


class Random(Upper):
    def output(self):
        return LocalFileTarget("data/random.txt")

    def run(self, output_path):
        output_path.write_text(f"{next(count):04}")


def test_bytes_that_are_never_the_same_are_told_with_sizes_and_digests():
    path = run_task(Random())

    made = reproduce(path)

    assert not made
    assert fields(made) == ["fingerprint"]
    assert made.sizes_bytes == (4, 4)
    assert made.changes == ()
    lines = str(made).splitlines()
    assert lines[0].endswith("makes other bytes than before (4 bytes then, 4 bytes now):")
    assert lines[1].startswith("  fingerprint: sha256:")
    assert "fingerprint" in made._repr_html_()


def test_what_has_changed_since_is_told(monkeypatch):
    path = run_task(Upper())
    record = json.loads(Path(f"{path}.metadata.json").read_text())
    record |= {"code": "sha256:old", "version": "1", "python": "2.7", "packages": {"luigi": "2.0", "gone": "1"}}
    Path(f"{path}.metadata.json").write_text(json.dumps(record))

    made = reproduce(path)
    assert made
    assert [change.field for change in made.changes] == ["version", "code", "python", "packages.luigi"]

    Path("raw.txt").write_text("other")
    made = reproduce(path)
    assert fields(made) == ["fingerprint", "size_bytes"]
    assert [change.field for change in made.changes][-1] == "input.raw"
    assert "Since the output was made this has changed:" in str(made)


def test_an_input_whose_bytes_were_not_recorded_is_compared_by_its_task_and_not_with_a_digest():
    path = run_task(Upper())
    record = json.loads(Path(f"{path}.metadata.json").read_text())
    record["input"]["raw"]["fingerprint"] = None
    Path(f"{path}.metadata.json").write_text(json.dumps(record))

    assert reproduce(path).changes == ()


def write_by_hand(path):
    path.write_text("by hand")


def put_a_folder_there(path):
    path.unlink()
    path.mkdir()


def assert_tells_of_alteration(made):
    assert made
    (alteration,) = made.alterations
    assert alteration.field == "fingerprint"
    assert alteration.before != alteration.after
    said, altered, what = str(made).splitlines()
    assert said.endswith("makes the same bytes again.")
    assert altered == "What lies there now is not what the record tells of:"
    assert what.startswith("  fingerprint")
    assert "What lies there now is not what the record tells of" in made._repr_html_()


@pytest.mark.parametrize("alter", [write_by_hand, put_a_folder_there])
def test_an_output_that_was_altered_since_is_said_not_to_be_what_is_recorded(alter, tmp_path):
    path = run_task(Upper())
    alter(path)
    before = tree(tmp_path)

    assert_tells_of_alteration(reproduce(path))

    assert tree(tmp_path) == before


def test_data_in_s3_that_were_altered_since_are_said_not_to_be_what_is_recorded(s3):
    addresses = run_task([InS3(bucket=s3.bucket), PrefixInS3(bucket=s3.bucket)])
    for key in ("data/object.txt", "data/prefix/a"):
        s3.put(key, b"by hand")

    for address in addresses:
        assert_tells_of_alteration(reproduce(address))


def test_data_that_were_removed_with_their_record_kept_can_be_reproduced():
    path = run_task(Upper())
    Upper().output().remove(keep_metadata=True)

    made = reproduce(path)
    assert made
    assert made.alterations == ()
    assert not path.exists()


def test_an_output_that_was_moved_with_its_record_is_reproduced(tmp_path):
    path = run_task(Upper())
    (tmp_path / "moved").mkdir()
    for name in (path, Path(f"{path}.metadata.json")):
        os.rename(name, tmp_path / "moved" / name.name)

    made = reproduce("moved/upper.txt")

    assert made
    assert made.path == str(tmp_path / "moved/upper.txt")
    assert not path.exists()


class Failing(Upper):
    def output(self):
        return {"one": LocalFileTarget("data/one.txt"), "two": LocalFileTarget("data/two.txt")}

    def run(self, output_path):
        output_path["one"].write_text("half")
        if Path("fail").exists():
            self.output()["two"].path.write_text("straight")
            message = "broken"
            raise RuntimeError(message)
        output_path["two"].write_text("whole")


def test_a_run_that_fails_leaves_outputs_and_records_as_they_were(tmp_path):
    path = run_task(Failing())["two"]
    Path("fail").touch()
    before = tree(tmp_path)

    with pytest.raises(RuntimeError, match="broken"):
        reproduce(path)

    assert tree(tmp_path) == before
    assert leftovers(tmp_path) == []
    Path("fail").unlink()
    assert reproduce(path)
    assert reproduce(Failing().output()["one"])
    assert Failing().output()["two"].path == Path("data/two.txt")


class Extended(Failing):
    def output(self):
        return {**super().output(), "three": LocalFileTarget("data/three.txt")}

    def run(self, output_path):
        super().run(output_path)
        self.output()["three"].path.write_text("3")
        assert self.output()["one"].path.parent.parent == self.output()["three"].path.parent.parent


class WritesItself(Upper):
    """Passes its output_path by."""

    def output(self):
        return luigi.LocalTarget("data/itself.txt")

    def run(self, output_path):
        output_path.write_text("text")
        assert output_path.name == "itself.txt"
        if Path("again").exists():
            with contextlib.suppress(OSError), self.output().open("w") as stream:
                stream.write("other")


def test_what_a_run_finds_in_its_output_is_redirected_too(tmp_path):
    path = run_task(WritesItself())
    Path("again").touch()
    before = tree(tmp_path)

    reproduce(path)

    assert tree(tmp_path) == before


def test_outputs_of_a_super_class_are_redirected_once(tmp_path):
    class Whole(Failing):
        def output(self):
            return {**super().output(), "three": LocalFileTarget("data/three.txt")}

        def run(self, output_path):
            super().run(output_path)
            output_path["three"].write_text("3")
            self.set_status_message("nearly")

    run_task(Whole())
    before = tree(tmp_path)

    assert reproduce("data/three.txt")
    assert tree(tmp_path) == before


class Yielding(Upper):
    def output(self):
        return LocalFileTarget("data/yielding.txt")

    def run(self, output_path):
        first = yield {"upper": Upper()}
        second = yield [Folder()]
        output_path.write_text(first["upper"].read_text() + (second[0] / "a").read_text())


class Waiting(Upper):
    def output(self):
        return LocalFileTarget("data/waiting.txt")

    async def run(self, input_path, output_path):
        output_path.write_text(input_path["raw"].read_text())


def test_generators_and_coroutines_are_run_with_what_they_yield_in_place():
    paths = run_task([Yielding(), Waiting()])

    assert all(reproduce(path) for path in paths)
    Upper().output().remove()
    with pytest.raises(
        TargetNotFoundError, match=r"Yielding\(times=1\) yields Upper\(times=1\), which is not complete"
    ):
        reproduce(paths[0])
    assert not Upper().complete()


def test_an_input_that_is_gone_is_named_and_nothing_upstream_is_run():
    path = run_task(Upper())
    os.remove("raw.txt")

    with pytest.raises(TargetNotFoundError, match=r"raw\.txt does not exist"):
        reproduce(path)


def test_inputs_are_copies_even_where_links_are_configured(monkeypatch):
    class Careless(Upper):
        def run(self, input_path, output_path):
            output_path.write_text(input_path["raw"].read_text())
            if Path("again").exists():
                input_path["raw"].write_text("spoilt")

    run_task(Careless())
    Path("again").touch()
    monkeypatch.setenv("SUPERLUIGI_INPUT_MODE", "link")

    assert reproduce("data/upper.txt")
    assert Path("raw.txt").read_text() == "raw"


# Which task


class Dated(Upper):
    date = DateParameter()
    note = Parameter(default="", significant=False)
    token = Parameter(visibility=ParameterVisibility.PRIVATE)

    def output(self):
        return LocalFileTarget("data/dated.txt")

    def run(self, output_path):
        output_path.write_text(f"{self.date} {self.token}")


def test_parameters_are_those_of_the_record_and_private_ones_come_from_the_configuration():
    configuration = {"Dated": {"token": "secret"}}
    path = run_task(Dated, config={"Dated": {"token": "secret", "date": "2022-12-15"}})

    with pytest.raises(MissingParameterError, match=r"Private and hidden ones stand in no record.*\[Dated\]"):
        reproduce(path)
    for section, options in configuration.items():
        for name, value in options.items():
            luigi.configuration.get_config().set(section, name, value)
    made = reproduce(path)
    assert made
    assert "2022-12-15" in made.task
    assert "secret" not in str(made)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task_family": None}, "names no task: it was written by hand"),
        ({"task_family": "Unknown"}, r"made by the task Unknown of the module .*, but no such class is defined here"),
        ({"task_family": "Unknown", "task_module": "no.such.module"}, r"no\.such\.module cannot be imported"),
        ({"task_family": "Unknown", "task_module": "__main__"}, "Import the module that defines it"),
        ({"params": {"times": "many"}}, r"the parameter times = many, which the IntParameter of Upper cannot read"),
    ],
    ids=["by hand", "unknown", "no module", "a script", "parameter"],
)
def test_a_record_whose_task_cannot_be_built_is_refused_in_words(changes, words):
    path = run_task(Upper())
    record = json.loads(Path(f"{path}.metadata.json").read_text())
    Path(f"{path}.metadata.json").write_text(json.dumps(record | changes))

    with pytest.raises(TaskTypeError, match=words):
        reproduce(path)


class NotAtomic(TaskWithMetadata):
    def output(self):
        return LocalFileTarget("data/not_atomic.txt")

    def run(self, metadata):
        with self.output().open("w") as stream:
            stream.write(f"{next(count)}")


def test_a_task_that_is_not_atomic_is_refused_before_it_runs(tmp_path):
    path = run_task(NotAtomic())
    before = tree(tmp_path)

    assert verify(path)
    with pytest.raises(TaskTypeError, match="NotAtomic is not atomic: it writes to its outputs itself"):
        reproduce(path)
    assert tree(tmp_path) == before


class Table(luigi.Target):
    def exists(self):
        return Path("table").exists()


class WithTable(Upper):
    def output(self):
        return [LocalFileTarget("data/with_table.txt"), Table()]

    def run(self, output_path):
        output_path[0].write_text("text")
        Path("table").touch()


def test_an_output_that_cannot_be_redirected_is_refused_before_the_run(tmp_path):
    path = run_task(WithTable())[0]
    os.remove("table")

    with pytest.raises(TaskTypeError, match="a Table, which cannot be redirected"):
        reproduce(path)
    assert not Path("table").exists()


class WithValues(Upper):
    def output(self):
        return {"file": LocalFileTarget("data/values.txt"), "value": MemoryTarget(), "effect": NoTarget()}

    def run(self, output_path):
        output_path["file"].write_text("text")
        output_path["value"].set(next(count))


def test_values_that_a_run_sets_are_its_own():
    made = run_task(WithValues())
    value = made["value"].get()

    assert reproduce(made["file"])
    assert WithValues().output()["value"].get() == value


def test_an_output_that_its_task_no_longer_promises_is_refused():
    path = run_task(Failing())["one"]
    moved = Path("data/moved.txt")
    os.rename(path, moved)
    record = json.loads(Path(f"{path}.metadata.json").read_text())
    record["output"]["path"] = "data/moved.txt"
    Path("data/moved.txt.metadata.json").write_text(json.dumps(record))

    with pytest.raises(TaskTypeError, match=r"does not promise .*moved\.txt, but data/one\.txt, data/two\.txt"):
        reproduce(moved)


def test_the_class_is_imported_by_the_module_that_the_record_names(tmp_path):
    Path("pipeline.py").write_text(
        "from superluigi import *\n"
        "class Made(AtomicTaskWithMetadata):\n"
        "    def output(self): return LocalFileTarget('made.txt')\n"
        "    def run(self, output_path): output_path.write_text('made')\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent.parent}{os.pathsep}{tmp_path}"}
    make = "import pipeline, superluigi; superluigi.run_task(pipeline.Made())"
    again = "from superluigi.reproduction import reproduce; made = reproduce('made.txt'); print(made); assert made"

    for program in (make, again):
        told = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False
        )
        assert told.returncode == 0, told.stderr

    assert told.stdout == f"{tmp_path}/made.txt: Made() makes the same bytes again.\n"
