"""Asset checks of folder trees: the ledger adds up, nothing is quarantined, the counts are the paper's.

Belongs here: what a tree's numbers must satisfy, as `AssetCheckResult`. Does not belong here: building the tree.
"""

from collections.abc import Mapping

import dagster as dg
import polars as pl

from pervl_assets.core.errors import name_some
from pervl_assets.core.ledger import FolderTree
from pervl_assets.defs.metadata import preview_table

LEDGER_ADDS_UP = "ledger_adds_up"
NOTHING_QUARANTINED = "nothing_quarantined"
OFFICIAL_COUNTS = "official_counts"


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
        dg.AssetCheckSpec(
            OFFICIAL_COUNTS,
            asset=key,
            description="As many files of each rule are expected as the official annotations give. A warning: with "
            "other annotations the results cannot be compared with published ones.",
        ),
    ]


def check_tree(tree: FolderTree, facts: Mapping[str, int], *, drawn: bool) -> list[dg.AssetCheckResult]:
    """Evaluate the checks of `declare_tree_checks` on a tree that was just built.

    Args:
        tree: The tree.
        facts: Expected outputs by rule under the official annotations.
        drawn: Whether the inputs are the miniature world's, to which the facts do not apply.
    """
    return [check_ledger(tree), check_quarantine(tree), check_counts(tree, facts, drawn=drawn)]


def check_counts(tree: FolderTree, facts: Mapping[str, int], *, drawn: bool) -> dg.AssetCheckResult:
    """Hold the number of outputs of each rule against what the official annotations give."""
    counts = dict(tree.ledger.group_by("rule").len().iter_rows())
    differing = [
        f"{rule}: {counts.get(rule, 0):,}, officially {n:,}" for rule, n in facts.items() if counts.get(rule) != n
    ]
    text = "; ".join(differing) if differing else ", ".join(f"{n:,} {rule}" for rule, n in sorted(counts.items()))
    return dg.AssetCheckResult(
        check_name=OFFICIAL_COUNTS,
        passed=drawn or not differing,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"The miniature world has counts of its own: {text}" if drawn else text,
        metadata=dict(sorted(counts.items())),
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
    return dg.AssetCheckResult(
        check_name=LEDGER_ADDS_UP,
        passed=adds_up and not tree.missing,
        severity=dg.AssetCheckSeverity.ERROR,
        description=text,
        metadata={
            "expected": total,
            "written": tree.written,
            "quarantined": tree.quarantined,
            "missing": tree.missing,
            "missing_files": preview_table(missing.select("path", "source_members"), rows=50),
        },
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
    return dg.AssetCheckResult(
        check_name=NOTHING_QUARANTINED,
        passed=rows.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={
            "quarantined": rows.height,
            "reasons": preview_table(reasons, rows=20),
            "files": preview_table(rows.select("path", "reason"), rows=50),
        },
    )
