"""What makes two outputs differ: the causes, told once, with the way to them."""

import json
import os
from pathlib import Path

import pytest
from html_page import Page

from superluigi import (
    AtomicTaskWithMetadata,
    External,
    IntParameter,
    LocalFileTarget,
    MemoryTarget,
    Parameter,
    S3ObjectTarget,
    TargetNotFoundError,
    TaskTypeError,
    run_task,
)
from superluigi.ancestry import lineage
from superluigi.comparison import Change, diff
from superluigi.targets.metadata import RECORD_FIELDS


class Base(AtomicTaskWithMetadata):
    """A task of one of two pipelines, which are told apart by an insignificant folder."""

    folder = Parameter(significant=False)
    date = Parameter(default="monday")

    def upstream(self, cls, **params):
        return cls(folder=self.folder, **{"date": self.date, **params})

    def output(self):
        return LocalFileTarget(Path(self.folder, f"{type(self).__name__}-{self.date}.txt"))

    def run(self, output_path, metadata):
        metadata["rows"] = len(self.date)
        output_path.write_text(self.date)


class Raw(Base):
    def requires(self):
        return External(f"{self.folder}/raw.csv")


class Features(Base):
    def requires(self):
        return {"raw": self.upstream(Raw)}


class Model(Base):
    size = IntParameter(default=3)

    def requires(self):
        return [self.upstream(Raw), None]


class Predictions(Base):
    def requires(self):
        return {"features": self.upstream(Features), "model": self.upstream(Model)}


@pytest.fixture
def pipelines():
    """Make the pipeline in `a` and in `b`."""
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "raw.csv").write_text("1,2,3")
        run_task(Predictions(folder=folder))


A, B = "a/Predictions-monday.txt", "b/Predictions-monday.txt"


def changed(path, **changes):
    """Change fields of a record, as another code, version or environment would have written them."""
    record = json.loads(Path(f"{path}.metadata.json").read_text())
    for name, value in changes.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    Path(f"{path}.metadata.json").write_text(json.dumps(record))


def facts(difference):
    return [(os.path.basename(cause.where), cause.field, cause.before, cause.after) for cause in difference.causes]


def only_folders(difference):
    return [cause.field for cause in difference.causes] == ["params.folder"]


def test_every_field_of_a_record_is_compared_or_left_out_on_purpose(pipelines):
    record = json.loads(Path(f"{A}.metadata.json").read_text())

    assert set(record) - RECORD_FIELDS == {"rows"}


def test_an_output_and_itself_have_the_same_lineage(pipelines):
    difference = diff(A, A)

    assert not difference
    assert difference.causes == ()
    assert str(difference) == f"{os.path.abspath(A)} and {os.path.abspath(A)} have the same lineage."
    assert "have the same lineage" in difference._repr_html_()


def test_a_parameter_that_is_handed_on_is_told_once_where_it_is_met_first(pipelines):
    difference = diff(A, B)

    (cause,) = difference.causes
    assert difference
    assert (cause.field, cause.before, cause.after) == ("params.folder", "a", "b")
    assert cause.where == os.path.abspath("b/Raw-monday.txt")
    assert cause.task_family == "Raw"
    assert [os.path.basename(step) for step in cause.route] == [
        "Predictions-monday.txt",
        "Features-monday.txt",
        "Raw-monday.txt",
    ]
    assert sorted(map(os.path.basename, cause.others)) == [
        "Features-monday.txt",
        "Model-monday.txt",
        "Predictions-monday.txt",
    ]
    assert str(difference).splitlines() == [
        f"{os.path.abspath(A)} and {os.path.abspath(B)} differ because of:",
        "  params.folder: 'a' -> 'b'",
        f"      at Raw, {cause.where} (and at 3 more)",
        f"      by way of {' <- '.join(cause.route)}",
    ]


