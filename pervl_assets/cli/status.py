"""The state of the graph, as the Dagster UI sees it: up to date, stale, missing; and which raw inputs are found.

Belongs here: asking Dagster and looking for inputs. Does not belong here: printing it, and what checks and runs say,
which is `health`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import dagster as dg
from dagster import AssetRecordsFilter, DagsterInstance

# Not exported at Dagster's top; it is what the UI asks, so that both say the same.
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus

from pervl_assets.cli.health import Request
from pervl_assets.defs.raw import list_specs
from pervl_assets.settings import Settings

State = Literal["up to date", "stale", "missing"]


@dataclass(frozen=True)
class AssetState:
    """An asset, or one partition of it.

    Attributes:
        asset: Asset key as text.
        partition: Its partition, if it has any.
        state: Up to date, stale (something it is made from is new), or missing (never materialized).
        when: When it was last materialized.
        why: What makes it stale.
        metadata: What its last materialization told.
    """

    asset: str
    partition: str | None
    state: State
    when: datetime | None
    why: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class InputState:
    """A raw input: where below the data root it is, or is looked for first."""

    name: str
    place: str
    found: bool


def list_inputs(settings: Settings) -> list[InputState]:
    """Look for every raw input; nothing is drawn, read or fetched."""
    states = []
    for spec in list_specs():
        found = next((place for place in (spec.file, *spec.folders) if (settings.data / place).exists()), None)
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
            # A cause says that something it needs is new; what that is, its child says.
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
    """Return when an asset was last materialized and what it told."""
    wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(wanted, limit=1).records
    if not records:
        return {"when": None, "metadata": {}}
    last = records[0]
    made = last.asset_materialization
    metadata = {name: value.value for name, value in made.metadata.items()} if made else {}
    return {"when": datetime.fromtimestamp(last.timestamp, UTC), "metadata": metadata}
