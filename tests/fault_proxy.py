"""A reverse proxy before an S3 server that misbehaves on chosen requests, and counts all of them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ANSWERS = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied", "404": "NoSuchKey"}


@dataclass
class FaultProxy:
    """Faults are told with `misbehave`; `log` holds (operation, path) of every request that arrived.

    `at_once` is the most requests that were under way at one time; where `gathers` is set, each waits until there were
    so many.
    """

    endpoint_url: str
    log: list[tuple[str, str]] = field(default_factory=list)
    fault: str | None = None
    operation: str = ""
    times: float = 0
    release: threading.Event = field(default_factory=threading.Event)
    gathers: int = 0
    under_way: int = 0
    at_once: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def arrived(self) -> None:
        """Count one request more as under way."""
        with self.changed:
            self.under_way += 1
            self.at_once = max(self.at_once, self.under_way)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.at_once >= self.gathers, 20)

    def answered(self) -> None:
        """Count one less; before the answer is sent, since the next request may come before this thread goes on."""
        with self.changed:
            self.under_way -= 1

    def misbehave(self, fault: str, operation: str, times: float) -> None:
        """Let the next requests of one operation go wrong, so many times."""
        self.fault, self.operation, self.times = fault, operation, times

    def behave(self) -> None:
        self.times = 0
        self.release.set()

    def is_due(self, operation: str) -> bool:
        if operation != self.operation or self.times <= 0:
            return False
        self.times -= 1
        return True


def operation_of(method: str, target: str) -> str:
    """Give the name that S3 has for a request, with `Record` before it for lineage records."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    if "delete" in query:
        return "DeleteObjects"
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[method]
    if "uploads" in query:
        return "CreateMultipartUpload"
    if "list-type" in query:
        return "ListObjectsV2"
    name = {"HEAD": "HeadObject", "GET": "GetObject", "PUT": "PutObject"}.get(method, method)
    return f"Record{name}" if parts.path.endswith(".metadata.json") else name


@contextlib.contextmanager
def fault_proxy(upstream_url: str):
    """Start a proxy before the server at `upstream_url`."""
    upstream = urlsplit(upstream_url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments) -> None:
            pass

        def handle_request(self) -> None:
            operation = operation_of(self.command, self.path)
            proxy.log.append((operation, urlsplit(self.path).path))
            body = self.read_body()
            proxy.arrived()
            fault = proxy.fault if proxy.is_due(operation) else None
            if fault in {*ANSWERS, "reset", "stall"}:
                proxy.answered()
            if fault in ANSWERS:
                self.answer_error(int(fault), ANSWERS[fault])
            elif fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            elif fault == "stall":
                proxy.release.wait(20)
                self.close_connection = True
            else:
                self.forward(body, fault)

        def read_body(self) -> bytes:
            if self.headers.get("Expect", "").lower() == "100-continue":
                pass  # http.server has answered it already
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def answer_error(self, status: int, code: str) -> None:
            body = f"<Error><Code>{code}</Code><Message>as told</Message><RequestId>R42</RequestId></Error>".encode()
            self.send_response(status)
            self.send_header("x-amz-request-id", "R42")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def forward(self, body: bytes, fault: str | None) -> None:
            connection = http.client.HTTPConnection(upstream, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            headers["Content-Length"] = str(len(body))
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
            finally:
                proxy.answered()
            if fault == "wrong bytes":
                data = bytes(byte ^ 1 for byte in data)
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection") and not (
                    fault == "wrong bytes" and name.lower().startswith("x-amz-checksum")
                ):
                    self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if fault == "truncated body" else data)
            if fault == "truncated body":
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request  # noqa: N815  (http.server asks for these)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
