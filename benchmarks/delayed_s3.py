"""An S3 server for benchmarks, and before it a proxy that adds a round trip to each request and counts them.

Both have a process of their own. Connections are kept alive, and the delay of one does not hold up another. The server
is moto's (`moto`), or a bare one that holds everything in memory, checks nothing, and answers some ten times as many
requests per second (`bare`): with moto's, many requests at a time measure moto.

Started by hand it serves until it is interrupted: `python benchmarks/delayed_s3.py --delay-ms 20`.
"""

import argparse
import asyncio
import bisect
import collections
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import signal
import time
import urllib.request
from email.utils import formatdate, parsedate_to_datetime
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

HOST = "127.0.0.1"
COUNTS = "/-/counts"  # asked of the proxy itself: how many requests of which kind, and the most at one time; then 0
DELAY = "/-/delay/"  # with milliseconds: the proxy waits so long from now on
FILL = "-fill-"  # no bucket: the bare server takes a list of keys there, and makes empty objects
REGION = "us-east-1"
BLOCK_BYTES = 1 << 20
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": HOST,
    "no_proxy": HOST,
}


class HttpRequests(asyncio.Protocol):
    """The server's side of one connection: `on_head`, `on_body` and `on_end` are called for each request."""

    def connection_made(self, transport):
        self.transport = transport
        self.head = b""
        self.left = 0

    def data_received(self, data):
        while data:
            if self.left:
                part, data = data[: self.left], data[self.left :]
                self.left -= len(part)
                self.on_body(part)
                if not self.left:
                    self.on_end()
                continue
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            self.head = b""
            length = re.search(rb"(?i)\r\ncontent-length:\s*(\d+)", head)
            self.left = int(length[1]) if length else 0
            self.is_expecting = re.search(rb"(?i)\r\nexpect:\s*100-continue", head) is not None
            self.on_head(re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head) if self.is_expecting else head)
            if not self.left:
                self.on_end()


class Proxy(HttpRequests):
    """Hands every request on after the delay; what comes back is handed back as it is."""

    def __init__(self, upstream_port, delay, counts):
        self.upstream_port = upstream_port
        self.delay = delay
        self.counts = counts
        self.upstream = None
        self.held = []
        self.is_held = True
        self.is_under_way = False

    def connection_made(self, transport):
        super().connection_made(transport)
        self.opening = asyncio.ensure_future(self.open())

    async def open(self):
        loop = asyncio.get_running_loop()
        self.upstream, _ = await loop.create_connection(lambda: Answers(self), HOST, self.upstream_port)
        if not self.is_held:
            self.release()

    def on_head(self, head):
        method, target = head.split(b" ", 2)[:2]
        if target == COUNTS.encode():
            self.answer_counts()
            return
        if target.startswith(DELAY.encode()):
            self.delay["s"] = float(target.removeprefix(DELAY.encode())) / 1000
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        self.counts[operation_of(method.decode(), target.decode())] += 1
        self.counts["under way"] += 1
        self.counts["at most"] = max(self.counts["at most"], self.counts["under way"])
        self.is_under_way = True
        self.is_held = True
        self.held.append(head + b"\r\n\r\n")
        loop = asyncio.get_running_loop()
        if self.is_expecting:  # a client that waits for `100 Continue` before it sends the body makes two round trips
            loop.call_later(self.delay["s"], self.transport.write, b"HTTP/1.1 100 Continue\r\n\r\n")
        loop.call_later(self.delay["s"] * (1 + self.is_expecting), self.release)

    def release(self):
        self.is_held = False
        if self.upstream is not None:
            self.upstream.write(b"".join(self.held))
            self.held.clear()
            self.transport.resume_reading()

    def on_body(self, data):
        if self.is_held or self.upstream is None:
            self.held.append(data)
            self.transport.pause_reading()
        else:
            self.upstream.write(data)

    def on_end(self):
        pass

    def answered(self):
        if self.is_under_way:
            self.is_under_way = False
            self.counts["under way"] -= 1

    def answer_counts(self):
        body = json.dumps({name: count for name, count in self.counts.items() if count}).encode()
        for name in set(self.counts) - {"under way"}:
            self.counts[name] = 0
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def pause_writing(self):
        self.upstream.pause_reading()

    def resume_writing(self):
        self.upstream.resume_reading()

    def connection_lost(self, _error):
        self.answered()
        self.opening.cancel()
        if self.upstream is not None:
            self.upstream.close()


