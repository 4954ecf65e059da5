"""The one module that imports Dagster's private names, each with its purpose and the public name that is missing.

A Dagster release may move any of them. `pytest --noconftest pervl_assets_tests/test_dagster_private.py` imports each
alone and reports which are gone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Self

import dagster as dg

from pervl_assets.core.errors import PervlError


@contextmanager
def _explain_moved_names() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise PervlError(
            f"Dagster {dg.__version__} has moved a private name that this project uses: {error}.",
            advice="Install the version of Dagster that constraints.txt names.",
        ) from error


with _explain_moved_names():
    # Type of `Definitions.resolve_asset_graph()`, which is public and whose class is not exported.
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

    # Tag of a materialization with its data version; `instance.get_latest_data_version` does not exist.
    from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG

    # A job that worker processes load by themselves: `dg.reconstructable` takes functions, not code locations.
    from dagster._core.definitions.reconstruct import ReconstructableRepository

    # Metadata of an event that the public `instance.report_engine_event` records, and what distinguishes a run whose
    # process was killed from one whose step failed.
    from dagster._core.events import EngineEventData, RunFailureReason

    # A run event by event: `dg.execute_job` returns at the end, takes no asset checks and no run made before.
    # With the names up to the next comment: claims of pool slots, and an executor of one process (`defs.pools`).
    from dagster._core.execution.api import ExecuteRunWithPlanIterable, create_execution_plan, execute_run_iterator
    from dagster._core.execution.context_creation_job import PlanExecutionContextManager
    from dagster._core.execution.plan.execute_plan import inner_plan_execution_iterator
    from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext

    # What a run launcher returns about a run's process (`defs.kubernetes`).
    from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

    # A cache of reads from one instance, which the classes above and below need: within it, nothing is read twice.
    # Dagster names it after unit tests; the others belong to its webserver and daemon.
    from dagster._core.loader import LoadingContextForTest as Request

    # The code location that a run belongs to, without which the UI does not show the run beside its job.
    from dagster._core.remote_origin import RemoteJobOrigin
    from dagster._core.snap import snapshot_from_execution_plan

    # The latest evaluation of each asset check, and whether it is of the latest materialization.
    from dagster._core.storage.asset_check_execution_record import (
        AssetCheckExecutionRecord,
        AssetCheckExecutionRecordStatus,
    )

    # Asset records through the cache above, so that one query reads those of all assets.
    from dagster._core.storage.event_log.base import AssetRecord

    # The code location of the run that an op belongs to.
    from dagster._utils.hosted_user_process import recon_repository_from_origin

__all__ = [
    "CODE_VERSION_TAG",
    "AssetCheckExecutionRecord",
    "AssetRecord",
    "BaseAssetGraph",
    "CheckRunHealthResult",
    "ConfigShape",
    "ExecuteRunWithPlanIterable",
    "Freshness",
    "InstanceConcurrencyContext",
    "Interrupted",
    "PlanExecutionContextManager",
    "ReconstructableRepository",
    "Request",
    "RunFailureReason",
    "WorkerStatus",
    "change_op",
    "create_run",
    "execute_assets_run",
    "fail_step",
    "find_failed_run",
    "free_pool_slots",
    "inner_plan_execution_iterator",
    "judge_step",
    "name_error",
    "name_failure",
    "read_check_history",
    "read_data_versions",
    "read_freshness",
    "read_latest_checks",
    "read_pool_holders",
    "recon_repository_from_origin",
    "report_link",
    "run_web_server",
    "set_pool_limit",
]

Freshness = Literal["passing", "warning", "failing", "unknown"]

_FRESHNESS: Final[dict[str, Freshness]] = {"PASS": "passing", "WARN": "warning", "FAIL": "failing"}
_ALL_ASSETS_JOB: Final = "__ASSET_JOB"
"""Dagster's implicit job of all assets, in which "Materialize" of the UI runs its selection."""


def name_failure(name: str) -> type[dg.Failure]:
    """Return a subclass of `dg.Failure` that the UI shows as `name`.

    Dagster prints module and class of an error before its message, and no public name changes that: the subclass claims
    to be a builtin, whose module is not printed.
    """
    return type(name, (dg.Failure,), {"__module__": "builtins"})


def name_error(error: PervlError) -> PervlError:
    """Return an error as one of Dagster's own, too, which the UI shows by its name: see `name_failure`.

    Dagster wraps any other that is raised in a sensor or resource, or while definitions load, and shows its own first.
    """
    kind: type[PervlError] = type(type(error).__name__, (type(error), dg.DagsterError), {"__module__": "builtins"})
    return kind(error.problem, advice=error.advice, details=error.details)


class Interrupted(dg.DagsterExecutionInterruptedError):
    """The end of a run that a user or a signal ended; the UI shows it by its name: see `name_failure`."""

    __module__ = "builtins"


