"""Annotation files as text: decoded, cut into rows, and every fault reported with its line."""

import csv
import io
import re
from pathlib import Path

from pervl_assets.core.errors import AnnotationError, MissingInputError, list_some


class Faults:
    """The faults of one annotation file, collected to be raised all at once."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._faults: list[str] = []

    def add(self, line: int, fault: str) -> None:
        """Record a fault of a line, counted from 1."""
        self._faults.append(f"line {line}: {fault}")

    def check(self, line: int, pattern: re.Pattern[str], text: str, what: str) -> re.Match[str] | None:
        """Return the match of the whole `text`; record a fault and return None if there is none."""
        if not (match := pattern.fullmatch(text)):
            self.add(line, f"{what} {text[:80]!r} is not of the form {pattern.pattern}")
        return match

    def raise_any(self) -> None:
        """Raise if any fault was recorded.

        Raises:
            AnnotationError: Counts the faults and names the first ones with their lines.
        """
        if not self._faults:
            return
        raise AnnotationError(
            f"{self.file} does not follow its format: {len(self._faults):,} fault{'s' * (len(self._faults) > 1)}.",
            details=list_some(self._faults),
            advice="Restore the official file at the pinned commit, or correct these lines; ids are text, with zeros.",
        )


def read_text(file: Path) -> str:
    """Read a UTF-8 file, with or without a byte-order mark.

    Raises:
        MissingInputError: It does not exist.
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
        MissingInputError: It does not exist.
        AnnotationError: A column is missing, or a row is shorter or longer than the header.
    """
    faults = Faults(file)
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        if absent := [name for name in columns if name not in header]:
            faults.add(1, f"no column {', '.join(absent)}")
            faults.raise_any()
        at = [(name, header.index(name)) for name in columns]
        for row in reader:
            if row and len(row) != len(header):
                faults.add(reader.line_num, "more or fewer fields than the header")
            elif row:
                rows.append((reader.line_num, {name: row[column] for name, column in at}))
    except csv.Error as error:
        faults.add(reader.line_num, str(error))
    faults.raise_any()
    return rows
