"""The tables that `pervl` prints at its end."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl
import rich.filesize
from rich.console import Console

from pervl_assets.cli.console import escape, make_table, print_text
from pervl_assets.cli.selections import add_inputs
from pervl_assets.cli.tables import AssetRow, print_assets
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import name_some
from pervl_assets.core.progress import format_seconds
from pervl_assets.defs.run_results import Finding, Materialized, RunResult, name_partition
from pervl_assets.defs.up_to_date import NEVER_MADE, NOT_ON_DISK, Value
from pervl_assets.evaluation.methods import PALAVRA, TEXT_ONLY, TEXT_TWICE
from pervl_assets.upstream import RETRIVAL_SETS

_WORDS: Final = {
    "none": ("passed",),
    "green": ("up to date", "passing"),
    "yellow": ("stale", "warned", "warning"),
    "red": ("missing", "failing"),
    "bold red": ("failed", "unfinished", "error"),
    "dim": ("not run", "unknown"),
}
_WIDTH_OF_SIZES: Final = 80
"""Columns of a console in which a table of what was made has sizes, beside names that are still read."""

_COLOURS: Final = {word: colour for colour, words in _WORDS.items() for word in words}


def print_reasons(console: Console, reasons: Mapping[Value, str], kind: str = "") -> None:
    """Print why values are made, one line per reason; `kind` is the markup before it."""
    by_reason: dict[str, list[str]] = {}
    for (key, partition), reason in reasons.items():
        by_reason.setdefault(reason, []).append(name_partition(key.to_user_string(), partition))
    for reason, names in by_reason.items():
        print_text(console, f"{kind}[dim]{escape(reason)}:[/] {escape(name_some(names))}")


def print_outdated_inputs(console: Console, reasons: Mapping[Value, str], words: Sequence[str]) -> None:
    """Print the inputs that are missing or outdated and not selected by these words, with reasons and what to do."""
    for word, kind in (("missing", "missing"), ("stale", "outdated")):
        named = {value: why for value, why in reasons.items() if (why in (NEVER_MADE, NOT_ON_DISK)) == (word == kind)}
        print_reasons(console, named, f"[{_COLOURS[word]}]{kind} and not selected[/], ")
    if reasons:
        print_text(console, f"{name_remedy(words)} makes these first")


def print_run_result(console: Console, result: RunResult, seconds: float, *, quiet: bool = False) -> None:
    """Print what was materialized, what was skipped, the findings, and the sum of it.

    Args:
        console: Where it is printed.
        result: The result of all runs.
        seconds: The wall time.
        quiet: Whether only findings and the sum are printed.
    """
    time = f"[dim]({format_seconds(seconds)})[/]"
    if not result.total:
        console.print(f"[bold green]{result.skipped} up to date, nothing to do[/] {time}", highlight=False)
        return
    if result.made and not quiet:
        _print_made(console, result.made)
    print_findings(console, result.findings)
    left = f", [bold red]{result.left} not[/]" if result.left else ""
    skipped = f", {result.skipped} up to date" if result.skipped else ""
    console.print(f"[bold]{len(result.made)} materialized[/]{left}{skipped} {time}", highlight=False)
    print_text(
        console,
        "[bold green]all materialized, no check of error severity failed[/]"
        if result.passed
        else "[bold red]interrupted[/]: run the same command again; finished work is kept"
        if result.interrupted
        else "[bold red]failed[/]: fix the errors above and run the same command again; finished work is kept",
    )


def _print_made(console: Console, made: Sequence[Materialized]) -> None:
    """Print a table of what was made; a column counts what was left out, quarantined or missing, if anything was."""
    titles = {">made": [one.count or "" for one in made], ">time": [format_seconds(one.seconds) for one in made]}
    if any(one.quarantined or one.missing for one in made):
        titles[">left out"] = [_show_left_out(one) for one in made]
    if console.width >= _WIDTH_OF_SIZES:
        titles[">size"] = [format_bytes(one.bytes) for one in made]
    cells = zip(*titles.values(), strict=True)
    rows = [AssetRow(one.asset, one.partition, row) for one, row in zip(made, cells, strict=True)]
    print_assets(console, [*titles], rows, least=len(titles))
    console.print()


def _show_left_out(made: Materialized) -> str:
    """Return the number of files without a usable source: red if a source is missing."""
    count = made.quarantined + made.missing
    return f"[{'red' if made.missing else 'yellow'}]{count:,}[/]" if count else ""


def paint(word: str, before: str = "") -> str:
    """Return a word, with text before it, in the colour of the word."""
    return f"[{_COLOURS[word]}]{before}{word}[/]"


def name_remedy(words: Sequence[str]) -> str:
    """Return the command that makes a selection and its inputs, as it is typed, in rich's markup."""
    return f"[bold]{escape(shlex.join(['pervl', 'materialize', *add_inputs(words)]))}[/]"


