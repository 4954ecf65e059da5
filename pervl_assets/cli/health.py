"""Health of assets as the Dagster UI computes it: asset checks, freshness, and whether the last run failed.

It uses the classes that the UI and the daemon use, so that all of them agree.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import dagster as dg
from dagster import DagsterInstance

from pervl_assets.core.text import unescape_markdown
from pervl_assets.dagster_private import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionResolvedStatus,
    Freshness,
    Request,
    find_failed_run,
    read_freshness,
)
from pervl_assets.defs.run_results import Finding, read_run_result

CheckStatus = Literal["passed", "warned", "failed", "unfinished", "not run"]

_CHECK_STATUS: Final[dict[AssetCheckExecutionResolvedStatus, CheckStatus]] = {
    AssetCheckExecutionResolvedStatus.SUCCEEDED: "passed",
    AssetCheckExecutionResolvedStatus.FAILED: "failed",
    AssetCheckExecutionResolvedStatus.EXECUTION_FAILED: "unfinished",
    AssetCheckExecutionResolvedStatus.IN_PROGRESS: "not run",
    AssetCheckExecutionResolvedStatus.SKIPPED: "not run",
}


@dataclass(frozen=True)
class CheckHealth:
    """State of a check for the latest materialization of its asset.

    Attributes:
        status: unfinished: its run failed before it was evaluated; not run: not since the materialization.
        text: Its name and its description.
        run: Id of its run, if there was one.
    """

    status: CheckStatus
    text: str
    run: str | None


@dataclass(frozen=True)
class Health:
    """Health of an asset; whether it is stale or missing is its `AssetState`.

    Attributes:
        asset: Its key as text.
        checks: Its checks, by name.
        freshness: State of its freshness policy; None: it has none.
        failed_run: Id of the last run that should have made it (or one of its partitions), if that run failed.
    """

    asset: str
    checks: tuple[CheckHealth, ...]
    freshness: Freshness | None
    failed_run: str | None

    def count(self) -> Counter[str]:
        """Return the number of checks by status."""
        return Counter(check.status for check in self.checks)

    @property
    def findings(self) -> list[Finding]:
        """Checks that did not pass."""
        severities: dict[str, Literal["warning", "error"]] = {"warned": "warning", "failed": "error"}
        return [
            Finding(self.asset, severities[check.status], check.text)
            for check in self.checks
            if check.status in severities
        ]

    @property
    def failed_runs(self) -> set[str]:
        """Ids of the runs that failed before the asset was made or before one of its checks was evaluated."""
        return {self.failed_run or "", *(c.run or "" for c in self.checks if c.status == "unfinished")} - {""}

    @property
    def healthy(self) -> bool:
        """Whether a user need do nothing; warnings and checks that were not run are tolerated."""
        failed = self.failed_runs or any(finding.severity == "error" for finding in self.findings)
        return not failed and self.freshness != "failing"


def read_health(defs: dg.Definitions, instance: DagsterInstance) -> list[Health]:
    """Return the health of every asset, by its key."""
    graph, request = defs.resolve_asset_graph(), Request(instance)

    async def read_all() -> list[Health]:
        keys = sorted(graph.materializable_asset_keys)
        return [
            Health(
                asset=key.to_user_string(),
                checks=tuple(
                    [await _read_check(one, request) for one in sorted(graph.get_check_keys_for_assets({key}))]
                ),
                freshness=await read_freshness(graph.get(key), request),
                failed_run=await find_failed_run(graph.get(key), request),
            )
            for key in keys
        ]

    return asyncio.run(read_all())


async def _read_check(key: dg.AssetCheckKey, request: Request) -> CheckHealth:
    record = await AssetCheckExecutionRecord.gen(request, key)
    if record is None or not await record.targets_latest_materialization(request):
        return CheckHealth("not run", key.name, None)
    status = _CHECK_STATUS[await record.resolve_status(request)]
    # A check that was planned and not evaluated has the planned event in place of an evaluation.
    found: Any = record.evaluation if status in ("passed", "failed") else None
    if status == "failed" and found.severity == dg.AssetCheckSeverity.WARN:
        status = "warned"
    return CheckHealth(
        status, f"{key.name}: {unescape_markdown((found and found.description) or status)}", record.run_id
    )


def explain_failed_runs(instance: DagsterInstance, healths: Iterable[Health]) -> dict[str, list[Finding]]:
    """Return the errors of the failed runs of assets and checks, by run id."""
    runs: set[str] = set().union(*(health.failed_runs for health in healths))
    return {run: read_run_result(instance, run).errors for run in sorted(runs)}
