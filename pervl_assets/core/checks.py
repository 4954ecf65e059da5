"""Checks of a value, as data: a name, what it asks, how grave a failure is, and the function that judges.

Belongs here: the vocabulary, and the checks that hold for trees of any benchmark. Does not belong here: checks of one
benchmark (`pervl_assets.benchmarks`), and how a check is shown (`pervl_assets.defs`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar

import polars as pl

from pervl_assets.core.errors import name_some
from pervl_assets.core.ledger import FolderTree

Severity = Literal["warning", "error"]
Value = TypeVar("Value")

_ENDS: Final = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class Judgement:
    """What a check found.

    Attributes:
        passed: Whether the value is as it should be.
        text: The finding in one sentence, with counts and names.
        numbers: Every number behind it, by name.
        rows: The rows concerned, if the check is about rows.
    """

    passed: bool
    text: str
    numbers: Mapping[str, int] = field(default_factory=dict)
    rows: pl.DataFrame | None = None


@dataclass(frozen=True)
class Check(Generic[Value]):
    """A question to a value: a `pl.DataFrame` for tables, a `FolderTree` for trees.

    Attributes:
        name: Name of the asset check.
        description: What it asks, and why the answer matters.
        severity: Of a failure.
        judge: Answers; pure.
    """

    name: str
    description: str
    severity: Severity
    judge: Callable[[Value], Judgement]


def judge_counts(counts: Mapping[str, int], official: Mapping[str, int]) -> Judgement:
    """Hold counts against those of the official annotations; counts of which nothing is known are only told."""
    differing = [
        f"{what}: {counts.get(what, 0):,}, officially {n:,}" for what, n in official.items() if counts.get(what) != n
    ]
    told = "; ".join(differing) or ", ".join(f"{what}: {n:,}" for what, n in counts.items())
    compared = [(what, n, official.get(what)) for what, n in {**dict.fromkeys(official, 0), **counts}.items()]
    schema = {"count": pl.String, "found": pl.Int64, "official": pl.Int64}
    return Judgement(not differing, told, counts, pl.DataFrame(compared, schema=schema, orient="row"))


def check_roles_apart(few_shot: str, evaluation: str) -> Check[FolderTree]:
    """Return the check that no image a concept is evaluated on is one that a concept is learned from.

    Args:
        few_shot: Rule of the few-shot images.
        evaluation: Rule of the evaluation images.
    """

    def judge(tree: FolderTree) -> Judgement:
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
                f"{leaking:,} of {total:,} evaluation images are made from images that concepts are learned from, "
                f"{own:,} of them the same concept: {name_some(concepts)}"
            )
        numbers = {"evaluation images": total, "also few-shot images": leaking, "of the same concept": own}
        return Judgement(not leaking, text, numbers, shared)

    return Check(
        "evaluation_apart",
        "No evaluation image is among the few-shot images, of its own concept or of another: a model would be asked "
        "for what it has seen. In the official annotations none is.",
        "warning",
        judge,
    )


def judge_boxes(tree: FolderTree) -> Judgement:
    """Look for boxes that leave the image that they belong to, or that end before they begin."""
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
        f"{outside.height:,} of {boxes.height:,} boxes leave their image: {name_some(outside['path'].to_list())}"
        if outside.height
        else f"all {boxes.height:,} boxes are inside their images"
    )
    return Judgement(outside.is_empty(), text, {"boxes": boxes.height, "outside": outside.height}, outside)


BOXES_INSIDE: Final = Check(
    "boxes_inside",
    "Every box is inside the image it belongs to: 0 <= x0 <= x1 < width and 0 <= y0 <= y1 < height, in pixels.",
    "error",
    judge_boxes,
)
"""For trees whose ledger holds boxes."""
