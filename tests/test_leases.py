"""Leases: what both kinds promise, in one suite, and then what each does in trouble of its own.

A rig is one kind of lease over a real place. Other holders are programs that are started here, told what to do line by
line, and killed or paused by signals.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import portalocker
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import strategies as st
from server_log import recorded_requests

from superluigi.errors import AccessDeniedError, LeaseError, StorageError
from superluigi.storage import leases, s3_leases, workplace
from superluigi.storage.leases import LockFile
from superluigi.storage.s3 import Bucket, Snapshot
from superluigi.storage.s3_leases import S3Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import S3

    from superluigi.storage.leases import Held, Lease

TIMEOUT_S = 60
KEY = "data/a.csv.superluigi-lease"
LONG_S = 600
ONE_TRY = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5)
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def eventually(holds: Callable[[], Any]) -> Any:
    """Ask until the answer is true, and give it."""
    until = time.monotonic() + TIMEOUT_S
    while not (answer := holds()):
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.02)
    return answer


def at_once(count: int, do: Callable[[], Any]) -> list[Any]:
    """Do the same in so many threads that start together; gives what they gave."""
    barrier = threading.Barrier(count)
    given_back: list[Any] = []

    def work() -> None:
        barrier.wait(TIMEOUT_S)
        given_back.append(do())

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given_back) == count
    return given_back


def renewing_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "superluigi-leases"]


@pytest.fixture(autouse=True)
def no_renewing_thread_is_left() -> Iterator[None]:
    yield
    assert renewing_threads() == []
    assert leases._open_handles == set()


# Programs that hold leases

PROGRAM = """
import os, pickle, sys
lease = pickle.loads(bytes.fromhex(sys.argv[1]))
held = None
print("ready", flush=True)
for line in sys.stdin:
    command = line.strip()
    try:
        if command == "take":
            held = lease.take()
            print("held" if held else "none", flush=True)
        elif command == "contend":  # a file that only a sole holder can make stands for the output
            for _ in range(300):
                if held := lease.take():
                    os.close(os.open("inside", os.O_CREAT | os.O_EXCL))
                    held.confirm()
                    os.unlink("inside")
                    held.release()
            print("done", flush=True)
        elif command == "fork":
            child = os.fork()
            if child == 0:
                import signal
                signal.pause()
            print(child, flush=True)
        else:
            getattr(held, command)()
            print("done", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


class Program:
    """Another process with a lease."""

    def __init__(self, lease: Lease) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, pickle.dumps(lease).hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.heard()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def does(self, command: str) -> str:
        self.tell(command)
        return self.heard()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[Lease], Program]]:
    with contextlib.ExitStack() as running:

        def started(lease: Lease) -> Program:
            program = Program(lease)
            running.callback(program.end)
            return program

        yield started


# What both kinds promise


@dataclass(frozen=True)
class Rig:
    make: Callable[[float], Lease]
    left: Callable[[], list[str]]

    def lease(self, lease_s: float = LONG_S) -> Lease:
        return self.make(lease_s)


def files_below(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.name != "data")


