"""What a preprocessing that is not quite upstream's does to the vectors, measured on drawn images.

Belongs here: the images, always the same, and the measure. Does not belong here: recording it, which is the passport's.
"""

import io
import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import UPSTREAM, Preprocessing

_SEED: Final = 300224
_SIZES: Final = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (640, 360), (375, 500), (612, 612))
"""Widths and heights as COCO has them most; in both directions, and some without a common divisor with their target."""

_PER_SIZE: Final = 2
_QUALITY: Final = 90


def draw_images() -> list[bytes]:
    """Draw the images: coarse blotches of colour, finer ones upon them, and grain, as colour JPEGs."""
    random = np.random.default_rng(_SEED)
    return [_draw(random, size) for size in _SIZES * _PER_SIZE]


def _draw(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    pixels = np.zeros((size[1], size[0], 3), np.float32)
    for side, share in ((4, 0.6), (24, 0.25), (max(size), 0.15)):
        patches = Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))
        pixels += share * np.asarray(patches.resize(size, Image.Resampling.BICUBIC), np.float32)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def measure_effect(
    encode: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]], preprocessing: Preprocessing
) -> float:
    """Return the largest 1 - cosine between vectors of images prepared by a rule and by upstream's.

    It is rounded up to one digit, so that it is the same from run to run on a machine, and nearly always on another.

    Args:
        encode: Pixels (B, S, S, 3) to vectors (B, D).
        preprocessing: The rule; it makes images of upstream's size.
    """
    images = draw_images()
    one, other = (
        encode(np.stack([prepare_image(image, rule) for image in images])).astype(np.float64)
        for rule in (UPSTREAM, preprocessing)
    )
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return round_up(max(0.0, float((1 - cosines).max())))


def round_up(value: float) -> float:
    """Round a number of at least 0 up to one digit; what is below the precision of the arithmetic itself is 0."""
    if value < 1e-12:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / unit) * unit:.0e}")
