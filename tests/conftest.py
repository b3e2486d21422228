"""What every test finds: nothing of this machine's settings, and nothing of an earlier test.

A test that needs S3 asks for `s3` or, where the name is enough, for `bucket`. Both give a bucket of the test's own
on one server, which is started when the first test asks for it and, under pytest-xdist, once per worker.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import secrets
import signal
import sys
import types
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import luigi
import pytest
from luigi.configuration.cfg_parser import LuigiConfigParser
from luigi.configuration.toml_parser import LuigiTomlParser
from luigi.setup_logging import DaemonLogging, InterfaceLogging
from luigi.task_register import Register
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from superluigi.testing import EmbeddedS3, embedded_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

# No deadline: two cores may be busy with other tests. No database: it would be written beside the sources. Where a
# change is checked it does not pass or fail by what is drawn; everywhere else each run draws anew.
hypothesis.settings.register_profile("superluigi", deadline=None, database=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("superluigi")

pytest_plugins = ["browser", "engines", "measuring"]

_FOREIGN_SETTINGS = ("AWS_", "BOTO_", "LUIGI_", "OPENLINEAGE_", "SUPERLUIGI_")
_PROXIES = ("_PROXY", "_proxy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `test_crash.py` kill at all points, or at those of an earlier run."""
    group = parser.getgroup("superluigi")
    group.addoption("--every-kill", action="store_true", help="kill runs before each of their steps, not every third")
    group.addoption("--kill-seed", type=int, metavar="N", help="draw the steps to kill at as the run that named N did")


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGINT interrupt, and draw the seed before pytest-xdist hands the options on to its workers."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and theirs, ignore it
    if config.option.kill_seed is None:
        config.option.kill_seed = secrets.randbelow(1_000_000)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep what a test printed and logged only if it fails: a process that has grown to gigabytes forks slowly."""
    report = yield
    if report.passed:
        report.sections.clear()
    if call.when == "teardown":
        item._report_sections.clear()
    return report


def pytest_report_header(config: pytest.Config) -> str:
    """Say which seed it is."""
    return "kills: at every step" if config.option.every_kill else f"kills: --kill-seed {config.option.kill_seed}"


@pytest.fixture(autouse=True)
def local_data_dir(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a data directory and a working directory of the test's own, and no settings from outside.

    Those of AWS, Luigi, OpenLineage, Super Luigi and proxies are removed. Gives the data directory, which does not
    exist yet. It is not inside `tmp_path`, so a test can say that its `tmp_path` holds this and nothing else.
    `tmp_path` is the working directory.
    """
    home = tmp_path_factory.mktemp("home")
    data_dir = home / "superluigi-data"
    for name in [name for name in os.environ if name.startswith(_FOREIGN_SETTINGS) or name.endswith(_PROXIES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(data_dir))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # without credentials botocore asks the network for some
    monkeypatch.chdir(tmp_path)
    return data_dir


def _is_of_tests(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and Path(file).parent == Path(__file__).parent


@pytest.fixture(autouse=True)
def fresh_luigi(
    local_data_dir: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Luigi as it was before any test: its instances, task classes, settings, events and loggers.

    Of the task classes those of other test modules are unknown: Luigi looks them up by their bare names.
    """
    for parser in (LuigiConfigParser, LuigiTomlParser):
        monkeypatch.setattr(parser, "_instance", None)
        monkeypatch.setattr(parser, "_config_paths", list(parser._config_paths))
    for setup in (InterfaceLogging, DaemonLogging):
        monkeypatch.setattr(setup, "_configured", False)
    seen = {
        getattr(value, "__module__", None) or getattr(value, "__name__", "") for value in vars(request.module).values()
    }
    seen |= {value.__name__ for value in vars(request.module).values() if isinstance(value, types.ModuleType)}
    known = [cls for cls in Register._reg if cls.__module__ in seen or not _is_of_tests(cls.__module__)]
    monkeypatch.setattr(Register, "_reg", known)
    monkeypatch.setattr(Register, "_default_namespace_dict", dict(Register._default_namespace_dict))
    callbacks = {
        cls: {event: set(called) for event, called in events.items()}
        for cls, events in luigi.Task._event_callbacks.items()
    }
    monkeypatch.setattr(luigi.Task, "_event_callbacks", callbacks)
    loggers = [logging.getLogger(name) for name in ("luigi", "luigi-interface", "luigi.scheduler")]
    found = [(log, log.level, log.propagate, log.disabled, list(log.handlers)) for log in loggers]
    Register.clear_instance_cache()
    yield
    Register.clear_instance_cache()
    for log, level, propagate, is_disabled, handlers in found:
        log.setLevel(level)
        log.propagate, log.disabled, log.handlers = propagate, is_disabled, handlers


@dataclass(frozen=True)
class S3:
    """A bucket of one test, with the short ways to fill it and to look into it."""

    bucket: str
    server: EmbeddedS3

    @property
    def endpoint_url(self) -> str:
        return self.server.endpoint_url

    def client(self) -> S3Client:
        """Give a new boto3 client."""
        return self.server.client()

    def put(self, key: str, body: bytes = b"") -> str:
        """Store an object; gives its address, `s3://bucket/key`."""
        self.client().put_object(Bucket=self.bucket, Key=key, Body=body)
        return f"s3://{self.bucket}/{key}"

    def get(self, key: str) -> bytes:
        """Give the bytes of an object."""
        return self.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self, prefix: str = "") -> list[str]:
        """Give the keys in the bucket, sorted."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[EmbeddedS3]:
    """The S3 server of the session. It is `s3` and `bucket` that point a test at it."""
    before = dict(os.environ)
    with embedded_s3() as server:
        os.environ.clear()
        os.environ.update(before)  # a test that did not ask for S3 must not find it because another one did
        from measuring import leave_motos_part_unmeasured  # a plugin, so not before pytest has loaded it

        leave_motos_part_unmeasured()
        yield server


@pytest.fixture
def bucket(s3_server: EmbeddedS3, local_data_dir: Path) -> Iterator[str]:
    """The name of a new and empty bucket, with the environment set for it; gone after the test.

    It is made and emptied inside moto, as moto does on a request and on a reset: hundreds of tests spare six requests.
    """
    name = f"bucket-{uuid.uuid4().hex}"
    server = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    with embedded_s3():
        server.create_bucket(name, os.environ["AWS_DEFAULT_REGION"])
        yield name
        if (stored := server.buckets.pop(name, None)) is not None:
            for key in list(stored.keys):
                stored.keys.setlist(key, [])  # closes the files of what it drops
            for upload in stored.multiparts.values():
                upload.dispose()
        s3_backends.bucket_accounts.pop(name, None)


@pytest.fixture
def s3(bucket: str, s3_server: EmbeddedS3) -> S3:
    """The bucket of the test, with short ways to fill it and to look into it."""
    return S3(bucket, s3_server)


def pytest_sessionfinish() -> None:
    """See that a process that does not end, for what a test has left in it, is ended and says where it hangs."""
    faulthandler.dump_traceback_later(300, exit=True, file=sys.__stderr__)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at how many points runs were killed; the tests count them, and pytest does not show what passed."""
    points = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "kill_points"
    ]
    if points:
        seed = (
            ""
            if terminalreporter.config.option.every_kill
            else f" (--kill-seed {terminalreporter.config.option.kill_seed})"
        )
        terminalreporter.write_line(f"killed at {sum(points)} points in {len(points)} scenarios{seed}")
