"""A server on 127.0.0.1 with the public inputs, for tests of downloads."""

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
    """A server of `folder`, which is laid out like a data folder. Change a file to publish a new version.

    `url` is its address, for `PERVL_FETCH` or `fetch=`. If `down`, every request is answered with 503.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        self.folder, self.url, self.down = folder, f"http://127.0.0.1:{self.server_port}/", False


@contextmanager
def serve_mirror(synthetic: Path, folder: Path) -> Iterator[Mirror]:
    """Copy the public inputs of a data folder to another folder, and serve that until the context ends."""
    for spec in list_specs():
        if spec.url:
            copy_raw(spec.name, synthetic, folder)
    with Mirror(folder) as server:
        threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True).start()
        yield server
        server.shutdown()
