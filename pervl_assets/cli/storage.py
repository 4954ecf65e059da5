"""`pervl export` and `pervl prune`: folders for programs that read folders, and room in a bucket."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import dagster as dg
import rich.filesize
from rich.console import Console

from pervl_assets.cli.console import escape, print_text
from pervl_assets.cli.selections import choose_assets, join_words
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import PervlError, list_some
from pervl_assets.core.text import count_of
from pervl_assets.defs.run_results import name_partition
from pervl_assets.defs.runs import list_values
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.stored_files import MANIFESTS, Export, plan_export
from pervl_assets.io_managers.training_files import TrainingFileIOManager
from pervl_assets.io_managers.trees import TreeIOManager
from pervl_assets.storage import open_store

_SHOWN = 20


def plan_exports(defs: dg.Definitions, data: Path | Address, words: Sequence[str], split: str | None) -> list[Export]:
    """Read the manifests of all folder trees and training files of a selection.

    Args:
        defs: The graph.
        data: The data root.
        words: The words of the selection.
        split: Partition of the trees; None: all of them.

    Raises:
        PervlError: The selection is not valid, or holds neither; or there is no such split.
        MissingInputError: One of them is not materialized.
    """
    graph = defs.resolve_asset_graph()
    managers = {key: manager(data=str(data)) for key, manager in find_io_managers().items()}
    values = [
        (manager, key, partition)
        for key, partition in list_values(graph, {*choose_assets(defs, words)})
        for manager in [managers.get(graph.get(key).assets_def.get_io_manager_key_for_asset_key(key))]
        if isinstance(manager, TreeIOManager | TrainingFileIOManager) and split in (None, partition)
    ]
    if not values:
        partition = f" with the split {split}" if split else ""
        raise PervlError(
            f"{join_words(words)} has no folder tree and no training file{partition}.",
            advice="Name one, e.g. ytvos/retrieval_set, or a group, e.g. palavra. Tables are Parquet files.",
        )
    return [plan_export(*value) for value in values]


def export_values(console: Console, exports: Iterable[Export], folder: Path) -> None:
    """Copy trees and training files to a folder, and print where each is. Raises as `Export.copy_to` does."""
    for export in exports:
        name = name_partition(export.key.to_user_string(), export.partition)
        with console.status(f"copying {escape(name)}"):
            made = export.copy_to(folder)
        counts = f"{count_of(made.files, 'file')}, {rich.filesize.decimal(made.bytes)}, {made.copied:,} copied"
        print_text(console, f"[bold]{escape(name)}[/]: {escape(str(made.place))}  [dim]{counts}[/]")


def prune(console: Console, data: Path | Address, age: timedelta, *, dry_run: bool) -> None:
    """Remove what no manifest names and what dead runs left, and print it.

    Raises:
        SchemaError: A manifest cannot be read. Nothing was removed.
        AddressError: The bucket cannot be used.
    """
    with console.status("reading all manifests"):
        found = open_store(str(data)).prune(MANIFESTS, age, dry_run=dry_run)
    for name in list_some(found.work, _SHOWN):
        print_text(console, f"  {escape(name)}")
    verb, size = "would be removed" if dry_run else "removed", rich.filesize.decimal(found.bytes)
    objects = f"{count_of(found.objects, 'object')} that no manifest names"
    print_text(console, f"[bold green]{verb}[/]: {objects}, {len(found.work):,} of unfinished work, {size}")
