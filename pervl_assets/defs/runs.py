"""Runs of the asset graph in waves: which assets go into one run, and in which order.

Belongs here: planning waves and running them with Dagster's own engine; `pervl` and the jobs of `jobs` both do it.
Does not belong here: what came of a run, which is `outcomes`.

A Dagster run has one partition, or one range of partitions, for all its assets. A graph of several partitionings is
therefore materialized in waves: each the largest set of assets of one partitioning whose inputs are all done.
"""

import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg
from dagster import BackfillPolicy, DagsterEventType, DagsterInstance, PartitionsDefinition, RunsFilter

# Not exported at Dagster's top: a job that worker processes can rebuild by themselves, and its run event by event.
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import create_execution_plan, execute_run_iterator
from dagster._core.remote_origin import RemoteJobOrigin
from dagster._core.snap import snapshot_from_execution_plan

from pervl_assets.core.errors import PervlError
from pervl_assets.core.workers import is_running
from pervl_assets.defs.checks import SUMS_HOLD

ALL_ASSETS_JOB: Final = "__ASSET_JOB"
PROCESS_TAG: Final = "pervl/process"
"""Host and process id of the `pervl`, or of the job, that a run belongs to."""

QUIET: Final = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run config of waves: what they tell is read from their events, and told once."""

_WHERE_INTERRUPTED: Final = (DagsterEventType.ENGINE_EVENT, DagsterEventType.STEP_FAILURE)
"""Events that an executor gives when it is interrupted, before its run ends."""

_NO_RETRIES: Final = {"dagster/max_retries": "0"}
_PARTITION: Final = "dagster/partition"
_RANGE: Final = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@dataclass(frozen=True)
class PlannedRun:
    """One Dagster run: assets, and the partitions of theirs it makes (none for assets without partitions)."""

    keys: tuple[dg.AssetKey, ...]
    partitions: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many assets, or partitions of assets, it makes."""
        return len(self.keys) * max(1, len(self.partitions))

    @property
    def tags(self) -> dict[str, str]:
        """Run tags that say which partitions."""
        if len(self.partitions) > 1:
            return dict(zip(_RANGE, (self.partitions[0], self.partitions[-1]), strict=True))
        return {_PARTITION: self.partitions[0]} if self.partitions else {}