@pytest.mark.parametrize(
    ("changes", "field", "before", "after"),
    [
        ({"version": "2"}, "version", None, "2"),
        ({"code": "sha256:new"}, "code", ..., "sha256:new"),
        ({"python": "2.7"}, "python", ..., "2.7"),
        ({"packages": {"luigi": "9"}}, "packages.luigi", ..., "9"),
        ({"params": {"date": "tuesday"}}, "params.date", "monday", "tuesday"),
        ({"params": {"new": "1"}}, "params.new", None, "1"),
        ({"rows": 7}, "metadata.rows", 6, 7),
        ({"remark": "new"}, "metadata.remark", None, "new"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("where", ["Raw", "Features", "Predictions"])
def test_one_change_anywhere_is_the_one_cause(pipelines, where, changes, field, before, after):
    before_lineage = lineage(B)
    changed(f"b/{where}-monday.txt", **changes)

    (cause,) = diff(before_lineage, B).causes

    assert os.path.basename(cause.where) == f"{where}-monday.txt"
    assert (cause.field, cause.after) == (field, after)
    assert before is ... or cause.before == before


def test_what_follows_from_a_change_is_not_told(pipelines):
    before = lineage(A)
    Path("a/raw.csv").write_text("4,5,6")
    run_task(Predictions(folder="a"), force_upstream=True)
    changed("a/Raw-monday.txt", rows=9)

    (cause,) = diff(before, A).causes

    assert cause.field == "fingerprint"
    assert cause.where == os.path.abspath("a/raw.csv")
    assert cause.before != cause.after
    assert "sha256:" in str(cause)


def test_two_causes_that_have_nothing_to_do_with_each_other_are_both_told(pipelines):
    before = lineage(B)
    changed("b/Raw-monday.txt", code="sha256:raw")
    changed("b/Model-monday.txt", code="sha256:model", packages={"luigi": "9"})
    changed("b/Predictions-monday.txt", packages={"luigi": "9"})

    difference = diff(before, B)

    assert [(name, field) for name, field, *_ in facts(difference)] == [
        ("Raw-monday.txt", "code"),
        ("Model-monday.txt", "code"),
        ("Model-monday.txt", "packages.luigi"),
    ]
    assert [len(cause.others) for cause in difference.causes] == [0, 0, 1]


def test_other_bytes_of_the_same_task_are_told_where_nothing_else_differs(pipelines):
    before = lineage(B)
    changed("b/Features-monday.txt", output={"fingerprint": "sha256:other"})
    record = json.loads(Path(f"{B}.metadata.json").read_text())
    record["input"]["features"]["fingerprint"] = "sha256:other"
    Path(f"{B}.metadata.json").write_text(json.dumps(record))

    (cause,) = diff(before, B).causes

    assert (cause.field, cause.after) == ("output", "sha256:other")
    assert os.path.basename(cause.where) == "Features-monday.txt"


def test_a_package_that_only_one_had_loaded_is_no_difference(pipelines):
    before = lineage(B)
    changed(B, packages={"sklearn": "1.3"})

    assert not diff(before, B)


def test_run_times_host_user_and_commit_are_no_difference(pipelines):
    before = lineage(B)
    changed(
        B,
        **dict.fromkeys(["run_id", "start_time", "end_time", "host", "user", "git_commit", "task_module"], "other"),
        duration=9e9,
        git_dirty=True,
    )

    assert not diff(before, B)


class Many(Base):
    days = Parameter(default="1,2,3")
    extra = Parameter(default="")

    def requires(self):
        parts = [self.upstream(Raw, date=day) for day in self.days.split(",")]
        return {"days": parts, **({"extra": self.upstream(Features)} if self.extra else {})}

    def output(self):
        return LocalFileTarget(Path(self.folder, f"many-{self.days}-{self.extra}"))


def test_within_a_list_the_same_tasks_belong_together_wherever_they_stand():
    Path("a").mkdir()
    Path("a/raw.csv").write_text("1")
    run_task([Many(folder="a"), Many(folder="a", days="2,3,4,5")])

    difference = diff("a/many-1,2,3-", "a/many-2,3,4,5-")

    assert facts(difference) == [
        ("Raw-4.txt", "params.date", "1", "4"),
        ("many-2,3,4,5-", "params.days", "1,2,3", "2,3,4,5"),
        ("many-2,3,4,5-", "input.days.3", None, os.path.abspath("a/Raw-5.txt")),
    ]


def test_an_input_that_only_one_has_is_told():
    Path("a").mkdir()
    Path("a/raw.csv").write_text("1")
    run_task([Many(folder="a"), Many(folder="a", extra="yes")])

    features = os.path.abspath("a/Features-monday.txt")
    assert facts(diff("a/many-1,2,3-", "a/many-1,2,3-yes"))[1] == (
        "many-1,2,3-yes",
        "input.extra",
        None,
        features,
    )
    assert facts(diff("a/many-1,2,3-yes", "a/many-1,2,3-"))[1][2:] == (features, None)


def test_outputs_of_different_tasks_differ_in_their_task(pipelines):
    assert facts(diff("a/Features-monday.txt", "a/Model-monday.txt"))[0][1:] == ("task_family", "Features", "Model")


def test_a_removed_ancestor_is_compared_and_one_whose_record_is_gone_by_its_fingerprint(pipelines):
    Raw(folder="a").output().remove(keep_metadata=True)
    assert only_folders(diff(A, B))

    Raw(folder="a").output().remove()
    assert only_folders(diff(A, B))


class Value(Base):
    def requires(self):
        return self.upstream(Raw)

    def output(self):
        return MemoryTarget()

    def run(self, input_path, output_path):
        output_path.set(input_path.read_text())


class FromValue(Base):
    def requires(self):
        return self.upstream(Value)


def test_what_values_in_memory_were_made_from_is_compared():
    Path("a").mkdir()
    Path("a/raw.csv").write_text("1")
    run_task(FromValue(folder="a"))
    before = lineage("a/FromValue-monday.txt")
    Path("a/raw.csv").write_text("2")
    run_task(FromValue(folder="a"), force_upstream=True)

    (cause,) = diff(before, "a/FromValue-monday.txt").causes

    assert (cause.field, cause.where) == ("fingerprint", os.path.abspath("a/raw.csv"))


class InS3(Base):
    def requires(self):
        return self.upstream(Raw)

    def output(self):
        return S3ObjectTarget(self.folder, f"out/{self.date}.txt")


def test_lineages_in_s3_are_compared(s3):
    Path(s3.bucket).mkdir()
    Path(s3.bucket, "raw.csv").write_text("1")
    run_task([InS3(folder=s3.bucket), InS3(folder=s3.bucket, date="tuesday")])

    (cause,) = diff(f"s3://{s3.bucket}/out/monday.txt", f"s3://{s3.bucket}/out/tuesday.txt").causes

    assert (cause.field, cause.before, cause.after) == ("params.date", "monday", "tuesday")
    assert cause.where == os.path.abspath(f"{s3.bucket}/Raw-tuesday.txt")


def test_raw_data_have_no_lineage_to_compare(pipelines):
    with pytest.raises(TargetNotFoundError, match=r"no lineage record that can be followed: it is raw\. Compare"):
        diff("a/raw.csv", B)


def test_circles_and_ten_thousand_ancestors_are_compared_without_recursion():
    def write(name, inputs, code):
        links = [
            {
                "path": path,
                "fingerprint": None,
                "task_family": "T",
                "task_id": None,
                "metadata_path": f"{path}.metadata.json",
            }
            for path in inputs
        ]
        output = {"path": name, "fingerprint": None}
        record = {"schema": "superluigi/1", "task_family": "T", "code": code, "input": links, "output": output}
        Path(f"{name}.metadata.json").write_text(json.dumps(record))

    for side in "ab":
        for number in range(5_000):
            write(f"{side}{number}", [f"{side}{(number - 1) % 5_000}"], "sha256:old" if number != 1 else side)

    (cause,) = diff("a4999", "b4999").causes

    assert (cause.field, cause.before, cause.after) == ("code", "a", "b")
    assert len(cause.route) == 4_999
    assert "more …" in str(diff("a4999", "b4999"))


def test_the_table_shows_each_cause_and_no_value_opens_a_tag(pipelines):
    before = lineage(B)
    changed(B, params={"date": "<script>alert(1)</script>"}, remark="<b>")

    page = Page(diff(before, B)._repr_html_())

    assert page.tags.count("tr") == 2
    assert {"script", "b"} & set(page.tags) == set()
    assert "'<script>alert(1)</script>'" in page.words


def test_a_difference_is_a_value_that_hashes(pipelines):
    difference = diff(A, B)

    assert difference == diff(A, B)
    assert len({difference, diff(A, B)}) == 1
    assert isinstance(difference.causes[0], Change)


def test_a_task_in_place_of_an_output_is_told_by_the_name_of_diff():
    task = External("a.txt")

    with pytest.raises(TaskTypeError, match=r"^diff\(\) was given External"):
        diff(task, task)
