"""The health of assets, as the Dagster UI judges it: checks, freshness, and whether the last run failed.

Belongs here: asking what the UI and the daemon ask, of the same classes, so that all say the same. Does not belong
here: printing it, and whether an asset is up to date, which is `status`.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import dagster as dg
from dagster import DagsterInstance

# Not exported at Dagster's top: what the UI asks of checks and runs, and the daemon of freshness.
from dagster._core.definitions.asset_health.asset_materialization_health import AssetMaterializationHealthState
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.freshness_evaluator import FRESHNESS_EVALUATORS_BY_POLICY_TYPE
from dagster._core.loader import LoadingContext
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionResolvedStatus,
)
from dagster._core.storage.event_log.base import AssetRecord

from pervl_assets.core.text import unescape_markdown
from pervl_assets.defs.run_results import Finding, read_run_result

Freshness = Literal["passing", "warning", "failing", "unknown"]
TreeDiff = Literal["passed", "warned", "failed", "unfinished", "not run"]

_FRESHNESS: Final[dict[FreshnessState, Freshness]] = {
    FreshnessState.PASS: "passing",
    FreshnessState.WARN: "warning",
    FreshnessState.FAIL: "failing",
    FreshnessState.UNKNOWN: "unknown",
}
_VERDICTS: Final[dict[AssetCheckExecutionResolvedStatus, TreeDiff]] = {
    AssetCheckExecutionResolvedStatus.SUCCEEDED: "passed",
    AssetCheckExecutionResolvedStatus.FAILED: "failed",
    AssetCheckExecutionResolvedStatus.EXECUTION_FAILED: "unfinished",
    AssetCheckExecutionResolvedStatus.IN_PROGRESS: "not run",
    AssetCheckExecutionResolvedStatus.SKIPPED: "not run",
}


@dataclass(frozen=True)
class Check:
    """What a check says of the latest materialization of its asset.

    Attributes:
        verdict: How it went; unfinished: its run failed before it had; not run: not since the materialization.
        text: Its name, and what it found.
        run: Id of its run, if there was one.
    """

    verdict: TreeDiff
    text: str
    run: str | None


@dataclass(frozen=True)
class Health:
    """What is known of an asset beside its state.

    Attributes:
        asset: Its key as text.
        checks: Its checks, by name.
        freshness: How it stands to its freshness policy; None: it has none.
        failed_run: Id of the last run that should have made it (or one of its partitions), if that run failed.
    """

    asset: str
    checks: tuple[Check, ...]
    freshness: Freshness | None
    failed_run: str | None

    def count(self) -> Counter[str]:
        """Return how many checks have which verdict."""
        return Counter(check.verdict for check in self.checks)

    @property
    def findings(self) -> list[Finding]:
        """What checks found that did not pass."""
        severities: dict[str, Literal["warning", "error"]] = {"warned": "warning", "failed": "error"}
        return [
            Finding(self.asset, severities[check.verdict], check.text)
            for check in self.checks
            if check.verdict in severities
        ]

    @property
    def failed_runs(self) -> set[str]:
        """Ids of the runs that failed before the asset was made, or one of its checks was through."""
        return {self.failed_run or "", *(c.run or "" for c in self.checks if c.verdict == "unfinished")} - {""}

    @property
    def sound(self) -> bool:
        """Whether nothing calls for a person: warnings and checks that were not run do not."""
        failed = self.failed_runs or any(finding.severity == "error" for finding in self.findings)
        return not failed and self.freshness != "failing"


class Request(LoadingContext):
    """One look at the instance, within which nothing is asked twice."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._instance = instance
        self._loaders: dict[type, Any] = {}

    @property
    def instance(self) -> DagsterInstance:
        """The instance."""
        return self._instance

    @property
    def loaders(self) -> dict[type, Any]:
        """Dagster's cache of what was asked."""
        return self._loaders


def read_health(defs: dg.Definitions, instance: DagsterInstance) -> list[Health]:
    """Return the health of every asset, by its key."""
    graph, request = defs.resolve_asset_graph(), Request(instance)

    async def judge_all() -> list[Health]:
        keys = sorted(graph.materializable_asset_keys)
        return [await _judge(graph.get(key), sorted(graph.get_check_keys_for_assets({key})), request) for key in keys]

    return asyncio.run(judge_all())


async def _judge(node: Any, checks: Iterable[dg.AssetCheckKey], request: Request) -> Health:
    return Health(
        asset=node.key.to_user_string(),
        checks=tuple([await _judge_check(key, request) for key in checks]),
        freshness=await _judge_freshness(node, request),
        failed_run=await _find_failed_run(node, request),
    )


async def _judge_check(key: dg.AssetCheckKey, request: Request) -> Check:
    record = await AssetCheckExecutionRecord.gen(request, key)
    if record is None or not await record.targets_latest_materialization(request):
        return Check("not run", key.name, None)
    verdict = _VERDICTS[await record.resolve_status(request)]
    found: Any = record.evaluation if verdict in ("passed", "failed") else None  # else what was planned is in its place
    if verdict == "failed" and found.severity == dg.AssetCheckSeverity.WARN:
        verdict = "warned"
    return Check(verdict, f"{key.name}: {unescape_markdown((found and found.description) or verdict)}", record.run_id)


async def _judge_freshness(node: Any, request: Request) -> Freshness | None:
    """Judge as the daemon does, now: it looks every 30 seconds while it runs, and the UI shows what it saw last."""
    if node.freshness_policy is None:
        return None
    evaluator = FRESHNESS_EVALUATORS_BY_POLICY_TYPE[type(node.freshness_policy)]()
    return _FRESHNESS[await evaluator.evaluate_freshness(request, node)]


async def _find_failed_run(node: Any, request: Request) -> str | None:
    state = await AssetMaterializationHealthState.compute_for_asset(node.key, node.partitions_def, request)
    if state.failed_subset.is_empty:
        return None
    record = await AssetRecord.gen(request, node.key)
    return state.latest_failed_to_materialize_run_id or (record.asset_entry.last_run_id if record else None)


def explain_failed_runs(instance: DagsterInstance, healths: Iterable[Health]) -> dict[str, list[Finding]]:
    """Return why the failed runs of assets and checks failed, by their ids: what the steps said that failed."""
    runs: set[str] = set().union(*(health.failed_runs for health in healths))
    return {run: read_run_result(instance, run).errors for run in sorted(runs)}
