"""Asset checks: those a `Benchmark` declares, its counts against the official ones, and `sums_hold` of every value."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import dagster as dg

from pervl_assets.core.checks import Check, CheckResult, Severity, compare_counts
from pervl_assets.core.errors import name_some
from pervl_assets.core.files import VerifyResult
from pervl_assets.core.text import count_of
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.base import PervlIOManager

OFFICIAL_COUNTS: Final = "official_counts"
SUMS_HOLD: Final = "sums_hold"

FAILED_PARTITIONS: Final = "failed_partitions"
"""Metadata of a check that reads all partitions on disk: those in which it failed."""
READ_PARTITION: Final = "partition"
"""Metadata of such a check that read one partition only."""

_DIFFERENCES: Final = ("missing", "changed", "extra")

Value = TypeVar("Value")


def declare_checks(key: dg.AssetKey, checks: Iterable[Check[Value]]) -> list[dg.AssetCheckSpec]:
    """Return the specs of checks."""
    return [dg.AssetCheckSpec(check.name, asset=key, description=check.description) for check in checks]


def declare_benchmark_checks(
    key: dg.AssetKey, checks: Iterable[Check[Value]], paper: str = ""
) -> list[dg.AssetCheckSpec]:
    """Return the specs of a table's or tree's own checks, and of the comparison with the official counts."""
    counts = (
        "Counts are those of the official annotations. A warning: with other annotations the results cannot be "
        "compared with published ones."
    )
    return [
        dg.AssetCheckSpec(OFFICIAL_COUNTS, asset=key, description=f"{counts} {paper}".strip()),
        *declare_checks(key, checks),
    ]


def evaluate_checks(checks: Iterable[Check[Value]], value: Value) -> list[dg.AssetCheckResult]:
    """Evaluate every check on a value."""
    return [to_check_result(check.name, check.evaluate(value), check.severity) for check in checks]


def evaluate_counts(counts: Mapping[str, int], official: Mapping[str, int], *, synthetic: bool) -> dg.AssetCheckResult:
    """Compare counts with the official ones.

    Args:
        counts: Counts by name.
        official: Counts of the official annotations; names that it does not have are reported and not compared.
        synthetic: Whether the inputs are the demo data, which has counts of its own.
    """
    found = compare_counts(counts, {} if synthetic else official)
    return to_check_result(
        OFFICIAL_COUNTS, found, "warning", "The demo data has counts of its own: " if synthetic else ""
    )


def to_check_result(name: str | None, found: CheckResult, severity: Severity, before: str = "") -> dg.AssetCheckResult:
    """Return the result of a check as Dagster's, with all numbers and rows; `before` precedes its text."""
    rows = {} if found.rows is None else {"rows": found.rows}
    is_error = severity == "error"
    return make_check_result(name, found.passed, before + found.text, is_error=is_error, **{**found.numbers, **rows})


def build_sums_check(assets: Iterable[dg.AssetsDefinition]) -> dg.AssetChecksDefinition:
    """Return the check `sums_hold` of every asset: its value is compared with its manifest, without materializing.

    All are one op, so that a run that checks many assets starts one process. None has partitions of its own, because
    Dagster's UI executes only such a check of a partitioned asset by its button. In a run of one partition it verifies
    that one, else all that are materialized.
    """
    managers = find_io_managers()
    values: dict[dg.AssetKey, tuple[type[PervlIOManager], list[str]]] = {}
    for asset in assets:
        for spec in asset.specs:
            if (manager := asset.get_io_manager_key_for_asset_key(spec.key)) in managers:
                partitions = spec.partitions_def.get_partition_keys() if spec.partitions_def else []
                values[spec.key] = managers[manager], list(partitions)

    @dg.multi_asset_check(
        name=SUMS_HOLD,
        can_subset=True,
        specs=[
            dg.AssetCheckSpec(
                SUMS_HOLD,
                asset=key,
                description="Every file exists and matches its recorded sha256, and a folder holds no other file (raw "
                "inputs: their identity card). Reads the whole value; materializing repairs only the differing files.",
            )
            for key in values
        ],
    )
    @record_step
    def sums_hold(context: dg.AssetCheckExecutionContext, workspace: Workspace) -> Iterator[dg.AssetCheckResult]:
        own = context.partition_key if context.has_partition_key else None
        for check in sorted(context.selected_asset_check_keys):
            manager, partitions = values[check.asset_key]
            stored, is_one = manager(data=workspace.data), own in partitions
            chosen: list[str | None] = [own] if is_one else [*partitions] or [None]
            found = {one: stored.verify(check.asset_key, one) for one in chosen}
            yield summarize_sums(check.asset_key, found, **({READ_PARTITION: own} if is_one else {}))

    return sums_hold


def summarize_sums(key: dg.AssetKey, found: Mapping[str | None, VerifyResult], **more: Any) -> dg.AssetCheckResult:
    """Return the result of `sums_hold` from the comparison of each partition with its manifest, with more metadata."""
    total = VerifyResult(
        sum(one.files for one in found.values()),
        sum(one.bytes for one in found.values()),
        *([name for one in found.values() for name in getattr(one, what)] for what in _DIFFERENCES),
    )
    failed = [one for one, value in found.items() if one and not value.unchanged]
    differing = {what: names for what in _DIFFERENCES if (names := getattr(total, what))}
    text = f"{count_of(total.files, 'file')} read; nothing differs from what was written"
    if not total.files:
        text = "nothing is materialized, so there is nothing to read"
    elif differing:
        named = "; ".join(f"{len(names):,} {what}: {name_some(names, 5)}" for what, names in differing.items())
        text = f"{count_of(total.files, 'file')} read; {named}. Materialize again: that repairs these and nothing else"
    return make_check_result(
        SUMS_HOLD,
        bool(total.files) and total.unchanged,
        text,
        is_error=bool(total.files),
        files=total.files,
        bytes=total.bytes,
        **{what: len(getattr(total, what)) for what in _DIFFERENCES},
        **{FAILED_PARTITIONS: dg.MetadataValue.json(failed), **more},
    )._replace(asset_key=key)
