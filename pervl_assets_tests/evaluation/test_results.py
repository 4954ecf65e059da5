"""The table of results: one row per method, the published number beside it, comparable or not."""

import polars as pl
import pytest

from pervl_assets.clip.preprocessing import UPSTREAM
from pervl_assets.evaluation.known_scores import PALAVRA_PROMPTS, TRAINED_AS_PUBLISHED, WEIGHTS, Conditions
from pervl_assets.evaluation.methods import (
    METHODS,
    PALAVRA,
    WITHOUT_TUNING,
    rank_baselines,
    rank_concepts,
    score_baselines,
)
from pervl_assets.evaluation.metrics import SCORES, compute_scores, expect_random
from pervl_assets.evaluation.published import read_published
from pervl_assets.evaluation.results import (
    RESULTS,
    list_plotted,
    list_unmeasured,
    show_published,
    show_results,
    tabulate_results,
)
from pervl_assets_tests.evaluation.samples import list_images, make_draws, make_features, make_queries

COUNTS = {"few-shot images": 18, "gallery images": 3}
TRAINING = {**TRAINED_AS_PUBLISHED, "prompts_sha256": PALAVRA_PROMPTS}
CONDITIONS = {
    "benchmark": "ytvos",
    "split": "test",
    "synthetic": False,
    "weights_sha256": next(iter(WEIGHTS)),
    "counts": COUNTS,
    "official": COUNTS,
    "trainings": [TRAINING],
}
SEEDS = range(1, 6)


