"""Pictures that are spoilt: what is quarantined with a reason, in a tree and among features.

Belongs here: functions from the bytes of a good picture to those of a bad one, for `hostile_archives.change_member`.
"""

import io

from PIL import Image


def cut_jpeg(jpeg: bytes, keep: float = 0.5) -> bytes:
    """Return the first part of a JPEG, as a copy that broke off has it: its header is there, its end is not."""
    return jpeg[: int(len(jpeg) * keep)]


def turn_grey(jpeg: bytes) -> bytes:
    """Return a JPEG in shades of grey, one channel in place of three."""
    return _convert(jpeg, "L")


def turn_cmyk(jpeg: bytes) -> bytes:
    """Return a JPEG in the four colours of print, which some readers take for other colours without a word."""
    return _convert(jpeg, "CMYK")


def shrink_image(image: bytes) -> bytes:
    """Return an image without its last row and column: a mask is then of another size than its frame."""
    with Image.open(io.BytesIO(image)) as opened:
        smaller = opened.crop((0, 0, opened.width - 1, opened.height - 1))
        return _save(smaller, opened.format)


def _convert(jpeg: bytes, mode: str) -> bytes:
    with Image.open(io.BytesIO(jpeg)) as opened:
        return _save(opened.convert(mode), "JPEG")


def _save(image: Image.Image, kind: str | None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
