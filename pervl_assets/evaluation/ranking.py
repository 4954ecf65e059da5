"""Places of right images in the ranking of a whole gallery by cosine similarity, exact and in flat memory.

A matrix product in float32 finds, for each right image, the images that are surely more similar. Its last bits differ
with the size of the matrices, even for equal vectors. So every image within its error is compared again in float64, in
one order of summation, to 12 digits: equal vectors are equally similar, wherever they are in the gallery.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from pervl_assets.core.errors import PervlError, name_some
from pervl_assets.core.text import count_of

_QUERIES: Final = 1024
_IMAGES: Final = 4096
_ROWS: Final = 64
_PAIRS: Final = 512
"""Queries and gallery images that are multiplied, rows of the product and pairs that are compared at a time."""

_STEPS: Final = 1 << 40
"""Similarities are compared as whole numbers of steps of this fraction, 9e-13."""

_EXPONENTS: Final = (1e-30, 1e30)
"""Squared lengths that float32 holds without loss."""

_LENGTH_ERROR: Final = 1e-6
"""Vectors whose length differs from 1 by less are not divided again."""

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Where the right images of Q queries are in the ranking of a gallery.

    Attributes:
        places: Int64 (Q,). Place of the best-placed right image, from 1. Wrong images that are exactly as similar are
            placed before it.
        ties: Int64 (Q,). Number of these.
        average_precision: Float64 (Q,). Mean over the right images of i / place of the i-th (as ConCon-Chi).
        target: Int64 (Q,). Row of the best-placed right image.
        first: Int64 (Q,). Row of the image at place 1; of wrong images that are exactly as similar, the first row.
    """

    places: _Ints
    ties: _Ints
    average_precision: npt.NDArray[np.float64]
    target: _Ints
    first: _Ints


def rank_targets(queries: _Floats, gallery: _Floats, targets: Sequence[Sequence[int]]) -> Ranking:
    """Rank a gallery for each query by cosine similarity, and find the right images.

    Memory beside the arguments is flat: 0.1 GB for vectors of 512 numbers.

    Args:
        queries: Float32 (Q, D), of any length but 0.
        gallery: Float32 (N, D), of any length but 0.
        targets: Different rows of the right images in the gallery, of each query; at least one.

    Raises:
        PervlError: A query has no right image, or a vector is zero or not finite.
    """
    if without := [row for row, right in enumerate(targets) if not len(right)]:
        raise PervlError(
            f"{len(without):,} of {len(targets):,} queries without a right image: rows {name_some(without)}.",
            advice="Name at least one right image for each query.",
        )
    starts = range(0, max(1, len(queries)), _QUERIES)
    parts = [_rank_part(queries[at : at + _QUERIES], gallery, targets[at : at + _QUERIES]) for at in starts]
    return Ranking(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Ranking)))


def _rank_part(queries: _Floats, gallery: _Floats, targets: Sequence[Sequence[int]]) -> Ranking:
    """Rank the gallery for a few queries; a pair is a query (`owners`) and one of its right images (`rows`)."""
    owners = np.repeat(np.arange(len(queries)), [len(right) for right in targets])
    rows = np.fromiter(chain.from_iterable(targets), np.int64)
    units = _normalise(queries, "queries")
    steps = _measure(queries, gallery, owners, rows)
    order = np.lexsort((-steps, owners))
    owners, rows, steps = owners[order], rows[order], steps[order]
    best = np.searchsorted(owners, np.arange(len(queries)))
    # of the product, of both lengths, and of rounding the limits
    error = (2 * queries.shape[1] + 16) * 2.0**-24 + 2 * _LENGTH_ERROR
    levels, above, ties = (steps / _STEPS).astype(np.float32), np.zeros_like(steps), np.zeros_like(steps)
    top, first = steps[best], np.full(len(queries), -1)
    products = np.empty((len(queries), _IMAGES), np.float32)
    for at in range(0, len(gallery), _IMAGES):
        block = gallery[at : at + _IMAGES]
        similar = np.matmul(units, _normalise(block, "gallery", at).T, out=products[:, : len(block)])
        here = (rows >= at) & (rows < at + len(block))
        similar[owners[here], rows[here] - at] = -2.0  # only wrong images are counted
        highest = similar.max(axis=1)
        reached = np.flatnonzero(highest[owners] >= levels - error)  # other pairs have nothing above in this block
        for start in range(0, len(reached), _ROWS):
            pairs = reached[start : start + _ROWS]
            level, compared = levels[pairs][:, None], similar[owners[pairs]]
            surely, perhaps = compared > level + error, compared >= level - error
            sure = _count(surely)
            above[pairs] += sure
            unsure = np.flatnonzero(_count(perhaps) != sure)
            near, columns = np.divmod(np.flatnonzero(perhaps[unsure] ^ surely[unsure]), len(block))
            near = pairs[unsure[near]]
            found = _measure(queries, block, owners[near], columns) - steps[near]
            np.add.at(above, near[found > 0], 1)
            np.add.at(ties, near[found == 0], 1)
        _raise_top(queries, block, similar, highest, error, top, first, at)
    position = np.arange(len(steps)) - best[owners] + 1
    precision = np.bincount(owners, position / (position + above + ties), len(queries))
    places = 1 + above[best] + ties[best]
    return Ranking(
        places,
        ties[best],
        precision / np.bincount(owners, minlength=len(queries)),
        rows[best],
        np.where(places == 1, rows[best], first),
    )