@pytest.fixture(params=["lock-file", "s3"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    if request.param == "lock-file":
        return Rig(lambda _: LockFile(tmp_path / "data" / "a.csv"), lambda: files_below(tmp_path))
    s3 = request.getfixturevalue("s3")
    return Rig(lambda lease_s: S3Lease(Bucket(s3.bucket), KEY, lease_s=lease_s), s3.keys)


def test_a_lease_is_held_by_one_until_it_is_released(rig: Rig) -> None:
    lease = rig.lease()
    free = lease.is_taken()
    held = lease.take()
    assert held is not None
    refused, taken = lease.take(), lease.is_taken()
    held.confirm()
    held.release()
    again = lease.take()
    assert again is not None
    held.release()
    kept = lease.is_taken()
    again.release()

    assert (free, refused, taken, kept, lease.is_taken()) == (False, None, True, True, False)
    assert rig.left() == []


def test_leases_of_other_outputs_are_other_leases(rig: Rig, tmp_path: Path) -> None:
    lease = rig.lease()
    change = {"key": f"{KEY}2"} if isinstance(lease, S3Lease) else {"output": tmp_path / "data" / "b"}
    other = replace(lease, **change)
    held = [lease.take(), other.take()]
    for each in held:
        assert each is not None
        each.release()

    assert lease.address != other.address
    assert rig.left() == []


def test_a_lease_that_was_released_does_not_confirm(rig: Rig) -> None:
    held = rig.lease().take()
    assert held is not None
    held.release()

    with pytest.raises(LeaseError, match=r"released.*Nothing was published"):
        held.confirm()


def test_of_threads_that_take_at_once_one_gets_it(rig: Rig) -> None:
    lease = rig.lease()
    for _ in range(5):
        held = [each for each in at_once(8, lease.take) if each is not None]
        for each in held:
            each.release()
        assert len(held) == 1

    assert rig.left() == []


def test_of_processes_that_take_at_once_one_gets_it(rig: Rig, start: Callable[[Lease], Program]) -> None:
    programs = [start(rig.lease()) for _ in range(4)]
    for program in programs:
        program.tell("take")
    answers = [program.heard() for program in programs]
    holder = programs[answers.index("held")]

    assert sorted(answers) == ["held", "none", "none", "none"]
    assert rig.lease().take() is None
    assert rig.lease().is_taken()
    assert [holder.does("confirm"), holder.does("release")] == ["done", "done"]
    assert not rig.lease().is_taken()
    assert rig.left() == []


def test_threads_that_take_and_release_again_and_again_never_hold_it_together(rig: Rig) -> None:
    lease = rig.lease()
    inside = threading.Semaphore(1)
    rounds = 12 if isinstance(lease, S3Lease) else 200

    def work() -> int:
        count = 0
        for _ in range(rounds):
            lease.is_taken()
            held = lease.take()
            if held is not None:
                assert inside.acquire(blocking=False)
                held.confirm()
                count += 1
                inside.release()
                held.release()
        return count

    counts = at_once(4, work)

    assert sum(counts) > 0
    assert rig.left() == []


def test_a_holder_that_is_killed_keeps_nobody_out_for_good(rig: Rig, start: Callable[[Lease], Program]) -> None:
    holder = start(rig.lease(lease_s=1))
    taken = holder.does("take")
    refused = rig.lease(lease_s=1).take()
    holder.kill()
    lease = rig.lease(lease_s=1)
    held = lease.take() if isinstance(lease, LockFile) else eventually(lease.take)
    assert held is not None
    held.confirm()
    held.release()

    assert (taken, refused) == ("held", None)
    assert rig.left() == []


@FORKS
def test_a_forked_child_neither_frees_nor_keeps_it(rig: Rig) -> None:
    lease = rig.lease(lease_s=1)
    held = lease.take()
    assert held is not None
    context = multiprocessing.get_context("fork")
    found = context.Queue()

    def inherit() -> None:
        with leases.holding(held):
            pass
        leases.confirm()
        try:
            held.confirm()
        except LeaseError as error:
            found.put(str(error))
        held.release()
        found.put(renewing_threads())

    with leases.holding(held):
        child = context.Process(target=inherit)
        child.start()
    told = [found.get(timeout=TIMEOUT_S), found.get(timeout=TIMEOUT_S)]
    child.join(TIMEOUT_S)
    held.confirm()
    refused = lease.take()
    held.release()

    assert "forked" in told[0]
    assert told[1] == []
    assert (child.exitcode, refused) == (0, None)
    assert rig.left() == []


@FORKS
def test_a_forked_child_takes_leases_of_its_own(rig: Rig) -> None:
    lease = rig.lease(lease_s=1)
    taken(lease).release()
    context = multiprocessing.get_context("fork")
    found = context.Queue()

    def take() -> None:
        held = taken(lease)
        held.confirm()
        found.put(renewing_threads())
        held.release()
        found.put(renewing_threads())

    child = context.Process(target=take)
    with leases._handles_lock:  # a fork waits for whoever opens a lock file just then, but not for itself
        child.start()
    told = [found.get(timeout=TIMEOUT_S), found.get(timeout=TIMEOUT_S)]
    child.join(TIMEOUT_S)

    assert told == [["superluigi-leases"] if isinstance(lease, S3Lease) else [], []]
    assert child.exitcode == 0
    assert rig.left() == []


def test_a_lease_pickles_and_making_one_does_nothing(rig: Rig) -> None:
    lease = rig.lease()

    assert pickle.loads(pickle.dumps(lease)) == lease
    assert repr(lease)
    assert rig.left() == []


def test_what_the_context_holds_is_confirmed(rig: Rig, tmp_path: Path) -> None:
    held, other = rig.lease().take(), LockFile(tmp_path / "other").take()
    assert held is not None
    assert other is not None
    leases.confirm()
    with leases.holding(held):
        leases.confirm()
        other.release()
        with leases.holding(other), pytest.raises(LeaseError):
            leases.confirm()
        leases.confirm()
        held.release()
        with pytest.raises(LeaseError):
            leases.confirm()
    leases.confirm()


# Lock files


def test_the_lock_lies_beside_the_output_whatever_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = LockFile(tmp_path / "a.csv").take()
    assert held is not None
    monkeypatch.setenv("SUPERLUIGI_LOCAL_DATA_DIR", str(tmp_path / "elsewhere"))
    refused = LockFile(tmp_path / "a.csv").take()
    lies = files_below(tmp_path)
    is_abandoned = workplace.needs_clearing(tmp_path / workplace.STAGING_NAME)
    held.release()

    assert refused is None
    assert lies == [".superluigi", "a.csv.lock"]
    assert not is_abandoned
    assert not (tmp_path / "elsewhere").exists()


@given(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=255).filter(
        lambda name: name not in {".", ".."}  # the folder itself, and the one above
    )
)
def test_every_name_has_a_lock_that_nobody_takes_for_abandoned(name: str) -> None:
    lock = Path(LockFile(Path("/data") / name).address)

    assert len(os.fsencode(lock.name)) <= 255
    assert lock.parent == Path("/data/.superluigi")
    assert not workplace.processes.is_abandoned(lock.name)


def test_a_name_that_leaves_no_room_for_the_suffix_is_hashed(tmp_path: Path) -> None:
    held = [LockFile(tmp_path / (letter * 255)).take() for letter in "ab"]

    for each in held:
        assert each is not None
        each.release()
    assert files_below(tmp_path) == []


def test_processes_that_take_and_release_again_and_again_never_hold_it_together(
    tmp_path: Path, start: Callable[[Lease], Program]
) -> None:
    programs = [start(LockFile(tmp_path / "data" / "a.csv")) for _ in range(3)]
    for program in programs:
        program.tell("contend")

    assert [program.heard() for program in programs] == ["done"] * 3
    assert files_below(tmp_path) == []


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = LockFile(tmp_path / "a.csv")
    first = taken(lock)
    opened = leases._opened

    def opened_before_the_release(path: Path) -> int | None:
        handle = opened(path)
        first.release()
        return handle

    monkeypatch.setattr(leases, "_opened", opened_before_the_release)
    held = taken(lock)
    held.confirm()
    refused = lock.take()
    held.release()

    assert refused is None
    assert files_below(tmp_path) == []


def test_a_lock_is_freed_only_when_its_file_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = LockFile(tmp_path / "a.csv")
    held = taken(lock)
    unlock = portalocker.unlock
    was_there = []

    def freed(handle: int) -> None:
        was_there.append(Path(lock.address).exists())
        unlock(handle)

    monkeypatch.setattr(portalocker, "unlock", freed)
    held.release()

    assert was_there == [False]


@pytest.mark.parametrize("harm", ["removed", "replaced"])
def test_a_lock_file_that_somebody_removes_is_a_lost_lease(tmp_path: Path, harm: str) -> None:
    lock = LockFile(tmp_path / "a.csv")
    held = lock.take()
    assert held is not None
    Path(lock.address).unlink()
    other = lock.take() if harm == "replaced" else None
    with pytest.raises(LeaseError, match=r"removed or replaced.*run again"):
        held.confirm()
    held.release()

    assert lock.is_taken() is (harm == "replaced")
    if other is not None:
        other.confirm()
        other.release()
    workplace.close(tmp_path / ".superluigi")
    assert files_below(tmp_path) == []


def test_a_folder_that_others_clear_meanwhile_is_made_again(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "a.csv")
    ended = threading.Event()

    def clear() -> None:
        while not ended.wait(0.0002):  # else the two threads take turns at the interpreter, a step each, for ever
            workplace.close(tmp_path / ".superluigi")

    thread = threading.Thread(target=clear)
    thread.start()
    try:
        for _ in range(200):
            held = lock.take()
            assert held is not None
            held.confirm()
            held.release()
    finally:
        ended.set()
        thread.join()
    assert files_below(tmp_path) == []


def test_a_file_system_without_locks_is_an_error_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise portalocker.LockException(os.strerror(errno.ENOLCK))

    monkeypatch.setattr(portalocker, "lock", refuse)

    with pytest.raises(StorageError, match=r"No locks available.*leave out single_flight") as caught:
        LockFile(tmp_path / "a.csv").take()
    assert caught.value.address == LockFile(tmp_path / "a.csv").address


def test_a_folder_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError):
        LockFile(tmp_path / "file" / "a.csv").take()
    assert not LockFile(tmp_path / "file" / "a.csv").is_taken()

    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(leases.os, "open", deny)
    with pytest.raises(AccessDeniedError):
        LockFile(tmp_path / "a.csv").take()


