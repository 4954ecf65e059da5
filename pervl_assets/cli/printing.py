"""The tables that `pervl` prints at its end."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import rich.filesize
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pervl_assets.cli.health import Health
from pervl_assets.cli.status import AssetState, InputState
from pervl_assets.core.errors import name_some
from pervl_assets.core.text import escape_terminal
from pervl_assets.defs.metadata import BYTES, QUARANTINED
from pervl_assets.defs.run_results import Finding, Materialized, RunResult, count_files_or_rows, name_partition
from pervl_assets.defs.up_to_date import Value
from pervl_assets.io_managers.base import VerifyResult
from pervl_assets.settings import Settings
from pervl_assets.upstream import RETRIVAL_SETS

_COLOURS: Final = {"up to date": "green", "stale": "yellow", "missing": "red"}
_FRESHNESS_COLOURS: Final = {"passing": "green", "warning": "yellow", "failing": "red", "unknown": "dim"}
_DIFFERENCES: Final = ("missing", "changed", "extra")
_SHORT_ID: Final = 8
_STATUS_COLOURS: Final = {
    "passed": "none",
    "warned": "yellow",
    "failed": "bold red",
    "unfinished": "bold red",
    "not run": "dim",
}
_WIDTH_OF_A_FILE: Final = 140


def make_console() -> Console:
    """Return a console as wide as the terminal; where the output is not one, wide enough for every table."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_A_FILE)


def print_reasons(console: Console, reasons: Mapping[Value, str]) -> None:
    """Print why values are made, one line per reason."""
    by_reason: dict[str, list[str]] = {}
    for (key, partition), reason in reasons.items():
        by_reason.setdefault(reason, []).append(name_partition(key.to_user_string(), partition))
    for reason, names in by_reason.items():
        console.print(f"[dim]{_escape(reason)}:[/] {_escape(name_some(names))}", highlight=False, soft_wrap=True)


def print_run_result(console: Console, result: RunResult, seconds: float, *, left: int, skipped: int) -> None:
    """Print what was materialized, what was skipped, the findings, and the sum of it.

    Args:
        console: Where it is printed.
        result: Of all runs.
        seconds: Wall time of all runs.
        left: How many assets and partitions were to be made and are not.
        skipped: How many were up to date.
    """
    if not result.made and not result.findings and not left:
        console.print(
            f"[bold green]{skipped} up to date, nothing to do[/]  [dim]({seconds:,.1f} s)[/]", highlight=False
        )
        return
    table = _make_table("asset", ">files or rows", ">seconds", ">bytes", ">quarantined")
    for made in result.made:
        table.add_row(
            escape(made.name),
            _count(made.files_or_rows),
            f"{made.seconds:,.1f}",
            format_bytes(made.metadata.get(BYTES)),
            _show_quarantined(made),
        )
    table.add_section()
    table.add_row(
        f"[bold]{len(result.made)} materialized[/]"
        + (f", [bold red]{left} not[/]" if left else "")
        + (f", {skipped} up to date" if skipped else ""),
        "",
        f"[bold]{seconds:,.1f}[/]",
        f"[bold]{format_bytes(sum(made.bytes for made in result.made))}[/]",
        f"{sum(made.quarantined for made in result.made):,}",
    )
    console.print(table)
    print_findings(console, result.findings)
    console.print(
        "[bold green]all materialized, no check of error severity failed[/]"
        if result.passed
        else "[bold red]failed[/]: fix what is named above and run the same command again; finished work is kept"
    )


def print_findings(console: Console, findings: Iterable[Finding]) -> None:
    """Print warnings first and errors last, beside the prompt."""
    for finding in sorted(findings, key=lambda finding: finding.severity == "error"):
        _print_cause(
            console,
            "bold red" if finding.severity == "error" else "yellow",
            finding.severity,
            finding.asset,
            finding.text,
        )


def _print_cause(console: Console, colour: str, kind: str, asset: str, text: str) -> None:
    console.print(f"[{colour}]{kind}[/] [bold]{_escape(asset)}[/] {_escape(text)}", highlight=False, soft_wrap=True)


def print_verification(console: Console, results: Mapping[str, VerifyResult], data: Path) -> bool:
    """Print the differences between values and their manifests; return whether there are values and no difference."""
    table = _make_table("asset", ">files", ">bytes", "result")
    for name, value in results.items():
        table.add_row(_escape(name), *_show_size(value), _summarize(value))
    console.print(table)
    differing = {name: value for name, value in results.items() if not value.unchanged}
    for name, value in differing.items():
        for what in _DIFFERENCES:
            if files := getattr(value, what):
                console.print(
                    f"[red]{what}[/] in [bold]{_escape(name)}[/]: {_escape(name_some(files))}", soft_wrap=True
                )
    found = sum(1 for value in results.values() if value.files)
    if not found:
        console.print(f"[red]nothing to verify below {data}[/]: run pervl materialize first")
    elif differing:
        console.print(
            f"[bold red]{len(differing)} of {found} values differ from their manifests[/]: pervl materialize repairs "
            "missing and changed files, and nothing else"
        )
    else:
        files = sum(value.files for value in results.values())
        console.print(f"[bold green]verified[/]: {files:,} files in {found} values match their manifests")
    return bool(found) and not differing


