"""Signals that end the command: Ctrl-C and SIGTERM.

Dagster replaces the handlers of both while a run executes. The interpreter writes their numbers to a pipe,
whichever handler is set.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

BY_SIGNAL: Final = 128
"""Exit code of a command that a signal ended, less the signal's number, as shells have it: 130 after Ctrl-C."""

_STOPS: Final = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
_pipe = -1


def watch_stops() -> None:
    """Make SIGTERM interrupt as Ctrl-C does, also in a background job of a shell script, and record both."""
    global _pipe
    _pipe, target = os.pipe()
    for end in (_pipe, target):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(target, warn_on_full_buffer=False)
    for number in _STOPS:
        signal.signal(number, signal.default_int_handler)


def list_stops() -> list[int]:
    """Return the numbers of the signals to stop that have come, the first one first; none before `watch_stops`."""
    with suppress(OSError):  # nothing has come since
        _received.extend(number for number in os.read(_pipe, 4096) if number in _STOPS)
    return _received


def ignore_stops() -> bool:
    """Ignore signals to stop from now on; return False if one came just now: call it again."""
    try:
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        return False
    return True


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Start processes that get no Ctrl-C from the terminal; this process may still be interrupted."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
