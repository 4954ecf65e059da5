"""`pervl materialize`: the planned runs of a selection, followed on the terminal."""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial

import click

from pervl_assets.cli.console import RunDisplay, make_console
from pervl_assets.cli.plans import encode_plan, encode_value, list_absent, print_plan
from pervl_assets.cli.printing import print_outdated_inputs, print_reasons, print_run_result
from pervl_assets.cli.runs import follow, open_instance, read_instance
from pervl_assets.cli.selections import join_words
from pervl_assets.dagster_private import ReconstructableRepository
from pervl_assets.defs.run_results import RunResult
from pervl_assets.defs.runs import Launch, fail_dead_runs
from pervl_assets.defs.up_to_date import Value
from pervl_assets.settings import Settings


def show_plan(words: Sequence[str], *, force: bool = False, as_json: bool = False) -> None:
    """Print what `run_graph` would make, in which runs and why; nothing is written."""
    from pervl_assets.definitions import defs

    settings, console, resources = Settings.from_env(), make_console(), defs.resources or {}
    selection = join_words(words)
    with read_instance(settings.data) as instance:
        launch = Launch(_find_repository(), instance)
        plan, inputs = launch.plan(selection, resources, force=force), launch.explain_inputs(selection, resources)
    absent = list_absent(settings, [*plan.todo, *inputs])
    if as_json:
        click.echo(encode_plan(plan, inputs, absent))
    else:
        print_outdated_inputs(console, inputs, words)
        print_plan(console, plan, inputs, absent)


def _find_repository() -> ReconstructableRepository:
    return ReconstructableRepository.for_module("pervl_assets.definitions", "defs")


def run_graph(
    words: Sequence[str], *, force: bool = False, as_json: bool = False, quiet: bool = False, verbose: bool = False
) -> bool:
    """Materialize what is not up to date in a selection.

    Args:
        words: Of the selection of what to materialize.
        force: Whether values that are up to date are made again.
        as_json: Whether the result is printed as JSON; everything else is then printed to standard error.
        quiet: Whether only errors, warnings and the result are printed.
        verbose: Whether all lines of the steps are printed.

    Returns:
        Whether all of it was materialized and every check of error severity passed.
    """
    from pervl_assets.definitions import defs

    settings, start, resources = Settings.from_env(), time.monotonic(), defs.resources or {}
    selection = join_words(words)
    console, progress = make_console(stderr=as_json), make_console(stderr=as_json, quiet=quiet)
    with open_instance(settings.data) as instance:
        for dead in fail_dead_runs(instance):
            console.print(
                f"[yellow]run {dead} was left by a process that was killed[/]: it is failed now, its pools are free"
            )
        launch = Launch(_find_repository(), instance, devices=settings.devices)
        plan = launch.plan(selection, resources, force=force)
        print_outdated_inputs(console, inputs := launch.explain_inputs(selection, resources), words)
        if plan.skipped:
            print_reasons(progress, plan.todo)
        with RunDisplay(progress, verbose=verbose) as display:
            result = launch.execute(plan, partial(follow, instance, display))
    seconds = time.monotonic() - start
    if as_json:
        click.echo(_encode_result(result, seconds, inputs))
    else:
        print_run_result(console, result, seconds, quiet=quiet)
    return result.passed


def _encode_result(result: RunResult, seconds: float, inputs: Mapping[Value, str]) -> str:
    """Return the result of a command as JSON. `inputs` are outdated and were not selected, with the reason."""
    made = [
        {
            "asset": one.asset,
            "partition": one.partition,
            "files_or_rows": one.files_or_rows,
            "bytes": one.bytes,
            "quarantined": one.quarantined,
            "missing": one.missing,
            "seconds": round(one.seconds, 3),
        }
        for one in result.made
    ]
    content = {
        "passed": result.passed,
        "exit_code": 0 if result.passed else 1,
        "interrupted": result.interrupted,
        "seconds": round(seconds, 3),
        "made": made,
        "not_made": result.left,
        "up_to_date": result.skipped,
        "findings": [vars(finding) for finding in result.findings],
        "outdated_inputs": [encode_value(value, reason=reason) for value, reason in inputs.items()],
        "runs": result.runs,
    }
    return json.dumps(content, indent=2)
