"""Pixels in and out of image files, as upstream has them.

Belongs here: decoding and encoding, and refusing what upstream would silently get wrong. Does not belong here: which
image is cut where.

Pillow is the judge of every image. Two libraries only give its pixels sooner, where a file is as plain as nearly all
are, and whatever they will not take goes to Pillow whole: simplejpeg (the same libjpeg-turbo, without Pillow's detour
over four bytes a pixel) and zlib-ng (which inflates a mask in one piece; Pillow's own does so row by row). Together
they take a third off a frame's time: `python -m pervl_assets_tests.perf.trees`.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from zlib_ng import zlib_ng

MAX_PIXELS: Final = 64_000_000
"""Larger images are refused before they are decoded; the benchmarks' frames have about a million pixels."""

_FORMATS: Final = ("JPEG", "PNG")
_DAMAGE: Final = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PLAIN_PALETTE: Final = (8, 3, 0, 0, 0)
"""In a PNG's header: 8 bits, palette colours, deflated, filtered by row, not interlaced."""

# Pillow gives the memory of every image back to the system, which then clears it page by page for the next one.
Image.core.set_blocks_max(4)  # type: ignore[attr-defined]


class ImageError(Exception):
    """An image cannot be used. The text is the reason."""


def decode_frame(data: bytes) -> NDArray[np.uint8]:
    """Decode a colour frame to shape (height, width, 3).

    EXIF orientation is not applied and ICC profiles are not converted (upstream rule A4).

    Raises:
        ImageError: Damaged, or not an RGB image: upstream stops at a grey one and writes wrong colours for a CMYK one
            (rule A11).
    """
    with _open(data, ("RGB",), "frame") as image:
        pixels = _decode_whole_jpeg(data, "RGB") if image.format == "JPEG" else None
        return np.asarray(image) if pixels is None else pixels


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """Decode an instance mask to palette indices, shape (height, width) (upstream rule A5).

    Raises:
        ImageError: Damaged, or neither a palette image nor a grey one.
    """
    if (indices := _decode_plain_palette(data)) is not None:
        return indices
    with _open(data, ("P", "L"), "mask") as image:
        return np.asarray(image)


def measure_image(data: bytes) -> tuple[int, int]:
    """Return width and height of an image that decodes whole, of whatever mode.

    Raises:
        ImageError: Damaged.
    """
    with _open(data, (), "image") as image:
        # Brightness is enough: what is damaged shows in the coded data, whose colours are read with it in any case.
        if image.format != "JPEG" or _decode_whole_jpeg(data, "GRAY") is None:
            image.load()
        return image.size


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


@contextmanager
def _open(data: bytes, modes: Sequence[str], what: str) -> Iterator[Image.Image]:
    """Open an image of one of the `modes` (none named: of any), and say why it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"the {what} is too large to be one: {image.width} x {image.height} pixels")
            if modes and image.mode not in modes:
                raise ImageError(f"the {what} has mode {image.mode}, not {' or '.join(modes)}")
            yield image
    except UnidentifiedImageError as error:  # its text holds an address in memory, another one in every run
        raise ImageError(f"the {what} cannot be decoded (neither a JPEG nor a PNG file)") from error
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise ImageError(f"the {what} cannot be decoded ({error})") from error


def _decode_whole_jpeg(data: bytes, colours: str) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG without any fault, shape (height, width, channels); None: leave it to Pillow."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=True))
    except ValueError:  # damaged, or of a kind that it does not know
        return None


def _decode_plain_palette(data: bytes) -> NDArray[np.uint8] | None:
    """Return the indices of a whole, unfiltered 8-bit palette PNG, shape (height, width); None: leave it to Pillow."""
    chunks = _split_png(data)
    kinds = [kind for kind, _ in chunks]
    if kinds[:2] != [b"IHDR", b"PLTE"] or set(kinds[2:-1]) != {b"IDAT"} or kinds[-1] != b"IEND":
        return None
    if len(header := chunks[0][1]) != 13 or not (palette := chunks[1][1]) or len(palette) % 3 or len(palette) > 768:
        return None
    width, height, *form = struct.unpack(">II5B", header)
    size = height * (width + 1)  # every row begins with the number of its filter
    if tuple(form) != _PLAIN_PALETTE or not 0 < width * height <= MAX_PIXELS:
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
    """Return kinds and bodies of a PNG's chunks; none where a single one is not as its length and CRC say."""
    chunks: list[tuple[bytes, bytes]] = []
    start = len(_PNG_SIGNATURE)
    if not data.startswith(_PNG_SIGNATURE):
        return []
    while start < len(data):
        if len(data) < start + 12:
            return []
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        if len(data) < end + 4 or zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return []
        chunks.append((data[start + 4 : start + 8], data[start + 8 : end]))
        start = end + 4
    return chunks
