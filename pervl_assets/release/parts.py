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

_SPDX: Final = re.compile(r"[A-Za-z]+(-[A-Za-z]+)*-[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Source:
    """A raw input: its asset below `raw/`, and its licence (SPDX identifier or sentence), as of derived files."""

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
    """A published result, named by its asset key, e.g. `ytvos/concepts`, and the raw inputs it derives from."""

    name: str
    description: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class FilePart(Part):
    """One file, or one per partition. Croissant cannot read their format, e.g. `.npy`."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class TablePart(Part):
    """A table in Parquet, in one file or one per partition, with the description of each column by name."""

    files: tuple[str, ...]
    columns: Mapping[str, str]


@dataclass(frozen=True)
class FeaturesPart(Part):
    """Feature vectors in Parquet, in one file or in shards, with their embedding passports: one, if all agree."""

    files: tuple[str, ...]
    passports: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Tree:
    """A folder tree: its split (None if not partitioned), root folder, path of its ledger, and the ledger's rows."""

    split: str | None
    root: str
    ledger: str
    rows: pl.DataFrame


@dataclass(frozen=True, eq=False)
class TreePart(Part):
    """A folder tree, whole or one per split, with one row per image (schema `release.images.IMAGES`)."""

    trees: tuple[Tree, ...]
    images: pl.DataFrame


@dataclass(frozen=True)
class Release:
    """All published results below the data root `root`.

    Attributes:
        parts: The published results that exist.
        absent: Names of results, and of partitions, that are not materialized.
        synthetic: Whether the raw inputs are those of the demo instead of the official ones.
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


def describe_origin(part: Part) -> str:
    """Return the description of a part with a sentence about its inputs and their licences."""
    text = part.description.strip()
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    if not part.sources:
        return text
    return f"{text} Derived from: {'; '.join(f'{s.title} (licence: {s.licence})' for s in part.sources)}."
