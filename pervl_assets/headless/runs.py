"""Runs of the asset graph without the UI: which assets go into one run, in which order, and what came of each.

Belongs here: planning waves of runs, executing them with Dagster's own engine, and reading back its events.
Does not belong here: what is printed, which is `printing`.

A Dagster run has one partition, or one range of partitions, for all its assets. A graph of several partitionings is
therefore materialized in waves: each the largest set of assets of one partitioning whose inputs are all done.
"""

import os
import socket
import uuid
import warnings
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import dagster as dg
from dagster import BackfillPolicy, DagsterEventType, DagsterInstance, PartitionsDefinition, RunsFilter

# The one thing here that Dagster does not export at its top: a job that worker processes can rebuild by themselves.
from dagster._core.definitions.reconstruct import ReconstructableRepository

from pervl_assets.core.errors import PervlError
from pervl_assets.core.processes import is_running
from pervl_assets.defs.tree_checks import SUMS_HOLD

ALL_ASSETS_JOB: Final = "__ASSET_JOB"
WAVE_TAG: Final = "pervl/wave"
PROCESS_TAG: Final = "pervl/process"
"""Host and process id of the `pervl` that a run belongs to."""

Severity = Literal["error", "warning"]

_INSTANCE: Final = "telemetry: {enabled: false}\npython_logs: {python_log_level: INFO}\n"
"""For a Dagster home that has no `dagster.yaml`; the project's own says more."""

_PARTITION: Final = "dagster/partition"
_RANGE: Final = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


@dataclass(frozen=True)
class Wave:
    """One Dagster run: assets, and the partitions of theirs it makes (none for assets without partitions)."""

    keys: tuple[dg.AssetKey, ...]
    partitions: tuple[str, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        """Run tags that say which partitions."""
        if len(self.partitions) > 1:
            return dict(zip(_RANGE, (self.partitions[0], self.partitions[-1]), strict=True))
        return {_PARTITION: self.partitions[0]} if self.partitions else {}


@dataclass(frozen=True)
class Made:
    """An asset, or one partition of it, that was materialized.

    Attributes:
        asset: Its key as text.
        partition: Its partition, if it has any.
        seconds: Time its step took; for a step that makes several partitions, the whole step's.
        metadata: What the materialization tells.
    """

    asset: str
    partition: str | None
    seconds: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """An asset check that did not pass, or a step that failed."""

    asset: str
    severity: Severity
    text: str


@dataclass
class Outcome:
    """What came of one wave or of all."""

    made: list[Made] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    succeeded: bool = True

    @property
    def passed(self) -> bool:
        """Whether every asset materialized and every error-severity check passed."""
        return self.succeeded and not any(f.severity == "error" for f in self.findings)

    def add(self, other: "Outcome") -> None:
        """Take over what another wave gave."""
        self.made += other.made
        self.findings += other.findings
        self.succeeded &= other.succeeded


def find_dagster_home(data: Path) -> Path:
    """Return where Dagster keeps its runs: `DAGSTER_HOME`, else the project's folder, else below the data root."""
    if home := os.environ.get("DAGSTER_HOME"):
        return Path(home).absolute()
    for folder in (here := Path.cwd(), *here.parents):
        if (folder / "dagster.yaml").is_file() and (folder / "workspace.yaml").is_file():
            return folder
    return data / "assets" / "dagster"


def open_instance(data: Path) -> DagsterInstance:
    """Open the Dagster instance of `find_dagster_home`."""
    home = find_dagster_home(data)
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").write_text(_INSTANCE, encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return DagsterInstance.get()


def select_assets(defs: dg.Definitions, selection: str) -> frozenset[dg.AssetKey]:
    """Return the keys that a selection string names.

    Raises:
        PervlError: The string is no selection, or names nothing; the groups are listed.
    """
    graph = defs.resolve_asset_graph()
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


def _selection_help(graph: Any) -> str:
    groups = sorted({graph.get(key).group_name for key in graph.materializable_asset_keys})
    return (
        f"""Name a group ({", ".join(groups)}) as group:NAME or an asset as key:"ytvos/fsl_seg"; a + before it adds """
        "what it needs, a + behind it what needs it."
    )


def plan_waves(defs: dg.Definitions, keys: Set[dg.AssetKey]) -> list[Wave]:
    """Order assets into runs: each wave has one partitioning, and its inputs are in earlier waves or in itself."""
    graph = defs.resolve_asset_graph()
    waiting = [key for level in graph.toposorted_asset_keys_by_level for key in sorted(level) if key in keys]
    done: set[dg.AssetKey] = set()
    waves: list[Wave] = []
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
) -> Iterator[Wave]:
    if partitioning is None:
        yield Wave(keys)
        return
    names = tuple(partitioning.get_partition_keys())
    if all(policy == BackfillPolicy.single_run() for policy in policies):
        yield Wave(keys, names)
    else:
        yield from (Wave(keys, (name,)) for name in names)


