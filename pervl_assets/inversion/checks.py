"""What is asked of the tables and features of the inversion side: counts, duplicates, ids, ties.

Belongs here: answers as `core.checks.CheckResult`. Does not belong here: lines that cannot be read (`text_lines`), the
drift of vectors (`drift_probe`), and how a check is shown (`pervl_assets.defs`).
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.core.checks import Check, CheckResult
from pervl_assets.core.errors import name_some

COCO_IMAGES: Final = 82_783
"""Images of COCO 2014 train."""

OPENIMAGES_NAMES: Final = 19_994
"""Class names of OpenImages V6, without the header."""

MAX_DUPLICATE_SHARE: Final = 0.25
"""Share of triplets that may be the same as an earlier one. Some always are, for captions are alike; a file that was
pasted together twice has half."""


def check_triplet_counts(triplets: pl.DataFrame) -> CheckResult:
    """Count a frame of `TRIPLETS`; more images than COCO 2014 train has mean that it is about something else."""
    counts = {
        "triplets": triplets.height,
        **{what: triplets[column].n_unique() for what, column in _COUNTED.items()},
    }
    told = ", ".join(f"{n:,} {what}" for what, n in counts.items())
    passed = counts["images"] <= COCO_IMAGES
    return CheckResult(passed, told if passed else f"{told}; COCO 2014 train has {COCO_IMAGES:,} images", counts)


_COUNTED: Final = {"images": "image_id", "sentences": "sentence", "subjects": "subject", "objects": "object"}


def check_duplicates(triplets: pl.DataFrame) -> CheckResult:
    """Count the triplets that say what an earlier line says: same image, subject, relation, object and sentence."""
    content = pl.exclude("line")
    repeated = (
        triplets.group_by(content)
        .agg(times=pl.len(), first_line=pl.col("line").min())
        .filter(pl.col("times") > 1)
        .sort("times", "first_line", descending=[True, False])
    )
    extra = int(repeated["times"].sum()) - repeated.height
    share = extra / triplets.height if triplets.height else 0.0
    text = f"{extra:,} of {triplets.height:,} triplets ({share:.2%}) say what an earlier line says; they stay and count"
    if share > MAX_DUPLICATE_SHARE:
        text += f". More than {MAX_DUPLICATE_SHARE:.0%} is unusual: was the file pasted together twice?"
    numbers = {"triplets": triplets.height, "duplicates": extra, "repeated": repeated.height}
    shown = repeated.select("times", "first_line", "image_id", "subject", "relation", "object")
    return CheckResult(share <= MAX_DUPLICATE_SHARE, text, numbers, shown)


TRIPLET_CHECKS: Final[tuple[Check[pl.DataFrame], ...]] = (
    Check(
        "few_duplicates",
        "At most a quarter of the triplets say what an earlier line says. Such lines are normal, stay and count, as "
        "upstream has it; many of them mean a file that was pasted together.",
        "warning",
        check_duplicates,
    ),
    Check(
        "counts",
        "How many triplets, images, sentences, subjects and objects there are. A warning where there are more images "
        "than in COCO 2014 train.",
        "warning",
        check_triplet_counts,
    ),
)


def check_class_sums(classes: pl.DataFrame, sentences: pl.DataFrame) -> CheckResult:
    """Hold the rows and images of each class in a frame of `OBJECT_SENTENCES` against those of `OBJECT_CLASSES`."""
    found = sentences.group_by("class_row").agg(rows=pl.len(), images_found=pl.col("image_id").n_unique())
    wrong = (
        classes.join(found, on="class_row", how="full", coalesce=True)
        .filter(pl.col("triplets").ne_missing(pl.col("rows")) | pl.col("images").ne_missing(pl.col("images_found")))
        .sort("class_row")
    )
    text = (
        f"{wrong.height:,} of {classes.height:,} classes have not the sentences or images that were counted: "
        f"{name_some(wrong['name'].to_list())}"
        if wrong.height
        else f"{sentences.height:,} sentences of {classes.height:,} classes, each with as many as were counted"
    )
    numbers = {"classes": classes.height, "sentences": sentences.height, "wrong_classes": wrong.height}
    return CheckResult(wrong.is_empty(), text, numbers, wrong)


def check_repeated_names(names: Sequence[str]) -> CheckResult:
    """Count the names that stand more than once; they are the data's own, stay, and get the same vector and class."""
    counts = pl.Series("name", names, dtype=pl.String).value_counts(sort=True, name="times").filter(pl.col("times") > 1)
    repeated = counts.sort("times", "name", descending=[True, False])
    text = f"{repeated.height:,} of {len(set(names)):,} names stand more than once"
    if repeated.height:
        text += f": {name_some(repeated['name'].to_list())}"
    return CheckResult(True, text, {"names": len(names), "repeated_names": repeated.height}, repeated)


REPEATED_NAMES: Final[Check[Sequence[str]]] = Check(
    "repeated_names",
    "How many names stand more than once. They are the data's own and stay: it always passes.",
    "warning",
    check_repeated_names,
)


