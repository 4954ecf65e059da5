"""Checks of a value, as data: name, description, severity, and the function that evaluates it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import polars as pl

Severity = Literal["warning", "error"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        passed: Whether the value is as it should be.
        text: The finding in one sentence, with counts and names.
        numbers: All numbers behind it, by name.
        rows: The rows concerned, if the check is about rows.
    """

    passed: bool
    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    rows: pl.DataFrame | None = None


@dataclass(frozen=True)
class Check(Generic[Value]):
    """A check of a value: a `pl.DataFrame` for tables, a `FolderTree` for trees.

    Attributes:
        name: Name of the asset check.
        description: What must be true, and why it matters.
        severity: Of a failure.
        evaluate: Pure function from the value to the result.
    """

    name: str
    description: str
    severity: Severity
    evaluate: Callable[[Value], CheckResult]


def compare_counts(counts: Mapping[str, int], official: Mapping[str, int]) -> CheckResult:
    """Compare counts with those of the official annotations; counts without an official number are only reported."""
    differing = [
        f"{what}: {counts.get(what, 0):,}, officially {n:,}" for what, n in official.items() if counts.get(what) != n
    ]
    text = "; ".join(differing) or ", ".join(f"{what}: {n:,}" for what, n in counts.items())
    compared = [(what, n, official.get(what)) for what, n in {**dict.fromkeys(official, 0), **counts}.items()]
    schema = {"count": pl.String, "found": pl.Int64, "official": pl.Int64}
    return CheckResult(not differing, text, counts, pl.DataFrame(compared, schema=schema, orient="row"))
