"""Drift: how far stored vectors are from those that the encoder returns today, measured on a fixed sample of 64.

The same image has slightly different vectors in another batch, on another device, under another version of a library:
that is noise, within a stated tolerance. Drift beyond it means another checkpoint, preprocessing or driver, or a
damaged file.
"""

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pervl_assets.archives.members import Members
from pervl_assets.clip.encode_images import BATCHES, ImageEncoder
from pervl_assets.clip.features import Features
from pervl_assets.clip.image_decoding import decode_images
from pervl_assets.clip.passport import EmbeddingPassport, Precision
from pervl_assets.core.errors import name_some

SAMPLE_SIZE: Final = 64
"""One batch: four seconds on two cores with ViT-B/32, once the model is loaded."""

TOLERANCES: Final[Mapping[Precision, float]] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2}
"""Relative difference of a vector that is noise. Measured with ViT-B/32 and random weights on a CPU: 6e-7 between batch
sizes in fp32; against fp32, 1.4e-3 in fp16 and 1.1e-2 in bf16. Each is stated with a margin for trained weights."""

COSINE_BOUNDS: Final[Mapping[Precision, float]] = {"fp32": 0.9999, "fp16": 0.9995, "bf16": 0.999}
"""A cosine between stored and new vector that is smaller is never noise."""

_WORST: Final = 8


@dataclass(frozen=True)
class Drift:
    """How far the vectors of a sample moved.

    Attributes:
        sample: Number of vectors in the sample.
        compared: How many of them were encoded again.
        largest_difference: Largest absolute difference between two numbers of a stored and a new vector.
        largest_relative_difference: Largest |stored - new| / |stored| of a vector (L2 norms).
        smallest_cosine: Between a stored and a new vector; -1 where the stored one is not finite.
        tolerance: Relative difference that is noise in the coarser of the two precisions.
        cosine_bound: Smallest cosine that is noise.
        lost: Reasons why the others were not encoded again, e.g. `57870 : not in the archive any more`.
        passport_differences: Entries in which the stored passport and the encoder's differ, e.g. `torch 2.8 / 2.9`.
        worst: The vectors that moved most: `id`, `cosine`, `relative_difference`.
    """

    sample: int
    compared: int
    largest_difference: float
    largest_relative_difference: float
    smallest_cosine: float
    tolerance: float
    cosine_bound: float
    lost: Sequence[str] = ()
    passport_differences: Sequence[str] = ()
    worst: Sequence[Mapping[str, Any]] = ()

    @property
    def is_error(self) -> bool:
        """Whether a vector points elsewhere, which is never noise."""
        return self.smallest_cosine < self.cosine_bound

    def check(self, *, replaced: bool = False) -> tuple[bool, str]:
        """Return whether the drift is noise, and a sentence with numbers and advice.

        Args:
            replaced: Whether the stored vectors were replaced by new ones in the meantime.
        """
        if not self.sample:
            return True, "no vector is stored, so there is nothing to encode again"
        text = (
            f"{self.compared:,} of a sample of {self.sample:,} vectors encoded again: largest difference "
            f"{self.largest_difference:.2g}, relative {self.largest_relative_difference:.2g} (tolerance "
            f"{self.tolerance:g}), smallest cosine {self.smallest_cosine:.7f} (bound {self.cosine_bound})"
        )
        if self.lost:
            text += f". Not compared: {name_some(self.lost, 5)}"
        moved = self.is_error or self.largest_relative_difference > self.tolerance
        if moved:
            text += ". " + _advise("; ".join(self.passport_differences), replaced=replaced)
        return not moved and not self.lost, text


def _advise(differences: str, *, replaced: bool) -> str:
    if differences and replaced:
        return (
            f"The passport (stored / now) differs in {differences}, and the vectors were replaced: compare results of "
            "the former ones with nothing that is made from these"
        )
    if differences:
        return (
            f"The passport (stored / now) differs in {differences}. Materialize the features again and everything that "
            "is made from them, or go back to the encoder they were made with"
        )
    return (
        "The passport is the same, so something it does not name has changed (driver, GPU, system libraries) or the "
        "file is damaged: run `pervl verify`, or delete the features and materialize them again"
    )


def choose_sample(ids: Iterable[str], size: int = SAMPLE_SIZE) -> list[str]:
    """Return at most `size` different ids: those with the smallest sha256.

    It is the same on every machine and in any order of `ids`, and one id more or less changes at most one of them. The
    sample of several shards together is within the samples of each, so that shards can be read one at a time.
    """
    return heapq.nsmallest(size, set(ids), key=lambda text: hashlib.sha256(f"pervl\n{text}".encode()).digest())


