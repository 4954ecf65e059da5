"""Benchmarks are found by themselves, and each is complete."""

import pervl_assets.benchmarks
from pervl_assets.benchmarks import find_benchmarks


def test_a_new_module_is_a_new_benchmark(tmp_path, monkeypatch):
    (tmp_path / "third.py").write_text("from pervl_assets.benchmarks.ytvos import BENCHMARK as BENCHMARK\n")
    (tmp_path / "helpers.py").write_text("")
    before = [benchmark.name for benchmark in find_benchmarks()]
    assert {"deep_fashion", "ytvos"} <= set(before)
    monkeypatch.setattr(pervl_assets.benchmarks, "__path__", [*pervl_assets.benchmarks.__path__, str(tmp_path)])
    assert [benchmark.name for benchmark in find_benchmarks()] == [*before, "ytvos"]


def test_every_benchmark_names_only_its_own_parts():
    for benchmark in find_benchmarks():
        tables = {table.name for table in benchmark.tables}
        sources = {spec.name for spec in benchmark.archives}
        for tree in benchmark.trees:
            assert set(tree.tables) <= tables
            assert tree.source in sources
            assert set(tree.facts) == set(tree.splits or (None,))
            sources.add(tree.name)
