"""How far vectors moved between two encodings of the same things, and whether that is noise.

Belongs here: measuring, summing up and judging a drift. Does not belong here: which vectors are encoded again
(`drift_probe`), and how a drift is shown (`pervl_assets.defs`).

The same image gives slightly different vectors in another batch, on another device, under another version of a library:
that is noise, and a tolerance is stated for it. What goes beyond is drift: another checkpoint, preprocessing or driver,
or a damaged file.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from pervl_assets.clip.features import Features
from pervl_assets.clip.passport import Precision
from pervl_assets.core.errors import name_some
from pervl_assets.inversion.open_images import find_nearest_classes

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
        sample: Vectors of the sample.
        compared: How many of them were encoded again; fewer where images cannot be had any more.
        largest_difference: Largest absolute difference of a number of a vector.
        largest_relative_difference: Largest |stored - new| / |stored| of a vector (L2 norms); 1 where the stored one is
            not finite.
        smallest_cosine: Between stored and new vector; -1 where the stored one is not finite.
        changed_nearest_classes: How many have another nearest object class now, by squared L2 against the same stored
            class vectors; None where there are no class vectors of that length.
        lost: Id to the reason why it was not encoded again.
        passport_differences: Entries in which the stored passport and the encoder's differ, `torch 2.8 / 2.9`.
        tolerance: Relative difference that is noise in the coarser of the two precisions.
        cosine_bound: Cosine below which it never is.
        worst: The vectors that moved most: `id`, `cosine`, `relative_difference`, `class_before`, `class_now`.
    """

    sample: int
    compared: int
    largest_difference: float
    largest_relative_difference: float
    smallest_cosine: float
    changed_nearest_classes: int | None
    lost: Mapping[str, str]
    passport_differences: tuple[str, ...]
    tolerance: float
    cosine_bound: float
    worst: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Drift":
        """Rebuild what `to_json` returned."""
        lists = {name: tuple(content[name]) for name in ("passport_differences", "worst")}
        return cls(**{**content, **lists})


@dataclass(frozen=True)
class DriftVerdict:
    """What to think of a drift: whether it passes, how grave it is if not, and a sentence with numbers and advice."""

    passed: bool
    is_error: bool
    text: str


