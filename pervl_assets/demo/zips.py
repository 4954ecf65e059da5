"""Write zip archives with reproducible bytes, plain or with the traditional encryption (ZipCrypto).

Python's `zipfile` reads ZipCrypto but cannot write it. ZipCrypto is weak; DeepFashion2 is published with it.
"""

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Final

from pervl_assets.core.files import replace_atomically

Member = tuple[str, bytes]

_DOS_DATE: Final = ((2019 - 1980) << 9) | (6 << 5) | 1  # 1 June 2019, 00:00
_CRC_TABLE: Final = [zlib.crc32(bytes([byte ^ 0xFF])) ^ 0xFF000000 for byte in range(256)]
_WORD: Final = 0xFFFFFFFF


def encrypt(data: bytes, password: bytes, salt: bytes) -> bytes:
    """Encrypt a member by section 6.1 of APPNOTE, the zip specification.

    Args:
        data: The bytes of the member in a plain archive.
        password: The password.
        salt: The 12 bytes of the encryption header. The last one must be the high byte of the CRC-32 of the member.

    Returns:
        The header and the data, encrypted.
    """
    table = _CRC_TABLE
    key0, key1, key2 = 0x12345678, 0x23456789, 0x34567890
    out = bytearray()
    for position, byte in enumerate(password + salt + data):
        if position >= len(password):
            half = (key2 & 0xFFFF) | 2
            out.append(byte ^ ((half * (half ^ 1)) >> 8 & 0xFF))
        key0 = (key0 >> 8) ^ table[(key0 ^ byte) & 0xFF]
        key1 = ((key1 + (key0 & 0xFF)) * 134775813 + 1) & _WORD
        key2 = (key2 >> 8) ^ table[(key2 ^ (key1 >> 24)) & 0xFF]
    return bytes(out)


def write_zip(target: Path, members: Iterable[Member], password: str | None = None, seed: int = 0) -> None:
    """Write a zip of stored (not deflated) members to `target`, whole or not at all.

    Args:
        target: Path of the archive.
        members: Name and bytes of each member, in order. A name that ends in `/` is a folder.
        password: Encrypts every file with ZipCrypto if given.
        seed: Determines the encryption headers, so that the same seed has the same bytes.

    Raises:
        WriteError: No permission, or no space left.
    """
    random = Random(f"{seed}/encryption headers")
    directory, count = bytearray(), 0
    with replace_atomically(target) as partial, partial.open("wb") as file:
        for name, data in members:
            crc, encoded = zlib.crc32(data), name.encode()
            secret = password is not None and not name.endswith("/")
            body = data
            if password is not None and secret:
                body = encrypt(data, password.encode(), random.randbytes(11) + bytes([crc >> 24]))
            flags = (1 if secret else 0) | (0 if name.isascii() else 0x800)
            sizes = (len(body), len(data), len(encoded), 0)
            common = struct.pack("<HHHHHIIIHH", 20, flags, 0, 0, _DOS_DATE, crc, *sizes)
            mode = 0o40755 << 16 | 0x10 if name.endswith("/") else 0o100644 << 16
            directory += b"PK\x01\x02" + struct.pack("<H", 3 << 8 | 20) + common
            directory += struct.pack("<HHHII", 0, 0, 0, mode, file.tell()) + encoded
            file.write(b"PK\x03\x04" + common + encoded + body)
            count += 1
        start = file.tell()
        file.write(directory)
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), start, 0))
