"""OpenImages class names, and the COCO object class nearest to each (upstream rules F1 to F4)."""

import csv
import re
from pathlib import Path
from typing import Final, Literal

import polars as pl

from pervl_assets.core.errors import AnnotationError
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.inversion.text_lines import list_malformed, read_lines, refuse_too_many

NamesMode = Literal["csv", "upstream"]

OPENIMAGES_CLASSES: Final = TableSchema(
    (
        Column("row", pl.UInt32, "Row number from 0, also the row in both files for PALAVRA"),
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
        Column("class_row", pl.UInt32, "Row of the nearest COCO object class. On a tie the first", _VECTORS),
        Column("class_name", pl.String, "Its name", _CLASSES),
        Column(
            "distance", pl.Float32, "Squared L2 distance between the text features, which are not normalised", _VECTORS
        ),
        Column(
            "runner_up_row", pl.UInt32, "Row of the second nearest class, null if there is one class only", _VECTORS
        ),
        Column("runner_up_name", pl.String, "Its name", _CLASSES),
        Column(
            "margin", pl.Float32, "Squared distance to the runner-up minus that to the nearest; 0 on a tie", _VECTORS
        ),
    )
)

_LABEL: Final = re.compile(r"/[a-z]/\S+")
_NO_LABEL: Final = "no label such as /m/0100nhbf at its beginning"
_ADVICE: Final = "Compare the file with https://storage.googleapis.com/openimages/v6/oidv6-class-descriptions.csv."


def read_class_names(path: Path, mode: NamesMode) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the OpenImages class names.

    Args:
        path: CSV with lines `<label>,<display name>`, with or without a header: a first line whose label has no `/`.
        mode: `csv`: each line is parsed as CSV, without the header. `upstream`: the name is the text after the first
            comma, with further commas replaced by spaces. Quotes are kept and the header is taken as a class (rules
            F1, F2). Example: `/m/0f,"Apple, red"` is `Apple, red` or `"Apple  red"`.

    Returns:
        Frame of `OPENIMAGES_CLASSES` in file order, and the rejected lines as `MALFORMED_LINES`.

    Raises:
        AnnotationError: Too many lines are malformed or do not begin with a label, or the file contains no class.
    """
    parts = list(read_lines(path))
    reasons: dict[int, str] = {}
    texts = {number: text for lines, _ in parts for number, text in lines.iter_rows()}
    first = next((number for number, text in texts.items() if text.strip()), 0)
    classes: list[tuple[str, str]] = []
    for number, text in texts.items():
        fields, reason = _parse_line(text) if mode == "csv" else _split_line(text)
        is_class = text.strip() and not (number == first and fields and "/" not in fields[0])
        if is_class and reason:
            reasons[number] = reason
        if mode == "upstream" or (is_class and not reason):
            classes.append((fields[0], fields[1]))
    unreadable = [part for _, part in parts]
    rejected = pl.concat([*unreadable, list_malformed(texts, reasons)]).sort("line")
    refuse_too_many(rejected, len(texts) + sum(map(len, unreadable)), path, _ADVICE)
    if mode == "upstream":  # which takes them as they are
        rejected = rejected.filter(~pl.col("line").is_in([*reasons]))
    if not classes:
        raise AnnotationError(f"{path} contains no class name.", advice=_ADVICE)
    frame = pl.DataFrame(classes, schema={"label": pl.String, "name": pl.String}, orient="row")
    frame = frame.with_row_index("row").cast(OPENIMAGES_CLASSES.to_polars())
    return OPENIMAGES_CLASSES.validate(frame, "OpenImages classes"), rejected


def _split_line(text: str) -> tuple[list[str], str | None]:
    """Split one line as upstream does."""
    label, *rest = text.split(",")
    return [label, " ".join(rest)], None if _LABEL.fullmatch(label) else _NO_LABEL


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
    return fields, None if _LABEL.fullmatch(fields[0]) else _NO_LABEL
