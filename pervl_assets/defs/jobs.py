"""Jobs for common tasks: prepare one benchmark, prepare the training files of PALAVRA, or everything.

An asset job of Dagster has one partitioning, and launched for one partition it fails where an asset needs all of them.
So a job here has one op, which starts planned runs as `pervl materialize` does. They are recorded beside the job's own
run, take slots of the pools, and end with it. They are not queued, so that a job never waits for a slot of the queue
that it holds itself.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import dagster as dg
from dagster import DagsterEventType
from pydantic import Field

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import SplitRule
from pervl_assets.clip.passport import Precision
from pervl_assets.clip.preprocessing import PreprocessingRule
from pervl_assets.core.errors import PervlError
from pervl_assets.dagster_private import recon_repository_from_origin
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.run_results import Materialized, RunResult, read_finding, read_materialization, read_run_result
from pervl_assets.defs.runs import Launch, Plan, PlannedRun, fail_dead_runs, select_assets
from pervl_assets.inversion.open_images import NamesRule
from pervl_assets.io_managers.failures import make_failure, show_errors
from pervl_assets.settings import Settings, get_variable, list_errors

AS_SET: Final = "environment"
"""Value of the launchpad: what the environment variable says."""

JOB_TAG: Final = "pervl/job"
"""Name of the job, on its own runs: `dagster.yaml` lets one of them run at a time."""

JOB_RUN_TAG: Final = "pervl/job_run"
"""Run id of a job, on its own run and on the runs it starts: a click on it shows them together."""

_OP: Final = "materialize"
_NAMES_SHOWN: Final = 6


def _override(name: str, unset: str | None = None) -> Any:
    """Return the field of the launchpad that overrides a setting for one run."""
    text = Settings.model_fields[name].description
    return Field(default=unset, description=f"{text}. {unset or 'null'}: {get_variable(name)}.")


class JobConfig(dg.Config):
    """What can be set for one run; what is unset follows the environment variables."""

    selection: str = Field(
        description='What to materialize, in Dagster\'s selection syntax: `group:ytvos`, `+key:"palavra/object_names"` '
        "(with + also everything that it needs), `*`. Every partition is materialized."
    )
    top_objects: int | None = _override("top_objects")
    openimages_names: Literal["environment", NamesRule] = _override("openimages_names", AS_SET)
    splits: Literal["environment", SplitRule] = _override("splits", AS_SET)
    workers: int | None = _override("workers")
    preprocessing: Literal["environment", PreprocessingRule] = _override("preprocessing", AS_SET)
    precision: Literal["environment", Precision] = _override("precision", AS_SET)
    device: str = _override("device", AS_SET)
    batch_size: int | None = _override("batch_size")

    def check(self) -> None:
        """Check what the launchpad itself does not.

        Raises:
            PervlError: Values cannot be used; every such value is named.
        """
        if wrong := list_errors(self.list_changes()):
            raise PervlError(
                f"{len(wrong)} value{'s' if len(wrong) > 1 else ''} of the launchpad cannot be used.",
                details=wrong,
                advice="Correct or remove these values, and launch again.",
            )

    def configure(self, workspace: Workspace, clip: Clip) -> dict[str, Any]:
        """Return the run config of the resources that have fields set here; it must contain their other fields, too."""
        return {
            name: {"config": resource.model_dump(exclude_none=True) | changes}
            for name, resource in (("workspace", workspace), ("clip", clip))
            if (changes := {k: v for k, v in self.list_changes().items() if k in type(resource).model_fields})
        }

    def list_changes(self) -> dict[str, Any]:
        """Return the settings that have a value here."""
        return {k: v for k, v in self.model_dump(exclude={"selection"}).items() if v not in (None, AS_SET)}


def build_jobs(resources: Iterable[str]) -> list[dg.JobDefinition]:
    """Return the jobs: one for every benchmark, the training files, and everything.

    Args:
        resources: Keys of all resources and IO managers.
    """
    op = build_op(frozenset(resources))
    benchmarks = [
        build_job(
            f"prepare_{benchmark.name}",
            f"+group:{benchmark.name}",
            f"{benchmark.title} from its archive to the folder trees and views, all splits.",
            op,
        )
        for benchmark in find_benchmarks()
    ]
    training = "PALAVRA's training files, with all that they are made from: triplets, classes, CLIP features, matches."
    return [
        *benchmarks,
        build_job("prepare_inversion_training", "+group:palavra", training, op),
        build_job("everything", "*", "Every asset of the graph, every partition.", op),
    ]


def build_job(name: str, selection: str, description: str, op: dg.OpDefinition) -> dg.JobDefinition:
    """Return a job that materializes a selection, all its partitions, in planned runs.

    Args:
        name: Of the job.
        selection: What it materializes, unless the launchpad says otherwise.
        description: What it makes.
        op: What it runs, see `build_op`.
    """

    @dg.job(
        name=name,
        description=f"{description}\n\nIt starts runs of its own, one after another, tagged `{JOB_RUN_TAG}`. What is "
        "up to date is skipped; after a failure, launch it again: finished work is kept.",
        executor_def=dg.in_process_executor,
        config={"ops": {_OP: {"config": JobConfig(selection=selection).model_dump()}}},
        tags={JOB_TAG: name},
    )
    def job() -> None:
        op()

    return job


def build_op(resources: frozenset[str]) -> dg.OpDefinition:
    """Return the op of the jobs; it needs all resources, because up to date depends on their settings and files."""

    @dg.op(name=_OP, out=dg.Out(dg.Nothing), required_resource_keys=set(resources))
    def materialize(context: dg.OpExecutionContext, config: JobConfig) -> None:
        """Materialize what is not up to date in a selection, in planned runs."""
        with show_errors():
            config.check()
            known = {key: getattr(context.resources, key) for key in resources}
            changed = config.configure(known["workspace"], known["clip"])
            known |= {key: type(known[key])(**change["config"]) for key, change in changed.items()}
            chosen: Any = context.run.run_config.get("resources") or {}
            materialize_selection(context, config.selection, known, {"resources": {**chosen, **changed}})

    return materialize


def materialize_selection(
    context: dg.OpExecutionContext, selection: str, resources: Mapping[str, Any], run_config: Mapping[str, Any]
) -> None:
    """Materialize what is not up to date; log what is made while it happens, and add all of it as metadata at the end.

    Args:
        context: Of the job's op.
        selection: In Dagster's syntax.
        resources: Resources and IO managers of the runs, by their keys.
        run_config: Run config of the runs.

    Raises:
        dg.Failure: An asset was not made, or a check of error severity did not pass.
        dg.DagsterExecutionInterruptedError: The job was terminated, and with it the run that it had started.
        PervlError: The selection cannot be used.
    """
    launch = open_launch(context, run_config)
    graph = launch.repository.get_definition().asset_graph
    for freed in fail_dead_runs(context.instance):
        context.log.warning("Run %s was left behind by a process that was killed; it is marked as failed.", freed)
    plan = Plan(graph, context.instance, select_assets(graph, selection), resources)
    context.log.info(f"{plan.skipped} up to date, {len(plan.todo)} to make")
    result, runs, total = RunResult(), [], 0
    for planned in plan:
        total = len(result.made) + len(plan.todo)
        run = launch.create_run(planned)
        runs.append(run.run_id)
        context.log.info(f"Run {len(runs)}, {run.run_id}: {describe_planned_run(planned)}")
        launch.execute(run, lambda event: log_event(context, event))
        result.add(read_run_result(context.instance, run.run_id))
        if result.interrupted:
            raise dg.DagsterExecutionInterruptedError
        if not result.succeeded:
            break
    metadata = {"up_to_date": plan.skipped, **describe_run_result(result, total, runs)}
    if not result.passed:
        raise make_failure(build_failure(context.job_name, result, total), **metadata)
    context.add_output_metadata(metadata)


def open_launch(context: dg.OpExecutionContext, run_config: Mapping[str, Any]) -> Launch:
    """Return how the runs of a job are executed: with the code location and the instance of its own run.

    Raises:
        PervlError: The job was started from an object in memory, which worker processes cannot load.
    """
    origin = context.run.job_code_origin
    if origin is None:
        raise PervlError(
            f"{context.job_name} was started in memory, and the runs it starts cannot load it from there.",
            advice=f"Launch it from the UI or by `dg launch --job {context.job_name}`; in a test, materialize its "
            "selection with `pervl_assets.testing.runs.run_selection`.",
        )
    tags = {JOB_RUN_TAG: context.run_id}
    context.instance.add_run_tags(context.run_id, tags)
    repository = recon_repository_from_origin(origin.repository_origin)
    return Launch(repository, context.instance, tags, run_config, context.run)


def describe_planned_run(planned: PlannedRun) -> str:
    """Return what a run makes, in one line: number of assets, their partition, and the names of the first."""
    names = [key.to_user_string() for key in planned.keys]
    of = f" of {planned.partition}" if planned.partition else ""
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} asset{'s' if len(names) > 1 else ''}{of}: {', '.join(names[:_NAMES_SHOWN])}{more}"


def log_event(context: dg.OpExecutionContext, event: dg.DagsterEvent) -> None:
    """Log an asset that was made, a check that did not pass, or a step that failed."""
    if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
        made = read_materialization(event)
        count = "" if made.files_or_rows is None else f": {made.files_or_rows:,} files or rows"
        context.log.info(f"{made.name}{count}")
    elif (finding := read_finding(event)) is not None:
        log = context.log.error if finding.severity == "error" else context.log.warning
        log(f"{finding.asset}: {finding.text}")


def describe_run_result(result: RunResult, total: int, runs: list[str]) -> dict[str, Any]:
    """Return the metadata of a job: counts, the table of what was made, the findings, and links to the runs."""
    metadata: dict[str, Any] = {
        "materialized": len(result.made),
        "not_materialized": total - len(result.made),
        "quarantined": sum(made.quarantined for made in result.made),
        "errors": len(result.errors),
        "warnings": len(result.warnings),
    }
    if result.made:
        metadata["assets"] = dg.MetadataValue.md(tabulate(result.made))
    if result.findings:
        lines = [f"- **{finding.severity}** {finding.asset}: {finding.text}" for finding in result.findings]
        metadata["found"] = dg.MetadataValue.md("\n".join(line.replace("\n", "\n  ") for line in lines))
    return metadata | {f"run {number}": dg.MetadataValue.dagster_run(run) for number, run in enumerate(runs, start=1)}


def tabulate(made: list[Materialized]) -> str:
    """Return a markdown table of what was made: asset, files or rows, seconds, quarantined."""
    lines = ["| asset | files or rows | seconds | quarantined |", "| --- | ---: | ---: | ---: |"]
    for one in made:
        count = "" if one.files_or_rows is None else f"{one.files_or_rows:,}"
        quarantined = f"{one.quarantined:,}" + (f" + {one.missing:,} missing" if one.missing else "")
        lines.append(f"| {one.name} | {count} | {one.seconds:,.1f} | {quarantined} |")
    return "\n".join(lines)


def build_failure(job: str, result: RunResult, total: int) -> PervlError:
    """Return the error that says why a job failed: what, where, how many, and what to do."""
    left = total - len(result.made)
    problem = (
        f"{left:,} of {total:,} assets were not materialized" if left else f"All {total:,} assets are materialized"
    )
    checks = f"{len(result.errors):,} {'step or check' if len(result.errors) == 1 else 'steps or checks'} failed"
    details = [line for finding in result.errors for line in f"{finding.asset}: {finding.text}".splitlines()]
    return PervlError(
        f"{problem}; {checks}.",
        details=details,
        advice=f"Fix what is named above and launch {job} again; finished work is kept.",
    )
