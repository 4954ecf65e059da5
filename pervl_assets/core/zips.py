"""Zip files read in place, and not trusted.

Belongs here: the central directory, checked whole before any use, and one member's bytes by position, size and CRC.
Does not belong here: folders, passwords' whereabouts, or what the members mean.

Members are read with `os.pread` rather than through `zipfile.ZipFile`: a worker process then needs the positions of its
own members only, not another copy of a directory of 400,000 names, and decrypting is done in native code.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from _zipdecrypter import StandardZipDecrypter  # type: ignore[import-not-found]

from pervl_assets.core.errors import ArchiveError

MAX_MEMBER_BYTES: Final = 256 << 20
"""No member of the benchmarks' archives comes near this size, inflated."""

MAX_RATIO: Final = 200
"""Inflated to stored size, for members above 1 MiB; images hardly compress, JSON about 20 to 1."""

_LOCAL_HEADER: Final = struct.Struct("<4s2xHHH14xHH")
_ENCRYPTION_HEADER: Final = 12
_STREAMED: Final = 0x08
_STRONG_ENCRYPTION: Final = 0x40
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SHOWN: Final = 10


class MemberError(Exception):
    """One member cannot be read; the rest of the archive may be whole. The text is the reason."""


class ZipEntry(NamedTuple):
    """Where one member's bytes stand in a zip, and what they must come to.

    Attributes:
        offset: Position of the local header, in bytes.
        stored: Bytes in the archive, an encryption header included.
        size: Bytes once inflated.
        crc32: CRC of the inflated bytes.
        method: 0 stored, 8 deflated.
        encrypted: Whether ZipCrypto hides the bytes.
    """

    offset: int
    stored: int
    size: int
    crc32: int
    method: int
    encrypted: bool


def read_directory(path: Path) -> dict[str, ZipEntry]:
    """Read and check the central directory; return the entries of all files by name, in the archive's order.

    Raises:
        ArchiveError: The directory is damaged, or holds names or sizes that no honest archive has; all are counted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError, OverflowError) as error:
        raise ArchiveError(
            f"{path} is not a whole zip archive: {error}.",
            advice="Download it again and compare its size with the official one; an interrupted download looks so.",
        ) from error
    length = path.stat().st_size
    faults = [f"{info.orig_filename!r}: {fault}" for info in infos if (fault := _find_fault(info, length))]
    folded = Counter(info.orig_filename.casefold() for info in infos)
    faults += [f"{name!r}: {count} members of this name, but for upper and lower case"
               for name, count in folded.items() if count > 1]  # fmt: skip
    if faults:
        more = [f"and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
        raise ArchiveError(
            f"{path} holds {len(faults):,} member{'s' if len(faults) > 1 else ''} that cannot be trusted.",
            details=[*faults[:_SHOWN], *more],
            advice="Nothing was read from it. Get the archive from its official address.",
        )
    return {
        info.orig_filename: ZipEntry(
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            info.compress_type,
            bool(info.flag_bits & 1),
        )
        for info in infos
        if not info.orig_filename.endswith("/")
    }


def _find_fault(info: zipfile.ZipInfo, length: int) -> str | None:
    """Say why an entry of an archive of `length` bytes is not to be trusted, or None."""
    name, size, stored = info.orig_filename, info.file_size, info.compress_size
    faults = {
        "an empty name, or control characters in it": not name or not name.isprintable(),
        "a backslash in the name": "\\" in name,
        "an absolute path": name.startswith("/") or name[1:2] == ":",
        "a path that climbs out of its folder": ".." in name.split("/"),
        "a place outside the archive": not 0 <= info.header_offset <= length - stored,
        "a symbolic link": stat.S_ISLNK(info.external_attr >> 16),
        f"inflates {stored:,} bytes to {size:,}": size > min(MAX_MEMBER_BYTES, max(1 << 20, MAX_RATIO * stored)),
        f"compressed by method {info.compress_type}, which is not read here": info.compress_type not in _METHODS,
        "encrypted in a way that is not read here": bool(info.flag_bits & _STRONG_ENCRYPTION),
    }
    return next((fault for fault, found in faults.items() if found), None)


def read_entry(file: int, name: str, entry: ZipEntry, password: bytes | None = None) -> bytes:
    """Read one member's bytes: decrypted, inflated, and checked against its size and CRC.

    Args:
        file: Descriptor of the open archive; several threads may share it.
        name: The member's name, which its local header must repeat.
        entry: Its entry in the central directory.
        password: Password of an encrypted member.

    Raises:
        MemberError: The member is damaged or cut short, or the password does not open it.
    """
    header = os.pread(file, _LOCAL_HEADER.size, entry.offset)
    if len(header) < _LOCAL_HEADER.size:
        raise MemberError("the archive ends before this member")
    magic, flags, _, time, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = entry.offset + _LOCAL_HEADER.size
    local_name = os.pread(file, name_length, start).decode("utf-8" if flags & 0x800 else "cp437", "replace")
    if magic != b"PK\3\4" or local_name != name:
        raise MemberError("its local header does not match the archive's directory")
    stored = os.pread(file, entry.stored, start + name_length + extra_length)
    if len(stored) < entry.stored:
        raise MemberError("the archive ends inside this member")
    if entry.encrypted:
        if password is None:
            raise MemberError("it is encrypted and no password is given")
        check = time >> 8 if flags & _STREAMED else entry.crc32 >> 24
        plain = StandardZipDecrypter(password).decrypt_bytes(stored)
        if len(plain) < _ENCRYPTION_HEADER or plain[_ENCRYPTION_HEADER - 1] != check:
            raise MemberError("the password does not open it")
        stored = plain[_ENCRYPTION_HEADER:]
    data = _inflate(stored, entry.size) if entry.method == zipfile.ZIP_DEFLATED else stored
    if len(data) != entry.size:
        raise MemberError(f"it holds {len(data):,} bytes or more where the directory says {entry.size:,}")
    if zlib.crc32(data) != entry.crc32:
        raise MemberError("its CRC does not match: the bytes are damaged")
    return data


def _inflate(stored: bytes, size: int) -> bytes:
    """Inflate at most one byte more than `size`, so that a bomb stays small."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, size + 1)
    except zlib.error as error:
        raise MemberError(f"its compressed bytes are damaged ({error})") from error
