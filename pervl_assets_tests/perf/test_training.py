"""The benchmark of the training at a small size: the plain loop finds the same losses and weights."""

import pytest

from pervl_assets_tests.perf import training

pytestmark = pytest.mark.bench


def test_the_plain_loop_trains_the_same(monkeypatch):
    monkeypatch.setattr(training, "IMAGES", 12)
    assert training.make_table(training.compare_ways(3, 1), 3, 1).row_count == 2
