"""The ledger of a folder tree: every expected output, its source, its status, and the comparison with the folder."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypedDict

import polars as pl

from pervl_assets.core.errors import PervlError, list_some
from pervl_assets.core.files import Lock, VerifyResult, is_whole
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.core.workers import map_in_threads

WHOLE_ARCHIVE: Final = (
    "Replace the archive by the official one, downloaded whole, and materialize again. Finished files are kept."
)
"""What to do where files are missing."""

Status = Literal["written", "quarantined", "missing"]

LEDGER: Final = TableSchema(
    (
        Column("path", pl.String, "file of the tree, relative to its root, with forward slashes"),
        Column("concept", pl.String, "concept (class folder) it belongs to, empty for files about all of them"),
        Column("rule", pl.String, "what it is for, e.g. few_shot_crop"),
        Column("status", pl.String, "written, quarantined or missing"),
        Column("reason", pl.String, "why it is not written, null if it is"),
        Column("bytes", pl.UInt64, "size of the file, null if not written"),
        Column("sha256", pl.String, "sha256 of the file, null if not written"),
        Column("crc32", pl.UInt32, "CRC-32 of the file, null if not written"),
        Column("source_members", pl.List(pl.String), "members of the source it is made from"),
        Column("source_crc32s", pl.List(pl.UInt32), "their CRC-32s, empty if one of them is missing"),
        Column("box", pl.List(pl.Int32), "box of the object in the source frame: x0, y0, x1, y1, inclusive, or null"),
        Column("width", pl.UInt32, "width of the source frame in pixels, null if unknown"),
        Column("height", pl.UInt32, "height of the source frame in pixels, null if unknown"),
        Column("recipe", pl.String, "sha256 of the plan's version, role, parameters, source members and their CRCs"),
    )
)
"""One row per expected output, sorted by path."""


class Row(TypedDict):
    """A row of the ledger, column by column as in `LEDGER`."""

    path: str
    concept: str
    rule: str
    status: Status
    reason: str | None
    bytes: int | None
    sha256: str | None
    crc32: int | None
    source_members: list[str]
    source_crc32s: list[int]
    box: list[int] | None
    width: int | None
    height: int | None
    recipe: str


@dataclass(frozen=True, eq=False)
class FolderTree:
    """A folder tree and its ledger.

    Attributes:
        root: Its path, now or once committed.
        ledger: Every expected output (schema `LEDGER`).
        staged: The finished tree beside `root`, to be put in place by `commit_tree`. None if `root` is up to date.
        rendered: Number of outputs made by the build that returned this value.
        recorded_ns: When the ledger was saved, in nanoseconds since the epoch. None if unknown or not saved yet. A file
            of the right size that is older is unchanged.
        lock: Held from the build to the end of `commit_tree`: no other run builds this tree. None if the tree was found
            up to date without it.
        is_saved: Whether the saved ledger is this one. It need not be saved again, and may have been replaced since.
    """

    root: Path
    ledger: pl.DataFrame
    staged: Path | None = None
    rendered: int = field(default=0, kw_only=True)
    recorded_ns: int | None = field(default=None, kw_only=True)
    lock: Lock | None = field(default=None, kw_only=True, repr=False)
    is_saved: bool = field(default=False, kw_only=True)

    @property
    def written(self) -> int:
        """Number of files in the tree."""
        return self._count("written")

    @property
    def quarantined(self) -> int:
        """Number of outputs that could not be made, each with a reason."""
        return self._count("quarantined")

    @property
    def missing(self) -> int:
        """Number of outputs whose source is not in the archive."""
        return self._count("missing")

    @property
    def missing_sources(self) -> list[str]:
        """Why files are missing, each reason once: `not in train.zip: train/Annotations/…/00000.png`."""
        return self.ledger.filter(status="missing")["reason"].drop_nulls().unique().sort().to_list()

    @property
    def bytes(self) -> int:
        """Sum of the files' sizes."""
        return int(self.ledger["bytes"].sum())

    @property
    def content_hash(self) -> str:
        """A sha256 of the files' paths and bytes: equal for equal trees, whenever and wherever they were built."""
        digest = hashlib.sha256()
        for path, sha256 in self.ledger.filter(status="written").select("path", "sha256").sort("path").iter_rows():
            digest.update(f"{path}\0{sha256}\n".encode())
        return digest.hexdigest()

    def _count(self, status: Status) -> int:
        return int((self.ledger["status"] == status).sum())


def build_frame(rows: Iterable[Row]) -> pl.DataFrame:
    """Return rows as a ledger, sorted by path."""
    in_order = sorted(rows, key=lambda row: row["path"])
    return pl.DataFrame({name: [row[name] for row in in_order] for name in LEDGER.names}, schema=LEDGER.to_polars())  # type: ignore[literal-required]


def require_whole(tree: FolderTree, name: str, error: type[PervlError]) -> None:
    """Refuse a tree of which files are missing, because nothing is made from it.

    Raises:
        PervlError: Of the class `error`: files are missing. It names the tree, and what is not in its source.
    """
    if tree.missing:
        raise error(
            f"{name} is incomplete, so nothing is made from it: "
            f"{tree.missing:,} of {tree.ledger.height:,} files missing.",
            details=list_some(tree.missing_sources),
            advice=WHOLE_ARCHIVE,
        )


def verify_tree(root: Path, ledger: pl.DataFrame) -> VerifyResult:
    """Re-read a tree and compare it with its ledger, hashing files in parallel."""
    rows = ledger.filter(status="written").select("path", "bytes", "sha256").sort("path").rows()
    whole = map_in_threads(lambda row: is_whole(root / row[0], row[1], row[2]), rows)
    bad = [path for (path, *_), ok in zip(rows, whole, strict=True) if not ok]
    there = [os.path.isfile(root / path) for path in bad]  # noqa: PTH113 - False for a file that cannot be reached
    return VerifyResult(
        files=len(rows),
        bytes=sum(size for _, size, _ in rows),
        missing=[path for path, found in zip(bad, there, strict=True) if not found],
        changed=[path for path, found in zip(bad, there, strict=True) if found],
        extra=sorted(list_files(root) - {path for path, *_ in rows}),
    )


def list_files(root: Path) -> set[str]:
    """Return the paths of all files below `root`, relative to it, with forward slashes.

    A disk that is mounted there has a folder `lost+found`, which is not looked into.

    Raises:
        OSError: A folder cannot be read. One that vanishes meanwhile has no files.
    """

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    start = len(str(root)) + 1
    paths: set[str] = set()
    for folder, folders, names in os.walk(str(root), onerror=stop):
        folders[:] = [name for name in folders if not is_of_disk(f"{folder}/{name}", root)]
        paths.update(f"{folder}/{name}"[start:].replace(os.sep, "/") for name in names)
    return paths


def is_of_disk(folder: str, root: Path) -> bool:
    """Return whether a folder is the `lost+found` of a disk that is mounted at `root`: no user put it there."""
    return folder == f"{root}/lost+found" and root.is_mount()
