"""An S3 server inside the process, for tests and tutorials: `embedded_s3`, and a pytest fixture around it.

It is moto's server, run in a thread; programs that are started, and workers that are forked, while it runs reach it
as well. It is not S3: moto checks no permissions and keeps everything in memory. The invariant: when the last block
is left, the environment, boto3's default session and s3fs are as they were found, and moto holds nothing.

There is one server per process, because moto keeps one state and the environment is one. A block that is entered
while another is open, inside it or in another thread, joins the server that runs.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import logging
import os
import re
import socket
import sys
import threading
from typing import TYPE_CHECKING

from superluigi.errors import ConfigError, InvalidNameError, MissingExtraError
from superluigi.forks import open_in_forks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from boto3.session import Session
    from moto.server import ThreadedMotoServer
    from mypy_boto3_s3 import S3Client

__all__ = ["EmbeddedS3", "embedded_s3"]

_HOST = "127.0.0.1"  # by number: botocore then puts the bucket into the path, and no name has to be resolved
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "embedded-s3",
    "AWS_SECRET_ACCESS_KEY": "embedded-s3",
    "AWS_DEFAULT_REGION": "us-east-1",
}
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HIGHEST_PORT = 65_535

_lock = open_in_forks(threading.RLock())
_blocks: list[_Block] = []
_moto: ThreadedMotoServer | None = None


class EmbeddedS3:
    """A running server, as one `embedded_s3` block sees it. Pickles, so that a worker process can be handed it."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url
        self._created: list[str] = []

    def __repr__(self) -> str:
        """Show where the server listens."""
        return f"EmbeddedS3({self.endpoint_url})"

    def client(self) -> S3Client:
        """Give a new boto3 client for this server, whatever the environment says by now. Safe between threads."""
        with _lock:  # boto3's sessions are not safe between threads, its clients are
            return _session().client("s3", endpoint_url=self.endpoint_url)

    def create_bucket(self, name: str) -> None:
        """Create an empty bucket; one that is there already stays as it is.

        Raises:
            InvalidNameError: S3 does not allow this name.
        """
        # moto still takes the names that S3 allowed before 2018.
        if not _BUCKET.fullmatch(name):
            way_out = "Use 3 to 63 lower-case letters, digits, dots and hyphens, with a letter or digit at both ends."
            raise InvalidNameError(name, "cannot be the name of a new bucket", way_out)
        client = self.client()
        if name in {bucket.get("Name") for bucket in client.list_buckets()["Buckets"]}:
            return
        client.create_bucket(Bucket=name)
        self._created.append(name)

    def _remove_created_buckets(self) -> None:
        if not self._created:
            return
        client = self.client()
        for name in self._created:
            # A bucket that the block deleted is gone, and one that it locked (object lock) stays to the end.
            with contextlib.suppress(client.exceptions.ClientError):
                for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
                    for version in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                        client.delete_object(Bucket=name, Key=version["Key"], VersionId=version["VersionId"])
                client.delete_bucket(Bucket=name)


@contextlib.contextmanager
def embedded_s3(*buckets: str, port: int = 0) -> Iterator[EmbeddedS3]:
    """Start an S3 server at 127.0.0.1, create the buckets, and point boto3, s3fs and Super Luigi at it for the block.

    `port` 0 takes a free one. All variables `AWS_*` and `BOTO_*` are set aside for the block, and so are the files
    under `~/.aws` and boto3's default session: no program in the block, or started by it, finds real credentials.
    Clients that were made before the block stay with what they were made for.

    A block that is entered while another is open joins its server: it sees the buckets that are there, and takes away
    those that it created itself when it is left. Blocks may be left in any order; the last one stops the server, and
    nothing that was stored is kept. In a child that was forked inside the block, its end touches nothing but the
    child's own environment.

    moto's answers carry two `Server` headers, which s3fs refuses in Python's development mode (`python -X dev`).

    Raises:
        MissingExtraError: moto is not installed.
        ConfigError: the port is taken or is none, or a server is running already, on another port.
        InvalidNameError: S3 does not allow the name of a bucket.
    """
    block = _enter(port)
    try:
        for name in buckets:
            block.server.create_bucket(name)
        yield block.server
    finally:
        _leave(block)


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture
    def embedded_s3_server() -> Iterator[EmbeddedS3]:
        """A running `embedded_s3` without buckets, for the time of one test.

        Name the module in the `conftest.py` beside your pyproject.toml, and ask for the fixture in a test:

            pytest_plugins = ["superluigi.testing"]

            def test_totals_are_published(embedded_s3_server):
                embedded_s3_server.create_bucket("shops")
                run_task(TotalsTask())

        Starting and stopping takes about a second. For many tests, open a block for the whole session in a fixture
        of your own: the servers of the single tests then join it.
        """
        with embedded_s3() as server:
            yield server

    __all__ += ["embedded_s3_server"]

# pytest warns of a plugin that is imported before it is named, as a conftest does that imports `embedded_s3`, too. With
# this in its docstring a module is not to be rewritten, and may have been: nothing here asserts for a test.
__doc__ = f"{__doc__}\nPYTEST_DONT_REWRITE\n"


