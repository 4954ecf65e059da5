"""A job for each common job: prepare one benchmark, prepare what PALAVRA is trained on, or everything.

Belongs here: the jobs, what a person may set for one run in the launchpad, and what is told of it. Does not belong
here: planning and running waves, which are `waves`.

An asset job of Dagster has one partitioning, and launched for one partition it fails where an asset needs all of them.
So a job is a job of one op, which materializes its selection in waves of real runs, as `pervl materialize` does. They
are recorded beside it, hold places in the pools, and end with it; they are not queued, so that a job never waits for
a place in the queue that it holds itself.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import dagster as dg
from dagster import DagsterEventType
from dagster._utils.hosted_user_process import recon_repository_from_origin  # not exported at Dagster's top
from pydantic import Field

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import SplitRule
from pervl_assets.clip.passport import Precision
from pervl_assets.clip.preprocessing import PreprocessingRule
from pervl_assets.core.errors import PervlError
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.run_results import Materialized, RunResult, read_finding, read_materialization, read_run_result
from pervl_assets.defs.runs import Launch, PlannedRun, fail_dead_runs, plan_runs, select_assets
from pervl_assets.inversion.open_images import NamesRule
from pervl_assets.io_managers.failures import make_failure, show_errors
from pervl_assets.settings import Settings, get_variable, list_errors

AS_SET: Final = "environment"
"""Value of the launchpad: what the environment variable says."""

JOB_TAG: Final = "pervl/job"
"""Name of the job, on its own runs: `dagster.yaml` lets one of them go at a time."""

JOB_RUN_TAG: Final = "pervl/job_run"
"""Run id of a job, on its own run and on those of its waves: a click on it shows them together."""

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


def build_jobs() -> list[dg.JobDefinition]:
    """Return the jobs: one for every benchmark, the training files, and everything."""
    return [
        *(
            build_job(
                f"prepare_{benchmark.name}",
                f"+group:{benchmark.name}",
                f"{benchmark.title} from its archive to the folder trees and views, all splits.",
            )
            for benchmark in find_benchmarks()
        ),
        build_job(
            "prepare_inversion_training",
            "+group:palavra",
            "PALAVRA's training files, with all that they are made from: triplets, classes, CLIP features, matches.",
        ),
        build_job("everything", "*", "Every asset of the graph, every partition."),
    ]


def build_job(name: str, selection: str, description: str) -> dg.JobDefinition:
    """Return a job that materializes a selection, all its partitions, in waves of runs.

    Args:
        name: Of the job.
        selection: What it materializes, unless the launchpad says otherwise.
        description: What a person gets.
    """

    @dg.job(
        name=name,
        description=f"{description}\n\nIt starts runs of its own, one after another, tagged `{JOB_RUN_TAG}`. What is "
        "unchanged is left as it is; after a failure, launch it again: finished work is kept.",
        executor_def=dg.in_process_executor,
        config={"ops": {materialize.name: {"config": JobConfig(selection=selection).model_dump()}}},
        tags={JOB_TAG: name},
    )
    def job() -> None:
        materialize()

    return job


@dg.op(out=dg.Out(dg.Nothing))
def materialize(context: dg.OpExecutionContext, config: JobConfig, workspace: Workspace, clip: Clip) -> None:
    """Materialize a selection in waves of runs; tell what is made while it goes on, and all of it at the end."""
    with show_errors():
        config.check()
        chosen: Any = context.run.run_config.get("resources") or {}
        materialize_selection(context, config.selection, {"resources": {**chosen, **config.configure(workspace, clip)}})


def materialize_selection(context: dg.OpExecutionContext, selection: str, run_config: Mapping[str, Any]) -> None:
    """Materialize a selection in waves; tell what is made while it goes on, and all of it at the end.

    Raises:
        dg.Failure: An asset was not made, or a check of error severity did not pass.
        dg.DagsterExecutionInterruptedError: The run was terminated, and with it the wave that was going on.
        PervlError: The selection cannot be used.
    """
    launch = open_launch(context, run_config)
    graph = launch.repository.get_definition().asset_graph
    waves = plan_runs(graph, select_assets(graph, selection))
    total, outcome, runs = sum(wave.size for wave in waves), RunResult(), []
    for freed in fail_dead_runs(context.instance):
        context.log.warning("Run %s was left behind by a process that was killed; it is marked as failed.", freed)
    for number, wave in enumerate(waves, start=1):
        run = launch.create_run(wave)
        runs.append(run.run_id)
        context.log.info(f"PlannedRun {number} of {len(waves)}, run {run.run_id}: {describe_planned_run(wave)}")
        launch.execute(run, lambda event: log_event(context, event))
        outcome.add(read_run_result(context.instance, run.run_id))
        if outcome.interrupted:
            raise dg.DagsterExecutionInterruptedError
        if not outcome.succeeded:
            break
    told = describe_run_result(outcome, total, runs)
    if not outcome.passed:
        raise make_failure(build_failure(context.job_name, outcome, total), **told)
    context.add_output_metadata(told)


def open_launch(context: dg.OpExecutionContext, run_config: Mapping[str, Any]) -> Launch:
    """Return what the waves of a job are run with: the code location and the instance of its own run.

    Raises:
        PervlError: Its run was started from an object in memory, which worker processes cannot load.
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


