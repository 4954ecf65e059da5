"""How far a long piece of work is: a line now and then, which says how much is done, how fast, and how long it lasts.

A line goes into Dagster's log; there the command line finds it again, whichever process or machine wrote it.
"""

import re
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from rich.filesize import decimal

BYTES: Final = "bytes"
"""Unit of downloads; amounts of it are shown as `1.2 GB`."""

_LOG_SECONDS: Final = 10.0
"""Each line is a commit to Dagster's database."""

_RATED: Final = 6
"""Lines over which a rate is taken, so that files which were there already do not count for long."""

_LINE: Final = re.compile(r"(\d+)%[,:] ")
_TIMES: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_ROUGH: Final = 10
"""From so many units on, the smaller ones are left out: 12 min, but 2 min 5 s."""


class Progress:
    """Writes lines about how much is done: the first after ten seconds, then one in ten seconds, and a last one.

    Example: `15%, 12 min left: 12,384 of 82,783 images, 94.2/s; decoding 80%, device 20%`. Of work that takes
    less than ten seconds nothing is written. Work of an earlier run counts as done, and not in the rate.

    Args:
        write: Called with each line, e.g. `context.log.info`.
        unit: What is counted, in the plural: `images`, or `BYTES`.
    """

    def __init__(self, write: Callable[[str], object], unit: str) -> None:
        self._write, self._unit = write, unit
        self._begun = self._written = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque(maxlen=_RATED)

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Note how much is done; write a line if one is due.

        Args:
            done: How much is done, of earlier runs too.
            total: How much there is; None while that is not known.
            note: What else the line says, at its end.
        """
        now, is_over = time.monotonic(), done == total
        if not self._marks:
            self._marks.append((now, done))
        if now - self._written < _LOG_SECONDS and not (is_over and self._written > self._begun):
            return
        since, before = self._marks[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        self._written = now
        self._marks.append((now, done))
        if is_over:
            line = f"100%: {self._show(done)} after {format_seconds(now - self._begun)}"
        elif total:
            left = f", {format_seconds((total - done) / rate)} left" if rate > 0 else ""
            line = f"{100 * done // total}%{left}: {self._show(done, total)}"
        else:
            line = f"{self._show(done)} done"
        speed = f", {self._show_rate(rate)}" if rate > 0 and not is_over else ""
        self._write(f"{line}{speed}{f'; {note}' if note else ''}")

    def _show(self, done: int, total: int = 0) -> str:
        show, unit = (decimal, "") if self._unit == BYTES else ("{:,}".format, f" {self._unit}")
        return f"{show(done)}{f' of {show(total)}' if total else ''}{unit}"

    def _show_rate(self, rate: float) -> str:
        if self._unit == BYTES:
            return f"{decimal(int(rate))}/s"
        return f"{rate:,.1f}/s" if rate >= 1 else f"{format_seconds(1 / rate)} each"


def format_seconds(seconds: float) -> str:
    """Return a duration in one or two units: 4.1 s, 42 s, 5 min 20 s, 12 min, 3 h 20 min."""
    for (size, unit), (smaller, below) in pairwise(_TIMES):
        if seconds >= size:
            count, rest = divmod(round(seconds / smaller), size // smaller)
            return f"{count} {unit}" + (f" {rest} {below}" if rest and count < _ROUGH else "")
    return f"{seconds:.1f} s" if seconds < _ROUGH else f"{seconds:.0f} s"


def read_progress(line: str) -> int | None:
    """Return the percentage that a line of `Progress` begins with; None for other lines."""
    found = _LINE.match(line)
    return int(found[1]) if found else None
