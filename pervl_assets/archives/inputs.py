"""Raw inputs: where they are expected, their identity, and how to get a missing one."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator

from pervl_assets.archives.remote_files import Version, find_version, receive_range
from pervl_assets.archives.zip_index import ZipIndex, read_index, read_remote_index
from pervl_assets.core.addresses import Address, Place, is_address, parse_address
from pervl_assets.core.errors import ArchiveError, MissingInputError, name_some
from pervl_assets.core.files import explain_read_errors, hash_bytes, hash_file, is_whole, replace_atomically

Kind = Literal["zip", "folder", "file"]

INDEX_EXTENSION: Final = ".members.parquet"
"""Of a zip's kept index, beside its identity card: `assets/raw/<name>.members.parquet`."""


_COPY_EXTENSION: Final = ".copy"
_LARGEST_COPY: Final = 4 << 30


@dataclass(frozen=True)
class IdentityCard:
    """The identity of a raw input, at little cost: 13 GB are not read for it.

    Attributes:
        kind: Zip archive, folder or single file.
        bytes: Size of the file; of a folder, the sum over its files.
        members: Number of files inside; 1 for a single file.
        sha256: Of a zip's directory (names, sizes, CRCs), of a folder's listing (names, sizes, modification times), or
            of a file's bytes.
        encrypted: Whether any member of a zip is.
        etag: Of a file at an address its ETag, or its date where the server has none.
    """

    kind: Kind
    bytes: int
    members: int
    sha256: str
    encrypted: bool
    etag: str | None = None


def _parse_place(value: object) -> object:
    return parse_address(value) if isinstance(value, str) and is_address(value) else value


