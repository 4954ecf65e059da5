"""The job `everything` where each run and each heavy step is a pod: the values of the Helm chart, and real processes.

Only Kubernetes itself is a double. A code server starts as the chart starts it; runs are launched by the launcher of
the values; manifests, retries and results are real.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster._cli.api import grpc_health_check_command
from dagster._cli.job import job_launch_command

from pervl_assets.defs.jobs import JOB_RUN_TAG
from pervl_assets_tests.scale.kubernetes_server import Pods, wait_until
from pervl_assets_tests.test_helm_values import FILE, render_context

VALUES = yaml.safe_load(FILE.read_text())
(SERVER,) = VALUES["dagster-user-deployments"]["deployments"]
CONTEXT = render_context(SERVER)
SELECTION = '+key:"ytvos/retrieval_set"'
TREE, SETS = "ytvos__fsl_seg", "ytvos__retrieval_set"
SECRET = "Zq7-unmistakable-Kx9"

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]


@pytest.fixture
def pods(tmp_path):
    """The server, with the secrets and the config map that the values name."""
    (tmp_path / "pods").mkdir()
    settings = {"PERVL_DATA": str(tmp_path / "data"), "PERVL_EXECUTOR": "k8s", "PERVL_DEVICE": "cpu"}
    settings |= {"PERVL_DEVICES": "2", "PERVL_WORKERS": "1"}
    (variables,) = CONTEXT["k8s"]["env_config_maps"]
    contents = {"pervl-secrets": {"DEEPFASHION2_PASSWORD": SECRET}, variables: settings}
    with Pods(tmp_path / "pods", contents) as server:
        server.settings = settings
        yield server


@pytest.fixture
def instance(pods, tmp_path, monkeypatch):
    """The instance of the values, but for its database and its queue, which is a daemon's work."""
    home = tmp_path / "home"
    home.mkdir()
    launcher = VALUES["runLauncher"]["config"]["customRunLauncher"]
    cluster = {
        "load_incluster_config": False,
        "kubeconfig_file": str(pods.write_kubeconfig()),
        "dagster_home": str(home),
    }
    queue = {"module": "dagster.core.run_coordinator", "class": "DefaultRunCoordinator"}
    config = {"run_launcher": {**launcher, "config": launcher["config"] | cluster}, "run_coordinator": queue}
    (home / "dagster.yaml").write_text(json.dumps(config | {"telemetry": {"enabled": False}}))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


@pytest.fixture
def workspace(pods, instance, tmp_path):
    """The code server of the chart, and the file that names it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {
        **os.environ,
        **pods.settings,
        "DAGSTER_CURRENT_IMAGE": "registry.example.org/pervl:0.1.0",
        "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT": json.dumps(CONTEXT),
    }
    command = [Path(sys.executable).with_name("dagster"), "api", "grpc", "-h", "127.0.0.1", "-p", port]
    file, log = tmp_path / "workspace.yaml", tmp_path / "server.log"
    server = {"grpc_server": {"host": "127.0.0.1", "port": int(port), "location_name": "pervl"}}
    file.write_text(json.dumps({"load_from": [server]}))
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *SERVER["dagsterApiGrpcArgs"]], env=env, stdout=output, stderr=output)
    try:
        healthy = lambda: not CliRunner().invoke(grpc_health_check_command, ["-p", port]).exit_code  # noqa: E731
        assert wait_until(healthy, 120), log.read_text()
        yield file
    finally:
        process.terminate()
        process.wait()


def test_everything_runs_in_pods_and_a_lost_one_is_started_again(pods, instance, workspace, tmp_path):
    pods.doomed = [SETS]
    config = {"ops": {"materialize": {"config": {"selection": SELECTION}}}}
    launch = ["-w", str(workspace), "-j", "everything", "--config-json", json.dumps(config)]
    launched = CliRunner().invoke(job_launch_command, launch)
    assert launched.exit_code == 0, launched.output

    check = instance.run_launcher.check_run_worker_health
    unhealthy = []

    def is_over():
        started = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        unhealthy.extend(one for one in map(check, started) if one.status.value not in ("RUNNING", "SUCCESS"))
        return instance.get_runs(dg.RunsFilter(job_name="everything"))[0].is_finished

    over = wait_until(is_over, 400)
    run = instance.get_runs(dg.RunsFilter(job_name="everything"))[0]
    assert over
    assert run.is_success, "\n".join(pods.read_log(name)[-3000:] for name in pods.jobs)
    assert unhealthy == []  # Dagster's daemon would mark such a run as failed

    steps = {name: job["metadata"]["labels"]["dagster/op"] for name, job in pods.jobs.items() if "step" in name}
    assert sorted(steps.values()) == [TREE, SETS, SETS, SETS]  # the sets of two splits, and one of them again
    assert len([name for name in steps if name.endswith("-1")]) == 1
    assert len([name for name in pods.jobs if name not in steps]) == 1  # planned runs are in the pod of their job
    planned = instance.get_runs(dg.RunsFilter(tags={JOB_RUN_TAG: run.run_id}))
    events = [event for one in planned for event in instance.all_logs(one.run_id)]
    assert any("more memory than its limit" in event.user_message + str(event.dagster_event) for event in events)
    made = {file.name for file in (tmp_path / "data/assets/ytvos/retrieval_set").glob("*.parquet")}
    assert made == {"test.parquet", "validation.parquet"}
    assert SECRET not in json.dumps(pods.jobs) + "".join(map(pods.read_log, pods.jobs))
