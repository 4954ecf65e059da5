"""One member of a zip file: read by position, decrypted, inflated, and checked against its size and CRC.

Members are read with `os.pread` rather than through `zipfile.ZipFile`: a worker process then needs the positions of its
own members only, not another copy of a directory of 400,000 names, and decrypting is done in native code.
"""

import os
import struct
import zipfile
from typing import Final

from _zipdecrypter import StandardZipDecrypter  # type: ignore[import-not-found]
from zlib_ng import zlib_ng

from pervl_assets.archives.zip_directory import ENCRYPTED, UTF8, ZipEntry, describe_method

_LOCAL_HEADER: Final = struct.Struct("<4s2xHHH14xHH")
_ENCRYPTION_HEADER: Final = 12
_STREAMED: Final = 0x08


class MemberError(Exception):
    """One member is damaged; the rest of the archive may be whole. The text is the reason."""


def read_entry(file: int, name: str, entry: ZipEntry, password: bytes | None = None) -> bytes:
    """Read one member's bytes: decrypted, inflated, and checked against its size and CRC.

    Args:
        file: Descriptor of the open archive; several threads may share it.
        name: The member's name, which its local header must repeat.
        entry: Its entry in the central directory.
        password: Password of an encrypted member.

    Raises:
        MemberError: The member is damaged or cut short, or the password does not open it.
        OSError: The archive cannot be read.
    """
    if way := describe_method(entry):
        raise MemberError(f"it is {way}, which is not read here")
    header = os.pread(file, _LOCAL_HEADER.size, entry.offset)
    if len(header) < _LOCAL_HEADER.size:
        raise MemberError("the archive ends before this member")
    magic, flags, method, time, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    start = entry.offset + _LOCAL_HEADER.size
    local_name = os.pread(file, name_length, start).decode("utf-8" if flags & UTF8 else "cp437", "replace")
    stated = (b"PK\3\4", name, entry.method, entry.encrypted)
    if (magic, local_name.replace("\\", "/"), method, bool(flags & ENCRYPTED)) != stated:
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
    if zlib_ng.crc32(data) != entry.crc32:
        raise MemberError("its CRC does not match: the bytes are damaged")
    return data


def _inflate(stored: bytes, size: int) -> bytes:
    """Inflate at most one byte more than `size`, so that a bomb stays small."""
    try:
        return zlib_ng.decompressobj(-zlib_ng.MAX_WBITS).decompress(stored, size + 1)
    except zlib_ng.error as error:  # type: ignore[misc]  # its stubs declare a value, not a class
        raise MemberError(f"its compressed bytes are damaged ({error})") from error
