"""The map and the nearest neighbours of embeddings."""

import numpy as np
import pytest

from pervl_assets.gallery.embedding import find_neighbours, place_on_map


def test_the_map_shows_the_two_largest_differences_whatever_the_lengths():
    angles = np.linspace(0, 1, 7)
    vectors = np.stack([np.cos(angles), np.sin(angles), np.full(7, 0.5)], axis=1).astype(np.float32)
    points, share = place_on_map(vectors)
    assert points.shape == (7, 2)
    assert np.abs(points).max() == 1
    assert share == pytest.approx(1)
    order = np.argsort(points[:, 0])
    assert [*order] in ([*range(7)], [*range(6, -1, -1)])
    again, _ = place_on_map(3 * vectors)
    np.testing.assert_allclose(again, points, atol=1e-5)


def test_equal_vectors_are_one_point_of_the_map():
    points, share = place_on_map(np.ones((3, 4), np.float32))
    np.testing.assert_allclose(points, 0, atol=1e-5)
    assert 0 <= share <= 1


def test_neighbours_are_the_others_by_cosine_and_of_equal_ones_the_first():
    vectors = np.array([[1, 0], [0, 2], [3, 0], [1, 1], [5, 0]], np.float32)
    found = find_neighbours(vectors, 3)
    assert [[row for row, _ in near] for near in found] == [[2, 4, 3], [3, 0, 2], [0, 4, 3], [0, 1, 2], [0, 2, 3]]
    assert found[3][0][1] == pytest.approx(0.7071, abs=1e-4)
    assert [row for row, _ in find_neighbours(vectors, 9)[1]] == [3, 0, 2, 4]


def test_blocks_change_nothing(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    whole = find_neighbours(vectors, 4)
    monkeypatch.setattr("pervl_assets.gallery.embedding._BLOCK", 3)
    assert find_neighbours(vectors, 4) == whole
