"""What is installed, and whether it fits together; for `superluigi doctor`.

The packages that the library needs are followed through all that they need themselves. Nothing of them is imported.
"""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import superluigi

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLDEST = (3, 10)
_SHOWN = ("luigi", "boto3", "botocore", "s3fs", "aiobotocore", "pandas", "joblib", "portalocker")
_EXTRAS = {
    "fast": ("obstore", "many small objects go to S3 several times as fast"),
    "dask": ("distributed", "--executor dask://..."),
    "testing": ("moto", "superluigi.testing, an S3 server for tests"),
}


def checks() -> Iterator[tuple[str, str, str]]:
    """Give for each thing that was looked at how it is (ok, note, warn, fail), what was found, and what to do."""
    version = platform.python_version()
    system = f"Python {version} on {platform.system()} {platform.release()}, {platform.machine()}"
    if sys.version_info < _OLDEST:
        yield "fail", system, "Super Luigi needs Python 3.10 or later."
    else:
        yield "ok", f"{system}: {sys.executable}", ""
    yield "ok", f"superluigi {superluigi.__version__} from {superluigi.__path__[0]}", ""
    yield "ok", ", ".join(f"{name} {_version(name) or 'missing'}" for name in _SHOWN), ""
    yield from _consistency()
    for extra, (name, purpose) in _EXTRAS.items():
        found = _version(name)
        if found:
            yield "ok", f"The extra {extra} is there ({name} {found}).", ""
        else:
            yield "note", f"The extra {extra} is not there ({purpose}): pip install 'superluigi[{extra}]'", ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _consistency() -> Iterator[tuple[str, str, str]]:
    if _version("superluigi") is None:
        advice = "Install it: pip install superluigi, or, from a clone, pip install -e ."
        yield "warn", "superluigi is imported from its sources, and is not installed.", advice
        return
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield "note", "Whether versions fit together is not known: that takes the package packaging, or pip check.", ""
        return
    problems = list(_problems(Requirement))
    for problem in problems:
        yield "fail", problem, "Run: pip install --upgrade superluigi boto3 s3fs aiobotocore"
    if not problems:
        yield "ok", "All that it needs is there, in versions that fit together.", ""


def _problems(requirement_cls: Any) -> Iterator[str]:
    pending, seen = [("superluigi", frozenset[str]())], set()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or []:
            required = requirement_cls(text)
            if required.marker and not any(required.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                continue
            found = _version(required.name)
            if found is None:
                yield f"{name} needs {required.name}, which is not installed."
            elif required.specifier and not required.specifier.contains(found, prereleases=True):
                yield f"{name} needs {required.name}{required.specifier}, but {found} is installed."
            if found is not None:
                pending.append((re.sub(r"[-_.]+", "-", required.name).lower(), frozenset(required.extras)))
