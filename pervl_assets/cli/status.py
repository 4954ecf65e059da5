"""State of the graph as the Dagster UI shows it: up to date, stale, missing; and which raw inputs are found."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import dagster as dg
from dagster import AssetRecordsFilter, DagsterInstance

from pervl_assets.dagster_private import CachingStaleStatusResolver, Request, StaleStatus
from pervl_assets.defs.raw import list_specs
from pervl_assets.settings import Settings

State = Literal["up to date", "stale", "missing"]


@dataclass(frozen=True)
class AssetState:
    """An asset, or one partition of it.

    Attributes:
        asset: Asset key as text.
        partition: Its partition, if it has any.
        state: Up to date, stale (an input or its code is new), or missing (never materialized).
        when: When it was last materialized.
        why: Reason why it is stale.
        metadata: Metadata of its last materialization.
    """

    asset: str
    partition: str | None
    state: State
    when: datetime | None
    why: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class InputState:
    """A raw input: its path below the data root, or the path that is searched first."""

    name: str
    path: str
    found: bool


def list_inputs(settings: Settings) -> list[InputState]:
    """Search every raw input; nothing is made, read or downloaded."""
    states = []
    for spec in list_specs():
        found = next((path for path in (spec.file, *spec.folders) if (settings.data / path).exists()), None)
        states.append(InputState(spec.name, found or spec.file, found is not None))
    return states


def list_states(defs: dg.Definitions, instance: DagsterInstance) -> Iterator[AssetState]:
    """Return the state of every asset and partition, in topological order."""
    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, Request(instance))
    for key in (key for level in graph.toposorted_asset_keys_by_level for key in sorted(level)):
        partitioning = graph.get(key).partitions_def
        for partition in partitioning.get_partition_keys() if partitioning else [None]:
            status = resolver.get_status(key, partition)
            stale = status == StaleStatus.STALE
            # The child of a cause names the input that is new.
            found = resolver.get_stale_causes(key, partition) if stale else []
            causes = [child for cause in found for child in cause.children or [cause]]
            yield AssetState(
                asset=key.to_user_string(),
                partition=partition,
                state="missing" if status == StaleStatus.MISSING else "stale" if stale else "up to date",
                why="; ".join(sorted({f"{cause.asset_key.to_user_string()}: {cause.reason}" for cause in causes})),
                **_read_last(instance, key, partition),
            )


def _read_last(instance: DagsterInstance, key: dg.AssetKey, partition: str | None) -> dict[str, Any]:
    """Return time and metadata of the last materialization of an asset."""
    wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(wanted, limit=1).records
    if not records:
        return {"when": None, "metadata": {}}
    last = records[0]
    made = last.asset_materialization
    metadata = {name: value.value for name, value in made.metadata.items()} if made else {}
    return {"when": datetime.fromtimestamp(last.timestamp, UTC), "metadata": metadata}