def measure_drift(
    stored: Features, again: Features, classes: Features | None = None, lost: Mapping[str, str] | None = None
) -> Drift:
    """Measure how far vectors moved.

    Args:
        stored: The stored vectors.
        again: New vectors of the same ids, in the same order and of the same length.
        classes: Text features of the object classes; nearest classes are counted where they are of the same length.
        lost: Ids of the sample that were not encoded again, with the reason.
    """
    old = stored.vectors.astype(np.float64)
    new = again.vectors.astype(np.float64).reshape(old.shape)  # of no vectors, the lengths may differ
    finite = np.asarray(np.isfinite(old).all(axis=1))
    old = np.where(finite[:, None], old, 0.0)
    moved = np.where(finite[:, None], old - new, 0.0)
    lengths, products = np.linalg.norm(old, axis=1), np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    relative = np.linalg.norm(moved, axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    relative = np.where(finite, relative, 1.0)
    cosines = np.divide((old * new).sum(axis=1), products, out=np.ones(len(old)), where=products > 0)
    cosines = np.where(finite, np.clip(cosines, -1.0, 1.0), -1.0)
    before, now = (_name_nearest(features, classes) for features in (stored, again))
    worst = [
        {
            "id": stored.ids[row],
            "cosine": float(cosines[row]),
            "relative_difference": float(relative[row]),
            "class_before": before[row] if before else None,
            "class_now": now[row] if now else None,
        }
        for row in np.lexsort((-relative, cosines))[:_WORST]
    ]
    precisions = (stored.passport.precision, again.passport.precision)
    return Drift(
        sample=len(stored.ids) + len(lost or {}),
        compared=len(stored.ids),
        largest_difference=float(np.abs(moved).max(initial=0.0)),
        largest_relative_difference=float(relative.max(initial=0.0)),
        smallest_cosine=float(cosines.min(initial=1.0)),
        changed_nearest_classes=sum(map(operator.ne, before, now)) if before is not None and now is not None else None,
        lost=dict(lost or {}),
        passport_differences=tuple(stored.passport.list_differences(again.passport)),
        tolerance=max(TOLERANCES[precision] for precision in precisions),
        cosine_bound=min(COSINE_BOUNDS[precision] for precision in precisions),
        worst=tuple(worst),
    )


def _name_nearest(features: Features, classes: Features | None) -> list[str | None] | None:
    """Return the nearest class of every vector, as the matches find it; of one that is not finite, None.

    None without class vectors of that length.
    """
    if classes is None or not classes.ids or classes.passport.dimension != features.passport.dimension:
        return None
    rows = np.flatnonzero(np.isfinite(features.vectors).all(axis=1))
    # Under the classes' passport: whether vectors of two encoders may be compared is what is being asked here.
    queries = Features([features.ids[row] for row in rows], features.vectors[rows], classes.passport)
    nearest = dict(zip(rows, find_nearest_classes(queries, classes)["class_name"], strict=True))
    return [nearest.get(row) for row in range(len(features.ids))]


def merge_drifts(drifts: Sequence[Drift]) -> Drift:
    """Sum up the drifts of several shards; there is at least one."""
    worst = sorted((row for drift in drifts for row in drift.worst), key=lambda row: row["cosine"])
    changed = [drift.changed_nearest_classes for drift in drifts if drift.changed_nearest_classes is not None]
    return Drift(
        sample=sum(drift.sample for drift in drifts),
        compared=sum(drift.compared for drift in drifts),
        largest_difference=max(drift.largest_difference for drift in drifts),
        largest_relative_difference=max(drift.largest_relative_difference for drift in drifts),
        smallest_cosine=min(drift.smallest_cosine for drift in drifts),
        changed_nearest_classes=sum(changed) if changed else None,
        lost={one: reason for drift in drifts for one, reason in drift.lost.items()},
        passport_differences=tuple(dict.fromkeys(each for drift in drifts for each in drift.passport_differences)),
        tolerance=max(drift.tolerance for drift in drifts),
        cosine_bound=min(drift.cosine_bound for drift in drifts),
        worst=tuple(worst[:_WORST]),
    )


def check_drift(drift: Drift, *, replaced: bool = False) -> DriftVerdict:
    """Tell noise from drift.

    An error: a cosine below the bound, or changed nearest classes beyond the tolerance. A warning: beyond the tolerance
    only, or a nearest class that changed within it (the two classes are as good as equally near), or images of the
    sample that cannot be had any more. Where the vectors were replaced meanwhile, nothing is worse than a warning.

    Args:
        drift: What was measured.
        replaced: Whether new vectors have taken the place of those that were stored.
    """
    cosine, relative, changed = drift.smallest_cosine, drift.largest_relative_difference, drift.changed_nearest_classes
    beyond, below = relative > drift.tolerance, cosine < drift.cosine_bound
    refused = bool(drift.sample) and any(entry.startswith("dimension ") for entry in drift.passport_differences)
    classes = f"changed nearest classes: {'unknown' if changed is None else changed}"
    text = (
        f"{drift.compared:,} of a sample of {drift.sample:,} vectors encoded again: largest difference "
        f"{drift.largest_difference:.2g}, relative {relative:.2g} (tolerance {drift.tolerance:g}), smallest cosine "
        f"{cosine:.7f} (bound {drift.cosine_bound}), {classes}"
        if drift.compared
        else f"none of a sample of {drift.sample:,} vectors could be encoded again"
    )
    if not drift.sample:
        return DriftVerdict(
            passed=True, is_error=False, text="no vector is stored, so there is nothing to encode again"
        )
    advice = []
    if drift.lost:
        reasons = "; ".join(dict.fromkeys(drift.lost.values()))
        advice.append(f"Not comparable: {name_some(list(drift.lost), 5)} ({reasons})")
    if beyond or below or refused:
        advice.append(_advise(drift, replaced=replaced))
    elif changed:
        advice.append("No vector moved beyond the tolerance: those whose class changed lie as near to the other one")
    is_error = refused or below or (beyond and bool(changed))
    return DriftVerdict(not advice, is_error and not replaced, ". ".join([text, *advice]))


def _advise(drift: Drift, *, replaced: bool) -> str:
    """Say what may be behind a drift, and what to do."""
    entries = "; ".join(drift.passport_differences)
    if replaced:
        return (
            f"The passport (stored / now) differs in {entries}, and the vectors were replaced: compare nothing made "
            "from the former ones with what is made from these"
        )
    if entries:
        return (
            f"The passport (stored / now) differs in {entries}. Materialize the features again and all that is made "
            "from them, or go back to the encoder that they are of"
        )
    return (
        "The passport is the same, so something it does not name has changed (driver, GPU, libraries of the system) or "
        "the file is damaged: run `pervl verify`, and delete the features and materialize them again"
    )
