"""PNG files of the plainest kind, with unfiltered rows, in one piece with zlib-ng; Pillow does the others.

Masks are long runs of few values. Filtering them row by row, as Pillow does, takes ten times as long and makes the
files no smaller.
"""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = struct.Struct(">II5B")
_PALETTE: Final = (8, 3, 0, 0, 0)
"""In a header: 8 bits, palette colours, deflated, filtered by row, not interlaced."""
_GREY: Final = (8, 0, 0, 0, 0)


def encode_grey(pixels: NDArray[np.uint8]) -> bytes:
    """Encode shape (height, width) as an 8-bit grey PNG, packed by runs."""
    height, width = pixels.shape
    rows = np.zeros((height, 1 + width), np.uint8)  # every row begins with the number of its filter: 0, none
    rows[:, 1:] = pixels
    deflater = zlib_ng.compressobj(1, strategy=zlib_ng.Z_RLE)
    packed = deflater.compress(rows) + deflater.flush()
    header = _HEADER.pack(width, height, *_GREY)
    return _SIGNATURE + _pack_chunk(b"IHDR", header) + _pack_chunk(b"IDAT", packed) + _pack_chunk(b"IEND", b"")


def _pack_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib_ng.crc32(kind + body))


def decode_plain_palette(data: bytes, most_pixels: int) -> NDArray[np.uint8] | None:
    """Return the indices of a whole, unfiltered 8-bit palette PNG, shape (height, width); None: leave it to Pillow."""
    chunks = _split_png(data)
    kinds = [kind for kind, _ in chunks]
    if kinds[:2] != [b"IHDR", b"PLTE"] or set(kinds[2:-1]) != {b"IDAT"} or kinds[-1] != b"IEND":
        return None
    if len(header := chunks[0][1]) != 13 or not (palette := chunks[1][1]) or len(palette) % 3 or len(palette) > 768:
        return None
    width, height, *form = _HEADER.unpack(header)
    size = height * (width + 1)  # every row begins with the number of its filter
    if tuple(form) != _PALETTE or not 0 < width * height <= most_pixels:
        return None
    inflater = zlib_ng.decompressobj()
    try:
        rows = inflater.decompress(b"".join(body for _, body in chunks[2:-1]), size + 1)
    except zlib_ng.error:  # type: ignore[misc]  # its stubs declare a value, not a class
        return None
    if len(rows) != size or not inflater.eof:
        return None
    indices = np.frombuffer(rows, np.uint8).reshape(height, width + 1)
    return None if indices[:, 0].any() else indices[:, 1:]


def _split_png(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return kinds and bodies of a PNG's chunks; none at all if one does not match its length and CRC."""
    chunks: list[tuple[bytes, bytes]] = []
    start = len(_SIGNATURE)
    if not data.startswith(_SIGNATURE):
        return []
    while start < len(data):
        if len(data) < start + 12:
            return []
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        if len(data) < end + 4 or zlib_ng.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return []
        chunks.append((data[start + 4 : start + 8], data[start + 8 : end]))
        start = end + 4
    return chunks