@dataclass(frozen=True)
class RawArchive:
    """A raw input that was found. Its bytes stay where they are.

    Attributes:
        path: The zip, the folder, or the file. At an address: the zip or the file.
        card: Its identity card.
        prefix: Put before a folder's file names to get the members' names, e.g. `train/`; empty for a zip.
        password_variable: Environment variable that holds the password, if it may need one.
        index: Parquet file that keeps a zip's members, or None to keep them in memory only. Not compared.
    """

    path: Annotated[Place, BeforeValidator(_parse_place)]
    card: IdentityCard
    prefix: str = ""
    password_variable: str | None = None
    index: Path | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class ArchiveSpec:
    """A raw input: where it is expected, and how to get it.

    Attributes:
        name: Asset name below `raw/`.
        title: Its name in a few words.
        description: Its content, and the part that is read.
        file: Its path below `PERVL_DATA` or `PERVL_RAW`.
        folders: Paths there where it may be unzipped instead; the last part of such a path is the first
            part of the members' names.
        homepage: Official address.
        how_to_get: Instructions for that address.
        licence: Terms of use.
        disk: Space it takes, in words.
        password_variable: Environment variable of its password, if it has one.
        url: Address of a public download, or None if you must request it yourself.
        most_bytes: Size above which a download is not this input.
        check: Reads a downloaded text file and raises its faults. A zip's directory is always read.
        redistributable: Whether the licence lets pieces of it be passed on, e.g. its texts, or crops of its images.
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
    most_bytes: int | None = None
    check: Callable[[Path], object] = lambda path: None
    redistributable: bool = False


def find_archive(spec: ArchiveSpec, data_root: Path, raw: Place | None = None) -> RawArchive:
    """Find a raw input: the file first, then an unzipped folder in its place.

    Args:
        spec: The input.
        data_root: Folder in which the index of a zip is kept.
        raw: Folder or address below which inputs are; None for `data_root`.

    Raises:
        MissingInputError: It was not found; the message says where to get it and where to put it.
        ArchiveError: It is an unsafe or unreadable zip, or this user may not read it.
        AddressError: The address cannot be read.
    """
    index = data_root / "assets" / "raw" / f"{spec.name}{INDEX_EXTENSION}"
    if isinstance(raw, Address):
        return _find_at_address(spec, raw, index)
    paths = [(raw or data_root) / path for path in (spec.file, *spec.folders)]
    with explain_read_errors(paths[0]):
        if paths[0].is_file():
            return RawArchive(paths[0], identify(paths[0], index), "", spec.password_variable, index)
        for folder in paths[1:]:
            if folder.is_dir():
                return RawArchive(folder, identify(folder), f"{folder.name}/", spec.password_variable)
        there = paths[0].parent.iterdir() if paths[0].parent.is_dir() else ()
        found = sorted(path.name for path in there)  # e.g. train(1).zip, train.z01
    raise _missing(spec, paths, [f"in {paths[0].parent}: {name_some(found)}"] if found else [])


def _missing(spec: ArchiveSpec, places: Sequence[Place], details: Sequence[str] = ()) -> MissingInputError:
    return MissingInputError(
        f"Input not found: {spec.title}. Looked for {' and '.join(map(str, places))}.",
        details=[f"from: {spec.homepage}", f"size: {spec.disk}", f"licence: {spec.licence}", *details],
        advice=f"{spec.how_to_get} Put it at {places[0]}; no need to unpack it.",
    )


def _find_at_address(spec: ArchiveSpec, raw: Address, index: Path) -> RawArchive:
    address = raw / spec.file
    try:
        return RawArchive(address, identify(address, index), "", spec.password_variable, index)
    except MissingInputError:
        details = ["a folder that is unzipped there is not read"] if spec.folders else []
        raise _missing(spec, [address], details) from None


def identify(path: Place, index: Path | None = None) -> IdentityCard:
    """Return the identity card of a zip, whose `index` is that of `RawArchive`, of a folder or of a file.

    A file at an address that is no zip is copied beside the index.

    Raises:
        ArchiveError: It cannot be read, or is an unsafe zip.
        MissingInputError: There is nothing at the address.
        AddressError: The address cannot be read.
    """
    if isinstance(path, Address):
        version = find_version(path)
        if path.name.endswith(".zip"):
            return identify_members(read_remote_index(path, version, index), *version)
        sha256 = hash_file(_copy(path, version, index))
        return IdentityCard("file", version.bytes, 1, sha256, encrypted=False, etag=version.etag)
    with explain_read_errors(path):
        if path.is_dir():
            return identify_listing(list_folder(path))
        size = path.stat().st_size
        if path.suffix == ".zip":
            return identify_members(read_index(path, index), size)
        return IdentityCard("file", size, 1, hash_file(path), encrypted=False)


def identify_members(index: ZipIndex, size: int, etag: str | None = None) -> IdentityCard:
    """Return the identity card of a zip of `size` bytes from its members."""
    return IdentityCard("zip", size, index.frame.height, index.sha256, index.is_encrypted, etag)


def locate_local(archive: RawArchive) -> Path:
    """Return the path of an input on this machine; of a file at an address, that of a copy with the card's sha256.

    Raises:
        ArchiveError: It has changed since it was identified.
        AddressError: It cannot be read.
    """
    card = archive.card
    if isinstance(archive.path, Path):
        return archive.path
    copy = _locate_copy(archive.index)
    if not is_whole(copy, card.bytes, card.sha256):
        _copy(archive.path, Version(card.bytes, card.etag or ""), archive.index)
    return copy


def _copy(address: Address, version: Version, index: Path | None) -> Path:
    """Copy a file to this machine, whole."""
    if version.bytes > _LARGEST_COPY:
        raise ArchiveError(
            f"{address} has {version.bytes:,} bytes, too many for a text file.",
            advice="Get the file from its official address.",
        )
    copy = _locate_copy(index)
    with replace_atomically(copy) as partial, partial.open("wb") as file:
        receive_range(address, version, 0, version.bytes, lambda _, block: file.write(block))
    return copy


def _locate_copy(index: Path | None) -> Path:
    if index is None:
        raise ValueError("A file at an address is copied beside its index.")
    return index.with_name(index.name.removesuffix(INDEX_EXTENSION) + _COPY_EXTENSION)


def identify_listing(listing: Mapping[str, os.stat_result]) -> IdentityCard:
    """Return the identity card of a folder from its listing."""
    digest = hashlib.sha256()
    for name in sorted(listing):
        digest.update(
            f"{name}\0{listing[name].st_size}\0{listing[name].st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return IdentityCard(
        "folder", sum(s.st_size for s in listing.values()), len(listing), digest.hexdigest(), encrypted=False
    )


def identify_contents(folder: Path) -> IdentityCard:
    """Take the identity card of a folder of small text files from their bytes, not from their times."""
    with explain_read_errors(folder):
        names = list_texts(folder)
        digest = hash_bytes(
            "\n".join(f"{name} {hash_file(folder / name)}" for name in names).encode(errors="surrogateescape")
        )
        size = sum((folder / name).stat().st_size for name in names)
    return IdentityCard("folder", size, len(names), digest, encrypted=False)


def list_texts(folder: Path) -> list[str]:
    """Return the CSV, text and YAML files below a folder, relative to it, in order of their paths."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".csv", ".txt", ".yaml") and path.is_file())
    return [path.relative_to(folder).as_posix() for path in files]


def list_folder(folder: Path) -> dict[str, os.stat_result]:
    """List all files below a folder by their posix path in it; links are followed, a loop of links only once."""
    seen: set[tuple[int, int]] = set()

    def walk(path: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        stat = os.stat(path)  # noqa: PTH116 - 200,000 files: Path objects would double the time
        if (stat.st_dev, stat.st_ino) in seen:
            return
        seen.add((stat.st_dev, stat.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from walk(entry.path, f"{prefix}{entry.name}/")
                elif entry.is_file():
                    yield prefix + entry.name, entry.stat()

    return dict(walk(str(folder), ""))