@pytest.fixture(scope="module")
def measured() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Scores and ranks of all methods."""
    queries = pl.concat([make_queries(), make_queries(query_set="concept_only"), make_queries("polar")])
    texts = make_features(queries["text"].unique(maintain_order=True).to_list())
    images = make_features([path for path in list_images() if "other" not in path])
    draws = pl.concat([make_draws(seeds=SEEDS), make_draws("polar", [123])])
    baselines, _ = rank_baselines(queries, draws, texts, images)
    ids = queries.filter(protocol="palavra", form="token")["query_id"]
    tokens = [f"{method}/{seed}/{one}" for method in (PALAVRA, WITHOUT_TUNING) for seed in SEEDS for one in ids]
    concepts, _ = rank_concepts(queries, make_features(tokens, 1), images)
    scores = pl.concat([score_baselines(queries, baselines, images), compute_scores(concepts)])
    return scores, pl.concat([baselines, concepts])


def tabulate(measured, **changes) -> pl.DataFrame:
    results = tabulate_results(
        *measured, read_published(), Conditions(**{**CONDITIONS, **changes}), "ViT-B-32-quickgelu"
    )
    return RESULTS.validate(results, "results")


def explain(results, **row) -> list:
    return results.row(by_predicate=pl.all_horizontal(pl.col(k) == v for k, v in row.items()), named=True)


def test_random_is_the_expectation(measured):
    scores, _ = measured
    SCORES.validate(scores, "scores")
    random = scores.filter(method="Random")
    assert random.select("protocol", "query_set").rows() == [
        ("palavra", "rich"),
        ("palavra", "concept_only"),
        ("polar", "rich"),
    ]
    assert random["mrr"].to_list() == pytest.approx([expect_random(3)["mrr"]] * 3)
    assert random["mrr_by_concept"].to_list() == pytest.approx(random["mrr"].to_list())
    assert random.select("queries", "concepts", "gallery", "tied", "mrr_low").row(0) == (3, 3, 3, 0, None)


def test_random_counts_the_right_images_that_are_in_the_gallery():
    queries = make_queries(cat_1=["cat_1.jpg", "dog_1.jpg", "quarantined.jpg"])
    texts, images = make_features(queries["text"].unique().to_list()), make_features(list_images())
    ranks, _ = rank_baselines(queries, make_draws(), texts, images)
    expected = sum(expect_random(4, number)["mrr"] for number in (2, 1, 1)) / 3
    assert score_baselines(queries, ranks, images).filter(method="Random")["mrr"].to_list() == pytest.approx([expected])


def test_nothing_ranked_has_no_scores():
    ranks, _ = rank_baselines(
        make_queries(), make_draws(), make_features(make_queries()["text"].to_list()), make_features([])
    )
    assert score_baselines(make_queries(), ranks, make_features([])).is_empty()


def test_one_row_per_method_in_order_with_the_mean_of_the_seeds(measured):
    results, (scores, _) = tabulate(measured), measured
    rich = results.filter(protocol="palavra", query_set="rich")
    assert rich["method"].to_list() == [method for method in METHODS if method != "Only tuning"]
    assert rich["seeds"].to_list() == [1, 1, 1, 5, 5, 5, 5]
    of_seeds = scores.filter(pl.col("seed").is_not_null(), method="PALAVRA", query_set="rich", protocol="palavra")
    assert explain(rich, method="PALAVRA")["mrr"] == pytest.approx(of_seeds["mrr"].mean())
    assert results.filter(protocol="polar", method="AvgIm")["seeds"].to_list() == [1]
    assert results.select("protocol", "query_set").unique(maintain_order=True).rows() == [
        ("palavra", "rich"),
        ("palavra", "concept_only"),
        ("polar", "rich"),
    ]


def test_what_is_plotted_is_the_mean_of_each_method_in_percent(measured):
    rich = tabulate(measured).filter(protocol="palavra", query_set="rich")
    plotted = list_plotted(measured[0])
    assert plotted.keys() == {f"MRR of {method}" for method in rich["method"]}
    assert plotted["MRR of PALAVRA"] == pytest.approx(100 * explain(rich, method="PALAVRA")["mrr"], abs=0.01)


def test_the_difference_from_text_only_is_paired(measured):
    results = tabulate(measured).filter(protocol="palavra", query_set="rich")
    text = explain(results, method="Text only")["mrr"]
    for row in results.iter_rows(named=True):
        if row["method"] in ("Random", "Text only"):
            assert row["difference"] is None
        else:
            assert row["difference"] == pytest.approx(row["mrr"] - text)
            assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_published_numbers_stand_beside_the_scores(measured):
    results = tabulate(measured)
    rich = {"protocol": "palavra", "query_set": "rich"}
    shown = {row["method"]: row["published_mrr"] for row in results.filter(**rich).iter_rows(named=True)}
    assert shown["Text only"] == shown["Text only, class twice"] == 0.376
    assert (shown["PALAVRA"], shown["Random"], shown["AvgIm"]) == (0.612, 0.028, None)
    assert explain(results, **rich, method="PALAVRA")["published_recall_5"] == 0.787
    assert explain(results, protocol="palavra", query_set="concept_only", method="AvgIm")["published_mrr"] == 0.382
    assert results.filter(protocol="polar")["published_mrr"].is_null().all()
    assert results.height == len(results.unique(["protocol", "query_set", "method"]))


@pytest.mark.parametrize(
    ("changes", "row", "why"),
    [
        ({}, "PALAVRA", None),
        ({}, "AvgIm+Text", None),
        ({}, "AvgIm", "no number is published"),
        ({"synthetic": True}, "Random", "the images are those of the demo"),
        ({"weights_sha256": "0" * 64}, "Random", None),
        (
            {"weights_sha256": "0" * 64},
            "Text only",
            "the weights (sha256 000000000000…) are not those of OpenAI's ViT-B/32",
        ),
        ({"counts": {**COUNTS, "gallery images": 2}}, "PALAVRA", "2 gallery images, officially 3"),
        ({"counts": {**COUNTS, "few-shot images": 17}}, "PALAVRA", "17 few-shot images, officially 18"),
        ({"counts": {**COUNTS, "few-shot images": 17}}, "Text only", None),
        (
            {"annotations": ["captions.csv"]},
            "Text only",
            "1 annotation file not known to be official: captions.csv",
        ),
        ({"precision": "fp32 on cpu"}, "Text only", None),
        ({"trainings": [TRAINING | {"mode": "paper"}]}, "Text only", None),
        *(
            ({"trainings": [TRAINING, TRAINING | {name: value}] * 2}, "Without tuning", f"trained with {why}")
            for name, value, why in (
                ("mode", "paper", "mode paper, published palavra"),
                ("classes", 30, "classes 30, published 1000"),
                ("lost_images", 3, "lost images 3, published 0"),
                ("names", "csv", "names csv, published upstream"),
                ("preprocessing", "another", f"preprocessing another, published {UPSTREAM.describe()}"),
            )
        ),
        ({"trainings": []}, "PALAVRA", "it is not known how the inversion models were trained"),
    ],
)
def test_every_number_is_marked_comparable_or_not(measured, changes, row, why):
    found = explain(tabulate(measured, **changes), protocol="palavra", query_set="rich", method=row)
    assert found["comparable"] == (why is None)
    if why:
        assert found["why"] == why
    elif row == "Random":
        assert found["why"] == "the expected score; the published one is of random draws"
    else:
        assert found["why"].startswith("measured as published")
        assert ("does not say" in found["why"]) == (row in ("Text only", "AvgIm+Text"))
        assert ("in fp32 on cpu, the published one in fp16 on cuda" in found["why"]) == ("precision" in changes)


@pytest.mark.parametrize("prompts", ["", "0" * 64])
def test_a_training_with_other_prompts_is_not_comparable(measured, prompts):
    trainings = [TRAINING, {**TRAINING, "prompts_sha256": prompts}]
    found = explain(tabulate(measured, trainings=trainings), protocol="palavra", query_set="rich", method="PALAVRA")
    assert (found["comparable"], "other prompts" in found["why"]) == (False, True)


def test_scores_without_some_queries_are_not_comparable(measured):
    scores, ranks = measured
    results = tabulate((scores.with_columns(queries=pl.lit(2, pl.Int32)), ranks))
    for method in ("Random", "Text only", "PALAVRA"):
        found = explain(results, protocol="palavra", query_set="rich", method=method)
        assert (found["comparable"], found["why"]) == (False, "2 queries for 3 images, officially one for each")


def test_published_numbers_of_other_methods_are_shown_too(measured):
    published, results = read_published(), tabulate(measured)
    others = list_unmeasured(published, results)
    beside = results.filter(pl.col("published_mrr").is_not_null(), pl.col("method") != "Text only, class twice")
    assert others.height + beside.height == published.height
    shown = show_published(others)
    polar = explain(shown, protocol="polar", method="POLAR", encoder="ViT-B/32", **{"queries of": "concept"})
    assert (polar["MRR"], polar["mAP"], polar["R@5"], polar["shots"]) == ("59.3", "28.7", None, 5)
    assert explain(shown, split="test", benchmark="ytvos", method="COLLIE: Text")["MRR"] == "7.2"
    assert "PALAVRA" in others.filter(benchmark="deep_fashion")["method"].to_list()  # not evaluated here


def test_fewer_repetitions_are_not_comparable(measured):
    _, ranks = measured
    few = ranks.filter(pl.col("seed").is_null() | (pl.col("seed") <= 3))
    results = tabulate((compute_scores(few), few))
    found = explain(results, protocol="palavra", query_set="rich", method="PALAVRA")
    assert (found["comparable"], found["why"]) == (False, "3 repetitions, published are 5")


def test_people_see_percent_with_one_decimal(measured):
    shown = show_results(tabulate(measured))
    row = explain(shown, protocol="palavra", method="PALAVRA", **{"queries of": "rich"})
    assert row["published"] == "61.2 ± 0.4"
    assert row["comparable"] == "yes"
    assert all(len(row[name].split(".")[1]) == 1 for name in ("MRR", "R@1", "mAP", "beside text"))
    assert {"benchmark", "protocol", "queries of"} < set(shown.columns)  # a number is never without its protocol
    assert explain(shown, protocol="polar", method="AvgIm")["comparable"] == "no: no number is published"


def test_each_own_method_has_at_most_one_published_number():
    own = read_published().filter(pl.col("method").is_in(METHODS))
    assert own.select("benchmark", "split", "protocol", "query_set", "method").is_unique().all()
