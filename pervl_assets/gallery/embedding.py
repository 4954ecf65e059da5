"""Where images are on a map of their embeddings, and which are nearest to each other."""

from typing import Final

import numpy as np
import numpy.typing as npt

from pervl_assets.clip.features import normalise

_BLOCK: Final = 1024
"""Rows of the matrix of similarities that are in memory at a time."""

_Floats = npt.NDArray[np.float32]


def place_on_map(vectors: _Floats) -> tuple[npt.NDArray[np.float64], float]:
    """Project vectors onto the two directions in which they differ most (principal components).

    Args:
        vectors: Float32 (N, D), of any length; directions are compared.

    Returns:
        Float64 (N, 2), the largest coordinate being 1 or -1, and the share of the variance that the map shows.
    """
    centred = normalise(vectors).astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, -1:-3:-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])  # else a sign is a matter of chance
    points = centred @ axes
    total = max(float(variances.sum()), np.finfo(np.float64).tiny)
    return points / (np.abs(points).max() or 1.0), float(variances[-2:].sum()) / total


def find_neighbours(vectors: _Floats, count: int) -> list[list[tuple[int, float]]]:
    """Return for each vector, float32 (N, D), the rows of the most similar others and their cosine, nearest first."""
    units, found = normalise(vectors), []
    for start in range(0, len(units), _BLOCK):
        block = units[start : start + _BLOCK]
        similar = np.round(block @ units.T, 4)  # equal vectors are in the order of their rows
        similar[range(len(block)), range(start, start + len(block))] = -np.inf
        nearest = np.argsort(-similar, axis=1, kind="stable")[:, : min(count, len(units) - 1)]
        values = np.take_along_axis(similar, nearest, axis=1)
        found += [list(zip(*pair, strict=True)) for pair in zip(nearest.tolist(), values.tolist(), strict=True)]
    return found
