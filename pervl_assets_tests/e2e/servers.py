"""The real webserver and daemon on 127.0.0.1, with an instance and a data folder of their own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import dagster as dg
import httpx
import yaml

_PROJECT: Final = Path(__file__).parents[2]

_START_SECONDS: Final = 60


class Servers:
    """`dagster-webserver` and `dagster-daemon`, from entering to leaving a `with` block.

    Each leads a process group with its code server and runs, so that ending the group ends all of them.

    Attributes:
        root: Folder of instance and logs.
        data: Data folder (`PERVL_DATA`).
        home: Folder of the instance (`DAGSTER_HOME`), with the project's own `dagster.yaml`.
        address: Where the webserver listens.
    """

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data, self.home = root, data, root / "home"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._logs = root / "logs"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Servers":
        self._logs.mkdir(parents=True)
        # Not below `root`: the path of a socket must be short.
        self._sockets = tempfile.TemporaryDirectory(prefix="pervl-", ignore_cleanup_errors=True)
        try:
            self._make_instance()
            self._start("webserver", "--host", "127.0.0.1", "--port", str(self._port))
            self._start("daemon", "run")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _make_instance(self) -> None:
        """Create the databases before two processes do it at once; let the daemon check for new runs every second."""
        config = yaml.safe_load((_PROJECT / "dagster.yaml").read_text(encoding="utf-8"))
        config["run_queue"] = {**config.get("run_queue", {}), "dequeue_interval_seconds": 1}
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        with dg.DagsterInstance.from_config(str(self.home)):
            pass

    def _start(self, name: str, *arguments: str) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PERVL_", "DAGSTER_"))}
        env |= {
            "DAGSTER_HOME": str(self.home),
            "PERVL_DATA": str(self.data),
            "PERVL_PROFILE": "demo",
            "PERVL_FETCH": "off",
            "PERVL_DEVICE": "cpu",
            "PERVL_EXECUTOR": "in_process",
            "TMPDIR": self._sockets.name,
        }
        command = Path(sys.executable).with_name(f"dagster-{name}")
        with (self._logs / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [command, *arguments, "--workspace", _PROJECT / "workspace.yaml"],
                cwd=_PROJECT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return once pages are served. The daemon may start a little later; runs launched before are queued.

        Raises:
            RuntimeError: A server ended, or did not answer within a minute; the message contains their logs.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if ended := [name for name, process in self._processes.items() if process.poll() is not None]:
                raise RuntimeError(f"{', '.join(ended)} ended at its start.\n{self.read_logs()}")
            with suppress(httpx.TransportError):
                httpx.get(f"{self.address}/server_info", trust_env=False).raise_for_status()
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.address} does not answer after {_START_SECONDS} s.\n{self.read_logs()}")

    def stop(self) -> None:
        """Kill both servers and every process they started; return once they ended."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._sockets.cleanup()

    def read_logs(self, lines: int = 40) -> str:
        """Return the paths of the logs and their last lines."""
        logs = ((log, log.read_text(errors="replace").splitlines()[-lines:]) for log in sorted(self._logs.iterdir()))
        return "\n".join(f"--- {log}\n" + "\n".join(tail) for log, tail in logs)
