"""Image files decoded and encoded as upstream does, and images refused that upstream would silently get wrong.

Pillow decides about every image. Two libraries return the same pixels sooner if a file is as plain as nearly all are;
everything they refuse goes to Pillow: simplejpeg (the same libjpeg-turbo) and zlib-ng (which inflates a mask in one
piece; Pillow does it row by row). Together they save a third of a frame's time:
`python -m pervl_assets_tests.perf.trees`.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pervl_assets.core.plain_images import (
    count_scans,
    decode_plain_colours,
    decode_plain_palette,
    encode_grey,
    is_valid_jpeg,
)

MAX_PIXELS: Final = 64_000_000
"""Larger images are refused before they are decoded; the benchmarks' frames have about a million pixels."""

_MAX_SCANS: Final = 100
"""A progressive JPEG has about ten scans. Each is a pass over all pixels, whatever its few bytes are."""

_FORMATS: Final = ("JPEG", "PNG")
_DAMAGE: Final = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)

# Otherwise Pillow returns the memory of every image to the system, which then zeroes it page by page for the next one.
Image.core.set_blocks_max(4)  # type: ignore[attr-defined]


class ImageError(Exception):
    """An image cannot be used. The text is the reason."""


def decode_frame(data: bytes, rows: int | None = None) -> NDArray[np.uint8]:
    """Decode a colour frame to uint8 of shape (height, width, 4): red, green, blue, and a byte without meaning.

    Pillow keeps colours so, and a crop of them need not be repacked to be encoded. EXIF orientation is not applied and
    ICC profiles are not converted (upstream rule A4).

    Args:
        data: The file.
        rows: Number of rows needed, from the top; the rows below are not decoded and have no meaning. None: all.

    Raises:
        ImageError: Damaged, or not an RGB image: upstream stops at a grey one and writes wrong colours for a CMYK one
            (rule A11).
    """
    require_few_scans(data)
    if (pixels := decode_plain_colours(data, MAX_PIXELS, rows)) is not None:
        return pixels
    with _open(data, ("RGB",), "frame") as image:
        return np.asarray(image.convert("RGBX"))


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """Decode an instance mask to palette indices, uint8 of shape (height, width) (upstream rule A5).

    Raises:
        ImageError: Damaged, or neither a palette image nor a grey one.
    """
    if (indices := decode_plain_palette(data, MAX_PIXELS)) is not None:
        return indices
    with _open(data, ("P", "L"), "mask") as image:
        return np.asarray(image)


def measure_image(data: bytes) -> tuple[int, int]:
    """Return width and height, in pixels, of an image of any mode that decodes whole.

    Raises:
        ImageError: Damaged.
    """
    with _open(data, (), "image") as image:
        if image.format != "JPEG" or not is_valid_jpeg(data):
            image.load()
        return image.size


def read_thumbnail(file: Path, side: int) -> Image.Image:
    """Read an image as RGB, at most `side` pixels wide and high.

    Raises:
        ImageError: Damaged, or it cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ImageError(f"the image cannot be read ({error.strerror})") from error
    with _open(data, (), "image") as image:
        image.draft("RGB", (2 * side, 2 * side))  # a large JPEG is decoded at a fraction of its size
        small = image.convert("RGB")
        small.thumbnail((side, side))
        return small


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image as OpenCV writes a JPEG by default: quality 95, 4:2:0 (upstream rule A3).

    Args:
        pixels: Of shape (height, width, 4), as `decode_frame` returns them, or (height, width, 3).
    """
    buffer = io.BytesIO()
    mode = "RGBX" if pixels.shape[2] == 4 else "RGB"
    Image.fromarray(np.ascontiguousarray(pixels), mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask, shape (height, width), as an 8-bit grey PNG of zeros and ones (upstream rule A6)."""
    return encode_grey(mask.view(np.uint8))


def require_few_scans(data: bytes) -> None:
    """Refuse a JPEG of so many scans that decoding it takes minutes.

    Raises:
        ImageError: It has more than a hundred.
    """
    if (scans := count_scans(data)) > _MAX_SCANS:
        raise ImageError(f"the image has {scans:,} scans, more than {_MAX_SCANS}")


@contextmanager
def ignore_warnings() -> Iterator[None]:
    """Ignore Pillow's warnings of faults beside the pixels (EXIF, animation); they would reach the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _open(data: bytes, modes: Sequence[str], what: str) -> Iterator[Image.Image]:
    """Open an image of one of the `modes` (empty: of any); turn a failure into an `ImageError`."""
    require_few_scans(data)
    try:
        with ignore_warnings(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"the {what} is too large to be one: {image.width} x {image.height} pixels")
            if modes and image.mode not in modes:
                raise ImageError(f"the {what} has mode {image.mode}, not {' or '.join(modes)}")
            yield image
    except UnidentifiedImageError as error:  # its text holds a memory address, which differs from run to run
        raise ImageError(f"the {what} cannot be decoded (neither a JPEG nor a PNG file)") from error
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise ImageError(f"the {what} cannot be decoded ({error})") from error
