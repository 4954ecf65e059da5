"""Ranks of queries, their scores with bootstrap intervals, the paired comparison of two rankings, and chance."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.core.errors import PervlError, name_some
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.core.text import count_of
from pervl_assets.evaluation.ranking import rank_targets

DEPTHS: Final = (1, 5, 10)
"""Depths k of Recall@k."""

_RESAMPLES: Final = 10_000
_SEED: Final = 2022
_PERCENTILES: Final = (2.5, 97.5)
_DRAWN: Final = 1 << 22
"""Clusters drawn at a time; memory is 24 bytes for each, and 8 of these are kept for the next time."""

_PROTOCOL: Final = (
    Column("protocol", pl.String, "protocol of the evaluation: palavra, polar, concon_chi"),
    Column("query_set", pl.String, "which texts are the queries: rich, concept_only, …"),
    Column("method", pl.String, "how a query becomes a vector, e.g. Text only"),
)

RANKS: Final = TableSchema(
    (
        *_PROTOCOL,
        Column("seed", pl.Int32, "seed of the few-shot draw or the repetition; null where nothing is drawn"),
        Column("query_id", pl.String, "id of the query"),
        Column("query", pl.Int32, "row of the caption in the split's file, from 0"),
        Column("concept", pl.String, "concept that is asked for"),
        Column("target", pl.String, "the best-placed right image"),
        Column("place", pl.Int32, "its place in the ranking of the whole gallery, from 1, behind all ties"),
        Column("ties", pl.Int32, "wrong images that are exactly as similar, all of them placed before it"),
        Column("average_precision", pl.Float64, "mean over the right images of i / place of the i-th; one: 1 / place"),
        Column("found", pl.String, "image at place 1"),
        Column("gallery", pl.Int32, "images in the gallery"),
    )
)

SCORES: Final = TableSchema(
    (
        *_PROTOCOL,
        Column("seed", pl.Int32, "seed; null: nothing is drawn, or the mean over the seeds"),
        Column("seeds", pl.Int32, "number of seeds that are averaged"),
        Column("queries", pl.Int32, "number of queries"),
        Column("concepts", pl.Int32, "number of concepts asked for"),
        Column("gallery", pl.Int32, "images in the gallery"),
        Column("mrr", pl.Float64, "mean over the queries of 1 / place"),
        *(Column(f"recall_{k}", pl.Float64, f"share of the queries with a place of {k} or better") for k in DEPTHS),
        Column("mean_average_precision", pl.Float64, "mean of the average precision"),
        Column("mrr_by_concept", pl.Float64, "mean over the concepts of the mean 1 / place of their queries"),
        Column("mrr_low", pl.Float64, "2.5th percentile of `mrr` over 10,000 resamples of the concepts"),
        Column("mrr_high", pl.Float64, "97.5th percentile of the same; both null where there is one concept"),
        Column("mrr_sem", pl.Float64, "standard error over the seeds, std(ddof=1) / sqrt(seeds); null for one"),
        Column("tied", pl.Int32, "queries with ties; of a mean, with ties under any seed"),
    )
)

GROUP: Final = [column.name for column in _PROTOCOL]
"""Columns of what is ranked and scored together."""

_Floats = npt.NDArray[np.float64]

_MEANS: Final = {
    "mrr": 1 / pl.col("place"),
    **{f"recall_{k}": (pl.col("place") <= k).cast(pl.Float64) for k in DEPTHS},
    "mean_average_precision": pl.col("average_precision"),
}


@dataclass(frozen=True)
class Comparison:
    """Two rankings of the same queries.

    Attributes:
        queries: Number of queries.
        difference: MRR of the first less that of the second; seeds are averaged.
        low: 2.5th percentile of the difference over resamples of the concepts.
        high: 97.5th percentile of the same. Both are None where there is one concept.
        better: Queries that the first ranking places better, by the mean of 1 / place.
        worse: Queries that it places worse.
    """

    queries: int
    difference: float
    low: float | None
    high: float | None
    better: int
    worse: int


def rank_queries(
    queries: pl.DataFrame,
    vectors: npt.NDArray[np.float32],
    images: Sequence[str],
    gallery: npt.NDArray[np.float32],
    method: str,
    seed: int | None = None,
) -> pl.DataFrame:
    """Rank a gallery for queries of one method and seed.

    Args:
        queries: Q rows with the columns of `QUERIES`; others than those used here may be absent.
        vectors: Float32 (Q, D), the queries' vectors.
        images: The N different names of the gallery's images, to which `targets` refer.
        gallery: Float32 (N, D), their vectors.
        method: Name of the method.
        seed: Seed of the draw, if any.

    Returns:
        One row per query, as `RANKS`.

    Raises:
        PervlError: Targets are not in the gallery, or a vector is zero or not finite.
    """
    names = pl.Series(images, dtype=pl.String)
    rows = {name: row for row, name in enumerate(images)}
    targets = queries["targets"].to_list()
    unknown = sorted({name for right in targets for name in right if name not in rows})
    if unknown:
        raise PervlError(
            f"{count_of(len(unknown), 'right image')} not among the {len(names):,} of the gallery: "
            f"{name_some([repr(name) for name in unknown])}.",
            advice="Rank the gallery that the queries were made for: names must be equal, extension included.",
        )
    found = rank_targets(vectors, gallery, [[rows[name] for name in right] for right in targets])
    ranks = queries.select("protocol", "query_set", "query_id", "query", "concept").with_columns(
        method=pl.lit(method),
        seed=pl.lit(seed, pl.Int32),
        target=names.gather(found.target),
        place=pl.Series(found.places),
        ties=pl.Series(found.ties),
        average_precision=pl.Series(found.average_precision),
        found=names.gather(found.first),
        gallery=pl.lit(len(names)),
    )
    return ranks.select(pl.col(column.name).cast(column.dtype) for column in RANKS)


def compute_scores(ranks: pl.DataFrame) -> pl.DataFrame:
    """Score ranks: a row per protocol, query set, method and seed, and one of the mean where there are several seeds.

    The mean of the seeds is taken query by query, so that its interval is one over queries, as that of each seed is.
    Intervals are bootstrapped by concept, since queries of a concept share its token and its images.

    Args:
        ranks: As `RANKS`, in any order.

    Returns:
        As `SCORES`, in the order of first appearance.
    """
    each = ranks.select(*GROUP, "seed", "query_id", "concept", "gallery", tied=pl.col("ties") > 0, seeds=1, **_MEANS)
    averaged = (
        each.filter(pl.col("seed").n_unique().over(GROUP) > 1)
        .group_by(*GROUP, "query_id", maintain_order=True)
        .agg(
            pl.col("concept", "gallery").first(),
            pl.col("tied").any(),
            pl.col("seed").n_unique(),
            pl.col(*_MEANS).mean(),
        )
        .rename({"seed": "seeds"})
    )
    rows = pl.concat([each, averaged], how="diagonal_relaxed")
    of_seeds = [*GROUP, "seed"]
    scores = rows.group_by(of_seeds, maintain_order=True).agg(
        pl.col("seeds", "gallery").max(),
        pl.len().alias("queries"),
        pl.col("concept").n_unique().alias("concepts"),
        pl.col(*_MEANS).mean(),
        pl.col("tied").sum(),
    )
    concepts = (
        rows.group_by(*of_seeds, "concept")
        .agg(pl.col("mrr").sum(), pl.len())
        .sort("concept")
        .group_by(of_seeds)
        .agg("mrr", "len", mrr_by_concept=(pl.col("mrr") / pl.col("len")).mean())
    )
    errors = (
        scores.filter(pl.col("seed").is_not_null())
        .group_by(GROUP)
        .agg(mrr_sem=pl.col("mrr").std() / pl.len().sqrt(), seed=pl.lit(None, pl.Int32))
    )
    scores = (
        scores.join(_bootstrap_groups(concepts), on=of_seeds, nulls_equal=True, how="left", maintain_order="left")
        .join(errors, on=of_seeds, nulls_equal=True, how="left", maintain_order="left")
        .with_row_index("order")
        .sort(pl.col("order").min().over(GROUP), "seed", nulls_last=True)
    )
    return scores.select(pl.col(column.name).cast(column.dtype) for column in SCORES)


def compare_rankings(ranks: pl.DataFrame, other: pl.DataFrame) -> Comparison:
    """Compare two rankings of the same queries, each of one method; both as `RANKS`, paired by `query_id`.

    Raises:
        PervlError: They do not rank the same queries; counts and names those that one of them has alone.
    """
    mine, theirs = (
        frame.group_by("query_id", maintain_order=True).agg(
            pl.col("concept").first(), reciprocal=(1 / pl.col("place")).mean()
        )
        for frame in (ranks, other)
    )
    alone = pl.concat([mine.join(theirs, on="query_id", how="anti"), theirs.join(mine, on="query_id", how="anti")])
    if alone.height:
        names = name_some([repr(name) for name in alone["query_id"]])
        raise PervlError(
            f"{count_of(alone.height, 'query')} in one of the two rankings only: {names}.",
            advice="Compare rankings of the same queries, with the same ids.",
        )
    both = mine.join(theirs, on="query_id", maintain_order="left").with_columns(
        difference=pl.col("reciprocal") - pl.col("reciprocal_right")
    )
    concepts = both.group_by("concept").agg(pl.col("difference").sum(), pl.len()).sort("concept")
    totals, counts = concepts.select(pl.all().exclude("concept").cast(pl.Float64)).to_numpy().T
    low, high = _bootstrap(totals[:, None], counts[:, None])[:, 0].tolist()
    difference = both["difference"].to_numpy()
    return Comparison(
        len(difference),
        float(difference.mean()),
        low if len(counts) > 1 else None,
        high if len(counts) > 1 else None,
        int((difference > 0).sum()),
        int((difference < 0).sum()),
    )


def expect_random(gallery: int, right: int = 1) -> dict[str, float]:
    """Return the expected scores of a random ranking of `gallery` images, `right` of which are right.

    Keys are `mrr`, `recall_1`, … and `mean_average_precision`, as in `SCORES`. For one right image the MRR is H_n / n.
    """
    places = np.arange(1, gallery + 1)
    # Chance that no right image is among the first k: the product of (n - r - i) / (n - i).
    left = np.cumprod((gallery - right - places + 1).clip(0) / (gallery - places + 1))
    chance = -np.diff(left, prepend=1.0)  # that the best right image is at place k
    harmonic = (1 / places).sum()
    others = (right - 1) / (gallery - 1) * (gallery - harmonic) if right > 1 else 0.0
    return {
        "mrr": float((chance / places).sum()),
        **{f"recall_{k}": float(1 - left[min(k, gallery) - 1]) for k in DEPTHS},
        "mean_average_precision": float((harmonic + others) / gallery),
    }


def _bootstrap_groups(concepts: pl.DataFrame) -> pl.DataFrame:
    """Replace the lists `mrr` (sums) and `len` of each group's concepts by the interval of the mean.

    Groups with the same number of concepts share their resamples.
    """
    sizes = concepts["len"].list.len().to_numpy()
    limits = np.empty((2, len(sizes)))
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        totals, counts = (np.array(concepts[name].gather(rows).to_list(), np.float64).T for name in ("mrr", "len"))
        limits[:, rows] = _bootstrap(totals, counts)
    low, high = (pl.Series(values).fill_nan(None) for values in limits)
    return concepts.drop("mrr", "len").with_columns(mrr_low=low, mrr_high=high)


def _bootstrap(totals: _Floats, counts: _Floats) -> _Floats:
    """Return the intervals of G means, (2, G), resampling clusters; NaN where there is one cluster.

    Args:
        totals: Float64 (C, G), sums of the values of each cluster.
        counts: Float64 (C, G), number of these values.
    """
    clusters = len(totals)
    if clusters < 2:
        return np.full((2, totals.shape[1]), np.nan)
    if (counts == counts[:, :1]).all():
        counts = counts[:, :1]
    step, means = max(1, _DRAWN // clusters), []
    for number, at in enumerate(range(0, _RESAMPLES, step)):
        weights = _draw_weights(clusters, min(step, _RESAMPLES - at), number)
        means.append((weights @ totals) / (weights @ counts))
    return np.percentile(np.concatenate(means), _PERCENTILES, axis=0)


@functools.lru_cache(maxsize=2)
def _draw_weights(clusters: int, size: int, number: int) -> _Floats:
    """Return how often each cluster is in each of `size` resamples, Float64 (size, clusters).

    `number` is that of the part. Kept, since the rankings of a split have the same number of concepts.
    """
    drawn = np.random.default_rng((_SEED, number)).integers(clusters, size=(size, clusters))
    drawn += clusters * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(np.float64)