class ConfigShape(dg.Shape):
    """A config schema whose subclass has its own `post_process`: `dg.Shape` makes no instances of subclasses."""

    def __new__(cls, *_: Any) -> Self:
        """Return a new schema; `dg.Shape` would return one that it made before from the same fields."""
        made = object.__new__(cls)
        made._initialized = False
        return made


def change_op(asset: dg.AssetsDefinition, op: dg.OpDefinition) -> dg.AssetsDefinition:
    """Return an asset, or asset checks, made by another op; an op's tags and retries have no public setter."""
    parts = asset.get_attributes_dict() | {"node_def": op}
    if isinstance(asset, dg.AssetChecksDefinition):
        names = ("keys_by_input_name", "node_def", "check_specs_by_output_name", "can_subset", "resource_defs")
        checks: dg.AssetsDefinition = dg.AssetChecksDefinition.create(**{name: parts[name] for name in names})
        return checks
    return type(asset).dagster_internal_init(**parts)


def create_run(
    repository: ReconstructableRepository,
    instance: dg.DagsterInstance,
    run_id: str,
    keys: Sequence[dg.AssetKey],
    checks: Sequence[dg.AssetCheckKey],
    *,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    launcher: dg.DagsterRun | None,
) -> dg.DagsterRun:
    """Record a run of assets and asset checks, which `execute_assets_run` starts.

    `dg.execute_job` cannot select checks, and its run has no code location. The tags name the partition; `launcher` is
    the run of the same code location that starts this one, if one does.
    """
    chosen: dict[str, Any] = {"asset_selection": frozenset(keys), "asset_check_selection": frozenset(checks)}
    whole = repository.get_reconstructable_job(_ALL_ASSETS_JOB)
    job = whole.get_subset(**chosen).get_definition()
    origin = launcher.remote_job_origin if launcher else None
    reference = instance.get_ref() if instance.is_persistent else None
    plan = create_execution_plan(job, config, instance_ref=reference, tags=tags)
    return instance.create_run(
        job_name=job.name,
        run_id=run_id,
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
        asset_graph=repository.get_definition().asset_graph,
        **chosen,
    )


def report_link(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str, name: str, run_id: str) -> None:
    """Record an event of a run with a link to another run."""
    instance.report_engine_event(message, run, EngineEventData(metadata={name: dg.MetadataValue.dagster_run(run_id)}))


def execute_assets_run(
    repository: ReconstructableRepository, instance: dg.DagsterInstance, run: dg.DagsterRun
) -> Iterator[dg.DagsterEvent]:
    """Execute a run of `create_run`; yields its events as they happen. A failed run is an event and is not raised."""
    yield from execute_run_iterator(repository.get_reconstructable_job(_ALL_ASSETS_JOB), run, instance)


def judge_step(reason: str | None) -> Any:
    """Return what a step handler says of a step: that it goes on (None), or why it does not."""
    with _explain_moved_names():  # imported here, because it takes 0.2 s and only runs on a cluster need it
        from dagster._core.executor.step_delegating import CheckStepHealthResult
    return CheckStepHealthResult(reason is None, reason)


def fail_step(context: Any, message: str) -> None:
    """Record that a step failed before it began; its process would do that itself."""
    with _explain_moved_names():
        from dagster._core.execution.plan.objects import StepFailureData
        from dagster_shared.error import SerializableErrorInfo
    failure: Any = StepFailureData
    error = SerializableErrorInfo(message, [], None)
    dg.DagsterEvent.step_failure_event(context, failure(error=error, user_failure_data=None))


def free_pool_slots(instance: dg.DagsterInstance, run_id: str) -> None:
    """Free the pool slots of a run; the daemon does it after a minute, and without a daemon nothing does."""
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def read_pool_holders(instance: dg.DagsterInstance, pool: str) -> list[str]:
    """Return the ids of the runs that hold slots of a pool."""
    return sorted(instance.event_log_storage.get_concurrency_info(pool).active_run_ids)


def set_pool_limit(instance: dg.DagsterInstance, pool: str, limit: int) -> None:
    """Set how many steps use a pool at once, instead of the default of `dagster.yaml`, unless it is set already.

    In a database that is not Dagster's own file, other machines rely on the limit: there it is raised, never lowered.
    """
    storage = instance.event_log_storage
    known = next((one.limit for one in storage.get_pool_limits() if one.name == pool and not one.from_default), None)
    if not type(storage).__module__.startswith("dagster."):
        known = known or instance.global_op_concurrency_default_limit or 0
        limit = max(limit, known)
    if limit != known:
        storage.set_concurrency_slots(pool, limit)


