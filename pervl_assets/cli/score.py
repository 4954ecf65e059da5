"""`pervl score`: the gallery of a benchmark, and the scores as text and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

import polars as pl
from rich.console import Console

from pervl_assets.benchmarks import find_searched
from pervl_assets.benchmarks.benchmark import GALLERY_FOLDER
from pervl_assets.cli.console import escape, make_console, make_table, print_text
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import PervlError
from pervl_assets.evaluation.metrics import DEPTHS, Comparison
from pervl_assets.evaluation.score_files import FileScore, Vectors

_SHOWN: Final = 10
_RECALLS: Final = {f"recall_{k}": f"R@{k}" for k in DEPTHS}


def read_benchmark(data: Path | Address, name: str, split: str, encoder: str | None = None) -> Vectors:
    """Return the evaluation images of a split of a benchmark as a gallery, from their stored features.

    Raises:
        PervlError: There is no such benchmark or split.
        MissingInputError: The features are not materialized.
    """
    from pervl_assets.defs.evaluation_tables import EVALUATION
    from pervl_assets.defs.features import name_key
    from pervl_assets.io_managers.features import FeaturesIOManager

    splits = {one.name: tree.splits for one, _, tree in find_searched()}
    if split not in splits.get(name, ()):
        raise PervlError(
            f"There is no split {split!r} of a benchmark {name!r} that has an evaluation.",
            advice="Choose one of these: "
            + "; ".join(f"--benchmark {known} --split {' or '.join(of)}" for known, of in splits.items()),
        )
    key = name_key(f"{name}/image_features", encoder, EVALUATION)
    features = FeaturesIOManager(data=str(data)).read(key, split)
    rows = [row for row, image in enumerate(features.ids) if image.startswith(f"{GALLERY_FOLDER}/")]
    images = [features.ids[row].removeprefix(f"{GALLERY_FOLDER}/") for row in rows]
    return Vectors(
        f"{key.to_user_string()} [{split}]",
        pl.DataFrame({"image": images}, {"image": pl.String}),
        features.vectors[rows],
    )


def encode_scores(gallery: Vectors, scores: Sequence[FileScore]) -> str:
    """Return everything as JSON; scores are fractions, and places begin with 1."""
    return json.dumps(
        {
            "gallery": {
                "source": gallery.source,
                "images": len(gallery.vectors),
                "dimension": gallery.vectors.shape[1],
            },
            "results": [_list_result(score) for score in scores],
            "comparisons": [
                {"file": score.queries.source, "beside": scores[0].queries.source, **vars(score.change)}
                for score in scores
                if score.change
            ],
        },
        indent=2,
    )


def _list_result(score: FileScore) -> dict[str, Any]:
    unused = ("protocol", "query_set", "method", "seed", "seeds", "gallery", "mrr_sem")
    places = score.queries.rows.select("query").hstack(
        score.ranks.select("concept", "target", "place", "ties", "average_precision", "found")
    )
    measures = {name: value for name, value in score.scores.items() if name not in unused}
    return {"file": score.queries.source, **measures, "places": places.to_dicts()}


def print_scores(gallery: Vectors, scores: Sequence[FileScore]) -> None:
    """Print the scores in percent, comparisons with the first file, and the queries that differ or fail the most."""
    console = make_console()
    for letter, score in zip(_name_columns(scores), scores, strict=True):
        print_text(console, f"[bold]{letter}[/] {escape(score.queries.source)}")
    print_text(
        console,
        f"ranked by cosine similarity: {len(gallery.vectors):,} images of {escape(gallery.source)}, "
        f"{gallery.vectors.shape[1]:,} numbers each",
    )
    _print_measures(console, scores)
    for letter, score in zip(_name_columns(scores), scores, strict=True):
        if score.change:
            print_text(console, _describe(letter, score.change))
    _print_places(console, scores)
    if (count := len(scores[0].ranks)) > _SHOWN:
        which = "the largest differences" if len(scores) > 1 else "the worst places"
        print_text(console, f"[dim]{_SHOWN} of {count:,} queries, those with {which}; --json prints all[/]")


def _name_columns(scores: Sequence[FileScore]) -> list[str]:
    """Return a letter for each file, or a number where there are too many."""
    return [ascii_uppercase[row] if row < len(ascii_uppercase) else str(row + 1) for row in range(len(scores))]


def _print_measures(console: Console, scores: Sequence[FileScore]) -> None:
    table = make_table("percent", *(f">{letter}" for letter in _name_columns(scores)))

    def add(title: str, *names: str) -> None:
        """Add a row; values that are missing are left out."""
        columns = [[one.scores[name] for name in names] for one in scores]
        table.add_row(
            title, *("" if None in row else " to ".join(f"{100 * one:.1f}" for one in row) for row in columns)
        )

    add("MRR", "mrr")
    add("95 % of it", "mrr_low", "mrr_high")
    for name, title in _RECALLS.items():
        add(title, name)
    add("mAP", "mean_average_precision")
    counts = {"queries": "queries", "queries with ties": "tied"}
    if any(score.scores["concepts"] < score.scores["queries"] for score in scores):
        add("MRR by concept", "mrr_by_concept")
        counts["concepts"] = "concepts"
    table.add_section()
    for title, name in counts.items():
        table.add_row(title, *(f"{one.scores[name]:,}" for one in scores))
    console.print(table)


def _describe(letter: str, change: Comparison) -> str:
    limits = "" if change.low is None else f", 95 % of it {100 * change.low:+.1f} to {100 * (change.high or 0):+.1f}"
    equal = change.queries - change.better - change.worse
    return (
        f"[bold]{letter} beside A[/]: MRR {100 * change.difference:+.1f}{limits}; "
        f"{change.better:,} queries better, {change.worse:,} worse, {equal:,} equal"
    )


def _print_places(console: Console, scores: Sequence[FileScore]) -> None:
    """Print the queries with the worst places; of several files, those with the largest difference of 1 / place."""
    letters = _name_columns(scores)
    places = scores[0].ranks.select("query_id", "target", "found", A="place")
    for letter, score in zip(letters[1:], scores[1:], strict=True):
        places = places.join(score.ranks.select("query_id", pl.col("place").alias(letter)), on="query_id")
    reciprocal = [1 / pl.col(letter) for letter in letters]
    order = pl.max_horizontal(reciprocal) - pl.min_horizontal(reciprocal) if len(scores) > 1 else "A"
    titles = [f">{letter}" for letter in letters] if len(scores) > 1 else [">place"]
    table = make_table("query", "right image", *titles, "at place 1" + (" of A" if len(scores) > 1 else ""))
    for row in places.sort(order, descending=True, maintain_order=True).head(_SHOWN).iter_rows(named=True):
        query, target, found = (escape(row[name]) for name in ("query_id", "target", "found"))
        table.add_row(query, target, *(f"{row[letter]:,}" for letter in letters), found)
    console.print(table)
