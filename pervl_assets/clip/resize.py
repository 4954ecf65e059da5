"""A plain colour JPEG resized and cropped by computing only what the crop shows, bit for bit as Pillow does.

Pillow resizes in two passes: every row to its new width (8 bits again), then every column to its new height. A row of
the first pass depends on no other row, and a pixel of the second on few rows of the first. So rows far above and below
the crop are neither decoded nor resized, and columns beside the crop are dropped between the passes. A row of the first
pass must be resized whole: Pillow's `box` takes its edges as 32-bit floats, which moves the weights a little, and with
them some pixels by 1. Since version 13 Pillow resizes columns first where the height shrinks by more than twice as many
pixels as the width (photographs more than twice as high as wide); these are left to it.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

from pervl_assets.core.pixels import MAX_PIXELS
from pervl_assets.core.plain_images import decode_plain_colours

_REACH: Final = 2
"""How many pixels of the smaller image a filter reaches to either side: bicubic 2, bilinear 1."""


class Cut(NamedTuple):
    """The size an image is resized to, and the square that is cropped from it.

    Attributes:
        width: Width of the whole resized image.
        height: Height of it.
        left: First column of the crop.
        top: First row of the crop.
        side: Columns and rows of the crop.
    """

    width: int
    height: int
    left: int
    top: int
    side: int


def measure_plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a colour JPEG; None for any other file."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if colours == "YCbCr" and width * height else None


def resize_plain_jpeg(
    data: bytes, size: tuple[int, int], cut: Cut, resample: Image.Resampling
) -> npt.NDArray[np.uint8] | None:
    """Decode, resize and crop a healthy colour JPEG that is not very high; None: leave it to Pillow.

    Args:
        data: The file.
        size: Its width and height.
        cut: The part of it that is kept.
        resample: Bicubic or bilinear.

    Returns:
        Pixels, uint8 of shape (side, side, 3).
    """
    width, height = size
    if not _goes_rows_first(size, cut):
        return None
    first, last = _find_needed(cut.top, cut.side, height, cut.height)
    pixels = decode_plain_colours(data, MAX_PIXELS, last)
    if pixels is None:
        return None
    rows = Image.frombytes("RGB", (width, last - first), pixels[first:last], "raw", "RGBX")
    wide = rows.resize((cut.width, rows.height), resample)
    # Missing rows are black: no row of the crop depends on them.
    whole = wide.crop((cut.left, -first, cut.left + cut.side, height - first))
    return np.asarray(whole.resize((cut.side, cut.height), resample).crop((0, cut.top, cut.side, cut.top + cut.side)))


def _goes_rows_first(size: tuple[int, int], cut: Cut) -> bool:
    """Return whether Pillow 12 and 13 both resize the rows first."""
    narrower, lower = size[0] - cut.width, size[1] - cut.height
    return lower <= 0 or lower <= 2 * narrower


def _find_needed(start: int, count: int, size: int, target: int) -> tuple[int, int]:
    """Return the first row, and the one after the last, that rows `start` to `start + count` of the resized image need.

    Args:
        start: The first row wanted.
        count: How many.
        size: Rows of the image.
        target: Rows of the resized image.
    """
    scale = size / target
    reach = _REACH * max(1.0, scale)
    return max(0, math.floor(start * scale - reach)), min(size, math.ceil((start + count) * scale + reach))
