"""Checks that hold for the folder trees of any benchmark."""

from typing import Final

import polars as pl

from pervl_assets.core.checks import Check, CheckResult
from pervl_assets.core.errors import name_some
from pervl_assets.trees.ledger import FolderTree

_ENDS: Final = ("x0", "y0", "x1", "y1")


def check_roles_apart(few_shot: str, evaluation: str) -> Check[FolderTree]:
    """Return the check that no concept is evaluated on an image that a concept is learned from.

    Args:
        few_shot: Role of the few-shot images.
        evaluation: Role of the evaluation images.
    """

    def evaluate(tree: FolderTree) -> CheckResult:
        members = tree.ledger.explode("source_members").rename({"source_members": "member"})
        shots = members.filter(rule=few_shot).select("member", "concept")
        tests = members.filter(rule=evaluation).select("member", "concept", "path")
        shared = tests.join(shots, on="member", suffix="_few_shot").sort("path", "concept_few_shot")
        own = shared.filter(pl.col("concept") == pl.col("concept_few_shot"))["path"].n_unique()
        leaking = shared["path"].n_unique()
        total = tests["path"].n_unique()
        text = f"none of {total:,} evaluation images is made from an image that a concept is learned from"
        if leaking:
            concepts = shared["concept"].unique().sort().to_list()
            text = (
                f"{leaking:,} of {total:,} evaluation images made from images that concepts are learned from, "
                f"{own:,} of them the same concept: {name_some(concepts)}"
            )
        numbers = {"evaluation images": total, "also few-shot images": leaking, "of the same concept": own}
        return CheckResult(not leaking, text, numbers, shared)

    return Check(
        "evaluation_apart",
        "No evaluation image is among the few-shot images, of its own concept or of another: a model would be "
        "evaluated on what it has seen. In the official annotations there is none.",
        "warning",
        evaluate,
    )


def check_boxes(tree: FolderTree) -> CheckResult:
    """Find boxes that leave their image, or that end before they begin."""
    boxes = tree.ledger.filter(pl.col("box").is_not_null()).select(
        "path", "width", "height", *(pl.col("box").list.get(at).alias(end) for at, end in enumerate(_ENDS))
    )
    is_inside = (
        pl.col("x0").is_between(0, pl.col("x1"))
        & pl.col("y0").is_between(0, pl.col("y1"))
        & (pl.col("x1") < pl.col("width"))
        & (pl.col("y1") < pl.col("height"))
    )
    outside = boxes.filter(~is_inside.fill_null(value=False))
    text = (
        f"{outside.height:,} of {boxes.height:,} boxes not inside their image: {name_some(outside['path'].to_list())}"
        if outside.height
        else f"each of {boxes.height:,} boxes is inside its image"
    )
    return CheckResult(outside.is_empty(), text, {"boxes": boxes.height, "outside": outside.height}, outside)


BOXES_INSIDE: Final = Check(
    "boxes_inside",
    "Every box is inside the image it belongs to: 0 <= x0 <= x1 < width and 0 <= y0 <= y1 < height, in pixels.",
    "error",
    check_boxes,
)
"""For trees whose ledger holds boxes."""
