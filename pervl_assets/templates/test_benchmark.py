"""TITLE on its demo data."""

from pathlib import Path

import polars as pl

from pervl_assets.testing.runs import explain, list_checks, run_selection

SELECTION = '+group:NAME or key:"evaluation/NAME/queries"'
CONCEPTS = ["blue_mug", "green_mug", "red_mug"]


def test_photos_are_in_the_layout_of_palavra(tmp_path: Path) -> None:
    """The tree, the queries, and all checks of both."""
    results = run_selection(tmp_path, SELECTION)
    assert all(result.success for result in results), explain(*results)
    tree = tmp_path / "NAME/personalized_test"
    assert sorted(folder.name for folder in (tree / "codes_infer").iterdir()) == CONCEPTS
    assert [len(list((tree / "codes_infer" / concept).iterdir())) for concept in CONCEPTS] == [4, 4, 4]
    assert len(list((tree / "eval/test").iterdir())) == 6
    queries = pl.read_parquet(tmp_path / "assets/evaluation/NAME/queries/test.parquet")
    assert queries.filter(query_set="rich", form="token")["text"][0] == " mug *  beside a cat"
    checks = list_checks(*results)
    assert "NAME/personalized:evaluation_apart" in checks
    assert all(check.passed for check in checks.values())
