"""Raw inputs: where they are looked for, what identifies them, and what to say when one is missing.

Belongs here: `ArchiveSpec` (what a person must download), `RawArchive` (what was found) and `IdentityCard` (how to tell
that it changed, without reading 13 GB). Does not belong here: reading members, which is `core.members`.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pervl_assets.archives.zip_directory import ZipEntry, read_directory
from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.files import hash_file

Kind = Literal["zip", "folder", "file"]


@dataclass(frozen=True)
class IdentityCard:
    """What tells one raw input from another at little cost.

    Attributes:
        kind: Zip archive, folder or single file.
        bytes: Size of the file; of a folder, the sum over its files.
        members: Number of files inside; 1 for a single file.
        sha256: Of a zip's directory (names, sizes, CRCs), of a folder's listing (names, sizes, modification times), or
            of a file's bytes.
        encrypted: Whether any member of a zip is.
    """

    kind: Kind
    bytes: int
    members: int
    sha256: str
    encrypted: bool

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "IdentityCard":
        """Rebuild a card from `to_json`."""
        return cls(**plain)


@dataclass(frozen=True)
class RawArchive:
    """A raw input that was found. Its bytes stay where they are.

    Attributes:
        path: The zip, the folder, or the file.
        card: Its identity card.
        prefix: What a folder's file names lack to be the members' names, e.g. `train/`; empty for a zip.
        password_variable: Environment variable that holds the password, if it may need one.
    """

    path: Path
    card: IdentityCard
    prefix: str = ""
    password_variable: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return {**dataclasses.asdict(self), "path": str(self.path)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "RawArchive":
        """Rebuild an archive from `to_json`."""
        return cls(**{**plain, "path": Path(plain["path"]), "card": IdentityCard.from_json(plain["card"])})


@dataclass(frozen=True)
class ArchiveSpec:
    """A raw input: where it is looked for, and how a person gets it.

    Attributes:
        name: Asset name below `raw/`.
        title: What it is, in a few words.
        description: What it holds and what is read of it.
        file: Its place below `PERVL_DATA`.
        folders: Where it may stand unzipped instead, below `PERVL_DATA`; the last part of such a path is the first part
            of the members' names.
        homepage: Official address.
        how_to_get: What to do there.
        licence: Terms of use.
        disk: Space it takes, in words.
        password_variable: Environment variable of its password, if it has one.
        url: Where it can be fetched without asking anybody; None: a person must get it.
    """

    name: str
    title: str
    description: str
    file: str
    homepage: str
    how_to_get: str
    licence: str
    disk: str
    folders: tuple[str, ...] = ()
    password_variable: str | None = None
    url: str | None = None


def find_archive(spec: ArchiveSpec, data_root: Path) -> RawArchive:
    """Find a raw input below `data_root`: the file first, then an unzipped folder in its place.

    Raises:
        MissingInputError: It is in none of the places; the message says where to get it and where to put it.
        ArchiveError: It is a zip that cannot be trusted.
    """
    if (file := data_root / spec.file).is_file():
        return RawArchive(file, identify(file), password_variable=spec.password_variable)
    for folder in (data_root / name for name in spec.folders):
        if folder.is_dir():
            return RawArchive(folder, identify(folder), f"{folder.name}/", spec.password_variable)
    places = [data_root / place for place in (spec.file, *spec.folders)]
    raise MissingInputError(
        f"{spec.title} is missing: looked for {' and '.join(str(place) for place in places)}.",
        details=[f"from: {spec.homepage}", f"size: {spec.disk}", f"licence: {spec.licence}"],
        advice=f"{spec.how_to_get} Put it at {places[0]}; no need to unpack it.",
    )


def identify(path: Path) -> IdentityCard:
    """Draw up the identity card of a zip, a folder or a file.

    Raises:
        ArchiveError: A zip that cannot be trusted.
    """
    if path.is_dir():
        return identify_listing(list_folder(path))
    if path.suffix == ".zip":
        return identify_directory(path, read_directory(path))
    return IdentityCard("file", path.stat().st_size, 1, hash_file(path), encrypted=False)


def identify_directory(path: Path, entries: Mapping[str, ZipEntry]) -> IdentityCard:
    """Draw up the card of the zip at `path` from its directory."""
    digest = hashlib.sha256()
    for name, entry in entries.items():
        digest.update(f"{name}\0{entry.size}\0{entry.crc32}\n".encode())
    encrypted = any(entry.encrypted for entry in entries.values())
    return IdentityCard("zip", path.stat().st_size, len(entries), digest.hexdigest(), encrypted)


def identify_listing(listing: Mapping[str, os.stat_result]) -> IdentityCard:
    """Draw up the card of a folder from its listing."""
    digest = hashlib.sha256()
    for name in sorted(listing):
        digest.update(f"{name}\0{listing[name].st_size}\0{listing[name].st_mtime_ns}\n".encode())
    return IdentityCard(
        "folder", sum(s.st_size for s in listing.values()), len(listing), digest.hexdigest(), encrypted=False
    )


def list_folder(folder: Path) -> dict[str, os.stat_result]:
    """List all files below a folder by their posix path in it; links are followed, a loop of links only once."""
    seen: set[tuple[int, int]] = set()

    def walk(path: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        place = os.stat(path)  # noqa: PTH116 - 200,000 files: Path objects would double the time
        if (place.st_dev, place.st_ino) in seen:
            return
        seen.add((place.st_dev, place.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from walk(entry.path, f"{prefix}{entry.name}/")
                elif entry.is_file():
                    yield prefix + entry.name, entry.stat()

    return dict(walk(str(folder), ""))
