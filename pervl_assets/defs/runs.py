"""Runs of the asset graph: values per run, their order, and the values that are up to date and need no run.

A Dagster run has one partition for all its assets. A graph of several partitionings is therefore materialized in
several runs, each the largest set of assets of one partitioning whose inputs are all done.
"""

import fcntl
import os
import socket
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import dagster as dg
from dagster import DagsterInstance, RunsFilter

from pervl_assets.core.errors import name_some
from pervl_assets.core.files import Lock
from pervl_assets.core.signals import list_stops
from pervl_assets.dagster_private import (
    BaseAssetGraph,
    ReconstructableRepository,
    create_run,
    free_pool_slots,
    set_pool_limit,
)
from pervl_assets.defs.checks import SUMS_HOLD
from pervl_assets.defs.placement import GPU_POOL
from pervl_assets.defs.run_results import RunResult, read_run_result
from pervl_assets.defs.run_workers import INTERRUPTIONS, RunEnd, RunWorkers, execute_run
from pervl_assets.defs.selections import select_assets
from pervl_assets.defs.up_to_date import Value, explain_outdated

PROCESS_TAG: Final = ".dagster/pervl_process"
"""Host, process id and boot id of the process that started a run: of `pervl`, or of a job. The UI hides such tags."""

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")

_UNFINISHED: Final = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

