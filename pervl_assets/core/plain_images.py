"""JPEG and PNG files of the plainest kind, decoded sooner than Pillow does, which does all others.

JPEG: with simplejpeg (Pillow's libjpeg-turbo). Most of a frame's time goes into reading its Huffman codes from the top
to the bottom. If only the upper part of a frame is needed, it is decoded under a header that states fewer rows. libjpeg
then stops after them, looks for the end of the file, and warns about the bytes between. The file is accepted
only if this is the first warning and the skipped bytes end with the EOI marker.

PNG: with unfiltered rows, in one piece with zlib-ng. Masks are long runs of few values. Filtering them row by row, as
Pillow does, takes ten times as long and makes the files no smaller.
"""

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zlib_ng import zlib_ng

_ROWS: Final = 16
"""Codes come in blocks of 8 or 16 rows; one block more is decoded, because colours are smoothed across blocks."""

_BASELINE: Final = 0xC0
_SCAN: Final = 0xDA
_STOPPED_EARLY: Final = "extraneous bytes before marker 0xd9"

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = struct.Struct(">II5B")
_PALETTE: Final = (8, 3, 0, 0, 0)
"""In a header: 8 bits, palette colours, deflated, filtered by row, not interlaced."""
_GREY: Final = (8, 0, 0, 0, 0)


def decode_plain_colours(data: bytes, most_pixels: int, rows: int | None = None) -> NDArray[np.uint8] | None:
    """Decode a valid colour JPEG to shape (height, width, 4); None: leave it to Pillow.

    The fourth byte has no meaning, and neither have the rows below the first `rows`, if they are given.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours != "YCbCr" or not 0 < width * height <= most_pixels:
            return None
        # simplejpeg would first set every byte of a buffer of its own to zero
        pixels = np.empty((height, width, 4), np.uint8)
        if rows is not None and _decode_top(data, pixels, (rows // _ROWS + 2) * _ROWS):
            return pixels
        simplejpeg.decode_jpeg(data, "RGBX", strict=True, buffer=pixels)
    except ValueError:  # damaged, or of a kind that it does not know
        return None
    return pixels


def is_valid_jpeg(data: bytes) -> bool:
    """Return whether a JPEG is certainly valid; False: leave it to Pillow."""
    try:  # an eighth of the brightness suffices: all codes are read for it
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError:
        return False
    return True


def _decode_top(data: bytes, pixels: NDArray[np.uint8], rows: int) -> bool:
    """Decode the first rows into `pixels`; return False if that saves nothing, or is not safe."""
    at = _find_height(data)
    if at is None or rows >= pixels.shape[0]:
        return False
    shorter = data[:at] + struct.pack(">H", rows) + data[at + 2 :]
    try:
        simplejpeg.decode_jpeg(shorter, "RGBX", strict=True, buffer=pixels[:rows])
    except ValueError as warning:
        return _STOPPED_EARLY in str(warning)
    return False  # nothing is left over, so the header was not the one that counts


def _find_height(data: bytes) -> int | None:
    """Return the offset of the height in a baseline JPEG's header; None: it is of another kind."""
    return next((at + 5 for kind, at in _list_segments(data) if kind == _BASELINE), None)


def _list_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield kind and offset of the segments of a JPEG up to its first scan, or to the first byte that is of none."""
    start, kind = 2, 0
    while kind != _SCAN and start + 9 <= len(data) and data[start] == 0xFF:
        kind = data[start + 1]
        yield kind, start
        start += 2 + int.from_bytes(data[start + 2 : start + 4])


def count_scans(data: bytes) -> int:
    """Return the number of passes over its pixels that decoding a JPEG takes; 0 for a file of another kind.

    A progressive one usually takes ten.
    """
    if not data.startswith(b"\xff\xd8"):
        return 0
    segments = dict(_list_segments(data))
    frame, scan = segments.get(_BASELINE), segments.get(_SCAN)
    if frame and scan and data[frame + 9 : frame + 10] == data[scan + 4 : scan + 5]:
        return 1  # all colours are in the first scan: libjpeg reads no other
    return data.count(b"\xff\xda\0")  # in compressed data 0 follows ff


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
