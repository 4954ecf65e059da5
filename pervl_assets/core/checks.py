"""Checks of a value, as data: a name, what it asks, how grave a failure is, and the function that judges.

Belongs here: the vocabulary, and the checks that hold for trees of any benchmark. Does not belong here: checks of one
benchmark (`pervl_assets.benchmarks`), and how a check is shown (`pervl_assets.defs`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import polars as pl

Severity = Literal["warning", "error"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        passed: Whether the value is as it should be.
        text: The finding in one sentence, with counts and names.
        numbers: Every number behind it, by name.
        rows: The rows concerned, if the check is about rows.
    """

    passed: bool
    text: str
    numbers: Mapping[str, int] = field(default_factory=dict)
    rows: pl.DataFrame | None = None


@dataclass(frozen=True)
class Check(Generic[Value]):
    """A question to a value: a `pl.DataFrame` for tables, a `FolderTree` for trees.

    Attributes:
        name: Name of the asset check.
        description: What it asks, and why the answer matters.
        severity: Of a failure.
        judge: Answers; pure.
    """

    name: str
    description: str
    severity: Severity
    judge: Callable[[Value], CheckResult]


def compare_counts(counts: Mapping[str, int], official: Mapping[str, int]) -> CheckResult:
    """Hold counts against those of the official annotations; counts of which nothing is known are only told."""
    differing = [
        f"{what}: {counts.get(what, 0):,}, officially {n:,}" for what, n in official.items() if counts.get(what) != n
    ]
    told = "; ".join(differing) or ", ".join(f"{what}: {n:,}" for what, n in counts.items())
    compared = [(what, n, official.get(what)) for what, n in {**dict.fromkeys(official, 0), **counts}.items()]
    schema = {"count": pl.String, "found": pl.Int64, "official": pl.Int64}
    return CheckResult(not differing, told, counts, pl.DataFrame(compared, schema=schema, orient="row"))
