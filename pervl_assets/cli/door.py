"""The door of the UI: which requests reach Dagster's web server, and why the others do not.

Dagster 1.13 has no log-in, accepts a mutation as a plain `GET`, and checks neither `Host` nor `Origin`. Any web page in
the user's browser could start and delete runs. `Door` refuses what no page of the UI sends.
"""

import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final

from pervl_assets.core.errors import PervlError
from pervl_assets.core.text import escape_terminal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_GRAPHQL: Final = "/graphql"
_REPORT: Final = "/report_asset"
_READ: Final = ("host", "origin", "content-type", "accept", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
"""Headers that decide. One that comes twice is refused, since two readers may choose differently."""

_AS_IS: Final = ("accept", "content-type")
"""Those that Dagster compares with lower-case text as they are."""

_POLICY_VIOLATION: Final = 1008
_NO_FRAMES: Final = (b"x-frame-options", b"SAMEORIGIN")
"""A page of another site in whose frame the UI is shown could make the user press a button unseen."""

_HOST: Final = re.compile(r"([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")


class Door:
    """ASGI app that answers 403, or closes a websocket, or passes a request on to `app`.

    Args:
        app: Dagster's web server.
        hosts: Every value that the header `Host` may have, in lower case.
    """

    def __init__(self, app: App, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        fault = None if scope["type"] == "lifespan" else self._find_fault(scope)
        if fault is None:
            await self._app(scope, receive, _forbid_frames(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": fault})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"403 refused: {fault}\n".encode()})

    def _find_fault(self, scope: Message) -> str | None:
        """Return why a request is refused; None if it is served."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key in headers:
                return f"the header {key} comes twice."
            if key in _READ:
                text = value.decode("latin-1").strip()
                headers[key] = text if key in _AS_IS else text.lower()
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            return f"this server is not {_quote(host)}. If it is, start it with: pervl ui --allow-host NAME"
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return f"it comes from a page of another site, {_quote(origin)}."
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not _is_link(scope, headers):
            return "it comes from a page of another site."
        return None if scope["type"] == "websocket" else _find_http_fault(scope, headers)


def _find_http_fault(scope: Message, headers: dict[str, str]) -> str | None:
    """Return what is wrong with method, address or content type; every change is a POST of JSON."""
    method, path = scope["method"], scope["path"]
    if not scope.get("raw_path", b"/").startswith(b"/"):
        return "its address is not a path."
    if method == "POST":
        kind = headers.get("content-type", "").partition(";")[0].strip()
        return None if kind == "application/json" else "a POST must have the content type application/json."
    if method not in ("GET", "HEAD"):
        return f"the method {_quote(method)} is not used here."
    if path.startswith(_REPORT) or (path.rstrip("/") == _GRAPHQL and "text/html" not in headers.get("accept", "")):
        return f"{_GRAPHQL} and {_REPORT}… take no GET, only a POST of JSON."
    return None


def _is_link(scope: Message, headers: dict[str, str]) -> bool:
    """Return whether a user followed a link on a page of another site, which opens a page and changes nothing."""
    to_page = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    return to_page and scope["type"] == "http" and scope["method"] in ("GET", "HEAD")


def _quote(text: str) -> str:
    return repr(escape_terminal(text[:100]))


def _forbid_frames(send: Send) -> Send:
    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), _NO_FRAMES]
        await send(message)

    return send_with_header


def list_hosts(host: str, port: int, more: Collection[str] = ()) -> frozenset[str]:
    """Return the allowed values of `Host`: of this machine, of the address that is listened at, and `more`.

    Raises:
        PervlError: One of `more` is no host name with or without a port.
    """
    if wrong := [name for name in more if not _HOST.fullmatch(name.lower())]:
        raise PervlError(
            f"--allow-host {_quote(wrong[0])} is not a host name.",
            advice="Give what browsers send as Host: the name alone, or with a port, e.g. dagster.example.org:8443.",
        )
    own = {"127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host}
    ports = (f":{port}", "") if port == 80 else (f":{port}",)
    return frozenset(name.lower() for name in (*more, *(one + end for one in own for end in ports)))
