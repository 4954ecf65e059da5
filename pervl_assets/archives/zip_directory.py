"""The central directory of a zip file, read whole and checked before any use.

It is parsed here rather than by `zipfile`, which takes several times as long for 200,000 members and checks less: the
position of the directory, and that no two members share their bytes. Zips are read, too, that have bytes before or
behind them, backslashes in names, or more than 4 GiB without zip64 fields (of the Finder of macOS).
"""

import gc
import logging
import os
import stat
import struct
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pervl_assets.core.addresses import Address, Place
from pervl_assets.core.errors import ArchiveError, list_some, name_some
from pervl_assets.core.file_kinds import RECOGNIZED_BYTES, recognize

MAX_MEMBER_BYTES: Final = 256 << 20
"""No member of the benchmarks' archives comes near this size, inflated."""

_MAX_RATIO: Final = 200
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
_END: Final = struct.Struct("<4sHH2xHIIH")
_END_64: Final = struct.Struct("<4s28xQQQ")
_LOCATOR_64: Final = struct.Struct("<4s4xQI")
_LONGEST_COMMENT: Final = 0xFFFF
_LONGEST_TAIL: Final = 64 << 20
"""Bytes at the end of a file that are searched for the end of the zip, if other bytes are behind it."""

_LARGEST_DIRECTORY: Final = 1 << 30
"""Of some 12 million members with names like COCO's; it takes six times as much memory."""

_WRAP: Final = 1 << 32
_IN_EXTRA: Final = 0xFFFFFFFF
_EXTRA: Final = struct.Struct("<HH")
_ZIP64_EXTRA: Final = 1
_LOCAL_HEADER_BYTES: Final = 30
LONGEST_LOCAL_HEADER: Final = _LOCAL_HEADER_BYTES + 2 * 0xFFFF
"""Bytes of a local header with the longest name and extra field."""

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_STRONGLY_ENCRYPTED: Final = 0xFFFF
"""Method of members with the strong encryption of PKWARE."""

_OTHER_METHODS: Final = {
    9: "compressed with Deflate64",
    12: "compressed with bzip2",
    14: "compressed with LZMA",
    20: "compressed with Zstandard",
    93: "compressed with Zstandard",
    95: "compressed with xz",
    98: "compressed with PPMd",
    99: "encrypted with AES",
    _STRONGLY_ENCRYPTED: "encrypted with the strong encryption of PKWARE",
}
_AGAIN: Final = "Download it again, or continue the download, and compare its size with the official one."
_JOIN: Final = (
    "Put all its parts (.z01, .z02, …, .zip) into one folder and join them: `zip -s 0 {name} --out whole.zip`; parts "
    "named .001, .002, … by `cat`. Or unpack it there with `7z x {name}`."
)

_log = logging.getLogger(__name__)

_SMALL: Final = 1 << 20
_ODD: Final = (":", "..", "\n/")
"""If the names, one per line, contain any of these, they are checked one by one."""


class ZipEntry(NamedTuple):
    """Position of one member's bytes in a zip, and their size and CRC once they are read.

    Attributes:
        offset: Position of the local header, in bytes.
        stored: Bytes in the archive, an encryption header included.
        size: Bytes once inflated.
        crc32: CRC of the inflated bytes.
        method: 0 stored, 8 deflated. Members of other methods are not read.
        encrypted: Whether the bytes are encrypted with ZipCrypto.
    """

    offset: int
    stored: int
    size: int
    crc32: int
    method: int
    encrypted: bool


MEMBERS: Final = {
    "name": pl.String,
    "offset": pl.UInt64,
    "stored": pl.UInt64,
    "size": pl.UInt64,
    "crc32": pl.UInt32,
    "method": pl.UInt16,
    "encrypted": pl.Boolean,
}
"""Columns of a table of members: the name, and the fields of `ZipEntry`."""


class Directory(NamedTuple):
    """The directory of a zip as it is in the file.

    Attributes:
        start: Its offset; all members end before it.
        data: Its bytes.
        stated: Number of entries that the end record states.
        shift: By how many bytes it is further back than the end record states: as many were put before the zip, or,
            if it is a multiple of 4 GiB, the offsets were stated in 32 bits without zip64 fields.
    """

    start: int
    data: bytes
    stated: int
    shift: int

    @property
    def is_wrapped(self) -> bool:
        """Whether offsets are stated modulo 4 GiB."""
        return self.shift > 0 and self.shift % _WRAP == 0