class _Block:
    """One open block, and what it found around it."""

    def __init__(self, server: EmbeddedS3) -> None:
        import boto3

        self.server = server
        self.process_id = os.getpid()
        self.environment = {name: value for name, value in os.environ.items() if _is_ours(name)}
        self.boto3_session = boto3.DEFAULT_SESSION

    def set_up(self) -> None:
        import boto3

        unproxied = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        if unproxied.strip() != "*":
            unproxied = ",".join(filter(None, [unproxied, _HOST]))
        _replace_environment(
            {
                **_CREDENTIALS,
                "AWS_ENDPOINT_URL": self.server.endpoint_url,
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "AWS_EC2_METADATA_DISABLED": "true",  # where a test takes the credentials away, nobody asks the network
                "NO_PROXY": unproxied,
                "no_proxy": unproxied,
            }
        )
        boto3.DEFAULT_SESSION = None  # it would hold on to the credentials that it was made with
        _forget_s3fs_instances()
        logging.getLogger("werkzeug").addFilter(self._is_alarming)

    def put_back(self) -> None:
        import boto3

        _replace_environment(self.environment)
        boto3.DEFAULT_SESSION = self.boto3_session
        _forget_s3fs_instances()

    def hand_over(self, later: _Block) -> None:
        later.environment = self.environment
        later.boto3_session = self.boto3_session

    def close_log(self) -> None:
        logging.getLogger("werkzeug").removeFilter(self._is_alarming)

    def _is_alarming(self, record: logging.LogRecord) -> bool:
        # A filter, not a level: werkzeug sets up its own level and handler, once, and would take ours for the user's.
        return record.levelno >= logging.ERROR


def _enter(port: int) -> _Block:
    global _moto  # noqa: PLW0603  (one server per process, as moto's state is)
    with _lock:
        is_first = _moto is None
        if _moto is None:
            _moto = _started(port)
        running_at = _moto.get_host_and_port()[1]
        if port not in {0, running_at}:
            message = (
                f"port={port} was asked for, but this process has an embedded S3 server at port {running_at} already, "
                "and can have one only. Leave the port out to join it, or leave the other block first."
            )
            raise ConfigError(message)
        block = _Block(EmbeddedS3(f"http://{_HOST}:{running_at}"))
        _blocks.append(block)
        block.set_up()
        if is_first:
            _forget_stored(running_at)  # moto's own decorators leave things behind
        return block


def _leave(block: _Block) -> None:
    global _moto  # noqa: PLW0603  (one server per process, as moto's state is)
    with _lock:
        position = _blocks.index(block)
        is_last = len(_blocks) == 1
        if block.process_id == os.getpid():
            if not is_last:
                block.server._remove_created_buckets()  # noqa: SLF001  (a block is a server's other half)
            elif _moto is not None:
                _forget_stored(_moto.get_host_and_port()[1])
                _moto.stop()
        # else: a forked child has the server without its thread. Stopping it would wait for ever, and what is stored
        # is the parent's.
        if is_last:
            _moto = None
        del _blocks[position]
        if position == len(_blocks):
            block.put_back()
        else:
            block.hand_over(_blocks[position])
        block.close_log()


@functools.cache
def _session() -> Session:
    import boto3

    # Kept, since a new session reads all of botocore's descriptions again: 100 ms a client, instead of 4.
    return boto3.session.Session(
        aws_access_key_id=_CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=_CREDENTIALS["AWS_DEFAULT_REGION"],
    )


def _started(port: int) -> ThreadedMotoServer:
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise MissingExtraError(extra="testing", module=(error.name or "moto").partition(".")[0]) from error

    if not 0 <= port <= _HIGHEST_PORT:
        message = f"port={port} is no port: they go from 1 to {_HIGHEST_PORT}. Leave it out to get a free one."
        raise ConfigError(message)
    if port != 0:
        try:
            socket.create_server((_HOST, port)).close()  # moto would wait for ever for a server that did not start
        except OSError as error:
            message = f"port={port} cannot be used for the embedded S3 server: {error}. Leave it out to get a free one."
            raise ConfigError(message) from error
    moto = ThreadedMotoServer(_HOST, port, verbose=False)
    moto.start()
    assert moto._server is not None  # noqa: SLF001  (moto offers no place for a layer of one's own)
    moto._server.app = _OneAtATime(moto._server.app)  # noqa: SLF001
    return moto


class _OneAtATime:
    """moto, with requests that are whole as those of S3.

    By itself it checks the condition of a PUT and writes later, so that of two with `If-None-Match: *` at once both can
    win, and it fails to read an object that is replaced meanwhile.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # The body first: who sends slowly keeps nobody waiting.
        size_bytes = -1 if environ.get("wsgi.input_terminated") else int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(size_bytes))
        with self._lock:
            return self._app(environ, start_response)


def _forget_stored(port: int) -> None:
    # By hand, since urllib would ask a proxy: https://docs.getmoto.org/en/latest/docs/server_mode.html#reset-api
    connection = http.client.HTTPConnection(_HOST, port, timeout=60)
    try:
        connection.request("POST", "/moto-api/reset")
        connection.getresponse().read()
    finally:
        connection.close()


def _is_ours(name: str) -> bool:
    return name.startswith(("AWS_", "BOTO_")) or name.upper() == "NO_PROXY"


def _replace_environment(values: dict[str, str]) -> None:
    for name in [name for name in os.environ if _is_ours(name)]:
        del os.environ[name]
    os.environ.update(values)


def _forget_s3fs_instances() -> None:
    # fsspec gives one instance for equal arguments, and the endpoint that it was made with is not among them.
    if (s3fs := sys.modules.get("s3fs")) is not None:
        s3fs.S3FileSystem.clear_instance_cache()
