"""`superluigi doctor`: is this machine fit to run tasks, and if not, what is to be done.

Every check says what was found, and, where that is not well, the way out. The invariants: no secret is told; nothing
is left behind, on the disk or in a bucket; and into a bucket nothing is written unless that was asked for.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from superluigi import config
from superluigi.cli import installation
from superluigi.cli.terminal import Answer, ExitCode, nearest
from superluigi.errors import AccessDeniedError, ConfigError, InvalidNameError, LeaseError, SuperLuigiError
from superluigi.running.central import without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from superluigi.storage.s3 import Bucket

_MAX_SKEW_S = 15 * 60  # then S3 refuses requests: RequestTimeTooSkewed
_ODD_SKEW_S = 60
_SOON_S = 15 * 60
_TIMEOUT_S = 5.0


class Status(enum.Enum):
    """How a check came out; the value is the word for it in JSON."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


_SIGNS = {Status.OK: ("✓", "32"), Status.NOTE: ("·", "90"), Status.WARN: ("!", "33"), Status.FAIL: ("✗", "31")}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, what was found, and what to do if that is not well."""

    topic: str
    status: Status
    found: str
    advice: str = ""


def examine(addresses: Sequence[str], *, writes: bool = False, role_arn: str | None = None) -> Answer:
    """Check this machine, and the access to these addresses in S3; fails if one check does."""
    checks = [
        *(Check("installation", Status(word), found, advice) for word, found, advice in installation.checks()),
        *_settings(),
        *_disk(),
        *_scheduler(),
        *_credentials(role_arn, is_needed=bool(addresses)),
    ]
    for address in addresses:
        checks += _bucket(address, writes=writes, role_arn=role_arn)
    has_failed = any(check.status is Status.FAIL for check in checks)
    data = {
        "ok": not has_failed,
        "checks": [
            {"topic": check.topic, "status": check.status.value, "found": check.found, "advice": check.advice}
            for check in checks
        ],
    }
    return Answer(lambda colour: _told(checks, colour=colour), data, ExitCode.FAILED if has_failed else ExitCode.OK)


def _told(checks: list[Check], *, colour: bool) -> str:
    lines: list[str] = []
    topic = ""
    for check in checks:
        if check.topic != topic:
            topic = check.topic
            lines += ["", topic] if lines else [topic]
        sign, code = _SIGNS[check.status]
        shown = f"\x1b[{code}m{sign}\x1b[0m" if colour else sign
        lines.append(f"  {shown} {check.found}")
        if check.advice:
            lines.append(f"      {check.advice}")
    counts = {status: sum(check.status is status for check in checks) for status in (Status.FAIL, Status.WARN)}
    said = (
        f"{counts[Status.FAIL]} to mend, {counts[Status.WARN]} to look at." if any(counts.values()) else "All is well."
    )
    return "\n".join([*lines, "", said])


# Settings


def _settings() -> Iterator[Check]:
    import luigi.configuration

    topic = "settings"
    parser = luigi.configuration.get_config()
    files = [str(Path(path).absolute()) for path in type(parser)._config_paths if os.path.isfile(path)]  # noqa: SLF001
    if files:
        yield Check(topic, Status.OK, f"Luigi's configuration is read from {', '.join(files)}.")
    else:
        yield Check(
            topic, Status.NOTE, "There is no luigi.cfg here; all settings are from the environment or defaults."
        )
    named = os.environ.get("LUIGI_CONFIG_PATH")
    if named and not os.path.isfile(named):
        yield Check(topic, Status.WARN, f"LUIGI_CONFIG_PATH is {named}, which is no file.", "Correct it, or unset it.")
    readers = config.readers()
    for key, read in readers.items():
        text, source = config.origin(key)
        try:
            value = read()
        except SuperLuigiError as error:
            yield Check(topic, Status.FAIL, str(error))
            continue
        if text is not None:
            shown = without_password(str(value) if key == "local_data_dir" else text)
            yield Check(topic, Status.OK, f"{key} = {shown} ({source})")
    section = parser[config.SECTION] if parser.has_section(config.SECTION) else {}
    in_environment = [name for name in os.environ if name.startswith("SUPERLUIGI_")]
    for name in [*section, *(name.removeprefix("SUPERLUIGI_").lower() for name in in_environment)]:
        if name not in readers:
            hint = nearest(name, readers) or f" Known are {', '.join(readers)}."
            yield Check(topic, Status.WARN, f"{name} is no setting of Super Luigi.", f"Correct or remove it.{hint}")


# The disk


def _disk() -> Iterator[Check]:
    topic = "disk"
    try:
        where = config.data_dir()
        yield from _folder(where, topic)
        from superluigi.storage import cache

        usage = cache.usage(cache.default_root())
    except ConfigError as error:
        yield Check(topic, Status.FAIL, str(error))
        return
    except (OSError, SuperLuigiError, RuntimeError) as error:
        yield Check(topic, Status.FAIL, str(error), "Let local_data_dir be a folder that you may write to.")
        return
    shown = f"{_gb(usage.disk_free_bytes)} are free there; local copies of S3 objects take {_gb(usage.size_bytes)}"
    if usage.disk_free_bytes <= usage.min_free_bytes:
        advice = "Free some space, run superluigi cache prune, or let local_data_dir be on another disk."
        yield Check(topic, Status.WARN, f"{shown}. That is no more than cache_min_free_bytes asks to leave.", advice)
    else:
        yield Check(topic, Status.OK, f"{shown}, and may take {_gb(usage.max_bytes)}.")


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


def _folder(where: Path, topic: str) -> Iterator[Check]:
    """Try in a folder of its own, on the file system of the data directory, what the library does there."""
    there = next(folder for folder in (where, *where.parents) if folder.exists())
    if not there.is_dir():
        yield Check(topic, Status.FAIL, f"{there} is a file.", "Let local_data_dir be a folder, or remove the file.")
        return
    name = f"{where} " + ("can" if there == where else "is not there yet, and can")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".superluigi-doctor-", dir=there))
    except OSError as error:
        problem = f"{where} cannot be written to: {error.strerror} ({there})."
        yield Check(
            topic, Status.FAIL, problem, "See that you may write there, or set local_data_dir to another folder."
        )
        return
    try:
        yield from _tried(f"{name} be written to, and a file there replaced in one step.", _replace_in_one_step, folder)
        yield from _tried("Locks hold there between processes.", _lock_twice, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tried(found: str, attempt: Callable[[Path], None], folder: Path) -> Iterator[Check]:
    try:
        attempt(folder)
    except (OSError, SuperLuigiError) as error:
        said = str(error) if isinstance(error, SuperLuigiError) else f"{folder.parent}: {error.strerror or error}."
        yield Check("disk", Status.FAIL, said, "Let local_data_dir be on a local disk with room, which knows locks.")
    else:
        yield Check("disk", Status.OK, found)


def _replace_in_one_step(folder: Path) -> None:
    (folder / "old").write_bytes(b"old")
    (folder / "new").write_bytes(b"new" * 1000)
    os.replace(folder / "new", folder / "old")
    if (folder / "old").read_bytes() != b"new" * 1000:
        message = f"A file that was replaced in {folder.parent} does not hold what was written."
        raise OSError(message)


def _lock_twice(folder: Path) -> None:
    from superluigi.storage import processes

    with processes.file_lock(folder / "lock"):
        try:
            with processes.file_lock(folder / "lock", wait=False):
                pass
        except BlockingIOError:
            return
    message = f"Two can hold one lock at a time in {folder.parent}."
    raise OSError(message)


# The scheduler


def _scheduler() -> Iterator[Check]:
    import urllib.error
    import urllib.request

    from luigi.interface import core

    topic = "scheduler"
    settings = core()
    url = config.scheduler_url() or settings.scheduler_url
    if not url and settings.scheduler_host != "localhost":
        url = f"http://{settings.scheduler_host}:{settings.scheduler_port}/"
    if not url:
        yield Check(topic, Status.NOTE, "No central scheduler is configured; runs need none.")
        return
    shown = without_password(url)
    try:
        with urllib.request.urlopen(_request(url), timeout=_TIMEOUT_S):  # noqa: S310  (the user's own setting)
            pass
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            yield Check(topic, Status.FAIL, f"{shown} answers {error.code}.", "See to luigid there.")
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = "Start luigid there, or correct scheduler_url."
        yield Check(topic, Status.FAIL, f"The central scheduler at {shown} does not answer: {reason}.", advice)
        return
    yield Check(topic, Status.OK, f"The central scheduler at {shown} answers.")


def _request(url: str) -> Any:
    """Give the request for an address, which may hold a user and a password, as Luigi takes it."""
    import base64
    import urllib.parse
    import urllib.request

    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())  # noqa: S310  (the user's own setting)
    if at:
        pair = urllib.parse.unquote(user).encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
    return request


# S3


def _credentials(role_arn: str | None, *, is_needed: bool) -> Iterator[Check]:
    from superluigi.storage.s3 import Bucket

    topic = "credentials"
    bucket = Bucket("any", role_arn, timeout_s=_TIMEOUT_S)
    advice = "Set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in (aws sso login)."
    try:
        found = bucket.credentials()
    except SuperLuigiError as error:
        yield Check(topic, Status.FAIL, _without_address(error))
        return
    if found is None:
        status = Status.FAIL if is_needed else Status.NOTE
        yield Check(topic, status, "boto3 finds no credentials for S3.", advice if is_needed else "")
        return
    yield Check(topic, Status.OK, f"boto3 finds credentials: {found.method}.")
    yield from _expiry(found)
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        yield Check(topic, Status.NOTE, f"S3 is asked at {without_password(endpoint)} (from the environment).")
    try:
        with bucket.translated("GetCallerIdentity", ""):
            who = bucket.sts_client().get_caller_identity()
    except Exception as error:  # noqa: BLE001  (other stores than Amazon's know no STS, and answer whatever they like)
        # Whether the credentials hold is for the buckets to say.
        said = _without_address(error) if isinstance(error, SuperLuigiError) else "the answer is not one of STS"
        yield Check(topic, Status.WARN, f"STS does not say whose they are: {said}")
    else:
        yield Check(topic, Status.OK, f"They are those of {who.get('Arn')}, account {who.get('Account')}.")


def _without_address(error: SuperLuigiError) -> str:
    """Give what an error says, but not of which bucket: there is none that was asked about."""
    return str(error).partition(": ")[2]


def _expiry(found: Any) -> Iterator[Check]:
    import datetime as dt

    expires = getattr(found, "_expiry_time", None)  # of those that botocore renews; there is no public name
    if expires is None:
        return
    left_s = (expires - dt.datetime.now(tz=dt.timezone.utc)).total_seconds()
    text = f"They hold until {expires:%Y-%m-%d %H:%M} UTC."
    if left_s > _SOON_S:
        yield Check("credentials", Status.OK, text)
    else:
        yield Check("credentials", Status.WARN, text, "Log in again before a long run, if boto3 does not renew them.")


def _bucket(address: str, *, writes: bool, role_arn: str | None) -> Iterator[Check]:
    from superluigi.storage.addresses import is_address, parts_of
    from superluigi.storage.s3 import Bucket

    name, prefix = parts_of(address)
    if not is_address(address) or not name:
        raise InvalidNameError(address, "is no address in S3", "Give s3://bucket or s3://bucket/prefix/.")
    bucket = Bucket(name, role_arn, timeout_s=_TIMEOUT_S)
    try:
        with bucket.translated("HeadBucket", ""):
            seen = bucket.client().head_bucket(Bucket=name)
        yield Check(address, Status.OK, "The bucket is there.")
        yield from _clock(seen["ResponseMetadata"]["HTTPHeaders"].get("date"), address)
    except SuperLuigiError as error:
        status = Status.WARN if isinstance(error, AccessDeniedError) else Status.FAIL
        yield Check(address, status, str(error))
        if status is Status.FAIL:
            return
    key = yield from _listed(bucket, prefix, address)
    if key is not None:
        yield from _allowed(address, "Objects can be read.", lambda: bucket.head(key))
    if writes:
        yield from _written(bucket, prefix, address)


def _clock(date: str | None, address: str) -> Iterator[Check]:
    import email.utils
    import time

    if date is None:
        return
    with contextlib.suppress(TypeError, ValueError):
        skew_s = time.time() - email.utils.parsedate_to_datetime(date).timestamp()
        shown = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} that of S3"
        advice = "Set the clock of this machine (timedatectl set-ntp true). S3 refuses requests at 15 minutes."
        if abs(skew_s) > _MAX_SKEW_S:
            yield Check(address, Status.FAIL, f"The clock here is {shown}.", advice)
        elif abs(skew_s) > _ODD_SKEW_S:
            yield Check(address, Status.WARN, f"The clock here is {shown}.", advice)
        else:
            yield Check(address, Status.OK, "The clocks here and there agree.")


def _allowed(address: str, found: str, ask: Callable[[], object]) -> Iterator[Check]:
    try:
        ask()
    except SuperLuigiError as error:
        yield Check(address, Status.FAIL, str(error))
    else:
        yield Check(address, Status.OK, found)


def _listed(bucket: Bucket, prefix: str, address: str) -> Any:
    """Check that objects can be listed, and give the key of one."""
    try:
        seen = next(bucket.listing(prefix, limit=1), None)
    except SuperLuigiError as error:
        advice = "Without s3:ListBucket runs ask for each object by itself, and prefixes cannot be used."
        is_refusal = isinstance(error, AccessDeniedError)
        yield Check(address, Status.WARN if is_refusal else Status.FAIL, str(error), advice if is_refusal else "")
        return None
    yield Check(address, Status.OK, "Objects can be listed." if seen else "Objects can be listed; there are none yet.")
    return seen.key if seen else None


def _written(bucket: Bucket, prefix: str, address: str) -> Iterator[Check]:
    """Write, read and remove an object of our own."""
    from superluigi.storage import processes

    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    key = f"{folder}.superluigi/doctor-{processes.owner_token()}"
    try:
        etag = bucket.put_bytes(key, b"superluigi doctor", {})
    except SuperLuigiError as error:
        yield Check(address, Status.FAIL, str(error))
        return
    try:
        yield Check(address, Status.OK, "Objects can be written.")
        yield from _allowed(address, "What was written can be read.", lambda: bucket.get_bytes(key))
        yield _conditional(bucket, key, etag, address)
    finally:
        # Whatever happens here, the object must go.
        removal = list(_allowed(address, "Objects can be removed.", lambda: bucket.delete([key])))
    yield from removal


def _conditional(bucket: Bucket, key: str, etag: str, address: str) -> Check:
    advice = "Do not use single_flight over this bucket, or use a store that has conditional PUTs, as Amazon S3 does."
    try:
        is_guarded = bucket.put_if(key, b"again", {}, etag=None) is None
        is_exact = bucket.put_if(key, b"again", {}, etag=etag) is not None
    except LeaseError as error:
        return Check(address, Status.WARN, str(error))
    except SuperLuigiError as error:
        return Check(address, Status.WARN, str(error), advice)
    if is_guarded and is_exact:
        return Check(address, Status.OK, "Conditional PUTs work, so that single_flight does.")
    return Check(address, Status.WARN, "The store takes conditional PUTs, but does not keep to the condition.", advice)
