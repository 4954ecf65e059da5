"""Query vectors of every method and the places they give, against float64 computed one query at a time."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.core.errors import PervlError
from pervl_assets.evaluation.methods import (
    AVERAGE_BOTH,
    AVERAGE_IMAGE,
    PALAVRA,
    TEXT_ONLY,
    TEXT_TWICE,
    WITHOUT_TUNING,
    rank_baselines,
    rank_concepts,
)
from pervl_assets.evaluation.metrics import RANKS
from pervl_assets_tests.evaluation.samples import CONCEPTS, list_images, make_draws, make_features, make_queries

TEXTS = [text for text in make_queries()["text"] if "*" not in text]


def unit(vector):
    return vector / np.linalg.norm(vector)


def place(query, images, concept):
    gallery = {one[10:]: unit(vector.astype(float)) for one, vector in images.items() if one.startswith("eval/test/")}
    own = gallery.pop(f"{concept}.jpg") @ query
    return 1 + sum(vector @ query >= own for vector in gallery.values())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_every_method_places_images_as_the_protocol_says(seed):
    texts, images = make_features(TEXTS, seed), make_features(list_images(), seed + 1)
    queries, draws = make_queries(), make_draws()
    ranks, lost = rank_baselines(queries, draws, texts, images)
    RANKS.validate(ranks, "ranks")
    assert lost.is_empty()
    text_of, image_of = (
        dict(zip(texts.ids, texts.vectors, strict=True)),
        dict(zip(images.ids, images.vectors, strict=True)),
    )
    for method, number, query_id, concept, found in ranks.select(
        "method", "seed", "query_id", "concept", "place"
    ).iter_rows():
        text = unit(text_of[queries.row(by_predicate=pl.col("query_id") == query_id, named=True)["text"]].astype(float))
        shots = draws.filter(seed=number, concept=concept)["image"] if number else []
        mean = unit(np.mean([unit(image_of[shot].astype(float)) for shot in shots], axis=0)) if number else None
        query = {TEXT_ONLY: text, TEXT_TWICE: text}.get(method, mean if method == AVERAGE_IMAGE else None)
        assert found == place(text + mean if query is None else query, image_of, concept), (method, number, concept)
    counted = ranks.group_by("method").agg(
        pl.len(), pl.col("seed").n_unique(), pl.col("query_id").str.contains("twice").all()
    )
    assert set(counted.iter_rows()) == {
        (TEXT_ONLY, 3, 1, False),
        (TEXT_TWICE, 3, 1, True),
        (AVERAGE_IMAGE, 6, 2, False),
        (AVERAGE_BOTH, 6, 2, False),
    }


def test_a_protocol_uses_its_own_draws():
    queries = pl.concat([make_queries(), make_queries("polar")])
    draws = pl.concat([make_draws(), make_draws("polar", [123])])
    ranks, _ = rank_baselines(queries, draws, make_features(TEXTS), make_features(list_images()))
    seeds = ranks.filter(method=AVERAGE_IMAGE).group_by("protocol").agg(pl.col("seed").unique().sort())
    assert dict(seeds.iter_rows()) == {"palavra": [1, 2], "polar": [123]}


def test_queries_without_their_image_or_shots_are_left_out_and_counted():
    ids = [one for one in list_images() if one != "eval/test/cat_1.jpg" and not one.startswith("codes_infer/dog_1/")]
    ranks, lost = rank_baselines(make_queries(), make_draws(), make_features(TEXTS), make_features(ids))
    assert ranks["gallery"].unique().to_list() == [3]
    assert sorted(ranks.filter(method=TEXT_ONLY)["concept"]) == ["dog_1", "hat_1"]
    assert ranks.filter(method=AVERAGE_BOTH)["concept"].unique().to_list() == ["hat_1"]
    assert sorted(lost.rows()) == [
        ("palavra/rich/text/0", "none of its right images has a vector"),
        ("palavra/rich/text/1", "none of the few-shot images of its concept has a vector"),
        ("palavra/rich/text_twice/0", "none of its right images has a vector"),
    ]


def test_a_mean_is_made_of_the_shots_that_have_vectors():
    ids = list_images()
    images = make_features(ids)
    fewer = images.take([row for row, one in enumerate(ids) if not one.endswith("hat_1/3.jpg")])
    draws = make_draws(seeds=[1])
    without = draws.filter(pl.col("image") != "codes_infer/hat_1/3.jpg")
    expected, _ = rank_baselines(make_queries(), without, make_features(TEXTS), images)
    ranks, lost = rank_baselines(make_queries(), draws, make_features(TEXTS), fewer)
    assert without.height < draws.height
    assert ranks.equals(expected)
    assert lost.is_empty()


def test_no_image_at_all_leaves_every_query_out():
    ranks, lost = rank_baselines(make_queries(), make_draws(), make_features(TEXTS), make_features([]))
    assert ranks.is_empty()
    assert lost["query_id"].n_unique() == 6


def test_features_that_do_not_fit_together_are_refused():
    images = make_features(list_images(), weights_sha256="other")
    with pytest.raises(PervlError, match="encoded differently: weights_sha256 fake / other"):
        rank_baselines(make_queries(), make_draws(), make_features(TEXTS), images)
    with pytest.raises(PervlError, match="1 text of the queries without features: cat in the sun"):
        rank_baselines(make_queries(), make_draws(), make_features(TEXTS[1:]), make_features(list_images()))


def name_vectors(methods=(PALAVRA, WITHOUT_TUNING), seeds=(1, 2), concepts=CONCEPTS):
    queries = make_queries().filter(pl.col("concept").is_in(list(concepts)), form="token")["query_id"]
    return [f"{method}/{seed}/{query}" for method in methods for seed in seeds for query in queries]


def test_texts_with_tokens_are_ranked_by_method_and_seed():
    concepts, images = make_features(name_vectors(), 3), make_features(list_images())
    ranks, lost = rank_concepts(make_queries(), concepts, images)
    RANKS.validate(ranks, "ranks")
    assert lost.is_empty()
    assert ranks.select(pl.format("{}/{}/{}", "method", "seed", "query_id")).to_series().to_list() == concepts.ids
    image_of = dict(zip(images.ids, images.vectors, strict=True))
    expected = [
        place(vector, image_of, concept) for vector, concept in zip(concepts.vectors, ranks["concept"], strict=True)
    ]
    assert ranks["place"].to_list() == expected
    assert ranks["target"].to_list() == [f"{concept}.jpg" for concept in ranks["concept"]]


def test_of_several_right_images_the_best_placed_is_named():
    targets = {concept: [f"{one}.jpg" for one in (*CONCEPTS, "quarantined")] for concept in CONCEPTS}
    concepts, images = make_features(name_vectors(), 5), make_features(list_images())
    ranks, _ = rank_concepts(make_queries(**targets), concepts, images)
    gallery = images.vectors[-4:] / np.linalg.norm(images.vectors[-4:], axis=1, keepdims=True)
    similar = concepts.vectors @ gallery.T
    assert ranks["target"].to_list() == [f"{CONCEPTS[one]}.jpg" for one in similar[:, :3].argmax(axis=1)]
    assert (ranks["place"] == 1).to_list() == (similar[:, :3].max(axis=1) > similar[:, 3]).tolist()


def test_concepts_without_a_token_are_counted_once_by_query():
    concepts = make_features(name_vectors(concepts=CONCEPTS[1:]))
    ranks, lost = rank_concepts(make_queries(), concepts, make_features(list_images()))
    assert ranks["concept"].unique().sort().to_list() == ["dog_1", "hat_1"]
    assert lost.rows() == [
        ("palavra/rich/token/0", "its concept has no token, or its * is beyond the text that CLIP reads")
    ]


@pytest.mark.parametrize("wrong", ["PALAVRA/1/palavra/rich/token/9", "PALAVRA/one/palavra/rich/token/0", "PALAVRA"])
def test_a_text_of_no_query_is_refused(wrong):
    concepts = make_features([*name_vectors(), wrong])
    with pytest.raises(PervlError, match=f"1 text with tokens, but of no query: {wrong}"):
        rank_concepts(make_queries(), concepts, make_features(list_images()))
