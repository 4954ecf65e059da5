"""`pervl ui`: Dagster's web server behind the project's door, and the daemon, in one process."""

import os
import signal
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from pervl_assets.cli.docs import DOCS_START, Docs
from pervl_assets.cli.door import Door, list_hosts
from pervl_assets.cli.runs import open_instance
from pervl_assets.core.addresses import Place
from pervl_assets.core.errors import PervlError
from pervl_assets.dagster_private import run_web_server
from pervl_assets.settings import get_variable

_DEFINITIONS: Final = "pervl_assets.definitions"
_LOCATION: Final = "pervl_assets"
"""Name of the code location in `workspace.yaml` and `pyproject.toml`, too: states of schedules belong to it."""

_START: Final = f"/locations/{_LOCATION}/jobs/everything"
"""The page that the address opens: what the job does, and what to press."""

_END_SECONDS: Final = 5
"""How long open requests may take when the server ends."""


def serve(
    console: Console,
    data: Place,
    host: str,
    port: int,
    more_hosts: Collection[str] = (),
    workspace: Path | None = None,
    *,
    read_only: bool = False,
) -> None:
    """Serve the UI until a signal ends it.

    Args:
        console: Where the address is printed.
        data: The data root.
        host: Address to listen at.
        port: Port to listen at; 0 for any that is free.
        more_hosts: Further names under which browsers reach it, e.g. that of a proxy.
        workspace: File that names code servers, in the place of a code location in this process.
        read_only: Whether everything that changes something is refused; without daemon.

    Raises:
        PervlError: The port is in use, or the address is none of this machine; a name is no host name; or the file
            names no code servers.
    """
    import uvicorn

    with _listen(host, port) as opened:
        port = opened.getsockname()[1]
        hosts = list_hosts(host, port, more_hosts)
        shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if host not in ("127.0.0.1", "localhost", "::1"):
            console.print(
                f"[yellow]warning[/] other machines reach {shown}, and there is no log-in: docs/security.md",
                soft_wrap=True,
            )
        os.environ.setdefault(get_variable("ui_url"), shown)  # for messages about failed runs
        for ending in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, _end)
        with (
            open_instance(data) as instance,
            run_web_server(instance, _DEFINITIONS, _LOCATION, workspace, read_only=read_only) as app,
        ):
            console.print(f"The Dagster UI is at [bold]{shown}[/]; Ctrl-C ends it", highlight=False, soft_wrap=True)
            console.print(f"Documentation: {shown}{DOCS_START}", highlight=False, soft_wrap=True)
            config = uvicorn.Config(
                Door(Docs(app, None if workspace else _START), hosts),
                http="h11",  # unlike httptools, it shows an address that is not a path as it is
                loop="asyncio",  # unlike uvloop, it leaves signals to the interpreter
                lifespan="off",
                log_level="warning",
                proxy_headers=False,
                timeout_graceful_shutdown=_END_SECONDS,
            )
            uvicorn.Server(config).run(sockets=[opened])


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    """Open the socket first, so that a second server ends before it starts a daemon."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        opened = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]  # without the address in Python
        raise PervlError(
            f"The UI cannot listen at {host}, port {port}: {reason}.",
            advice="End the other server if the port is in use, or choose another: pervl ui --port 3001.",
        ) from error
    with opened:
        yield opened


def _end(number: int, _: object) -> None:
    """End the daemon and the code server, too: by itself, the signal would leave them."""
    sys.exit(128 + number)
