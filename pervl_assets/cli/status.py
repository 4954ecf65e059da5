"""State of the graph as the Dagster UI shows it: up to date, stale, missing; and which raw inputs are found."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import dagster as dg
from dagster import AssetRecordsFilter, DagsterInstance

from pervl_assets.dagster_private import CachingStaleStatusResolver, Request
from pervl_assets.defs.raw import list_specs
from pervl_assets.defs.run_results import Materialized
from pervl_assets.defs.runs import list_values
from pervl_assets.defs.up_to_date import explain_stale
from pervl_assets.settings import Settings


@dataclass(frozen=True)
class AssetState(Materialized):
    """An asset, or one partition of it, and its last materialization.

    Attributes:
        when: When it was last materialized; None: never.
        why: Reasons why it is stale (an input or its code is new); empty: it is not.
    """

    when: datetime | None = None
    why: str = ""

    @property
    def state(self) -> Literal["up to date", "stale", "missing"]:
        """Whether it is up to date, stale or was never materialized."""
        return "missing" if self.when is None else "stale" if self.why else "up to date"


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
    for key, partition in list_values(graph, graph.materializable_asset_keys):
        wanted = AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
        last = next(iter(instance.fetch_materializations(wanted, limit=1).records), None)
        made = last.asset_materialization if last else None
        yield AssetState(
            asset=key.to_user_string(),
            partition=partition,
            metadata={name: value.value for name, value in made.metadata.items()} if made else {},
            when=datetime.fromtimestamp(last.timestamp, UTC) if last else None,
            why=explain_stale(resolver, key, partition),
        )