class _DamageError(Exception):
    """The directory cannot be found or cut into entries; the text is the reason."""

    def __init__(self, reason: str, advice: str = _AGAIN) -> None:
        super().__init__(reason)
        self.advice = advice


class _Source(Protocol):
    """A binary file of which only parts are read."""

    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def read(self, size: int, /) -> bytes: ...


def find_directory(path: Place, file: _Source) -> Directory:
    """Return the directory of a zip.

    Args:
        path: The zip, for messages.
        file: The zip, open.

    Raises:
        ArchiveError: There is none: the file is cut off, a part of a split zip, or of another kind.
    """
    with _explain_damage(path, file):
        return _find_directory(file)


def check_directory(path: Place, directory: Directory) -> pl.DataFrame:
    """Cut a directory into entries and check them; return those of all files, in the archive's order, as `MEMBERS`.

    Members that nothing can ask for, because their names hold control characters or are not UTF-8, are left out with a
    warning.

    Args:
        path: The zip, for messages.
        directory: Its directory.

    Raises:
        ArchiveError: The directory is damaged, or has unsafe names, sizes or offsets (all are counted), or not one
            member can be read.
    """
    with _explain_damage(path), _pause_collection():
        headers, names, bad = _cut_directory(directory.data)
        faults = []
        if (len(names) - directory.stated) % 0x10000:  # archives that are not zip64 have 16 bits for it
            faults.append(f"the directory: states {directory.stated:,} members and holds {len(names):,}")
        headers, names = _leave_out(path, headers, names, bad)
        _correct_offsets(headers, directory)
        faults += _find_faults(headers, names, directory.start)
        faults += _find_twins(names)
        faults = faults or _find_overlaps(headers, names)
        if faults and directory.is_wrapped:
            raise _DamageError(
                "it has more than 4 GiB and no zip64 fields, as macOS writes it", _advise_unpacking(path)
            )
        if faults:
            raise ArchiveError(
                f"{path} holds {len(faults):,} unsafe member{'s' * (len(faults) > 1)}.",
                details=list_some(faults),
                advice="Nothing was read from it. Get the archive from its official address; pack your own again "
                "without these members.",
            )
        columns = {name: np.ascontiguousarray(headers[name]) for name in ZipEntry._fields[:-1]}
        encrypted = headers["flags"] & ENCRYPTED != 0
        members = pl.DataFrame({"name": pl.Series(names, dtype=pl.String), **columns, "encrypted": encrypted})
        files = members.filter(~pl.col("name").str.ends_with("/")).cast(pl.Schema(MEMBERS))
        if not files["method"].is_in(_METHODS).any():
            require_readable(path, {name: ZipEntry(*entry) for name, *entry in files.iter_rows()})
        return files


def describe_method(entry: ZipEntry) -> str | None:
    """Return how a member is packed if it cannot be read here, e.g. `encrypted with AES`; None if it can."""
    if entry.method in _METHODS:
        return None
    return _OTHER_METHODS.get(entry.method, f"compressed by method {entry.method}")


def require_readable(path: Place, entries: Mapping[str, ZipEntry]) -> None:
    """Refuse members of a zip that are compressed or encrypted in a way that is not read here.

    Raises:
        ArchiveError: Counts them and says how to unpack the zip instead.
    """
    ways = {name: way for name, entry in entries.items() if (way := describe_method(entry))}
    if ways:
        raise ArchiveError(
            f"Of the {len(entries):,} members that are needed of {path}, {len(ways):,} cannot be read here: "
            f"{name_some({*ways.values()})}.",
            details=[f"for example: {name_some([*ways], 3)}"],
            advice=_advise_unpacking(path),
        )


def _advise_unpacking(path: Place) -> str:
    if isinstance(path, Address):
        return "Pack its members again into a zip without compression or encryption of that kind, and put that there."
    return (
        f"Unpack it in {path.parent}, e.g. with `7z x {path.name}`, and move the zip away: the unpacked folder is read "
        "in its place."
    )


@contextmanager
def _explain_damage(path: Place, file: _Source | None = None) -> Iterator[None]:
    try:
        yield
    except _DamageError as error:
        problem, advice = f"{path} is not a whole zip archive: {error}.", error.advice
        if file and (kind := recognize(_read(file, 0, RECOGNIZED_BYTES))):
            problem, advice = f"{path} is not a zip archive: it is {kind.name}.", kind.advice
        elif isinstance(path, Path) and _has_parts(path):
            problem, advice = f"{path} is one part of a split zip.", _JOIN
        raise ArchiveError(problem, advice=advice.replace("{name}", path.name)) from error


