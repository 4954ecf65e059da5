import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.clip.features import Features
from pervl_assets.clip.nearest import find_nearest_classes
from pervl_assets.core.errors import PervlError
from pervl_assets.inversion.open_images import OPENIMAGES_MATCHES
from pervl_assets_tests.inversion.kit import make_passport


def make_features(vectors, names=None, **changes):
    array = np.asarray(vectors, np.float32)
    names = names or [f"n{row}" for row in range(len(array))]
    return Features(names, array, make_passport(dimension=array.shape[1], **changes))


def test_first_of_equally_near_classes_wins():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(40, 33)).astype(np.float32) * 20
    rows = [5, 7, 5, 7, *range(40), 7, 5]
    classes, queries = make_features(base[rows]), make_features(np.repeat(base, 30, axis=0) + np.float32(0.001))
    matches = find_nearest_classes(queries, classes, chunk=77)
    first = {original: row for row, original in reversed(list(enumerate(rows)))}
    expected = [first[original] for original in range(40) for _ in range(30)]
    assert matches["class_row"].to_list() == expected
    tied = matches.filter(matches["class_row"].is_in([0, 1]))
    assert tied["runner_up_row"].to_list() == [row + 2 for row in tied["class_row"]]
    assert (tied["margin"] == 0).all()


def test_matches_have_the_columns_of_the_table():
    matches = find_nearest_classes(make_features(np.ones((5, 4))), make_features(np.zeros((2, 4))))
    assert OPENIMAGES_MATCHES.validate(matches, "matches") is matches


def test_all_classes_equal():
    matches = find_nearest_classes(make_features(np.ones((5, 4))), make_features(np.zeros((100, 4))))
    assert matches.select("class_row", "runner_up_row", "distance", "margin").rows() == [(0, 1, 4.0, 0.0)] * 5


def test_a_single_class_has_no_runner_up():
    matches = find_nearest_classes(make_features([[1.0, 2.0]]), make_features([[1.0, 0.0]], ["man"]))
    assert matches.rows() == [(0, "n0", 0, "man", 4.0, None, None, None)]


def test_no_query_gives_no_match():
    empty = Features([], np.empty((0, 2), np.float32), make_passport(dimension=2))
    assert find_nearest_classes(empty, make_features([[1.0, 0.0]])).is_empty()


def test_features_of_different_models_are_not_compared():
    with pytest.raises(PervlError, match="precision fp32 / fp16"):
        find_nearest_classes(make_features([[1.0]]), make_features([[1.0]], precision="fp16"))
    with pytest.raises(PervlError, match="no class"):
        find_nearest_classes(
            make_features([[1.0]]), Features([], np.empty((0, 1), np.float32), make_passport(dimension=1))
        )


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 40),
    classes=st.integers(2, 60),
    dimension=st.integers(1, 20),
    offset=st.sampled_from([0.0, 10.0, 3000.0]),
    coarse=st.booleans(),
)
def test_same_as_direct_float64_distances(*, seed, queries, classes, dimension, offset, coarse):
    rng = np.random.default_rng(seed)
    drawn = (
        rng.integers(-2, 3, (queries + classes, dimension))
        if coarse
        else rng.normal(size=(queries + classes, dimension))
    )
    vectors = (drawn + offset).astype(np.float32)
    a, b = vectors[:queries], vectors[queries:]
    direct = ((a[:, None].astype(np.float64) - b[None].astype(np.float64)) ** 2).sum(axis=2)
    matches = find_nearest_classes(make_features(a), make_features(b), chunk=7)
    order = np.argsort(direct.astype(np.float32), axis=1, kind="stable")
    assert matches["class_row"].to_list() == order[:, 0].tolist()
    assert matches["runner_up_row"].to_list() == order[:, 1].tolist()
    nearest = np.take_along_axis(direct, order[:, :1], axis=1)[:, 0]
    assert np.array_equal(matches["distance"].to_numpy(), nearest.astype(np.float32))
    assert (matches["margin"] >= 0).all()
