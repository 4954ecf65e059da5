"""The benchmark of the evaluation at a small size."""

import pytest

from pervl_assets_tests.perf import evaluation

pytestmark = pytest.mark.bench


def test_both_ways_agree_on_the_scores(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "RESAMPLES", 100)
    evaluation.main(["--work", str(tmp_path), "--small"])
    printed = capsys.readouterr().out
    assert "all methods and results" in printed
    assert "times" in printed
