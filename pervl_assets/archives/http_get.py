"""GET requests whose servers are not trusted: bounded redirects, no slow connections, checked headers, pauses."""

import contextlib
import email.utils
import ipaddress
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import httpx

from pervl_assets.core.errors import MissingInputError

_REDIRECTS: Final = 5
_LEAST_RATE: Final = 1000
"""Bytes per second, on average over the client's read time-out, below which a connection is cut."""

_WINDOW: Final = 60.0
_LONGEST_PAUSE: Final = 120.0
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_CERTIFICATES: Final = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR"})
_PROXIES: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})

ETAG: Final = re.compile(r'(W/)?"[!#-~]{0,200}"')
DATE: Final = re.compile(r"[ -~]{1,64}")
"""Forms of headers."""


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

    def refuse(self) -> NoReturn:
        """Raise the failure that the status is.

        Raises:
            TransientError: The server is busy, or has an error of its own.
            RefusedError: Any other failure.
        """
        if self.status in _TRANSIENT:
            raise TransientError(f"the server answers {self.status}", self._read_pause())
        raise RefusedError(f"the server answers {self.status} {self.reason}")

    def _read_pause(self) -> float | None:
        """Return the seconds in `Retry-After`, which is a number or a date."""
        text = self.headers.get("Retry-After", "")
        if text.isdecimal():
            return float(text)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except (TypeError, ValueError, OverflowError):
            return None

    def _wait(self, blocks: Iterator[bytes]) -> bytes | None:
        self._guard.is_waiting = True
        block = next(blocks, None)
        self._guard.is_waiting = False
        self._guard.received += len(block or b"")
        return block


def match_header(form: re.Pattern[str], text: str) -> str:
    """Return a header's value if it has its form, else an empty text."""
    return text if form.fullmatch(text) else ""


def choose_pause(error: Exception, failures: int) -> float:
    """Return how many seconds to wait after some failures in a row: what the server requests, else a guess."""
    if isinstance(error, TransientError) and error.pause is not None:
        return min(error.pause, _LONGEST_PAUSE)
    return min(2.0 ** (failures - 1), _LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret


def open_client(read_seconds: float = _WINDOW, connect_seconds: float = 10.0) -> httpx.Client:
    """Return a client with these time-outs. It reads proxies and certificates at its first request."""
    return httpx.Client(timeout=httpx.Timeout(read_seconds, connect=connect_seconds), transport=_LazyTransport())


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


class _LazyTransport(httpx.BaseTransport):
    """Connections by the environment's proxies and certificates, which are read when the first request is sent."""

    def __init__(self) -> None:
        self._client: httpx.Client | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Raises:
            MissingInputError: The environment's proxies or certificates cannot be used.
        """
        self._client = self._client or _open_environment_client()
        return self._client.send(request, stream=True, follow_redirects=False)

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()


def _open_environment_client() -> httpx.Client:
    try:
        return httpx.Client()
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        wanted = _CERTIFICATES if isinstance(error, OSError) else _PROXIES
        found = " and ".join(sorted(name for name in os.environ if name.upper() in wanted))
        raise MissingInputError(  # without values and httpx's text, which can hold a password
            f"No connection can be opened with the environment's {found or 'certificates'} ({type(error).__name__}).",
            advice="Correct or unset them: a proxy is http://host:port, NO_PROXY holds host names, SSL_CERT_FILE an "
            "existing file of certificates. Or download the files by hand.",
        ) from error
