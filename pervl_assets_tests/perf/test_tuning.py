"""The benchmark of learning concepts at a small size."""

import numpy as np
import pytest

from pervl_assets_tests.perf import tuning

pytestmark = pytest.mark.bench


def test_both_ways_learn_the_same_tokens(monkeypatch):
    seconds = tuning.compare_ways(3, 4, 1)
    assert tuning.make_table(seconds, 3, 1).row_count == 2
    monkeypatch.setattr(tuning, "learn_plainly", lambda world, steps: np.zeros_like(world.starts))
    with pytest.raises(RuntimeError, match="learned other tokens"):
        tuning.compare_ways(3, 1, 1)
