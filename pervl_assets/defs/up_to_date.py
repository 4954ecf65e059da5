"""Which values are up to date, so that a run need not make them again. A value is an asset or one of its partitions.

Example: `explain_outdated(...)` returns `{(ytvos/fsl_seg, None): "its files have changed on disk"}`. Values not in the
result are up to date. Only sizes and mtimes are read.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
from dagster import AssetRecordsFilter, DagsterEventType, DagsterInstance

from pervl_assets.core.errors import name_some
from pervl_assets.dagster_private import (
    CODE_VERSION_TAG,
    AssetRecord,
    BaseAssetGraph,
    Request,
    read_check_history,
    read_data_versions,
    read_latest_checks,
)
from pervl_assets.defs.checks import FAILED_PARTITIONS, READ_PARTITION, SUMS_HOLD
from pervl_assets.defs.steps import INPUTS, SETTINGS, InputVersions, describe_settings
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import STAMP
from pervl_assets.storage.store import Listing

Value = tuple[dg.AssetKey, str | None]
"""An asset and the partition of it; None for an asset without partitions."""

NEVER_MADE: Final = "it was never materialized"
NOT_ON_DISK: Final = "it is not in this data folder"
"""Reason of a value that was materialized, and whose file or manifest does not exist."""

_FILES_SHOWN: Final = 3
_HISTORY: Final = 4
"""Evaluations of a check that are read, per partition of its asset."""


def explain_outdated(
    graph: BaseAssetGraph[Any], instance: DagsterInstance, values: Iterable[Value], resources: Mapping[str, Any]
) -> dict[Value, str]:
    """Return the values that are not up to date, each with the reason, in the given order.

    `resources` are the resources and IO managers of the next run, by their keys.
    """
    explained = explain_values(graph, instance, values, resources)
    return {value: reason for value, _, reason in explained if reason is not None}


def explain_values(
    graph: BaseAssetGraph[Any], instance: DagsterInstance, values: Iterable[Value], resources: Mapping[str, Any]
) -> Iterator[tuple[Value, Any, str | None]]:
    """Yield values with the record of their last materialization, and the reason why they are not up to date, if any.

    Arguments as of `explain_outdated`.
    """
    reader = _Reader(graph, instance, resources, values := list(values))
    for value in values:
        yield value, reader.read_last(*value), next(reader.list_reasons(*value), None)


class _Reader:
    """Reads states of values: records and checks in one query for all assets, then one query per partition."""

    def __init__(
        self, graph: BaseAssetGraph[Any], instance: DagsterInstance, resources: Mapping[str, Any], values: list[Value]
    ) -> None:
        self._graph, self._instance, self._resources = graph, instance, resources
        keys = list(dict.fromkeys(key for key, _ in values))
        self._inputs = InputVersions(graph, instance, keys)
        self._records = dict(zip(keys, AssetRecord.blocking_get_many(Request(instance), keys), strict=True))
        self._checks = {key: sorted(graph.get_check_keys_for_assets({key})) for key in keys}
        whole = [check for key, checks in self._checks.items() if not graph.get(key).is_partitioned for check in checks]
        latest = {check: _read_evaluation(record) for check, record in read_latest_checks(instance, whole).items()}
        self._evaluations = {check: [one] for check, one in latest.items() if one}
        for key in keys:
            partitioning = graph.get(key).partitions_def
            limit = _HISTORY * (partitioning.get_num_partitions() if partitioning else 1)
            for check in self._checks[key]:
                if partitioning or (check in latest and latest[check] is None):  # a run was killed before it
                    history = map(_read_evaluation, read_check_history(instance, check, limit))
                    self._evaluations[check] = [one for one in history if one]
        checks = [check for checks in self._checks.values() for check in checks]
        read = {(key, check.asset_key) for check in checks for key in graph.get(check).parent_entity_keys}
        besides = {key for key, own in read if key != own and isinstance(key, dg.AssetKey)}
        self._versions = read_data_versions(instance, besides, ())
        self._of_runs: dict[str, list[dg.AssetCheckEvaluation]] = {}
        self._last: dict[Value, Any] = {}
        self._listings: dict[str, Listing | None] = {}

    def list_reasons(self, key: dg.AssetKey, partition: str | None) -> Iterator[str]:
        """Yield the reasons why a value is not up to date, the cheapest to find first."""
        asset, node = self._records[key], self._graph.get(key)
        made = self.read_last(key, partition)
        if asset is None or made is None or made.asset_materialization is None:
            yield NEVER_MADE
            return
        manager = self._resources.get(node.assets_def.get_io_manager_key_for_asset_key(key))
        stored = manager if isinstance(manager, PervlIOManager) else None
        listing = self._list(stored) if stored else None
        if stored and not stored.is_there(key, partition, listing):
            yield NOT_ON_DISK
        if partition is None and asset.asset_entry.last_run_id not in (None, made.run_id):
            yield "its last run has not materialized it"
        made_by = (made.asset_materialization.tags or {}).get(CODE_VERSION_TAG)
        if node.code_version not in (None, made_by):
            yield f"its code changed: version {made_by} → {node.code_version}"
        metadata: dict[str, Any] = {name: one.value for name, one in made.asset_materialization.metadata.items()}
        if changes := list_changes(metadata.get(INPUTS), self._inputs.describe(key, partition)):
            yield f"inputs changed: {name_some([change.split()[0] for change in changes])}"
        if changes := self._list_changed_settings(key, metadata.get(SETTINGS)):
            yield f"settings changed: {'; '.join(changes)}"
        stamp = stored.stamp(key, partition, listing) if stored else None
        if stamp is None or stamp != metadata.get(STAMP):
            yield "its files have changed on disk"
        policy = node.freshness_policy
        if policy is not None and time.time() - made.timestamp > policy.fail_window.to_timedelta().total_seconds():
            yield "it was last revalidated more than PERVL_FRESH_DAYS ago"
        for check in self._checks[key]:
            yield from self._explain_check(check, made, partition)

    def read_last(self, key: dg.AssetKey, partition: str | None) -> Any:
        """Return the record of the last materialization, or None."""
        if partition is None:
            asset = self._records[key]
            return asset and asset.asset_entry.last_materialization_record
        if (key, partition) not in self._last:
            wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
            records = self._instance.fetch_materializations(wanted, limit=1).records
            self._last[key, partition] = next(iter(records), None)
        return self._last[key, partition]

    def _list(self, stored: PervlIOManager) -> Listing | None:
        """Return what a store holds, listed once."""
        if stored.data not in self._listings:
            self._listings[stored.data] = stored.store.list_values()
        return self._listings[stored.data]

    def _list_changed_settings(self, key: dg.AssetKey, made_with: Mapping[str, Any] | None) -> list[str]:
        used = {name: self._resources[name] for name in made_with or {} if name in self._resources}
        uses = (made_with or {}).get("workspace")
        return list_changes(made_with, describe_settings(used, key, uses))

    def _explain_check(self, check: dg.AssetCheckKey, made: Any, partition: str | None) -> Iterator[str]:
        evaluations = self._evaluations.get(check, ())
        found = next((one.found for one in evaluations if _is_of(one, made, partition)), None)
        if found is None and partition is not None:  # it can be older than the evaluations of other partitions
            found = next((one for one in self._read_run(made.run_id) if one.asset_check_key == check), None)
        if found is None:
            # `sums_hold` reads every byte: schedules, buttons and `pervl verify` evaluate it, materializing does not.
            if check.name != SUMS_HOLD:
                yield f"its check {check.name} was not evaluated"
        elif not found.passed and found.severity == dg.AssetCheckSeverity.ERROR:
            failed: Any = found.metadata.get(FAILED_PARTITIONS)
            if failed is None or partition is None or partition in failed.value:
                yield f"its check {check.name} failed"
        elif INPUTS in found.metadata:
            read: Any = found.metadata[INPUTS].value
            now = {name: self._versions.get((dg.AssetKey.from_user_string(name), None)) for name in read}
            if changes := list_changes(read, now):
                yield f"inputs of its check {check.name} changed: {name_some([one.split()[0] for one in changes])}"

    def _read_run(self, run_id: str) -> list[dg.AssetCheckEvaluation]:
        if run_id not in self._of_runs:
            kind = DagsterEventType.ASSET_CHECK_EVALUATION
            records = self._instance.get_records_for_run(run_id, of_type=kind).records if run_id else ()
            events = [record.event_log_entry.get_dagster_event() for record in records]
            self._of_runs[run_id] = [event.asset_check_evaluation_data for event in events]
        return self._of_runs[run_id]


def list_changes(old: Any, new: Any, name: str = "") -> list[str]:
    """Name the entries in which two nested mappings differ: `top_objects 30 → 50`.

    Of lists of files, with name, size and time, only the files that differ are named: `weights model.safetensors`.
    """
    if old == new:
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = dict.fromkeys([*old, *new])
        return [change for one in names for change in list_changes(old.get(one), new.get(one), one)]
    if isinstance(old or new, list):
        both = old or [], new or []
        files = dict.fromkeys(file[0] for files in both for file in files if file not in both[0] or file not in both[1])
        return [f"{name} {name_some(files, _FILES_SHOWN)}"]
    before, after = ("unset" if value in (None, "") else value for value in (old, new))
    return [f"{name} {before} → {after}" if name else "none were recorded"]


@dataclass(frozen=True)
class _Evaluation:
    """An evaluation of a check, its run (empty: none) and its time in seconds since 1970."""

    found: dg.AssetCheckEvaluation
    run_id: str
    timestamp: float


def _read_evaluation(record: Any) -> _Evaluation | None:
    """Return the evaluation of a record, or None for a check that was only planned."""
    found = record.evaluation
    is_found = isinstance(found, dg.AssetCheckEvaluation)
    return _Evaluation(found, record.run_id, record.event.timestamp) if is_found else None


def _is_of(evaluation: _Evaluation, made: Any, partition: str | None) -> bool:
    """Return whether an evaluation is of a materialization.

    A check that names the partitions in which it failed read all that were on disk, or the one that it names.
    """
    found = evaluation.found
    if FAILED_PARTITIONS in found.metadata:
        read = found.metadata.get(READ_PARTITION)
        return evaluation.timestamp > made.timestamp and (read is None or read.value == partition)
    target = found.target_materialization_data
    return evaluation.run_id == made.run_id or (target is not None and target.storage_id == made.storage_id)