def read_latest_checks(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]
) -> Mapping[dg.AssetCheckKey, AssetCheckExecutionRecord]:
    """Return the latest record of every check, in one query."""
    return instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)


def read_check_history(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, limit: int
) -> Sequence[AssetCheckExecutionRecord]:
    """Return the latest evaluations of one check, the latest first; checks that were only planned are left out."""
    evaluated = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    return instance.event_log_storage.get_asset_check_execution_history(key, limit, status=evaluated)


def read_data_versions(
    instance: dg.DagsterInstance, whole: Iterable[dg.AssetKey], split: Iterable[dg.AssetKey]
) -> dict[tuple[dg.AssetKey, str | None], str | None]:
    """Return the latest data versions of assets without partitions (one query), and of those that are split (one each).

    The public `instance.fetch_materializations` needs one query per partition.
    """
    versions: dict[tuple[dg.AssetKey, str | None], str | None] = {}
    for record in instance.get_asset_records(keys) if (keys := [*whole]) else ():
        if (made := record.asset_entry.last_materialization) is not None and made.asset_materialization:
            tags = made.asset_materialization.tags or {}
            versions[record.asset_entry.asset_key, None] = tags.get(DATA_VERSION_TAG)
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    for key in split:
        found = instance.event_log_storage.get_latest_tags_by_partition(key, kind, [DATA_VERSION_TAG])
        versions |= {(key, partition): tags.get(DATA_VERSION_TAG) for partition, tags in found.items()}
    return versions


async def read_freshness(node: Any, request: Request) -> Freshness | None:
    """Evaluate the freshness policy of an asset now; None: it has none.

    The daemon does the same every 30 seconds, and the UI shows its last evaluation: the public record exists only where
    a daemon runs.
    """
    with _explain_moved_names():  # imported here, because it takes 0.2 s and only `pervl status` needs it
        from dagster._core.definitions.freshness_evaluator import FRESHNESS_EVALUATORS_BY_POLICY_TYPE
    if node.freshness_policy is None:
        return None
    evaluator = FRESHNESS_EVALUATORS_BY_POLICY_TYPE[type(node.freshness_policy)]()
    return _FRESHNESS.get((await evaluator.evaluate_freshness(request, node)).name, "unknown")


async def find_failed_run(node: Any, request: Request) -> str | None:
    """Return the id of the last run of an asset or of one of its partitions that failed to materialize it.

    The UI's own state; there is no public query for it.
    """
    with _explain_moved_names():
        from dagster._core.definitions.asset_health.asset_materialization_health import AssetMaterializationHealthState
    state = await AssetMaterializationHealthState.compute_for_asset(node.key, node.partitions_def, request)
    if state.failed_subset.is_empty:
        return None
    record = await AssetRecord.gen(request, node.key)
    return state.latest_failed_to_materialize_run_id or (record.asset_entry.last_run_id if record else None)


@contextmanager
def run_web_server(
    instance: dg.DagsterInstance, module: str, name: str, workspace: Path | None, *, read_only: bool
) -> Iterator[Any]:
    """Yield the ASGI app of `dagster-webserver` for a code location; the daemon runs in threads of this process.

    Both are commands without a public name for their parts. Here they share the process of the code location, and no
    process is left behind if this one is killed. A read-only web server has no daemon.

    Args:
        instance: Holds the runs.
        module: Module with the definitions.
        name: Name of the code location, which the states of schedules and sensors belong to.
        workspace: File that names code locations, in the place of this one.
        read_only: Whether everything that changes something is refused.

    Raises:
        PervlError: The file names no code locations.
    """
    with _explain_moved_names():  # imported here, because they take a second
        from dagster._core.workspace.context import WorkspaceProcessContext
        from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget
        from dagster._daemon.controller import DagsterDaemonController, create_daemons_from_instance
        from dagster_webserver.app import create_app_from_workspace_process_context
    # The folder of the package, not the current one: modules that other users put there must not be imported.
    target: ModuleTarget | WorkspaceFileTarget = ModuleTarget(module, None, str(Path(__file__).parents[1]), name)
    if workspace:
        target = WorkspaceFileTarget([str(workspace)])
        try:
            target.create_origins()
        except Exception as error:  # of every kind: Dagster's checks, its configuration, YAML
            raise PervlError(
                f"{workspace} names no code locations: {' '.join(str(error).split()):.300}",
                advice="Write it as docs/scale/workspace.team.yaml is written.",
            ) from error
    with ExitStack() as stack:
        context = stack.enter_context(
            WorkspaceProcessContext(instance, target, dg.__version__, read_only, code_server_log_level="WARNING")
        )
        if not read_only:
            daemons = [stack.enter_context(daemon) for daemon in create_daemons_from_instance(instance)]
            stack.enter_context(DagsterDaemonController(context, daemons))
        yield create_app_from_workspace_process_context(context)
