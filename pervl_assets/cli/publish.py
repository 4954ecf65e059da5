"""`pervl publish`: a folder for the Hugging Face Hub, without what licences do not let users pass on."""

import shlex
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import rich.filesize
from rich.console import Console

from pervl_assets.cli.console import escape, make_table
from pervl_assets.cli.selections import choose_assets, join_words
from pervl_assets.core.errors import PervlError, SchemaError, WriteError, list_some, name_some
from pervl_assets.core.files import explain_write_errors, make_folder, sync_tree
from pervl_assets.core.text import count_of
from pervl_assets.definitions import build_assets, defs
from pervl_assets.defs.release import Published, collect_release, find_published
from pervl_assets.defs.resources import Workspace
from pervl_assets.release.parts import Part, Release
from pervl_assets.release.publication import leave_out, write_publication
from pervl_assets.settings import Settings


def publish(console: Console, settings: Settings, words: Sequence[str], folder: Path, *, dry_run: bool) -> None:
    """Prepare a folder for an upload, and print what is in it, what is not and why, and the command that uploads it.

    Args:
        console: Where it is printed.
        settings: They name the data root.
        words: The words of a selection; everything if there are none.
        folder: The folder, which must not exist, or be empty.
        dry_run: Whether nothing is written.

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
            advice="Name results, e.g. ytvos or training, or nothing for everything.",
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
    _print(console, given if dry_run else replace(given, root=folder), folder, dry_run=dry_run)


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


def _print(console: Console, given: Release, folder: Path, *, dry_run: bool) -> None:
    groups: dict[str, list[Part]] = defaultdict(list)
    for part in given.parts:
        groups[", ".join(dict.fromkeys(source.short_licence for source in part.sources))].append(part)
    for part in given.barred:
        owners = ", ".join(source.title for source in part.barred_by)
        groups[f"[yellow]left out[/]: images of {owners} may not be passed on"].append(part)
    table = make_table("licence, part", ">files", ">size")
    for heading, parts in groups.items():
        table.add_row(f"[bold]{heading}[/]")
        for part in parts:
            files, size = part.measure(given.root)
            table.add_row(f"  {part.name}", f"{files:,}", rich.filesize.decimal(size))
    total = rich.filesize.decimal(sum(part.measure(given.root)[1] for part in given.parts))
    name, verb = escape(shlex.quote(str(folder))), "would be" if dry_run else "are"
    console.print(table)
    if given.absent:
        console.print(f"[yellow]not materialized[/]: {escape(name_some(given.absent))}", highlight=False)
    lines = [
        f"[bold green]{count_of(len(given.parts), 'part')}[/], {total}, {verb} in {name},",
        "with README.md (the data card), LICENSE.md and croissant.json.",
    ]
    if not dry_run:
        lines += [
            "Nothing was uploaded. To upload it under your name (hf auth login):",
            f"  hf upload YOU/pervl {name} --repo-type dataset --private",
        ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
