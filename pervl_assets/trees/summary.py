"""A tree in two small tables: its classes, and the sizes of its images.

Belongs here: counting and measuring for a person's eye. Does not belong here: judging the counts (`core.checks`).
"""

from bisect import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

from pervl_assets.core.workers import map_in_threads
from pervl_assets.trees.ledger import FolderTree

_EDGES: Final = (16, 32, 64, 128, 224, 448, 896)
"""Where one bin of sizes ends and the next begins, in pixels; 224 is what CLIP looks at."""

_HEADER_BYTES: Final = 2048

_BAR: Final = 12
"""Characters of the longest bar: wider, and the table would not fit into the asset page."""


def count_classes(tree: FolderTree, rules: Sequence[str], classes: Mapping[str, str]) -> pl.DataFrame:
    """Count concepts and written files by class, the largest class first.

    Args:
        tree: The tree.
        rules: The rules whose files are counted, a column each.
        classes: Class of every concept; a concept that is not named is a class of its own.

    Returns:
        Columns `class` (String), `concepts` and one for every rule (UInt32).
    """
    written = tree.ledger.filter(pl.col("status") == "written", pl.col("rule").is_in(rules))
    return (
        written.with_columns(pl.col("concept").replace(classes).alias("class"))
        .group_by("class")
        .agg(
            pl.col("concept").n_unique().alias("concepts"),
            *((pl.col("rule") == rule).sum().alias(rule) for rule in rules),
        )
        .sort("concepts", *rules, "class", descending=[True] * (1 + len(rules)) + [False])
    )


def tabulate_sizes(tree: FolderTree, rules: Sequence[str]) -> pl.DataFrame:
    """Count the images of a tree by the length of their shorter side; only the files' headers are read.

    Args:
        tree: A tree that stands at its root.
        rules: The rules whose images are measured, a column each.

    Returns:
        A row for every bin from the smallest image's to the largest's: `shorter side, px` (String), one column
        for every rule (Int64), and how many images are in the bin as a bar (String).
    """
    written = tree.ledger.filter(pl.col("status") == "written", pl.col("rule").is_in(rules)).select("path", "rule")
    sides = map_in_threads(lambda path: _measure_shorter_side(tree.root / path), written["path"].to_list())
    counts = Counter(zip((bisect(_EDGES, side) for side in sides), written["rule"], strict=True))
    bins = [number for number, _ in counts]
    rows = [
        [counts[number, rule] for rule in rules] for number in range(min(bins, default=0), max(bins, default=-1) + 1)
    ]
    largest = max(map(sum, rows), default=1)
    names = [_name_bin(min(bins) + index) for index in range(len(rows))]
    return pl.DataFrame(
        [(name, *row, "█" * -(-_BAR * sum(row) // largest)) for name, row in zip(names, rows, strict=True)],
        schema={"shorter side, px": pl.String, **dict.fromkeys(rules, pl.Int64), "images": pl.String},
        orient="row",
    )


def _measure_shorter_side(file: Path) -> int:
    try:  # nearly all are JPEGs with a short header; Pillow takes ten times as long for each
        with file.open("rb", buffering=0) as head:
            height, width, *_ = simplejpeg.decode_jpeg_header(head.read(_HEADER_BYTES))
            return int(min(width, height))
    except ValueError:
        pass
    with Image.open(file, formats=("JPEG", "PNG")) as image:
        return min(image.size)


def _name_bin(number: int) -> str:
    if number == 0:
        return f"<{_EDGES[0]}"
    if number == len(_EDGES):
        return f"≥{_EDGES[-1]}"
    return f"{_EDGES[number - 1]}\u00a0to\u00a0{_EDGES[number] - 1}"  # the asset page would break the line at a blank