def _show_size(value: VerifyResult) -> tuple[str, str]:
    return (f"{value.files:,}", format_bytes(value.bytes)) if value.files else ("", "")


def _summarize(value: VerifyResult) -> str:
    if not value.files:
        return "[dim]not materialized[/]"
    counts = [f"{len(names):,} {what}" for what in _DIFFERENCES if (names := getattr(value, what))]
    return f"[red]{', '.join(counts)}[/]" if counts else "[green]as written[/]"


def _escape(text: str) -> str:
    """Return untrusted text for a terminal, without control characters and without markup of rich."""
    return escape(escape_terminal(text))


def print_status(
    console: Console,
    settings: Settings,
    inputs: Iterable[InputState],
    states: Iterable[AssetState],
    healths: Iterable[Health],
) -> None:
    """Print inputs that are found, and state and health of every asset; health is in the row of its first partition."""
    console.print(f"profile [bold]{settings.profile}[/], data in [bold]{settings.data}[/]", soft_wrap=True)
    table = _make_table("input", "state", "path below the data folder")
    for one in inputs:
        table.add_row(one.name, "[green]found[/]" if one.found else "[yellow]not found[/]", one.path)
    console.print(table)
    table = _make_table("asset", "state", "materialized", ">files or rows", ">bytes", "checks", "freshness")
    table.columns[0].no_wrap = True
    unprinted = {health.asset: health for health in healths}
    for state in states:
        health = unprinted.pop(state.asset, None)
        failed = health and health.failed_run
        table.add_row(
            escape(name_partition(state.asset, state.partition)),
            f"[{_COLOURS[state.state]}]{state.state}[/]" + (", [bold red]run failed[/]" if failed else ""),
            _show_time(state.when),
            _count(count_files_or_rows(state.metadata)),
            format_bytes(state.metadata.get(BYTES)),
            _show_checks(health, made=state.when is not None) if health else "",
            _show_freshness(health.freshness) if health else "",
        )
    console.print(table)


def print_causes(
    console: Console,
    states: Iterable[AssetState],
    healths: Iterable[Health],
    failures: Mapping[str, list[Finding]],
) -> None:
    """Print why assets are stale, findings of checks, and why the last runs failed."""
    for state in states:
        if state.why:
            _print_cause(console, "yellow", "stale", name_partition(state.asset, state.partition), state.why)
    print_findings(console, [finding for health in healths for finding in health.findings])
    runs = {finding: run for run, findings in failures.items() for finding in findings}  # each finding once
    for finding, run in runs.items():
        _print_cause(console, "bold red", f"run {run[:_SHORT_ID]} failed", finding.asset, finding.text)


def print_status_result(console: Console, states: Iterable[AssetState], healths: Iterable[Health]) -> bool:
    """Print one line with the number of problems; return whether there is none."""
    count = Counter(state.state for state in states)
    unhealthy = sum(not health.healthy for health in healths)
    wrong = {"missing": count["missing"], "stale": count["stale"], "failed or no longer fresh": unhealthy}
    problems = ", ".join(f"{number} {what}" for what, number in wrong.items() if number)
    console.print(
        f"[bold red]{problems}[/]: run pervl materialize; it makes what is missing or stale, and reports failures"
        if problems
        else "[bold green]all up to date, no check of error severity failed[/]"
    )
    return not problems


def _show_checks(health: Health, *, made: bool) -> str:
    counts = health.count()
    if not made:  # there is nothing to check yet
        del counts["not run"]
    parts = [(count, status) for status in _STATUS_COLOURS if (count := counts[status])]
    return ", ".join(f"[{_STATUS_COLOURS[status]}]{count} {status}[/]" for count, status in parts)


def _show_freshness(freshness: str | None) -> str:
    return f"[{_FRESHNESS_COLOURS[freshness]}]{freshness}[/]" if freshness else ""


def print_paths(console: Console, data: Path) -> None:
    """Print what the demo made and where it is."""
    console.print("\n[bold]The demo data is ready. Where to look:[/]")
    for path, what in (
        ("youtube_vos/ytvos_PerVL/fsl_seg", "few-shot crops and evaluation frames, boxes and masks"),
        (f"youtube_vos/{RETRIVAL_SETS}/validation", "a retrieval set as PALAVRA reads it"),
        ("deep_fashion2/personalized_validation", "few-shot and evaluation images of people's clothes"),
        ("inversion_model_train_data", "the training files of the inversion model"),
        ("assets", "typed tables, features, matches and ledgers in Parquet"),
    ):
        console.print(f"  {data / path}", highlight=False, soft_wrap=True, end="")
        console.print(f"  [dim]{what}[/]", highlight=False, soft_wrap=True)
    console.print("  [bold]make ui[/] opens the same graph in the browser at http://127.0.0.1:3000", highlight=False)


def format_bytes(count: float | None) -> str:
    """Return a number of bytes: 1.7 GB; nothing where it is not known."""
    return "" if count is None else rich.filesize.decimal(int(count))


def _make_table(*columns: str) -> Table:
    """Return an empty table; a column whose name begins with > holds numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _show_quarantined(made: Materialized) -> str:
    shown = f"[yellow]{made.quarantined:,}[/]" if made.quarantined else "0" if QUARANTINED in made.metadata else ""
    return f"{shown} [red]+ {made.missing:,} missing[/]" if made.missing else shown


def _show_time(when: datetime | None) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M") if when else ""
