"""Jobs: which there are, what the launchpad takes, what their runs start, log and end with."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import dagster as dg
import pytest

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.dagster_private import ReconstructableRepository
from pervl_assets.definitions import build_definitions
from pervl_assets.defs import jobs
from pervl_assets.defs.jobs import JOB_RUN_TAG, JOB_TAG, build_jobs
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.selections import select_assets
from pervl_assets.settings import Settings
from pervl_assets.testing.runs import make_settings

ENGINE_EVENT = dg.DagsterEventType.ENGINE_EVENT

LOCATION = """
import time
from pathlib import Path

import dagster as dg
from pervl_assets.core.errors import MissingInputError
from pervl_assets.dagster_private import ReconstructableRepository
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.steps import record_step
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.testing.runs import make_settings


@dg.asset(group_name="small")
def source(workspace: Workspace, clip: Clip) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={{"files": workspace.top_objects, "quarantined": clip.batch_size}})


@dg.asset(group_name="small", deps=[source], partitions_def=dg.StaticPartitionsDefinition(["north", "south"]))
def parts() -> None:
    pass


@dg.asset_check(asset=parts)
def enough():
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="2 of 3")


@dg.asset(group_name="broken")
@record_step
def broken() -> None:
    raise MissingInputError("No zip.", details=["where: here"], advice="Get one.")


@dg.asset(group_name="broken", deps=[broken], partitions_def=dg.StaticPartitionsDefinition(["north", "south"]))
def behind() -> None:
    pass


@dg.asset_check(asset=source)
def valid():
    return dg.AssetCheckResult(passed={valid}, description="3 of 3 are wrong")


@dg.asset(group_name="slow")
def slow() -> None:
    Path({begun!r}).touch()
    time.sleep(60)


