"""The check of the known text-only scores: where it applies, which reading it names, and when it fails."""

import polars as pl
import pytest

from pervl_assets.evaluation.known_scores import (
    PALAVRA_PROMPTS,
    TRAINED_AS_PUBLISHED,
    WEIGHTS,
    Conditions,
    check_known_scores,
)
from pervl_assets.evaluation.published import read_published

OPENAI = next(iter(WEIGHTS))
COUNTS = {"few-shot images": 653, "gallery images": 221}
TEXT = {"rich": 0.1764, "rich_detailed": 0.2431, "concept_only": 0.0422}
"""Scores that round to those published for DeepFashion2 test."""


def make_conditions(**changes) -> Conditions:
    defaults = {"benchmark": "deep_fashion", "split": "test", "synthetic": False, "weights_sha256": OPENAI}
    return Conditions(**{**defaults, "counts": COUNTS, "official": COUNTS, **changes})


def make_scores(once, twice, queries=221) -> pl.DataFrame:
    rows = [
        ("palavra", query_set, method, mrr, queries, 221)
        for method, found in (("Text only", once), ("Text only, class twice", twice), ("AvgIm", TEXT))
        for query_set, mrr in found.items()
    ]
    return pl.DataFrame(rows, schema=["protocol", "query_set", "method", "mrr", "queries", "gallery"], orient="row")


def check(once=TEXT, twice=TEXT, queries=221, **changes):
    return check_known_scores(make_scores(once, twice, queries), read_published(), make_conditions(**changes))


OFF = dict.fromkeys(TEXT, 0.3)


@pytest.mark.parametrize("sha256", WEIGHTS)
@pytest.mark.parametrize(
    ("once", "twice", "reading"),
    [
        (TEXT, OFF, "with the class once."),
        (OFF, TEXT, "with the class twice."),
        (TEXT, TEXT, "with the class once and with the class twice."),
        (TEXT, {}, "with the class once."),
    ],
)
def test_the_reading_that_gives_the_scores_is_named(sha256, once, twice, reading):
    found = check(once, twice, weights_sha256=sha256)
    assert found.passed
    assert found.text.startswith(f"the paper's text-only scores come out, {reading} ")
    assert "rich: published 17.6%, with the class once" in found.text
    assert found.rows.height == 3


@pytest.mark.parametrize(("score", "passed"), [(0.1755, True), (0.1765, True), (0.17549, False), (0.17651, False)])
def test_the_tolerance_is_half_of_the_last_digit(score, passed):
    assert check({**TEXT, "rich": score}, OFF).passed == passed


def test_scores_that_do_not_come_out_fail_and_are_shown():
    found = check(OFF, {"rich": 0.2})
    assert not found.passed
    assert "no reading gives all 3 of them to 0.05 points, and 0 come out under one of the two" in found.text
    assert "rich: published 17.6%, with the class once 30.00%, with the class twice 20.00%" in found.text
    assert "concept_only: published 4.2%, with the class once 30.00%, with the class twice not measured" in found.text


def test_one_reading_must_give_all_scores():
    found = check({**TEXT, "rich": 0.3}, {**OFF, "rich": 0.176})
    assert not found.passed
    assert "and 3 come out under one of the two" in found.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"synthetic": True}, "the images are those of the demo"),
        ({"weights_sha256": "ab" * 32}, "the weights (sha256 abababababab…) are not those of OpenAI's ViT-B/32"),
        ({"counts": {**COUNTS, "gallery images": 220}}, "220 gallery images, officially 221"),
        ({"counts": {}}, "0 gallery images, officially 221"),
        ({"queries": 100}, "100 queries for 221 images, officially one for each"),
        (
            {"annotations": ["b.csv", "a.csv"]},
            "2 annotation files not known to be official: a.csv, b.csv",
        ),
        ({"official": {}}, "the official number of images is not known"),
        ({"split": "validation"}, "no text-only score of deep_fashion validation is published"),
        ({"benchmark": "mugs"}, "no text-only score of mugs test is published"),
        (
            {"synthetic": True, "weights_sha256": "0" * 64},
            "the images are those of the demo; the weights (sha256 000000000000…) are not those of OpenAI's ViT-B/32",
        ),
    ],
)
def test_elsewhere_it_passes_as_not_applicable(changes, reason):
    found = check(OFF, OFF, **changes)
    assert found.passed
    assert found.text == f"not applicable: {reason}"


def test_text_needs_no_few_shot_image():
    counts = {**COUNTS, "few-shot images": 652}
    assert not check(OFF, OFF, counts=counts).passed


def test_a_failure_names_the_precision():
    text = check(OFF, OFF, precision="fp32 on cpu").text
    assert "were measured in fp16 on cuda, these in fp32 on cpu" in text


def test_ytvos_has_known_scores_too():
    counts = {"few-shot images": 3041, "gallery images": 252}
    mine = {"benchmark": "ytvos", "counts": counts, "official": counts}
    assert check({"rich": 0.376, "concept_only": 0.215}, {}, **mine).passed
    assert not check({"rich": 0.386, "concept_only": 0.215}, {}, **mine).passed


def test_the_inversion_model_must_be_trained_as_published():
    published = {**TRAINED_AS_PUBLISHED, "prompts_sha256": PALAVRA_PROMPTS, "seed": 1}
    other = {**published, "mode": "paper", "epochs": 10}
    assert make_conditions(trainings=[published] * 5).list_training_deviations() == []
    assert make_conditions(trainings=[published, other, other]).list_training_deviations() == [
        "trained with mode paper, published palavra",
        "trained with epochs 10, published 300",
    ]
