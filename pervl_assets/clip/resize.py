"""A plain colour JPEG resized and cropped by computing only what the crop shows, with Pillow's own arithmetic.

Belongs here: which rows and columns the crop needs, and resizing no others. Does not belong here: every other kind of
image file, and what is refused; both are `clip_preprocess`'s.

Pillow resizes in two passes, first every row to its new width, then every column of that (8 bits again) to its new
height. A pixel of the second pass depends on few rows of the first, a row of the first on no other row. So the same
comes out bit for bit if rows above and below those few are neither decoded nor resized, and if columns beside the crop
are dropped between the passes. A row of the first pass must be made whole: Pillow can be told to resize a part only
(`box`), but takes its edges as 32-bit floats, which moves the weights a little, and with them some pixels by 1. Since
version 13 Pillow makes the columns first where the height shrinks by more than twice as many pixels as the width (of
photographs, those more than twice as high as wide); these are left to it.

The fast way does that in the second pass, where nothing can come out more than one grey level off: its sums differ from
the exact ones by far less than 1 before they are rounded. In the first pass it makes a part of each row where the
part's edges are whole numbers before and after resizing, as with 640 pixels to 400 in steps of 8 to 5: nothing is
rounded in those, and the first pass has the exact way's pixels. Were it not so, a pixel off by 1 in both passes could
come out off by 2, and did, in one image of a hundred.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

from pervl_assets.core.pixels import MAX_PIXELS
from pervl_assets.core.plain_jpeg import decode_plain_colours

_REACH: Final = 2
"""How many pixels of the smaller image a filter reaches to either side: bicubic 2, bilinear 1."""


class Cut(NamedTuple):
    """What is cut from an image once it is resized.

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
    """Return width and height of a colour JPEG; None: it is something else, and Pillow's."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if colours == "YCbCr" and width * height else None


def resize_plain_jpeg(
    data: bytes, size: tuple[int, int], cut: Cut, resample: Image.Resampling, *, exact: bool
) -> npt.NDArray[np.uint8] | None:
    """Decode, resize and crop a colour JPEG without any fault, unless it is very high; None: leave it to Pillow.

    Args:
        data: The file.
        size: Its width and height.
        cut: What of it is wanted.
        resample: Bicubic or bilinear.
        exact: Bit for bit as Pillow resizes and crops; otherwise to within one grey level.

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
    resize = _resize_exactly if exact else _resize_fast
    return np.asarray(resize(rows, first, height, cut, resample))


def _resize_exactly(rows: Image.Image, first: int, height: int, cut: Cut, resample: Image.Resampling) -> Image.Image:
    """Resize from the needed rows, of which the topmost is row `first` of an image so high."""
    wide = rows.resize((cut.width, rows.height), resample)
    # Rows that are not there are black: no row of the crop depends on them.
    whole = wide.crop((cut.left, -first, cut.left + cut.side, height - first))
    return whole.resize((cut.side, cut.height), resample).crop((0, cut.top, cut.side, cut.top + cut.side))


def _resize_fast(rows: Image.Image, first: int, height: int, cut: Cut, resample: Image.Resampling) -> Image.Image:
    """Resize from the needed rows as `_resize_exactly` does, to within one grey level."""
    part = _resize_part(rows, cut, resample)
    top, bottom = (row * height / cut.height - first for row in (cut.top, cut.top + cut.side))
    return part.resize((cut.side, cut.side), resample, (0, top, cut.side, bottom))


def _resize_part(rows: Image.Image, cut: Cut, resample: Image.Resampling) -> Image.Image:
    """Resize rows to the crop's columns, and as few more as edges in whole numbers ask for."""
    step = cut.width // math.gcd(rows.width, cut.width)  # resized columns from one such edge to the next
    start, end = cut.left // step * step, -(-(cut.left + cut.side) // step) * step
    edges = (start * rows.width // cut.width, 0, end * rows.width // cut.width, rows.height)
    part = rows.resize((end - start, rows.height), resample, edges)
    return part.crop((cut.left - start, 0, cut.left - start + cut.side, rows.height))


def _goes_rows_first(size: tuple[int, int], cut: Cut) -> bool:
    """Return whether Pillow 12 and 13 both make the rows first."""
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
