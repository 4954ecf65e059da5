"""The central directory of a zip file, read whole and checked before any use.

It is parsed here rather than by `zipfile`, which takes several times as long for 200,000 members and checks less: the
position of the directory, and that no two members share their bytes.
"""

import gc
import os
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pervl_assets.core.errors import ArchiveError, list_some

MAX_MEMBER_BYTES: Final = 256 << 20
"""No member of the benchmarks' archives comes near this size, inflated."""

MAX_RATIO: Final = 200
"""Inflated to stored size, for members above 1 MiB; images hardly compress, JSON about 20 to 1."""

ENCRYPTED: Final = 0x01
UTF8: Final = 0x800
"""Bits of a member's flags."""

_STRONG_ENCRYPTION: Final = 0x40
_FIELDS: Final = {
    "magic": "S4", "versions": "<u4", "flags": "<u2", "method": "<u2", "time": "<u4", "crc32": "<u4", "stored": "<u4",
    "size": "<u4", "name_length": "<u2", "extra_length": "<u2", "comment_length": "<u2", "disk": "<u2",
    "internal": "<u2", "attributes": "<u4", "offset": "<u4",
}  # fmt: skip
_HEADER: Final = np.dtype([*_FIELDS.items()])
_WIDE: Final = np.dtype([*(_FIELDS | dict.fromkeys(("stored", "size", "offset"), "<u8")).items()])
Headers = NDArray[np.void]
"""One row per entry: the fixed header fields, with sizes and offsets of 64 bits."""

_LENGTHS: Final = struct.Struct("<HHH")
_LENGTHS_AT: Final = 28
_END: Final = struct.Struct("<4s6xHIIH")
_END_64: Final = struct.Struct("<4s28xQQQ")
_LOCATOR_64: Final = struct.Struct("<4s4xQ4x")
_LONGEST_COMMENT: Final = 0xFFFF
_IN_EXTRA: Final = 0xFFFFFFFF
_EXTRA: Final = struct.Struct("<HH")
_ZIP64_EXTRA: Final = 1
_LOCAL_HEADER_BYTES: Final = 30
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_SMALL: Final = 1 << 20
_ODD: Final = ("\\", ":", "..", "\n/", "\n\n")
"""If the names, one per line, contain any of these, they are checked one by one."""


class ZipEntry(NamedTuple):
    """Position of one member's bytes in a zip, and their size and CRC once they are read.

    Attributes:
        offset: Position of the local header, in bytes.
        stored: Bytes in the archive, an encryption header included.
        size: Bytes once inflated.
        crc32: CRC of the inflated bytes.
        method: 0 stored, 8 deflated.
        encrypted: Whether the bytes are encrypted with ZipCrypto.
    """

    offset: int
    stored: int
    size: int
    crc32: int
    method: int
    encrypted: bool


class _DamageError(Exception):
    """The directory cannot be found or cut into entries; the text is the reason."""


def find_directory(path: Path) -> tuple[int, bytes, int, os.stat_result]:
    """Return the directory's offset, its bytes, the number of entries it states, and the file's status.

    Raises:
        ArchiveError: There is none: the file is cut off, or of another kind.
    """
    with _explain_damage(path), path.open("rb") as file:
        return *_find_directory(file), os.fstat(file.fileno())


def check_directory(path: Path, start: int, directory: bytes, stated: int) -> dict[str, ZipEntry]:
    """Cut a directory into entries and check them; return those of all files by name, in the archive's order.

    Args:
        path: The zip, for messages.
        start: Offset of the directory; all members must end before it.
        directory: Its bytes.
        stated: Number of entries that the end record states.

    Raises:
        ArchiveError: The directory is damaged, or has unsafe names, sizes or offsets; all are counted.
    """
    with _explain_damage(path), _pause_collection():
        headers, names, faults = _cut_directory(directory)
        if (len(names) - stated) % 0x10000:  # archives that are not zip64 have 16 bits for it
            faults.append(f"the directory: states {stated:,} members and holds {len(names):,}")
        columns = (headers[name].tolist() for name in ("offset", "stored", "size", "crc32", "method"))
        encrypted = (headers["flags"] & ENCRYPTED != 0).tolist()
        entries = list(map(ZipEntry._make, zip(*columns, encrypted, strict=True)))
        faults += _find_faults(headers, names, entries, start)
        faults += _find_twins(names)
        faults = faults or _find_overlaps(headers, names)
        if faults:
            raise ArchiveError(
                f"{path} holds {len(faults):,} unsafe member{'s' * (len(faults) > 1)}.",
                details=list_some(faults),
                advice="Nothing was read from it. Get the archive from its official address.",
            )
        return {name: entry for name, entry in zip(names, entries, strict=True) if name[-1] != "/"}


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _DamageError as error:
        raise ArchiveError(
            f"{path} is not a whole zip archive: {error}.",
            advice="Download it again, or continue the download, and compare its size with the official one. A log-in "
            "page saved under this name looks the same.",
        ) from error


