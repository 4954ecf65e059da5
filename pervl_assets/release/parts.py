"""The parts of a release: tables, features, folder trees and single files, each with the raw inputs it derives from.

All paths are relative to the data root, with forward slashes: mlcroissant resolves them from the folder of
`croissant.json`, which is the data root.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from pervl_assets.core.files import hash_file

SPLITS: Final = "splits"
"""Id of the record set of the splits."""

SPLIT: Final = "split"
"""Name of the column and field that holds the split of a record."""

_SPDX: Final = re.compile(r"[A-Za-z]+(-[A-Za-z]+)*-[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Source:
    """A raw input. Its licence applies to everything derived from it.

    Attributes:
        name: Name of its asset below `raw/`.
        title: Short description.
        licence: Terms of use: an SPDX identifier, or a sentence.
        homepage: Official address.
    """

    name: str
    title: str
    licence: str
    homepage: str

    @property
    def licence_reference(self) -> str:
        """The address of the licence if it is an SPDX identifier, else its text."""
        return f"https://spdx.org/licenses/{self.licence}" if _SPDX.fullmatch(self.licence) else self.licence


@dataclass(frozen=True)
class Part:
    """A published result.

    Attributes:
        name: Asset key as text, e.g. `ytvos/concepts`.
        description: What it holds.
        sources: The raw inputs it derives from, sorted by name.
    """

    name: str
    description: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class TablePart(Part):
    """A table in Parquet.

    Attributes:
        file: Path of the Parquet file.
        columns: Description of each column, by name.
    """

    file: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class FeaturesPart(Part):
    """Feature vectors in Parquet, in one file or several shards: columns `id`, `crc32` and `vector`.

    Attributes:
        files: Paths of the Parquet files.
        passports: The embedding passports of the files, without repetition: one, unless shards differ.
    """

    files: tuple[str, ...]
    passports: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Tree:
    """A folder tree.

    Attributes:
        split: Its split; None if the tree is not partitioned.
        root: Path of its root folder.
        ledger: Path of its ledger.
        rows: The ledger (schema `trees.ledger.LEDGER`).
    """

    split: str | None
    root: str
    ledger: str
    rows: pl.DataFrame


@dataclass(frozen=True, eq=False)
class TreePart(Part):
    """A folder tree, whole or one per split.

    Attributes:
        trees: The tree of each partition.
        images: One row per image (schema `release.images.IMAGES`).
    """

    trees: tuple[Tree, ...]
    images: pl.DataFrame


@dataclass(frozen=True)
class FilePart(Part):
    """A file in a format that Croissant cannot read, e.g. `.npy`, with its path."""

    file: str


@dataclass(frozen=True)
class Release:
    """All published results.

    Attributes:
        root: The data root.
        parts: The published results that exist.
        absent: Names of results, and of partitions, that are not materialized.
        synthetic: Whether the raw inputs are the synthetic ones of the demo instead of the official ones.
        version: Version of this package.
    """

    root: Path
    parts: tuple[Part, ...]
    absent: tuple[str, ...]
    synthetic: bool
    version: str

    @property
    def sources(self) -> dict[Source, list[str]]:
        """The raw inputs, each with the names of the parts derived from it."""
        found: dict[Source, list[str]] = {}
        for part in self.parts:
            for source in part.sources:
                found.setdefault(source, []).append(part.name)
        return dict(sorted(found.items(), key=lambda item: item[0].name))

    @property
    def trees(self) -> list[TreePart]:
        """The folder trees among the parts."""
        return [part for part in self.parts if isinstance(part, TreePart)]


@dataclass(frozen=True)
class File:
    """A file: its path, size and sha256."""

    path: str
    bytes: int
    sha256: str


def read_file(root: Path, path: str) -> File:
    """Read a file and return its size and sha256.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    file = root / path
    return File(path, file.stat().st_size, hash_file(file))


def describe_origin(part: Part) -> str:
    """Return the description of a part with a sentence about its inputs and their licences."""
    text = part.description.strip()
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    if not part.sources:
        return text
    return f"{text} Derived from: {'; '.join(f'{s.title} (licence: {s.licence})' for s in part.sources)}."
