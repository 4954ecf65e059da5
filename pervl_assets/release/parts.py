"""What a release is made of: tables, features, folder trees and single files, each with the inputs it derives from.

Belongs here: the vocabulary, and what is told of a file. Does not belong here: how Croissant says it (`distribution`,
`record_sets`, `croissant`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from pervl_assets.core.files import hash_file

_SPDX: Final = re.compile(r"[A-Za-z]+(-[A-Za-z]+)*-[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Source:
    """A raw input: its licence is carried to everything that derives from it.

    Attributes:
        name: Its asset's name below `raw/`.
        title: What it is, in a few words.
        licence: Its terms of use: an SPDX identifier, or a sentence.
        homepage: Official address.
    """

    name: str
    title: str
    licence: str
    homepage: str

    @property
    def licence_reference(self) -> str:
        """The address of the licence where it is one of SPDX's, else its words."""
        return f"https://spdx.org/licenses/{self.licence}" if _SPDX.fullmatch(self.licence) else self.licence


@dataclass(frozen=True)
class Part:
    """A published result.

    Attributes:
        name: Its asset key as text, e.g. `ytvos/concepts`.
        description: What it is.
        sources: The raw inputs it derives from, in order of their names.
    """

    name: str
    description: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class TablePart(Part):
    """A table in Parquet.

    Attributes:
        file: Its place below the data root, with forward slashes.
        columns: What each column holds, by its name.
    """

    file: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class FeaturesPart(Part):
    """Feature vectors in Parquet, in one file or several shards: columns `id`, `crc32` and `vector`.

    Attributes:
        files: Their places below the data root.
        passports: What the vectors depend on beside their images or texts; one entry, unless shards differ.
    """

    files: tuple[str, ...]
    passports: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Tree:
    """A folder tree.

    Attributes:
        split: The split it is of; None: it is not made by split.
        root: Where it stands, below the data root.
        ledger: Where its ledger stands, below the data root.
        rows: The ledger (schema `core.ledger.LEDGER`).
    """

    split: str | None
    root: str
    ledger: str
    rows: pl.DataFrame


@dataclass(frozen=True)
class TreePart(Part):
    """A folder tree, whole or by split.

    Attributes:
        trees: The tree, or that of every split.
        tables: Names of the tables it is planned from: they know more of its concepts.
    """

    trees: tuple[Tree, ...]
    tables: tuple[str, ...]


@dataclass(frozen=True)
class FilePart(Part):
    """A file in a format that Croissant does not read, with its place below the data root."""

    file: str


@dataclass(frozen=True)
class Release:
    """Everything that was published.

    Attributes:
        root: The data root, below which all files are named.
        parts: The published results that are there.
        absent: Names of results, and of their partitions, that are not materialized.
        drawn: Whether the raw inputs were drawn by the miniature world instead of being the official ones.
        version: Version of the code that made it.
    """

    root: Path
    parts: tuple[Part, ...]
    absent: tuple[str, ...]
    drawn: bool
    version: str

    @property
    def sources(self) -> dict[Source, list[str]]:
        """The raw inputs, each with the names of the parts that derive from it."""
        found: dict[Source, list[str]] = {}
        for part in self.parts:
            for source in part.sources:
                found.setdefault(source, []).append(part.name)
        return dict(sorted(found.items(), key=lambda item: item[0].name))


@dataclass(frozen=True)
class File:
    """A file: its place below the data root, its size and its sha256."""

    place: str
    bytes: int
    sha256: str


def describe_file(root: Path, place: str) -> File:
    """Read a file and return what identifies it.

    Raises:
        FileNotFoundError: It is not there.
    """
    path = root / place
    return File(place, path.stat().st_size, hash_file(path))


def describe_origin(part: Part) -> str:
    """Return a part's description with a sentence about its inputs and their licences."""
    text = part.description.strip()
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    if not part.sources:
        return text
    return f"{text} Derived from: {'; '.join(f'{s.title} (licence: {s.licence})' for s in part.sources)}."
