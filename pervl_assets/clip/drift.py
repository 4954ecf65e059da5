"""Drift: how far stored vectors are from those that the encoder returns today, measured on a fixed sample of 64.

The same image has slightly different vectors in a different batch, on a different device or with other
versions of libraries. That is noise, within a stated tolerance. Drift beyond it means a different checkpoint,
preprocessing or driver, or a damaged file.
"""

import hashlib
import heapq
from collections.abc import Mapping
from itertools import compress, repeat
from typing import Final

import numpy as np
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.clip.passport import Precision
from pervl_assets.core.checks import CheckResult, Severity
from pervl_assets.core.errors import name_some

SAMPLE_SIZE: Final = 64
"""One batch: four seconds on two cores with ViT-B/32, once the model is loaded."""

TOLERANCES: Final[Mapping[Precision, float]] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2}
"""Relative difference of a vector that is noise. Measured with ViT-B/32 and random weights on a CPU: 6e-7 between batch
sizes in fp32; against fp32, 1.4e-3 in fp16 and 1.1e-2 in bf16. Each is stated with a margin for trained weights."""

_COSINE_BOUNDS: Final[Mapping[Precision, float]] = {"fp32": 0.9999, "fp16": 0.9995, "bf16": 0.999}
"""A cosine between stored and new vector that is smaller is never noise."""


def take_sample(features: Features, size: int = SAMPLE_SIZE) -> Features:
    """Return the vectors of at most `size` different ids: those with the smallest sha256.

    It is the same on every machine and in any order, and one id more or less changes at most one of them. The sample of
    several shards together is within the samples of each, so that shards can be read one at a time.
    """
    first = {one: row for row, one in reversed(list(enumerate(features.ids)))}
    chosen = heapq.nsmallest(size, first, key=lambda text: hashlib.sha256(f"pervl\n{text}".encode()).digest())
    return features.take([first[one] for one in chosen])


def compare_vectors(stored: Features, again: Features) -> tuple[CheckResult, Severity]:
    """Compare stored vectors with those of the same ids encoded again; the coarser precision sets the tolerance.

    Ids that `again` has rejected or read from a changed file (by its CRC) are not compared, which is a warning, and so
    are vectors that moved beyond the tolerance. A vector that points elsewhere, is not finite, or has another length
    is an error.
    """
    reasons = dict(again.rejected.select("id", "reason").iter_rows())
    row_of = {one: row for row, one in enumerate(again.ids)}
    now = dict(zip(again.ids, again.crc32s or [], strict=False))
    crc32s = zip(stored.ids, stored.crc32s or repeat(0), strict=False)
    same = [again.crc32s is None or now.get(one) == crc for one, crc in crc32s]
    ids = list(compress(stored.ids, same))
    others = [one for one, is_same in zip(stored.ids, same, strict=True) if not is_same]
    lost = [f"{one}: {reasons.get(one, 'the archive holds a different image now')}" for one in others]
    old, new = stored.vectors[same].astype(np.float64), again.vectors[[row_of[one] for one in ids]].astype(np.float64)
    if new.shape != old.shape:
        new = np.full_like(old, np.nan)
    finite = np.asarray(np.isfinite(old + new).all(axis=1, keepdims=True))
    old, new = np.where(finite, old, 0.0), np.where(finite, new, 0.0)
    length, product = np.linalg.norm(old, axis=1), np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    relative = np.linalg.norm(old - new, axis=1) / np.maximum(length, np.finfo(np.float32).tiny)
    cosines = np.divide((old * new).sum(axis=1), product, out=np.ones(len(old)), where=product > 0).clip(-1.0, 1.0)
    relative[~finite[:, 0]], cosines[~finite[:, 0]] = 1.0, -1.0
    numbers = {
        "sample": len(stored.ids),
        "probed": len(ids),
        "largest_difference": float(np.abs(old - new).max(initial=0.0)),
        "largest_relative_difference": float(relative.max(initial=0.0)),
        "smallest_cosine": float(cosines.min(initial=1.0)),
    }
    precisions = (stored.passport.precision, again.passport.precision)
    tolerance, bound = max(map(TOLERANCES.__getitem__, precisions)), min(map(_COSINE_BOUNDS.__getitem__, precisions))
    text = (
        f"{len(ids):,} of a sample of {len(stored.ids):,} vectors encoded again: largest difference "
        f"{numbers['largest_difference']:.2g}, relative {numbers['largest_relative_difference']:.2g} (tolerance "
        f"{tolerance:g}), smallest cosine {numbers['smallest_cosine']:.7f} (bound {bound})"
    )
    if lost:
        text += f". Not compared: {name_some(lost, 5)}"
    turned = numbers["smallest_cosine"] < bound
    moved = turned or numbers["largest_relative_difference"] > tolerance
    if moved:
        text += f". {_advise('; '.join(stored.passport.list_differences(again.passport)))}"
    worst = pl.DataFrame({"id": ids, "cosine": cosines, "relative_difference": relative}).sort("cosine").head(8)
    return CheckResult(not moved and not lost, text, numbers, worst), "error" if turned else "warning"


def _advise(differences: str) -> str:
    if differences:
        return (
            f"The passport (stored / now) differs in {differences}. Materialize the features again and everything that "
            "is made from them, or go back to the encoder they were made with"
        )
    return (
        "The passport is the same, so something it does not name has changed (driver, GPU, system libraries) or the "
        "file is damaged: run `pervl verify`, or delete the features and materialize them again"
    )
