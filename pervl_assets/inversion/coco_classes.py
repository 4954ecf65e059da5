"""COCO triplets, their most common objects, and the sentences of each object (upstream rules D1 to D7).

Example of a line: ``img_id=9712 | man, ride, horse | man ride horse | A man riding a horse.``

The joint list of objects is every subject in file order followed by every object in file order. Ranks, ties and rows
follow its order.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.core.errors import AnnotationError
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.inversion.text_lines import MALFORMED_LINES, read_lines, refuse_too_many

TRIPLETS: Final = TableSchema(
    (
        Column("line", pl.UInt32, "Line number in the file, counted from 1"),
        Column("image_id", pl.String, "COCO image id as text, with the space before the |"),
        Column("subject", pl.String, "First part of the triplet, stripped. Can be empty"),
        Column("relation", pl.String, "Second part of the triplet, stripped"),
        Column("object", pl.String, "Third part of the triplet, stripped. Can be empty"),
        Column("sentence", pl.String, "The caption the triplet was parsed from, stripped, up to its first |"),
    )
)

_OBJECTS: Final = ("coco_triplets.subject", "coco_triplets.object")

OBJECT_CLASSES: Final = TableSchema(
    (
        Column("class_row", pl.UInt32, "Rank from 0, i.e. the row number in every file made for PALAVRA", _OBJECTS),
        Column("name", pl.String, "Name of the object, as written in the triplets", _OBJECTS),
        Column(
            "triplets",
            pl.UInt32,
            "Number of triplets in which it is the subject, plus those in which it is the object",
            _OBJECTS,
        ),
        Column(
            "images", pl.UInt32, "Number of different images of these triplets", (*_OBJECTS, "coco_triplets.image_id")
        ),
    )
)

OBJECT_SENTENCES: Final = TableSchema(
    (
        Column("class_row", pl.UInt32, "Row of the object class", ("coco_object_classes.class_row",)),
        Column("name", pl.String, "Name of the object class", ("coco_object_classes.name",)),
        Column("line", pl.UInt32, "Line number of the triplet in the file, counted from 1", ("coco_triplets.line",)),
        Column(
            "image_id",
            pl.String,
            "COCO image id as text, with the space before the |",
            ("coco_triplets.image_id",),
        ),
        Column("sentence", pl.String, "The caption, stripped", ("coco_triplets.sentence",)),
        Column(
            "masked_sentence",
            pl.String,
            "The caption with the first occurrence of the name replaced by *",
            ("coco_triplets.sentence", "coco_object_classes.name"),
        ),
    )
)

PYTHON_WHITESPACE: Final = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""The characters that Python's `str.strip` removes. Polars' default keeps the four separators U+001C to U+001F."""

_FIELDS: Final = ["head", "triplet", "lemma", "sentence"]
"""The parts of a line between `|`. A sentence ends at its own first `|`."""

_PARTS: Final = ["subject", "relation", "object"]
"""The parts of a triplet between commas. Further parts are ignored."""

_IMAGE_ID: Final = r"^[0-9]{1,12}$"
_ADVICE: Final = (
    "Compare the file with https://github.com/yuvalatzmon/compositional-relationships-data; "
    "a line is img_id=<id> | <subject>, <relation>, <object> | <text> | <sentence>."
)


@dataclass(frozen=True)
class _Triplets:
    """The triplets of a file.

    Attributes:
        frame: The well-formed lines in file order, as `TRIPLETS`.
        malformed: The quarantined lines, as `MALFORMED_LINES`.
        blank_lines: Number of lines with nothing but whitespace. They are skipped.
    """

    frame: pl.DataFrame
    malformed: pl.DataFrame
    blank_lines: int


def read_triplets(path: Path) -> _Triplets:
    """Read the triplets of a text file (upstream rules D1, D2 and D10).

    Args:
        path: UTF-8 text, one triplet per line. A BOM, CRLF and a missing final line break are accepted.

    Raises:
        AnnotationError: Too many lines are malformed, or no line is well-formed.
    """
    triplets, rejected, blank_lines = [], [], 0
    for lines, unreadable in read_lines(path):
        parsed = _parse_lines(lines)
        fine = pl.col("reason").is_null()
        triplets.append(parsed.filter(fine).select(TRIPLETS.names))
        rejected += [unreadable, parsed.filter(~fine).select("line", "reason", pl.col("text").str.head(200))]
        blank_lines += lines.height - parsed.height
    frame = pl.concat([pl.DataFrame(schema=TRIPLETS.to_polars()), *triplets])
    malformed = pl.concat([pl.DataFrame(schema=MALFORMED_LINES.to_polars()), *rejected]).sort("line")
    refuse_too_many(malformed, frame.height + malformed.height, path, _ADVICE)
    if frame.is_empty():
        raise AnnotationError(
            f"{path} contains no triplet: {malformed.height:,} malformed and {blank_lines:,} blank lines.",
            advice=_ADVICE,
        )
    return _Triplets(TRIPLETS.validate(frame, "triplets"), MALFORMED_LINES.validate(malformed, "lines"), blank_lines)