def take_sample(features: Features, size: int = SAMPLE_SIZE) -> Features:
    """Return the vectors of the sample, the first of an id that occurs twice."""
    first = {one: row for row, one in reversed(list(enumerate(features.ids)))}
    return _take_rows(features, [first[one] for one in choose_sample(features.ids, size)])


def _take_rows(features: Features, rows: list[int]) -> Features:
    crc32s = features.crc32s and [features.crc32s[row] for row in rows]
    return Features([features.ids[row] for row in rows], features.vectors[rows], features.passport, crc32s)


def encode_again(
    sample: Features, names: Sequence[str], members: Members, encoder: ImageEncoder, batch_size: int | None = None
) -> Drift:
    """Encode a sample of image vectors again from the archive, and measure how far they moved.

    An image that left the archive, or is another one there now (by its CRC), is not compared.

    Args:
        sample: What `take_sample` returned.
        names: Member of each image, in the order of `sample.ids`.
        members: The archive.
        encoder: Today's encoder.
        batch_size: Images in one forward pass; None: as `BATCHES` says.
    """
    lost: dict[int, str] = {}
    for row, (name, crc) in enumerate(zip(names, sample.crc32s or [], strict=True)):
        if name not in members.names:
            lost[row] = "not in the archive any more"
        elif members.crc32(name) != crc:
            lost[row] = "another image in the archive now"
    rows = [row for row in range(len(names)) if row not in lost]
    images = []
    wanted = [names[row] for row in rows]
    decoded = decode_images(members.select(list(dict.fromkeys(wanted))), wanted, 0, encoder.preprocessing)
    for row, image in zip(rows, decoded, strict=True):
        if isinstance(image, str):
            lost[row] = image
        else:
            images.append(image)
    size = batch_size or BATCHES[encoder.passport.device]
    batches = [encoder.encode_images(np.stack(images[start : start + size])) for start in range(0, len(images), size)]
    vectors = np.concatenate([np.empty((0, encoder.passport.dimension), np.float32), *batches])
    stored = _take_rows(sample, [row for row in rows if row not in lost])
    reasons = [f"{sample.ids[row]}: {reason}" for row, reason in sorted(lost.items())]
    return measure_drift(stored, vectors, encoder.passport, reasons)


def measure_drift(
    stored: Features, vectors: npt.NDArray[np.float32], passport: EmbeddingPassport, lost: Sequence[str] = ()
) -> Drift:
    """Measure how far vectors moved.

    Args:
        stored: N stored vectors.
        vectors: New vectors of the same ids in the same order, float32 (N, D). Those of another D are never compared.
        passport: The new vectors' passport.
        lost: Reasons why other vectors of the sample were not encoded again.
    """
    precisions = (stored.passport.precision, passport.precision)
    comparable = stored.passport.dimension == passport.dimension
    finite = np.asarray(np.isfinite(stored.vectors).all(axis=1) & comparable)
    old = np.where(finite[:, None], stored.vectors, 0.0).astype(np.float64)
    new = vectors.astype(np.float64) if comparable else old
    length, moved = np.linalg.norm(old, axis=1), np.where(finite[:, None], old - new, 0.0)
    product = length * np.linalg.norm(new, axis=1)
    relative = np.linalg.norm(moved, axis=1) / np.maximum(length, np.finfo(np.float32).tiny)
    cosines = np.divide((old * new).sum(axis=1), product, out=np.ones(len(old)), where=product > 0)
    relative, cosines = np.where(finite, relative, 1.0), np.where(finite, cosines, -1.0)
    ids = stored.ids
    return Drift(
        sample=len(ids) + len(lost),
        compared=len(ids) if comparable else 0,
        largest_difference=float(np.abs(moved).max(initial=0.0)),
        largest_relative_difference=float(relative.max(initial=0.0)),
        smallest_cosine=float(np.clip(cosines, -1.0, 1.0).min(initial=1.0)),
        tolerance=max(TOLERANCES[precision] for precision in precisions),
        cosine_bound=min(COSINE_BOUNDS[precision] for precision in precisions),
        lost=tuple(lost),
        passport_differences=tuple(stored.passport.list_differences(passport)),
        worst=tuple(
            {"id": ids[row], "cosine": float(cosines[row]), "relative_difference": float(relative[row])}
            for row in np.lexsort((-relative, cosines))[:_WORST]
        ),
    )
