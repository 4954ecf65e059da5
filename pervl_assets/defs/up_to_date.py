"""Which values are up to date, so that a run need not make them again; a value is an asset or one of its partitions.

Example: `explain_outdated(...)` returns `{(ytvos/fsl_seg, None): "its files have changed on disk"}`; what is not in it
is up to date. Nothing is read from results but sizes and times.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import dagster as dg
from dagster import AssetRecordsFilter, DagsterInstance

from pervl_assets.dagster_private import (
    AssetCheckExecutionRecord,
    AssetRecord,
    BaseAssetGraph,
    CachingStaleStatusResolver,
    Request,
    read_check_history,
    read_latest_checks,
)
from pervl_assets.defs.checks import SUMS_HOLD
from pervl_assets.defs.steps import SETTINGS, describe_settings
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import STAMP

Value = tuple[dg.AssetKey, str | None]
"""An asset and the partition of it; None for an asset without partitions."""

_EVALUATIONS_PER_PARTITION: Final = 4


def explain_outdated(
    graph: BaseAssetGraph[Any], instance: DagsterInstance, values: Iterable[Value], resources: Mapping[str, Any]
) -> dict[Value, str]:
    """Return the values that are not up to date, each with the reason, in the given order.

    `resources` are the resources and IO managers of the next run, by their keys.
    """
    reader = _Reader(graph, instance, resources, values := list(values))
    reasons = ((value, next(reader.list_reasons(*value), None)) for value in values)
    return {value: reason for value, reason in reasons if reason is not None}


def explain_stale(resolver: CachingStaleStatusResolver, key: dg.AssetKey, partition: str | None) -> str:
    """Return why Dagster calls a value stale: a data version above it or its code version changed. Empty: fresh."""
    causes = resolver.get_stale_causes(key, partition)
    leaves = [child for cause in causes for child in cause.children or [cause]]  # a child names the input that is new
    return "; ".join(sorted({f"{cause.asset_key.to_user_string()} {cause.reason}" for cause in leaves}))


class _Reader:
    """Reads states of values: records and checks in one query for all assets, then one query per partition."""

    def __init__(
        self, graph: BaseAssetGraph[Any], instance: DagsterInstance, resources: Mapping[str, Any], values: list[Value]
    ) -> None:
        self._graph, self._instance, self._resources = graph, instance, resources
        request = Request(instance)
        self._resolver = CachingStaleStatusResolver(instance, graph, request)
        keys = list(dict.fromkeys(key for key, _ in values))
        self._records = dict(zip(keys, AssetRecord.blocking_get_many(request, keys), strict=True))
        self._checks = {key: sorted(graph.get_check_keys_for_assets({key})) for key in keys}
        whole = [check for key, checks in self._checks.items() if not graph.get(key).is_partitioned for check in checks]
        self._evaluations = {key: [record] for key, record in read_latest_checks(instance, whole).items()}
        for key in keys:
            if (partitioning := graph.get(key).partitions_def) is not None:
                limit = _EVALUATIONS_PER_PARTITION * partitioning.get_num_partitions()
                self._evaluations |= {
                    check: [*read_check_history(instance, check, limit)] for check in self._checks[key]
                }

    def list_reasons(self, key: dg.AssetKey, partition: str | None) -> Iterator[str]:
        """Yield the reasons why a value is not up to date, the cheapest to find first."""
        asset, node = self._records[key], self._graph.get(key)
        made = self._read_last(key, partition)
        if asset is None or made is None or made.asset_materialization is None:
            yield "it was never materialized"
            return
        if partition is None and asset.asset_entry.last_run_id not in (None, made.run_id):
            yield "the last run did not materialize it"
        if stale := explain_stale(self._resolver, key, partition):
            yield stale
        metadata: dict[str, Any] = {name: one.value for name, one in made.asset_materialization.metadata.items()}
        made_with = metadata.get(SETTINGS)  # an earlier version of the project recorded none
        used = {name: self._resources[name] for name in made_with or {} if name in self._resources}
        if made_with != describe_settings(used):
            yield "it was made with other settings"
        manager = self._resources.get(node.assets_def.get_io_manager_key_for_asset_key(key))
        stamp = manager.stamp(key, partition) if isinstance(manager, PervlIOManager) else None
        if stamp is None or stamp != metadata.get(STAMP):
            yield "its files have changed on disk"
        policy = node.freshness_policy
        if policy is not None and time.time() - made.timestamp > policy.fail_window.to_timedelta().total_seconds():
            yield "its source was not checked for too long (PERVL_FRESH_DAYS)"
        for check in self._checks[key]:
            yield from self._explain_check(check, made)

    def _read_last(self, key: dg.AssetKey, partition: str | None) -> Any:
        """Return the record of the last materialization."""
        if partition is None:
            asset = self._records[key]
            return asset and asset.asset_entry.last_materialization_record
        wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
        return next(iter(self._instance.fetch_materializations(wanted, limit=1).records), None)

    def _explain_check(self, check: dg.AssetCheckKey, made: Any) -> Iterator[str]:
        record = next((one for one in self._evaluations.get(check, ()) if _is_of(one, made)), None)
        found = _read_evaluation(record) if record else None
        if found is None:
            # `sums_hold` reads every byte: schedules, buttons and `pervl verify` evaluate it, materializing does not.
            if check.name != SUMS_HOLD:
                yield f"its check {check.name} was not evaluated"
        elif not found.passed and found.severity == dg.AssetCheckSeverity.ERROR:
            yield f"its check {check.name} failed"


def _is_of(record: AssetCheckExecutionRecord, made: Any) -> bool:
    """Return whether a check ran in the run of a materialization, or was evaluated for it later."""
    if record.run_id == made.run_id:
        return True
    if (found := _read_evaluation(record)) is None:
        return False
    if record.key.name == SUMS_HOLD:  # of all partitions at once
        return record.event is not None and bool(record.event.timestamp > made.timestamp)
    target = found.target_materialization_data
    return target is not None and target.storage_id == made.storage_id


def _read_evaluation(record: AssetCheckExecutionRecord) -> dg.AssetCheckEvaluation | None:
    """Return the evaluation of a record; None for a check that was planned and not evaluated: it has another event."""
    return record.evaluation if isinstance(record.evaluation, dg.AssetCheckEvaluation) else None
