"""One GET request whose server is not trusted: bounded redirects, no slow connections."""

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx

_REDIRECTS: Final = 5
_LEAST_RATE: Final = 1000
"""Bytes per second, on average over the client's read time-out, below which a connection is cut."""

_WINDOW: Final = 60.0


class TransientError(Exception):
    """A failure that may not happen the next time; `pause` is the wait in seconds that the server requests."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class RefusedError(Exception):
    """A failure that would happen again at once."""


class Answer:
    """The answer to a request: status, headers, and the body block by block."""

    def __init__(self, response: httpx.Response, guard: "_SpeedGuard") -> None:
        self.status, self.reason, self.headers = response.status_code, response.reason_phrase, response.headers
        self._response, self._guard = response, guard

    def read_blocks(self) -> Iterator[bytes]:
        """Yield the bytes of the body as they arrive.

        Raises:
            TransientError: Too few bytes arrive.
        """
        blocks = self._response.iter_raw()
        while (block := self._wait(blocks)) is not None:
            yield block
        self._guard.check()  # a connection that was cut looks like the end of a body without a length

    def _wait(self, blocks: Iterator[bytes]) -> bytes | None:
        self._guard.is_waiting = True
        block = next(blocks, None)
        self._guard.is_waiting = False
        self._guard.received += len(block or b"")
        return block


@contextmanager
def get(client: httpx.Client, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
    """Send a request and yield the answer.

    A redirect may stay on its server, or lead to its https. From a server on a public address it may also lead to https
    on another one.

    Raises:
        TransientError: No connection, or fewer than 1,000 bytes per second in the time that the client waits for bytes.
        RefusedError: An invalid address, or a redirect that is not followed.
    """
    guard = _SpeedGuard(client.timeout.read or _WINDOW)
    try:
        with guard:
            response = _follow(client, url, {**headers, "Connection": "close"}, guard)
            guard.is_waiting = False
            try:
                yield Answer(response, guard)
            finally:
                response.close()
    except (httpx.InvalidURL, UnicodeError) as error:
        raise RefusedError("the address is not valid") from error
    except httpx.UnsupportedProtocol as error:
        raise RefusedError(str(error)) from error
    except httpx.TransportError as error:
        guard.check()
        raise TransientError(str(error) or type(error).__name__) from error


def _follow(client: httpx.Client, url: str, headers: Mapping[str, str], guard: "_SpeedGuard") -> httpx.Response:
    start = httpx.URL(url)
    request = client.build_request("GET", start, headers=headers, extensions={"trace": guard.trace})
    for _ in range(_REDIRECTS + 1):
        response = client.send(request, stream=True, follow_redirects=False)
        if response.next_request is None:
            return response
        response.close()
        _check_redirect(start, request.url, response.next_request.url)
        request = response.next_request
    raise RefusedError(f"the server redirects more than {_REDIRECTS} times")


def _check_redirect(start: httpx.URL, source: httpx.URL, target: httpx.URL) -> None:
    if _get_origin(source) == _get_origin(target):
        return
    reason = ""
    if _is_private(start) and _get_origin(target) == ("https", source.host, None) == ("https", start.host, source.port):
        return
    if _is_private(start):
        reason = "a server on a private address may redirect to itself only"
    elif target.scheme != "https":
        reason = "redirects must lead to https"
    elif _is_private(target):
        reason = "a public server must not redirect to a private address"
    if reason:
        raise RefusedError(f"the server redirects to {target.scheme}://{target.host}, which is not followed: {reason}")


def _get_origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _is_private(url: httpx.URL) -> bool:
    """Return whether a name has an address that is not public. A name that only a proxy can look up has none.

    A name whose address changes between this and the connection gains nothing: https needs the name's certificate.
    """
    try:
        found = socket.getaddrinfo(url.raw_host.decode("ascii"), None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return False
    return not all(_is_public(str(address[0])) for *_, address in found)


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in ipaddress.IPv6Network("64:ff9b::/96"):  # IPv4 behind NAT64
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = embedded or address
    return address.is_global and not address.is_multicast


class _SpeedGuard:
    """Cuts the connection of a request over which too few bytes of the body arrive, in the time of one window.

    A window at whose end the caller works on received bytes, e.g. waits for a slow disk, is not counted.
    """

    def __init__(self, window: float) -> None:
        self.received, self.is_waiting = 0, True
        self._window, self._cut = window, False
        self._stream: Any = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Remember the connection; httpx calls this at every step of a request."""
        stream = info.get("return_value")
        if event.endswith(".complete") and hasattr(stream, "get_extra_info"):
            self._stream = stream

    def check(self) -> None:
        """Raise `TransientError` if the connection was cut."""
        if self._cut:
            raise TransientError(f"fewer than {_LEAST_RATE:,} bytes per second arrived for {self._window:g} seconds")

    def _run(self) -> None:
        before = 0
        while not self._end.wait(self._window):
            if self.received - before >= _LEAST_RATE * self._window:
                before = self.received
            elif (
                self.is_waiting and self._stream is not None and (open_socket := self._stream.get_extra_info("socket"))
            ):
                self._cut = True
                with contextlib.suppress(OSError):  # it is closed already
                    socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
