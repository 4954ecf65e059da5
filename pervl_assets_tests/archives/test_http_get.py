"""Requests to servers that redirect elsewhere, or hold the connection. Names are resolved by a table."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from pervl_assets.archives.http_get import RefusedError, TransientError, _SpeedGuard, get

ADDRESSES = {
    "official.example": ["93.184.215.14"],
    "cdn.example": ["2606:2800:21f:cb07::1", "93.184.215.15"],
    "both.example": ["93.184.215.16", "10.0.0.1"],
    "mirror.lan": ["192.168.1.5"],
    "shared.example": ["100.64.0.1"],
    "localhost": ["127.0.0.1", "::1"],
    "2130706433": ["127.0.0.1"],
}
START = "https://official.example/a"


@pytest.fixture(autouse=True)
def names(monkeypatch):
    def look_up(host, *_, **__):
        if host.endswith(".proxied"):
            raise socket.gaierror
        return [(0, 0, 0, "", (address, 0)) for address in ADDRESSES.get(host, [host.strip("[]")])]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def follow(start, *locations):
    """Return the addresses that are requested if the server redirects to each location in turn."""
    asked, left = [], list(locations)

    def answer(request):
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": left.pop(0)}) if left else httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client, get(client, start, {}) as response:
        assert response.status == 200
    return asked


@pytest.mark.parametrize(
    ("start", "location"),
    [
        (START, "/b"),
        (START, "https://cdn.example/a"),
        (START, "https://name.proxied/a"),
        ("http://official.example/a", "https://cdn.example/a"),
        ("http://official.example/a", "http://official.example/b"),
        ("http://127.0.0.1:8000/a", "/b"),
        ("http://mirror.lan/a", "http://mirror.lan:80/b"),
        ("http://mirror.lan/a", "https://mirror.lan/a"),
    ],
)
def test_redirects_that_are_followed(start, location):
    assert follow(start, location) == [start, str(httpx.URL(start).join(location))]


@pytest.mark.parametrize(
    ("start", "location", "reason"),
    [
        (START, "http://cdn.example/a", "must lead to https"),
        (START, "http://official.example/a", "must lead to https"),
        ("http://official.example/a", "http://cdn.example/a", "must lead to https"),
        (START, "file:///etc/passwd", "must lead to https"),
        (START, "ftp://cdn.example/a", "must lead to https"),
        *(
            (START, f"https://{host}/a", "private address")
            for host in (
                "mirror.lan",
                "both.example",
                "shared.example",
                "localhost",
                "2130706433",
                "127.0.0.1",
                "169.254.169.254",
                "0.0.0.0",  # noqa: S104 - nothing listens there
                "224.0.0.1",
                "[::1]",
                "[fe80::1]",
                "[fd00::1]",
                "[::ffff:127.0.0.1]",
                "[2002:7f00:1::]",
                "[64:ff9b::7f00:1]",
            )
        ),
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:8001/a", "to itself only"),
        ("http://127.0.0.1:8000/a", "https://official.example/a", "to itself only"),
        ("http://mirror.lan/a", "http://localhost/a", "to itself only"),
        ("http://mirror.lan/a", "https://mirror.lan:8443/a", "to itself only"),
        ("https://mirror.lan/a", "http://mirror.lan/a", "to itself only"),
    ],
)
def test_redirects_that_are_refused(start, location, reason):
    with pytest.raises(RefusedError, match=reason):
        follow(start, location)


def test_redirects_end():
    assert len(follow(START, *["/b"] * 5)) == 6
    with pytest.raises(RefusedError, match="more than 5 times"):
        follow(START, *["/b"] * 6)


def test_a_second_redirect_is_checked_too():
    with pytest.raises(RefusedError, match="must lead to https"):
        follow("http://official.example/a", "https://cdn.example/a", "http://official.example/a")


@pytest.mark.parametrize(
    "url", ["http://anna:flu/ffy@host/", "http://[::1", f"http://{'a' * 70}.example/", "http://h\N{SNOWMAN}/", "x://y/"]
)
def test_addresses_that_cannot_be_requested(url, monkeypatch):
    monkeypatch.undo()
    with httpx.Client(trust_env=False) as client, pytest.raises(RefusedError) as caught, get(client, url, {}):
        pass
    assert "flu" not in str(caught.value)


@pytest.fixture
def drip(monkeypatch):
    """Serve `first`, then `block` again and again; return what a request with a short time-out raises, and its time."""
    monkeypatch.undo()
    stop = threading.Event()

    def drip(first, block):
        server = socket.create_server(("127.0.0.1", 0))

        def serve():
            with server, contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(first)
                    while not stop.wait(0.02):
                        connection.sendall(block)

        threading.Thread(target=serve, daemon=True).start()
        begin = time.monotonic()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with (
            httpx.Client(trust_env=False, timeout=0.3) as client,
            pytest.raises(TransientError, match=r"fewer than 1,000 bytes per second arrived for 0\.3 seconds"),
            get(client, url, {}) as answer,
        ):
            for _ in answer.read_blocks():
                pass
        return time.monotonic() - begin

    yield drip
    stop.set()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("first", "block"),
    [
        (OK + b"Content-Length: 9999\r\n\r\n", b"x"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (OK + b"X: ", b"x"),
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["length", "until closed", "chunks", "chunk extension", "header", "status", "100 Continue"],
)
def test_a_connection_over_which_little_arrives_is_cut(drip, first, block):
    assert drip(first, block) < 3


def test_a_slow_disk_is_not_a_slow_server(monkeypatch):
    monkeypatch.undo()
    body = bytes(300_000)
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with server:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(OK + b"Content-Length: 300000\r\n\r\n" + body)

    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    received = []
    with httpx.Client(trust_env=False, timeout=0.2) as client, get(client, url, {}) as answer:
        for block in answer.read_blocks():
            if not received:
                time.sleep(0.7)
            received.append(block)
    assert b"".join(received) == body


def test_a_connection_without_a_socket_is_not_cut():
    guard = _SpeedGuard(0.01)
    guard.trace("connect.complete", {"return_value": SimpleNamespace(get_extra_info=lambda _: None)})
    with guard:
        time.sleep(0.05)
    guard.check()
