"""Corrupted and unsuitable images, which must be quarantined. For use with `hostile_archives.change_member`."""

import io

from PIL import Image


def cut_jpeg(jpeg: bytes, keep: float = 0.5) -> bytes:
    """Return the first part of a JPEG, like an interrupted copy: with its header and without its end."""
    return jpeg[: int(len(jpeg) * keep)]


def turn_grey(jpeg: bytes) -> bytes:
    """Return a grey JPEG, with one channel instead of three."""
    return _convert(jpeg, "L")


def turn_cmyk(jpeg: bytes) -> bytes:
    """Return a CMYK JPEG, which some readers silently decode to wrong colours."""
    return _convert(jpeg, "CMYK")


def shrink_image(image: bytes) -> bytes:
    """Return an image without its last row and column, e.g. a mask that no longer fits its frame."""
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