def _count(found: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Return how many columns of each row are true; several times as fast as `count_nonzero`."""
    counts: npt.NDArray[np.uint16] = found.view(np.uint8).sum(axis=1, dtype=np.uint16)
    return counts


def _raise_top(
    queries: _Floats,
    block: _Floats,
    similar: _Floats,
    highest: _Floats,
    error: float,
    top: _Ints,
    first: _Ints,
    at: int,
) -> None:
    """Update the most similar wrong image of each query (row `first`, similarity `top` in steps) by those of a block.

    `top` begins with the best right image, and `first` with -1, so that less similar ones are never compared.
    """
    rising = np.flatnonzero(highest >= top / _STEPS - error)
    floor = np.maximum(highest[rising] - 2 * error, top[rising] / _STEPS - error).astype(np.float32)
    owners, columns = np.nonzero(similar[rising] >= floor[:, None])
    owners = rising[owners]
    steps = _measure(queries, block, owners, columns)
    order = np.lexsort((columns, -steps, owners))
    order = order[np.flatnonzero(np.diff(owners[order], prepend=-1))]
    owners, columns, steps = owners[order], columns[order], steps[order]
    better = (steps > top[owners]) | ((steps == top[owners]) & (first[owners] < 0))
    top[owners[better]], first[owners[better]] = steps[better], columns[better] + at


def _measure(queries: _Floats, gallery: _Floats, owners: _Ints, rows: _Ints) -> _Ints:
    """Return the cosine similarity of pairs in steps; equal for equal vectors, in whatever company."""
    steps = np.empty(len(owners), np.int64)
    for at in range(0, len(owners), _PAIRS):
        a = queries[owners[at : at + _PAIRS]].astype(np.float64)
        b = gallery[rows[at : at + _PAIRS]].astype(np.float64)
        product, *squares = (np.einsum("ij,ij->i", one, other) for one, other in ((a, b), (a, a), (b, b)))
        steps[at : at + _PAIRS] = np.rint(product / np.sqrt(squares[0] * squares[1]) * _STEPS)
    return steps


def _normalise(vectors: _Floats, name: str, at: int = 0) -> _Floats:
    """Return vectors of length 1, the same array where they are. Very long or short ones are divided in float64.

    Raises:
        PervlError: Vectors are zero or not finite; names their rows, the first of which is `at`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vecdot(vectors, vectors)
        if np.all(np.abs(squares - 1) < _LENGTH_ERROR):
            return vectors
        odd = np.flatnonzero(~((squares > _EXPONENTS[0]) & (squares < _EXPONENTS[1])))
        wide = vectors[odd].astype(np.float64)
        lengths = np.linalg.norm(wide, axis=1)
        units = np.divide(vectors, np.sqrt(np.where(squares > 0, squares, 1))[:, None], dtype=np.float32)
        if len(bad := odd[~((lengths > 0) & np.isfinite(lengths))]):
            raise PervlError(
                f"{count_of(len(bad), 'vector')} of the {name} zero or not finite: rows "
                f"{name_some((bad + at).tolist())}.",
                advice="Encode these again, or leave them out.",
            )
        units[odd] = wide / lengths[:, None]
    return units
