"""OpenImages class names, and the COCO object class nearest to each (upstream rules F1 to F4)."""

import csv
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.core.errors import AnnotationError, PervlError
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.inversion.text_lines import MAX_MALFORMED_SHARE, list_malformed, read_lines, refuse_too_many

NamesRule = Literal["csv", "upstream"]

OPENIMAGES_CLASSES: Final = TableSchema(
    (
        Column("row", pl.UInt32, "Row number from 0; also the row in both files for PALAVRA"),
        Column("label", pl.String, "OpenImages label, e.g. /m/0100nhbf"),
        Column("name", pl.String, "Display name; a few occur twice"),
    )
)

_NAMES: Final = ("openimages_text_features.id",)
_VECTORS: Final = ("openimages_text_features.vector", "coco_class_text_features.vector")
_CLASSES: Final = ("coco_class_text_features.id", *_VECTORS)

OPENIMAGES_MATCHES: Final = TableSchema(
    (
        Column("row", pl.UInt32, "Row number of the OpenImages class, from 0", _NAMES),
        Column("name", pl.String, "Its display name", _NAMES),
        Column("class_row", pl.UInt32, "Row of the nearest COCO object class; on a tie the first", _VECTORS),
        Column("class_name", pl.String, "Its name", _CLASSES),
        Column(
            "distance", pl.Float32, "Squared L2 distance between the text features, which are not normalised", _VECTORS
        ),
        Column(
            "runner_up_row", pl.UInt32, "Row of the second nearest class; null if there is one class only", _VECTORS
        ),
        Column("runner_up_name", pl.String, "Its name", _CLASSES),
        Column(
            "margin", pl.Float32, "Squared distance to the runner-up minus that to the nearest; 0 on a tie", _VECTORS
        ),
    )
)

_HEADER: Final = ["LabelName", "DisplayName"]
_ADVICE: Final = "Compare the file with https://storage.googleapis.com/openimages/v6/oidv6-class-descriptions.csv."
_PAIRS: Final = 1 << 14


