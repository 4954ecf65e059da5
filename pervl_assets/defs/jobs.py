"""Jobs for common tasks: prepare one benchmark, prepare the training files of PALAVRA, or everything.

An asset job of Dagster has one partitioning, and launched for one partition it fails where an asset needs all of them.
So a job here has one op, which starts planned runs as `pervl materialize` does. They are recorded beside the job's own
run, take slots of the pools, and end with it. They are not queued, so that a job never waits for a slot of the queue
that it holds itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, get_args

import dagster as dg
from dagster import DagsterEventType

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import SplitMode
from pervl_assets.clip.passport import Precision
from pervl_assets.clip.preprocessing import PreprocessingMode
from pervl_assets.core.errors import PervlError
from pervl_assets.core.text import escape_markdown, escape_terminal
from pervl_assets.dagster_private import ConfigShape, Interrupted, recon_repository_from_origin, report_link
from pervl_assets.defs.pages import link_asset
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.run_results import Finding, RunResult, read_finding, read_materialization
from pervl_assets.defs.runs import Launch, PlannedRun, fail_dead_runs
from pervl_assets.inversion.open_images import NamesMode
from pervl_assets.io_managers.metadata import INTERRUPTED, make_failure, show_errors
from pervl_assets.settings import Settings, check_settings, get_variable
from pervl_assets.training.modes import ModeName
from pervl_assets.upstream import link_docs

JOB_TAG: Final = "pervl/job"
"""Name of the job, on its own runs: `dagster.yaml` lets one of them run at a time."""

JOB_RUN_TAG: Final = ".dagster/pervl_job_run"
"""Run id of a job, on its own run and on the runs it starts. The UI hides it, and filters by it."""

_BY_TAG: Final = "pervl/by"
"""Name of a job, on the runs that it starts. Lists of runs have little room."""

_OP: Final = "materialize"

_BASELINES: Final = '+key:"evaluation/*baseline_scores" or key:"evaluation/*results"'
"""The results are made from the scores that there are."""


_AUTO: Final = "auto"
"""Choice of the launchpad that is made where the run is executed."""

_GPUS: Final = 8
"""GPUs of one machine that the launchpad offers by number."""

_OVERRIDES: Final[dict[str, tuple[str, ...]]] = {
    "top_objects": (),
    "openimages_names": get_args(NamesMode),
    "splits": get_args(SplitMode),
    "workers": (),
    "preprocessing": get_args(PreprocessingMode),
    "precision": (_AUTO, *get_args(Precision)),
    "device": (_AUTO, "cpu", "cuda", *(f"cuda:{number}" for number in range(_GPUS))),
    "batch_size": (),
    "training_mode": get_args(ModeName),
    "training_epochs": (),
    "set_encoder_width": (),
}
"""The settings that the launchpad overrides for one run, and what it offers; the others are whole numbers."""


class _Config(ConfigShape):
    """Config schema of the jobs. Dagster calls `post_process` before it records a run, and again in the run."""

    def post_process(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return the config.

        Raises:
            dagster.Failure: Settings have values that cannot be used. All of them are named.
        """
        with show_errors():
            advice = "Correct these values, and launch again. No run was started."
            check_settings(_read_overrides(value), "launchpad", advice)
        return value


def _build_schema(settings: Settings) -> _Config:
    """Return the schema of a selection, and of the settings with their values as defaults."""
    fields = {
        "selection": dg.Field(
            str,
            description="What to materialize, in Dagster's selection syntax: `group:ytvos`, "
            '`+key:"palavra/object_names"` (with + also everything that it needs), `*`. Every partition is '
            "materialized. Names are checked when the run has started.",
        )
    }
    for name, value in _list_values(settings).items():
        field, choices = Settings.model_fields[name], dict.fromkeys([*_OVERRIDES[name], value])
        kind: Any = dg.Noneable(int) if field.default is None else int
        if _OVERRIDES[name]:
            kind = dg.Enum(" | ".join(choices), [dg.EnumValue(choice) for choice in choices])
        unset = f". {'null' if value is None else _AUTO}: {field.title}" if field.default is None else ""
        text = f"{field.description}{unset} ({get_variable(name)})"
        fields[name] = dg.Field(kind, default_value=value, description=text)
    return _Config(fields)


def _list_values(settings: Settings) -> dict[str, Any]:
    """Return the values of the settings as the launchpad shows them."""
    values = {name: getattr(settings, name) for name in _OVERRIDES}
    return values | {"precision": values["precision"] or _AUTO}


