"""`pervl materialize`: the planned runs of a selection, followed on the terminal."""

import time
from functools import partial

import click

from pervl_assets.cli.console import RunDisplay, make_console
from pervl_assets.cli.plans import encode_plan, print_plan
from pervl_assets.cli.printing import print_outdated_inputs, print_reasons, print_run_result
from pervl_assets.cli.runs import follow, open_instance, read_instance
from pervl_assets.dagster_private import ReconstructableRepository
from pervl_assets.defs.runs import Launch, fail_dead_runs
from pervl_assets.settings import Settings


def show_plan(selection: str, *, force: bool = False, as_json: bool = False) -> None:
    """Print what `run_graph` would make of a selection, in which runs and why; nothing is written."""
    from pervl_assets.definitions import defs

    settings, console, resources = Settings.from_env(), make_console(), defs.resources or {}
    with read_instance(settings.data) as instance:
        launch = Launch(_find_repository(), instance)
        plan, inputs = launch.plan(selection, resources, force=force), launch.explain_inputs(selection, resources)
    if as_json:
        click.echo(encode_plan(plan, inputs))
    else:
        print_outdated_inputs(console, inputs)
        print_plan(console, plan)


def _find_repository() -> ReconstructableRepository:
    return ReconstructableRepository.for_module("pervl_assets.definitions", "defs")


def run_graph(selection: str, *, force: bool = False) -> bool:
    """Materialize what is not up to date in a selection; return whether all of it and every error check passed."""
    from pervl_assets.definitions import defs

    settings, console, start = Settings.from_env(), make_console(), time.monotonic()
    with open_instance(settings.data) as instance:
        for dead in fail_dead_runs(instance):
            console.print(
                f"[yellow]run {dead} was left by a process that was killed[/]: it is failed now, its pools are free"
            )
        launch = Launch(_find_repository(), instance, devices=settings.devices)
        plan = launch.plan(selection, defs.resources or {}, force=force)
        print_outdated_inputs(console, launch.explain_inputs(selection, defs.resources or {}))
        if plan.skipped:
            print_reasons(console, plan.todo)
        with RunDisplay(console) as display:
            result = launch.execute(plan, partial(follow, instance, display))
    print_run_result(console, result, time.monotonic() - start)
    return result.passed