def test_the_lock_file_of_another_user_is_locked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = LockFile(tmp_path / "a.csv")
    Path(lock.address).parent.mkdir()
    Path(lock.address).touch()
    opened = os.open

    def read_only(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *mode)

    monkeypatch.setattr(leases.os, "open", read_only)
    held = lock.take()
    assert held is not None
    refused = lock.take()
    held.release()

    assert refused is None
    assert files_below(tmp_path) == []


@FORKS
def test_a_child_that_outlives_a_killed_holder_does_not_keep_its_lock(
    tmp_path: Path, start: Callable[[Lease], Program]
) -> None:
    lock = LockFile(tmp_path / "a.csv")
    holder = start(lock)
    holder.does("take")
    child = int(holder.does("fork"))
    try:
        refused = lock.take()
        holder.kill()
        held = lock.take()
    finally:
        os.kill(child, signal.SIGKILL)
    assert held is not None
    held.release()

    assert refused is None


# S3: a store in trouble


@dataclass
class Between:
    """A proxy before the S3 server: it takes the headers of `strips` away, and answers those of `refuses` with 501."""

    endpoint_url: str
    strips: set[str] = field(default_factory=set)
    refuses: set[str] = field(default_factory=set)
    is_cut: bool = False
    answers_to_lose: int = 0
    shift_s: int = 0
    conflicts: int = 0
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def between(s3: S3) -> Iterator[Between]:
    upstream = urlsplit(s3.endpoint_url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.requests.append(self.command)
            if proxy.is_cut:
                self.close_connection = True
            elif any(name in self.headers for name in proxy.refuses):
                self.answer_error(501, "NotImplemented")
            elif proxy.conflicts and self.command == "PUT":
                proxy.conflicts -= 1
                self.answer_error(409, "ConditionalRequestConflict")
            else:
                self.forward(body)

        def answer_error(self, status: int, code: str) -> None:
            data = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def forward(self, body: bytes) -> None:
            headers = {name: value for name, value in self.headers.items() if name not in proxy.strips}
            connection = http.client.HTTPConnection(upstream, timeout=TIMEOUT_S)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            if proxy.answers_to_lose and self.command == "PUT":
                proxy.answers_to_lose -= 1
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name in proxy.strips or name.lower() in ("connection", "content-length"):
                    continue
                is_time = proxy.shift_s and name.lower() in ("date", "last-modified")
                self.send_header(name, shifted(value, proxy.shift_s) if is_time else value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request  # noqa: N815  (http.server asks for these)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Between(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield proxy
    server.shutdown()
    server.server_close()
    thread.join()


def shifted(date: str, seconds: int) -> str:
    return format_datetime(parsedate_to_datetime(date) + timedelta(seconds=seconds), usegmt=True)


def lease_through(between: Between, s3: S3, lease_s: float = LONG_S, **options: Any) -> S3Lease:
    bucket = Bucket(s3.bucket, client_options={"endpoint_url": between.endpoint_url, **options})
    return S3Lease(bucket, KEY, lease_s=lease_s)


def lease_in(s3: S3, lease_s: float = LONG_S) -> S3Lease:
    return S3Lease(Bucket(s3.bucket), KEY, lease_s=lease_s)


def facts(s3: S3) -> dict[str, Any]:
    return json.loads(s3.get(KEY))


def put_dead_lease(s3: S3, lease_s: float = 0) -> None:
    """Leave what a killed holder leaves, that has run out a second or two after now."""
    s3.put(KEY, json.dumps({"token": "of-the-dead", "lease_s": lease_s}).encode())


def taken(lease: Lease) -> Held:
    held = lease.take()
    assert held is not None
    return held


def test_a_lease_is_one_small_object_that_names_its_holder(s3: S3) -> None:
    held = taken(lease_in(s3))
    found = facts(s3)
    held.release()

    assert found["host"] == socket.gethostname()
    assert found["pid"] == os.getpid()
    assert found["lease_s"] == LONG_S
    assert len(found["token"]) == 32


def test_the_cost_in_requests_is_as_told(s3: S3) -> None:
    costs = []
    for _ in ("the first of the process", "another"):
        with recorded_requests() as log:
            held = taken(lease_in(s3))
            held.confirm()
        costs.append([method for method, _ in log.requests])
        with recorded_requests() as log:
            lease_in(s3).take()
            lease_in(s3).is_taken()
            held.release()
        costs.append([method for method, _ in log.requests])

    others = ["PUT", "GET", "GET", "DELETE"]  # to be refused, to look, to release
    assert costs == [["PUT", "GET", "PUT", "PUT"], others, ["PUT", "GET"], others]


def test_upload_options_go_with_every_put(s3: S3) -> None:
    lease = replace(lease_in(s3, lease_s=1), upload_options={"Metadata": {"team": "blue"}, "IfNoneMatch": "*"})
    held = taken(lease)
    eventually(lambda: facts(s3)["renewals"] > 0)
    stored = s3.client().head_object(Bucket=s3.bucket, Key=KEY)["Metadata"]
    held.release()

    assert stored == {"team": "blue"}


def test_a_lease_is_renewed_while_it_is_held_however_long(s3: S3) -> None:
    lease = lease_in(s3, lease_s=1)
    held = taken(lease)
    refused = []

    def is_old() -> bool:
        refused.append(lease.take() is None)
        return facts(s3)["renewals"] >= 12

    eventually(is_old)
    held.confirm()
    threads = renewing_threads()
    held.release()

    assert all(refused)
    assert threads == ["superluigi-leases"]


def test_one_thread_renews_all_leases_and_ends_with_the_last(s3: S3) -> None:
    keys = [f"{number}.superluigi-lease" for number in range(5)]
    held = [taken(S3Lease(Bucket(s3.bucket), key, lease_s=1)) for key in keys]
    threads = renewing_threads()
    eventually(lambda: all(json.loads(s3.get(key))["renewals"] > 1 for key in keys))
    for each in held[:-1]:
        each.release()
    still = renewing_threads()
    held[-1].release()

    assert threads == still == ["superluigi-leases"]
    assert renewing_threads() == []
    assert s3.keys() == []


def test_a_lease_that_ran_out_is_taken_over_by_one_alone(s3: S3) -> None:
    put_dead_lease(s3)
    lease = lease_in(s3)
    fresh = lease.is_taken(), lease.take()
    eventually(lambda: not lease.is_taken())
    held = [each for each in at_once(8, lease.take) if each is not None]
    for each in held:
        each.confirm()
        each.release()

    assert fresh == (True, None)
    assert len(held) == 1
    assert s3.keys() == []


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b'{"lease_s": "1"}'], ids=repr)
def test_a_damaged_lease_runs_out_too(s3: S3, data: bytes) -> None:
    s3.put(KEY, data)
    lease = lease_in(s3, lease_s=1)
    refused = lease.take()
    held = eventually(lease.take)
    held.release()

    assert refused is None
    assert s3.keys() == []


