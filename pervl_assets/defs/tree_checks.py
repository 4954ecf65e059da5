"""Asset checks of folder trees: the ledger adds up, nothing is quarantined, the files are still what was written.

Belongs here: what every tree must satisfy, as `AssetCheckResult`. Does not belong here: building the tree, and what a
benchmark asks of its own trees (`benchmark_checks`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import dagster as dg
import polars as pl

from pervl_assets.core.errors import name_some
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.defs.resources import Workspace
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.trees import read_tree
from pervl_assets.trees.ledger import FolderTree, verify_tree

LEDGER_ADDS_UP = "ledger_adds_up"
NOTHING_QUARANTINED = "nothing_quarantined"
SUMS_HOLD: Final = "sums_hold"


def declare_tree_checks(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the specs of the checks that every tree carries."""
    return [
        dg.AssetCheckSpec(
            LEDGER_ADDS_UP,
            asset=key,
            blocking=True,
            description="Every file that the annotations name is written or quarantined; one whose source is not in "
            "the archive is an error, and nothing is built on such a tree.",
        ),
        dg.AssetCheckSpec(
            NOTHING_QUARANTINED,
            asset=key,
            description="No file had to be left out because its source is corrupt. A warning: published numbers "
            "depend on the number of files in each concept.",
        ),
    ]


def check_tree(tree: FolderTree) -> list[dg.AssetCheckResult]:
    """Evaluate the checks of `declare_tree_checks` on a tree that was just built."""
    return [check_ledger(tree), check_quarantine(tree)]


def build_sums_check(key: dg.AssetKey, splits: Sequence[str]) -> dg.AssetChecksDefinition:
    """Return the check that re-hashes a tree; it runs after a materialization, and by itself whenever one asks for it.

    It has no partitions of its own: of a partitioned asset, the UI of Dagster 1.13 executes only such a check without
    materializing. In a run of one partition it looks at that one, else at all that are materialized.
    """

    @dg.asset_check(
        asset=key,
        name=SUMS_HOLD,
        description="Every file of the tree is there and holds the bytes whose sha256 its ledger has, and no other "
        "file is there. Re-reads the whole tree, in parallel; materializing repairs just what is wrong.",
    )
    def sums_hold(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> dg.AssetCheckResult:
        chosen = [context.partition_key] if splits and context.has_partition_key else splits
        return check_sums(workspace.root, key, chosen or [None])

    return sums_hold


def check_sums(root: Path, key: dg.AssetKey, partitions: Sequence[str | None]) -> dg.AssetCheckResult:
    """Re-hash the partitions of a tree that are materialized against their ledgers."""
    ledgers = [locate_value(root, key.path, ".parquet", partition) for partition in partitions]
    trees = [read_tree(root, ledger) for ledger in ledgers if ledger.is_file()]
    verdicts = [(tree, verify_tree(tree.root, tree.ledger)) for tree in trees]
    wrong = {
        what: [
            str((tree.root / path).relative_to(root)) for tree, verdict in verdicts for path in getattr(verdict, what)
        ]
        for what in ("missing", "changed", "extra")
    }
    files = sum(tree.written for tree in trees)
    text = f"{files:,} files re-read; all are as they were written"
    if not trees:
        text = "nothing is materialized, so there is nothing to re-read"
    elif any(wrong.values()):
        named = "; ".join(f"{len(paths):,} {what}: {name_some(paths, 5)}" for what, paths in wrong.items() if paths)
        text = f"{files:,} files re-read; {named}. Materialize again: that repairs these and touches nothing else"
    return make_check_result(
        None,
        bool(trees) and not any(wrong.values()),
        text,
        is_error=bool(trees),
        files=files,
        bytes=sum(tree.bytes for tree in trees),
        **{what: len(paths) for what, paths in wrong.items()},
    )


def check_ledger(tree: FolderTree) -> dg.AssetCheckResult:
    """Hold the ledger's sum against its rows; name what is missing."""
    missing = tree.ledger.filter(status="missing")
    members = missing["source_members"].explode().unique().sort().drop_nulls().to_list()
    total = tree.ledger.height
    adds_up = tree.written + tree.quarantined + tree.missing == total
    text = (
        f"{tree.written:,} written + {tree.quarantined:,} quarantined + {tree.missing:,} missing = {total:,} expected"
    )
    if members:
        text += (
            f". The archive lacks {len(members):,} members that the annotations name: {name_some(members)}. "
            "Is it the official archive, downloaded whole? Replace it and materialize again; what is already written "
            "is kept."
        )
    return make_check_result(
        LEDGER_ADDS_UP,
        adds_up and not tree.missing,
        text,
        is_error=True,
        expected=total,
        written=tree.written,
        quarantined=tree.quarantined,
        missing=tree.missing,
        missing_files=missing.select("path", "source_members"),
    )


def check_quarantine(tree: FolderTree) -> dg.AssetCheckResult:
    """Count quarantined files by reason, and name the concepts they belong to."""
    rows = tree.ledger.filter(status="quarantined")
    concepts = rows["concept"].unique().sort().to_list()
    reasons = rows.group_by("reason").agg(files=pl.len()).sort("files", "reason", descending=[True, False])
    text = (
        f"{rows.height:,} of {tree.ledger.height:,} files are quarantined, in {len(concepts):,} concepts: "
        f"{name_some(concepts)}. The reasons stand in the metadata and in the ledger."
        if rows.height
        else f"none of {tree.ledger.height:,} files is quarantined"
    )
    return make_check_result(
        NOTHING_QUARANTINED,
        rows.is_empty(),
        text,
        quarantined=rows.height,
        expected=tree.ledger.height,
        concepts=len(concepts),
        reasons=reasons,
        files=rows.select("path", "reason"),
    )
