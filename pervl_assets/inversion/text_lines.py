"""Split raw text files into lines, and quarantine malformed ones up to a limit."""

import codecs
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.core.errors import AnnotationError, list_some
from pervl_assets.core.file_kinds import recognize
from pervl_assets.core.files import explain_read_errors
from pervl_assets.core.tables import Column, TableSchema

MALFORMED_LINES: Final = TableSchema(
    (
        Column("line", pl.UInt32, "Line number in the file, counted from 1"),
        Column("reason", pl.String, "Fault of the line"),
        Column("text", pl.String, "Beginning of the line. Bytes that are not UTF-8 are shown as U+FFFD"),
    )
)

MAX_MALFORMED_SHARE: Final = 0.01
"""Share of malformed lines above which a file is refused, 0 to 1."""

_ALWAYS_TOLERATED: Final = 3
"""Malformed lines that are tolerated whatever their share, so that one bad line does not refuse a small file."""

_BLOCK: Final = 4 << 20
"""Bytes read at a time."""

_LONGEST_LINE: Final = 16 << 20
_NOT_UTF8: Final = "not UTF-8"
_ZERO: Final = "a zero byte"
_SHOWN_CHARACTERS: Final = 200


def read_lines(path: Path, block: int = _BLOCK) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    r"""Split a file into lines as Python's text mode does: at ``\n``, ``\r\n`` and ``\r``, without a BOM.

    The file is read block by block, so memory does not grow with it. A final line break does not start another line.

    Args:
        path: The file.
        block: Bytes read at a time. Each block extends to the next ``\n``.

    Yields:
        The readable lines of a block with the columns `line` (UInt32, from 1) and `text` (String), and the lines that
        are not UTF-8 or hold a zero byte with the columns of `MALFORMED_LINES`.

    Raises:
        AnnotationError: It is another kind of file, or has a line of more than 16 MiB.
        ArchiveError: It cannot be read.
    """
    line = 1
    with explain_read_errors(path), path.open("rb") as file:
        while data := file.read(block) + (rest := file.readline(_LONGEST_LINE)):
            if line == 1 and (kind := recognize(data)):
                raise AnnotationError(
                    f"{path} is not the text file it should be: it is {kind.name}.", advice=kind.advice
                )
            if len(rest) == _LONGEST_LINE:
                number = line + data.count(b"\n")
                raise AnnotationError(
                    f"Line {number:,} of {path} has more than {_LONGEST_LINE:,} bytes.",
                    advice="Get the file from its official address.",
                )
            if line == 1 and not (data := data.removeprefix(codecs.BOM_UTF8)):
                return
            if b"\r" in data:
                data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            texts, unreadable = _split_lines(data.removesuffix(b"\n"), line)
            lines = texts.to_frame("text").with_row_index("line", offset=line).cast({"line": pl.UInt32})
            line += lines.height
            yield (
                lines.filter(pl.col("text").is_not_null()),
                list_malformed(unreadable, {number: _explain(text) for number, text in unreadable.items()}),
            )


def _split_lines(data: bytes, first: int) -> tuple[pl.Series, dict[int, str]]:
    """Return the lines (null if they cannot be read), and those that cannot be read by number, from `first` on."""
    with suppress(UnicodeDecodeError):
        if 0 not in data:
            return pl.Series([data.decode()], dtype=pl.String).str.split("\n").explode(), {}
    texts: list[str | None] = []
    unreadable: dict[int, str] = {}
    for number, line in enumerate(data.split(b"\n"), first):
        text = line.decode(errors="replace")
        texts.append(text if 0 not in line and text.encode() == line else None)
        if texts[-1] is None:
            unreadable[number] = text
    return pl.Series(texts, dtype=pl.String), unreadable


def _explain(text: str) -> str:
    return _ZERO if "\0" in text else _NOT_UTF8


def list_malformed(texts: dict[int, str], reasons: dict[int, str]) -> pl.DataFrame:
    """Return a frame of `MALFORMED_LINES` from texts and reasons by line number."""
    rows = [(line, reason, texts[line][:_SHOWN_CHARACTERS]) for line, reason in sorted(reasons.items())]
    return pl.DataFrame(rows, schema=MALFORMED_LINES.to_polars(), orient="row")


def refuse_too_many(malformed: pl.DataFrame, lines: int, path: Path, advice: str) -> None:
    """Refuse a file with more malformed lines than `_ALWAYS_TOLERATED` and than the share `MAX_MALFORMED_SHARE`.

    Args:
        malformed: Quarantined lines, as `MALFORMED_LINES`.
        lines: Number of non-blank lines in the file.
        path: The file, for the message.
        advice: What to do, for the message.

    Raises:
        AnnotationError: Counts the malformed lines and shows the first ten with line number and reason.
    """
    if malformed.height <= max(_ALWAYS_TOLERATED, int(MAX_MALFORMED_SHARE * lines)):
        return
    faults = [f"line {line}: {reason}: {text!r}" for line, reason, text in malformed.iter_rows()]
    raise AnnotationError(
        f"{malformed.height:,} of {lines:,} lines of {path} malformed ({malformed.height / lines:.1%}; "
        f"at most {MAX_MALFORMED_SHARE:.1%}, or {_ALWAYS_TOLERATED} lines, tolerated).",
        details=list_some(faults),
        advice=advice,
    )
