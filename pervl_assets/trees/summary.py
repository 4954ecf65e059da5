"""Two small tables about a tree: its classes, and the sizes of its images."""

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
"""Limits of the bins of sizes, in pixels; 224 is the input size of CLIP."""

_HEADER_BYTES: Final = 2048

_BAR: Final = 12
"""Characters of the longest bar. With a wider one the table would not fit the asset page."""


def count_classes(tree: FolderTree, roles: Sequence[str], classes: Mapping[str, str]) -> pl.DataFrame:
    """Count concepts and written files by class, the largest class first.

    Args:
        tree: The tree.
        roles: Roles whose files are counted, one column each.
        classes: Class of every concept. A concept that is not in it is a class of its own.

    Returns:
        Columns `class` (String), `concepts` and one per role (UInt32).
    """
    written = tree.ledger.filter(pl.col("status") == "written", pl.col("rule").is_in(roles))
    return (
        written.with_columns(pl.col("concept").replace(classes).alias("class"))
        .group_by("class")
        .agg(
            pl.col("concept").n_unique().alias("concepts"),
            *((pl.col("rule") == role).sum().alias(role) for role in roles),
        )
        .sort("concepts", *roles, "class", descending=[True] * (1 + len(roles)) + [False])
    )


def tabulate_sizes(tree: FolderTree, roles: Sequence[str]) -> pl.DataFrame:
    """Count the images of a tree by the length of their shorter side. Only the headers of the files are read.

    Args:
        tree: A tree whose files exist at its root.
        roles: Roles whose images are measured, one column each.

    Returns:
        One row per bin, from the smallest image to the largest: `shorter side, px` (String), one column per role
        (Int64), and the number of images in the bin as a bar (String).
    """
    written = tree.ledger.filter(pl.col("status") == "written", pl.col("rule").is_in(roles)).select("path", "rule")
    sides = map_in_threads(lambda path: _measure_shorter_side(tree.root / path), written["path"].to_list())
    counts = Counter(zip((bisect(_EDGES, side) for side in sides), written["rule"], strict=True))
    found = [number for number, _ in counts]
    bins = range(min(found, default=0), max(found, default=-1) + 1)
    rows = {number: [counts[number, role] for role in roles] for number in bins}
    largest = max(map(sum, rows.values()), default=1)
    return pl.DataFrame(
        [(_name_bin(number), *row, "█" * -(-_BAR * sum(row) // largest)) for number, row in rows.items()],
        schema={"shorter side, px": pl.String, **dict.fromkeys(roles, pl.Int64), "images": pl.String},
        orient="row",
    )


def _measure_shorter_side(file: Path) -> int:
    try:  # nearly all files are JPEGs with a short header; Pillow takes ten times as long
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
    return f"{_EDGES[number - 1]}\u00a0to\u00a0{_EDGES[number] - 1}"  # the asset page would break the line at a space
