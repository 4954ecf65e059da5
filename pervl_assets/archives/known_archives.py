"""A raw archive compared with the official one by its directory: a second for 10 GB, and no password."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import polars as pl

from pervl_assets.archives.inputs import RawArchive, list_folder
from pervl_assets.archives.official_files import KnownMembers
from pervl_assets.archives.remote_files import find_version
from pervl_assets.archives.zip_index import read_index, read_remote_index
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import name_some
from pervl_assets.core.files import explain_read_errors

_COLUMNS: Final = ("pattern", "found", "count", "named", "officially_named")


@dataclass(frozen=True)
class ArchiveReport:
    """The comparison of an archive with the official one.

    Attributes:
        text: The finding in words, with counts and names.
        needed: Number of members that the annotations name.
        missing: Those that are not in the archive, sorted.
        counts: One row per kind of members: `pattern`, `found`, `count`, `named`, `officially_named`; numbers in the
            archive and named by the annotations, each with the official one.
        differs: Whether the archive holds more or fewer members of a kind than the official one.
    """

    text: str
    needed: int
    missing: tuple[str, ...]
    counts: pl.DataFrame
    differs: bool


def inspect_archive(archive: RawArchive, known: Collection[KnownMembers], needed: Collection[str]) -> ArchiveReport:
    """Compare the names in a zip or an unzipped folder with those that are expected; no member is read.

    Args:
        archive: The zip or the folder.
        known: The official archive's members, by kind.
        needed: Members that the annotations name.

    Raises:
        ArchiveError: The archive cannot be read, or is unsafe.
    """
    with explain_read_errors(archive.path):
        if isinstance(archive.path, Address):
            version = find_version(archive.path)
            names: Collection[str] = read_remote_index(archive.path, version, archive.index).entries.keys()
        elif archive.path.is_dir():
            names = {archive.prefix + name for name in list_folder(archive.path)}
        else:
            names = read_index(archive.path, archive.index).entries.keys()
    missing = tuple(sorted(name for name in needed if name not in names))
    rows = [(kind.pattern, _count(kind, names), kind.count, _count(kind, needed), kind.named) for kind in known]
    notes = [
        f"It holds {found:,} members like {pattern}, the official one {count:,}."
        for pattern, found, count, *_ in rows
        if count not in (None, found)
    ]
    differs = bool(notes)
    text = f"It holds all {len(needed):,} members that the annotations name." if needed else "No members are named."
    if missing:
        text = f"It does not hold {len(missing):,} of the {len(needed):,} members that the annotations name: "
        text += f"{name_some(missing)}."
    elif not differs:
        notes = ["No hash of the official archive is recorded, so only names and counts are compared."]
    counts = pl.DataFrame(rows, _COLUMNS, orient="row")
    return ArchiveReport(" ".join([text, *notes]), len(needed), missing, counts, differs)


def _count(kind: KnownMembers, names: Collection[str]) -> int:
    # One search over all names, not a match of each: no name in a safe zip holds a line break.
    return len(re.findall(f"^(?:{kind.pattern})$", "\n".join(names), re.MULTILINE))
