"""`pervl ui` on 127.0.0.1, with an instance and a data folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx

_PROJECT: Final = Path(__file__).parents[2]

_START_SECONDS: Final = 60


class Servers:
    """`pervl ui`, from entering to leaving a `with` block: web server and daemon, and the process of the code.

    It leads a process group with its code server and runs, so that ending the group ends all of them.

    Attributes:
        root: Folder of instance and log, also of an instance that exists.
        data: Data folder (`PERVL_DATA`).
        home: Folder of the instance (`DAGSTER_HOME`), with the project's own `dagster.yaml`.
        address: Where the web server listens.

    Args:
        settings: Further variables of the environment.
    """

    def __init__(self, root: Path, data: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.root, self.data, self.home, self._settings = root, data, root / "home", settings
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._log = root / "ui.log"

    def __enter__(self) -> "Servers":
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.copy(_PROJECT / "dagster.yaml", self.home)
        # Not below `root`: the path of a socket must be short.
        self._sockets = tempfile.TemporaryDirectory(prefix="pervl-", ignore_cleanup_errors=True)
        self._process = self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> "subprocess.Popen[bytes]":
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PERVL_", "DAGSTER_"))}
        env |= {
            "DAGSTER_HOME": str(self.home),
            "PERVL_DATA": str(self.data),
            "PERVL_PROFILE": "demo",
            "PERVL_FETCH": "off",
            "PERVL_DEVICE": "cpu",
            "PERVL_EXECUTOR": "in_process",
            "TMPDIR": self._sockets.name,
            **self._settings,
        }
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pervl_assets.cli", "ui", "--port", str(self._port)],
                cwd=_PROJECT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return once pages are served.

        Raises:
            RuntimeError: The server ended, or did not answer within a minute; the message contains its log.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"The server ended at its start.\n{self.read_logs()}")
            with suppress(httpx.TransportError):
                httpx.get(f"{self.address}/server_info", trust_env=False).raise_for_status()
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.address} does not answer after {_START_SECONDS} s.\n{self.read_logs()}")

    def stop(self) -> None:
        """Kill the server and every process it started; return once it ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._sockets.cleanup()

    def read_logs(self, lines: int = 40) -> str:
        """Return the path of the log and its last lines."""
        tail = self._log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- {self._log}", *tail])
