"""A server on 127.0.0.1 that knows ranges and ETags, over plain HTTP and as much of S3 as reading needs.

It can misbehave: see `RangeServer.mode`.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pervl_assets.core.addresses import Address

BUCKET = "pervl"
FAST = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=1)}


class RangeServer(ThreadingHTTPServer):
    """Serves `files` by path, e.g. `a.zip`.

    Attributes:
        requests: Method and `Range` of every request.
        sent: Bytes of bodies that were written.
        delay: Seconds before each answer.
        fail: Number of requests to come that are answered with 503.
        cut: Number of answers to come that end in their middle.
        mode: What is wrong with every answer to a GET: `whole` (ranges are ignored), `shifted` (another range), `long`,
            `short`, `endless` (1 GiB more), `no version`, `weak`, `redirect` (to a port of its own), or a status.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.sent = self.fail = self.cut = 0
        self.delay = 0.0
        self.mode: str | int = ""

    def root(self, scheme: str) -> Address:
        """Return the address of everything, by `http` or `s3`."""
        return Address(f"s3://{BUCKET}" if scheme == "s3" else f"http://127.0.0.1:{self.server_port}/{BUCKET}")

    def address(self, scheme: str, name: str) -> Address:
        """Return the address of a file."""
        return self.root(scheme) / name

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that give up are part of the tests."""


@lru_cache
def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.command, self.headers.get("Range")))
        time.sleep(server.delay)
        data = server.files.get(self.path.removeprefix(f"/{BUCKET}/"))
        etag = _tag(data or b"")
        if server.fail:
            server.fail -= 1
            self._answer(503)
        elif isinstance(server.mode, int):
            self._answer(server.mode)
        elif server.mode == "redirect":
            self._answer(302, {"Location": "http://127.0.0.1:9/a.zip"})
        elif data is None:
            self._answer(404, body=b"<Error><Code>NoSuchKey</Code></Error>")
        elif self.headers.get("If-Match") not in (None, etag):
            self._answer(412)
        else:
            self._serve(data, etag)

    def _serve(self, data: bytes, etag: str) -> None:
        mode = str(self.server.mode)
        headers = {"ETag": f"W/{etag}" if mode == "weak" else etag, "Last-Modified": "Fri, 27 Nov 2026 10:00:00 GMT"}
        if mode == "no version":
            headers = {}
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(match[1]), min(int(match[2]) + 1, len(data))) if match else (0, len(data))
        if not match or mode == "whole":
            self._answer(200, headers, data)
        elif start >= end:
            self._answer(416, headers | {"Content-Range": f"bytes */{len(data)}"})
        else:
            start, end = (start + 1, end + 1) if mode == "shifted" else (start, end)
            body = data[start:end] + {"long": b"x", "endless": bytes(1 << 20)}.get(mode, b"")
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            self._answer(206, headers, body[:-1] if mode == "short" else body)

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        server = self.server
        length = 1 << 30 if server.mode == "endless" and status == 206 else len(body)
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if server.cut and status == 206 and len(body) > 1:
            server.cut -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)
        server.sent += len(body)
        while server.mode == "endless" and status == 206 and server.sent < length:
            self.wfile.write(bytes(1 << 20))
            server.sent += 1 << 20


@contextmanager
def serve_ranges(monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """Serve until the context ends; the variables of the SDK lead to it, and retries do not wait."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with RangeServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        monkeypatch.setattr("pervl_assets.archives.remote_servers.choose_pause", lambda *_: 0.0)
        monkeypatch.setattr("pervl_assets.core.addresses._RETRIES", {"max_retries": 3, "backoff": FAST})
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
