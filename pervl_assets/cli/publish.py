"""`pervl publish`: a folder for the Hugging Face Hub, without what licences do not let users pass on."""

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import rich.filesize
from rich.console import Console

from pervl_assets.cli.console import escape
from pervl_assets.cli.selections import choose_assets, join_words
from pervl_assets.cli.tables import AssetRow, print_assets
from pervl_assets.core.errors import PervlError, SchemaError, WriteError, list_some, name_some
from pervl_assets.core.files import explain_write_errors, make_folder, sync_tree
from pervl_assets.core.text import count_of
from pervl_assets.definitions import build_assets, defs
from pervl_assets.defs.release import Published, collect_release, find_published
from pervl_assets.defs.resources import Workspace
from pervl_assets.release.parts import Part, Release
from pervl_assets.release.publication import leave_out, write_publication
from pervl_assets.settings import Settings


def publish(
    console: Console, settings: Settings, words: Sequence[str], folder: Path, *, dry_run: bool, wide: bool = False
) -> None:
    """Prepare a folder for an upload, and print what is in it, what is not and why, and the command that uploads it.

    Args:
        console: Where it is printed.
        settings: They name the data root.
        words: The words of a selection.
        folder: The folder, which must not exist, or be empty.
        dry_run: Whether nothing is written.
        wide: Whether the licences of each part are printed however narrow the terminal is.

    Raises:
        PervlError: A word is no selection, or names nothing that can be published.
        MissingInputError: Nothing of the selection is materialized.
        SchemaError: A value differs from its manifest.
        WriteError: The folder is not empty, or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise WriteError(
            f"{folder} is not empty: its other files would be uploaded, too.",
            advice="Name a folder that does not exist, or remove this one.",
        )
    keys = choose_assets(defs, words)
    published = [value for value in find_published(build_assets(settings)) if value.key in keys]
    if not published:
        raise PervlError(
            f"{join_words(words)} has only raw inputs or descriptions of the release, which are not published.",
            advice="Name results, e.g. ytvos or training, or '*' for everything.",
        )
    workspace = Workspace.from_settings(settings)
    with console.status("reading manifests"):
        release = collect_release(published, workspace)
        release.require_parts()
        given = leave_out(release)
    if not dry_run:
        with console.status("comparing with the manifests"):
            _verify(published, given, workspace)
        with console.status(f"copying to {escape(str(folder))}"):
            _write(release, folder)
    _print(console, given if dry_run else replace(given, root=folder), words, folder, dry_run=dry_run, wide=wide)


def _verify(published: Sequence[Published], given: Release, workspace: Workspace) -> None:
    """Bring all values that are passed on here, and compare them with their manifests."""
    barred, damaged = {part.name for part in given.barred}, list[str]()
    for value in (value for value in published if value.name not in barred):
        manager = value.manager(data=workspace.data)
        for partition in value.partitions:
            manager.fetch(value.key, partition, whole=True)
            result = manager.verify(value.key, partition)
            damaged += [*result.missing, *result.changed]
    if damaged:
        raise SchemaError(
            f"{count_of(len(damaged), 'file')} of what would be published: missing or damaged.",
            details=list_some(damaged),
            advice="Run pervl verify, then pervl materialize, which repairs them, then publish again.",
        )


def _write(release: Release, folder: Path) -> None:
    """Write the folder whole or not at all."""
    with explain_write_errors(folder):
        make_folder(folder.parent)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
            made = Path(work) / "made"
            made.mkdir()
            write_publication(release, made)
            sync_tree(made)
            made.replace(folder)


def _print(console: Console, given: Release, words: Sequence[str], folder: Path, *, dry_run: bool, wide: bool) -> None:
    texts = {part.name: part.licences for part in given.parts}
    _print_parts(console, given.parts, given.root, texts, "licences", wide=wide)
    if given.barred:
        what = ", as with the real images, which" if given.synthetic else ": images that"
        _say(console, f"\n[yellow]left out[/]{what} may not be passed on")
        owners = {part.name: [source.title for source in part.barred_by] for part in given.barred}
        _print_parts(console, given.barred, given.root, owners, "images of", wide=wide)
    if given.absent:
        _say(console, f"\n[yellow]not materialized[/]: {escape(name_some(given.absent))}")
    total = rich.filesize.decimal(sum(part.measure(given.root)[1] for part in given.parts))
    count, name = f"[bold green]{count_of(len(given.parts), 'part')}[/]", escape(shlex.quote(str(folder)))
    of = "" if "*" in words else f" of {escape(' '.join(words))}"
    verb = "would be" if dry_run else "are"
    licences = sorted({licence for part in given.parts for licence in part.licences})
    _say(console, f"\n{count}{of}, {total}, {verb} in {name}", soft_wrap=True)
    _say(console, "with README.md (the data card), croissant.json, and LICENSE.md (the licences of each part).")
    _say(console, f"Licences: {escape('; '.join(licences))}.")
    if not dry_run:
        _say(console, "Nothing was uploaded. To upload it under your name (hf auth login):")
        _say(console, f"  hf upload YOU/pervl {name} --repo-type dataset --private", soft_wrap=True)


def _say(console: Console, text: str, *, soft_wrap: bool = False) -> None:
    console.print(text, highlight=False, soft_wrap=soft_wrap)


def _print_parts(
    console: Console, parts: Sequence[Part], root: Path, texts: Mapping[str, Sequence[str]], title: str, *, wide: bool
) -> None:
    """Print a table of parts with their files, sizes, and texts by name."""
    measured = [(part.name, *part.measure(root)) for part in parts]
    rows = [
        AssetRow(name, None, (f"{files:,}", rich.filesize.decimal(size), escape("; ".join(texts[name]))))
        for name, files, size in measured
    ]
    print_assets(console, (">files", ">size", title), rows, 2, wide=wide)
