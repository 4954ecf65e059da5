"""Work that is taken over from a process that was given up and lives on, e.g. on a machine that its cluster lost.

The process holds the lock of its work, with its name in it. Its successor leaves a request beside the lock, with the
name of the one that it asks. That one finds it when a part of its work is saved, and stops there. The successor then
goes on with what is saved.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pervl_assets.core.errors import BusyError, PervlError
from pervl_assets.core.files import Lock, explain_write_errors

_PERIOD: Final = 0.5
_PATIENCE_SECONDS: Final = 900.0
"""How long a process may take to save a part of its work, and to stop."""

_NAMELESS_SECONDS: Final = 3.0
"""How long a process may take to write its name into a lock that it holds."""


@dataclass(frozen=True)
class Claim:
    """Who works on something.

    Attributes:
        name: Name of this one among all that may ever do the same work.
        was_given_up: Returns whether another one, by its name, was given up, so that its work may be taken over.
    """

    name: str
    was_given_up: Callable[[str], bool]


@contextmanager
def claim_work(lock: Path, work: str, claim: Claim | None) -> Iterator[Callable[[], None]]:
    """Hold the lock of a work; one that was given up is asked to hand it over, and waited for.

    Yields a function that is to be called when a part of the work is saved. It raises if a successor asks for the work.

    Args:
        lock: File of the lock.
        work: See `Lock`.
        claim: Who works; None: it takes nothing over and hands nothing over.

    Raises:
        BusyError: Another run is at work and was not given up, or has not handed over within a quarter of an hour.
    """
    request = _locate_request(lock)
    with (held := _wait_for(lock, work, claim, request)):
        held.rewrite(claim.name.encode() if claim else b"")
        with suppress(OSError):
            request.unlink()  # it asked the one before

        def stop_if_asked() -> None:
            if claim and _read(request) == claim.name:
                raise PervlError(
                    f"Another run goes on with {work} from here: this one was given up, as if its machine were lost.",
                    advice="Look at the later attempt of this step, or at the later run.",
                )

        yield stop_if_asked


def is_asked_for(lock: Path) -> bool:
    """Return whether a successor waits for the work of a lock."""
    return _locate_request(lock).exists()


def _locate_request(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}-request")


def _wait_for(lock: Path, work: str, claim: Claim | None, request: Path) -> Lock:
    start = time.monotonic()
    while True:
        try:
            return Lock(lock, work)
        except BusyError:
            holder, waited = _read(lock), time.monotonic() - start
            if not claim or waited > (_PATIENCE_SECONDS if holder else _NAMELESS_SECONDS):
                raise
            if holder and not claim.was_given_up(holder):
                raise
        if holder:
            with explain_write_errors(request):
                request.write_text(holder)
        time.sleep(_PERIOD)


def _read(file: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text()
    return ""
