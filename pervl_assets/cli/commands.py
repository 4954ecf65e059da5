"""The commands of `pervl`, which `pervl --help` lists.

Dagster is imported inside the commands, so that `--help` is printed at once.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from pervl_assets.cli.group import PervlGroup, TerminalFormatter, json_option, quiet_option, read_settings
from pervl_assets.cli.selections import select_option
from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.core.text import escape_terminal

_NOT_IN_DEMO = ("annotations", "clip_model", "clip_pretrained")
"""Settings that fit other inputs than those of the demo data."""

_OF_FULL_DATA = ("data", "raw")
"""Where the real data are, if the profile is full: the demo draws no images beside them."""

_FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)
_FOLDER: Final = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group(cls=PervlGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pervl_assets")
def main() -> None:
    """The PerVL benchmark as Dagster assets: from raw archives to a score beside the published ones.

    Settings are environment variables (PERVL_DATA, …: docs/operating.md). Those in the file .env of the current folder
    are used first, as in Dagster.
    """
    from pervl_assets.settings import load_env_file

    # Else Python processes that this one starts would import modules that others put into the current folder.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    if logging.lastResort:  # prints warnings
        logging.lastResort.setFormatter(TerminalFormatter())
        if not logging.root.handlers:  # else open_clip's first line would add one with another format
            logging.root.addHandler(logging.lastResort)
    load_env_file(Path.cwd())


@main.command(short_help="Materialize what is not up to date.")
@select_option
@click.option("--force", is_flag=True, help="Materialize up-to-date values too.")
@click.option("--dry-run", is_flag=True, help="Only print what would be made, in which runs, and why.")
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Print every line that the steps log, too.")
def materialize(
    words: tuple[str, ...], *, force: bool, dry_run: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Materialize what is not up to date in the graph or in a part of it, every partition of what is selected.

    Up to date means: inputs, code version and settings are those of the last materialization, its files have the sizes
    and times they had, and none of its checks failed (pervl verify evaluates sums_hold). Exits with 0 only if every
    asset is materialized and every check of error severity passed.
    """
    from pervl_assets.cli.materialize import run_graph, show_plan

    if dry_run:
        show_plan(words, force=force, as_json=as_json)
        return
    passed = run_graph(words, force=force, as_json=as_json, quiet=quiet, verbose=verbose)
    sys.exit(0 if passed else 1)


@main.command(short_help="Make demo data, the whole graph on it, and a summary.")
def demo() -> None:
    """Make the demo data, materialize the whole graph on it, verify it, and show how well pictures are found."""
    from pervl_assets.settings import get_variable

    is_full = os.environ.get("PERVL_PROFILE") == "full"
    for name in _NOT_IN_DEMO + (_OF_FULL_DATA if is_full else ()):
        if os.environ.pop(get_variable(name), None):
            Console(stderr=True).print(f"{get_variable(name)} is ignored: the demo has its own.", soft_wrap=True)
    os.environ["PERVL_PROFILE"] = "demo"
    from pervl_assets.cli.console import make_console
    from pervl_assets.cli.materialize import run_graph
    from pervl_assets.cli.printing import print_paths, print_results
    from pervl_assets.cli.verification import run_verification

    passed = run_graph([]) and run_verification()
    if passed:
        from pervl_assets.cli.report import read_results

        settings, console = read_settings(), make_console()
        print_paths(console, settings.data)
        print_results(console, read_results(settings.data))
    sys.exit(0 if passed else 1)


@main.command(short_help="Compare all values with their manifests.")
@select_option
@json_option
@quiet_option
def verify(words: tuple[str, ...], *, as_json: bool, quiet: bool) -> None:
    """Read all values again, or those of SELECTION, and compare them with their manifests.

    Files can be missing, changed or extra. Exits with 0 only if there are values and nothing differs.
    """
    from pervl_assets.cli.verification import run_verification

    sys.exit(0 if run_verification(words, as_json=as_json, quiet=quiet) else 1)


@main.command(short_help="Show what is up to date, stale, missing or failed.")
@select_option
@click.option("--check", is_flag=True, help="Exit with 1 if anything is missing, stale, failed or no longer fresh.")
@click.option("--wide", is_flag=True, help="All columns, and each partition in a row, however wide the terminal is.")
@json_option
@quiet_option
def status(words: tuple[str, ...], *, check: bool, wide: bool, as_json: bool, quiet: bool) -> None:
    """Show which values are up to date, stale or missing, checks and freshness, and which raw inputs are found.

    Of all assets, or of SELECTION: then --check, too, is about these only. Stale values are those that pervl
    materialize would make again. The Dagster UI shows the same checks and freshness.
    """
    from pervl_assets.cli.show_status import show_status

    healthy = show_status(words, wide=wide, as_json=as_json, quiet=quiet)
    sys.exit(1 if check and not healthy else 0)


