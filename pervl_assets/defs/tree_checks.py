"""Asset checks of every folder tree: its ledger adds up, and nothing is quarantined."""

import dagster as dg
import polars as pl

from pervl_assets.core.errors import name_some
from pervl_assets.core.text import count_of
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.trees.ledger import WHOLE_ARCHIVE, FolderTree

_LEDGER_ADDS_UP = "ledger_adds_up"
_NOTHING_QUARANTINED = "nothing_quarantined"


def declare_tree_checks(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the specs of the checks that every tree has."""
    return [
        dg.AssetCheckSpec(
            _LEDGER_ADDS_UP,
            asset=key,
            blocking=True,
            description="Every file that the annotations name is written or quarantined. A file whose source is not in "
            "the archive is an error, and nothing is made from such a tree.",
        ),
        dg.AssetCheckSpec(
            _NOTHING_QUARANTINED,
            asset=key,
            description="No file is left out because its source is corrupt. A warning: published numbers depend on the "
            "number of files in each concept.",
        ),
    ]


def check_ledger(tree: FolderTree) -> dg.AssetCheckResult:
    """Compare the ledger's counts with its number of rows, and name what its source lacks."""
    missing, total = tree.ledger.filter(status="missing"), tree.ledger.height
    adds_up = tree.written + tree.quarantined + tree.missing == total
    text = (
        f"{tree.written:,} written + {tree.quarantined:,} quarantined + {tree.missing:,} missing = {total:,} expected"
    )
    if tree.missing:
        text += f": {name_some(tree.missing_sources)}. {WHOLE_ARCHIVE}"
    return make_check_result(
        _LEDGER_ADDS_UP,
        adds_up and not tree.missing,
        text,
        is_error=True,
        expected=total,
        written=tree.written,
        quarantined=tree.quarantined,
        missing=tree.missing,
        missing_files=missing.select("path", "reason"),
    )


def check_quarantine(tree: FolderTree) -> dg.AssetCheckResult:
    """Count quarantined files by reason, and name their concepts."""
    rows = tree.ledger.filter(status="quarantined")
    concepts = rows["concept"].unique().sort().to_list()
    reasons = rows.group_by("reason").agg(files=pl.len()).sort("files", "reason", descending=[True, False])
    text = (
        f"{rows.height:,} of {tree.ledger.height:,} files ({rows.height / tree.ledger.height:.1%}) quarantined, "
        f"in {count_of(len(concepts), 'concept')}: "
        f"{name_some(concepts)}. The metadata and the ledger list the reasons."
        if rows.height
        else f"none of {tree.ledger.height:,} files is quarantined"
    )
    return make_check_result(
        _NOTHING_QUARANTINED,
        rows.is_empty(),
        text,
        quarantined=rows.height,
        expected=tree.ledger.height,
        concepts=len(concepts),
        reasons=reasons,
        files=rows.select("path", "reason"),
    )
