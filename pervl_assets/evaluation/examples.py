"""The best and the worst queries of a method: text, image asked for, image found, few-shot images."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from pervl_assets.benchmarks.benchmark import GALLERY_FOLDER
from pervl_assets.evaluation.methods import METHODS, TEXT_ONLY
from pervl_assets.evaluation.protocols import PALAVRA

_QUERY_SET: Final = "rich"


@dataclass(frozen=True)
class Example:
    """One query and what it found.

    Attributes:
        text: The query as the tokenizer gets it; `*` is the concept's token.
        concept: The concept it asks for.
        place: Place of its right image in the ranking, from 1.
        baseline: Its place by the text alone, or None where that is not known.
        target: Right image, as its path below the tree. If several are right, the one ranked first.
        found: The image at place 1.
        shots: Few-shot images with the number of times each was drawn.
    """

    text: str
    concept: str
    place: int
    baseline: int | None
    target: str
    found: str
    shots: Mapping[str, int]

    def describe_place(self, gallery: int) -> str:
        """Return its place among so many images: `place 1 of 252; by the text alone 17`."""
        alone = "" if self.baseline is None else f"; by the text alone {self.baseline:,}"
        return f"place {self.place:,} of {gallery:,}{alone}"


@dataclass(frozen=True)
class Examples:
    """Queries of one method and few-shot seed (None: nothing is drawn), ranked over so many images.

    Attributes:
        method: Name of the method.
        seed: Few-shot seed.
        gallery: Number of images.
        best: The queries found first, the best one first.
        worst: The queries found last, the worst one first.
    """

    method: str
    seed: int | None
    gallery: int
    best: list[Example]
    worst: list[Example]

    def name_parts(self) -> Iterator[tuple[str, list[Example]]]:
        """Yield a heading and the queries below it, for the best and for the worst ones."""
        seed = "" if self.seed is None else f", few-shot seed {self.seed}"
        for what, chosen in (("best", self.best), ("worst", self.worst)):
            if chosen:
                yield f"{self.method}{seed}: the {len(chosen)} {what} queries", chosen


def choose_examples(ranks: pl.DataFrame, queries: pl.DataFrame, draws: pl.DataFrame, count: int = 3) -> Examples | None:
    """Choose queries of different concepts: those found first, and those found last.

    Among queries at the same place, the best are those that the text alone ranks lowest, the worst those that it ranks
    highest.

    Args:
        ranks: Places of some methods (schema `RANKS`).
        queries: Texts of the queries (schema `QUERIES`).
        draws: Few-shot images (schema `DRAWS`).
        count: Number of best queries, and of worst ones, if there are so many concepts.

    Returns:
        Examples of the most complete method, at its first seed; None if no query is ranked.
    """
    chosen = ranks.filter(protocol=PALAVRA.name, query_set=_QUERY_SET)
    method = next((name for name in reversed(METHODS) if name in chosen["method"]), None)
    if method is None:
        return None
    rows = chosen.filter(method=method)
    seed = rows.select(pl.col("seed").min()).item()
    places = chosen.filter(method=TEXT_ONLY).unique("query").select("query", baseline="place")
    rows = (
        rows.filter(pl.col("seed").eq_missing(pl.lit(seed)))
        .join(queries.select("query_id", "text"), "query_id", how="left")
        .join(places, "query", how="left")
        .with_columns(gain=pl.col("baseline").fill_null(0).cast(pl.Int64) - pl.col("place"))
    )
    count = min(count, math.ceil(rows["concept"].n_unique() / 2))
    best = _take_first(rows.sort("place", "gain", "query", descending=[False, True, False]), count)
    others = rows.join(best, "concept", how="anti")
    worst = _take_first(others.sort("place", "gain", "query", descending=[True, False, False]), count)
    drawn = draws.filter(scheme=PALAVRA.draws.scheme)
    drawn = drawn.filter(seed=drawn["seed"].min() if seed is None else seed).sort("concept", "shot")
    shots = dict(drawn.group_by("concept").agg("image").iter_rows())
    parts = ([_make_example(row, shots) for row in part.iter_rows(named=True)] for part in (best, worst))
    return Examples(method, seed, rows["gallery"][0], *parts)


def _take_first(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    return rows.unique("concept", keep="first", maintain_order=True).head(count)


def _make_example(row: Mapping[str, Any], shots: Mapping[str, list[str]]) -> Example:
    return Example(
        text=" ".join((row["text"] or "").split()),
        concept=row["concept"],
        place=row["place"],
        baseline=row["baseline"],
        target=f"{GALLERY_FOLDER}/{row['target']}",
        found=f"{GALLERY_FOLDER}/{row['found']}",
        shots=Counter(shots.get(row["concept"], [])),
    )
