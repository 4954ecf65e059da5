"""`pervl preview`: find one concept of a materialized tree and draw it. Nothing is materialized or changed."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import Benchmark, TreeAsset
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import MissingInputError, PervlError, suggest
from pervl_assets.defs.run_results import name_partition
from pervl_assets.io_managers.tables import TableIOManager
from pervl_assets.io_managers.trees import TreeIOManager
from pervl_assets.trees.contact_sheet import draw_concept
from pervl_assets.trees.ledger import FolderTree


def preview_concept(data: Path | Address, asset: str, concept: str, split: str | None = None) -> bytes:
    """Draw everything about one concept of a materialized tree.

    Args:
        data: The data root.
        asset: Asset key of the tree, e.g. `ytvos/fsl_seg`.
        concept: Name of the concept, i.e. of its class folder.
        split: Partition of the tree; None for the first one with the concept.

    Returns:
        A PNG.

    Raises:
        PervlError: The tree, split or concept does not exist; similar names are suggested.
        MissingInputError: The tree is not materialized.
    """
    benchmark, tree = _find_tree(asset)
    if split is not None and split not in tree.splits:
        partitions = f"its splits are {', '.join(tree.splits)}" if tree.splits else "it has no splits"
        raise PervlError(f"{asset} has no split {split!r}.", advice=f"Omit --split, or choose another: {partitions}.")
    chosen: Sequence[str | None] = [split] if split else tree.splits or [None]
    stored, key = TreeIOManager(data=str(data)), dg.AssetKey([benchmark.name, tree.name])
    found: dict[str | None, FolderTree | None] = {part: stored.read_previous(key, part) for part in chosen}
    present = {part: value for part, value in found.items() if value}
    if not present:
        raise MissingInputError(
            f"{name_partition(asset, split)} is not materialized.",
            advice=f"Materialize it first: pervl materialize +{asset}",
        )
    for part, value in present.items():
        if concept in value.ledger["concept"]:
            tables = TableIOManager(data=str(data))
            read = {name: tables.read(dg.AssetKey([benchmark.name, name])) for name in tree.tables}
            texts = [("tree", name_partition(asset, part)), *tree.describe(read, concept)]
            return draw_concept(value, tree.sheet, concept, texts)
    where = asset if None in present else f"{asset} [{', '.join(str(part) for part in present)}]"
    absent = [str(part) for part in found if part not in present]
    names = sorted({name for value in present.values() for name in value.ledger["concept"] if name})
    raise PervlError(
        f"{where} has no concept {concept!r}; it has {len(names):,}.",
        advice=suggest(concept, names) + (f" Not materialized: {', '.join(absent)}." if absent else ""),
    )


def _find_tree(asset: str) -> tuple[Benchmark, TreeAsset]:
    """Return benchmark and tree of an asset key."""
    trees = {
        f"{benchmark.name}/{tree.name}": (benchmark, tree)
        for benchmark in find_benchmarks()
        for tree in benchmark.trees
    }
    if asset not in trees:
        raise PervlError(f"There is no folder tree {asset!r}.", advice=suggest(asset, trees))
    return trees[asset]
