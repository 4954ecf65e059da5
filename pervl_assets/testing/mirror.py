"""A server on 127.0.0.1 with the public inputs, for what is fetched.

Belongs here: serving a folder as the official servers serve their files. Does not belong here: servers that cut
connections or lie, which only the tests of the HTTP client need.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from pervl_assets.defs.raw import list_specs
from pervl_assets.testing.worlds import copy_raw

_POLL_SECONDS: Final = 0.02


class _Handler(SimpleHTTPRequestHandler):
    server: "Mirror"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.down:
            self.send_error(503)
        else:
            super().do_GET()


class Mirror(ThreadingHTTPServer):
    """A server of a folder that is laid out like a data folder, with `annotations/` beside, if any.

    Attributes:
        folder: What it serves; change a file to publish something new.
        url: Its address, for `PERVL_FETCH` or `fetch=`.
        down: While this is true, it answers 503.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        self.folder, self.url, self.down = folder, f"http://127.0.0.1:{self.server_port}/", False


@contextmanager
def serve_mirror(drawn: Path, folder: Path) -> Iterator[Mirror]:
    """Copy the public inputs from a data folder to another folder, and serve that until the context ends."""
    for spec in list_specs():
        if spec.url:
            copy_raw(spec.name, drawn, folder)
    with Mirror(folder) as server:
        threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True).start()
        yield server
        server.shutdown()
