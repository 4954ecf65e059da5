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

from pervl_assets.core.errors import MissingInputError

_SPDX: Final = re.compile(r"[A-Za-z]+(-[A-Za-z]+)*-[0-9]+\.[0-9]+")


@dataclass(frozen=True)
class Source:
    """A raw input, and its licence, which results inherit.

    Attributes:
        name: Name of its asset below `raw/`.
        title: Its name in a few words.
        licence: SPDX identifier, or a sentence.
        homepage: Official address.
        redistributable: Whether pieces of it may be passed on, e.g. crops of its images.
    """

    name: str
    title: str
    licence: str
    homepage: str
    redistributable: bool = False

    @property
    def is_spdx(self) -> bool:
        """Whether the licence is an SPDX identifier."""
        return _SPDX.fullmatch(self.licence) is not None

    @property
    def licence_reference(self) -> str:
        """The address of the licence if it is an SPDX identifier, else its text."""
        return f"https://spdx.org/licenses/{self.licence}" if self.is_spdx else self.licence

    @property
    def short_licence(self) -> str:
        """The SPDX identifier, or whose terms they are."""
        return self.licence if self.is_spdx else f"terms of {self.title.replace('The ', 'the ', 1)}"

    @property
    def licence_address(self) -> str:
        """The address of the licence, or of the input where only its page has the terms."""
        return self.licence_reference if self.is_spdx else self.homepage


@dataclass(frozen=True)
class Part:
    """A published result, named by its asset key, e.g. `ytvos/concepts`, and the raw inputs it derives from."""

    name: str
    description: str
    sources: tuple[Source, ...]

    @property
    def licences(self) -> list[str]:
        """The licences of its raw inputs, in a few words each, sorted."""
        return sorted({source.short_licence for source in self.sources})

    @property
    def barred_by(self) -> tuple[Source, ...]:
        """The raw inputs because of which it may not be passed on. None where it has values computed from them only."""
        return ()

    def list_files(self) -> list[str]:
        """Return the paths of all its files, with the ledgers of a tree."""
        raise NotImplementedError

    def measure(self, root: Path) -> tuple[int, int]:
        """Return the number of its files that exist below the data root, without ledgers, and their bytes."""
        sizes = [path.stat().st_size for file in self.list_files() if (path := root / file).is_file()]
        return len(sizes), sum(sizes)


@dataclass(frozen=True)
class FilePart(Part):
    """One file, or one per partition. Croissant cannot read their format, e.g. `.npy`."""

    files: tuple[str, ...]

    def list_files(self) -> list[str]:
        """Return its files."""
        return [*self.files]


@dataclass(frozen=True)
class TablePart(FilePart):
    """A table in Parquet, in one file or one per partition, with the description of each column by name."""

    columns: Mapping[str, str]


@dataclass(frozen=True)
class FeaturesPart(FilePart):
    """Feature vectors in Parquet, in one file or in shards, with their embedding passports: one, if all agree."""

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

    @property
    def barred_by(self) -> tuple[Source, ...]:
        """Those that are not redistributable: images of a tree are copies or crops of theirs."""
        return tuple(source for source in self.sources if not source.redistributable)

    def list_files(self) -> list[str]:
        """Return its files and ledgers."""
        files = [f"{tree.root}/{path}" for tree in self.trees for path in tree.rows.filter(status="written")["path"]]
        return [*(tree.ledger for tree in self.trees), *files]

    def measure(self, root: Path) -> tuple[int, int]:
        """Return the number of files and their bytes, as recorded in the ledgers."""
        written = [tree.rows.filter(status="written")["bytes"] for tree in self.trees]
        return sum(map(len, written)), sum(int(sizes.sum()) for sizes in written)


@dataclass(frozen=True)
class Release:
    """All published results below the data root `root`.

    Attributes:
        parts: The published results that exist.
        absent: Names of results, and of partitions, that are not materialized.
        synthetic: Whether the raw inputs are those of the demo instead of the official ones.
        version: Version of this package.
        barred: Folder trees that exist, and were left out because they may not be passed on.
    """

    root: Path
    parts: tuple[Part, ...]
    absent: tuple[str, ...]
    synthetic: bool
    version: str
    barred: tuple[TreePart, ...] = ()

    def require_parts(self) -> None:
        """Check that there is something to release.

        Raises:
            MissingInputError: Nothing is materialized.
        """
        if not self.parts:
            raise MissingInputError(
                f"There is nothing to release: none of {len(self.absent):,} results is materialized.",
                advice="Materialize the results to release, or everything: pervl materialize.",
            )

    @property
    def title(self) -> str:
        """Its name."""
        return "PerVL, synthetic demo data" if self.synthetic else "PerVL"

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
