"""The command `pervl`, also `python -m pervl_assets.cli`: its signals, its output and its exit code.

Everything else is imported inside, so that a Ctrl-C while it is loaded ends as any other.
"""

import io
import os
import signal
import sys
from typing import Any, Final

from pervl_assets.core.signals import list_stops, watch_stops

_BY_SIGNAL: Final = 128
"""Exit code of a command that a signal ended, less the signal's number, as shells have it: 130 after Ctrl-C."""


class _Output(io.FileIO):
    """Standard output or standard error; what cannot be written, to a closed pipe or a full disk, is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _open_output(number: int, old: Any) -> io.TextIOWrapper:
    """Return text output to a file descriptor. Characters that its encoding lacks are escaped."""
    raw = _Output(number, "w", closefd=False)
    encoding = old.encoding if old else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=number == 2 or raw.isatty()
    )


def run() -> None:
    """Run the command and exit: with its own code, or 130 after Ctrl-C and 143 after SIGTERM, without a stack."""
    for number in range(3):  # a descriptor that is closed would be that of the next file to be opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _open_output(1, sys.stdout), _open_output(2, sys.stderr)
    watch_stops()
    code: Any = 0
    try:
        from pervl_assets.cli.commands import main

        main.main(prog_name="pervl")
    except SystemExit as end:
        code = end.code
    except BaseException:  # whatever a library made of the interruption
        if not list_stops():
            raise
    for number in (signal.SIGINT, signal.SIGTERM):  # a second Ctrl-C does not disturb the end
        signal.signal(number, signal.SIG_IGN)
    if stops := list_stops():
        code = _BY_SIGNAL + stops[0]
        sys.stderr.write("interrupted\n")
    sys.exit(code)


if __name__ == "__main__":
    run()