def _has_parts(path: Path) -> bool:
    return path.with_suffix(".z01").exists() or path.with_name(f"{path.name}.002").exists()


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


def _find_directory(file: _Source) -> Directory:
    """Return the directory: of the end record whose comment ends with the file, else of the last one that is whole."""
    length = file.seek(0, os.SEEK_END)
    first = max(0, length - _LONGEST_COMMENT - _END.size)
    for at, tail in _find_ends(file, first, length):
        if at + _END.size + int(_END.unpack_from(tail)[-1]) == length:
            return _read_directory(file, at, tail)
    first = max(0, length - _LONGEST_TAIL)
    for at, tail in _find_ends(file, first, length):
        with suppress(_DamageError):
            return _read_directory(file, at, tail, may_shift=False)  # a zip inside of a zip that is cut off is shifted
    magic = _read(file, 0, 4)
    if magic == b"PK\7\x08":
        raise _DamageError("it is the first part of a split zip", _JOIN)
    if magic == b"PK\3\4":
        raise _DamageError(f"cut off after {length:,} bytes, before its directory")
    raise _DamageError(f"{length:,} bytes of another kind", "Get the archive from its official address.")


def _find_ends(file: _Source, first: int, length: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of all end records from `first` on, the last one first."""
    tail = _read(file, first, length - first)
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        if at + _END.size <= len(tail):
            yield first + at, tail[at : at + _END.size]
        at = tail.rfind(b"PK\5\6", 0, at)


def _read_directory(file: _Source, end: int, record: bytes, *, may_shift: bool = True) -> Directory:
    """Read the directory that ends before the end record `record` at `end`, or before its zip64 one.

    It is read only once it is known to be used: a file can hold a million end records.
    """
    _, disk, first_disk, count, size, start, _ = _END.unpack(record)
    locator = _read(file, end - _LOCATOR_64.size, _LOCATOR_64.size) if end >= _LOCATOR_64.size else b""
    is_zip64, parts = locator.startswith(b"PK\6\7"), 1
    if is_zip64:
        length, (_, end, parts) = end, _LOCATOR_64.unpack(locator)
        long_record = _read(file, end, _END_64.size) if end < length else b""
        if not long_record.startswith(b"PK\6\6"):  # bytes before the zip, which its offsets do not count
            end = length - _LOCATOR_64.size - _END_64.size
            long_record = _read(file, end, _END_64.size) if end >= 0 else b""
        if len(long_record) < _END_64.size or not long_record.startswith(b"PK\6\6"):
            raise _DamageError("its zip64 end record is not where it should be")
        _, count, size, start = _END_64.unpack(long_record)
    if parts > 1 or not {disk, first_disk} <= {0, 0xFFFF}:
        raise _DamageError(f"it is part {max(disk + 1, parts)} of a split zip", _JOIN)
    shift = end - size - start
    if shift < 0:
        raise _DamageError(f"{-shift:,} bytes lost before its directory")
    if size > _LARGEST_DIRECTORY:
        raise _DamageError(
            f"its directory of {size:,} bytes is too large", "Get the archive from its official address."
        )
    directory = Directory(end - size, b"", count, shift)
    may_shift |= directory.is_wrapped
    first = _read(file, end - size, min(size, _HEADER.itemsize))
    if shift and not (may_shift and _is_at(file, first, 0 if directory.is_wrapped and not is_zip64 else shift)):
        raise _DamageError("its directory is not where it should be: bytes were added before it")
    return directory._replace(data=_read(file, end - size, size))


def _is_at(file: _Source, first: bytes, shift: int) -> bool:
    """Return whether the member of the directory's first entry begins where it says, plus `shift`."""
    if len(first) < _HEADER.itemsize:
        return False
    offset = int(np.frombuffer(first, _HEADER, 1)["offset"][0])
    return _read(file, offset + shift, 4) == b"PK\3\4"


def _read(file: _Source, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _cut_directory(directory: bytes) -> tuple[Headers, list[str], set[int]]:
    """Return the headers of all entries, one row per entry, their names, and the rows whose names are not UTF-8."""
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
    bad = set()
    for row in np.flatnonzero(headers["flags"] & UTF8).tolist():
        if not names[row].isascii():
            raw = directory[name_starts[row] : name_ends[row]]
            names[row] = raw.decode("utf-8", "backslashreplace")
            if names[row].encode() != raw:
                bad.add(row)
    if "\\" in text:  # Windows PowerShell 5 writes these between folders
        names = [name.replace("\\", "/") for name in names]
    return headers, names, bad


def _leave_out(path: Place, headers: Headers, names: list[str], bad: set[int]) -> tuple[Headers, list[str]]:
    """Leave out the members in the rows `bad`, and those with names that are empty or cannot be printed."""
    if not all(names) or not "".join(names).isprintable():
        bad |= {row for row, name in enumerate(names) if not name or not name.isprintable()}
    if not bad:
        return headers, names
    problem = (
        f"{len(bad):,} of {len(names):,} members of {path} with a name that is empty, no UTF-8, or with "
        f"characters that cannot be printed: {name_some([ascii(names[row]) for row in sorted(bad)], 3)}."
    )
    if len(bad) == len(names):
        raise ArchiveError(problem, advice="Nothing was read from it. Get the archive from its official address.")
    _log.warning("%s They are left out.", problem)
    kept = [row for row in range(len(names)) if row not in bad]
    return headers[kept], [names[row] for row in kept]


def _correct_offsets(headers: Headers, directory: Directory) -> None:
    """Add what the stated offsets lack: the bytes before the zip, or 4 GiB from each wrap of 32 bits on."""
    if directory.is_wrapped:
        wraps = np.diff(headers["offset"].astype(np.int64), prepend=0) < 0
        headers["offset"] += wraps.cumsum().astype(np.uint64) * np.uint64(_WRAP)
    else:
        headers["offset"] += np.uint64(directory.shift)
    headers["method"][headers["flags"] & _STRONG_ENCRYPTION != 0] = _STRONGLY_ENCRYPTED


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


def _find_faults(headers: Headers, names: list[str], length: int) -> list[str]:
    """Describe the unsafe entries of an archive whose members must end before `length`."""
    offset, stored = headers["offset"], headers["stored"]
    suspect = (offset > length) | (stored > length) | (offset + stored + _LOCAL_HEADER_BYTES > length)
    suspect |= (headers["size"] > _SMALL) | (headers["attributes"] >> 28 == stat.S_IFLNK >> 12)
    lines = "\n".join(["", *names])
    if any(odd in lines for odd in _ODD):
        suspect[:] = True
    found = ((row, _find_fault(names[row], headers[row], length)) for row in np.flatnonzero(suspect))
    return [f"{names[row]!r}: {fault}" for row, fault in found if fault]


def _find_fault(name: str, header: Any, length: int) -> str | None:
    """Return why an entry is unsafe, or None."""
    offset, stored, size = (int(header[field]) for field in ("offset", "stored", "size"))
    faults = {
        "an absolute path": name.startswith("/") or name[1:2] == ":",
        "a path that climbs out of its folder": ".." in name.split("/"),
        "a position outside the archive": offset + _LOCAL_HEADER_BYTES + stored > length,
        "a symbolic link": stat.S_ISLNK(int(header["attributes"]) >> 16),
        f"inflates {stored:,} bytes to {size:,}": size > min(MAX_MEMBER_BYTES, max(_SMALL, _MAX_RATIO * stored)),
    }
    return next((fault for fault, found in faults.items() if found), None)


def _find_twins(names: list[str]) -> list[str]:
    """Describe names that differ in case or in Unicode's normal form only, or not at all."""
    lowered = pl.Series(names, dtype=pl.String).str.to_lowercase()
    if all(map(str.isascii, names)) and lowered.hash().n_unique() == len(names):
        return []  # nearly always, and in a fifth of the memory
    folded = [(name if name.isascii() else unicodedata.normalize("NFC", name)).casefold() for name in names]
    if len(set(folded)) == len(folded):
        return []
    twins = ((name, count) for name, count in Counter(folded).items() if count > 1)
    return [
        f"{name!r}: {count} members of this name, but for upper and lower case or Unicode's normal form"
        for name, count in twins
    ]


def _find_overlaps(headers: Headers, names: list[str]) -> list[str]:
    """Describe members that begin inside the one before: such an archive inflates without end."""
    order = np.argsort(headers["offset"], kind="stable")
    rows = headers[order]
    ends = rows["offset"] + rows["stored"] + rows["name_length"] + _LOCAL_HEADER_BYTES
    inside = np.flatnonzero(rows["offset"][1:] < ends[:-1])
    return [f"{names[order[i + 1]]!r}: begins inside {names[order[i]]!r}" for i in inside]
