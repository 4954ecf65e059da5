"""Queries and draws as assets, made from the trees and tables of the demo data."""

import polars as pl

from pervl_assets.evaluation.protocols import PROTOCOLS
from pervl_assets.io_managers.base import locate_value
from pervl_assets.testing.runs import explain, list_checks, run_selection


def read_table(data, *key: str) -> pl.DataFrame:
    return pl.read_parquet(locate_value(data, key[:-1], ".parquet", key[-1]))


def test_queries_and_draws_are_made_from_the_tree_of_their_split(made_world, tmp_path):
    data = made_world.copy_to(tmp_path / "data")
    selection = 'key:"evaluation/deep_fashion/queries" or key:"evaluation/deep_fashion/few_shot_draws"'
    results = run_selection(data, selection, repetitions=2)
    assert all(result.success for result in results), explain(*results)
    assert {name: check.passed for name, check in list_checks(*results).items()} == {
        "evaluation/deep_fashion/queries:one_placeholder": True,
        "evaluation/deep_fashion/queries:targets_exist": True,
        "evaluation/deep_fashion/few_shot_draws:enough_images": True,
    }
    for split in ("validation", "test"):
        tree = data / f"deep_fashion2/personalized_{split}"
        queries = read_table(data, "evaluation", "deep_fashion", "queries", split)
        assert set(queries["protocol"]) == {protocol.name for protocol in PROTOCOLS}
        assert set(queries["targets"].explode()) == {path.name for path in (tree / "eval/test").iterdir()}
        draws = read_table(data, "evaluation", "deep_fashion", "few_shot_draws", split)
        assert set(draws["scheme"]) == {"palavra", "distinct", "polar", "all"}
        assert set(draws["concept"]) == set(queries["concept"])
        assert draws.filter(scheme="palavra")["seed"].unique().sort().to_list() == [1, 2]
        whole = set(draws.filter(scheme="all")["image"])
        assert whole == {path.relative_to(tree).as_posix() for path in tree.glob("codes_infer/*/*")}
        assert set(draws["image"]) == whole
