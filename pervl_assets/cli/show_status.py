"""`pervl status`: what it prints, for people and as JSON."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, get_args

import click
import dagster as dg
from rich.console import Console

from pervl_assets.cli.console import escape, make_console, print_text
from pervl_assets.cli.printing import (
    format_bytes,
    name_remedy,
    paint,
    print_cause,
    print_findings,
    print_reasons,
    show_count,
)
from pervl_assets.cli.runs import read_instance
from pervl_assets.cli.selections import choose_assets
from pervl_assets.cli.status import (
    AssetState,
    CheckStatus,
    Health,
    InputState,
    count_problems,
    explain_failed_runs,
    list_inputs,
    list_states,
    read_health,
)
from pervl_assets.cli.tables import AssetRow, print_assets
from pervl_assets.core.text import count_of
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.run_results import Finding
from pervl_assets.settings import Settings

_TITLES: Final = ("state", "made", ">bytes", ">files or rows", "checks", "freshness")
_LEAST: Final = 2
"""Columns that are shown on any terminal."""

_SHORT_ID: Final = 8
_PROBLEMS: Final = {"failed": "failed or no longer fresh"}


def show_status(words: Sequence[str], *, wide: bool, as_json: bool, quiet: bool) -> bool:
    """Print the state of a selection; return whether nothing of it is missing, stale, failed or no longer fresh."""
    from pervl_assets.definitions import defs

    settings = Settings.from_env()
    keys = choose_assets(defs, words)
    with read_instance(settings.data) as instance:
        states, healths = list(list_states(defs, instance, keys)), read_health(defs, instance, keys)
        failures = explain_failed_runs(instance, healths)
    ancestors = map(defs.resolve_asset_graph().get_ancestor_asset_keys, keys)
    inputs = list_inputs(settings, {key.path[-1] for key in {*keys}.union(*ancestors) if key.path[0] == RAW})
    if as_json:
        click.echo(encode_status(settings, inputs, states, healths, failures))
    else:
        print_status(make_console(), settings, inputs, states, healths, failures, words, wide=wide, quiet=quiet)
    return not any(count_problems(states, healths).values())


def encode_status(
    settings: Settings,
    inputs: Iterable[InputState],
    states: Sequence[AssetState],
    healths: Sequence[Health],
    failures: Mapping[str, list[Finding]],
) -> str:
    """Return everything as JSON. Arguments as of `print_status`."""
    problems = count_problems(states, healths)
    values = [
        {
            "asset": state.asset,
            "partition": state.partition,
            "state": state.state,
            "reason": state.why or None,
            "materialized": state.when.isoformat() if state.when else None,
            "files_or_rows": state.files_or_rows,
            "bytes": state.bytes,
        }
        for state in states
    ]
    content = {
        "profile": settings.profile,
        "data": str(settings.data),
        "healthy": not any(problems.values()),
        "problems": problems,
        "inputs": [vars(one) for one in inputs],
        "values": values,
        "assets": [
            {
                "asset": health.asset,
                "checks": health.checks,
                "findings": [vars(finding) for finding in health.findings],
                "freshness": health.freshness,
                "failed_run": health.failed_run,
            }
            for health in healths
        ],
        "failed_runs": {run: [vars(finding) for finding in findings] for run, findings in failures.items()},
    }
    return json.dumps(content, indent=2)


def print_status(
    console: Console,
    settings: Settings,
    inputs: Sequence[InputState],
    states: Sequence[AssetState],
    healths: Sequence[Health],
    failures: Mapping[str, list[Finding]],
    words: Sequence[str] = (),
    *,
    wide: bool = False,
    quiet: bool = False,
) -> None:
    """Print inputs, state and health of assets, the causes, and the number of problems.

    Args:
        console: Where it is printed.
        settings: The settings.
        inputs: The raw inputs of the assets.
        states: States of their values.
        healths: Health of each asset. It is shown in the row of its first partition.
        failures: Why the last runs failed, by run id.
        words: The selection.
        wide: Whether all columns are printed, and every partition.
        quiet: Whether only causes and problems are printed.
    """
    if not quiet:
        _print_inputs(console, settings, inputs, wide=wide)
        rows = [*_list_rows(states, healths, wide=wide)]
        is_whole = print_assets(console, _TITLES, rows, _LEAST, wide=wide)
        if not is_whole or any(row.count > 1 for row in rows):
            console.print("[dim]--wide shows all columns, and each partition in a row[/]")
    counts = {_PROBLEMS.get(what, what): count for what, count in count_problems(states, healths).items() if count}
    if quiet and counts:
        _print_missing(console, settings, inputs)
    stale = {(dg.AssetKey.from_user_string(one.asset), one.partition): one.why for one in states if one.why}
    print_reasons(console, stale, paint("stale") + " ")
    there = {state.asset for state in states if state.when}
    print_findings(console, [one for health in healths if health.asset in there for one in health.findings])
    runs = {finding: run for run, findings in failures.items() for finding in findings}  # each finding once
    for finding, run in runs.items():
        print_cause(console, "failed", f"run {run[:_SHORT_ID]} failed", finding.asset, finding.text)
    problems = ", ".join(f"{count} {what}" for what, count in counts.items())
    command = name_remedy(words)
    print_text(
        console,
        f"[bold red]{problems}[/]: run {command}; it makes missing and stale values, and reports failures"
        if problems
        else "[bold green]all up to date, no check of error severity failed[/]",
    )


def _print_inputs(console: Console, settings: Settings, inputs: Sequence[InputState], *, wide: bool) -> None:
    """Print where the data is and which raw inputs are there, with their paths (wide)."""
    data = escape(str(settings.data))
    print_text(console, f"profile [bold]{settings.profile}[/], data in [bold]{data}[/]")
    found = [one for one in inputs if one.found]
    if wide:
        for one in found:
            print_text(console, f"[green]input found[/] {one.name}: {_locate(settings, one)}")
    elif found:
        print_text(console, f"[green]inputs found[/] {escape(', '.join(one.name for one in found))}")
    for origin, what in (("server", "will be downloaded"), ("demo", "will be drawn")):
        if names := [one.name for one in inputs if not one.found and one.origin == origin]:
            print_text(console, f"inputs that {what}: {escape(', '.join(names))}")
    _print_missing(console, settings, inputs)


def _print_missing(console: Console, settings: Settings, inputs: Iterable[InputState]) -> None:
    for one in inputs:
        if one.is_wanted:
            print_text(console, f"[yellow]input not found[/] {one.name}: {_locate(settings, one)}")


def _locate(settings: Settings, state: InputState) -> str:
    return escape(f"{settings.raw or settings.data}/{state.path}")


def _list_rows(states: Iterable[AssetState], healths: Iterable[Health], *, wide: bool) -> Iterator[AssetRow]:
    """Yield the rows of the table of states; partitions of an asset that are alike share one."""
    by_asset, health_of = dict[str, list[AssetState]](), {health.asset: health for health in healths}
    for state in states:
        by_asset.setdefault(state.asset, []).append(state)
    for asset, values in by_asset.items():
        alike = not wide and len({value.state for value in values}) == 1
        health: Health | None = health_of[asset]
        for row in [values] if alike else [[value] for value in values]:
            partition = None if alike else row[0].partition
            yield AssetRow(asset, partition, _list_cells(row, health, wide=wide), len(row))
            health = None


def _list_cells(values: Sequence[AssetState], health: Health | None, *, wide: bool) -> tuple[str, ...]:
    """Return the cells of values with the same state: their last materialization, and their sums."""
    last = max((value.when for value in values if value.when), default=None)
    counts, sizes = [value.files_or_rows for value in values], [value.bytes for value in values]
    return (
        paint(values[0].state) + (", [bold red]run failed[/]" if health and health.failed_run else ""),
        "" if last is None else last.astimezone().strftime("%Y-%m-%d %H:%M") if wide else _format_age(last),
        format_bytes(None if None in sizes else sum(size or 0 for size in sizes)),
        show_count(None if None in counts else sum(count or 0 for count in counts)),
        _show_checks(health, made=last is not None) if health else "",
        paint(health.freshness) if health and health.freshness and last else "",
    )


def _format_age(when: datetime) -> str:
    """Return how long ago something was, in its largest unit."""
    seconds = (datetime.now(UTC) - when).total_seconds()
    for unit, size in (("day", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{count_of(int(seconds // size), unit) if unit == 'day' else f'{seconds // size:.0f} {unit}'} ago"
    return "just now"


def _show_checks(health: Health, *, made: bool) -> str:
    """Return the number of checks by status; of a value that does not exist, only of those that a run began."""
    shown = [one for one in get_args(CheckStatus) if health.checks[one] and (made or one == "unfinished")]
    return ", ".join(paint(status, f"{health.checks[status]} ") for status in shown)