def _parse_lines(lines: pl.DataFrame) -> pl.DataFrame:
    """Parse the non-blank lines: columns of `TRIPLETS`, `text`, and `reason`, which is null for well-formed lines."""
    fields = pl.col("text").str.split_exact("|", 3).struct.rename_fields(_FIELDS)
    parts = pl.col("triplet").str.split_exact(",", 2).struct.rename_fields(_PARTS)
    return (
        lines.lazy()
        .filter(_strip(pl.col("text")) != "")
        .with_columns(fields.alias("fields"))
        .unnest("fields")
        .with_columns(parts.alias("parts"), image_id=pl.col("head").str.splitn("=", 2).struct.field("field_1"))
        .unnest("parts")
        .with_columns(_find_fault().alias("reason"), *(_strip(pl.col(name)) for name in (*_PARTS, "sentence")))
        .collect()
    )


def _find_fault() -> pl.Expr:
    """Return the reason why a parsed line is malformed, or null if it is well-formed."""
    fields, parts = (pl.sum_horizontal(pl.col(names).is_not_null()) for names in (_FIELDS, _PARTS))
    return (
        pl.when(fields < len(_FIELDS))
        .then(pl.format("{} of 4 fields between |", fields))
        .when(pl.col("image_id").is_null())
        .then(pl.lit("no = before the first |"))
        .when(~_strip(pl.col("image_id")).str.contains(_IMAGE_ID))
        .then(pl.lit("image id is not a whole number of 1 to 12 digits"))
        .when(parts < len(_PARTS))
        .then(pl.format("{} of 3 parts between commas in the triplet", parts))
    )


def _strip(text: pl.Expr) -> pl.Expr:
    return text.str.strip_chars(PYTHON_WHITESPACE)


def count_object_classes(triplets: pl.DataFrame, top_objects: int) -> pl.DataFrame:
    """Rank the objects of the joint list and keep the most common (upstream rules D3, D4 and D7).

    Args:
        triplets: Frame of `TRIPLETS`.
        top_objects: Number of objects to keep. All are kept if there are fewer.

    Returns:
        Frame of `OBJECT_CLASSES`: by count descending, ties in order of first appearance in the joint list. Names are
        case-sensitive, and an empty name counts like any other.
    """
    ranked = (
        _join_objects(triplets)
        .group_by("name", maintain_order=True)
        .agg(triplets=pl.len(), images=pl.col("image_id").n_unique())
        .sort("triplets", descending=True, maintain_order=True)
        .head(top_objects)
        .with_row_index("class_row")
        .collect()
    )
    return OBJECT_CLASSES.validate(ranked.cast(OBJECT_CLASSES.to_polars()), "object classes")


def collect_object_sentences(triplets: pl.DataFrame, classes: pl.DataFrame) -> pl.DataFrame:
    """Collect the sentences of every class, with the class name masked (upstream rules D5 and D6).

    Args:
        triplets: Frame of `TRIPLETS`.
        classes: Frame of `OBJECT_CLASSES`.

    Returns:
        Frame of `OBJECT_SENTENCES`, sorted by class. The rows of a class follow the joint list.
    """
    first, rest = pl.col("cut").struct.field("field_0"), pl.col("cut").struct.field("field_1")
    masked = (
        pl.when(pl.col("name") == "")
        .then(pl.concat_str(pl.lit("*"), "sentence"))
        .when(rest.is_null())
        .then("sentence")
        .otherwise(pl.concat_str(first, pl.lit("*"), rest))
    )
    rows = (
        _join_objects(triplets)
        .join(classes.lazy().select("class_row", "name"), on="name", how="inner", maintain_order="left")
        .sort("class_row", maintain_order=True)
        .with_columns(cut=pl.col("sentence").str.splitn(pl.col("name"), 2))
        .with_columns(masked_sentence=masked)
        .select(OBJECT_SENTENCES.names)
        .collect(engine="streaming")  # so that the cut sentences are never all in memory
    )
    return OBJECT_SENTENCES.validate(rows, "object sentences")


def _join_objects(triplets: pl.DataFrame) -> pl.LazyFrame:
    """Return the joint list: one row per subject in file order, then one row per object in file order."""
    rest = ("line", "image_id", "sentence")
    return pl.concat([triplets.lazy().select(pl.col(role).alias("name"), *rest) for role in ("subject", "object")])
