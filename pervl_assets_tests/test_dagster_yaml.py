"""`dagster.yaml` and that of a team: Dagster accepts them, every setting is explained, and has its effect."""

import re
import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.events import RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster._serdes import serialize_value

from pervl_assets.cli.ui import _LOCATION as LOCATION
from pervl_assets.defs.jobs import JOB_TAG

ROOT = Path(__file__).parents[1]
FILE = ROOT / "dagster.yaml"
TEAM = ROOT / "docs/scale/dagster.team.yaml"
SCALE = ROOT / "docs/scale.md"


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    shutil.copy(FILE, home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def test_every_setting_is_explained():
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
    unexplained = [line for line in lines if "#" not in line and not line.rstrip().endswith(":")]
    assert unexplained == []


def test_that_of_a_team_differs_by_the_database_the_logs_and_the_queue(tmp_path, monkeypatch):
    """Real servers are in `scale/test_postgres.py`."""
    monkeypatch.setenv("PERVL_POSTGRES_URL", "postgresql+psycopg2://pervl:Zq7-unmistakable@127.0.0.1:1/pervl")
    text, common = TEAM.read_text(encoding="utf-8"), "telemetry:"
    changed = r"max_concurrent_runs.*"  # by the number of devices of the team
    texts = [re.sub(changed, "", one.partition(common)[2]) for one in (text, FILE.read_text(encoding="utf-8"))]
    assert texts[0] == texts[1]
    shutil.copy(TEAM, tmp_path / "dagster.yaml")
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["storage"] == {"postgres": {"postgres_url": {"env": "PERVL_POSTGRES_URL"}}}
    reference = InstanceRef.from_dir(str(tmp_path))
    assert reference.storage_data.module_name == "dagster_postgres"
    assert reference.compute_logs_data.class_name == "S3ComputeLogManager"
    assert "unmistakable" not in serialize_value(reference)  # processes get it as an argument


def test_a_node_of_ray_has_the_variables_of_that_file_and_the_head_executes_nothing():
    (commands,) = [block for block in SCALE.read_text().split("```")[1::2] if "ray start" in block]
    head, _, node = commands.partition("ray start --head")
    assert "--num-cpus=0" in node.splitlines()[0]
    names = set(re.findall(r"env: (\w+)", TEAM.read_text()))
    assert names == {"PERVL_POSTGRES_URL", "DAGSTER_HOME"}
    for name in names | {"AWS_SECRET_ACCESS_KEY"}:
        assert name in node.partition("ray start --address")[0]
        assert name not in head


def test_the_workspace_of_a_team_names_two_code_servers():
    origins = location_origins_from_yaml_paths([str(TEAM.with_name("workspace.team.yaml"))])
    assert [(one.location_name, one.host, one.port) for one in origins] == [
        (LOCATION, "127.0.0.1", 4266),
        ("experiments", "127.0.0.1", 4267),
    ]


def test_the_daemon_has_the_configured_parts(instance):
    daemons = set(instance.get_required_daemon_types())
    assert {"MONITORING", "EVENT_LOG_CONSUMER", "QUEUED_RUN_COORDINATOR", "FRESHNESS_DAEMON"} <= daemons
    assert not instance.telemetry_enabled
    assert instance.freshness_enabled


def test_pools_and_queue(instance):
    concurrency = instance.get_concurrency_config()
    assert concurrency.pool_config.default_pool_limit == 1
    assert concurrency.pool_config.pool_granularity.value == "op"
    # A job and the run that it started count as two: there must be room for both and for another run.
    assert concurrency.run_queue_config.max_concurrent_runs > 2
    assert concurrency.run_queue_config.tag_concurrency_limits == [{"key": JOB_TAG, "limit": 1}]


@pytest.mark.parametrize(
    ("reason", "tags", "retried"),
    [
        (RunFailureReason.UNEXPECTED_TERMINATION, {}, True),
        (None, {}, True),  # the process was killed
        (RunFailureReason.STEP_FAILURE, {}, False),
        (
            RunFailureReason.UNEXPECTED_TERMINATION,
            {"dagster/max_retries": "0"},
            False,
        ),  # planned run: its job is retried
    ],
)
def test_runs_that_were_cut_off_are_tried_again_and_others_are_not(instance, reason, tags, retried):
    @dg.job
    def job():
        pass

    run = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.FAILURE)
    assert auto_reexecution_should_retry_run(instance, run, reason) is retried


def test_retention_names_all_kinds_of_ticks():
    retention = yaml.safe_load(FILE.read_text(encoding="utf-8"))["retention"]
    assert set(retention) == {"schedule", "sensor", "auto_materialize"}
    for kind in ("sensor", "auto_materialize"):
        assert set(retention[kind]["purge_after_days"]) == {"skipped", "success", "failure", "started"}
