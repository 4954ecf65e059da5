"""Checks of the tables and features of the inversion model: counts, duplicates, ids, ties."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Final

import numpy as np
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.core.checks import Check, CheckResult
from pervl_assets.core.errors import name_some

COCO_IMAGES: Final = 82_783
"""Number of images of COCO 2014 train."""

OPENIMAGES_NAMES: Final = 19_994
"""Number of class names of OpenImages V6, without the header."""

_MAX_DUPLICATE_SHARE: Final = 0.25
"""Share of triplets that may repeat an earlier one. Some always do, because captions are similar. If a file contains
its lines twice, half of them do."""


def check_triplet_counts(triplets: pl.DataFrame) -> CheckResult:
    """Count a frame of `TRIPLETS`. It fails if there are more images than in COCO 2014 train."""
    columns = {"images": "image_id", "sentences": "sentence", "subjects": "subject", "objects": "object"}
    counts = {"triplets": triplets.height, **{name: triplets[column].n_unique() for name, column in columns.items()}}
    text = ", ".join(f"{n:,} {name}" for name, n in counts.items())
    passed = counts["images"] <= COCO_IMAGES
    return CheckResult(passed, text if passed else f"{text}; COCO 2014 train has {COCO_IMAGES:,} images", counts)


def check_empty_objects(triplets: pl.DataFrame) -> CheckResult:
    """Find the triplets with an empty subject or object (frame of `TRIPLETS`)."""
    empty = triplets.filter((pl.col("subject") == "") | (pl.col("object") == ""))
    text = f"{empty.height:,} of {triplets.height:,} triplets with an empty subject or object"
    return CheckResult(empty.is_empty(), text, {"triplets": triplets.height, "empty": empty.height}, empty)


def check_duplicates(triplets: pl.DataFrame) -> CheckResult:
    """Count the triplets that repeat an earlier one: same image, subject, relation, object and sentence."""
    content = pl.exclude("line")
    repeated = (
        triplets.group_by(content)
        .agg(times=pl.len(), first_line=pl.col("line").min())
        .filter(pl.col("times") > 1)
        .sort("times", "first_line", descending=[True, False])
    )
    extra = int(repeated["times"].sum()) - repeated.height
    share = extra / triplets.height if triplets.height else 0.0
    text = f"{extra:,} of {triplets.height:,} triplets ({share:.2%}) equal to an earlier one. All are kept and counted"
    if share > _MAX_DUPLICATE_SHARE:
        text += f". More than {_MAX_DUPLICATE_SHARE:.0%} is unusual: does the file contain everything twice?"
    numbers = {"triplets": triplets.height, "duplicates": extra, "repeated": repeated.height}
    shown = repeated.select("times", "first_line", "image_id", "subject", "relation", "object")
    return CheckResult(share <= _MAX_DUPLICATE_SHARE, text, numbers, shown)


TRIPLET_CHECKS: Final[tuple[Check[pl.DataFrame], ...]] = (
    Check(
        "no_empty_objects",
        "No subject or object is empty. A warning: upstream counts an empty name like any other.",
        "warning",
        check_empty_objects,
    ),
    Check(
        "few_duplicates",
        "At most a quarter of the triplets repeat an earlier one. Some repetitions are normal. They are kept and "
        "counted as upstream does. Many of them suggest that the file contains its lines twice.",
        "warning",
        check_duplicates,
    ),
    Check(
        "counts",
        "Number of triplets, images, sentences, subjects and objects. A warning if there are more images than in COCO "
        "2014 train.",
        "warning",
        check_triplet_counts,
    ),
)


def check_class_number(classes: pl.DataFrame, top_objects: int) -> CheckResult:
    """Compare the number of object classes (frame of `OBJECT_CLASSES`) with the requested number."""
    numbers = {"classes": classes.height, "requested": top_objects}
    return CheckResult(
        classes.height == top_objects, f"{classes.height:,} classes of {top_objects:,} requested", numbers
    )


def check_class_sums(classes: pl.DataFrame, sentences: pl.DataFrame) -> CheckResult:
    """Compare the rows and images of each class in a frame of `OBJECT_SENTENCES` with those in `OBJECT_CLASSES`."""
    found = sentences.group_by("class_row").agg(rows=pl.len(), images_found=pl.col("image_id").n_unique())
    wrong = (
        classes.join(found, on="class_row", how="full", coalesce=True)
        .filter(pl.col("triplets").ne_missing(pl.col("rows")) | pl.col("images").ne_missing(pl.col("images_found")))
        .sort("class_row")
    )
    text = (
        f"{wrong.height:,} of {classes.height:,} classes with another number of sentences or images than counted: "
        f"{name_some(wrong['name'].to_list())}"
        if wrong.height
        else f"{sentences.height:,} sentences of {classes.height:,} classes, each with the number that was counted"
    )
    numbers = {"classes": classes.height, "sentences": sentences.height, "wrong_classes": wrong.height}
    return CheckResult(wrong.is_empty(), text, numbers, wrong)


def check_repeated_names(names: Sequence[str]) -> CheckResult:
    """Count the names that occur more than once. They are kept, with the same vector and class. Always passes."""
    counts = pl.Series("name", names, dtype=pl.String).value_counts(sort=True, name="times").filter(pl.col("times") > 1)
    repeated = counts.sort("times", "name", descending=[True, False])
    text = f"{repeated.height:,} of {len(set(names)):,} names more than once"
    if repeated.height:
        text += f": {name_some(repeated['name'].to_list())}"
    return CheckResult(True, text, {"names": len(names), "repeated_names": repeated.height}, repeated)


REPEATED_NAMES: Final[Check[Sequence[str]]] = Check(
    "repeated_names",
    "Number of names that occur more than once. Repeated names are part of the official list, so it always passes.",
    "warning",
    check_repeated_names,
)


def check_ties(matches: pl.DataFrame, classes: Features) -> CheckResult:
    """Count the names with two equally near classes. The match is the first of them.

    Class names that differ only in case have the same vector, because CLIP lower-cases them. Such ties pass.
    """
    ties = matches.filter(pl.col("margin") == 0)
    nearest, second = (classes.vectors[ties[column].to_numpy()] for column in ("class_row", "runner_up_row"))
    between = ties.filter(pl.Series((nearest != second).any(axis=1), dtype=pl.Boolean))
    alike = ties.height - between.height
    text = f"{ties.height:,} of {matches.height:,} names with two equally near classes"
    if alike:
        text += f", {alike:,} of them with the same vector (class names that differ only in case)"
    if between.height:
        text += f"; {between.height:,} equally near to two different vectors: {name_some(between['name'].to_list())}"
    numbers = {"names": matches.height, "ties": ties.height, "ties_of_one_vector": alike}
    return CheckResult(
        between.is_empty(), text, numbers, ties.select("name", "class_name", "runner_up_name", "distance")
    )


def _list_not_finite(features: Features) -> list[str]:
    return list(compress(features.ids, np.asarray(~np.isfinite(features.vectors).all(axis=1))))


def check_names(features: Features, names: Sequence[str]) -> CheckResult:
    """Check that text features have exactly these names, in this order, each with a finite vector."""
    not_finite = _list_not_finite(features)
    aligned = features.ids == list(names)
    text = f"{len(features.ids):,} vectors of {len(names):,} names"
    if not aligned:
        text += ", but not the names of the table in its order"
    if not_finite:
        text += f"; {len(not_finite):,} not finite: {name_some(not_finite)}. Delete the file and materialize it again"
    numbers = {"names": len(names), "vectors": len(features.ids), "not_finite": len(not_finite)}
    return CheckResult(aligned and not not_finite, text, numbers)


def check_ids(shards: Iterable[tuple[str, Features, Sequence[str]]], total: int) -> CheckResult:
    """Check that shards have exactly the expected ids: each once, with a vector or among the rejected.

    Args:
        shards: Name, features and expected ids of each existing shard, read one at a time.
        total: Expected number of shards.
    """
    rows: list[tuple[str, str, str]] = []
    vectors = rejected = existing = 0
    for shard, features, wanted in shards:
        existing, vectors, rejected = existing + 1, vectors + len(features.ids), rejected + features.rejected.height
        found = [*features.ids, *features.rejected["id"]]
        expected = set(wanted)
        for wrong, ids in (
            ("occurs twice", sorted(one for one, times in Counter(found).items() if times > 1)),
            ("has neither vector nor reason", sorted(expected - set(found))),
            ("does not belong to the shard", sorted(set(found) - expected)),
            ("has a vector that is not finite", _list_not_finite(features)),
        ):
            rows += [(shard, one, wrong) for one in ids]
    table = pl.DataFrame(rows, schema={"shard": pl.String, "id": pl.String, "wrong": pl.String}, orient="row")
    text = f"{vectors:,} vectors and {rejected:,} rejected images in {existing:,} of {total:,} shards"
    if table.height:
        kinds = ", ".join(f"{n:,} {wrong}" for wrong, n in table.group_by("wrong").len().sort("wrong").iter_rows())
        shards_concerned = name_some(table["shard"].unique().sort().to_list())
        text += f"; wrong ids: {kinds}. Delete the files of shard {shards_concerned} and materialize them again"
    numbers = {"vectors": vectors, "rejected": rejected, "shards": existing, "wrong_ids": table.height}
    return CheckResult(table.is_empty(), text, numbers, table)


def tabulate_matches(matches: pl.DataFrame) -> pl.DataFrame:
    """Return the matches with the highest and the lowest margin of every object class that has any.

    Args:
        matches: Frame of `OPENIMAGES_MATCHES`.

    Returns:
        One row per class, those with most names first: `class`, `names` (number of matches), and name and value of the
        highest and of the lowest margin. Margins are differences of squared distances, null if there is only one class.
    """
    ordered = matches.sort("margin", "row", descending=[True, False], nulls_last=True)
    return (
        ordered.group_by("class_row", "class_name", maintain_order=True)
        .agg(
            names=pl.len(),
            highest_margin_name=pl.col("name").first(),
            highest_margin=pl.col("margin").first().round_sig_figs(3),
            lowest_margin_name=pl.col("name").last(),
            lowest_margin=pl.col("margin").last().round_sig_figs(3),
        )
        .sort("names", "class_row", descending=[True, False])
        .select(pl.col("class_name").alias("class"), pl.exclude("class_row", "class_name"))
    )