def read_class_names(
    path: Path, rule: NamesRule, *, max_malformed_share: float = MAX_MALFORMED_SHARE
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the OpenImages class names.

    Args:
        path: CSV with lines `<label>,<display name>`.
        rule: `csv`: each line is parsed as CSV, without the header. `upstream`: the name is the text after the first
            comma, with further commas replaced by spaces; quotes are kept and the header is taken as a class (rules
            F1, F2). Example: `/m/0f,"Apple, red"` is `Apple, red` or `"Apple  red"`.
        max_malformed_share: Share of malformed lines above which the file is refused. Three are always tolerated.

    Returns:
        Frame of `OPENIMAGES_CLASSES` in file order, and the rejected lines as `MALFORMED_LINES`.

    Raises:
        AnnotationError: Too many lines are malformed, or the file contains no class.
    """
    parts = list(read_lines(path))
    reasons: dict[int, str] = {}
    texts = {number: text for lines, _ in parts for number, text in lines.iter_rows()}
    classes: list[tuple[str, str]] = []
    for number, text in texts.items():
        if rule == "upstream":
            label, *rest = text.split(",")
            classes.append((label, " ".join(rest)))
        elif text.strip():
            fields, reason = _parse_line(text)
            if reason:
                reasons[number] = reason
            elif number > 1 or fields != _HEADER:
                classes.append((fields[0], fields[1]))
    unreadable = [part for _, part in parts]
    rejected = pl.concat([*unreadable, list_malformed(texts, reasons)]).sort("line")
    refuse_too_many(rejected, len(texts) + sum(map(len, unreadable)), path, max_malformed_share, _ADVICE)
    if not classes:
        raise AnnotationError(f"{path} contains no class name.", advice=_ADVICE)
    frame = pl.DataFrame(classes, schema={"label": pl.String, "name": pl.String}, orient="row")
    frame = frame.with_row_index("row").cast(OPENIMAGES_CLASSES.to_polars())
    return OPENIMAGES_CLASSES.validate(frame, "OpenImages classes"), rejected


def _parse_line(text: str) -> tuple[list[str], str | None]:
    """Parse one line of CSV. Names never span lines, so an unclosed quote cannot swallow the following lines."""
    try:
        fields = next(csv.reader([text], strict=True))
    except csv.Error as error:
        return [], f"not CSV: {error}"
    if len(fields) != 2:
        return fields, f"{len(fields)} fields instead of 2"
    if not all(field.strip() for field in fields):
        return fields, "an empty label or name"
    return fields, None


def find_nearest_classes(queries: Features, classes: Features, chunk: int = 1024) -> pl.DataFrame:
    """Find for every query the class with the smallest squared L2 distance (upstream rules F3, F4).

    Distances are computed in float64 and compared as float32, so that classes with equal vectors are equally near
    whatever the order of summation; of equally near ones the first is the match and the second the runner-up.

    Args:
        queries: Text features of M names.
        classes: Text features of N class names, in class order.
        chunk: Queries compared at a time; memory is `chunk` x N x 8 bytes.

    Returns:
        Frame of `OPENIMAGES_MATCHES`, a row for every query in order.

    Raises:
        PervlError: The two were encoded differently, or there is no class.
    """
    if differences := queries.passport.list_differences(classes.passport):
        raise PervlError(
            f"The names and the classes were encoded differently: {'; '.join(differences)}.",
            advice="Materialize both text features again with the same model, precision and device.",
        )
    if not classes.ids:
        raise PervlError("There is no object class to compare with.", advice="Materialize the object classes.")
    vectors = classes.vectors.astype(np.float64)
    squares = (vectors * vectors).sum(axis=1)
    names = pl.Series(classes.ids, dtype=pl.String)
    parts = [pl.DataFrame(schema=OPENIMAGES_MATCHES.to_polars())]
    for start in range(0, len(queries.ids), chunk):
        rows, distances = _find_two_nearest(queries.vectors[start : start + chunk], vectors, squares)
        second = pl.Series(rows[:, 1]).replace(-1, None)
        part = pl.DataFrame(
            {
                "row": np.arange(start, start + len(rows)),
                "name": queries.ids[start : start + chunk],
                "class_row": rows[:, 0],
                "class_name": names.gather(rows[:, 0]),
                "distance": distances[:, 0],
                "runner_up_row": second,
                "runner_up_name": names.gather(second),
                "margin": pl.Series(distances[:, 1] - distances[:, 0]).fill_nan(None),
            }
        )
        parts.append(part.cast(OPENIMAGES_MATCHES.to_polars()))
    return OPENIMAGES_MATCHES.validate(pl.concat(parts), "OpenImages matches")


def _find_two_nearest(
    queries: npt.NDArray[np.float32], classes: npt.NDArray[np.float64], squares: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return rows (M, 2) and distances (M, 2) of the two nearest classes; -1 and NaN where there is no second.

    |a|^2 - 2ab + |b|^2 finds candidates quickly; it cancels, and sums in an order that varies from column to column.
    So everything within its error of the second nearest is compared again by the sum of (a - b)^2.

    Args:
        queries: Vectors of M names.
        classes: Vectors of the classes.
        squares: Their squared lengths.
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
    rows = np.full((len(a), 2), -1, np.int64)
    distances = np.full((len(a), 2), np.nan, np.float32)
    places = [first, first + 1] if len(b) > 1 else [first]
    for column, place in enumerate(places):
        rows[:, column], distances[:, column] = candidate[place], exact[place]
    return rows, distances


def _find_second(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the second smallest value of each row, the smallest if it is the only one; five times as fast as sorting.

    `values` is changed for a moment, and given back as it was.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    every, first = np.arange(len(values)), values.argmin(axis=1)
    smallest = values[every, first]
    values[every, first] = np.inf
    second = values.min(axis=1)
    values[every, first] = smallest
    return np.asarray(second)
