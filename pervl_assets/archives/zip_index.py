"""The members of a zip, read from its directory once and kept: in memory, and as Parquet beside the raw input's card.

An archive of 400,000 members takes seconds to parse and is opened several times a run.
"""

import hashlib
import io
import json
import os
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pervl_assets.archives.remote_files import RemoteReader, Version
from pervl_assets.archives.zip_directory import MEMBERS, Directory, ZipEntry, check_directory, find_directory
from pervl_assets.core.addresses import Address, Place
from pervl_assets.core.errors import WriteError
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.tables import write_parquet

_VERSION: Final = 1
_MOST_ENTRIES: Final = 1_000_000
"""Members whose entries are all objects of Python: 350 bytes each, and found in a sixth of the time."""

_ROWS: Final = 100_000
_KEPT: Final = 2
_recent: dict[tuple[str, str], "ZipIndex"] = {}


@dataclass(frozen=True, eq=False)
class ZipIndex:
    """The members of a zip archive.

    Attributes:
        frame: One row per member, in the archive's order: its name and the fields of its `ZipEntry`.
        sha256: Of names, sizes and CRCs: the archive's identity.
    """

    frame: pl.DataFrame
    sha256: str

    @cached_property
    def entries(self) -> Mapping[str, ZipEntry]:
        """The entries by name: all of them, or made when they are asked for if there are millions."""
        if self.frame.height > _MOST_ENTRIES:
            return _Entries(self.frame)
        names, *fields = (column.to_list() for column in self.frame.iter_columns())
        return dict(zip(names, map(ZipEntry._make, zip(*fields, strict=True)), strict=True))

    def list_offsets(self) -> NDArray[np.int64]:
        """Return the places of all members, in the order of the file."""
        return np.sort(self.frame["offset"].to_numpy().astype(np.int64))

    @property
    def is_encrypted(self) -> bool:
        """Whether any member is encrypted."""
        return bool(self.frame["encrypted"].any())


class _Entries(Mapping[str, ZipEntry]):
    """The entries of a frame by name. Names are found by their CRC-32, in 8 bytes a member beside the frame."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame, self._names = frame, frame["name"]
        crc32s = np.empty(frame.height, np.uint32)
        for start in range(0, frame.height, _ROWS):
            crc32s[start : start + _ROWS] = [zlib.crc32(name.encode()) for name in self._names[start : start + _ROWS]]
        self._rows = crc32s.argsort().astype(np.uint32)
        self._crc32s = memoryview(crc32s[self._rows].data)

    def __getitem__(self, name: str) -> ZipEntry:
        crc32 = zlib.crc32(name.encode(errors="surrogatepass"))
        at = bisect_left(self._crc32s, crc32)
        while at < len(self._rows) and self._crc32s[at] == crc32:
            row = int(self._rows[at])
            if self._names[row] == name:
                return ZipEntry._make(self._frame.row(row)[1:])
            at += 1
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return self._frame.height


def read_index(path: Path, store: Path | None = None) -> ZipIndex:
    """Return the members of a zip, whose directory is parsed and checked only if it is not known yet.

    A kept index belongs to an archive of one size, with one directory, byte for byte; any other, or a damaged one, is
    made again. A copied or moved archive keeps its index.

    Args:
        path: The zip.
        store: Parquet file of the kept index, or None to keep it in memory only.

    Raises:
        ArchiveError: The archive is damaged or unsafe.
    """
    with path.open("rb") as file:
        directory, size = find_directory(path, file), os.fstat(file.fileno()).st_size
    key = [size, directory.start, directory.stated, directory.shift, hash_bytes(directory.data)]
    return _find_index(path, key, store, lambda: directory)


def read_remote_index(address: Address, version: Version, store: Path | None = None) -> ZipIndex:
    """Return the members of a zip at an address. Its directory is received only if it is not known of this version.

    Raises:
        ArchiveError: The archive is damaged or unsafe, or another version.
        AddressError: It cannot be read.
    """
    return _find_index(address, [*version], store, lambda: find_directory(address, RemoteReader(address, version)))


def _find_index(path: Place, values: list[Any], store: Path | None, find: Callable[[], Directory]) -> ZipIndex:
    """Return the index of a zip that is known by `values`: from memory, from `store`, or from the directory."""
    key = json.dumps([_VERSION, *values])
    index = _recent.get((str(path), key)) or (_load(store, key) if store else None)
    if index is None:
        index = _identify(check_directory(path, find()))
        if store:
            with suppress(WriteError, OSError):  # it saves time and nothing else
                write_parquet(index.frame, store, {"key": key, "sha256": _hash_columns(index.frame)})
    _recent[str(path), key] = index
    for old in list(_recent)[:-_KEPT]:
        _recent.pop(old, None)
    return index


def get_signature(path: Path) -> tuple[int, int, int]:
    """Return size, modification time in nanoseconds, and inode: they change with the file or its content."""
    stat = os.stat(path)  # noqa: PTH116 - a Path's own is slower, and this is called per member
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _identify(frame: pl.DataFrame) -> ZipIndex:
    digest = hashlib.sha256()
    for part in frame.iter_slices(_ROWS):
        digest.update("".join(part.select(pl.format("{}\0{}\0{}\n", "name", "size", "crc32")).to_series()).encode())
    return ZipIndex(frame, digest.hexdigest())


def _load(store: Path, key: str) -> ZipIndex | None:
    try:
        data = store.read_bytes()
        metadata = pl.read_parquet_metadata(io.BytesIO(data))
        if metadata.get("key") != key:
            return None
        frame = pl.read_parquet(io.BytesIO(data))
        return (
            _identify(frame) if dict(frame.schema) == MEMBERS and _hash_columns(frame) == metadata["sha256"] else None
        )
    except (OSError, KeyError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None


def _hash_columns(frame: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for start in range(0, frame.height, _ROWS):
        digest.update("\n".join([""][: start > 0] + frame["name"][start : start + _ROWS].to_list()).encode())
    for name in ZipEntry._fields:
        digest.update(frame[name].to_numpy().tobytes())
    return digest.hexdigest()
