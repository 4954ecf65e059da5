"""A namespace of its own for servers: network, mounts and processes. Whatever runs in it ends with it.

Only its own loopback is there, and no process can leave it: a cluster in it reaches nothing, is reached by nothing, and
leaves nothing behind, even if pytest is killed.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

_UNSHARE: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_AS_ROOT: Final = () if os.geteuid() == 0 else ("--user", "--map-root-user")
_INIT: Final = "ip link set lo up && echo ready && cat"
"""The first process of a namespace ends with its input, which is open as long as pytest lives."""

_START_SECONDS: Final = 20


class Namespace:
    """A namespace, from entering to leaving a `with` block. Skips the test where this machine allows none.

    Attributes:
        kind: Identifies it: the value of `pid:[…]` of its processes.
    """

    def __enter__(self) -> "Namespace":
        try:
            self._unshare = subprocess.Popen(
                [*_UNSHARE, *_AS_ROOT, "sh", "-c", _INIT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except FileNotFoundError:
            pytest.skip("needs the program unshare (util-linux)")
        if self._unshare.stdout.readline() != "ready\n":
            pytest.skip(f"needs namespaces of its own (unshare): {self._unshare.communicate()[1].strip()}")
        self._init = _list_children(self._unshare.pid)[0]
        self.kind = _read_kind(self._init)
        return self

    def __exit__(self, *_: object) -> None:
        self._unshare.kill()  # --kill-child: the first process is killed too, and with it every other
        self._unshare.communicate()
        while self.find():
            time.sleep(0.01)

    def _enter(self, command: Sequence[object]) -> list[str]:
        user = ["--user", "--preserve-credentials"] if _AS_ROOT else []
        return ["nsenter", f"--target={self._init}", "--net", "--mount", "--pid", *user, "--", *map(str, command)]

    def run(
        self, *command: object, env: Mapping[str, str] | None = None, timeout: float = 240, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; standard output and standard error are texts of the result."""
        return subprocess.run(
            self._enter(command), env=env, timeout=timeout, capture_output=True, text=True, check=False, **options
        )

    def start(
        self, *command: object, log: Path, env: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a command that goes on until the namespace ends, or until its processes are killed."""
        with log.open("ab") as output:
            return subprocess.Popen(self._enter(command), env=env, stdout=output, stderr=output, **options)

    def find(self, *words: str) -> list[int]:
        """Return the ids (of this side) of its processes whose command lines contain all words."""
        return [
            pid
            for pid in (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
            if _read_kind(pid) == self.kind and all(word in _read_command(pid) for word in words)
        ]


def _list_children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read_variable(pid: int, name: str) -> str | None:
    """Return an environment variable of a process, as it was when it was started; None if it has none, or has ended."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((one.partition(b"=")[2].decode() for one in variables if one.startswith(f"{name}=".encode())), None)


def _read_kind(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink().name
    except OSError:
        return ""


def _read_command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