def test_a_holder_that_was_paused_finds_that_it_lost(s3: S3, start: Callable[[Lease], Program]) -> None:
    holder = start(lease_in(s3, lease_s=1))
    assert holder.does("take") == "held"
    holder.process.send_signal(signal.SIGSTOP)
    held = eventually(lease_in(s3).take)
    holder.process.send_signal(signal.SIGCONT)
    answers = [holder.does("confirm"), holder.does("release")]
    held.confirm()
    held.release()

    assert answers == ["LeaseError", "done"]


def test_a_holder_that_was_paused_and_missed_by_nobody_still_holds_it(
    s3: S3, start: Callable[[Lease], Program]
) -> None:
    holder = start(lease_in(s3, lease_s=1))
    assert holder.does("take") == "held"
    holder.process.send_signal(signal.SIGSTOP)
    eventually(lambda: not lease_in(s3).is_taken())
    holder.process.send_signal(signal.SIGCONT)

    assert [holder.does("confirm"), holder.does("release")] == ["done", "done"]
    assert s3.keys() == []


def test_a_lease_that_somebody_removes_is_lost(s3: S3, caplog: pytest.LogCaptureFixture) -> None:
    held = taken(lease_in(s3, lease_s=1))
    s3.client().delete_object(Bucket=s3.bucket, Key=KEY)
    eventually(lambda: caplog.records)
    with pytest.raises(LeaseError, match=r"taken over by another run, or removed.*run again.*lease_s"):
        held.confirm()
    other = taken(lease_in(s3))
    held.release()
    other.confirm()
    other.release()

    assert [record.name for record in caplog.records] == ["superluigi"]


