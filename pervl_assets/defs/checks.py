"""Checks of benchmarks as asset checks: those a `Benchmark` declares, and its counts held against the official ones.

Belongs here: turning `core.checks` into Dagster's specs and results. Does not belong here: what a check asks.
"""

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import dagster as dg

from pervl_assets.core.checks import Check, CheckResult, Severity, compare_counts
from pervl_assets.defs.metadata import make_check_result

OFFICIAL_COUNTS: Final = "official_counts"

Value = TypeVar("Value")


def declare_checks(key: dg.AssetKey, checks: Iterable[Check[Value]]) -> list[dg.AssetCheckSpec]:
    """Return the specs of checks."""
    return [dg.AssetCheckSpec(check.name, asset=key, description=check.description) for check in checks]


def declare_benchmark_checks(
    key: dg.AssetKey, checks: Iterable[Check[Value]], paper: str = ""
) -> list[dg.AssetCheckSpec]:
    """Return the specs of a table's or tree's own checks, and of the counts that each of them carries."""
    counts = (
        "As many of everything are expected as the official annotations give. A warning: with other annotations the "
        "results cannot be compared with published ones."
    )
    return [
        dg.AssetCheckSpec(OFFICIAL_COUNTS, asset=key, description=f"{counts} {paper}".strip()),
        *declare_checks(key, checks),
    ]


def evaluate_checks(checks: Iterable[Check[Value]], value: Value) -> list[dg.AssetCheckResult]:
    """Put every check to a value."""
    return [report(check.name, check.evaluate(value), check.severity) for check in checks]


def evaluate_counts(counts: Mapping[str, int], official: Mapping[str, int], *, drawn: bool) -> dg.AssetCheckResult:
    """Hold counts against the official ones.

    Args:
        counts: What was counted.
        official: The same under the official annotations; of counts that are not named nothing is known.
        drawn: Whether the inputs are the miniature world's, which has counts of its own.
    """
    found = compare_counts(counts, {} if drawn else official)
    return report(OFFICIAL_COUNTS, found, "warning", "The miniature world has counts of its own: " if drawn else "")


def report(name: str | None, found: CheckResult, severity: Severity, before: str = "") -> dg.AssetCheckResult:
    """Return a judgement as the result of a check (without a name: of one by itself), with all numbers and rows."""
    rows = {} if found.rows is None else {"rows": found.rows}
    is_error = severity == "error"
    return make_check_result(name, found.passed, before + found.text, is_error=is_error, **{**found.numbers, **rows})
