"""What the embedded S3 server was asked: every request of every process, as the server saw it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from werkzeug.serving import WSGIRequestHandler

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class ServerLog:
    """The requests of one block, in the order in which they were answered."""

    requests: list[tuple[str, str]] = field(default_factory=list)

    def of(self, method: str, path: str = "") -> list[str]:
        """The paths, `/bucket/key`, that were asked with this method and end so."""
        return [asked for used, asked in self.requests if used == method and asked.endswith(path)]


@contextlib.contextmanager
def recorded_requests() -> Iterator[ServerLog]:
    """Record what the server of this process answers while the block runs."""
    log = ServerLog()

    def log_request(handler: WSGIRequestHandler, code: object = "-", size: object = "-") -> None:
        log.requests.append((handler.command, unquote(urlsplit(handler.path).path)))

    silent = WSGIRequestHandler.log_request
    WSGIRequestHandler.log_request = log_request
    try:
        yield log
    finally:
        WSGIRequestHandler.log_request = silent