def print_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Print warnings first and errors last, beside the prompt."""
    for finding in sorted(findings, key=lambda finding: finding.severity == "error"):
        print_cause(console, finding.severity, finding.severity, finding.asset, finding.text)


def print_cause(console: Console, word: str, kind: str, asset: str, text: str) -> None:
    """Print what is wrong with an asset; `kind` is printed in the colour of the word."""
    print_text(console, f"[{_COLOURS[word]}]{kind}[/] [bold]{escape(asset)}[/] {escape(text)}")


def print_paths(console: Console, data: Path | Address) -> None:
    """Print what the demo made and where it is; from a bucket, folders are exported first."""
    console.print("\n[bold]The demo data is ready. Where to look:[/]")
    for path, what in (
        ("youtube_vos/ytvos_PerVL/fsl_seg", "few-shot crops and evaluation frames, boxes and masks"),
        (f"youtube_vos/{RETRIVAL_SETS}/validation", "a retrieval set as PALAVRA reads it"),
        ("deep_fashion2/personalized_validation", "few-shot and evaluation images of people's clothes"),
        ("inversion_model_train_data", "the training files of the inversion model"),
        ("assets", "typed tables, features, matches and ledgers in Parquet"),
    ):
        place = f"{data}/{path}"
        if isinstance(data, Address) and path != "assets":
            place = f"FOLDER/{path}, after pervl export '*' FOLDER"
        gap = "\n    " if console.is_terminal and len(place) + len(what) + 4 > console.width else "  "
        print_text(console, f"  {escape(place)}{gap}[dim]{what}[/]")
    console.print("  [bold]pervl ui[/] shows the same graph in the browser at http://127.0.0.1:3000", highlight=False)


def print_results(console: Console, results: pl.DataFrame) -> None:
    """Print MRRs for the rich queries of the test splits, and what learned concepts add (schema `RESULTS`)."""
    rich_queries = results.filter(protocol="palavra", query_set="rich", split="test")
    benchmarks = rich_queries["benchmark"].unique(maintain_order=True).to_list()
    shown = {(row["method"], row["benchmark"]): row for row in rich_queries.iter_rows(named=True)}
    table = make_table("method", *(f">{name}" for name in benchmarks))
    for method in rich_queries.filter(pl.col("method") != TEXT_TWICE)["method"].unique(maintain_order=True):
        cells = (shown.get((method, benchmark), {}) for benchmark in benchmarks)
        table.add_row(escape(method), *(_show_percent(cell, "mrr", "mrr_low", "mrr_high") for cell in cells))
    title = "\n[bold]Pictures found by their caption[/], test splits: MRR in percent, 95 % interval"
    console.print(title, table, sep="\n", highlight=False)
    for benchmark in benchmarks:
        gain = _show_percent(shown.get((PALAVRA, benchmark), {}), "difference", "difference_low", "difference_high")
        console.print(f"{escape(benchmark)}: {PALAVRA} less {TEXT_ONLY} is {gain or 'unknown'}", highlight=False)
    console.print(
        "The pictures are synthetic, so these numbers are not comparable with published ones. Other splits, queries "
        "and scores are in evaluation/results; [bold]pervl report[/] shows them, and the best and worst queries.",
        highlight=False,
    )


def _show_percent(row: Mapping[str, Any], name: str, low: str, high: str) -> str:
    """Return a fraction of a row in percent, with its interval where there is one; nothing without the fraction."""
    sign = "+" if name == "difference" else ""
    value, *limits = (None if row.get(key) is None else f"{100 * row[key]:{sign}.1f}" for key in (name, low, high))
    return value + (f" [{limits[0]}, {limits[1]}]" if None not in limits else "") if value else ""


def format_bytes(count: float | None) -> str:
    """Return a number of bytes: 1.7 GB; nothing where it is not known."""
    return "" if count is None else rich.filesize.decimal(int(count))


def show_count(count: int | None) -> str:
    """Return a number; nothing where it is not known."""
    return "" if count is None else f"{count:,}"
