"""Few-shot draws: the images from which each concept is learned, by scheme and seed.

PALAVRA draws with replacement, so five shots are on average only four different images (quirk T8).
"""

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Final

import numpy as np
import polars as pl

from pervl_assets.benchmarks.benchmark import FEW_SHOT_FOLDER
from pervl_assets.core.checks import CheckResult
from pervl_assets.core.errors import name_some
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.evaluation.protocols import Draws

DRAWS: Final = TableSchema(
    (
        Column(
            "scheme",
            pl.String,
            "palavra (with replacement), distinct (without; all images of a concept that has fewer), polar, or all "
            "(every image once)",
        ),
        Column("seed", pl.Int32, "seed of the draw; 0 where nothing is drawn"),
        Column("concept", pl.String, "the concept that is learned"),
        Column("shot", pl.Int32, "place in the draw, from 0"),
        Column("image", pl.String, "path below the tree: codes_infer/<concept>/<file>"),
    )
)


def list_few_shot(ledger: pl.DataFrame) -> dict[str, list[str]]:
    """Return the few-shot images of each concept of a tree (schema `LEDGER`): the files that are written.

    Concepts and paths are in string order, as torchvision's `ImageFolder` lists them. A concept without images has an
    empty list.
    """
    path, written = pl.col("path"), pl.col("status") == "written"
    mine = path.filter(written & path.str.starts_with(f"{FEW_SHOT_FOLDER}/")).sort()
    return dict(ledger.filter(pl.col("concept") != "").group_by("concept").agg(mine).sort("concept").iter_rows())


def list_draws(
    few_shot: Mapping[str, Sequence[str]], annotated: Sequence[str], schemes: Iterable[Draws], repetitions: int
) -> pl.DataFrame:
    """Return the few-shot draws of a split (schema `DRAWS`). No global random state is read or changed.

    Args:
        few_shot: Images of each concept, both in string order. One without images has no draw and no number.
        annotated: Images in the order of the annotations, for schemes that draw from that order. Empty: string order.
        schemes: How to draw.
        repetitions: Number of seeds, from 1, of schemes without a seed of their own.
    """
    places = {path: place for place, path in enumerate(annotated)}
    filled = [(concept, images) for concept, images in few_shot.items() if images]
    rows = [
        (draws.scheme, seed, concept, shot, image)
        for draws in schemes
        for seed in (range(1, repetitions + 1) if draws.seed is None else (draws.seed,))
        for number, (concept, images) in enumerate(filled)
        for shot, image in enumerate(_draw(draws, seed, number, images, places))
    ]
    return pl.DataFrame(rows, schema=DRAWS.to_polars(), orient="row")


def _draw(draws: Draws, seed: int, number: int, images: Sequence[str], places: Mapping[str, int]) -> Sequence[str]:
    """Return the images drawn for the concept with this number."""
    shots = len(images) if draws.shots is None else draws.shots
    if draws.method == "all":
        return images
    if draws.method == "in annotated order":
        in_order = sorted(images, key=lambda path: places.get(path, len(places)))
        return Random(seed).sample(in_order, min(shots, len(images)))  # noqa: S311 - POLAR's draw
    again = draws.method == "with replacement"
    # PALAVRA seeds numpy's global generator: this one gives the same numbers
    generator = np.random.RandomState(seed + number)
    return [
        images[place] for place in generator.choice(len(images), shots if again else min(shots, len(images)), again)
    ]


def check_shots(few_shot: Mapping[str, Sequence[str]], draws: Draws) -> CheckResult:
    """Check that every concept has as many different images as are drawn.

    Args:
        few_shot: Images of each concept.
        draws: How many are drawn.
    """
    shots = draws.shots or 1
    few = {concept: len(images) for concept, images in few_shot.items() if len(images) < shots}
    none = [concept for concept, images in few.items() if not images]
    text = f"each of {len(few_shot):,} concepts has {shots} few-shot images or more"
    if few:
        text = f"{len(few):,} of {len(few_shot):,} concepts with fewer than {shots} few-shot images: {name_some(few)}"
    if none:
        text += f". Without any, so not learned: {len(none):,}: {name_some(none)}"
    rows = pl.DataFrame([*few.items()], schema={"concept": pl.String, "images": pl.Int64}, orient="row")
    return CheckResult(not few, text, {"concepts": len(few_shot), "with fewer": len(few), "with none": len(none)}, rows)


def summarize_draws(draws: pl.DataFrame) -> pl.DataFrame:
    """Return seeds, concepts, and mean number of images and of different images of a concept, by scheme."""
    each = draws.group_by("scheme", "seed", "concept", maintain_order=True).agg(
        shots=pl.len(), different=pl.col("image").n_unique()
    )
    return each.group_by("scheme", maintain_order=True).agg(
        pl.col("seed").n_unique().alias("seeds"),
        pl.col("concept").n_unique().alias("concepts"),
        pl.mean("shots").alias("images of a concept"),
        pl.mean("different").alias("different ones"),
    )
