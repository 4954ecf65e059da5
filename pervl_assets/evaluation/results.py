"""The results: scores of all methods with the published number beside each, and whether the two can be compared."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.evaluation.known_scores import PUBLISHED_IN, Conditions, list_lost
from pervl_assets.evaluation.methods import (
    AVERAGE_BOTH,
    METHODS,
    NOT_DRAWN,
    ONLY_TUNING,
    PALAVRA,
    RANDOM,
    TEXT_ONLY,
    TEXT_TWICE,
    WITHOUT_TUNING,
)
from pervl_assets.evaluation.metrics import DEPTHS, GROUP, SCORES, compare_rankings

RESULTS: Final = TableSchema(
    (
        Column("benchmark", pl.String, "ytvos, deep_fashion or another"),
        Column("split", pl.String, "validation or test"),
        *(column for column in SCORES if column.name != "seed"),
        Column("difference", pl.Float64, "`mrr` less that of Text only on the same queries; null of Text only itself"),
        Column("difference_low", pl.Float64, "2.5th percentile of the difference over resamples of the concepts"),
        Column("difference_high", pl.Float64, "97.5th percentile of the same"),
        Column("encoder", pl.String, "CLIP model"),
        Column("published_mrr", pl.Float64, "the published `mrr`, null if there is none"),
        Column("published_error", pl.Float64, "its standard error over 5 repetitions"),
        Column("published_recall_5", pl.Float64, "the published `recall_5`"),
        Column("published_recall_10", pl.Float64, "the published `recall_10`"),
        Column("source", pl.String, "where it is published"),
        Column("comparable", pl.Boolean, "whether the two were measured alike"),
        Column("why", pl.String, "why, or why not"),
    )
)

_TRAINED: Final = (PALAVRA, ONLY_TUNING, WITHOUT_TUNING)
_REPETITIONS: Final = 5
"""Of all published numbers."""

_DIFFERENCE: Final = ("difference", "difference_low", "difference_high")
_WITH_CLASS: Final = (TEXT_ONLY, TEXT_TWICE, AVERAGE_BOTH)
_ALIKE: Final = "measured as published"
_EXPECTED: Final = "the expected score; the published one is of random draws"
_AMBIGUOUS: Final = "; the paper does not say whether its text has the class once or twice"


def tabulate_results(
    scores: pl.DataFrame, ranks: pl.DataFrame, published: pl.DataFrame, conditions: Conditions, encoder: str
) -> pl.DataFrame:
    """Return the results of a split (schema `RESULTS`): one row per protocol, set of queries and method.

    Args:
        scores: Schema `SCORES`. Of several seeds the mean is taken.
        ranks: Schema `RANKS`, of the same methods.
        published: Schema `PUBLISHED`.
        conditions: What the scores depend on.
        encoder: Name of the CLIP model.
    """
    by, split = GROUP[:2], {"benchmark": conditions.benchmark, "split": conditions.split}
    numbers = published.filter(**split).select(
        *by,
        pl.col("method").alias("published_method"),
        pl.col("encoder").alias("published_encoder"),
        *(pl.col(name).alias(f"published_{name}") for name in ("mrr", "error", "recall_5", "recall_10")),
        "source",
    )
    rows = (
        scores.filter(pl.col("seed").is_null() | (pl.len().over(GROUP) == 1))
        .with_columns(pl.col("method").replace(TEXT_TWICE, TEXT_ONLY).alias("published_method"))
        .join(_compare_with_text(ranks), GROUP, "left", maintain_order="left")
        .join(numbers, [*by, "published_method"], "left", maintain_order="left")
        .with_columns(encoder=pl.lit(encoder), **{name: pl.lit(value) for name, value in split.items()})
        .with_row_index("order")
        .with_columns(pl.col("order").min().over(by))
        .sort("order", pl.col("method").replace_strict(METHODS, range(len(METHODS)), default=len(METHODS)))
    )
    judged = [_judge(conditions, row) for row in rows.iter_rows(named=True)]
    found = pl.DataFrame(judged, {"comparable": pl.Boolean, "why": pl.String}, orient="row")
    return rows.hstack(found).select(RESULTS.names)


def _compare_with_text(ranks: pl.DataFrame) -> pl.DataFrame:
    """Compare the ranks of each method with those of Text only, on the queries that both have."""
    rows = []
    for by, part in ranks.with_columns(pl.col("query").cast(pl.String).alias("query_id")).group_by(GROUP[:2]):
        text = part.filter(method=TEXT_ONLY)
        for (method,), mine in part.group_by("method"):
            both = mine.join(text, "query_id", "semi")
            if method != TEXT_ONLY and both.height:
                found = compare_rankings(both, text.join(mine, "query_id", "semi"))
                rows.append((*by, method, found.difference, found.low, found.high))
    return pl.DataFrame(rows, dict.fromkeys(GROUP, pl.String) | dict.fromkeys(_DIFFERENCE, pl.Float64), orient="row")


def _judge(conditions: Conditions, row: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether the score of a row is comparable with the published one, and why."""
    if row["published_mrr"] is None:
        return False, "no number is published"
    method, drawn = row["method"], row["method"] not in NOT_DRAWN
    reasons = conditions.list_deviations(row["published_encoder"], drawn=drawn) + list_lost(row)
    if method in _TRAINED:
        reasons += conditions.list_training_deviations()
    if drawn and row["seeds"] != _REPETITIONS:
        reasons.append(f"{row['seeds']} repetitions, published are {_REPETITIONS}")
    if reasons:
        return False, "; ".join(reasons)
    if method == RANDOM:
        return True, _EXPECTED
    remarks = _AMBIGUOUS if method in _WITH_CLASS else ""
    if conditions.precision != PUBLISHED_IN:
        remarks += f"; in {conditions.precision}, the published one in {PUBLISHED_IN}"
    return True, _ALIKE + remarks