def _read_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in the config of a job; None for those that are decided where the run is executed."""
    values = {name: config[name] for name in _OVERRIDES if name in config}
    return values | ({"precision": None} if values.get("precision") == _AUTO else {})


def build_jobs(resources: Iterable[str], settings: Settings) -> list[dg.JobDefinition]:
    """Return a job for every benchmark, the training files, the evaluation, and everything.

    `resources` are all resource keys.
    """
    training = "PALAVRA's training files, with all that they are made from: triplets, classes, CLIP features, matches."
    scores = "Scores of the retrieval on every benchmark"
    selections = {
        **{
            f"prepare_{one.name}": (f"+group:{one.name}", f"{one.title} from its archive to the trees and views.")
            for one in find_benchmarks()
        },
        "prepare_inversion_training": ("+group:palavra", training),
        "evaluate_baselines": (_BASELINES, f"{scores} of the methods that need no training, and the results."),
        "evaluate": ("+group:evaluation", f"{scores} of all methods, with the training they need, and the results."),
        "everything": ("*", "Every asset of the graph, every partition."),
    }
    op = _build_op(frozenset(resources), settings)
    shown = _list_values(settings)
    return [_build_job(name, *selected, shown, op) for name, selected in selections.items()]


def _build_job(
    name: str, selection: str, description: str, shown: Mapping[str, Any], op: dg.OpDefinition
) -> dg.JobDefinition:
    """Return a job that materializes a selection, unless the launchpad has another."""

    @dg.job(
        name=name,
        description=f"{description}\n\n{_explain_launch(name)}",
        executor_def=dg.in_process_executor,
        config={"ops": {_OP: {"config": {"selection": selection, **shown}}}},
        tags={JOB_TAG: name},
    )
    def job() -> None:
        op()

    return job


def _explain_launch(name: str) -> str:
    """Return what to press on the page of a job, and where its results are shown."""
    trees = [(dg.AssetKey([one.name, one.trees[0].name]), one.title) for one in find_benchmarks()]
    return (
        "**Press *Launchpad*, then *Launch Run*.** Assets that are up to date are skipped. After a failure, launch it "
        f"again: finished work is kept. It starts [several runs]({_address_runs(_BY_TAG, name)}), because a run has "
        "one partition.\n\n"
        "Other jobs make parts: [Jobs](/jobs). The graph, from inputs to results: [Lineage](/asset-groups). Scores: "
        f"{link_asset(dg.AssetKey(['evaluation', 'results']), 'results')}. Images, in `contact_sheet`: "
        f"{', '.join(link_asset(key, title) for key, title in trees)}. More: {link_docs('operating', 'jobs')}."
    )


def _build_op(resources: frozenset[str], settings: Settings) -> dg.OpDefinition:
    """Return the op of the jobs. It needs all resources, because up to date depends on their settings and files."""
    as_set = _read_overrides(_list_values(settings))

    @dg.op(
        name=_OP,
        out=dg.Out(dg.Nothing),
        required_resource_keys=set(resources),
        config_schema=_build_schema(settings),
    )
    def materialize(context: dg.OpExecutionContext) -> None:
        """Materialize what is not up to date in a selection, in planned runs."""
        with show_errors():
            config: Mapping[str, Any] = context.op_config
            changes = {name: value for name, value in _read_overrides(config).items() if value != as_set[name]}
            known = {key: getattr(context.resources, key) for key in resources}
            changed = _configure(known["workspace"], known["clip"], changes)
            known |= {key: type(known[key])(**change["config"]) for key, change in changed.items()}
            chosen: Any = context.run.run_config.get("resources") or {}
            launch = _open_launch(context, {"resources": {**chosen, **changed}}, settings.devices)
            _materialize_selection(context, launch, config["selection"], known)

    return materialize


def _configure(workspace: Workspace, clip: Clip, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run config of the resources that have changed fields. It must contain their other fields, too."""
    return {
        name: {"config": resource.model_dump(exclude_none=True) | own}
        for name, resource in (("workspace", workspace), ("clip", clip))
        if (own := {k: v for k, v in changes.items() if k in type(resource).model_fields})
    }


def _open_launch(context: dg.OpExecutionContext, run_config: Mapping[str, Any], devices: int | None) -> Launch:
    """Return how the runs of a job are executed: with the code location and the instance of its own run."""
    origin = context.run.job_code_origin
    if origin is None:
        raise PervlError(
            f"{context.job_name} was started in memory, and the runs it starts cannot load it from there.",
            advice=f"Launch it from the UI or by `dg launch --job {context.job_name}`. In a test, materialize its "
            "selection with `pervl_assets.testing.runs.run_selection`.",
        )
    tags = {JOB_RUN_TAG: context.run_id}
    context.instance.add_run_tags(context.run_id, tags)
    tags[_BY_TAG] = context.job_name
    repository = recon_repository_from_origin(origin.repository_origin)
    return Launch(repository, context.instance, tags, run_config, context.run, devices)


