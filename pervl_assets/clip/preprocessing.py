"""How an image is prepared for CLIP, as a value: chosen once, sent to decode workers, written into passports.

Imports no torch: decode workers import this module.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from pervl_assets.core.errors import CheckpointError

PreprocessingMode = Literal["upstream", "model"]
Filter = Literal["bicubic", "bilinear"]
_Triple = tuple[float, float, float]

CLIP_MEAN: Final[_Triple] = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final[_Triple] = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of the RGB channels in [0, 1] that OpenAI's CLIP was trained with."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps of preparing an image: resize in its own mode, crop the centre, convert to RGB, scale, normalise.

    Attributes:
        mode: `upstream` or `model`.
        resize: Length in pixels of the shorter side after resizing; of a squashed image, of both.
        crop: Side in pixels of the square cropped from the centre, the model's input.
        filter: Pillow's filter for resizing.
        squash: Whether both sides are resized to `resize`, without keeping their ratio.
        mean: Subtracted from the RGB channels in [0, 1].
        std: Divisor of the channels after that.
    """

    mode: PreprocessingMode
    resize: int
    crop: int
    filter: Filter = "bicubic"
    squash: bool = False
    mean: _Triple = CLIP_MEAN
    std: _Triple = CLIP_STD

    def describe(self) -> str:
        """Return it in words for the passport, e.g. `resize 300 bicubic (PIL, own mode) > centre crop 224 > RGB`."""
        size = f"{self.resize} x {self.resize}" if self.squash else str(self.resize)
        plain = (self.mean, self.std) == (CLIP_MEAN, CLIP_STD)
        steps = [
            f"resize {size} {self.filter} (PIL, own mode)",
            *([] if self.squash else [f"centre crop {self.crop}"]),
            "RGB",
            "/255",
            "CLIP mean, std" if plain else f"mean {list(self.mean)}, std {list(self.std)}",
        ]
        return " > ".join(steps)


UPSTREAM: Final = Preprocessing("upstream", resize=300, crop=224)
"""For models that take 224 x 224 pixels: they see the centre of an image resized to 300."""


def choose_preprocessing(
    mode: PreprocessingMode, model: str, vision: Mapping[str, Any], published: Mapping[str, Any]
) -> Preprocessing:
    """Return the preprocessing of a mode for a model.

    Args:
        mode: `upstream` is for models that take 224 x 224 pixels with CLIP's mean and deviation. `model` is what the
            model was published with, as open_clip's `image_transform` does it for evaluation.
        model: The model's name, for messages.
        vision: The image tower's part of the model's architecture, as open_clip describes it.
        published: `mean`, `std`, `interpolation` and `resize_mode` published with the weights; OpenAI's where missing.

    Raises:
        CheckpointError: The model takes other pixels than the mode's, or needs steps this project does not support.
    """
    try:
        size = vision.get("image_size", UPSTREAM.crop)
        width, height = map(int, size if isinstance(size, list | tuple) else [size] * 2)
        mean, std = _read_triple(published.get("mean")) or CLIP_MEAN, _read_triple(published.get("std")) or CLIP_STD
        if not all(map(math.isfinite, (*mean, *std))) or 0 in std:
            raise ValueError(f"mean {list(mean)}, std {list(std)}")
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"The configuration of {model} has no usable image size, mean or deviation: {error}.",
            advice="Write image_size as one number or two, mean and std as one number or three.",
        ) from error
    if mode != "model":
        if (width, height, mean, std) == (UPSTREAM.crop, UPSTREAM.crop, UPSTREAM.mean, UPSTREAM.std):
            return UPSTREAM
        raise CheckpointError(
            f"{model} takes images of {width} x {height} pixels with mean {mean} and deviation {std}; upstream's "
            f"preprocessing makes {UPSTREAM.crop} x {UPSTREAM.crop} with CLIP's {UPSTREAM.mean} and {UPSTREAM.std}.",
            advice="Set PERVL_PREPROCESSING=model, or choose a model trained on 224 x 224 pixels as OpenAI's CLIP was, "
            "e.g. ViT-B-32-quickgelu.",
        )
    kernel, resize_mode = published.get("interpolation") or "bicubic", published.get("resize_mode") or "shortest"
    if width != height or kernel not in get_args(Filter) or resize_mode not in ("shortest", "squash"):
        raise CheckpointError(
            f"{model} takes images of {width} x {height} pixels, resized by {resize_mode!r} with {kernel!r}; this "
            "project supports squares, by 'shortest' or 'squash', with 'bicubic' or 'bilinear'.",
            advice="Choose another model, e.g. ViT-B-32-quickgelu.",
        )
    return Preprocessing(mode, width, width, cast("Filter", kernel), resize_mode == "squash", mean, std)


def _read_triple(value: Any) -> _Triple | None:
    """Return a number for each channel: from three, or from one for all; None where there is none."""
    if value is None:
        return None
    first, second, third = value if isinstance(value, list | tuple) else [value] * 3
    return float(first), float(second), float(third)
