"""Pixels in and out of image files, as upstream has them.

Belongs here: decoding and encoding, and refusing what upstream would silently get wrong. Does not belong here: which
image is cut where.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

MAX_PIXELS: Final = 64_000_000
"""Larger images are refused before they are decoded; the benchmarks' frames have about a million pixels."""

_FORMATS: Final = ("JPEG", "PNG")
_DAMAGE: Final = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


class ImageError(Exception):
    """An image cannot be used. The text is the reason."""


def decode_frame(data: bytes) -> NDArray[np.uint8]:
    """Decode a colour frame to shape (height, width, 3).

    EXIF orientation is not applied and ICC profiles are not converted (upstream rule A4).

    Raises:
        ImageError: Damaged, or not an RGB image: upstream stops at a grey one and writes wrong colours for a CMYK one
            (rule A11).
    """
    return _decode(data, ("RGB",), "frame")


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """Decode an instance mask to palette indices, shape (height, width) (upstream rule A5).

    Raises:
        ImageError: Damaged, or neither a palette image nor a grey one.
    """
    return _decode(data, ("P", "L"), "mask")


def measure_image(data: bytes) -> tuple[int, int]:
    """Return width and height of an image that decodes whole, of whatever mode.

    Raises:
        ImageError: Damaged.
    """
    height, width = _decode(data, (), "image").shape[:2]
    return width, height


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image, shape (height, width, 3), as OpenCV writes a JPEG by default: quality 95, 4:2:0 (rule A3)."""
    return _encode(pixels, "JPEG", quality=95)


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask, shape (height, width), as an 8-bit grey PNG of zeros and ones (upstream rule A6)."""
    return _encode(mask.astype(np.uint8), "PNG")


def _encode(pixels: NDArray[np.uint8], form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def _decode(data: bytes, modes: Sequence[str], what: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"the {what} is too large to be one: {image.width} x {image.height} pixels")
            if modes and image.mode not in modes:
                raise ImageError(f"the {what} has mode {image.mode}, not {' or '.join(modes)}")
            return np.asarray(image)
    except UnidentifiedImageError as error:  # its text holds an address in memory, another one in every run
        raise ImageError(f"the {what} cannot be decoded (neither a JPEG nor a PNG file)") from error
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise ImageError(f"the {what} cannot be decoded ({error})") from error
