"""The command line: `pervl demo`, `pervl materialize`, `pervl verify`, `pervl status`, `pervl preview`.

Belongs here: options, progress, errors. Does not belong here: running, verifying and printing, which are `headless`'s,
and everything that an asset does. Dagster is loaded inside the commands: `--help` comes at once.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.settings import Settings, load_env_file

if TYPE_CHECKING:
    from dagster import DagsterInstance

_POLL_SECONDS = 0.3


class PervlGroup(click.Group):
    """Shows a `PervlError` as what it is: a message for a person, without a stack."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; exit with 1 after an error a person can act on."""
        try:
            return super().invoke(ctx)
        except PervlError as error:
            Console(stderr=True).print(f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            ctx.exit(1)


@click.group(cls=PervlGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pervl_assets")
def main() -> None:
    """The PerVL benchmark as Dagster assets: from raw archives to the files PALAVRA reads.

    Settings are environment variables (PERVL_DATA, …: docs/operating.md). Those in the file .env of the current folder
    are used first, as in Dagster.
    """
    load_env_file(Path.cwd())


@main.command()
@click.option("--select", default="*", show_default=True, help="""Dagster selection: group:ytvos, +key:"palavra/…" """)
def materialize(select: str) -> None:
    """Materialize the graph or a part of it, every partition of what is selected.

    What is unchanged is left as it is. Exits with 0 only if every asset materialized and every check of error severity
    passed.
    """
    sys.exit(0 if run_graph(select) else 1)


@main.command()
def demo() -> None:
    """Draw the miniature world, materialize the whole graph on it, and verify the results."""
    os.environ["PERVL_PROFILE"] = "demo"
    os.environ.setdefault("PERVL_EXECUTOR", "in_process")  # starting processes would take longer than the work
    passed = run_graph("*") and run_verification()
    if passed:
        from pervl_assets.cli.printing import make_console, say_where_to_look

        say_where_to_look(make_console(), Settings.from_env().data)
    sys.exit(0 if passed else 1)


@main.command()
def verify() -> None:
    """Re-read what is on disk and hold it against its manifests: missing, changed, extra."""
    sys.exit(0 if run_verification() else 1)


@main.command()
@click.option("--check", is_flag=True, help="Exit with 1 if anything is missing, stale, failed or no longer fresh.")
def status(*, check: bool) -> None:
    """Show what is up to date, stale or missing, what checks and freshness say, and which raw inputs are found.

    The Dagster UI says the same of the same folder.
    """
    from pervl_assets.cli import printing
    from pervl_assets.cli.health import explain_failed_runs, read_health
    from pervl_assets.cli.runs import open_instance
    from pervl_assets.cli.status import list_inputs, list_states
    from pervl_assets.definitions import defs

    settings, console = Settings.from_env(), printing.make_console()
    with open_instance(settings.data) as instance:
        states, healths = list(list_states(defs, instance)), read_health(defs, instance)
        failures = explain_failed_runs(instance, healths)
    printing.print_status(console, settings, list_inputs(settings), states, healths)
    printing.print_causes(console, states, healths, failures)
    sound = printing.print_verdict_of_status(console, states, healths)
    sys.exit(1 if check and not sound else 0)


@main.command()
@click.argument("asset")
@click.option("--concept", required=True, help="Name of the concept, which is the name of its class folder.")
@click.option("--split", help="Partition of the tree; without it, whichever has the concept.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="PNG to write.  [default: CONCEPT.png]")
def preview(asset: str, concept: str, split: str | None, out: Path | None) -> None:
    """Draw everything about one concept of the folder tree ASSET, e.g. ytvos/fsl_seg.

    All its few-shot images, its evaluation images with box and mask, and what the annotations say of it.
    """
    from pervl_assets.cli.preview import preview_concept

    target = out or Path(f"{concept}.png")
    picture = preview_concept(Settings.from_env().data, asset, concept, split)
    write_bytes_atomically(target.absolute(), picture)
    Console().print(str(target), highlight=False, soft_wrap=True)


def run_graph(selection: str) -> bool:
    """Materialize a selection with a progress bar and an end table; return whether all of it passed."""
    from pervl_assets.cli.printing import make_console, print_run_result
    from pervl_assets.cli.runs import load_repository, open_instance
    from pervl_assets.definitions import defs
    from pervl_assets.defs.run_results import RunResult, read_run_result
    from pervl_assets.defs.runs import Launch, fail_dead_runs, plan_runs, select_assets

    settings, console, graph = Settings.from_env(), make_console(), defs.resolve_asset_graph()
    waves = plan_runs(graph, select_assets(graph, selection))
    total = sum(wave.size for wave in waves)
    start, outcome = time.monotonic(), RunResult()
    with open_instance(settings.data) as instance, show_progress(console, total) as progress:
        fail_dead_runs(instance)
        launch = Launch(load_repository(), instance)
        for wave in waves:
            run = launch.create_run(wave)
            with follow(instance, run.run_id, progress):
                launch.execute(run)
            outcome.add(read_run_result(instance, run.run_id))
            if not outcome.succeeded:
                break
    print_run_result(console, outcome, time.monotonic() - start, total - len(outcome.made))
    return outcome.passed


def run_verification() -> bool:
    """Verify what is on disk with an end table; return whether all of it is as its manifests say."""
    from pervl_assets.cli.printing import make_console, print_verification
    from pervl_assets.cli.verification import verify_values
    from pervl_assets.definitions import defs

    settings, console = Settings.from_env(), make_console()
    with console.status("reading all values"):
        results = dict(verify_values(defs, settings.data))
    return print_verification(console, results, settings.data)


@contextmanager
def show_progress(console: Console, total: int) -> Iterator[Progress]:
    """Show a bar that counts assets; where there is no terminal, a line for each."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[news]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        bar.add_task("materializing", total=total, news="")
        yield bar


@contextmanager
def follow(instance: "DagsterInstance", run_id: str, progress: Progress) -> Iterator[None]:
    """Let the bar follow the events of a run while it goes on."""
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(instance, run_id, progress, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(instance: "DagsterInstance", run_id: str, progress: Progress, over: threading.Event) -> None:
    from pervl_assets.cli.runs import read_progress

    cursor: str | None = None
    task = progress.tasks[0].id
    while True:
        last = over.wait(_POLL_SECONDS)
        news, cursor = read_progress(instance, run_id, cursor)
        for item in news:
            progress.update(task, advance=1 if item.made else 0, news=escape(item.text))
            if item.made and progress.disable:
                progress.console.print(f"  {escape(item.text)}", highlight=False)
        if last:
            return


if __name__ == "__main__":
    main()
