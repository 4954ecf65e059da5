"""The methods that are compared: their names, the query vectors of each, and the places of the right images.

As in PALAVRA, shots and texts are normalised before they are averaged.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.benchmarks.benchmark import GALLERY_FOLDER
from pervl_assets.clip.features import Features, normalise
from pervl_assets.core.errors import PervlError, name_some
from pervl_assets.core.text import count_of
from pervl_assets.evaluation.metrics import RANKS, SCORES, compute_scores, expect_random, rank_queries
from pervl_assets.evaluation.protocols import PROTOCOLS

RANDOM: Final = "Random"
TEXT_ONLY: Final = "Text only"
TEXT_TWICE: Final = "Text only, class twice"
AVERAGE_IMAGE: Final = "AvgIm"
AVERAGE_BOTH: Final = "AvgIm+Text"
PALAVRA: Final = "PALAVRA"
ONLY_TUNING: Final = "Only tuning"
WITHOUT_TUNING: Final = "Without tuning"
METHODS: Final = (
    *(RANDOM, TEXT_ONLY, TEXT_TWICE, AVERAGE_IMAGE, AVERAGE_BOTH),
    *(WITHOUT_TUNING, ONLY_TUNING, PALAVRA),
)
"""All of them, in the order in which they are shown."""

NOT_DRAWN: Final = (RANDOM, TEXT_ONLY, TEXT_TWICE)
"""Those that need no few-shot images."""

_GALLERY: Final = f"{GALLERY_FOLDER}/"
_SCHEMES: Final = {protocol.name: protocol.draws.scheme for protocol in PROTOCOLS}
_FORMS: Final = ("text", "text_twice")
_TOKEN: Final = "token"  # noqa: S105 - a form of queries
_RUN_AGAIN: Final = "Score again: pervl materialize evaluation (with --force if that does not help)"

_NO_TARGET: Final = "none of its right images has a vector"
_NO_SHOT: Final = "none of the few-shot images of its concept has a vector"
_NO_TOKEN: Final = "its concept has no token, or its * is beyond the text that CLIP reads"  # noqa: S105 - a reason

_Vectors = npt.NDArray[np.float32]


class Ranked(NamedTuple):
    """Places of right images (schema `RANKS`), and the queries left out: `query_id` and `reason`, each pair once."""

    ranks: pl.DataFrame
    lost: pl.DataFrame


def rank_baselines(queries: pl.DataFrame, draws: pl.DataFrame, texts: Features, images: Features) -> Ranked:
    """Rank the gallery by the methods that need no training.

    Text only: the text, with the class instead of the concept. Where the class is in it twice (quirk E2), it is a
    method of its own. AvgIm: m = norm(mean(norm(shot))); a shot drawn twice counts twice. AvgIm+Text: norm(text) + m.

    Args:
        queries: Schema `QUERIES`.
        draws: Schema `DRAWS`. A shot without a vector is left out of the mean.
        texts: Features of the texts.
        images: Features of the tree's images; ids are paths.

    Raises:
        PervlError: Texts and images were encoded differently, or a text was not encoded.
    """
    _require_one_encoder(texts, images)
    asked = queries.filter(pl.col("form").is_in(_FORMS)).join(
        _number(texts, "text"), "text", "left", maintain_order="left"
    )
    if absent := asked.filter(pl.col("text_row").is_null())["text"].to_list():
        raise PervlError(
            f"{count_of(len(absent), 'text')} of the queries without features: {name_some(absent)}.", advice=_RUN_AGAIN
        )
    once, twice = (asked.filter(form=form).with_columns(seed=pl.lit(None, pl.Int32)) for form in _FORMS)
    means, vectors = _average_shots(draws, images)
    scheme = pl.col("protocol").replace_strict(_SCHEMES, default=None, return_dtype=pl.String)
    drawn = (
        once.drop("seed")
        .with_columns(scheme=scheme)
        .join(means, ["scheme", "concept"], "left", maintain_order="left_right")
    )
    shown = drawn.drop_nulls("mean_row")
    seen = vectors[shown["mean_row"].to_numpy()]
    parts = [
        (once.with_columns(method=pl.lit(TEXT_ONLY)), _look_up(texts, once)),
        (twice.with_columns(method=pl.lit(TEXT_TWICE)), _look_up(texts, twice)),
        (shown.with_columns(method=pl.lit(AVERAGE_IMAGE)), seen),
        (shown.with_columns(method=pl.lit(AVERAGE_BOTH)), normalise(_look_up(texts, shown)) + seen),
    ]
    without = drawn.filter(pl.col("mean_row").is_null()).select("query_id", reason=pl.lit(_NO_SHOT))
    columns = ("method", "seed", "query_id")
    chosen = pl.concat([part.select(columns) for part, _ in parts])
    return _rank(queries, chosen, np.concatenate([part for _, part in parts]), images, without)


def rank_concepts(queries: pl.DataFrame, concepts: Features, images: Features) -> Ranked:
    """Rank the gallery by texts with learned tokens.

    Args:
        queries: Schema `QUERIES`.
        concepts: Features of the texts; ids are `<method>/<seed>/<query_id>`.
        images: Features of the tree's images; ids are paths.

    Raises:
        PervlError: Texts and images were encoded differently, or an id names no query.
    """
    _require_one_encoder(concepts, images)
    ids = (
        pl.Series("id", concepts.ids, pl.String).str.splitn("/", 3).struct.rename_fields(["method", "seed", "query_id"])
    )
    chosen = ids.struct.unnest().with_columns(pl.col("seed").cast(pl.Int32, strict=False))
    known = chosen.select(pl.col("query_id").is_in(queries["query_id"].to_list()) & pl.col("seed").is_not_null())
    if unknown := pl.Series(concepts.ids).filter(~known.to_series().fill_null(value=False)).to_list():
        raise PervlError(
            f"{count_of(len(unknown), 'text')} with tokens, but of no query: {name_some(unknown)}.", advice=_RUN_AGAIN
        )
    protocols = chosen["query_id"].str.split("/").list.first()
    wanted = queries.filter(pl.col("protocol").is_in(protocols.to_list()), form=_TOKEN).select("query_id")
    expected = wanted.join(chosen.select("method", "seed").unique(), how="cross")
    without = expected.join(chosen, ["method", "seed", "query_id"], "anti")
    return _rank(queries, chosen, concepts.vectors, images, without.select("query_id", reason=pl.lit(_NO_TOKEN)))


def _require_one_encoder(texts: Features, images: Features) -> None:
    if differences := texts.passport.list_differences(images.passport):
        raise PervlError(f"Texts and images were encoded differently: {'; '.join(differences)}.", advice=_RUN_AGAIN)


def _number(features: Features, name: str) -> pl.DataFrame:
    """Return the row of each id, as columns `<name>` and `<name>_row`."""
    return pl.DataFrame({name: pl.Series(features.ids, dtype=pl.String)}).with_row_index(f"{name}_row")


def _look_up(texts: Features, asked: pl.DataFrame) -> _Vectors:
    rows: npt.NDArray[np.uint32] = asked["text_row"].to_numpy()
    return texts.vectors[rows]


def _average_shots(draws: pl.DataFrame, images: Features) -> tuple[pl.DataFrame, _Vectors]:
    """Return the normalised mean of each draw: its `scheme`, `seed`, `concept` and `mean_row`, and the vectors."""
    shots = draws.join(_number(images, "image"), "image", maintain_order="left")
    means = shots.select("scheme", "seed", "concept").unique(maintain_order=True).with_row_index("mean_row")
    rows = shots.join(means, ["scheme", "seed", "concept"], "left", maintain_order="left")
    sums = np.zeros((means.height, images.vectors.shape[1]), np.float32)
    np.add.at(sums, rows["mean_row"].to_numpy(), normalise(images.vectors[rows["image_row"].to_numpy()]))
    return means, normalise(sums)


def _rank(
    queries: pl.DataFrame, chosen: pl.DataFrame, vectors: _Vectors, images: Features, without: pl.DataFrame
) -> Ranked:
    """Rank the gallery by vectors.

    Args:
        queries: Schema `QUERIES`.
        chosen: `method`, `seed` and `query_id` of every vector.
        vectors: float32 (Q, D).
        images: See `rank_baselines`.
        without: Queries that have no vector, with `reason`.
    """
    gallery = _list_gallery(images)
    names, searched = gallery["image"], images.vectors[gallery["image_row"].to_numpy()]
    asked = chosen.with_row_index("row").join(_keep_found(queries, names), "query_id", "left", maintain_order="left")
    is_lost = pl.col("targets").list.len() == 0
    ranks = [
        rank_queries(part, vectors[part["row"].to_numpy()], names.to_list(), searched, method, seed)
        for (method, seed), part in asked.filter(~is_lost).group_by("method", "seed", maintain_order=True)
    ]
    lost = [without, asked.filter(is_lost).select("query_id", reason=pl.lit(_NO_TARGET))]
    return Ranked(pl.concat([RANKS.to_polars().to_frame(), *ranks]), pl.concat(lost).unique(maintain_order=True))


def _list_gallery(images: Features) -> pl.DataFrame:
    """Return the file name (`image`) and the row (`image_row`) of each image of the gallery."""
    numbered = _number(images, "image").filter(pl.col("image").str.starts_with(_GALLERY))
    return numbered.with_columns(pl.col("image").str.strip_prefix(_GALLERY))


def _keep_found(queries: pl.DataFrame, gallery: pl.Series) -> pl.DataFrame:
    """Return queries with those of their right images that are in the gallery."""
    return queries.with_columns(pl.col("targets").list.eval(pl.element().filter(pl.element().is_in(gallery.implode()))))


def score_baselines(queries: pl.DataFrame, ranks: pl.DataFrame, images: Features) -> pl.DataFrame:
    """Return the scores of baselines (schema `SCORES`), with those expected of a random ranking.

    Arguments as of `rank_baselines`, and the ranks that it returned.
    """
    gallery = _list_gallery(images)["image"]
    right = _keep_found(queries, gallery).select("query_id", right=pl.col("targets").list.len())
    asked = ranks.filter(method=TEXT_ONLY).join(right, "query_id", "left", maintain_order="left")
    chances = [{"right": number, **expect_random(gallery.len(), number)} for number in asked["right"].unique()]
    by, metrics = ["protocol", "query_set"], [*expect_random(1)]
    types = {"right": pl.UInt32, **dict.fromkeys(metrics, pl.Float64)}
    expected = (
        asked.join(pl.DataFrame(chances, types), "right", "left", maintain_order="left")
        .with_columns(mrr_by_concept=pl.col("mrr") / pl.len().over(*by, "concept"))
        .group_by(by, maintain_order=True)
        .agg(
            pl.lit(RANDOM).alias("method"),
            pl.lit(1).alias("seeds"),
            pl.len().alias("queries"),
            pl.col("concept").n_unique().alias("concepts"),
            pl.col("gallery").first(),
            pl.col(metrics).mean(),
            pl.col("mrr_by_concept").sum() / pl.col("concept").n_unique(),
            pl.lit(0).alias("tied"),
        )
    )
    scores = pl.concat([expected, compute_scores(ranks)], how="diagonal_relaxed")
    return scores.select(pl.col(column.name).cast(column.dtype) for column in SCORES)