def _materialize_selection(
    context: dg.OpExecutionContext, launch: Launch, selection: str, resources: Mapping[str, Any]
) -> None:
    """Materialize outdated values. Log each one, and add all of them as metadata at the end.

    A termination of the job is raised again, and has ended the run that it had started.
    """
    for freed in fail_dead_runs(context.instance):
        context.log.warning("Run %s was left behind by a process that was killed. It is marked as failed.", freed)
    plan = launch.plan(selection, resources)
    context.log.info(f"{plan.skipped} up to date, {len(plan.todo)} to make")

    @contextmanager
    def follow(planned: PlannedRun, result: RunResult) -> Iterator[Callable[[dg.DagsterEvent], None]]:
        _link_runs(context, result.runs[-1], f"Run {len(result.runs)}: {planned}")
        yield lambda event: _log_event(context.log, event)

    result = launch.execute(plan, follow)
    if result.interrupted:
        raise Interrupted(INTERRUPTED)
    if not result.passed:
        raise make_failure(_explain_failure(context.job_name, result), **_describe(result, context.run_id))
    context.add_output_metadata(_describe(result, context.run_id))


def _link_runs(context: dg.OpExecutionContext, run_id: str, message: str) -> None:
    """Record a link from a job to a run that it starts, and one from that run to the job."""
    run = context.instance.get_run_by_id(run_id)
    report_link(context.instance, context.run, message, "run", run_id)
    if run:
        report_link(context.instance, run, f"Started by {context.job_name}.", "job_run", context.run_id)


def _log_event(log: dg.DagsterLogManager, event: dg.DagsterEvent) -> None:
    """Log an asset that was made, a check that did not pass, or a step that failed."""
    if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
        made = read_materialization(event)
        count = made.files_or_rows
        log.info(made.name if count is None else f"{made.name}: {count:,} files or rows")
    elif (finding := read_finding(event)) is not None:
        write = log.error if finding.severity == "error" else log.warning
        write(escape_terminal(f"{finding.asset}: {finding.text}"))


def _describe(result: RunResult, run_id: str) -> dict[str, Any]:
    """Return the metadata of a job: counts, the table of what was made, the findings, and a link to its runs."""
    runs = {"runs": dg.MetadataValue.url(_address_runs(JOB_RUN_TAG, run_id))} if result.runs else {}
    metadata: dict[str, Any] = {
        **runs,
        "up_to_date": result.skipped,
        "materialized": len(result.made),
        "not_materialized": result.left,
        "quarantined": sum(made.quarantined for made in result.made),
        "errors": len(result.errors),
        "warnings": len(result.findings) - len(result.errors),
    }
    if result.made:
        lines = ["| asset | files or rows | seconds | quarantined |", "| --- | ---: | ---: | ---: |"]
        for one in result.made:
            count = "" if one.files_or_rows is None else f"{one.files_or_rows:,}"
            quarantined = f"{one.quarantined:,}" + (f" + {one.missing:,} missing" if one.missing else "")
            lines.append(f"| {one.name} | {count} | {one.seconds:,.1f} | {quarantined} |")
        metadata["assets"] = dg.MetadataValue.md("\n".join(lines))
    if result.findings:
        metadata["found"] = dg.MetadataValue.md("\n".join(map(_show_finding, result.findings)))
    return metadata


def _address_runs(tag: str, value: str) -> str:
    """Return the path of the UI's list of the runs with a tag."""
    return f"/runs?q[0]=tag:{tag}={value}"


def _show_finding(finding: Finding) -> str:
    """Return a finding as an item of a markdown list; its own lines stay lines."""
    text = "\n  ".join(map(escape_markdown, finding.text.splitlines()))
    return f"- **{finding.severity}** {escape_markdown(finding.asset)}: {text}"


def _explain_failure(job: str, result: RunResult) -> PervlError:
    """Return why a job failed: what, where, how many, and what to do."""
    made = f"{result.left:,} of {result.total:,} assets not materialized"
    failed = f"failed steps and checks: {len(result.errors):,}"
    return PervlError(
        f"{made if result.left else f'All {result.total:,} assets materialized'}; {failed}.",
        details=[line for finding in result.errors for line in f"{finding.asset}: {finding.text}".splitlines()],
        advice=f"Fix what is named above and launch {job} again. Finished work is kept.",
    )
