"""Annotation files as text: decoded, cut into rows, and every fault reported with its line."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from pervl_assets.core.errors import AnnotationError, MissingInputError, list_some
from pervl_assets.core.file_kinds import recognize
from pervl_assets.core.files import explain_read_errors

_LARGEST: Final = 32 << 20
"""Bytes of an annotation file; the largest official one has 180 kB."""

_DEEPEST: Final = 8
_MOST_VALUES: Final = 1_000_000
"""Values in a YAML file, with those that aliases repeat."""

_RESTORE: Final = "Restore the official file at the pinned commit"


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
            advice=f"{_RESTORE}, or correct these lines; ids are text, with zeros.",
        )


def read_text(file: Path) -> str:
    """Read a UTF-8 file, with or without a byte-order mark.

    Raises:
        MissingInputError: It does not exist.
        AnnotationError: It is not UTF-8 text, or too large for annotations.
        ArchiveError: It cannot be read.
    """
    with explain_read_errors(file):
        try:
            with file.open("rb") as opened:
                data = opened.read(_LARGEST + 1)
        except FileNotFoundError as error:
            raise MissingInputError(
                f"The annotation file {file} does not exist.",
                advice="Materialize raw/pervl_annotations again: it fetches the official files, or names all that a "
                "folder of your own (PERVL_ANNOTATIONS) needs.",
            ) from error
    if kind := recognize(data):
        raise AnnotationError(f"{file} is not an annotation file: it is {kind.name}.", advice=kind.advice)
    if len(data) > _LARGEST:
        raise AnnotationError(f"{file} has more than {_LARGEST:,} bytes.", advice=f"{_RESTORE}.")
    try:
        text, zero = data.decode("utf-8-sig"), data.find(0)
        if zero < 0:
            return text
        fault = f"has a zero byte at byte {zero:,}"
    except UnicodeDecodeError as error:
        zero, fault = error.start, f"is not UTF-8 at byte {error.start:,}"
    line = data.count(b"\n", 0, zero) + 1
    raise AnnotationError(f"{file} {fault}, in line {line:,}.", advice=f"{_RESTORE}, or save it as UTF-8.")


def read_csv(file: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Read the named columns of a CSV file with a header; return each row with the number of its last line.

    Raises:
        MissingInputError: It does not exist.
        AnnotationError: A column is missing or occurs twice, or a row is shorter or longer than the header.
    """
    faults = Faults(file)
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        if absent := [name for name in columns if name not in header]:
            faults.add(1, f"no column {', '.join(absent)} in {','.join(header)[:80]!r}")
            faults.raise_any()
        if twice := [name for name in columns if header.count(name) > 1]:
            faults.add(1, f"two columns {', '.join(twice)}")
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


@dataclass
class _Collection:
    """A YAML list or mapping that is being read.

    Attributes:
        value: What was read of it.
        anchor: The name by which an alias can repeat it.
        before: Number of values in the file before it.
        key: The key in a mapping whose value comes next.
        lines: Line of each key.
    """

    value: Any
    anchor: str | None
    before: int
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)


class _YamlReader:
    """Makes text, lists and mappings of YAML events, without recursion and within bounds."""

    def __init__(self, file: Path) -> None:
        self._faults = Faults(file)
        self._open: list[_Collection] = []
        self._anchors: dict[str, tuple[Any, int]] = {}  # each with its number of values
        self._values = 0

    def read(self, events: Iterable[yaml.Event]) -> list[tuple[int, str, Any]]:
        """Return line, key and value of each entry of the one mapping that the events describe."""
        top: _Collection | None = None
        for event in events:
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.CollectionStartEvent):
                self._begin(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                done = self._open.pop()
                top = self._add(done.value, done.anchor, self._values - done.before, line) or done
            elif isinstance(event, yaml.ScalarEvent):
                self._count(1, line)
                self._add(str(event.value), event.anchor, 1, line)
            elif isinstance(event, yaml.AliasEvent):
                value, size = self._anchors.get(event.anchor or "") or self._refuse(
                    line, f"*{event.anchor} is of no anchor"
                )
                self._count(size, line)
                self._add(value, None, size, line)
            elif isinstance(event, yaml.DocumentStartEvent) and top:
                self._refuse(line, "a second document")
        self._faults.raise_any()
        if top and isinstance(top.value, dict) and top.value:
            return [(top.lines[key], key, value) for key, value in top.value.items()]
        return list(self._refuse(1, "not a mapping"))

    def _begin(self, event: yaml.CollectionStartEvent, line: int) -> None:
        if len(self._open) == _DEEPEST:
            self._refuse(line, f"nested more than {_DEEPEST} deep")
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._open.append(_Collection(value, event.anchor, self._values))
        self._count(1, line)

    def _count(self, values: int, line: int) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            self._refuse(line, f"more than {_MOST_VALUES:,} values, with those that aliases repeat")

    def _add(self, value: Any, anchor: str | None, size: int, line: int) -> _Collection | None:
        """Add a value to the collection around it, and return that."""
        if anchor:
            self._anchors[anchor] = value, size
        if not self._open:
            return None
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif parent.key is not None:
            parent.value[parent.key] = value
            parent.key = None
        elif not isinstance(value, str) or value == "<<":
            self._refuse(line, "a key that is not text; merge keys (<<) are not read")
        else:
            if value in parent.value:
                self._faults.add(line, f"the key {value[:80]!r} occurs twice")
            parent.key = value
            parent.lines[value] = line
        return parent

    def _refuse(self, line: int, fault: str) -> Any:
        self._faults.add(line, fault)
        self._faults.raise_any()


def read_yaml(file: Path) -> list[tuple[int, str, Any]]:
    """Read a YAML mapping; return line, key and value of each entry: text, lists and mappings of text.

    Scalars are text as in the file: neither tags nor the look of a number change them. Aliases are values like others.

    Raises:
        MissingInputError: It does not exist.
        AnnotationError: It is not YAML or not a mapping, a key occurs twice, it is nested more than 8 deep, or aliases
            repeat more than a million values.
    """
    text = read_text(file)
    try:
        return _YamlReader(file).read(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise AnnotationError(
            f"{file} is not YAML{f' at line {mark.line + 1}' if mark else ''}: {getattr(error, 'problem', error)}.",
            advice=f"{_RESTORE}.",
        ) from error