def execute_wave(wave: Wave, defs: dg.Definitions, instance: DagsterInstance, wave_id: str) -> Outcome:
    """Run one wave with the executor of the definitions, and read back what it did.

    Trees are not re-hashed right after they were built: building hashes every file, and `pervl verify` does it again.
    """
    whole = ReconstructableRepository.for_module("pervl_assets.definitions", "defs").get_reconstructable_job(
        ALL_ASSETS_JOB
    )
    checks = (check for check in defs.resolve_asset_graph().asset_check_keys if check.asset_key in wave.keys)
    job = whole.get_subset(
        asset_selection=frozenset(wave.keys),
        asset_check_selection=frozenset(check for check in checks if check.name != SUMS_HOLD),
    )
    with dg.execute_job(
        job,
        instance=instance,
        tags={**wave.tags, WAVE_TAG: wave_id, PROCESS_TAG: _name_process(os.getpid())},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    ) as result:
        return read_outcome(instance, result.run_id, succeeded=result.success)


def end_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark the runs of processes that were killed as failed, and free the pool slots they held; return their ids.

    A killed run would hold the one slot of the pool `gpu` for ever. Runs started from the UI are the daemon's to watch.
    """
    dead = []
    unfinished = RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(unfinished):
        host, _, pid = run.tags.get(PROCESS_TAG, "").partition("/")
        if host == socket.gethostname() and not is_running(int(pid)):
            instance.report_run_failed(run, "The process of this run was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead


def _name_process(pid: int) -> str:
    return f"{socket.gethostname()}/{pid}"


def new_wave_id() -> str:
    """Return a tag value by which a run can be watched before its id is known."""
    return uuid.uuid4().hex


def find_run_id(instance: DagsterInstance, wave_id: str) -> str | None:
    """Return the id of the run of a wave, None while it has not started."""
    records = instance.get_run_records(RunsFilter(tags={WAVE_TAG: wave_id}), limit=1)
    return records[0].dagster_run.run_id if records else None


@dataclass(frozen=True)
class News:
    """Something a run tells while it goes on: an asset that was made, or a line that an op logged."""

    text: str
    made: bool


def read_news(instance: DagsterInstance, run_id: str, cursor: str | None) -> tuple[list[News], str | None]:
    """Return what a run told behind a cursor, and the cursor behind it."""
    connection = instance.get_records_for_run(run_id, cursor=cursor)
    news: list[News] = []
    for record in connection.records:
        entry = record.event_log_entry
        if not entry.is_dagster_event:
            news.append(News(f"{(entry.step_key or '').replace('__', '/')}: {entry.user_message}", made=False))
        elif entry.get_dagster_event().event_type == DagsterEventType.ASSET_MATERIALIZATION:
            made = entry.get_dagster_event().step_materialization_data.materialization
            news.append(News(name_partition(made.asset_key.to_user_string(), made.partition), made=True))
    return news, connection.cursor


def name_partition(asset: str, partition: str | None) -> str:
    """Return how an asset, or one partition of it, is written: `ytvos/retrieval_set [test]`."""
    return f"{asset} [{partition}]" if partition else asset


def read_outcome(instance: DagsterInstance, run_id: str, *, succeeded: bool) -> Outcome:
    """Return what a finished run made and found."""
    seconds = {
        step.step_key: (step.end_time or 0.0) - (step.start_time or 0.0)
        for step in instance.get_run_step_stats(run_id)
        if step.start_time
    }
    outcome = Outcome(succeeded=succeeded)
    wanted = {
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_CHECK_EVALUATION,
        DagsterEventType.STEP_FAILURE,
    }
    for record in instance.get_records_for_run(run_id, of_type=wanted).records:
        event = record.event_log_entry.get_dagster_event()
        if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            made = event.step_materialization_data.materialization
            metadata = {name: value.value for name, value in made.metadata.items()}
            key = made.asset_key.to_user_string()
            outcome.made.append(Made(key, made.partition, seconds.get(event.step_key or "", 0.0), metadata))
        elif event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed:
                severity: Severity = "error" if check.severity == dg.AssetCheckSeverity.ERROR else "warning"
                text = f"{check.check_name}: {check.description or 'did not pass'}"
                outcome.findings.append(Finding(check.asset_key.to_user_string(), severity, text))
        elif (message := explain_failure(event.step_failure_data.error)) is not None:
            outcome.findings.append(Finding((event.step_key or "").replace("__", "/"), "error", message))
    # Dagster tells the partitions of one step in no order; the assets themselves stay in that of their steps.
    steps = list(dict.fromkeys(made.asset for made in outcome.made))
    outcome.made.sort(key=lambda made: (steps.index(made.asset), made.partition or ""))
    return outcome


def explain_failure(error: Any) -> str | None:
    """Return what a person needs of a step's failure: our own error's message where there is one, without a stack.

    None for a failed blocking check, which is reported as the check itself.
    """
    while True:
        name, _, message = error.message.partition(": ")
        if name.startswith("pervl_assets."):
            return str(message).strip()
        if error.cause is None:
            break
        error = error.cause
    if error.cls_name == "DagsterExecutionInterruptedError":
        return "interrupted"
    return None if error.cls_name == "DagsterAssetCheckFailedError" else str(error.message).strip()
