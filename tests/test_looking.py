"""Looking at many targets in S3 at once: the same answers as one by one, and few requests."""

from __future__ import annotations

import json
import math
import uuid
from typing import TYPE_CHECKING, Any

import luigi
import pytest
from fault_proxy import fault_proxy
from server_log import recorded_requests

from superluigi import (
    AtomicTaskWithMetadata,
    BucketNotFoundError,
    LocalFileTarget,
    S3ObjectTarget,
    S3PrefixTarget,
    plan,
    run_task,
)
from superluigi.plans import Verdict
from superluigi.staleness import Cause
from superluigi.storage import workplace
from superluigi.targets.looking import look_together
from superluigi.targets.publishing import StagedOutput

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import S3

    from superluigi.targets import Target


@pytest.fixture
def records_bucket(s3: S3) -> str:
    name = f"records-{uuid.uuid4().hex}"
    s3.client().create_bucket(Bucket=name)
    return name


def publish(target: Target, text: str = "data", run_id: str = "a") -> None:
    with target.store.staging() as folder:
        staged = StagedOutput(target, folder)
        path = staged.path if isinstance(target, S3ObjectTarget) else staged.path / "part"
        path.write_text(text)
        staged.publish({"run_id": run_id, "task_id": "1", "output": staged.facts()})


def put_record(s3: S3, target: Target, **fields: Any) -> None:
    key = str(target.metadata_path).removeprefix(f"s3://{s3.bucket}/")
    s3.put(key, json.dumps({**json.loads(s3.get(key)), **fields}).encode())


def in_between(s3: S3, target: Target, text: str) -> None:
    """Leave what a kill between record and data leaves: the new record holds the old one."""
    publish(target, "data", "a")
    old = target.read_metadata()
    digest = old["output"]["fingerprint"] if text == "data" else "sha256:of other bytes"
    put_record(s3, target, run_id="b", output={**old["output"], "fingerprint": digest}, superseded=old)


def put_again_elsewhere(s3: S3, target: Any) -> None:
    """Let another machine publish the same bytes in another run."""
    publish(target, "data", "a")
    key = target.path.removeprefix(f"s3://{s3.bucket}/")
    told = s3.client().head_object(Bucket=s3.bucket, Key=key)["Metadata"]
    s3.client().put_object(Bucket=s3.bucket, Key=key, Body=b"data", Metadata={**told, "superluigi-run-id": "b"})
    put_record(s3, target, run_id="b", superseded=json.loads(s3.get(f"{key}.metadata.json")))


SITUATIONS: dict[str, Callable[[S3, Any], object]] = {
    "nothing": lambda s3, target: None,
    "data alone": lambda s3, target: s3.put(f"{target.name}", b"raw"),
    "published": lambda s3, target: publish(target),
    "published twice": lambda s3, target: (publish(target, "first"), publish(target, "data", "b")),
    "the same published twice": lambda s3, target: (publish(target), publish(target, run_id="b")),
    "the same put again elsewhere": put_again_elsewhere,
    "killed before the data": lambda s3, target: in_between(s3, target, "other"),
    "killed before the same data": lambda s3, target: in_between(s3, target, "data"),
    "altered": lambda s3, target: (publish(target), s3.put(target.name, b"other")),
    "record alone": lambda s3, target: (publish(target), s3.client().delete_object(Bucket=s3.bucket, Key=target.name)),
    "removed on purpose": lambda s3, target: (publish(target), target.remove(keep_metadata=True)),
    "record lost": lambda s3, target: (publish(target), target.store.metadata_bucket.delete([target._metadata_key])),
    "record damaged": lambda s3, target: (publish(target), s3.put(f"{target.name}.metadata.json", b"{")),
    "record by hand": lambda s3, target: (s3.put(target.name, b"x"), target.write_metadata({"by": "hand"})),
    "record accepted": lambda s3, target: (publish(target), put_record(s3, target, accepted={"version": "2"})),
    "marked": lambda s3, target: (publish(target), target.store.mark("a")),
}


def made(s3: S3, records_bucket: str) -> list[Any]:
    """Give a target for each situation, and some of other kinds."""
    targets: list[Any] = []
    for number, situation in enumerate(SITUATIONS.values()):
        targets.append(S3ObjectTarget(s3.bucket, f"{number:02}.txt"))
        situation(s3, targets[-1])
    elsewhere = S3ObjectTarget(s3.bucket, "elsewhere.txt", records_bucket, "a/record.json")
    prefixes = [S3PrefixTarget(s3.bucket, name) for name in ("whole", "broken-off", "none", "changed")]
    inside = S3PrefixTarget(s3.bucket, "inside", metadata_inside_prefix=True)
    for target in (elsewhere, *prefixes[:2], prefixes[3], inside):
        publish(target)
    s3.put("broken-off/.superluigi-unfinished")
    s3.put("changed/more")
    of_record = S3ObjectTarget(s3.bucket, "02.txt.metadata.json")  # the data are the record of another
    return [*targets, elsewhere, *prefixes, inside, of_record]


