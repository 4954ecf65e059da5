"""Scores: the golden figures, means over queries, concepts and seeds, intervals, comparisons, and chance."""

import itertools
import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.core.errors import PervlError
from pervl_assets.evaluation import metrics
from pervl_assets.evaluation.metrics import (
    RANKS,
    SCORES,
    compare_rankings,
    compute_scores,
    expect_random,
    rank_queries,
)
from pervl_assets_tests.evaluation.test_ranking import draw_golden


def make_queries(targets, concepts=None):
    """Return queries with these right images (names), each of its own concept."""
    count = len(targets)
    return pl.DataFrame(
        {
            "protocol": ["palavra"] * count,
            "query_set": ["rich"] * count,
            "query_id": [f"q{row}" for row in range(count)],
            "query": pl.Series(range(count), dtype=pl.Int32),
            "concept": concepts or [f"c{row}" for row in range(count)],
            "targets": targets,
        },
        schema_overrides={"targets": pl.List(pl.String)},
    )


def make_ranks(places, concepts=None, method="Text only", seed=None, ties=0):
    """Return ranks with these places."""
    count = len(places)
    frame = make_queries([["x.jpg"]] * count, concepts).drop("targets")
    more = {"method": method, "seed": seed, "target": "x.jpg", "ties": ties, "found": "y.jpg", "gallery": 50}
    frame = frame.with_columns(
        **{name: pl.lit(value) for name, value in more.items()},
        place=pl.Series(places, dtype=pl.Int32),
        average_precision=1 / pl.Series(places, dtype=pl.Float64),
    )
    return frame.select(pl.col(column.name).cast(column.dtype) for column in RANKS)


def test_scores_are_those_of_palavra(shared):
    for case in json.loads((shared / "golden/metrics.json").read_text())["cases"]:
        queries, gallery = draw_golden(case["key"], case["n"], case["a"])
        names = [f"{row}.jpg" for row in range(case["n"])]
        ranks = rank_queries(make_queries([[name] for name in names]), queries, names, gallery, "PALAVRA")
        RANKS.validate(ranks, "ranks")
        assert ranks["place"].to_list() == case["places"]
        scores = SCORES.validate(compute_scores(ranks), "scores").row(0, named=True)
        assert scores["mrr"] == scores["mean_average_precision"] == scores["mrr_by_concept"] == case["mrr"]
        assert {k: scores[f"recall_{k}"] for k in case["recall"]} == case["recall"]
        assert scores["mrr_low"] < case["mrr"] < scores["mrr_high"]
        assert (scores["queries"], scores["gallery"], scores["tied"], scores["mrr_sem"]) == (
            case["n"],
            case["n"],
            0,
            None,
        )
    golden = json.loads((shared / "golden/metrics.json").read_text())["random_expectation"]
    for gallery in (221, 252):
        (expected,) = (value for name, value in golden.items() if f"({gallery})" in name)
        assert expect_random(gallery)["mrr"] == pytest.approx(expected, abs=1e-15)


def test_the_best_placed_right_image_and_what_was_found_are_named():
    gallery = np.eye(3, dtype=np.float32)
    queries = make_queries([["a.jpg"], ["c.jpg", "b.jpg"]])
    vectors = np.asarray([[3, 4, 0], [5, 4, 3]], np.float32)
    ranks = rank_queries(queries, vectors, ["a.jpg", "b.jpg", "c.jpg"], gallery, "AvgIm", 5)
    assert ranks.select("target", "place", "found", "seed", "method").rows() == [
        ("a.jpg", 2, "b.jpg", 5, "AvgIm"),
        ("b.jpg", 2, "a.jpg", 5, "AvgIm"),
    ]
    assert ranks["average_precision"].to_list() == pytest.approx([1 / 2, (1 / 2 + 2 / 3) / 2])


def test_unknown_right_images_are_counted_and_named():
    with pytest.raises(PervlError, match=r"2 right images not among the 1 of the gallery: 'b\.jpg', 'c\.jpg'"):
        rank_queries(
            make_queries([["a.jpg", "c.jpg"], ["b.jpg"]]), np.ones((2, 2)), ["a.jpg"], np.ones((1, 2)), "AvgIm"
        )


