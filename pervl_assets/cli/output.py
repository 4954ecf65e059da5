"""Text output to a file descriptor that never fails: to a closed pipe, a full disk, or in another encoding."""

import io
from typing import Any


class _Output(io.FileIO):
    """A file descriptor; what cannot be written, to a closed pipe or a full disk, is dropped."""

    def write(self, data: Any) -> int:
        try:
            written: int | None = super().write(data)
        except OSError:
            return len(data)
        return len(data) if written is None else written  # None: a pipe that does not block is full


def open_output(number: int, encoding: str, *, line_buffering: bool = False) -> io.TextIOWrapper:
    """Return text output to a file descriptor, which stays open. Characters that its encoding has not are escaped."""
    raw = _Output(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=line_buffering or raw.isatty()
    )