def looked(targets: list[Any]) -> dict[str, Any]:
    return {str(target): target.store.look() for target in targets}


def test_the_answers_are_those_of_each_target_whatever_is_known(
    s3: S3, records_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = made(s3, records_bucket)
    alone = looked(targets)

    assert look_together(targets) == alone  # this machine has published them
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(tmp_path / "another"))
    assert look_together([*targets, LocalFileTarget(tmp_path / "local")]) == alone
    assert look_together(targets) == alone  # and now has seen them
    assert look_together(targets[:2]) == looked(targets[:2])  # too few for a listing


def test_the_answers_are_those_of_each_target_where_listings_are_denied(
    s3: S3, records_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = [target for target in made(s3, records_bucket) if isinstance(target, S3ObjectTarget)]
    alone = looked(targets)

    with fault_proxy(s3.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        proxy.misbehave("403", "ListObjectsV2", math.inf)
        found = look_together(targets)

    assert found == alone
    assert sum(operation == "ListObjectsV2" for operation, _ in proxy.log) == 1


def test_what_cannot_be_asked_is_told_of_each_target(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = [S3ObjectTarget("no-such-bucket", f"{number}") for number in range(20)]
    there = S3ObjectTarget(s3.bucket, "a")
    publish(there)

    with recorded_requests() as log:
        found = look_together([*absent, there])

    assert all(isinstance(found[str(target)], BucketNotFoundError) for target in absent)
    assert found[str(there)] == there.store.look()
    assert sum("no-such-bucket" in path for _, path in log.requests) <= 2


# How often S3 is asked

TASKS = 12


class InS3(AtomicTaskWithMetadata):
    bucket = luigi.Parameter(significant=False)
    number = luigi.IntParameter()
    factor = luigi.IntParameter(default=1)

    def requires(self) -> Any:
        return self.clone(number=self.number - 1) if self.number % 2 else None

    def output(self) -> Any:
        return S3ObjectTarget(self.bucket, f"made/{self.number:03}")

    def run(self, output_path: Path) -> None:
        output_path.write_text(f"{self.number}")


class Everything(luigi.WrapperTask):
    bucket = luigi.Parameter()

    def requires(self) -> Any:
        return [InS3(bucket=self.bucket, number=number) for number in range(1, TASKS, 2)]


def asked(task: luigi.Task) -> list[tuple[str, str]]:
    """Give what S3 is asked while a task is planned, of which nothing is to run."""
    with recorded_requests() as log:
        planned = plan(task, rerun_stale=True)
    assert len(planned.of(Verdict.SKIP)) == TASKS + 1
    return log.requests


def test_the_machine_that_made_the_outputs_asks_with_listings_alone(s3: S3) -> None:
    run_task(Everything(bucket=s3.bucket))

    assert [(method, path.strip("/")) for method, path in asked(Everything(bucket=s3.bucket))] == [("GET", s3.bucket)]


def test_another_machine_asks_for_each_until_a_run_has_kept_what_it_was_told(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_task(Everything(bucket=s3.bucket))
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(tmp_path / "another"))

    for _ in range(2):  # a plan writes nothing
        requests = asked(Everything(bucket=s3.bucket))
        assert sum(method == "HEAD" for method, _ in requests) == TASKS
        assert sum(method == "GET" and path.endswith(".metadata.json") for method, path in requests) == TASKS
        assert len(requests) == 2 * TASKS + 1
        assert not (tmp_path / "another").exists()
    with recorded_requests() as log:
        run_task(Everything(bucket=s3.bucket), rerun_stale=True)

    assert len(log.of("GET", ".metadata.json")) == TASKS
    assert len(asked(Everything(bucket=s3.bucket))) == 1


@pytest.mark.parametrize("change", ["record", "data", "both"])
def test_what_was_changed_behind_our_back_is_noticed(s3: S3, change: str) -> None:
    run_task(Everything(bucket=s3.bucket))
    task = InS3(bucket=s3.bucket, number=2)
    if change in ("record", "both"):
        put_record(s3, task.output(), params={"number": "2", "factor": "7"})
    if change in ("data", "both"):
        s3.put("made/002", b"other")

    (reason,) = plan(Everything(bucket=s3.bucket), rerun_stale=True)[task].reasons

    assert reason.cause is (Cause.PARAMETER if change == "record" else Cause.ALTERED)


def test_who_only_looks_asks_and_keeps_nothing(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = S3ObjectTarget(s3.bucket, "a")
    publish(target)
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(tmp_path / "another"))

    with workplace.hands_off():
        assert look_together([target]) == {str(target): target.store.look()}

    assert not (tmp_path / "another").exists()