@contextmanager
def _pause_collection() -> Iterator[None]:
    """Disable garbage collection while entries are created."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _find_directory(file: BinaryIO) -> tuple[int, bytes, int]:
    """Return the directory's offset, its bytes, and the number of entries it states."""
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - _LONGEST_COMMENT - _END.size)
    tail = _read(file, tail_start, length - tail_start)
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and not _is_end(tail, at):
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        if _read(file, 0, 4) == b"PK\3\4":
            raise _DamageError(f"cut off after {length:,} bytes, before its directory")
        raise _DamageError(f"{length:,} bytes of another kind")
    _, count, size, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    locator = _read(file, end - _LOCATOR_64.size, _LOCATOR_64.size) if end >= _LOCATOR_64.size else b""
    if locator.startswith(b"PK\6\7"):
        _, end = _LOCATOR_64.unpack(locator)
        record = _read(file, end, _END_64.size) if end < length else b""
        if len(record) < _END_64.size or not record.startswith(b"PK\6\6"):
            raise _DamageError("its zip64 end record is not where it should be")
        _, count, size, start = _END_64.unpack(record)
    if start + size != end:
        raise _DamageError("its directory is not where it should be: bytes were lost before it, or added")
    return start, _read(file, start, size), count


def _is_end(tail: bytes, at: int) -> bool:
    """Return whether there is an end record at `at`: its comment must end with the file."""
    end = at + _END.size
    return end <= len(tail) and end + int(_END.unpack_from(tail, at)[-1]) == len(tail)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _cut_directory(directory: bytes) -> tuple[Headers, list[str], list[str]]:
    """Return the headers of all entries, one row per entry, their names, and faults of names."""
    starts, at, end = [], 0, len(directory)
    while at < end:
        if end - at < _HEADER.itemsize:
            raise _DamageError("its directory ends inside an entry")
        starts.append(at)
        name, extra, comment = _LENGTHS.unpack_from(directory, at + _LENGTHS_AT)
        at += _HEADER.itemsize + name + extra + comment
    if at > end:
        raise _DamageError("its directory ends inside an entry")
    cut = b"".join([directory[start : start + _HEADER.itemsize] for start in starts])
    headers = np.frombuffer(cut, _HEADER).astype(_WIDE)
    if (damaged := np.flatnonzero(headers["magic"] != b"PK\1\2")).size:
        raise _DamageError(f"entry {damaged[0] + 1:,} of its directory is damaged")
    name_starts = np.array(starts, np.int64) + _HEADER.itemsize
    name_ends = name_starts + headers["name_length"]
    _fill_from_zip64(headers, directory, name_ends)
    text = directory.decode("cp437")  # one character per byte
    names = [text[start:end] for start, end in zip(name_starts.tolist(), name_ends.tolist(), strict=True)]
    faults = []
    for row in np.flatnonzero(headers["flags"] & UTF8).tolist():
        if not names[row].isascii():
            raw = directory[name_starts[row] : name_ends[row]]
            names[row] = raw.decode("utf-8", "backslashreplace")
            if names[row].encode() != raw:
                faults.append(f"{names[row]!r}: a name that is not UTF-8, though it says so")
    return headers, names, faults


