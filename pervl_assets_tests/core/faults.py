"""A file system that fails at the n-th call of this process, once, or for good as after a kill."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pervl_assets.trees import staging

CALLS = ("open", "write", "fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir", "scandir", "stat", "pread")


class Killed(BaseException):
    """The process was killed: nothing of it, not even the end of a `with`, changes the disk any more."""


class Faults:
    """Counts the calls to the operating system below a folder, and refuses the n-th.

    Args:
        root: The folder.
        fail_at: Number of the call, from 0; None: none fails.
        number: Its error number; None: the process is killed there, so every later call fails as well.
    """

    def __init__(self, root: Path, fail_at: int | None = None, number: int | None = errno.EIO) -> None:
        self.root, self.fail_at, self.number = str(root), fail_at, number
        self.calls, self.names = 0, []

    def count(self, name: str, path: Any = None) -> None:
        """Count a call, on a file of that path, and refuse it if it is its turn."""
        if isinstance(path, str | os.PathLike) and not os.fspath(path).startswith(self.root):
            return
        turn, self.calls = self.calls, self.calls + 1
        self.names.append(name)
        if self.fail_at is None or turn < self.fail_at:
            return
        if self.number is None:
            raise Killed(name)
        if turn == self.fail_at:
            raise OSError(self.number, os.strerror(self.number), None if path is None else os.fspath(path))

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is counted first. A `write` that fails has written half of its bytes."""

        def call(*args: Any, **named: Any) -> Any:
            path = args[0] if args and isinstance(args[0], str | os.PathLike) else None
            try:
                self.count(name, path)
            except (OSError, Killed):
                if name == "write" and self.calls == (self.fail_at or 0) + 1:
                    function(args[0], args[1][: len(args[1]) // 2])
                raise
            return function(*args, **named)

        return call

    def open(self, file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        """Open a file whose reads and writes are counted."""
        if not isinstance(file, str | os.PathLike) or not os.fspath(file).startswith(self.root):
            return _OPEN(file, mode, *args, **named)
        self.count("open", file)
        raw = _CountedFile(self, file, mode.replace("b", "").replace("t", ""))
        if named.get("buffering") == 0:
            return raw
        plain = (
            io.BufferedRandom(raw) if "+" in mode else (io.BufferedReader if "r" in mode else io.BufferedWriter)(raw)
        )
        return plain if "b" in mode else io.TextIOWrapper(plain, encoding="utf-8")


class _CountedFile(io.FileIO):
    def __init__(self, faults: Faults, file: Any, mode: str) -> None:
        self._faults = faults
        super().__init__(file, mode)

    def write(self, data: Any) -> int:
        return self._faults.wrap("write", lambda _, part: io.FileIO.write(self, part))(None, memoryview(data))

    def readinto(self, buffer: Any) -> int:
        self._faults.count("read")
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._faults.count("read")
        return super().readall()


_OPEN = builtins.open


@contextmanager
def injected(faults: Faults, *, exchange: bool = True) -> Iterator[None]:
    """Let all calls of this process go through `faults`. Nothing is really synced, which would take seconds.

    Args:
        faults: What fails.
        exchange: Whether two folders can be exchanged in one step.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, faults.wrap(name, (lambda *_: None) if name == "fsync" else getattr(os, name)))
        for module in (io, builtins):
            patch.setattr(module, "open", faults.open)
        patch.setattr(staging, "sync_tree", faults.wrap("syncfs", lambda _: None))
        swap = faults.wrap("exchange", staging.exchange) if exchange else lambda *_: False
        patch.setattr(staging, "exchange", swap)
        yield
