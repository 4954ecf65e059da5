"""Asset checks of the release that need no materialization: the library finds it valid, the files are still the same.

Belongs here: `pervl_assets.release.validation` as `AssetCheckResult`. Does not belong here: the release itself
(`release`).
"""

from typing import Final

import dagster as dg

from pervl_assets.core.errors import name_some
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.defs.release import CROISSANT_KEY
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.tree_checks import SUMS_HOLD
from pervl_assets.release.croissant import FILE
from pervl_assets.release.validation import list_files, validate_croissant, verify_files

_NOTHING: Final = f"nothing is materialized: there is no {FILE}"


@dg.asset_check(
    asset=CROISSANT_KEY,
    description="mlcroissant loads the description and finds no error in it; what it would like to see is a warning.",
)
def valid_croissant(workspace: Workspace) -> dg.AssetCheckResult:
    """Let the library validate what was written."""
    file = workspace.root / FILE
    if not file.is_file():
        return make_check_result(None, False, _NOTHING)
    found = validate_croissant(file)
    named = [*found.errors, *found.warnings]
    return make_check_result(
        None,
        not named,
        f"{len(found.errors):,} errors and {len(found.warnings):,} warnings: {name_some(named)}"
        if named
        else "mlcroissant finds neither error nor warning",
        is_error=bool(found.errors),
        errors=len(found.errors),
        warnings=len(found.warnings),
    )


@dg.asset_check(
    asset=CROISSANT_KEY,
    name=SUMS_HOLD,
    description="Every single file that the description names is there and has the sha256 it is told to have. The "
    "files of trees are held against their ledgers by the trees' own checks.",
)
def sums_hold(workspace: Workspace) -> dg.AssetCheckResult:
    """Re-hash what was described."""
    file = workspace.root / FILE
    if not file.is_file():
        return make_check_result(None, False, _NOTHING)
    verdict = verify_files(file)
    wrong, files = [*verdict.missing, *verdict.changed], len(list_files(file))
    return make_check_result(
        None,
        bool(verdict),
        f"of {files:,} files {len(verdict.missing):,} missing, {len(verdict.changed):,} changed since: "
        f"{name_some(wrong)}. Materialize what is missing, then the description again"
        if wrong
        else f"{files:,} files re-read; all are as they were described",
        is_error=True,
        files=files,
        missing=len(verdict.missing),
        changed=len(verdict.changed),
    )


RELEASE_CHECKS: Final = (valid_croissant, sums_hold)
