"""The benchmark of the ranking at a small size."""

import pytest

pytest.importorskip("faiss", reason="needs faiss-cpu, of the extra dev")

from pervl_assets_tests.perf import ranking

pytestmark = pytest.mark.bench


def test_both_ways_agree_on_the_places(tmp_path, capsys):
    figures, found = ranking.compare_ways(2_000, 40, 2, tmp_path)
    assert [len(one.seconds) for one in figures.values()] == [2, 2]
    assert found.places.min() == 1
    assert found.places.max() > ranking.FOUND
    ranking.main(["--work", str(tmp_path), "--small"])
    assert "times as fast" in capsys.readouterr().out