_QUIET: Final = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run config without console logs; log lines are printed from the events."""

_NO_RETRIES: Final = {"dagster/max_retries": "0"}
_NAMES_SHOWN: Final = 6


@dataclass(frozen=True)
class PlannedRun:
    """One Dagster run: assets, and the partition of them that it makes (None for assets without partitions)."""

    keys: tuple[dg.AssetKey, ...]
    partition: str | None = None

    @property
    def values(self) -> frozenset[Value]:
        """The values that it makes."""
        return frozenset((key, self.partition) for key in self.keys)

    @property
    def tags(self) -> dict[str, str]:
        """Run tags that name the partition."""
        return {} if self.partition is None else {"dagster/partition": self.partition}

    def __str__(self) -> str:
        """Return what it makes in one line: `1 asset of test: ytvos/retrieval_set`."""
        count = f"{len(self.keys)} asset{'s' if len(self.keys) > 1 else ''}"
        names = name_some([key.to_user_string() for key in self.keys], _NAMES_SHOWN)
        return f"{count}{f' of {self.partition}' if self.partition else ''}: {names}"


def list_values(graph: BaseAssetGraph[Any], keys: Set[dg.AssetKey]) -> list[Value]:
    """Return every partition of the assets, in topological order."""
    ordered = [key for level in graph.toposorted_asset_keys_by_level for key in sorted(level) if key in keys]
    return [(key, partition) for key in ordered for partition in _list_partitions(graph, key)]


def _list_partitions(graph: BaseAssetGraph[Any], key: dg.AssetKey) -> list[str | None]:
    partitioning = graph.get(key).partitions_def
    return [*partitioning.get_partition_keys()] if partitioning else [None]


def plan_runs(graph: BaseAssetGraph[Any], values: Set[Value]) -> list[PlannedRun]:
    """Order values into runs: each has one partition, and its inputs are in earlier runs or in itself.

    A value whose input is up to date, but made from one of the values, is in a later run than that one: the input may
    be outdated by then.
    """
    keys = {key for key, _ in values}
    waiting = list(dict.fromkeys(key for key, _ in list_values(graph, keys)))
    done: set[dg.AssetKey] = set()
    runs: list[PlannedRun] = []

    def is_ready(key: dg.AssetKey, chosen: Collection[dg.AssetKey] = ()) -> bool:
        parents = graph.get(key).parent_keys
        above = {one for parent in parents - keys for one in graph.get_ancestor_asset_keys(parent)}
        return above & keys <= done and parents & keys <= {*done, *chosen}

    while waiting:
        # Partitioned assets first, so that unpartitioned ones that depend on several of them share one run.
        first = max((key for key in waiting if is_ready(key)), key=lambda key: graph.get(key).is_partitioned)
        partitioning = graph.get(first).partitions_def
        chosen: list[dg.AssetKey] = []
        for key in waiting:  # in topological order, so that inputs within the run come before
            if graph.get(key).partitions_def == partitioning and is_ready(key, chosen):
                chosen.append(key)
        for partition in _list_partitions(graph, first):
            if here := tuple(key for key in chosen if (key, partition) in values):
                runs.append(PlannedRun(here, partition))
        done |= set(chosen)
        waiting = [key for key in waiting if key not in done]
    return runs


def _list_needed(graph: BaseAssetGraph[Any], keys: Iterable[dg.AssetKey]) -> dict[dg.AssetKey, bool]:
    """Return the assets that these are made from, and whether only their own partition of each is needed."""
    needed: dict[dg.AssetKey, bool] = {}
    waiting = [(key, True) for key in keys]
    while waiting:
        key, is_same = waiting.pop()
        for parent in graph.get(key).parent_keys:
            is_own = is_same and graph.get(parent).partitions_def == graph.get(key).partitions_def
            if parent not in needed or needed[parent] > is_own:
                needed[parent] = is_own
                waiting.append((parent, is_own))
    return needed


class Plan:
    """The runs that bring a selection up to date, planned again after each of them.

    A run materializes outdated values only. Downstream values follow in a later run if a data version changed: these
    are looked at again after a run, and no others. No value is made twice, even if one of its checks failed.

    Attributes:
        todo: The outdated values that were not made yet, each with the reason.
        skipped: How many values of the selection are up to date.
    """

    def __init__(
        self,
        graph: BaseAssetGraph[Any],
        instance: DagsterInstance,
        keys: Set[dg.AssetKey],
        resources: Mapping[str, Any],
        *,
        force: bool = False,
    ) -> None:
        """Plan the first run; `force` makes every value, up to date or not."""
        self._graph, self._instance, self._resources, self._force = graph, instance, resources, force
        self._left, self._begun = list_values(graph, keys), list[PlannedRun]()
        self.todo: dict[Value, str] = {}
        self._needed: dict[tuple[dg.AssetKey, ...], dict[dg.AssetKey, bool]] = {}
        self._find_todo(self._left)

    def __iter__(self) -> Iterator[PlannedRun]:
        """Yield the runs one by one; each must have been executed before the next is planned."""
        while run := self.begin():
            yield run
            self.end(run)

    def list_runs(self) -> list[PlannedRun]:
        """Return the runs that make the values that are outdated now, in their order; none is begun."""
        return plan_runs(self._graph, self.todo.keys())

    def list_followers(self) -> list[Value]:
        """Return the values that may be outdated after these runs, because they are made from what these make."""
        runs = self.list_runs()
        others = [value for value in self._left if value not in self.todo]
        return [value for value in others if any(self._needs(PlannedRun((value[0],), value[1]), run) for run in runs)]

    def begin(self) -> PlannedRun | None:
        """Return the next run, which needs nothing of a run that has begun and not ended; None if there is none now."""
        begun = {value for run in self._begun for value in run.values}
        before = [*self._begun]
        for run in plan_runs(self._graph, self.todo.keys() - begun):
            if not any(self._needs(run, other) for other in before):
                self._begun.append(run)
                return run
            before.append(run)
        return None

    def end(self, run: PlannedRun) -> None:
        """Plan again after a run that `begin` returned."""
        self._begun.remove(run)
        self._left = [value for value in self._left if value not in run.values]
        begun = {value for other in self._begun for value in other.values}
        readers = self._list_readers(run)
        self._find_todo([value for value in self._left if value not in begun and self._follows(value, run, readers)])

    def _needs(self, run: PlannedRun, other: PlannedRun) -> bool:
        """Return whether a run is made from values of another, or of what is made from them."""
        if run.keys not in self._needed:  # those of a shard are those of all shards
            self._needed[run.keys] = _list_needed(self._graph, run.keys)
        needed = self._needed[run.keys]
        return any(key in needed and (not needed[key] or other.partition == run.partition) for key in other.keys)

    def _list_readers(self, run: PlannedRun) -> set[dg.AssetKey]:
        """Return the assets with a check that reads another asset of a run."""
        checks = self._graph.get_check_keys_for_assets({key for key, _ in self._left})
        made = {*run.keys}
        return {one.asset_key for one in checks if made & self._graph.get(one).parent_entity_keys - {one.asset_key}}

    def _follows(self, value: Value, run: PlannedRun, readers: Set[dg.AssetKey]) -> bool:
        return value[0] in readers or self._needs(PlannedRun((value[0],), value[1]), run)

    def _find_todo(self, values: list[Value]) -> None:
        """Look at values, of which none is being made: which of them are outdated now."""
        if self._force:
            todo = dict.fromkeys(values, "forced (--force)")
        else:
            todo = explain_outdated(self._graph, self._instance, values, self._resources)
            there = {*self._left}
            for (key, partition), reason in [*todo.items()]:  # outputs of one step are made together
                for other in self._graph.get(key).execution_set_asset_keys:
                    if (other, partition) in there:
                        todo.setdefault((other, partition), reason)
        looked_at = {*values}
        before = {value: self.todo[value] for value in self._left if value in self.todo and value not in looked_at}
        self.todo = before | todo
        self.skipped = len(self._left) - len(self.todo)


_Follow = Callable[[PlannedRun, RunResult], AbstractContextManager[Callable[[dg.DagsterEvent], None]]]
"""A context around each run, before which the result has its id and the total; its value is called with each event."""


@dataclass
class _Begun:
    """A run in a worker: `following` closes what `_Follow` opened, and `watch` is called with each event."""

    planned: PlannedRun
    run: dg.DagsterRun
    following: ExitStack = field(default_factory=ExitStack)
    watch: Callable[[dg.DagsterEvent], None] = lambda _: None


@dataclass(frozen=True)
class Launch:
    """How all planned runs of one command, or of one job, are executed.

    Attributes:
        repository: The code location, as worker processes can load it by themselves.
        instance: Where runs and events are recorded.
        tags: Tags of every run.
        run_config: Run config of every run, beside the log level.
        launcher: The run of the job that starts the planned runs, if one does: they belong to its code location.
        devices: How many runs are executed beside each other, each in a process of its own, and the size of the pool
            `gpu`. None: one after another in this process, and the pool stays as it is.
        locks: The locks of runs that have not ended, by run id.
    """

    repository: ReconstructableRepository
    instance: DagsterInstance
    tags: Mapping[str, str] = field(default_factory=dict)
    run_config: Mapping[str, Any] = field(default_factory=dict)
    launcher: dg.DagsterRun | None = None
    devices: int | None = None
    locks: dict[str, Lock] = field(default_factory=dict)

    def plan(self, selection: str, resources: Mapping[str, Any], *, force: bool = False) -> Plan:
        """Plan the runs of a selection string. Raises as `select_assets` does."""
        graph = self.repository.get_definition().asset_graph
        return Plan(graph, self.instance, select_assets(graph, selection), resources, force=force)

    def explain_inputs(self, selection: str, resources: Mapping[str, Any]) -> dict[Value, str]:
        """Return the inputs of a selection that are outdated and not part of it, each with the reason."""
        graph = self.repository.get_definition().asset_graph
        keys = select_assets(graph, selection)
        inputs = {parent for key in keys for parent in graph.get(key).parent_keys} - keys
        return explain_outdated(graph, self.instance, list_values(graph, inputs), resources) if inputs else {}

    def execute(self, plan: Plan, follow: _Follow) -> RunResult:
        """Execute planned runs with the executor of the definitions, up to one that fails; a failure is not raised.

        Runs beside one that fails, or is interrupted, are ended by themselves or by the same interruption.
        """
        result = RunResult()
        if self.devices and plan.todo:
            set_pool_limit(self.instance, GPU_POOL, self.devices)
        if (self.devices or 1) > 1 and self.instance.is_persistent:
            self._execute_beside(plan, follow, result)
        else:
            self._execute_here(plan, follow, result)
        result.skipped = plan.skipped
        return result

    def _execute_here(self, plan: Plan, follow: _Follow, result: RunResult) -> None:
        """Execute runs one after another in this process."""
        for planned in plan:
            run = self._begin(planned, plan, result)
            try:
                with follow(planned, result) as watch:
                    for event in execute_run(self.repository, self.instance, run, self._is_ending):
                        watch(event)
            finally:
                self._end(run, sys.exception())
            result.add(read_run_result(self.instance, run.run_id))
            if not result.succeeded:
                break

    def _execute_beside(self, plan: Plan, follow: _Follow, result: RunResult) -> None:
        """Execute runs beside each other in worker processes. None is begun after one has failed."""
        begun: dict[str, _Begun] = {}
        try:
            with RunWorkers(self.repository, self.instance) as workers:
                while result.succeeded or workers.run_ids:
                    try:
                        while result.succeeded and len(begun) < (self.devices or 1) and (planned := plan.begin()):
                            run = self._begin(planned, plan, result)
                            begun[run.run_id] = one = _Begun(planned, run)
                            one.watch = one.following.enter_context(follow(planned, result))
                            workers.begin(run.run_id)
                        if not begun:
                            break
                        for run_id, event in workers.read():
                            self._take(begun, run_id, event, plan, result)
                    except INTERRUPTIONS:
                        if result.interrupted:
                            raise
                        result.interrupted, result.succeeded = True, False
                        workers.interrupt()
        finally:
            for one in begun.values():
                one.following.close()
                self._end(one.run, sys.exception() or KeyboardInterrupt())

    def _take(
        self, begun: "dict[str, _Begun]", run_id: str, event: dg.DagsterEvent | RunEnd, plan: Plan, result: RunResult
    ) -> None:
        """Pass the event of a run in a worker on; after its last one end the run, and plan again."""
        one = begun[run_id]
        if not isinstance(event, RunEnd):
            one.watch(event)
            return
        one.following.close()
        self._end(one.run, KeyboardInterrupt() if result.interrupted else None, event.error)
        result.add(read_run_result(self.instance, run_id))
        plan.end(one.planned)
        del begun[run_id]

    def _begin(self, planned: PlannedRun, plan: Plan, result: RunResult) -> dg.DagsterRun:
        run = self._create_run(planned)
        result.runs.append(run.run_id)
        result.total = len(result.made) + len(plan.todo)
        return run

    def _create_run(self, planned: PlannedRun) -> dg.DagsterRun:
        """Record a planned run, which has not begun yet.

        Trees are not hashed again right after they were built: building hashes every file, and `pervl verify` does it
        again. Dagster's daemon does not retry it after an interruption: the command or job that started it does.
        """
        checks = self.repository.get_definition().asset_graph.get_check_keys_for_assets({*planned.keys})
        process = {PROCESS_TAG: f"{socket.gethostname()}/{os.getpid()}/{_read_boot()}"}
        run_id = str(uuid.uuid4())
        if self.instance.is_persistent:
            self.locks[run_id] = Lock(_locate_lock(self.instance, run_id), f"executing {run_id}")
        return create_run(
            self.repository,
            self.instance,
            run_id,
            planned.keys,
            [check for check in checks if check.name != SUMS_HOLD],
            config={**_QUIET, **self.run_config},
            tags={**planned.tags, **self.tags, **_NO_RETRIES, **process},
            launcher=self.launcher,
        )

    def _is_ending(self) -> bool:
        """Return whether a signal ends the command, or whether the job that started the runs is terminated."""
        launcher = self._reload(self.launcher)
        return launcher.status == dg.DagsterRunStatus.CANCELING if launcher else bool(list_stops())

    def _reload(self, run: dg.DagsterRun | None) -> dg.DagsterRun | None:
        return self.instance.get_run_by_id(run.run_id) if run else None

    def _end(self, run: dg.DagsterRun, error: BaseException | None, reason: str = "") -> None:
        """End a run that an error or a signal ended between its events, free its pool slots, and unlock it.

        After a signal it is canceled, after an error it failed. The reason is recorded where there is no error.
        """
        if (now := self._reload(run)) and not now.is_finished:
            if list_stops() or isinstance(error, (*INTERRUPTIONS, SystemExit, GeneratorExit)):
                self.instance.report_run_canceled(now)
            else:
                text = f"The run was ended by an error: {error!r}" if error else reason or "It ended without a result."
                self.instance.report_run_failed(now, text)
            free_pool_slots(self.instance, run.run_id)
        if lock := self.locks.pop(run.run_id, None):
            lock.remove()


def _read_boot() -> str:
    """Return the id of this boot of the machine, which its containers have too; empty if it is not known."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _locate_lock(instance: DagsterInstance, run_id: str) -> Path:
    """Return the file that the process of a run locks until it ends, however it ends.

    Process ids do not identify it: they are used again, and are others in each container.
    """
    return Path(instance.root_directory, "storage", run_id, "lock")


def _is_dead(run: dg.DagsterRun, lock: Path) -> bool:
    """Return whether the process of a run has ended; False where that is not known, as on another machine."""
    host, _, boot = [*run.tags.get(PROCESS_TAG, "").split("/", 2), "", ""][:3]
    if not host or (host != socket.gethostname() and not (boot and boot == _read_boot())):
        return False
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return "-" not in boot  # a run of an earlier version has neither a lock nor a boot id
    except OSError:  # it is locked, or the file system has no locks
        return False
    return True


def fail_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark the runs of processes that were killed as failed, and free the pool slots they held; return their ids.

    A killed run would hold the one slot of the pool `gpu` for ever. The daemon watches the runs started from the UI.
    """
    dead = []
    for run in instance.get_runs(RunsFilter(statuses=_UNFINISHED)):
        if _is_dead(run, lock := _locate_lock(instance, run.run_id)):
            instance.report_run_failed(
                run, "The process of this run was killed. What to do: start it again; finished work is kept."
            )
            free_pool_slots(instance, run.run_id)
            lock.unlink(missing_ok=True)
            dead.append(run.run_id)
    return dead
