"""Which queries are shown as the best and the worst."""

import polars as pl

from pervl_assets.evaluation.examples import choose_examples
from pervl_assets_tests.evaluation.pictured import CONCEPTS, make_draws, make_queries, make_ranks

ANNA, BEN, CLEO = CONCEPTS


def choose(*ranks, count=1):
    return choose_examples(pl.concat(ranks), make_queries(), make_draws(), count)


def test_of_queries_found_first_the_best_is_the_one_that_the_text_alone_ranks_lowest():
    found = choose(make_ranks("Text only", (1, 1, 2), None), make_ranks())
    (best,), (worst,) = found.best, found.worst
    assert (found.method, found.seed, found.gallery) == ("PALAVRA", 1, 3)
    assert (best.concept, best.place, best.baseline, best.found) == (CLEO, 1, 2, best.target)
    assert (worst.concept, worst.place, worst.baseline, worst.found) == (BEN, 3, 1, f"eval/test/{ANNA}.jpg")
    assert worst.text == "the mug * & a <b>cake</b>"
    assert worst.describe_place(3) == "place 3 of 3; by the text alone 1"
    assert worst.shots == {f"codes_infer/{BEN}/0.jpg": 1, f"codes_infer/{BEN}/1.jpg": 1}


def test_with_text_only_the_first_draw_is_shown():
    found = choose(make_ranks("Text only", (1, 2, 3), None))
    assert (found.method, found.seed) == ("Text only", None)
    assert [heading for heading, _ in found.name_parts()] == [
        "Text only: the 1 best queries",
        "Text only: the 1 worst queries",
    ]
    assert len(found.worst[0].shots) == 2


def test_an_image_that_was_drawn_twice_is_shown_once_with_its_count():
    found = choose(make_ranks(seed=2))
    assert list(found.best[0].shots.values()) == [2]


def test_no_query_is_both_and_none_is_shown_of_another_protocol():
    found = choose(make_ranks(), count=2)
    assert len(found.best) == 2
    assert len(found.worst) == 1
    assert choose(make_ranks().with_columns(protocol=pl.lit("polar"))) is None