def describe_planned_run(wave: PlannedRun) -> str:
    """Return what a wave makes, in a line: how many assets, of which partitions, and the names of the first."""
    names = [key.to_user_string() for key in wave.keys]
    of = f" of {', '.join(wave.partitions)}" if wave.partitions else ""
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


def describe_run_result(outcome: RunResult, total: int, runs: list[str]) -> dict[str, Any]:
    """Return what is told of a job at its end: counts, the table of what was made, what checks found, and the runs."""
    told: dict[str, Any] = {
        "materialized": len(outcome.made),
        "not_materialized": total - len(outcome.made),
        "quarantined": sum(made.quarantined for made in outcome.made),
        "errors": len(outcome.errors),
        "warnings": len(outcome.warnings),
    }
    if outcome.made:
        told["assets"] = dg.MetadataValue.md(tabulate(outcome.made))
    if outcome.findings:
        lines = [f"- **{finding.severity}** {finding.asset}: {finding.text}" for finding in outcome.findings]
        told["found"] = dg.MetadataValue.md("\n".join(line.replace("\n", "\n  ") for line in lines))
    return told | {f"wave {number}": dg.MetadataValue.dagster_run(run) for number, run in enumerate(runs, start=1)}


def tabulate(made: list[Materialized]) -> str:
    """Return a markdown table of what was made: asset, files or rows, seconds, quarantined."""
    lines = ["| asset | files or rows | seconds | quarantined |", "| --- | ---: | ---: | ---: |"]
    for one in made:
        count = "" if one.files_or_rows is None else f"{one.files_or_rows:,}"
        quarantined = f"{one.quarantined:,}" + (f" + {one.missing:,} missing" if one.missing else "")
        lines.append(f"| {one.name} | {count} | {one.seconds:,.1f} | {quarantined} |")
    return "\n".join(lines)


def build_failure(job: str, outcome: RunResult, total: int) -> PervlError:
    """Return the error that says why a job failed: what, where, how many, and what to do."""
    left = total - len(outcome.made)
    problem = (
        f"{left:,} of {total:,} assets were not materialized" if left else f"All {total:,} assets are materialized"
    )
    checks = f"{len(outcome.errors):,} {'step or check' if len(outcome.errors) == 1 else 'steps or checks'} failed"
    details = [line for finding in outcome.errors for line in f"{finding.asset}: {finding.text}".splitlines()]
    return PervlError(
        f"{problem}; {checks}.",
        details=details,
        advice=f"Mend what is named above and launch {job} again; finished work is kept.",
    )
