"""Ranking: the golden places, ties, several right images, blocks, and vectors that cannot be ranked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.core.errors import PervlError
from pervl_assets.evaluation import ranking
from pervl_assets.evaluation.ranking import rank_targets
from pervl_assets_tests.goldens import read_golden, rnd


def normalise(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw_golden(key, n, a):
    """Return the queries and the gallery of a case of metrics.json."""
    gallery = normalise(rnd(f"{key}/gallery", n, 512))
    return normalise(rnd(f"{key}/query", n, 512) + np.float32(a) * gallery), gallery


def test_places_are_those_of_palavra():
    cases = read_golden("metrics")["cases"]
    assert len(cases) == 3
    for case in cases:
        queries, gallery = draw_golden(case["key"], case["n"], case["a"])
        found = rank_targets(queries, gallery, [[row] for row in range(case["n"])])
        assert found.places.tolist() == case["places"]
        assert not found.ties.any()
        assert np.array_equal(found.average_precision, 1 / found.places)


def rank_plainly(query, gallery, right):
    """Return the fields of a ranking for one query, from exact cosines in whole numbers: signed squares, compared."""
    products, squares = gallery @ query, (gallery * gallery).sum(axis=1)
    scale = int(np.lcm.reduce(squares))
    keys = [int(np.sign(p)) * int(p) ** 2 * (scale // int(s)) for p, s in zip(products, squares, strict=True)]
    order = sorted(range(len(keys)), key=lambda row: (-keys[row], row in right, row))
    ranks = [place for place, row in enumerate(order, start=1) if row in right]
    best = order[ranks[0] - 1]
    ties = sum(keys[row] == keys[best] for row in range(len(keys)) if row not in right)
    precision = np.mean([number / rank for number, rank in enumerate(ranks, start=1)])
    return ranks[0], ties, precision, keys[best], order[0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    images=st.integers(1, 40),
    dimension=st.integers(1, 9),
    right=st.integers(1, 4),
    block=st.integers(1, 50),
)
def test_same_as_sorting_exact_cosines(seed, queries, images, dimension, right, block):
    """Vectors of small whole numbers: many are parallel, and so exactly as similar."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (queries + images, dimension))
    values[~values.any(axis=1), 0] = 1
    targets = [rng.permutation(images)[:right].tolist() for _ in range(queries)]
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("_IMAGES", block), ("_QUERIES", 1 + block // 3), ("_PAIRS", 1 + block // 2)):
            patch.setattr(ranking, name, size)
        found = rank_targets(*np.split(values.astype(np.float32), [queries]), targets)
    for row, wanted in enumerate(targets):
        place, ties, precision, key, first = rank_plainly(values[row], values[queries:], set(wanted))
        assert (found.places[row], found.ties[row]) == (place, ties)
        assert found.average_precision[row] == pytest.approx(precision, abs=1e-12)
        assert found.target[row] in wanted
        assert rank_plainly(values[row], values[queries:], {int(found.target[row])})[3] == key
        assert found.first[row] == first or (place == 1 and found.first[row] == found.target[row])


def test_equal_vectors_tie_wherever_they_are(monkeypatch):
    """The last bits of a product depend on the size of the block: rows at its end are computed another way."""
    monkeypatch.setattr(ranking, "_IMAGES", 37)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(20, 131)).astype(np.float32)
    copies = np.concatenate([base] * 9)
    found = rank_targets(base + rng.normal(size=base.shape).astype(np.float32), copies, [[row] for row in range(20)])
    assert found.ties.tolist() == [8] * 20
    assert (found.places % 9 == 0).all()
    assert (found.first != found.target).all()


def test_lengths_do_not_count():
    rng = np.random.default_rng(1)
    queries, gallery = (rng.normal(size=(size, 16)).astype(np.float32) for size in (7, 60))
    targets = [[row, 59 - row] for row in range(7)]
    plain = rank_targets(queries, gallery, targets)
    powers = np.float32(2.0) ** rng.integers(-120, 120, (60, 1)).astype(np.float32)
    scaled = rank_targets(queries * np.float32(2.0**-110), gallery * powers, targets)
    for name in ("places", "ties", "average_precision", "target", "first"):
        assert np.array_equal(getattr(plain, name), getattr(scaled, name)), name


def test_no_query_has_no_place():
    empty = rank_targets(np.empty((0, 4), np.float32), np.ones((3, 4), np.float32), [])
    assert len(empty.places) == len(empty.first) == 0


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_vectors_without_a_direction_are_an_error(value):
    vectors = np.ones((9, 3), np.float32)
    vectors[[4, 7]] = value
    with pytest.raises(PervlError, match="2 vectors of the gallery zero or not finite: rows 4, 7"):
        rank_targets(vectors[:1], vectors, [[0]])
    with pytest.raises(PervlError, match="2 vectors of the queries"):
        rank_targets(vectors, vectors[:1], [[0]] * 9)


def test_a_query_without_a_right_image_is_an_error():
    with pytest.raises(PervlError, match="1 of 2 queries without a right image: rows 1"):
        rank_targets(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), [[0], []])