def test_queries_and_concepts_have_means_of_their_own():
    scores = compute_scores(make_ranks([1, 2, 4, 10, 11], ["skirt", "skirt", "skirt", "top", "top"])).row(0, named=True)
    assert scores["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 10 + 1 / 11) / 5)
    assert scores["mrr_by_concept"] == pytest.approx(((1 + 1 / 2 + 1 / 4) / 3 + (1 / 10 + 1 / 11) / 2) / 2)
    assert [scores[f"recall_{k}"] for k in (1, 5, 10)] == pytest.approx([1 / 5, 3 / 5, 4 / 5])
    assert (scores["queries"], scores["concepts"], scores["seeds"], scores["seed"]) == (5, 2, 1, None)


def test_several_seeds_have_a_mean_with_a_standard_error():
    places = {1: [1, 2, 3, 4], 2: [2, 2, 6, 4], 3: [1, 1, 3, 2]}
    ranks = [make_ranks(row, method="PALAVRA", seed=seed, ties=int(seed == 2)) for seed, row in places.items()]
    scores = compute_scores(pl.concat([ranks[2], make_ranks([5, 5, 5, 5]), ranks[0], ranks[1]]))
    assert scores.select("method", "seed", "seeds").rows() == [
        ("PALAVRA", 1, 1),
        ("PALAVRA", 2, 1),
        ("PALAVRA", 3, 1),
        ("PALAVRA", None, 3),
        ("Text only", None, 1),
    ]
    of_seeds = [np.mean(1 / np.asarray(row)) for row in places.values()]
    assert scores["mrr"].to_list() == pytest.approx([*of_seeds, np.mean(of_seeds), 0.2])
    assert scores["mrr_sem"].to_list() == [None, None, None, pytest.approx(np.std(of_seeds, ddof=1) / 3**0.5), None]
    assert scores["tied"].to_list() == [0, 4, 0, 4, 0]
    assert scores["recall_1"][3] == pytest.approx((1 / 4 + 0 + 2 / 4) / 3)
    assert scores["queries"].to_list() == [4] * 5


def test_intervals_are_percentiles_over_resampled_concepts(monkeypatch):
    rng = np.random.default_rng(3)
    places, concepts = rng.integers(1, 50, 60), [f"c{row % 13}" for row in range(60)]
    ranks = make_ranks(places, concepts)
    scores = compute_scores(ranks).row(0, named=True)
    reciprocal = {name: [] for name in concepts}
    for place, name in zip(places, concepts, strict=True):
        reciprocal[name].append(1 / place)
    clusters = list(reciprocal.values())
    means = [
        np.mean(list(itertools.chain.from_iterable(clusters[row] for row in rng.integers(13, size=13))))
        for _ in range(4000)
    ]
    assert (scores["mrr_low"], scores["mrr_high"]) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.01)
    again = compute_scores(ranks.sample(fraction=1, shuffle=True, seed=1)).row(0, named=True)
    assert (again["mrr_low"], again["mrr_high"]) == pytest.approx((scores["mrr_low"], scores["mrr_high"]), abs=1e-12)
    monkeypatch.setattr(metrics, "_DRAWN", 100)  # a few resamples at a time
    blocks = compute_scores(ranks).row(0, named=True)
    assert (blocks["mrr_low"], blocks["mrr_high"]) == pytest.approx((scores["mrr_low"], scores["mrr_high"]), abs=0.01)


def test_one_concept_has_no_interval_and_no_rank_no_score():
    scores = compute_scores(make_ranks([1, 2], ["c", "c"]))
    assert scores.select("mrr_low", "mrr_high").row(0) == (None, None)
    assert compare_rankings(make_ranks([1, 2], ["c", "c"]), make_ranks([2, 2], ["c", "c"])).low is None
    assert SCORES.validate(compute_scores(make_ranks([])), "scores").is_empty()


def test_rankings_are_compared_query_by_query():
    rng = np.random.default_rng(4)
    places = rng.integers(2, 50, 80)
    better = compare_rankings(make_ranks(places - 1), make_ranks(places).sample(fraction=1, shuffle=True, seed=1))
    assert better.difference == pytest.approx(np.mean(1 / (places - 1) - 1 / places))
    assert 0 < better.low < better.difference < better.high
    assert (better.queries, better.better, better.worse) == (80, 80, 0)
    score = compute_scores(make_ranks(places)).row(0, named=True)
    assert better.high - better.low < score["mrr_high"] - score["mrr_low"]  # pairing helps
    seeds = pl.concat([make_ranks(places, seed=1), make_ranks(places + 2, seed=2)])
    assert compare_rankings(seeds, make_ranks(places)).worse == 80
    same = compare_rankings(make_ranks(places), make_ranks(places))
    assert (same.difference, same.low, same.high, same.better, same.worse) == (0, 0, 0, 0, 0)
    with pytest.raises(PervlError, match="2 queries in one of the two rankings only: 'q78', 'q79'"):
        compare_rankings(make_ranks(places[:78]), make_ranks(places))


@settings(max_examples=30, deadline=None)
@given(gallery=st.integers(1, 7), right=st.integers(1, 7))
def test_chance_is_the_mean_over_all_orders(gallery, right):
    right = min(right, gallery)
    found = [list(places) for places in itertools.combinations(range(1, gallery + 1), right)]
    expected = expect_random(gallery, right)
    assert expected["mrr"] == pytest.approx(np.mean([1 / places[0] for places in found]))
    for k in (1, 5, 10):
        assert expected[f"recall_{k}"] == pytest.approx(np.mean([places[0] <= k for places in found]))
    precision = [np.mean([number / place for number, place in enumerate(places, 1)]) for places in found]
    assert expected["mean_average_precision"] == pytest.approx(np.mean(precision))
    assert expect_random(gallery)["mrr"] == pytest.approx(math.fsum(1 / k for k in range(1, gallery + 1)) / gallery)
