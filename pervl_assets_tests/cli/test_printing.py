import io

import polars as pl
import pytest
from rich.console import Console

from pervl_assets.cli.printing import print_results, print_run_result
from pervl_assets.defs.run_results import Finding, Materialized, RunResult
from pervl_assets.evaluation.methods import METHODS, RANDOM
from pervl_assets_tests.evaluation.pictured import make_results

FAILED = Finding("raw/a", "error", "Not found. What to do: Look again.")


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


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_was_made_fits_the_terminal(width):
    metadata = {"dagster/row_count": 10_348, "bytes": 21_510_573, "quarantined": 3, "missing": 12}
    made = [
        Materialized("inversion/ViT-L-14-quickgelu_openai/coco_image_features", "3-of-8", metadata, 12_345.6),
        Materialized("raw/coco_train2014", None, {"files": 1, "bytes": 13_510_573_713}, 12.3),
    ]
    findings = [Finding("ytvos/fsl_seg", "warning", "a text that is longer than one line " * 4), FAILED]
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_run_result(console, RunResult(made, findings, succeeded=False, total=5, skipped=7), 754.2)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"coco_train2014 1 file 12 s{' 13.5 GB' if width >= 80 else ''}" in lines
    assert "10,348 rows 3 h 26 min 15" in " ".join(lines)
    assert "error raw/a Not found. What to do: Look again." in lines
    assert "2 materialized, 3 not, 7 up to date (12 min)" in lines


def test_what_was_made_is_not_printed_if_quiet_and_nothing_was_left_out():
    console = Console(file=io.StringIO(), width=80)
    result = RunResult([Materialized("raw/a", None, {"files": 2})], total=1)
    print_run_result(console, result, 1.0, quiet=True)
    assert console.file.getvalue().splitlines()[0] == "1 materialized (1.0 s)"
    print_run_result(console, result, 1.0)
    assert "left out" not in console.file.getvalue()
