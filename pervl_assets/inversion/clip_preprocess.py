"""One image from compressed bytes to the square of pixels that CLIP's image tower takes.

Belongs here: upstream rule E1 up to 8-bit RGB. Runs in worker processes, so it imports no torch. Scaling to [0, 1] and
normalising follow on the device, in `clip_encoder`.
"""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pervl_assets.core.pixels import MAX_PIXELS, ImageError

RESIZE: Final = 300
"""Length in pixels that the shorter side is brought to."""

CROP: Final = 224
"""Side in pixels of the square cut from the centre."""

PREPROCESSING: Final = f"resize {RESIZE} bicubic (PIL, own mode) > centre crop {CROP} > RGB > /255 > CLIP mean, std"
"""What is done to an image, in words; a part of every embedding passport."""

_FORMATS: Final = ("JPEG", "PNG")


def prepare_image(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode an image, resize its shorter side to 300 in its own mode, crop 224 at the centre, convert to RGB.

    EXIF orientation and ICC profiles are ignored, as upstream ignores them (rules A4, E1).

    Returns:
        Pixels, uint8 of shape (224, 224, 3).

    Raises:
        ImageError: The bytes are not a whole JPEG or PNG image, or it has more than `MAX_PIXELS`
            pixels, before or after resizing.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            goal = measure_resized(*image.size)
            _refuse_oversized(image.size, goal)
            pixels = crop_centre(image.resize(goal, Image.Resampling.BICUBIC)).convert("RGB")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a JPEG or PNG image") from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything; the image is unusable
        raise ImageError(f"cannot be decoded: {error}") from error
    return np.asarray(pixels)


def measure_resized(width: int, height: int) -> tuple[int, int]:
    """Return width and height with the shorter side at 300; the other is truncated, as torchvision truncates it."""
    if width <= height:
        return RESIZE, int(RESIZE * height / width)
    return int(RESIZE * width / height), RESIZE


def crop_centre(image: Image.Image) -> Image.Image:
    """Cut the central 224 x 224 pixels; halves of a pixel are rounded to even, as torchvision rounds them."""
    left, top = (round((side - CROP) / 2) for side in image.size)
    return image.crop((left, top, left + CROP, top + CROP))


def _refuse_oversized(size: tuple[int, int], goal: tuple[int, int]) -> None:
    for width, height, what in ((*size, "oversized"), (*goal, "oversized once its shorter side is 300")):
        if width * height > MAX_PIXELS:
            raise ImageError(f"{what}: {width} x {height} pixels; at most {MAX_PIXELS:,}")
