"""Lines of raw text files, and the quarantine of those that do not follow their format.

Belongs here: how bytes become lines, and how many bad ones are borne. Does not belong here: what a line means.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.core.errors import AnnotationError
from pervl_assets.core.tables import Column, TableSchema

MALFORMED_LINES: Final = TableSchema(
    (
        Column("line", pl.UInt32, "Line number in the file, counted from 1"),
        Column("reason", pl.String, "What is wrong with the line"),
        Column("text", pl.String, "Beginning of the line; bytes that are not UTF-8 are shown as U+FFFD"),
    )
)

MAX_MALFORMED_SHARE: Final = 0.01
"""Share of malformed lines above which a file is refused."""

ALWAYS_TOLERATED: Final = 3
"""So many malformed lines are quarantined whatever their share, so that one odd line does not refuse a small file."""

BLOCK: Final = 4 << 20
"""Bytes of a file that are split into lines at a time."""

NOT_UTF8: Final = "not UTF-8"
_SHOWN_CHARACTERS: Final = 200


def read_lines(path: Path, block: int = BLOCK) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    r"""Split a file into lines as Python's text mode does: at ``\n``, ``\r\n`` and ``\r``; a BOM is dropped.

    The file is read a block at a time, so that memory does not grow with it. A final line break ends the last line and
    begins none.

    Args:
        path: The file.
        block: Bytes read at a time; each block is read on to the next ``\n``.

    Yields:
        The readable lines of a block, columns `line` (UInt32, from 1) and `text` (String), and those that are not
        UTF-8 with the columns of `MALFORMED_LINES`.
    """
    line = 1
    with path.open("rb") as file:
        while data := file.read(block) + file.readline():
            if line == 1 and not (data := data.removeprefix(codecs.BOM_UTF8)):
                return
            if b"\r" in data:
                data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            texts, unreadable = _split_lines(data.removesuffix(b"\n"), line)
            lines = texts.to_frame("text").with_row_index("line", offset=line).cast({"line": pl.UInt32})
            line += lines.height
            yield (
                lines.filter(pl.col("text").is_not_null()),
                list_malformed(unreadable, dict.fromkeys(unreadable, NOT_UTF8)),
            )


def _split_lines(data: bytes, first: int) -> tuple[pl.Series, dict[int, str]]:
    """Return the lines, null for those that are not UTF-8, and these by number, counted from `first`."""
    try:
        return pl.Series([data.decode()], dtype=pl.String).str.split("\n").explode(), {}
    except UnicodeDecodeError:
        texts: list[str | None] = []
    unreadable: dict[int, str] = {}
    for number, line in enumerate(data.split(b"\n"), first):
        try:
            texts.append(line.decode())
        except UnicodeDecodeError:
            texts.append(None)
            unreadable[number] = line.decode(errors="replace")
    return pl.Series(texts, dtype=pl.String), unreadable


def list_malformed(texts: dict[int, str], reasons: dict[int, str]) -> pl.DataFrame:
    """Return a frame of `MALFORMED_LINES` from line number to text, and line number to reason."""
    rows = [(line, reason, texts[line][:_SHOWN_CHARACTERS]) for line, reason in sorted(reasons.items())]
    return pl.DataFrame(rows, schema=MALFORMED_LINES.to_polars(), orient="row")


def refuse_too_many(malformed: pl.DataFrame, lines: int, path: Path, max_share: float, advice: str) -> None:
    """Bear `ALWAYS_TOLERATED` malformed lines or a share of `max_share`, whichever is more.

    Args:
        malformed: Quarantined lines, as `MALFORMED_LINES`.
        lines: Lines of the file that are not blank.
        path: The file, for the message.
        max_share: Highest share borne, 0 to 1.
        advice: What to do about it.

    Raises:
        AnnotationError: More are malformed; counts them, and shows the first ten with line number and reason.
    """
    if malformed.height <= max(ALWAYS_TOLERATED, int(max_share * lines)):
        return
    shown = [f"line {line}: {reason}: {text!r}" for line, reason, text in malformed.head(10).iter_rows()]
    if malformed.height > len(shown):
        shown.append(f"and {malformed.height - len(shown):,} more")
    raise AnnotationError(
        f"{malformed.height:,} of {lines:,} lines of {path} are malformed ({malformed.height / lines:.1%}; "
        f"borne are {max_share:.1%}, and {ALWAYS_TOLERATED} lines in any case).",
        details=shown,
        advice=advice,
    )