def test_a_lease_that_is_not_fresh_is_renewed_by_confirm(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    held = taken(lease_in(s3))
    monkeypatch.setattr(s3_leases, "_clock", lambda now=s3_leases._clock: now() + LONG_S / 2)
    held.confirm()
    with recorded_requests() as log:
        held.confirm()
    renewals = facts(s3)["renewals"]
    held.release()

    assert renewals >= 1
    assert log.requests == []


@pytest.mark.parametrize("shift_s", [-(10**8), 10**8], ids=["behind", "ahead"])
def test_no_clock_but_the_stores_own_counts(s3: S3, between: Between, shift_s: int) -> None:
    between.shift_s = shift_s
    lease = lease_through(between, s3)
    held = taken(lease)
    refused, is_taken = lease.take(), lease.is_taken()
    held.release()
    put_dead_lease(s3)
    fresh = lease.take()
    eventually(lambda: not lease.is_taken())
    taken(lease).release()

    assert (refused, is_taken, fresh) == (None, True, None)


def test_where_the_store_tells_no_time_a_lease_is_watched(s3: S3, between: Between) -> None:
    between.strips = {"Date"}
    lease = lease_through(between, s3, lease_s=1)
    held = taken(lease)
    eventually(lambda: lease.take() is not None or facts(s3)["renewals"] >= 6)
    held.confirm()
    held.release()
    put_dead_lease(s3, lease_s=0.2)
    fresh = lease.take()
    held = eventually(lease.take)
    held.release()

    assert fresh is None


@pytest.mark.parametrize(
    "strips",
    [{"If-None-Match", "If-Match"}, {"If-None-Match"}, {"If-Match"}],
    ids=["both", "if-none-match", "if-match"],
)
def test_a_store_that_ignores_conditions_gives_no_lease(s3: S3, between: Between, strips: set[str]) -> None:
    between.strips = strips
    for _ in range(2):
        with pytest.raises(LeaseError, match=r"no conditional PUT.*luigid.*single_flight"):
            lease_through(between, s3).take()

    assert s3.keys() == []


@pytest.mark.parametrize(
    "refuses",
    [{"If-None-Match", "If-Match"}, {"If-None-Match"}],
    ids=["both", "if-none-match"],
)
def test_a_store_that_knows_no_conditions_gives_no_lease(s3: S3, between: Between, refuses: set[str]) -> None:
    between.refuses = refuses
    with pytest.raises(LeaseError, match=r"no conditional PUT \(it answers NotImplemented\)"):
        lease_through(between, s3).take()

    assert s3.keys() == []


def test_a_store_that_knows_one_of_the_conditions_gives_no_lease(s3: S3, between: Between) -> None:
    between.refuses = {"If-Match"}  # of a DELETE, too
    with pytest.raises(LeaseError, match=r"no conditional PUT \(it answers NotImplemented\)"):
        lease_through(between, s3).take()

    assert s3.keys() == []


def test_a_conflict_is_tried_again(s3: S3, between: Between) -> None:
    between.conflicts = 3
    held = taken(lease_through(between, s3))
    held.release()

    assert between.conflicts == 0
    assert s3.keys() == []


def test_a_put_whose_answer_was_lost_is_recognised(s3: S3, between: Between) -> None:
    between.answers_to_lose = 1
    held = taken(lease_through(between, s3))
    held.confirm()
    refused = lease_in(s3).take()
    held.release()

    assert between.answers_to_lose == 0
    assert refused is None
    assert s3.keys() == []


def test_a_renewal_whose_answer_was_lost_is_recognised(
    s3: S3, between: Between, caplog: pytest.LogCaptureFixture
) -> None:
    held = taken(lease_through(between, s3, lease_s=2, config=ONE_TRY))
    between.answers_to_lose = 1
    eventually(lambda: between.answers_to_lose == 0)
    seen = facts(s3)["renewals"]
    eventually(lambda: facts(s3)["renewals"] > seen)
    held.confirm()
    held.release()

    assert s3.keys() == []
    assert len(caplog.records) == 1


def test_a_network_that_comes_back_in_time_costs_nothing(
    s3: S3, between: Between, caplog: pytest.LogCaptureFixture
) -> None:
    held = taken(lease_through(between, s3, lease_s=4, config=ONE_TRY))
    between.is_cut = True
    before = len(between.requests)
    eventually(lambda: len(between.requests) >= before + 2)
    between.is_cut = False
    seen = facts(s3)["renewals"]
    eventually(lambda: facts(s3)["renewals"] > seen)
    held.confirm()
    refused = lease_in(s3).take()
    held.release()

    assert refused is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be renewed" in caplog.text


def test_a_network_that_comes_back_too_late_costs_the_lease(
    s3: S3, between: Between, caplog: pytest.LogCaptureFixture
) -> None:
    held = taken(lease_through(between, s3, lease_s=1, config=ONE_TRY))
    between.is_cut = True
    other = eventually(lease_in(s3).take)
    with pytest.raises(LeaseError, match=r"cannot be renewed .* s after its last renewal"):
        held.confirm()
    between.is_cut = False
    with pytest.raises(LeaseError, match="taken over by another run"):
        held.confirm()
    held.release()
    other.confirm()
    other.release()

    assert s3.keys() == []
    assert caplog.text.count("cannot be renewed") <= 2


def test_releasing_where_the_store_is_gone_is_no_error(
    s3: S3, between: Between, caplog: pytest.LogCaptureFixture
) -> None:
    held = taken(lease_through(between, s3, config=ONE_TRY))
    between.is_cut = True
    held.release()

    assert s3.keys() == [KEY]
    assert "ends by itself" in caplog.text


def test_a_stale_release_leaves_the_lease_of_another(s3: S3, start: Callable[[Lease], Program]) -> None:
    holder = start(lease_in(s3, lease_s=1))
    assert holder.does("take") == "held"
    holder.process.send_signal(signal.SIGSTOP)
    held = eventually(lease_in(s3).take)
    holder.process.send_signal(signal.SIGCONT)
    answer = holder.does("release")
    held.confirm()
    still = s3.keys()
    held.release()

    assert answer == "done"
    assert still == [KEY]


def test_a_store_where_two_writes_both_seem_to_win_gives_one_lease(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    put_if = Bucket.put_if

    def overtaken(bucket: Bucket, key: str, *arguments: Any, **options: Any) -> str | None:
        etag = put_if(bucket, key, *arguments, **options)
        s3.put(key, b'{"token": "of-another", "lease_s": 600}')
        return etag

    monkeypatch.setattr(Bucket, "put_if", overtaken)

    assert lease_in(s3).take() is None


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-bucket"):
        S3Lease(Bucket("no-such-bucket"), KEY).take()


@pytest.mark.parametrize(
    ("config", "waits"), [(None, (1.5, 1.5, 2)), (Config(read_timeout=1), (1.5, 1, 2)), (ONE_TRY, (1.5, 1.5, 1))]
)
def test_a_renewal_does_not_wait_for_the_network_until_it_is_too_late(
    bucket: str, config: Config | None, waits: tuple[float, float, int]
) -> None:
    options = {} if config is None else {"config": config}
    used = Bucket(bucket, client_options=options, timeout_s=1.5).client().meta.config

    assert (used.connect_timeout, used.read_timeout, used.retries["total_max_attempts"]) == waits
    assert Bucket(bucket, client_options=options).client().meta.config.connect_timeout > 1.5


def test_how_long_a_lease_holds_is_a_setting(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERLUIGI_LEASE_S", "77")
    held = taken(S3Lease(Bucket(s3.bucket), KEY))
    found = facts(s3)["lease_s"]
    held.release()

    assert found == 77


@given(st.binary() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_whatever_stands_there_is_read(data: bytes | str) -> None:
    token, lease_s = s3_leases._decoded(data)

    assert token is None
    assert lease_s is None


@given(st.text(), st.none() | st.booleans() | st.floats() | st.integers() | st.text())
def test_what_a_holder_wrote_is_read_back_and_nothing_odd(token: str, lease_s: Any) -> None:
    found = s3_leases._decoded(json.dumps({"token": token, "lease_s": lease_s}).encode())

    assert found[0] == token
    assert found[1] is None or (found[1] == lease_s and 0 <= found[1] < float("inf"))


@given(st.text() | st.datetimes().map(format_datetime) | st.none())
def test_a_date_that_is_none_gives_no_age(answered_at: str | None) -> None:
    written_at = parsedate_to_datetime("Fri, 20 Nov 2026 10:00:00 GMT")

    assert isinstance(Snapshot(b"", "e", written_at, answered_at).age_s, float | None)
    assert Snapshot(b"", "e", None, answered_at).age_s is None
    assert Snapshot(b"", "e", written_at, "Fri, 20 Nov 2026 10:01:05 GMT").age_s == 65
