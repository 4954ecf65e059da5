"""Which values are up to date, so that a run need not make them again; a value is an asset or one of its partitions.

Example: `explain_outdated(...)` returns `{(ytvos/fsl_seg, None): "its files have changed on disk"}`; what is not in it
is up to date. Nothing is read from results but sizes and times.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
from dagster import AssetRecordsFilter, DagsterInstance

from pervl_assets.dagster_private import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
    AssetRecord,
    BaseAssetGraph,
    CachingStaleStatusResolver,
    Request,
    StaleStatus,
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
_EVALUATED: Final = (AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED)


@dataclass(frozen=True)
class CheckState:
    """The latest evaluation of a check for one materialization.

    Attributes:
        name: Name of the check.
        evaluated: Whether it has been evaluated for this materialization.
        failed: Whether it failed with error severity.
    """

    name: str
    evaluated: bool
    failed: bool


@dataclass(frozen=True)
class ValueState:
    """What is known of a value that has been materialized.

    Attributes:
        stale: Why Dagster calls it stale: a data version above it or its code version changed. Empty: fresh.
        last_run_made_it: Whether the last run that planned to materialize it did.
        age: Seconds since its materialization.
        largest_age: Age at which a public input must be looked at again; infinite for other values.
        made_with: Settings recorded by its materialization; None: an earlier version of the project recorded none.
        settings: The same settings today.
        recorded_stamp: Stamp recorded by its materialization.
        stamp: Stamp of its files today; None: a file is missing.
        checks: Its checks.
    """

    stale: str
    last_run_made_it: bool
    age: float
    largest_age: float
    made_with: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    recorded_stamp: str | None
    stamp: str | None
    checks: tuple[CheckState, ...]


def find_reason(state: ValueState | None) -> str | None:
    """Return why a value is not up to date; None: it is up to date.

    Args:
        state: What is known of it; None: it was never materialized.
    """
    if state is None:
        return "it was never materialized"
    unchanged = state.recorded_stamp is not None and state.recorded_stamp == state.stamp
    reasons = [
        (not state.last_run_made_it, "the last run did not materialize it"),
        (state.stale != "", state.stale),
        (state.made_with != state.settings, "it was made with other settings"),
        (not unchanged, "its files have changed on disk"),
        (state.age > state.largest_age, "its source was not looked at for too long (PERVL_FRESH_DAYS)"),
        *((check.failed, f"its check {check.name} failed") for check in state.checks),
        # `sums_hold` reads every byte: schedules, buttons and `pervl verify` evaluate it, materializing runs do not.
        *(
            (not check.evaluated, f"its check {check.name} was not evaluated")
            for check in state.checks
            if check.name != SUMS_HOLD
        ),
    ]
    return next((reason for holds, reason in reasons if holds), None)


def explain_outdated(
    graph: BaseAssetGraph[Any], instance: DagsterInstance, values: Iterable[Value], resources: Mapping[str, Any]
) -> dict[Value, str]:
    """Return the values that are not up to date, each with the reason, in the given order.

    Args:
        graph: The asset graph.
        instance: Where materializations and check evaluations are recorded.
        values: The values in question.
        resources: Resources and IO managers of the run to come, by their keys.
    """
    reader = _Reader(graph, instance, resources, values := list(values))
    reasons = ((value, find_reason(reader.read(value))) for value in values)
    return {value: reason for value, reason in reasons if reason is not None}


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

    def read(self, value: Value) -> ValueState | None:
        key, partition = value
        if (asset := self._records[key]) is None:
            return None
        made = asset.asset_entry.last_materialization_record
        if partition is not None:
            wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
            made = next(iter(self._instance.fetch_materializations(wanted, limit=1).records), None)
        if made is None or made.asset_materialization is None:
            return None
        metadata: dict[str, Any] = {name: one.value for name, one in made.asset_materialization.metadata.items()}
        node, made_with = self._graph.get(key), metadata.get(SETTINGS)
        used = {name: self._resources[name] for name in made_with or {} if name in self._resources}
        policy = node.freshness_policy
        checks = (self._read_check(check, made) for check in self._checks[key])
        return ValueState(
            stale=self._explain_stale(key, partition),
            last_run_made_it=partition is not None or asset.asset_entry.last_run_id in (None, made.run_id),
            age=time.time() - made.timestamp,
            largest_age=policy.fail_window.to_timedelta().total_seconds() if policy else math.inf,
            made_with=made_with,
            settings=describe_settings(used),
            recorded_stamp=metadata.get(STAMP),
            stamp=self._stamp(key, partition),
            checks=tuple(checks),
        )

    def _explain_stale(self, key: dg.AssetKey, partition: str | None) -> str:
        if self._resolver.get_status(key, partition) == StaleStatus.FRESH:
            return ""
        causes = self._resolver.get_stale_causes(key, partition)
        leaves = [child for cause in causes for child in cause.children or [cause]]
        return "; ".join(sorted({f"{cause.asset_key.to_user_string()} {cause.reason}" for cause in leaves}))

    def _stamp(self, key: dg.AssetKey, partition: str | None) -> str | None:
        manager = self._resources.get(self._graph.get(key).assets_def.get_io_manager_key_for_asset_key(key))
        return manager.stamp(key, partition) if isinstance(manager, PervlIOManager) else None

    def _read_check(self, check: dg.AssetCheckKey, made: Any) -> CheckState:
        record = next((one for one in self._evaluations.get(check, ()) if _is_of(one, made)), None)
        if record is None or record.status not in _EVALUATED:
            return CheckState(check.name, evaluated=False, failed=False)
        found = record.evaluation
        failed = found is not None and not found.passed and found.severity == dg.AssetCheckSeverity.ERROR
        return CheckState(check.name, evaluated=True, failed=failed)


def _is_of(record: AssetCheckExecutionRecord, made: Any) -> bool:
    """Return whether a check ran in the run of a materialization, or was evaluated for it later."""
    if record.run_id == made.run_id:
        return True
    if record.key.name == SUMS_HOLD:  # of all partitions at once
        return record.create_timestamp > made.timestamp and record.status in _EVALUATED
    target = getattr(record.evaluation, "target_materialization_data", None)  # planned, not evaluated: it has none
    return target is not None and target.storage_id == made.storage_id
