"""`pervl preview`: everything about one concept of a tree, found on disk.

Belongs here: from an asset's name and a concept's to the tree, its ledger and its tables; nothing is materialized or
changed. Does not belong here: drawing, which is `core.preview`.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import Benchmark, TreeAsset
from pervl_assets.core.errors import MissingInputError, PervlError, name_some
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.trees import read_tree
from pervl_assets.trees.ledger import FolderTree
from pervl_assets.trees.preview import draw_concept


def preview_concept(data: Path, asset: str, concept: str, split: str | None = None) -> bytes:
    """Draw everything about one concept of a materialized tree.

    Args:
        data: The data root.
        asset: The tree's asset, e.g. `ytvos/fsl_seg`.
        concept: Name of the concept: the name of its class folder.
        split: Partition of the tree; None: whichever has the concept.

    Returns:
        A PNG.

    Raises:
        PervlError: There is no such tree, split or concept; the nearest are named.
        MissingInputError: The tree is not materialized.
    """
    benchmark, tree = find_tree(asset)
    if split is not None and split not in tree.splits:
        partitions = f"its splits are {', '.join(tree.splits)}" if tree.splits else "it has no splits"
        raise PervlError(
            f"{asset} has no split {split!r}.", advice=f"Leave --split out, or name another: {partitions}."
        )
    chosen: Sequence[str | None] = [split] if split else tree.splits or [None]
    found = {part: _read(data, benchmark, tree, part) for part in chosen}
    there = {part: value for part, value in found.items() if value}
    if not there:
        raise _not_materialized(f"{asset} [{split}]" if split else asset, asset)
    for part, value in there.items():
        if concept in value.ledger["concept"]:
            tables = {name: _read_table(data, benchmark, name, asset) for name in tree.tables}
            texts = [("tree", f"{asset} [{part}]" if part else asset), *tree.describe(tables, concept)]
            return draw_concept(value, tree.sheet, concept, texts)
    where = asset if None in there else f"{asset} [{', '.join(str(part) for part in there)}]"
    lacking = [str(part) for part in found if part not in there]
    names = sorted({name for value in there.values() for name in value.ledger["concept"] if name})
    raise PervlError(
        f"{where} has no concept {concept!r}; it has {len(names):,}.",
        advice=_name_near(concept, names) + (f" Not materialized: {', '.join(lacking)}." if lacking else ""),
    )


def find_tree(asset: str) -> tuple[Benchmark, TreeAsset]:
    """Return the tree that an asset key names, and its benchmark.

    Raises:
        PervlError: There is none; the nearest are named.
    """
    trees = {
        f"{benchmark.name}/{tree.name}": (benchmark, tree)
        for benchmark in find_benchmarks()
        for tree in benchmark.trees
    }
    if asset not in trees:
        raise PervlError(f"There is no folder tree {asset!r}.", advice=_name_near(asset, trees))
    return trees[asset]


def _read(data: Path, benchmark: Benchmark, tree: TreeAsset, split: str | None) -> FolderTree | None:
    ledger = locate_value(data, [benchmark.name, tree.name], ".parquet", split)
    return read_tree(data, ledger) if ledger.is_file() else None


def _read_table(data: Path, benchmark: Benchmark, name: str, asset: str) -> pl.DataFrame:
    path = locate_value(data, [benchmark.name, name], ".parquet")
    if not path.is_file():
        raise _not_materialized(f"{benchmark.name}/{name}", asset)
    return pl.read_parquet(path)


def _not_materialized(what: str, asset: str) -> MissingInputError:
    return MissingInputError(
        f"{what} is not materialized.", advice=f"""Materialize it first: pervl materialize --select '+key:"{asset}"'"""
    )


def _name_near(name: str, names: Iterable[str]) -> str:
    known = list(names)
    near = get_close_matches(name, known, n=5, cutoff=0.4) or [other for other in known if name.casefold() in other]
    return f"Did you mean {name_some(near, 5)}?" if near else f"Name one of these: {name_some(known)}."