def _fill_from_zip64(headers: Headers, directory: bytes, extra_starts: NDArray[np.int64]) -> None:
    """Take sizes and offsets that need more than 32 bits from the entries' extra fields."""
    columns = ("size", "stored", "offset")  # in the order of their long forms; only the needed ones are there
    is_long = np.stack([headers[name] == _IN_EXTRA for name in columns], axis=1)
    rows = np.flatnonzero(is_long.any(axis=1))
    is_long = is_long[rows]
    starts = extra_starts[rows]
    ends = starts + headers["extra_length"][rows]
    fields = [_find_zip64(directory[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    if (np.array([len(field) for field in fields], int) < 8 * is_long.sum(axis=1)).any():
        raise _DamageError("the zip64 field of an entry is missing")
    longs = np.frombuffer(b"".join([field[:24].ljust(24, b"\0") for field in fields]), "<u8").reshape(-1, 3)
    which = np.maximum(is_long.cumsum(axis=1) - 1, 0)
    values = np.take_along_axis(longs, which, axis=1)
    for column, name in enumerate(columns):
        chosen = is_long[:, column]
        headers[name][rows[chosen]] = values[chosen, column]


def _find_zip64(extra: bytes) -> bytes:
    """Return the zip64 part of an extra field, empty if it has none."""
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, size = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == _ZIP64_EXTRA:
            return extra[at : at + size]
        at += size
    return b""


def _find_faults(headers: Headers, names: list[str], entries: list[ZipEntry], length: int) -> list[str]:
    """Describe the unsafe entries of an archive whose members must end before `length`."""
    offset, stored = headers["offset"], headers["stored"]
    suspect = (offset > length) | (stored > length) | (offset + stored + _LOCAL_HEADER_BYTES > length)
    suspect |= (headers["size"] > _SMALL) | np.all([headers["method"] != method for method in _METHODS], axis=0)
    suspect |= (headers["flags"] & _STRONG_ENCRYPTION != 0) | (headers["attributes"] >> 28 == stat.S_IFLNK >> 12)
    lines = "\n".join(["", *names, ""])
    if any(odd in lines for odd in _ODD) or not "".join(names).isprintable():
        suspect[:] = True
    found = ((row, _find_fault(names[row], entries[row], headers[row], length)) for row in np.flatnonzero(suspect))
    return [f"{names[row]!r}: {fault}" for row, fault in found if fault]


def _find_fault(name: str, entry: ZipEntry, header: Any, length: int) -> str | None:
    """Return why an entry is unsafe, or None."""
    offset, stored, size, _, method, _ = entry
    faults = {
        "an empty name, or control characters in it": not name or not name.isprintable(),
        "a backslash in the name": "\\" in name,
        "an absolute path": name.startswith("/") or name[1:2] == ":",
        "a path that climbs out of its folder": ".." in name.split("/"),
        "a position outside the archive": offset + _LOCAL_HEADER_BYTES + stored > length,
        "a symbolic link": stat.S_ISLNK(int(header["attributes"]) >> 16),
        f"inflates {stored:,} bytes to {size:,}": size > min(MAX_MEMBER_BYTES, max(_SMALL, MAX_RATIO * stored)),
        f"compressed by method {method}, which is not read here": method not in _METHODS,
        "encrypted in a way that is not read here": bool(header["flags"] & _STRONG_ENCRYPTION),
    }
    return next((fault for fault, found in faults.items() if found), None)


def _find_twins(names: list[str]) -> list[str]:
    """Describe names that differ in upper and lower case only, or not at all."""
    folded = [name.casefold() for name in names]
    if len(set(folded)) == len(folded):
        return []
    twins = ((name, count) for name, count in Counter(folded).items() if count > 1)
    return [f"{name!r}: {count} members of this name, but for upper and lower case" for name, count in twins]


def _find_overlaps(headers: Headers, names: list[str]) -> list[str]:
    """Describe members that begin inside the one before: such an archive inflates without end."""
    order = np.argsort(headers["offset"], kind="stable")
    rows = headers[order]
    ends = rows["offset"] + rows["stored"] + rows["name_length"] + _LOCAL_HEADER_BYTES
    inside = np.flatnonzero(rows["offset"][1:] < ends[:-1])
    return [f"{names[order[i + 1]]!r}: begins inside {names[order[i]]!r}" for i in inside]
