"""Image files to the squares of 8-bit RGB pixels that CLIP's image tower takes.

Runs in worker processes, so it imports no torch. Scaling to [0, 1] and normalising follow on the device (`encoder`).
"""

import io
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pervl_assets.archives.members import MemberError, Members
from pervl_assets.clip.preprocessing import UPSTREAM, Filter, Preprocessing
from pervl_assets.clip.resize import Cut, measure_plain_jpeg, resize_plain_jpeg
from pervl_assets.core.pixels import MAX_PIXELS, ImageError, ignore_warnings, require_few_scans
from pervl_assets.core.workers import map_in_processes

_FORMATS: Final = ("JPEG", "PNG")
_FILTERS: Final[dict[Filter, Image.Resampling]] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}

Decoded = npt.NDArray[np.uint8] | str
"""Pixels (S, S, 3) as `prepare_image` returns them, or the reason why there are none."""

_GROUP: Final = 16
_MAX_WORKERS: Final = 16


def prepare_image(data: bytes, preprocessing: Preprocessing = UPSTREAM) -> npt.NDArray[np.uint8]:
    """Decode an image, resize it in its own mode, crop the centre, convert to RGB.

    EXIF orientation and ICC profiles are ignored. The pixels are those of Pillow's decoder, `resize`, `crop` and
    `convert`, bit for bit.

    Args:
        data: The file.
        preprocessing: How it is resized and cropped.

    Returns:
        Pixels, uint8 of shape (S, S, 3), S = `preprocessing.crop`.

    Raises:
        ImageError: The bytes are not a whole JPEG or PNG image, or it has more than `MAX_PIXELS`
            pixels, before or after resizing.
    """
    require_few_scans(data)
    resample = _FILTERS[preprocessing.filter]
    if (size := measure_plain_jpeg(data)) is not None:
        cut = plan_cut(size, preprocessing)
        fits = max(size[0] * size[1], cut.width * cut.height) <= MAX_PIXELS
        if fits and (pixels := resize_plain_jpeg(data, size, cut, resample)) is not None:
            return pixels
    try:
        with ignore_warnings(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            cut = plan_cut(image.size, preprocessing)
            _refuse_oversized(image.size, cut, preprocessing)
            resized = image.resize((cut.width, cut.height), resample)
            box = (cut.left, cut.top, cut.left + cut.side, cut.top + cut.side)
            return np.asarray(resized.crop(box).convert("RGB"))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a JPEG or PNG image") from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything; the image is unusable
        raise ImageError(f"cannot be decoded: {error}") from error


def plan_cut(size: tuple[int, int], preprocessing: Preprocessing) -> Cut:
    """Return the size an image is resized to and the square cropped from its centre.

    The longer side is truncated to whole pixels and half a pixel of an edge rounded to even, as torchvision does both.
    """
    (width, height), target, side = size, preprocessing.resize, preprocessing.crop
    if preprocessing.squash:
        width, height = target, target
    elif width <= height:
        width, height = target, int(target * height / width)
    else:
        width, height = int(target * width / height), target
    return Cut(width, height, round((width - side) / 2), round((height - side) / 2), side)


def _refuse_oversized(size: tuple[int, int], cut: Cut, preprocessing: Preprocessing) -> None:
    resized = f"oversized once its shorter side is {preprocessing.resize}"
    for width, height, problem in ((*size, "oversized"), (cut.width, cut.height, resized)):
        if width * height > MAX_PIXELS:
            raise ImageError(f"{problem}: {width} x {height} pixels; at most {MAX_PIXELS:,}")


def decode_images(
    members: Members, names: Sequence[str], workers: int | None = None, preprocessing: Preprocessing = UPSTREAM
) -> Iterator[Decoded]:
    """Read and prepare images, yielding them in order while later ones are being decoded.

    At most three groups of 16 images per worker wait (2.4 MB per group for 224 x 224 pixels).

    Args:
        members: Source of the images; each worker opens it again.
        names: Members to decode.
        workers: Number of processes; None: one per CPU core, at most 16. 0: decode in this process.
        preprocessing: Steps from the file to pixels.

    Raises:
        ArchiveError: The source cannot be read any more (a disk error, a vanished or replaced archive).
        PervlError: A worker process died.
    """
    workers = min(os.cpu_count() or 1, _MAX_WORKERS) if workers is None else workers
    return map_in_processes(partial(_decode, members, preprocessing), names, workers, _GROUP)


def _decode(members: Members, preprocessing: Preprocessing, name: str) -> Decoded:
    try:
        return prepare_image(members.read(name), preprocessing)
    except (MemberError, ImageError) as error:
        return str(error)
