"""The nearest class of each feature vector, and the second nearest."""

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.core.errors import PervlError

_PAIRS: Final = 1 << 14


def find_nearest_classes(queries: Features, classes: Features, chunk: int = 1024) -> pl.DataFrame:
    """Find the class with the smallest squared L2 distance to each query.

    Distances are computed in float64 and compared as float32, so that classes with equal vectors are equally near
    in any order of summation. Of equally near classes the first is the match and the second the runner-up.

    Args:
        queries: Features of M names.
        classes: Features of N class names, in class order.
        chunk: Queries compared at a time; memory is `chunk` x N x 8 bytes.

    Returns:
        One row per query, in order: `row`, `name`, `class_row`, `class_name`, `distance` (squared L2), `runner_up_row`,
        `runner_up_name`, `margin` (the runner-up's distance minus the match's). Null where there is no second class.

    Raises:
        PervlError: The two were encoded differently, or there is no class.
    """
    if differences := queries.passport.list_differences(classes.passport):
        raise PervlError(
            f"The names and the classes were encoded differently: {'; '.join(differences)}.",
            advice="Materialize both text features again with the same model, precision and device.",
        )
    if not classes.ids:
        raise PervlError("There is no class to compare with.", advice="Materialize the classes.")
    vectors = classes.vectors.astype(np.float64)
    squares = (vectors * vectors).sum(axis=1)
    starts = range(0, len(queries.ids), chunk)
    found = [_find_two_nearest(queries.vectors[start : start + chunk], vectors, squares) for start in starts]
    rows = np.concatenate([np.empty((0, 2), np.int64), *(rows for rows, _ in found)])
    distances = np.concatenate([np.empty((0, 2), np.float32), *(distances for _, distances in found)])
    names, second = pl.Series(classes.ids, dtype=pl.String), pl.Series(rows[:, 1]).replace(-1, None)
    return pl.DataFrame(
        {
            "row": np.arange(len(rows)),
            "name": pl.Series(queries.ids, dtype=pl.String),
            "class_row": rows[:, 0],
            "class_name": names.gather(rows[:, 0]),
            "distance": distances[:, 0],
            "runner_up_row": second,
            "runner_up_name": names.gather(second),
            "margin": pl.Series(distances[:, 1] - distances[:, 0]).fill_nan(None),
        }
    ).cast({"row": pl.UInt32, "class_row": pl.UInt32, "runner_up_row": pl.UInt32})


def _find_two_nearest(
    queries: npt.NDArray[np.float32], classes: npt.NDArray[np.float64], squares: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return rows (M, 2) and distances (M, 2) of the two nearest classes; -1 and NaN where there is no second.

    |a|^2 - 2ab + |b|^2 finds candidates quickly; it cancels, and sums in an order that varies from column to column.
    So every class within its error of the second nearest is compared again by the sum of (a - b)^2.

    `squares` are the squared lengths of `classes`.
    """
    a, b = queries.astype(np.float64), classes
    a_squares = (a * a).sum(axis=1)
    rough = a @ b.T
    rough *= -2
    rough += a_squares[:, None]
    rough += squares
    second = _find_second(rough)
    slack = 1e-12 * (a_squares + squares.max()) + 1e-6 * np.abs(second)
    query, candidate = np.nonzero(rough <= (second + slack)[:, None])
    exact = np.concatenate(
        [
            ((a[query[start : start + _PAIRS]] - b[candidate[start : start + _PAIRS]]) ** 2).sum(axis=1)
            for start in range(0, len(query), _PAIRS)
        ]
    ).astype(np.float32)
    order = np.lexsort((candidate, exact, query))
    query, candidate, exact = query[order], candidate[order], exact[order]
    first = np.flatnonzero(np.diff(query, prepend=-1))
    rows, distances = np.full((len(a), 2), -1, np.int64), np.full((len(a), 2), np.nan, np.float32)
    for column in range(min(2, len(b))):
        rows[:, column], distances[:, column] = candidate[first + column], exact[first + column]
    return rows, distances


def _find_second(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the second smallest value of each row, or its only one; five times as fast as sorting.

    `values` is changed in between, and restored.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    every, first = np.arange(len(values)), values.argmin(axis=1)
    smallest = values[every, first]
    values[every, first] = np.inf
    second = values.min(axis=1)
    values[every, first] = smallest
    return np.asarray(second)
