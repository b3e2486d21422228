"""`superluigi doctor`: what it finds on healthy and on sick machines and stores, what it advises and leaves."""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from permissions import binding_permissions

from superluigi.cli import doctor, installation, main
from superluigi.cli.doctor import Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import S3


@pytest.fixture
def examined(capsys: pytest.CaptureFixture[str]):
    """Give the exit code and, by topic, what the doctor has found: (status, found, advice)."""

    def examined(*words: str) -> tuple[int, dict[str, list[tuple[str, str, str]]]]:
        capsys.readouterr()
        code = main(["doctor", "--json", *words])
        answer = json.loads(capsys.readouterr().out)
        topics: dict[str, list[tuple[str, str, str]]] = {}
        for check in answer["checks"]:
            assert set(check) == {"topic", "status", "found", "advice"}
            topics.setdefault(check["topic"], []).append((check["status"], check["found"], check["advice"]))
        assert answer["ok"] is (code == 0)
        return code, topics

    return examined


def found(checks: list[tuple[str, str, str]], status: str) -> str:
    """Give what was found with a status, and what to do, as one text."""
    return "\n".join(f"{what} {advice}" for each, what, advice in checks if each == status)


@contextlib.contextmanager
def answering(status: int, *, code: str = "", skew_s: float = 0) -> Iterator[str]:
    """A store that answers everything in one way, by a clock of its own."""

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return email.utils.formatdate(time.time() + skew_s, usegmt=True)

        def answer(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode() if code else b"<a/>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOFATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_a_healthy_machine_is_told_so_and_nothing_is_left(examined, tmp_path, local_data_dir) -> None:
    code, topics = examined()

    assert code == 0
    assert list(topics) == ["installation", "settings", "disk", "scheduler", "credentials"]
    assert "fail" not in {status for checks in topics.values() for status, _, _ in checks}
    assert list(tmp_path.iterdir()) == []
    assert not local_data_dir.exists()
    assert list(local_data_dir.parent.iterdir()) == []


def test_what_is_told_can_be_read(capsys) -> None:
    assert main(["doctor"]) == 0

    text = capsys.readouterr().out
    assert text.startswith("installation\n  ✓ Python 3.")
    assert text.endswith("All is well.\n")
    assert "\x1b[" not in text


# Settings


def test_settings_are_told_with_where_they_come_from(examined, monkeypatch, tmp_path) -> None:
    (tmp_path / "luigi.cfg").write_text("[superluigi]\nlease_s = 30\n")
    monkeypatch.setenv("SUPERLUIGI_DURABLE", "true")

    _, topics = examined("--config", "superluigi.input_mode=link")

    told = found(topics["settings"], "ok")
    assert f"read from {tmp_path / 'luigi.cfg'}" in told
    assert "lease_s = 30 (Luigi's configuration)" in told
    assert "durable = true (SUPERLUIGI_DURABLE)" in told
    assert "input_mode = link (this call)" in told


def test_a_setting_that_cannot_be_used_fails_and_one_that_nobody_reads_is_warned_of(examined, monkeypatch) -> None:
    monkeypatch.setenv("SUPERLUIGI_DURABEL", "true")

    code, topics = examined("--config", "superluigi.lease_s=long")

    assert code == 1
    assert "lease_s is 'long'" in found(topics["settings"], "fail")
    assert "durabel is no setting of Super Luigi. Correct or remove it. Did you mean durable?" in found(
        topics["settings"], "warn"
    )


def test_passwords_in_addresses_are_not_told(examined) -> None:
    _, topics = examined("--config", "superluigi.scheduler_url=http://me:hush@127.0.0.1:9/")

    assert "hush" not in str(topics)
    assert "http://…@127.0.0.1:9/ does not answer" in found(topics["scheduler"], "fail")


# The disk


@pytest.mark.skipif(os.name == "nt", reason="permissions of folders are of another kind there")
def test_a_data_directory_that_cannot_be_written_to_fails(examined, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(folder / "data"))

    with binding_permissions():
        code, topics = examined()

    assert code == 1
    assert "Permission denied" in found(topics["disk"], "fail")
    assert "local_data_dir" in found(topics["disk"], "fail")


def test_a_file_in_the_place_of_the_data_directory_fails(examined, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(tmp_path / "file"))

    code, topics = examined()

    assert code == 1
    assert "is a file" in found(topics["disk"], "fail")


def test_a_disk_that_is_as_good_as_full_is_warned_of(examined, monkeypatch) -> None:
    from superluigi.storage import cache

    disk = cache.shutil.disk_usage("/")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type(disk)(disk.total, disk.total, 1000))

    code, topics = examined()

    assert code == 0
    assert "superluigi cache prune" in found(topics["disk"], "warn")


# The scheduler


def test_a_scheduler_is_asked_where_one_is_configured(examined) -> None:
    with answering(200) as url:
        _, there = examined("--config", f"superluigi.scheduler_url={url}")
    with answering(503) as url:
        code, sick = examined("--config", f"core.scheduler_url={url}")

    assert "answers." in found(there["scheduler"], "ok")
    assert code == 1
    assert "answers 503" in found(sick["scheduler"], "fail")


