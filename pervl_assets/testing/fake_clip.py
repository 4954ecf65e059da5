"""A CLIP without a model or torch, whose vectors can be computed by hand."""

import string
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pervl_assets.clip.encoder import PROMPT
from pervl_assets.clip.passport import EmbeddingPassport
from pervl_assets.clip.preprocessing import UPSTREAM, Preprocessing

COLOURS: Final = 3
"""Index of the first letter in a vector."""

FAKE_PASSPORT: Final = EmbeddingPassport(
    model="fake",
    architecture_sha256="fake",
    weights_sha256="fake",
    preprocessing=UPSTREAM.describe(),
    precision="fp32",
    device="cpu",
    dimension=COLOURS + len(string.ascii_lowercase),
    torch="none",
    open_clip="none",
    pillow="none",
)
"""The passport of vectors that no model computed."""


def issue_fake_passport(**changes: Any) -> EmbeddingPassport:
    """Return the fake passport with changes, e.g. `weights_sha256="other"`: features of the two do not mix."""
    return replace(FAKE_PASSPORT, **changes)


def count_letters(name: str) -> npt.NDArray[np.float32]:
    """Count the letters `a` to `z` of a name, capitals as small letters: float32 (26,)."""
    return np.array([name.lower().count(letter) for letter in string.ascii_lowercase], np.float32)


class FakeEncoder:
    """Encodes like a `ClipEncoder`, without a model.

    A vector has 29 numbers: the mean red, green and blue of an image, in [0, 1], and the counts of the letters `a` to
    `z` of a name. An image has no letters and a name no colours. Names that differ in case alone have the same vector,
    as with CLIP, and the nearest of two names is the one with fewer different letters. The prompt before a name is
    ignored. If the passport has another dimension, the last numbers are missing, or zeros follow.

    Attributes:
        batches: Number of images in each forward pass.
        texts: Every text that was encoded, with its prompt.
    """

    def __init__(self, passport: EmbeddingPassport = FAKE_PASSPORT, preprocessing: Preprocessing = UPSTREAM) -> None:
        self.passport, self.preprocessing = passport, preprocessing
        self.batches: list[int] = []
        self.texts: list[str] = []

    @property
    def images(self) -> int:
        """Number of encoded images."""
        return sum(self.batches)

    def encode_images(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the vectors of prepared images: float32 (B, D), of uint8 (B, S, S, 3)."""
        self.batches.append(len(images))
        return self._fit(0, images.mean(axis=(1, 2), dtype=np.float64) / 255)

    def encode_texts(
        self,
        texts: list[str],
        batch_size: int = 256,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> npt.NDArray[np.float32]:
        """Return the vectors of texts: float32 (M, D). Arguments as of `ClipEncoder.encode_texts`."""
        self.texts += texts
        on_progress(len(texts), len(texts))
        letters = [count_letters(text.removeprefix(PROMPT)) for text in texts]
        return self._fit(COLOURS, np.reshape(letters, (len(texts), len(string.ascii_lowercase))))

    def _fit(self, start: int, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        vectors = np.zeros((len(numbers), self.passport.dimension), np.float32)
        end = min(start + numbers.shape[1], self.passport.dimension)
        vectors[:, start:end] = numbers[:, : max(end - start, 0)]
        return vectors


class FakeClip:
    """Replaces the resource `clip`: `materialize(…, resources={"clip": FakeClip()})`.

    Attributes:
        encoders: The encoders that were loaded, one per passport. Like `Clip.load`, the last one is kept.
    """

    def __init__(self, passport: EmbeddingPassport = FAKE_PASSPORT, batch_size: int = 64) -> None:
        self.passport, self.batch_size = passport, batch_size
        self.encoders: list[FakeEncoder] = []

    def describe(self, encoder: str | None = None) -> EmbeddingPassport:
        """Return the passport, as `Clip.describe` does. Further encoders are the same one."""
        return self.passport

    def as_published(self) -> "FakeClip":
        """Return itself: its preprocessing is that of its passport."""
        return self

    def load(self, encoder: str | None = None) -> FakeEncoder:
        """Return the encoder of the current passport, as `Clip.load` does."""
        if not self.encoders or self.encoders[-1].passport != self.passport:
            self.encoders.append(FakeEncoder(self.passport))
        return self.encoders[-1]