def select_assets(graph: BaseAssetGraph[Any], selection: str) -> frozenset[dg.AssetKey]:
    """Return the keys that a selection string names.

    Raises:
        PervlError: The string is no selection, or names nothing; the groups are listed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # of Dagster about itself; nothing a user here can mend
            chosen = dg.AssetSelection.from_string(selection).required_multi_asset_neighbors()
            keys = frozenset(chosen.resolve(graph))
    except (dg.DagsterError, ValueError) as error:
        raise PervlError(
            f"The selection {selection!r} cannot be understood: {str(error).splitlines()[0]}",
            advice=_selection_help(graph),
        ) from error
    if not keys:
        raise PervlError(f"The selection {selection!r} names no asset.", advice=_selection_help(graph))
    return keys


def _selection_help(graph: BaseAssetGraph[Any]) -> str:
    groups = sorted({graph.get(key).group_name for key in graph.materializable_asset_keys})
    return (
        f"""Name a group ({", ".join(groups)}) as group:NAME or an asset as key:"ytvos/fsl_seg"; a + before it adds """
        "what it needs, a + behind it what needs it."
    )


def plan_runs(graph: BaseAssetGraph[Any], keys: Set[dg.AssetKey]) -> list[PlannedRun]:
    """Order assets into runs: each wave has one partitioning, and its inputs are in earlier waves or in itself."""
    waiting = [key for level in graph.toposorted_asset_keys_by_level for key in sorted(level) if key in keys]
    done: set[dg.AssetKey] = set()
    waves: list[PlannedRun] = []
    while waiting:
        is_ready = {key: (graph.get(key).parent_keys & keys) <= done for key in waiting}
        # Assets with partitions first, once they can: what waits for several of them then goes into one last run.
        first = max((key for key in waiting if is_ready[key]), key=lambda key: graph.get(key).is_partitioned)
        partitioning = graph.get(first).partitions_def
        wave: list[dg.AssetKey] = []
        for key in waiting:  # in topological order, so that inputs within the wave are seen before
            node = graph.get(key)
            if node.partitions_def == partitioning and (node.parent_keys & keys) <= done | set(wave):
                wave.append(key)
        waves += _split_by_partition(tuple(wave), partitioning, [graph.get(key).backfill_policy for key in wave])
        done |= set(wave)
        waiting = [key for key in waiting if key not in done]
    return waves


def _split_by_partition(
    keys: tuple[dg.AssetKey, ...], partitioning: PartitionsDefinition | None, policies: list[BackfillPolicy | None]
) -> Iterator[PlannedRun]:
    if partitioning is None:
        yield PlannedRun(keys)
        return
    names = tuple(partitioning.get_partition_keys())
    if all(policy == BackfillPolicy.single_run() for policy in policies):
        yield PlannedRun(keys, names)
    else:
        yield from (PlannedRun(keys, (name,)) for name in names)


@dataclass(frozen=True)
class Launch:
    """What all waves of one command, or of one job, are run with.

    Attributes:
        repository: The code location, as worker processes can load it by themselves.
        instance: Where runs and events are recorded.
        tags: Tags of every run.
        run_config: Run config of every run, beside `QUIET`.
        launcher: The run that asks for the waves, if one does: theirs belong to the same code location.
    """

    repository: ReconstructableRepository
    instance: DagsterInstance
    tags: Mapping[str, str] = field(default_factory=dict)
    run_config: Mapping[str, Any] = field(default_factory=dict)
    launcher: dg.DagsterRun | None = None

    def create_run(self, wave: PlannedRun) -> dg.DagsterRun:
        """Record the run of a wave, which has not begun yet.

        Trees are not re-hashed right after they were built: building hashes every file, and `pervl verify` does it
        again. A run that is cut off is not retried by Dagster's daemon: who asked for it does.
        """
        graph = self.repository.get_definition().asset_graph
        checks = (check for check in graph.asset_check_keys if check.asset_key in wave.keys)
        chosen: dict[str, Any] = {
            "asset_selection": frozenset(wave.keys),
            "asset_check_selection": frozenset(check for check in checks if check.name != SUMS_HOLD),
        }
        whole = self.repository.get_reconstructable_job(ALL_ASSETS_JOB)
        job = whole.get_subset(**chosen).get_definition()
        config = {**QUIET, **self.run_config}
        tags = {**wave.tags, **self.tags, **_NO_RETRIES, PROCESS_TAG: _name_process(os.getpid())}
        origin = self.launcher.remote_job_origin if self.launcher else None
        reference = self.instance.get_ref() if self.instance.is_persistent else None
        plan = create_execution_plan(job, config, instance_ref=reference, tags=tags)
        return self.instance.create_run(
            job_name=job.name,
            run_id=None,
            run_config=config,
            status=None,
            tags=tags,
            root_run_id=None,
            parent_run_id=None,
            step_keys_to_execute=plan.step_keys_to_execute,
            execution_plan_snapshot=snapshot_from_execution_plan(plan, job.get_job_snapshot_id()),
            job_snapshot=job.get_job_snapshot(),
            parent_job_snapshot=job.get_parent_job_snapshot(),
            resolved_op_selection=None,
            op_selection=None,
            remote_job_origin=RemoteJobOrigin(origin.repository_origin, job.name) if origin else None,
            job_code_origin=whole.get_python_origin(),
            asset_graph=graph,
            **chosen,
        )

    def execute(self, run: dg.DagsterRun, watch: Callable[[dg.DagsterEvent], None] = lambda _: None) -> None:
        """Run a wave with the executor of the definitions; its failure is one of its events, and is not raised.

        Args:
            run: What `create_run` returned.
            watch: Called with every event as it comes.
        """
        whole = self.repository.get_reconstructable_job(ALL_ASSETS_JOB)
        for event in execute_run_iterator(whole, run, self.instance):
            if event.event_type in _WHERE_INTERRUPTED:
                self._pass_termination_on(run)
            watch(event)

    def _pass_termination_on(self, run: dg.DagsterRun) -> None:
        """Mark a run as being terminated if the run that asked for it is; else it would end as one that failed."""
        terminated = self.launcher and self._is(self.launcher, dg.DagsterRunStatus.CANCELING)
        if terminated and self._is(run, dg.DagsterRunStatus.STARTED):
            self.instance.report_run_canceling(run)

    def _is(self, run: dg.DagsterRun, status: dg.DagsterRunStatus) -> bool:
        now = self.instance.get_run_by_id(run.run_id)
        return now is not None and now.status == status


def fail_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark the runs of processes that were killed as failed, and free the pool slots they held; return their ids.

    A killed run would hold the one slot of the pool `gpu` for ever. Runs started from the UI are the daemon's to watch.
    """
    dead = []
    unfinished = RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(unfinished):
        host, _, pid = run.tags.get(PROCESS_TAG, "").partition("/")
        if host == socket.gethostname() and not is_running(int(pid)):
            instance.report_run_failed(
                run, "The process of this run was killed. What to do: start it again; finished work is kept."
            )
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead


def _name_process(pid: int) -> str:
    return f"{socket.gethostname()}/{pid}"