def check_ties(matches: pl.DataFrame, classes: Features) -> CheckResult:
    """Count the names that have two nearest classes, of which the first is their match.

    Class names that differ only in case have one vector, for CLIP lower-cases: such ties are in the nature of the data.
    """
    ties = matches.filter(pl.col("margin") == 0)
    nearest, second = (classes.vectors[ties[column].to_numpy()] for column in ("class_row", "runner_up_row"))
    between = ties.filter(pl.Series((nearest != second).any(axis=1), dtype=pl.Boolean))
    alike = ties.height - between.height
    text = f"{ties.height:,} of {matches.height:,} names have two nearest classes"
    if alike:
        text += f", {alike:,} of them classes of one vector (names that differ only in case)"
    if between.height:
        text += f"; {between.height:,} lie just as near to two different ones: {name_some(between['name'].to_list())}"
    numbers = {"names": matches.height, "ties": ties.height, "ties_of_one_vector": alike}
    return CheckResult(
        between.is_empty(), text, numbers, ties.select("name", "class_name", "runner_up_name", "distance")
    )


def check_names(features: Features, names: Sequence[str]) -> CheckResult:
    """Hold text features against the names they are of: the same, in the same order, each with a finite vector."""
    finite = np.asarray(np.isfinite(features.vectors).all(axis=1))
    spoilt = [name for name, is_finite in zip(features.ids, finite, strict=True) if not is_finite]
    aligned = features.ids == list(names)
    text = f"{len(features.ids):,} vectors of {len(names):,} names"
    if not aligned:
        text += ", which are not those of the table"
    if spoilt:
        text += f"; {len(spoilt):,} are not finite: {name_some(spoilt)}. Delete the file and materialize it again"
    numbers = {"names": len(names), "vectors": len(features.ids), "not_finite": len(spoilt)}
    return CheckResult(aligned and not spoilt, text, numbers)


def check_ids(shards: Iterable[tuple[str, Features, Sequence[str]]], total: int) -> CheckResult:
    """Hold the ids of shards against those that they shall have: each once, with a vector or among the rejected.

    Args:
        shards: Name and features of each shard there is, and the ids that belong to it, as `select_images` gives them;
            one is looked at after the other.
        total: How many shards there shall be.
    """
    rows: list[tuple[str, str, str]] = []
    vectors = rejected = there = 0
    for shard, features, wanted in shards:
        there, vectors, rejected = there + 1, vectors + len(features.ids), rejected + features.rejected.height
        found = [*features.ids, *features.rejected["id"]]
        expected = set(wanted)
        twice = {one for one, times in zip(*np.unique(found, return_counts=True), strict=True) if times > 1}
        finite = np.asarray(np.isfinite(features.vectors).all(axis=1))
        spoilt = [one for one, is_finite in zip(features.ids, finite, strict=True) if not is_finite]
        for wrong, ids in (
            ("stands twice", sorted(map(str, twice))),
            ("has neither vector nor reason", sorted(expected - set(found))),
            ("does not belong here", sorted(set(found) - expected)),
            ("has a vector that is not finite", spoilt),
        ):
            rows += [(shard, one, wrong) for one in ids]
    table = pl.DataFrame(rows, schema={"shard": pl.String, "id": pl.String, "wrong": pl.String}, orient="row")
    text = f"{vectors:,} vectors and {rejected:,} rejected images in {there:,} of {total:,} shards"
    if table.height:
        kinds = ", ".join(f"{n:,} {wrong}" for wrong, n in table.group_by("wrong").len().sort("wrong").iter_rows())
        shards_concerned = name_some(table["shard"].unique().sort().to_list())
        text += f"; of the ids {kinds}. Delete the files of shard {shards_concerned} and materialize them again"
    numbers = {"vectors": vectors, "rejected": rejected, "shards": there, "wrong_ids": table.height}
    return CheckResult(table.is_empty(), text, numbers, table)


def tabulate_matches(matches: pl.DataFrame) -> pl.DataFrame:
    """Return the surest and the least sure match of every object class that has any.

    Args:
        matches: Frame of `OPENIMAGES_MATCHES`.

    Returns:
        A row a class, those with most names first: `class`, `names` (how many), `surest`, `margin`, `least_sure`,
        `smallest_margin`. Margins are of squared distances; null where there is one class only.
    """
    ordered = matches.sort("margin", "row", descending=[True, False], nulls_last=True)
    return (
        ordered.group_by("class_row", "class_name", maintain_order=True)
        .agg(
            names=pl.len(),
            surest=pl.col("name").first(),
            margin=pl.col("margin").first().round_sig_figs(3),
            least_sure=pl.col("name").last(),
            smallest_margin=pl.col("margin").last().round_sig_figs(3),
        )
        .sort("names", "class_row", descending=[True, False])
        .select(pl.col("class_name").alias("class"), pl.exclude("class_row", "class_name"))
    )
