"""Addresses: what is one, what an error of a bucket shows, and that it holds no secret."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from pervl_assets.core.addresses import Address, explain_address_errors, is_address, open_address, parse_address
from pervl_assets.core.errors import AddressError, MissingInputError, NoAnswerError, PervlError, WriteError

SECRET = "a-made-up-secret"


@pytest.mark.parametrize(
    ("text", "scheme", "name", "is_bucket"),
    [
        ("s3://pervl/raw/train.zip", "s3", "train.zip", True),
        ("gs://pervl", "gs", "pervl", True),
        ("https://example.org/a%20b.zip/", "https", "a%20b.zip", False),
        ("http://127.0.0.1:8000/x", "http", "x", False),
    ],
)
def test_addresses(text: str, scheme: str, name: str, is_bucket: bool):
    address = parse_address(text)
    assert (address.scheme, address.name, address.is_bucket) == (scheme, name, is_bucket)
    assert str(address) == text.rstrip("/")
    assert str(address / "train.zip") == f"{text.rstrip('/')}/train.zip"


@pytest.mark.parametrize(
    "text",
    [
        f"https://anna:{SECRET}@example.org/x",
        f"https://example.org/x?token={SECRET}",
        "s3://pervl/a#b",
        "s3://",
        "s3:///x",
        "S3://pervl",
        "ftp://example.org/x",
        "http://example.org/x",
        "http://127.0.0.1:0/x",
        "https://[::1/x",
        "file:///etc/passwd",
        "s3://pervl/../x",
        "s3://pervl//x",
        "s3://pervl/a\\b",
        "s3://pervl/a\nb",
    ],
)
def test_what_is_no_address_is_refused_without_being_repeated(text: str):
    with pytest.raises(ValueError, match=r"^must ") as caught:
        parse_address(text)
    assert SECRET not in str(caught.value)
    assert is_address(text)


def test_a_path_is_no_address():
    assert not any(map(is_address, ("data/raw", "/data", "C:/data", "~/s3", "s3:x")))


def test_only_buckets_are_opened_as_stores():
    with pytest.raises(AddressError, match="not in a bucket"):
        open_address(Address("https://example.org/x"))


class _Refuses(http.server.BaseHTTPRequestHandler):
    status, code = 403, "SignatureDoesNotMatch"

    def do_GET(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>{SECRET}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Refuses]]:
    """The variables of the SDK name a server that refuses everything."""
    handler = type("Refuses", (_Refuses,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _set_endpoint(monkeypatch, server.server_address[1])
    yield handler
    server.shutdown()
    server.server_close()


def _set_endpoint(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made-up")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "SignatureDoesNotMatch", AddressError, ("refuses it (SignatureDoesNotMatch)", "AWS_ACCESS_KEY_ID")),
        (404, "NoSuchBucket", AddressError, ("bucket of s3://pervl/train.zip does not exist",)),
        (404, "NoSuchKey", MissingInputError, ("nothing at s3://pervl/train.zip",)),
        (400, "Odd", AddressError, ("answers 400 Odd", "AWS_REGION")),
        (503, "SlowDown", NoAnswerError, ("answers 503 SlowDown", "run again")),
        (400, "RequestTimeout", NoAnswerError, ("answers 400 RequestTimeout",)),
    ],
)
def test_errors_name_the_address_and_no_secret(
    endpoint: type[_Refuses],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    kind: type[PervlError],
    words: tuple[str, ...],
):
    monkeypatch.setattr("pervl_assets.core.addresses._RETRIES", {"max_retries": 0})
    endpoint.status, endpoint.code = status, code
    address = Address("s3://pervl/train.zip")
    store, path = open_address(address)
    assert path == "train.zip"
    with pytest.raises(kind) as caught, explain_address_errors(address):
        obstore.get(store, path)
    assert (type(caught.value), caught.value.is_temporary) == (kind, kind is NoAnswerError)
    assert all(word in str(caught.value) for word in words)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_of_this_machine_that_is_gone_is_none_of_the_bucket(tmp_path: Path):
    with pytest.raises(WriteError, match="a file of this machine was"), explain_address_errors(Address("s3://pervl/a")):
        MemoryStore().put("a", tmp_path / "gone")
    with pytest.raises(WriteError), explain_address_errors(Address("s3://pervl/a")):
        (tmp_path / "gone").read_bytes()


def test_a_name_that_no_object_can_have():
    with pytest.raises(AddressError, match="no object can have this name"), explain_address_errors(Address("s3://p/a")):
        MemoryStore().get("a\nb")
    with pytest.raises(ValueError, match="ours"), explain_address_errors(Address("s3://p/a")):
        raise ValueError("ours")


def test_no_connection(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pervl_assets.core.addresses._RETRIES", {"max_retries": 0})
    with socket.create_server(("127.0.0.1", 0)) as closed:
        _set_endpoint(monkeypatch, closed.getsockname()[1])
    store, path = open_address(Address("s3://pervl/a"))
    with pytest.raises(NoAnswerError, match="no connection"), explain_address_errors(Address("s3://pervl/a")):
        obstore.get(store, path)


def test_a_large_request_may_take_longer_than_a_silent_server(monkeypatch: pytest.MonkeyPatch):
    """The time in which a request is sent counts as silence: values of some hundred MB would never arrive."""
    monkeypatch.setattr("pervl_assets.core.addresses._RETRIES", {"max_retries": 0})
    monkeypatch.setattr("pervl_assets.core.addresses._ANSWER_SECONDS", 1)
    monkeypatch.setattr("pervl_assets.core.addresses._SLOWEST", 1 << 20)
    with _serve_slowly(0.5) as port:
        _set_endpoint(monkeypatch, port)
        value = bytes(6 << 20)
        for sent in (0, len(value)):
            store, path = open_address(Address("s3://pervl/a"), sent)
            expected = nullcontext() if sent else pytest.raises(AddressError, match="no answer in time")
            with expected, explain_address_errors(Address("s3://pervl/a")):
                obstore.put(store, path, value, mode="create")


@contextmanager
def _serve_slowly(seconds: float) -> Iterator[int]:
    """Serve PUT requests, of which every MiB takes this time; yields the port."""

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            left = int(self.headers["Content-Length"])
            while left and (block := self.rfile.read(min(left, 1 << 20))):
                left -= len(block)
                time.sleep(seconds)
            with suppress(OSError):  # the client has given up
                self.send_response(200)
                self.send_header("ETag", '"1"')
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