def test_a_scheduler_is_asked_with_the_user_and_the_password_of_its_address(examined) -> None:
    with answering(200) as url:
        code, topics = examined("--config", f"superluigi.scheduler_url={url.replace('://', '://me:secret@')}")

    assert code == 0
    assert "…@127.0.0.1" in found(topics["scheduler"], "ok")


def test_a_setting_that_cannot_be_used_is_told_once_and_without_a_wrong_advice(examined) -> None:
    _, topics = examined("--config", "superluigi.cache_max_bytes=lots")

    assert "'lots'" in found(topics["settings"], "fail")
    assert "a folder that you may write to" not in str(topics["disk"])


def test_a_profile_that_is_not_there_is_told_without_a_made_up_address(examined, monkeypatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobodys")

    _, topics = examined()

    told = found(topics["credentials"], "fail")
    assert "the profile does not exist" in told
    assert "s3://" not in told


# S3


def test_a_bucket_is_looked_at_without_writing(examined, s3: S3) -> None:
    s3.put("data/a", b"a")

    code, topics = examined(f"s3://{s3.bucket}/data/")

    assert code == 0
    told = found(topics[f"s3://{s3.bucket}/data/"], "ok")
    assert [word for word in ("there", "agree", "listed", "read") if word in told] == [
        "there",
        "agree",
        "listed",
        "read",
    ]
    assert "written" not in told
    assert s3.keys() == ["data/a"]


def test_writing_is_tried_where_that_is_asked_for_and_nothing_is_left(examined, s3: S3) -> None:
    code, topics = examined(f"s3://{s3.bucket}/data", f"s3://{s3.bucket}", "--write")

    assert code == 0
    for address in (f"s3://{s3.bucket}/data", f"s3://{s3.bucket}"):
        told = found(topics[address], "ok")
        for said in ("can be written", "What was written can be read", "Conditional PUTs work", "can be removed"):
            assert said in told
    assert s3.keys() == []


def test_who_the_credentials_are_of_is_told_and_never_the_key(examined, s3: S3) -> None:
    code, topics = examined()

    assert code == 0
    assert "boto3 finds credentials: env." in found(topics["credentials"], "ok")
    assert "arn:aws:" in found(topics["credentials"], "ok")
    assert "embedded-s3" not in str(topics["credentials"])


def test_without_credentials_a_bucket_fails_and_is_asked_once(examined) -> None:
    code, topics = examined("s3://some-bucket/x")

    assert code == 1
    assert "AWS_PROFILE" in found(topics["credentials"], "fail")
    assert [status for status, _, _ in topics["s3://some-bucket/x"]] == ["fail"]


def test_a_bucket_that_is_not_there_fails(examined, s3: S3) -> None:
    code, topics = examined("s3://no-such-bucket-anywhere/x", "--write")

    assert code == 1
    assert "there is no such bucket" in found(topics["s3://no-such-bucket-anywhere/x"], "fail")


def test_a_wrong_key_fails_with_the_way_out(examined, keys, monkeypatch) -> None:
    with answering(403, code="InvalidAccessKeyId") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        code, topics = examined("s3://some-bucket/x", "--write")

    assert code == 1
    assert "the access key is not known" in found(topics["s3://some-bucket/x"], "fail")
    assert "very-secret-key" not in str(topics)


def test_permissions_that_are_missing_are_told_one_by_one(examined, keys, monkeypatch) -> None:
    with answering(403, code="AccessDenied") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        code, topics = examined("s3://some-bucket/x", "--write")

    checks = topics["s3://some-bucket/x"]
    assert code == 1
    assert "ListObjectsV2" in found(checks, "warn")
    assert "Without s3:ListBucket" in found(checks, "warn")
    assert "PutObject" in found(checks, "fail")


@pytest.mark.parametrize(("skew_s", "status"), [(-3600, "fail"), (300, "warn"), (0, "ok")])
def test_a_clock_that_is_wrong_is_told(skew_s, status, examined, keys, monkeypatch) -> None:
    with answering(200, skew_s=skew_s) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        _, topics = examined("s3://some-bucket")

    assert "clock" in found(topics["s3://some-bucket"], status)
    if skew_s:
        assert "timedatectl" in found(topics["s3://some-bucket"], status)


def test_a_store_that_does_not_keep_to_conditions_is_warned_of(examined, keys, monkeypatch) -> None:
    class Careless:
        def put_if(self, *_: object, **__: object) -> str:
            return "etag"

    check = doctor._conditional(Careless(), "key", "etag", "s3://b")

    assert check.status is Status.WARN
    assert "single_flight" in check.advice


# The installation


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {text}" for text in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_versions_that_do_not_fit_together_fail_with_what_is_wanted(examined, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    distribution(
        folder, "superluigi", "0.1.0", "theirs>=1", 'absent>=1; python_version < "3"', "moto; extra == 'testing'"
    )
    distribution(folder, "theirs", "1.5", "deeper<2", "gone")
    distribution(folder, "deeper", "2.1")
    monkeypatch.syspath_prepend(folder)

    checks = list(installation.checks())

    failed = [what for status, what, _ in checks if status == "fail"]
    assert sorted(failed) == [
        "theirs needs deeper<2, but 2.1 is installed.",
        "theirs needs gone, which is not installed.",
    ]
