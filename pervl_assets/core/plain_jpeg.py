"""JPEG files of the plainest kind, decoded with simplejpeg (Pillow's libjpeg-turbo); Pillow does the others.

Most of a frame's time goes into reading its Huffman codes from the top to the bottom. If only the upper part of a frame
is needed, it is decoded under a header that states fewer rows. libjpeg then stops after them, looks for the end of the
file, and warns about the bytes between. The file counts as whole only if that is its first warning, and the marker at
the end of these bytes is that of the file's end.
"""

import struct
from typing import Final

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

_ROWS: Final = 16
"""Codes come in blocks of 8 or 16 rows; one block more is decoded, because colours are smoothed across blocks."""

_BASELINE: Final = 0xC0
_STOPPED_EARLY: Final = "extraneous bytes before marker 0xd9"


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
    start = 2
    while start + 9 <= len(data) and data[start] == 0xFF:
        kind, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4])
        if kind == _BASELINE:
            return start + 5
        start += 2 + length
    return None
