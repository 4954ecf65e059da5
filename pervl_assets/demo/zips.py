"""Write zip archives with reproducible bytes, plain or with the traditional encryption (ZipCrypto).

Python's `zipfile` reads ZipCrypto but cannot write it. ZipCrypto is weak; DeepFashion2 is published with it.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from pervl_assets.core.files import replace_atomically

Member = tuple[str, bytes]

_DOS_DATE: Final = ((2019 - 1980) << 9) | (6 << 5) | 1  # 1 June 2019, 00:00
_CRC_TABLE: Final = np.array([zlib.crc32(bytes([byte ^ 0xFF])) ^ 0xFF000000 for byte in range(256)], np.uint32)


def encrypt(members: Sequence[bytes], password: bytes, salts: Sequence[bytes]) -> list[bytes]:
    """Encrypt members by section 6.1 of APPNOTE, the zip specification: side by side, all that have an n-th byte.

    Args:
        members: The bytes of each member in a plain archive.
        password: The password.
        salts: The 12 bytes of each encryption header. The last one must be the high byte of the CRC-32 of the member.

    Returns:
        The header and the data of each member, encrypted.
    """
    texts = [password + salt + data for salt, data in zip(salts, members, strict=True)]
    lengths = np.array([*map(len, texts)], np.int64)
    starts, flat = np.cumsum(lengths) - lengths, np.frombuffer(b"".join(texts), np.uint8).copy()
    order = np.argsort(-lengths, kind="stable")
    counts = np.searchsorted(-lengths[order], -np.arange(lengths.max(initial=0)))  # of members that are longer
    places = starts[order]
    keys = [np.full(len(texts), key, np.uint32) for key in (0x12345678, 0x23456789, 0x34567890)]
    for position, count in enumerate(counts):
        key0, key1, key2 = (key[:count] for key in keys)
        at = places[:count] + position
        plain, half = flat[at], key2 & 0xFFFF | 2
        flat[at] = plain ^ (half * (half ^ 1) >> 8).astype(np.uint8)
        key0[:] = key0 >> 8 ^ _CRC_TABLE[(key0 ^ plain) & 0xFF]
        key1[:] = (key1 + (key0 & 0xFF)) * 134775813 + 1
        key2[:] = key2 >> 8 ^ _CRC_TABLE[(key2 ^ key1 >> 24) & 0xFF]
    return [flat[start + len(password) : start + size].tobytes() for start, size in zip(starts, lengths, strict=True)]


def _seal(members: Iterable[Member], password: str | None, seed: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield name and bytes of each member, and its bytes in the archive."""
    if password is None:
        yield from ((name, data, data) for name, data in members)
        return
    random, listed = Random(f"{seed}/encryption headers"), [*members]
    files = [data for name, data in listed if not name.endswith("/")]
    salts = [random.randbytes(11) + bytes([zlib.crc32(data) >> 24]) for data in files]
    sealed = iter(encrypt(files, password.encode(), salts))
    yield from ((name, data, data if name.endswith("/") else next(sealed)) for name, data in listed)


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
    directory, count = bytearray(), 0
    with replace_atomically(target) as partial, partial.open("wb") as file:
        for name, data, body in _seal(members, password, seed):
            crc, encoded = zlib.crc32(data), name.encode()
            flags = (0 if body is data else 1) | (0 if name.isascii() else 0x800)
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
