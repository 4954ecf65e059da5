"""Checks of a value, as data: name, description, severity, and the function that evaluates it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar

import polars as pl

from pervl_assets.core.addresses import Place
from pervl_assets.core.errors import ArchiveError, list_some

MAX_QUARANTINED_SHARE: Final = 0.5
"""Default of the setting `PERVL_MAX_QUARANTINED_SHARE`."""

_SHOWN: Final = 3

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


def refuse_losses(lost: Collection[str], total: int, what: str, source: Place, max_share: float) -> None:
    """Refuse a result of which too much cannot be made: then not single images are bad, but their source.

    Args:
        lost: What cannot be made, with the reason.
        total: Number of all that are planned.
        what: What they are, for the message, e.g. `files of /data/views/polar`.
        source: What they are made from.
        max_share: Share that may be left out, 0 to 1.

    Raises:
        ArchiveError: More is lost.
    """
    if len(lost) > max_share * total:
        raise ArchiveError(
            f"{len(lost):,} of {total:,} {what} cannot be made from {source}: {len(lost) / total:.1%}, and at most "
            f"{max_share:.1%} may be left out.",
            details=list_some(lost, _SHOWN),
            advice=f"Nothing was replaced. Compare {source} with the official one: it may be damaged, cut short or "
            "another one. To leave out more, raise PERVL_MAX_QUARANTINED_SHARE.",
        )


def compare_counts(counts: Mapping[str, int], official: Mapping[str, int]) -> CheckResult:
    """Compare counts with those of the official annotations; counts without an official number are only reported."""
    differing = [
        f"{what}: {counts.get(what, 0):,}, officially {n:,}" for what, n in official.items() if counts.get(what) != n
    ]
    text = "; ".join(differing) or ", ".join(f"{what}: {n:,}" for what, n in counts.items())
    compared = [(what, n, official.get(what)) for what, n in {**dict.fromkeys(official, 0), **counts}.items()]
    schema = {"count": pl.String, "found": pl.Int64, "official": pl.Int64}
    return CheckResult(not differing, text, counts, pl.DataFrame(compared, schema=schema, orient="row"))