class Answers(asyncio.Protocol):
    """The proxy's connection to the server."""

    def __init__(self, proxy):
        self.proxy = proxy

    def data_received(self, data):
        self.proxy.answered()
        self.proxy.transport.write(data)

    def pause_writing(self):
        self.proxy.transport.pause_reading()

    def resume_writing(self):
        self.proxy.transport.resume_reading()

    def connection_lost(self, _error):
        self.proxy.transport.close()


def operation_of(method, target):
    """Give the name that S3 has for a request."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload"}.get(method, "AbortMultipartUpload")
    if "uploads" in query:
        return "CreateMultipartUpload"
    if "delete" in query:
        return "DeleteObjects"
    if "/" not in parts.path.strip("/"):
        return {"GET": "List", "HEAD": "HeadBucket"}.get(method, method)
    return {"HEAD": "Head", "GET": "Get", "PUT": "Put", "DELETE": "Delete"}.get(method, method)


def iso(date):
    """Give the time of a header as listings write it."""
    return parsedate_to_datetime(date).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Store:
    """Buckets and objects of the bare server."""

    def __init__(self):
        self.objects = {}
        self.order = {}
        self.uploads = {}

    def sorted_keys(self, bucket):
        if self.order.get(bucket) is None:
            self.order[bucket] = sorted(self.objects[bucket])
        return self.order[bucket]

    def put(self, bucket, key, blocks, size, etag, headers):
        if key not in self.objects[bucket]:
            self.order[bucket] = None
        self.objects[bucket][key] = (blocks, size, etag, headers, formatdate(time.time(), usegmt=True))

    def delete(self, bucket, key):
        if self.objects[bucket].pop(key, None):
            self.order[bucket] = None


class BareS3(HttpRequests):
    """What the benchmarks need of S3."""

    def __init__(self, store):
        self.store = store

    def on_head(self, head):
        lines = head.decode("latin-1").split("\r\n")
        self.method, target, _ = lines[0].split(" ")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        path, _, query = target.partition("?")
        self.query = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        self.bucket, _, self.key = unquote(path.lstrip("/")).partition("/")
        self.blocks = []
        self.md5 = hashlib.md5(usedforsecurity=False)

    def on_body(self, data):
        self.blocks.append(data)
        self.md5.update(data)

    def on_end(self):
        objects = self.store.objects.get(self.bucket)
        if self.bucket == FILL:
            for key in json.loads(b"".join(self.blocks)):
                self.store.put(self.key, key, [], 0, hashlib.md5(usedforsecurity=False).hexdigest(), {})
            self.answer(200)
        elif self.method == "PUT" and not self.key:
            self.store.objects.setdefault(self.bucket, {})
            self.answer(200)
        elif objects is None:
            self.error(404, "NoSuchBucket")
        elif not self.key:
            self.of_bucket()
        elif "uploads" in self.query or "uploadId" in self.query:
            self.of_upload()
        elif self.method == "PUT":
            size = sum(map(len, self.blocks))
            kept = {name: value for name, value in self.headers.items() if name.startswith("x-amz-meta-")}
            self.store.put(self.bucket, self.key, self.blocks, size, self.md5.hexdigest(), kept)
            self.answer(200, {"ETag": f'"{self.md5.hexdigest()}"'})
        elif self.method == "DELETE":
            self.store.delete(self.bucket, self.key)
            self.answer(204)
        elif self.key not in objects:
            self.error(404, "NoSuchKey")
        else:
            self.give(*objects[self.key])

    def give(self, blocks, size, etag, kept, modified):
        headers = {"ETag": f'"{etag}"', "Last-Modified": modified, "Accept-Ranges": "bytes", **kept}
        if (wanted := self.headers.get("range")) and self.method == "GET":
            first, _, last = wanted.partition("=")[2].partition("-")
            start, end = int(first), min(int(last or size - 1), size - 1) + 1
            headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": end - start}
            self.start(206, headers)
            position = 0
            for block in blocks:
                if position + len(block) > start and position < end:
                    self.transport.write(memoryview(block)[max(0, start - position) : end - position])
                position += len(block)
            return
        self.start(200, {**headers, "Content-Length": size})
        if self.method == "GET":
            self.transport.writelines(blocks)

    def of_bucket(self):
        if "delete" in self.query:
            for key in re.findall(r"<Key>(.*?)</Key>", b"".join(self.blocks).decode()):
                self.store.delete(
                    self.bucket, re.sub(r"&(\w+);", lambda m: {"amp": "&", "lt": "<", "gt": ">"}[m[1]], key)
                )
            self.answer_xml("<DeleteResult></DeleteResult>")
        elif self.method == "GET" and "location" not in self.query:
            self.list()
        else:
            self.answer(200)

    def list(self):
        keys, objects = self.store.sorted_keys(self.bucket), self.store.objects[self.bucket]
        prefix, count = self.query.get("prefix", ""), int(self.query.get("max-keys") or 1000)
        after = self.query.get("continuation-token") or self.query.get("start-after") or self.query.get("marker", "")
        start = max(bisect.bisect_left(keys, prefix), bisect.bisect_right(keys, after))
        page = keys[start : start + count]
        page = page[: bisect.bisect_right(page, prefix + "\U0010ffff")] if prefix else page
        page = [key for key in page if key.startswith(prefix)]
        is_truncated = start + count < len(keys) and len(page) == count and keys[start + count].startswith(prefix)
        encoded = quote if self.query.get("encoding-type") == "url" else escape
        body = "".join(
            f"<Contents><Key>{encoded(key)}</Key><LastModified>{iso(objects[key][4])}</LastModified>"
            f"<ETag>&quot;{objects[key][2]}&quot;</ETag><Size>{objects[key][1]}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        coding = "<EncodingType>url</EncodingType>" if encoded is quote else ""
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_truncated else ""
        self.answer_xml(
            f"<ListBucketResult><Name>{self.bucket}</Name><KeyCount>{len(page)}</KeyCount><MaxKeys>{count}</MaxKeys>"
            f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>{token}{coding}{body}</ListBucketResult>"
        )

    def of_upload(self):
        uploads = self.store.uploads
        if "uploads" in self.query:
            name = f"upload-{len(uploads)}"
            kept = {name: value for name, value in self.headers.items() if name.startswith("x-amz-meta-")}
            uploads[name] = ({}, kept)
            self.answer_xml(
                f"<InitiateMultipartUploadResult><Bucket>{self.bucket}</Bucket><Key>{escape(self.key)}</Key>"
                f"<UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            )
            return
        parts, kept = uploads[self.query["uploadId"]]
        if self.method == "PUT":
            parts[int(self.query["partNumber"])] = (self.blocks, self.md5.digest())
            self.answer(200, {"ETag": f'"{self.md5.hexdigest()}"'})
            return
        if self.method == "DELETE":
            parts.clear()
            self.answer(204)
            return
        numbers = sorted(parts)
        blocks = [block for number in numbers for block in parts[number][0]]
        whole = hashlib.md5(b"".join(parts[number][1] for number in numbers), usedforsecurity=False).hexdigest()
        etag = f"{whole}-{len(numbers)}"
        self.store.put(self.bucket, self.key, blocks, sum(map(len, blocks)), etag, kept)
        self.answer_xml(
            f"<CompleteMultipartUploadResult><Bucket>{self.bucket}</Bucket><Key>{escape(self.key)}</Key>"
            f"<ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>"
        )

    def start(self, status, headers):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 {status} X\r\nx-amz-request-id: R1\r\n{lines}\r\n".encode("latin-1"))

    def answer(self, status, headers=None, body=b""):
        length = {} if status == 204 else {"Content-Length": len(body)}
        self.start(status, {**length, **(headers or {})})
        if body and self.method != "HEAD":
            self.transport.write(body)

    def answer_xml(self, text):
        self.answer(200, {"Content-Type": "application/xml"}, f'<?xml version="1.0"?>{text}'.encode())

    def error(self, status, code):
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>none</Message></Error>'.encode()
        self.answer(status, {"Content-Type": "application/xml"}, b"" if self.method == "HEAD" else body)


def serve(protocol, port_told):
    """Serve until the process is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def serving():
        server = await asyncio.get_running_loop().create_server(protocol, HOST, 0, backlog=1024)
        port_told.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serving())