def list_unmeasured(published: pl.DataFrame, results: pl.DataFrame) -> pl.DataFrame:
    """Return the published numbers (schema `PUBLISHED`) that are beside no row of results (schema `RESULTS`)."""
    return published.join(results, ["benchmark", "split", *GROUP], "anti", maintain_order="left")


def show_published(published: pl.DataFrame) -> pl.DataFrame:
    """Return published numbers (schema `PUBLISHED`) for people, as `show_results` does."""
    return published.select(
        *("benchmark", "split", "protocol"),
        pl.col("query_set").alias("queries of"),
        *("method", "encoder", "shots"),
        _percent("mrr").alias("MRR"),
        pl.format("± {}", _percent("error")).alias("error"),
        *(_percent(f"recall_{k}").alias(f"R@{k}") for k in (5, 10)),
        _percent("mean_average_precision").alias("mAP"),
        "source",
    )


def show_results(results: pl.DataFrame) -> pl.DataFrame:
    """Return results (schema `RESULTS`) for people: numbers in percent with one decimal, as text."""
    return results.select(
        "benchmark",
        "split",
        *_show_measured(),
        _percent("difference", sign=True).alias("beside text"),
        pl.format("{} ± {}", _percent("published_mrr"), _percent("published_error")).alias("published"),
        pl.when("comparable").then(pl.lit("yes")).otherwise(pl.lit("no: ") + pl.col("why")).alias("comparable"),
    )


def show_scores(scores: pl.DataFrame) -> pl.DataFrame:
    """Return scores (schema `SCORES`) for people, as `show_results` does."""
    return scores.select(*_show_measured(), "seed", "queries", "tied")


def list_plotted(scores: pl.DataFrame) -> dict[str, float]:
    """Return the MRR in percent of each method, under PALAVRA's protocol, for rich queries; of means over the seeds.

    Example: `{"MRR of Text only": 37.6}`. Scores (schema `SCORES`) are those of one benchmark and split.
    """
    means = scores.filter(pl.col("seed").is_null(), protocol="palavra", query_set="rich")
    return {f"MRR of {method}": round(100 * mrr, 2) for method, mrr in means.select("method", "mrr").iter_rows()}


def _show_measured() -> list[pl.Expr]:
    return [
        pl.col("protocol"),
        pl.col("query_set").alias("queries of"),
        pl.col("method"),
        _percent("mrr").alias("MRR"),
        pl.format("{} to {}", _percent("mrr_low"), _percent("mrr_high")).alias("95 %"),
        *(_percent(f"recall_{k}").alias(f"R@{k}") for k in DEPTHS),
        _percent("mean_average_precision").alias("mAP"),
        _percent("mrr_by_concept").alias("by concept"),
    ]


def _percent(column: str, *, sign: bool = False) -> pl.Expr:
    """Return a fraction in percent with one decimal, as text; null stays null."""
    form = "{:+.1f}" if sign else "{:.1f}"
    return pl.col(column).map_elements(lambda share: form.format(100 * share), return_dtype=pl.String)