own = dg.Definitions(assets=[source, parts, broken, behind, slow], asset_checks=[enough, valid])
defs = dg.Definitions.merge(build_definitions(make_settings(Path({folder!r}))), own)
"""


class Project:
    """A code location in a file, with a few assets of its own; jobs run in this process."""

    def __init__(self, folder, instance, *, valid=True):
        self.instance, self.begun = instance, folder / "begun"
        text = LOCATION.format(begun=str(self.begun), folder=str(folder), valid=valid)
        (folder / "location.py").write_text(text)
        self.repository = ReconstructableRepository.for_file(str(folder / "location.py"), "defs")

    def launch(self, job, **config):
        run_config = configure(**config) if config else None
        return dg.execute_job(self.repository.get_reconstructable_job(job), self.instance, run_config=run_config)

    def list_runs(self, run_id):
        runs = self.instance.get_runs(dg.RunsFilter(tags={JOB_RUN_TAG: run_id}))
        return [run for run in reversed(runs) if run.run_id != run_id]

    def read_logs(self, run_id):
        return [entry.user_message for entry in self.instance.all_logs(run_id) if not entry.is_dagster_event]

    def read_links(self, run_id):
        """Return the run links of engine events, by their messages."""
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id, of_type=ENGINE_EVENT)]
        kind = dg.DagsterRunMetadataValue
        links = {
            event.message: {
                name: one.value for name, one in event.engine_event_data.metadata.items() if type(one) is kind
            }
            for event in events
        }
        return {message: found for message, found in links.items() if found}


@pytest.fixture
def project(tmp_path, instance):
    return Project(tmp_path, instance)


def get_metadata(result):
    (output,) = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def get_failure(result):
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    return failure.step_failure_data


# ---- which jobs there are


def test_there_is_a_job_for_every_benchmark_the_training_files_and_everything():
    jobs = {job.name: job for job in build_definitions(make_settings("nowhere")).jobs}
    wanted = {
        "prepare_ytvos",
        "prepare_deep_fashion",
        "prepare_inversion_training",
        "evaluate_baselines",
        "evaluate",
        "everything",
    }
    assert wanted <= set(jobs)
    assert all(jobs[name].tags == {JOB_TAG: name} for name in wanted)
    assert all(len(jobs[name].description.split()) > 5 for name in wanted)


def test_a_further_benchmark_gets_its_job_by_itself(monkeypatch):
    pets = SimpleNamespace(name="pets", title="PerVL-Pets", trees=[SimpleNamespace(name="personalized")])
    monkeypatch.setattr(jobs, "find_benchmarks", lambda: [*find_benchmarks(), pets])
    (job,) = (job for job in build_jobs(["workspace", "clip"], make_settings("nowhere")) if job.name == "prepare_pets")
    assert job.run_config["ops"]["materialize"]["config"]["selection"] == "+group:pets"
    assert "PerVL-Pets" in job.description


def test_every_job_selects_the_assets_in_its_name():
    graph = build_definitions(make_settings("nowhere")).resolve_asset_graph()
    chosen = {
        job.name: {
            key.to_user_string()
            for key in select_assets(graph, job.run_config["ops"]["materialize"]["config"]["selection"])
        }
        for job in build_jobs(["workspace", "clip"], make_settings("nowhere"))
    }
    assert chosen["everything"] == {key.to_user_string() for key in graph.materializable_asset_keys}
    assert {"raw/youtube_vos_train", "ytvos/fsl_seg", "ytvos/imagefolder_view"} <= chosen["prepare_ytvos"]
    assert {key.split("/")[0] for key in chosen["prepare_deep_fashion"]} == {"raw", "deep_fashion"}
    assert {key.split("/")[0] for key in chosen["prepare_inversion_training"]} == {"raw", "inversion", "palavra"}
    benchmarks = {"raw", "ytvos", "deep_fashion", "evaluation"}
    assert {key.split("/")[0] for key in chosen["evaluate_baselines"]} == benchmarks
    assert {"evaluation/results", "evaluation/ytvos/baseline_scores"} <= chosen["evaluate_baselines"]
    assert {key for key in chosen["everything"] if key.startswith("evaluation/")} <= chosen["evaluate"]


# ---- what the launchpad takes


def get_job(settings):
    return next(job for job in build_jobs(["workspace", "clip"], settings) if job.name == "everything")


def configure(**config):
    return {"ops": {"materialize": {"config": config}}}


def test_the_launchpad_shows_the_values_of_the_settings_and_describes_them():
    settings = Settings.from_env({"PERVL_PRECISION": "bf16", "PERVL_DEVICE": "cuda:9", "PERVL_WORKERS": "3"})
    job = get_job(settings)
    shown = job.run_config["ops"]["materialize"]["config"]
    assert shown["selection"] == "*"
    assert {name: getattr(settings, name) for name in shown if name != "selection"} | {"selection": "*"} == shown
    assert dg.validate_run_config(job, configure(selection="*"))["ops"]["materialize"]["config"] == shown
    fields = job.get_node_named("materialize").definition.config_schema.config_type.fields
    assert all(field.description for field in fields.values())
    assert "32 on a CPU, 64 on CUDA (PERVL_BATCH_SIZE)" in fields["batch_size"].description
    shown = get_job(make_settings("nowhere")).run_config["ops"]["materialize"]["config"]
    assert (shown["precision"], shown["batch_size"]) == ("auto", None)  # decided where the run is executed


def test_a_value_that_is_decided_where_the_run_is_executed_replaces_one_that_is_set():
    settings = Settings.from_env({"PERVL_PRECISION": "fp16", "PERVL_BATCH_SIZE": "8"})
    workspace, clip = Workspace.from_settings(settings), Clip.from_settings(settings)
    resources = jobs._configure(workspace, clip, {"precision": None, "batch_size": None})
    assert (resources["clip"]["config"]["precision"], resources["clip"]["config"]["batch_size"]) == (None, None)

    @dg.op
    def read(clip: Clip) -> None:
        assert (clip.precision, clip.batch_size) == (None, None)

    @dg.job(resource_defs={"clip": clip})
    def job():
        read()

    assert job.execute_in_process(run_config={"resources": {"clip": resources["clip"]}}).success


def test_all_wrong_values_are_named_before_there_is_a_run():
    """Dagster processes the config for the plan of a run, which it makes before it records one."""
    job = get_job(make_settings("nowhere"))
    with pytest.raises(dg.Failure) as caught:
        dg.validate_run_config(job, configure(selection="*", top_objects=-3, workers=0, batch_size=0))
    text = str(caught.value)
    assert "3 settings of the launchpad cannot be used." in text
    assert "top_objects=-3: must be greater than or equal to 1" in text
    assert "workers=0" in text
    dg.validate_run_config(job, configure(selection="*", top_objects=1, workers=1, batch_size=1, device="cuda:1"))


@pytest.mark.parametrize(
    "wrong", [{"precision": "fp8"}, {"splits": "mine"}, {"top_objects": "many"}, {"device": "gpu"}, {"data": "/x"}]
)
def test_the_launchpad_refuses_values_that_it_does_not_offer(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(dg.DagsterInvalidConfigError, match=f"{name}.*{value}|unexpected config entry .{name}"):
        dg.validate_run_config(get_job(make_settings("nowhere")), configure(selection="*", **wrong))


# ---- what a run does


def test_a_job_starts_runs_and_reports_their_results(project):
    result = project.launch("everything", selection="group:small", top_objects=1234, batch_size=5)
    assert result.success
    runs = project.list_runs(result.run_id)
    assert [run.tags.get("dagster/partition") for run in runs] == [None, "north", "south"]
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert {run.tags["dagster/max_retries"] for run in runs} == {"0"}
    assert [{key.to_user_string() for key in run.asset_selection} for run in runs[1:]] == [{"parts"}, {"parts"}]
    made_with = runs[0].run_config["resources"]
    assert (made_with["workspace"]["config"]["top_objects"], made_with["clip"]["config"]["batch_size"]) == (1234, 5)
    assert (made_with["workspace"]["config"]["profile"], made_with["clip"]["config"]["device"]) == ("demo", "cpu")
    metadata = get_metadata(result)
    assert (metadata["materialized"], metadata["not_materialized"], metadata["errors"], metadata["warnings"]) == (
        3,
        0,
        0,
        2,
    )
    row = r"\| source \| 1,234 \| \d\.\d \| 5 \|"  # what was set in the launchpad, and seconds
    assert re.fullmatch(row, metadata["assets"].splitlines()[2])
    assert metadata["found"].splitlines()[0] == "- **warning** parts: enough: 2 of 3"
    assert metadata["runs"] == f"/runs?q[0]=tag:{JOB_RUN_TAG}={result.run_id}"
    assert {run.tags["pervl/by"] for run in runs} == {"everything"}
    links = project.read_links(result.run_id)
    assert links["Run 1: 1 asset: source"] == {"run": runs[0].run_id}
    assert links["Run 3: 1 asset of south: parts"] == {"run": runs[2].run_id}
    assert project.read_links(runs[2].run_id) == {"Started by everything.": {"job_run": result.run_id}}
    logs = project.read_logs(result.run_id)
    assert logs[0] == "0 up to date, 3 to make"
    assert {"source: 1,234 files or rows", "parts [south]", "parts: enough: 2 of 3"} <= set(logs)


def test_a_job_that_fails_has_reasons_and_advice(project):
    result = project.launch("everything", selection="group:broken")
    assert not result.success
    failure = get_failure(result)
    assert failure.error.message.splitlines() == [
        "PervlError: 3 of 3 assets not materialized; failed steps and checks: 1.",
        "  broken: No zip.",
        "    where: here",
        "  What to do: Get one.",
        "What to do: Fix what is named above and launch everything again. Finished work is kept.",
    ]
    metadata = failure.user_failure_data.metadata
    assert (metadata["not_materialized"].value, metadata["errors"].value) == (3, 1)
    assert "- **error** broken: No zip." in metadata["found"].value
    (run,) = project.list_runs(result.run_id)  # those behind it were not begun
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert run.run_config["resources"] == {}  # no value of the launchpad was changed


def test_a_check_of_error_severity_fails_a_job_that_made_all(tmp_path, instance):
    result = Project(tmp_path, instance, valid=False).launch("everything", selection="group:small")
    lines = get_failure(result).error.message.splitlines()
    assert lines[:2] == [
        "PervlError: All 3 assets materialized; failed steps and checks: 1.",
        "  source: valid: 3 of 3 are wrong",
    ]


def test_a_job_that_selects_nothing_lists_the_groups(project):
    result = project.launch("everything", selection="group:zzz")
    message = get_failure(result).error.message
    assert "No asset has the group 'zzz'" in message
    assert all(group in message for group in ("deep_fashion", "evaluation", "inversion"))


def test_runs_end_with_the_job_that_is_terminated(project):
    ended = []

    def terminate():
        while not project.begun.exists():
            time.sleep(0.05)
        (job,) = project.instance.get_runs(dg.RunsFilter(job_name="everything"))
        project.instance.report_run_canceling(job)  # what the UI does
        ended.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=terminate, daemon=True)
    thread.start()
    result = project.launch("everything", selection="group:slow")
    thread.join()
    assert time.monotonic() - ended[0] < 20
    (run,) = project.list_runs(result.run_id)
    assert project.instance.get_run_by_id(result.run_id).status == dg.DagsterRunStatus.CANCELED
    assert run.status == dg.DagsterRunStatus.CANCELED


def test_a_job_in_memory_fails_with_advice_on_how_to_launch_it():
    job = build_definitions(make_settings("nowhere")).resolve_job_def("everything")
    result = job.execute_in_process(raise_on_error=False)
    assert "dg launch --job everything" in get_failure(result).error.message


def test_the_command_line_launches_a_job(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PERVL_", "DAGSTER_"))}
    env |= {"PERVL_DATA": str(tmp_path / "data"), "DAGSTER_HOME": str(tmp_path), "PERVL_EXECUTOR": "in_process"}
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (tmp_path / "config.yaml").write_text(
        """ops: {materialize: {config: {selection: 'key:"raw/pervl_annotations" or key:"ytvos/captions"'}}}"""
    )
    module = "pervl_assets.definitions"
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "job", "execute", "-m", module, "-j", "everything", "-c", "config.yaml"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"raw/pervl_annotations: \d+ files or rows", done.stdout + done.stderr)
    assert (tmp_path / "data/assets/ytvos/captions.parquet").is_file()
