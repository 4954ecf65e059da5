"""Speed of Python libraries that read ZipCrypto members: the reason for fast-zip-decryption.

Libraries that are not installed are left out. To see all of them, run it in a separate virtual environment with
`pip install fast-zip-decryption pyzipper libarchive-c stream-unzip`.

    python -m pervl_assets_tests.perf.decryption ARCHIVE PASSWORD

Every reader returns the same members, inflated and CRC-checked, in one process; MB/s are of returned bytes. "Random"
means random access: a member is read without those before it. Of the official archive's 13 GB, 1 % is needed.

On the kit's archive (230 MB of deflated JPEGs), one core of an AMD EPYC (Zen 4), load 4 on two cores:

    library               MB/s   random  dependency
    fast-zip-decryption   79     yes     wheels, no further dependency
    libarchive-c          59     no      the system's libarchive, found at run time
    stream-unzip          47     no      wheels; pycryptodome and stream-inflate
    pyzipper              1.7    yes     pure Python for ZipCrypto
    zipfile (CPython)     1.6    yes     none

fast-zip-decryption was chosen: it is the fastest, and 46 times as fast as the others with random access. Most of its
remaining time is inflating.
"""

import argparse
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

SLOW, FAST = 3_000_000, 60_000_000
"""Bytes that a reader reads: pure Python would need minutes for the larger amount."""

Reader = Callable[[Path, bytes, list[zipfile.ZipInfo]], Iterator[bytes]]


def read_with_zipfile(path: Path, password: bytes, members: list[zipfile.ZipInfo]) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        for member in members:
            yield archive.read(member, password)


def read_with_pyzipper(path: Path, password: bytes, members: list[zipfile.ZipInfo]) -> Iterator[bytes]:
    import pyzipper

    with pyzipper.ZipFile(path) as archive:
        for member in members:
            yield archive.read(member.filename, password)


def read_with_fast_zip_decryption(path: Path, password: bytes, members: list[zipfile.ZipInfo]) -> Iterator[bytes]:
    """Read as `core.zips` does; repeated here to run without the project's other libraries."""
    from _zipdecrypter import StandardZipDecrypter

    file = os.open(path, os.O_RDONLY)
    for member in members:
        name_length, extra_length = struct.unpack("<26x2H", os.pread(file, 30, member.header_offset))
        stored = os.pread(file, member.compress_size, member.header_offset + 30 + name_length + extra_length)
        data = StandardZipDecrypter(password).decrypt_bytes(stored)[12:]
        if member.compress_type == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)
        if zlib.crc32(data) != member.CRC:
            raise ValueError(member.filename)
        yield data
    os.close(file)


def read_with_libarchive(path: Path, password: bytes, members: list[zipfile.ZipInfo]) -> Iterator[bytes]:
    import libarchive

    wanted = {member.filename for member in members}
    with libarchive.file_reader(str(path), passphrase=password.decode()) as archive:
        for entry in archive:
            if entry.pathname in wanted:
                wanted.remove(entry.pathname)
                yield b"".join(entry.get_blocks())
            if not wanted:
                return


def read_with_stream_unzip(path: Path, password: bytes, members: list[zipfile.ZipInfo]) -> Iterator[bytes]:
    from stream_unzip import stream_unzip

    wanted = {member.filename.encode() for member in members}
    with path.open("rb") as file:
        for name, _, blocks in stream_unzip(iter(lambda: file.read(1 << 16), b""), password=password):
            data = b"".join(blocks)
            if name in wanted:
                wanted.remove(name)
                yield data
            if not wanted:
                return


READERS: dict[str, tuple[Reader, int, str]] = {
    "fast-zip-decryption": (read_with_fast_zip_decryption, FAST, "yes"),
    "libarchive-c": (read_with_libarchive, FAST, "no"),
    "stream-unzip": (read_with_stream_unzip, FAST, "no"),
    "pyzipper": (read_with_pyzipper, SLOW, "yes"),
    "zipfile (CPython)": (read_with_zipfile, SLOW, "yes"),
}


def compare_readers(archive: Path, password: str) -> list[tuple[str, str, str]]:
    """Return library, MB/s (or `not installed`) and whether it has random access."""
    rows = []
    for name, (reader, amount, random) in READERS.items():
        members = choose_members(archive, amount)
        try:
            speeds = []
            for _ in range(3):
                start = time.process_time()
                given = sum(len(data) for data in reader(archive, password.encode(), members))
                speeds.append(given / (time.process_time() - start) / 1e6)
                if given != sum(member.file_size for member in members):
                    raise ValueError(f"{name} returned {given:,} bytes")
            rows.append((name, f"{sorted(speeds)[1]:.1f}", random))
        except ImportError:
            rows.append((name, "not installed", random))
    return rows


def choose_members(archive: Path, amount: int) -> list[zipfile.ZipInfo]:
    """Return the first files of an archive with `amount` bytes in total."""
    with zipfile.ZipFile(archive) as opened:
        chosen: list[zipfile.ZipInfo] = []
        for member in sorted(opened.infolist(), key=lambda info: info.header_offset):
            if sum(info.file_size for info in chosen) >= amount:
                break
            if member.flag_bits & 1:
                chosen.append(member)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", type=Path)
    parser.add_argument("password")
    given = parser.parse_args()
    for name, speed, random in compare_readers(given.archive, given.password):
        print(f"{name:22} {speed:>14} MB/s   random access: {random}")  # noqa: T201


if __name__ == "__main__":
    main()