@main.command("list", short_help="List what can be selected.")
@select_option
@json_option
def list_(words: tuple[str, ...], *, as_json: bool) -> None:
    """List what can be selected: assets by group, with their kinds and partitions.

    SELECTION is an asset (ytvos/fsl_seg), a group (ytvos), the first parts of names (evaluation/ytvos), a pattern
    ('*/queries'), or Dagster's syntax: 'kind:parquet and not group:evaluation'. +X is X with all its inputs, X+ with
    all that is made from it. Of several selections, the assets of any are meant.
    """
    from pervl_assets.cli.listing import show_assets

    show_assets(words, as_json=as_json)


@main.command(short_help="Draw everything about one concept as a PNG.")
@click.argument("asset")
@click.option("--concept", required=True, help="Name of the concept, which is the name of its class folder.")
@click.option("--split", help="Partition of the tree; without it, the one that has the concept.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="PNG to write.  [default: CONCEPT.png]")
def preview(asset: str, concept: str, split: str | None, out: Path | None) -> None:
    """Draw everything about one concept of the folder tree ASSET, e.g. ytvos/fsl_seg.

    All its few-shot images, its evaluation images with box and mask, and its annotations.
    """
    from pervl_assets.cli.preview import preview_concept

    target = out or Path(f"{concept}.png")
    image = preview_concept(read_settings().data, asset, concept, split)
    write_bytes_atomically(target.absolute(), image)
    click.echo(escape_terminal(str(target)))


@main.command(short_help="Write the evaluation as one HTML file.")
@click.option("--encoder", help="Name of a further encoder, as in its keys: ViT-L-14-quickgelu_openai.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="HTML to write.  [default: in PERVL_DATA]")
def report(encoder: str | None, out: Path | None) -> None:
    """Write the evaluation as one HTML file: scores, losses, and the best and worst queries with their images."""
    from pervl_assets.cli.report import make_report
    from pervl_assets.storage import open_store

    settings = read_settings()
    store = open_store(str(settings.data))
    target = out or store.folder / f"report{f'_{encoder}' if encoder else ''}.html"
    html = make_report(settings, encoder)
    write_bytes_atomically(target.absolute(), html)
    if out is None:
        store.push_file(target)
    click.echo(escape_terminal(str(out or store.show(target))))


@main.command(short_help="Score embeddings: MRR, recall, places of the queries.")
@click.argument("queries", nargs=-1, required=True, type=_FILE)
@click.option("--gallery", type=_FILE, help="Parquet file with the columns image and vector.")
@click.option("--benchmark", metavar="NAME", help="Instead: the evaluation images of a benchmark, as materialized.")
@click.option("--split", metavar="SPLIT", help="Split of the benchmark: validation or test.")
@click.option("--encoder", help="Name of a further encoder, as in its keys: ViT-L-14-quickgelu_openai.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, with the place of every query.")
def score(
    queries: tuple[Path, ...],
    gallery: Path | None,
    benchmark: str | None,
    split: str | None,
    encoder: str | None,
    *,
    as_json: bool,
) -> None:
    """Score embeddings: rank a gallery for each query by cosine similarity, and find its right image.

    A Parquet file of QUERIES has the columns query (an id), target (name of the right image, or a list of names) and
    vector; with a column concept, intervals are by concept. Several files are compared with the first, query by query.
    """
    from pervl_assets.cli.score import encode_scores, print_scores, read_benchmark
    from pervl_assets.evaluation.score_files import read_gallery, read_queries, score_queries

    others = [split, encoder] if benchmark is None else [gallery]
    if any(others) or not (gallery or (benchmark and split)):
        raise click.UsageError("Give either --gallery, or --benchmark and --split.")
    with Console(stderr=True).status("reading and ranking"):
        files = [read_queries(file) for file in queries]  # the quick errors first
        if gallery:
            images = read_gallery(gallery)
        else:
            settings = read_settings()
            settings.require_encoder(encoder)
            images = read_benchmark(settings.data, str(benchmark), str(split), encoder)
        scores = score_queries(files, images)
    if as_json:
        click.echo(encode_scores(images, scores))
    else:
        print_scores(images, scores)


@main.command(short_help="Copy folder trees and training files to a folder.")
@select_option
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--split", metavar="SPLIT", help="Only this partition of the trees: validation or test.")
def export(words: tuple[str, ...], folder: Path, split: str | None) -> None:
    """Copy folder trees and training files to FOLDER, as they are below a data folder, for programs that read folders.

    SELECTION is for example ytvos/retrieval_set, or palavra, or both; everything is '*'. Each file is compared with its
    manifest. What is in FOLDER already is kept.
    """
    from pervl_assets.cli.console import make_console
    from pervl_assets.cli.storage import export_values, plan_exports
    from pervl_assets.definitions import defs

    if not words:
        raise click.UsageError("Name what to export: SELECTION FOLDER. Everything is '*'.")
    export_values(make_console(), plan_exports(defs, read_settings().data, words, split), folder.absolute())


@main.command(short_help="Write a web page to browse concepts and images.")
@click.option("--benchmark", metavar="NAME", help="Only this benchmark, e.g. ytvos.")
@click.option("--split", metavar="SPLIT", help="Only this split: validation or test.")
@click.option("--encoder", help="Name of a further encoder, as in its keys: ViT-L-14-quickgelu_openai.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder.  [default: gallery in PERVL_DATA]"
)
def gallery(benchmark: str | None, split: str | None, encoder: str | None, out: Path | None) -> None:
    """Write a web page to browse concepts, images, boxes and captions, with a map of the embeddings.

    It opens from the disk and loads nothing from the network: index.html, and small copies of the images beside it.
    What is not materialized is left out; the images alone are enough.
    """
    from rich.filesize import decimal

    from pervl_assets.cli.gallery import make_gallery
    from pervl_assets.storage import open_store

    settings, console = read_settings(), Console(stderr=True, emoji=False)
    store = open_store(str(settings.data))
    folder = out or store.folder / "gallery"
    with console.status("reading values") as shown:

        def show(done: int, total: int) -> None:
            shown.update(f"{done:,} of {total:,} images")

        written = make_gallery(settings, folder.absolute(), benchmark, split, encoder, show)
        if out is None:
            store.push_folder(folder)
    console.print(f"{written.images:,} images, {decimal(written.bytes)}")
    if out is None and not isinstance(settings.data, Path):
        click.echo(f"kept in {escape_terminal(store.show(folder))}; here is a copy:", err=True)
    click.echo(escape_terminal(str(written.page)))


@main.command(short_help="Remove what no manifest names, and old unfinished work.")
@click.option("--days", default=1, show_default=True, type=click.IntRange(1, 3650), help="Age of what is removed.")
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
def prune(days: int, *, dry_run: bool) -> None:
    """Remove stored objects that no manifest names, and unfinished work of dead runs, if they are a day old or older.

    In a data folder there is only the unfinished work: from it the next run would continue.
    """
    from datetime import timedelta

    from pervl_assets.cli import storage
    from pervl_assets.cli.console import make_console

    storage.prune(make_console(), read_settings().data, timedelta(days=days), dry_run=dry_run)


@main.command(short_help="Prepare a folder for the Hugging Face Hub.")
@select_option
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--dry-run", is_flag=True, help="Only print what would be in FOLDER.")
@click.option("--wide", is_flag=True, help="Print the licences of each part, too, and let the terminal wrap the lines.")
def publish(words: tuple[str, ...], folder: Path, *, dry_run: bool, wide: bool) -> None:
    """Prepare FOLDER for an upload to the Hugging Face Hub, without images that are not yours to give.

    Tables, features, weights and training files are copied, with a data card, croissant.json and LICENSE.md. Folder
    trees with images of YouTube-VOS or DeepFashion2 are left out; their ledgers stay. Nothing is uploaded: the command
    that does so is printed. SELECTION '*' is everything.
    """
    from pervl_assets.cli.console import make_console
    from pervl_assets.cli.publish import publish as prepare

    if not words:
        raise click.UsageError("Name what to publish: SELECTION FOLDER. Everything is '*'.")
    prepare(make_console(), read_settings(), words, folder.absolute(), dry_run=dry_run, wide=wide)


@main.command(short_help="Serve the Dagster UI.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Further name of this server, e.g. of a proxy.")
@click.option("--workspace", type=_FILE, help="workspace.yaml of code servers to show, e.g. those of a team.")
@click.option("--read-only", is_flag=True, help="Refuse everything that changes something; no schedules and sensors.")
def ui(host: str, port: int, allow_host: tuple[str, ...], workspace: Path | None, *, read_only: bool) -> None:
    """Serve the Dagster UI, with its schedules and sensors, until Ctrl-C.

    Requests that come from other web pages, and those for another host name, are refused. There is no log-in.
    """
    from pervl_assets.cli.console import make_console
    from pervl_assets.cli.ui import serve

    serve(make_console(), read_settings().data, host, port, allow_host, workspace, read_only=read_only)


@main.command(short_help="Begin a benchmark of your own.")
@click.argument("kind", type=click.Choice(["benchmark"]), expose_value=False)
@click.argument("name")
@click.option("--folder", default=".", show_default=True, type=_FOLDER, help="Checkout of this project to add it to.")
def new(name: str, folder: Path) -> None:
    """Begin a benchmark of your own: write a module, demo data and a test that work, for you to change.

    NAME is that of its module, and of the group and prefix of its assets: small letters, digits and underscores.
    Nothing is overwritten.
    """
    from pervl_assets.cli.console import make_console
    from pervl_assets.cli.new import create_benchmark, print_benchmark
    from pervl_assets.definitions import defs

    print_benchmark(make_console(), name, create_benchmark(name, folder, defs), folder)
