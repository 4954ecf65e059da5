"""State and health of the graph, and which raw inputs are found.

State: up to date, stale or missing, as `pervl materialize` plans its runs. Health: asset checks, freshness, and whether
the last run failed, from the classes that the UI and the daemon use.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import dagster as dg
from dagster import DagsterInstance

from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.archives.remote_files import look_for
from pervl_assets.core.addresses import Address
from pervl_assets.core.text import unescape_markdown
from pervl_assets.dagster_private import (
    AssetCheckExecutionRecord,
    Freshness,
    Request,
    find_failed_run,
    read_freshness,
)
from pervl_assets.defs.downloads import Downloads
from pervl_assets.defs.raw import list_specs
from pervl_assets.defs.run_results import Finding, Materialized, read_run_result
from pervl_assets.defs.runs import list_values
from pervl_assets.defs.up_to_date import NOT_ON_DISK, explain_values
from pervl_assets.demo import RAW_NAMES
from pervl_assets.settings import Settings

CheckStatus = Literal["passed", "warned", "failed", "unfinished", "not run"]

_CHECK_STATUS: Final[dict[str, CheckStatus]] = {
    "SUCCEEDED": "passed",
    "FAILED": "failed",
    "EXECUTION_FAILED": "unfinished",
}
"""By the name of Dagster's status; in progress and skipped are `not run`."""


@dataclass(frozen=True)
class AssetState(Materialized):
    """An asset, or one partition of it, and its last materialization.

    Attributes:
        when: When it was last materialized, or None if never.
        why: Why `pervl materialize` would make it again. Empty if it is up to date or missing.
    """

    when: datetime | None = None
    why: str = ""

    @property
    def state(self) -> Literal["up to date", "stale", "missing"]:
        """Whether it is up to date, stale or was never materialized."""
        return "missing" if self.when is None else "stale" if self.why else "up to date"


@dataclass(frozen=True)
class InputState:
    """A raw input: its path below the folder or address of raw inputs, or the path that is searched first.

    Attributes:
        origin: Where a run gets it if it is not there: the `demo` draws it, a `server` has it, or the `user` adds it.
    """

    name: str
    path: str
    found: bool
    origin: Literal["user", "server", "demo"] = "user"

    @property
    def is_wanted(self) -> bool:
        """Whether you must add it."""
        return not self.found and self.origin == "user"


def list_inputs(settings: Settings, names: Collection[str] | None = None) -> list[InputState]:
    """Search these raw inputs, or all; nothing is made, read or downloaded."""
    states, root = [], settings.raw or settings.data
    for spec in list_specs():
        if names is not None and spec.name not in names:
            continue
        if isinstance(root, Address):
            path, found = spec.file, look_for(root / spec.file) is not None
        else:
            there = next((path for path in (spec.file, *spec.folders) if (root / path).exists()), None)
            path, found = there or spec.file, there is not None
        states.append(InputState(spec.name, path, found, _find_origin(settings, spec)))
    return states


def _find_origin(settings: Settings, spec: ArchiveSpec) -> Literal["user", "server", "demo"]:
    if settings.raw is not None:
        return "user"
    if settings.profile == "demo":
        return "demo" if spec.name in RAW_NAMES else "user"
    return "server" if Downloads.from_settings(settings).locate(spec) else "user"


def list_states(
    defs: dg.Definitions, instance: DagsterInstance, keys: Collection[dg.AssetKey] | None = None
) -> Iterator[AssetState]:
    """Return the state of every partition of these assets, or of all, in topological order.

    The history may be of another data folder, too: what is not on disk here is missing.
    """
    graph = defs.resolve_asset_graph()
    values = list_values(graph, graph.materializable_asset_keys if keys is None else {*keys})
    for (key, partition), recorded, reason in explain_values(graph, instance, values, defs.resources or {}):
        last = None if reason == NOT_ON_DISK else recorded
        made = last.asset_materialization if last else None
        yield AssetState(
            asset=key.to_user_string(),
            partition=partition,
            metadata={name: value.value for name, value in made.metadata.items()} if made else {},
            when=datetime.fromtimestamp(last.timestamp, UTC) if last else None,
            why=reason or "" if last else "",
        )


@dataclass
class Health:
    """Health of an asset; whether it is stale or missing is its `AssetState`.

    Attributes:
        asset: Its key as text.
        freshness: State of its freshness policy; None: it has none.
        failed_run: Id of the last run that should have made it (or one of its partitions), if that run failed.
        checks: Number of checks by status for its latest materialization. unfinished: the run failed before the check
            was evaluated; not run: not since the materialization.
        findings: Checks that did not pass.
        unfinished_runs: Ids of the runs that failed before a check was evaluated.
    """

    asset: str
    freshness: Freshness | None
    failed_run: str | None
    checks: Counter[CheckStatus] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    unfinished_runs: set[str] = field(default_factory=set)

    @property
    def healthy(self) -> bool:
        """Whether no action is needed. Warnings and checks that were not run are ignored."""
        failed = self.failed_run or self.checks["failed"] or self.checks["unfinished"]
        return not failed and self.freshness != "failing"


def read_health(
    defs: dg.Definitions, instance: DagsterInstance, keys: Collection[dg.AssetKey] | None = None
) -> list[Health]:
    """Return the health of these assets, or of all, sorted by their keys."""
    graph, request = defs.resolve_asset_graph(), Request(instance)
    chosen = sorted(graph.materializable_asset_keys if keys is None else keys)

    async def read_one(key: dg.AssetKey) -> Health:
        freshness = await read_freshness(graph.get(key), request)
        health = Health(key.to_user_string(), freshness, await find_failed_run(graph.get(key), request))
        for check in sorted(graph.get_check_keys_for_assets({key})):
            await _add_check(health, check, request)
        return health

    async def read_all() -> list[Health]:  # at once, so that one query reads a kind of record of all of them
        return [*await asyncio.gather(*map(read_one, chosen))]

    return asyncio.run(read_all())


async def _add_check(health: Health, key: dg.AssetCheckKey, request: Request) -> None:
    """Add the state of a check for the latest materialization of its asset."""
    status: CheckStatus = "not run"
    record = await AssetCheckExecutionRecord.gen(request, key)
    if record is not None and await record.targets_latest_materialization(request):
        status = _CHECK_STATUS.get((await record.resolve_status(request)).name, "not run")
        if status == "unfinished":
            health.unfinished_runs.add(record.run_id)
        if status == "failed":
            evaluation: Any = record.evaluation
            is_error = evaluation.severity == dg.AssetCheckSeverity.ERROR
            status = "failed" if is_error else "warned"
            text = f"{key.name}: {unescape_markdown(evaluation.description or 'did not pass')}"
            health.findings.append(Finding(health.asset, "error" if is_error else "warning", text))
    health.checks[status] += 1


def explain_failed_runs(instance: DagsterInstance, healths: Iterable[Health]) -> dict[str, list[Finding]]:
    """Return the errors of the runs that failed before assets were made or checks were evaluated, by run id."""
    runs = {run for health in healths for run in (health.failed_run, *health.unfinished_runs) if run}
    return {run: read_run_result(instance, run).errors for run in sorted(runs)}


def count_problems(states: Iterable[AssetState], healths: Iterable[Health]) -> dict[str, int]:
    """Return the numbers of missing and stale values, and of assets that failed or are no longer fresh."""
    count = Counter(state.state for state in states)
    unhealthy = sum(not health.healthy for health in healths)
    return {"missing": count["missing"], "stale": count["stale"], "failed": unhealthy}
