import io

import polars as pl
import pytest
from rich.console import Console

from pervl_assets.cli.printing import print_results
from pervl_assets.evaluation.methods import METHODS, RANDOM
from pervl_assets_tests.evaluation.pictured import make_results


def show(results: pl.DataFrame, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, emoji=False)
    print_results(console, results)
    return [line.strip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_results_fit_the_terminal(width):
    rows = [make_results(benchmark=name, method=method) for name in ("ytvos", "deep_fashion") for method in METHODS]
    lines = show(pl.concat(rows), width)
    (shown,) = (line.split() for line in lines if line.startswith("PALAVRA "))
    assert shown == ["PALAVRA", *["77.8", "[50.0,", "100.0]"] * 2]
    assert max(map(len, lines)) <= width
    assert "deep_fashion: PALAVRA less Text only is +11.1 [-10.0, +30.0]" in lines
    assert not any("twice" in line for line in lines)


def test_what_is_not_known_is_left_out_and_names_are_no_markup():
    random = make_results(method=RANDOM, mrr_low=None, mrr_high=None, benchmark="[red]a")
    lines = show(
        pl.concat(
            [random, make_results(split="validation"), make_results(query_set="concept_only")], how="vertical_relaxed"
        ),
        80,
    )
    assert [line.split() for line in lines if line.startswith(RANDOM)] == [[RANDOM, "77.8"]]
    assert "[red]a: PALAVRA less Text only is unknown" in lines
    assert not any(line.startswith("PALAVRA") for line in lines)
