"""Annotation files as text: decoded, cut into rows, and every fault named with its line.

Belongs here: reading and complaining. Does not belong here: what the columns of a particular file mean.
"""

import csv
import io
import re
from pathlib import Path

from pervl_assets.core.errors import AnnotationError, MissingInputError

_SHOWN = 10


class Faults:
    """Collects what is wrong with one annotation file, to raise it all at once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._faults: list[str] = []

    def add(self, line: int, fault: str) -> None:
        """Note a fault of a line, counted from 1."""
        self._faults.append(f"line {line}: {fault}")

    def check(self, line: int, pattern: re.Pattern[str], text: str, what: str) -> re.Match[str] | None:
        """Match `text` whole; note a fault if it does not match."""
        if not (match := pattern.fullmatch(text)):
            self.add(line, f"{what} {text[:80]!r} is not of the form {pattern.pattern}")
        return match

    def raise_any(self) -> None:
        """Raise if anything was noted.

        Raises:
            AnnotationError: Counts the faults and names the first ones with their lines.
        """
        if not self._faults:
            return
        rest = len(self._faults) - _SHOWN
        raise AnnotationError(
            f"{self.file} does not follow its format in {len(self._faults):,} "
            f"place{'s' if len(self._faults) > 1 else ''}.",
            details=[*self._faults[:_SHOWN], *([f"and {rest:,} more"] if rest > 0 else [])],
            advice="Restore the official file at the pinned commit, or correct these lines; ids are text, with zeros.",
        )


def read_text(file: Path) -> str:
    """Read a UTF-8 file, with or without a byte-order mark.

    Raises:
        MissingInputError: It is not there.
        AnnotationError: It is not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise MissingInputError(
            f"The annotation file {file} is missing.",
            advice="Set PERVL_ANNOTATIONS to the folder that holds ytvos/ and deep_fashion/ as upstream lays them out.",
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{file} is not UTF-8 at byte {error.start:,}.", advice="Restore the official file at the pinned commit."
        ) from error


def read_csv(file: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Read the named columns of a CSV file with a header; return each row with the number of its last line.

    Raises:
        MissingInputError: It is not there.
        AnnotationError: A column is missing, or a row is shorter or longer than the header.
    """
    faults = Faults(file)
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    rows = []
    try:
        if absent := [name for name in columns if name not in (reader.fieldnames or ())]:
            faults.add(1, f"no column {', '.join(absent)}")
            faults.raise_any()
        for row in reader:
            if None in row or None in row.values():
                faults.add(reader.line_num, "another number of fields than the header has")
            else:
                rows.append((reader.line_num, {name: row[name] for name in columns}))
    except csv.Error as error:
        faults.add(reader.line_num, str(error))
    faults.raise_any()
    return rows