def serve_bare(port_told):
    store = Store()
    serve(lambda: BareS3(store), port_told)


def serve_proxy(port_told, upstream_port, delay_s):
    counts = collections.Counter()
    delay = {"s": delay_s}  # of all connections
    serve(lambda: Proxy(upstream_port, delay, counts), port_told)


def serve_moto(port_told):
    import logging

    from moto.server import ThreadedMotoServer

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(HOST, 0, verbose=False)
    server.start()
    port_told.put(server.get_host_and_port()[1])
    signal.pause()


class DelayedS3:
    """The address of a running pair, and what it was asked."""

    def __init__(self, port, bucket, *, is_bare):
        self.is_bare = is_bare
        self.endpoint_url = f"http://{HOST}:{port}"
        self.bucket = bucket
        self.environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint_url}

    def counts(self):
        """Give how often what was asked since the last call, and under `at most` the most requests at one time."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.endpoint_url + COUNTS) as answer:
            counts = json.load(answer)
        counts.pop("under way", None)
        return counts

    def delay(self, milliseconds):
        """Let each request take so much longer from now on."""
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{self.endpoint_url}{DELAY}{milliseconds}"
        ).close()

    def fill(self, keys):
        """Make empty objects of these keys in one request; says whether the server could."""
        if not self.is_bare:
            return False
        path = f"{self.endpoint_url}/{FILL}/{self.bucket}"
        request = urllib.request.Request(path, json.dumps(keys).encode(), method="PUT")  # noqa: S310  (our own server)
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
        return True


@contextlib.contextmanager
def delayed_s3(bucket, *, delay_ms, server):
    """Start both processes, with one empty bucket, and let this process's environment point at them."""
    context = multiprocessing.get_context("spawn")
    ports = context.SimpleQueue()
    processes = []

    def started(target, *arguments):
        process = context.Process(target=target, args=(ports, *arguments), daemon=True)
        process.start()
        processes.append(process)
        return ports.get()

    found = dict(os.environ)
    try:
        upstream_port = started(serve_moto if server == "moto" else serve_bare)
        running = DelayedS3(started(serve_proxy, upstream_port, delay_ms / 1000), bucket, is_bare=server == "bare")
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(running.environment)
        import boto3

        boto3.client("s3").create_bucket(Bucket=bucket)
        yield running
    finally:
        os.environ.clear()
        os.environ.update(found)
        for process in processes:
            process.terminate()
            process.join()


def add_options(parser):
    parser.add_argument("--delay-ms", type=float, default=20, help="round trip that the proxy adds to each request")
    parser.add_argument("--server", choices=("bare", "moto"), default="bare", help="see benchmarks/delayed_s3.py")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--bucket", default="benchmark")
    arguments = parser.parse_args()
    with delayed_s3(arguments.bucket, delay_ms=arguments.delay_ms, server=arguments.server) as running:
        print(running.endpoint_url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
        print(running.counts())


if __name__ == "__main__":
    main()
