"""The job `everything` where each run and each heavy step is a pod: the values of the Helm chart, and real processes.

Only Kubernetes itself is a double. A code server starts as the chart starts it; runs are launched by the launcher of
the values; manifests, retries and results are real. Data are in a bucket, and no two pods share a folder.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster._cli.api import grpc_health_check_command
from dagster._cli.job import job_launch_command

from pervl_assets.core.addresses import open_address, parse_address
from pervl_assets.defs.jobs import JOB_RUN_TAG
from pervl_assets_tests.scale.kubernetes_server import Pods, wait_until
from pervl_assets_tests.test_helm_values import FILE, render_context, render_instance

VALUES = yaml.safe_load(FILE.read_text())
(SERVER,) = VALUES["dagster-user-deployments"]["deployments"]
CONTEXT = render_context(SERVER)
SECONDS = 400
TREE, SETS = "ytvos__fsl_seg", "ytvos__retrieval_set"
SECRET = "Zq7-unmistakable-Kx9"

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]


@pytest.fixture
def pods(bucket, tmp_path):
    """The server, with the secrets and the config map that the values name, and a data root in a bucket."""
    (tmp_path / "pods").mkdir()
    open_address(parse_address(bucket.address))[0].put("makes the bucket", b"")
    settings = {"PERVL_DATA": f"{bucket.address}/data", "PERVL_EXECUTOR": "k8s", "PERVL_DEVICE": "cpu"}
    settings |= {"PERVL_DEVICES": "2", "PERVL_WORKERS": "1"}
    (variables,) = CONTEXT["k8s"]["env_config_maps"]
    secrets = {"pervl-bucket": bucket.server.env, "pervl-archives": {"DEEPFASHION2_PASSWORD": SECRET}}
    with Pods(tmp_path / "pods", {**secrets, variables: settings}) as server:
        server.settings = settings
        yield server


@pytest.fixture
def instance(pods, tmp_path, monkeypatch):
    """The instance of the values, but for its database and its logs; its daemon looks for lost runs more often."""
    home = tmp_path / "home"
    home.mkdir()
    config = render_instance(VALUES)
    del config["storage"], config["compute_logs"]
    config["run_monitoring"]["poll_interval_seconds"] = 5
    config["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(pods.write_kubeconfig()),
        "dagster_home": str(home),
    }
    (home / "dagster.yaml").write_text(json.dumps(config))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


@contextmanager
def run(log, *command, **env):
    """Run a program of the image in a `with` block."""
    program = Path(sys.executable).with_name(command[0])
    with log.open("wb") as output:
        process = subprocess.Popen([program, *command[1:]], env=os.environ | env, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):  # Dagster's code server may miss a signal
            process.wait(10)
        process.kill()
        process.wait()


@pytest.fixture
def workspace(pods, instance, tmp_path):
    """The code server and the daemon of the chart; returns the file that names the code server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {
        **pods.settings,
        "PERVL_SCRATCH": str(tmp_path / "scratch"),
        "DAGSTER_CURRENT_IMAGE": "registry.example.org/pervl:0.1.0",
        "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT": json.dumps(CONTEXT),
    }
    command = ["dagster", "api", "grpc", "-h", "127.0.0.1", "-p", port, *SERVER["dagsterApiGrpcArgs"]]
    file, log = tmp_path / "workspace.yaml", tmp_path / "server.log"
    server = {"grpc_server": {"host": "127.0.0.1", "port": int(port), "location_name": "pervl"}}
    file.write_text(json.dumps({"load_from": [server]}))
    with run(log, *command, **env):
        healthy = lambda: not CliRunner().invoke(grpc_health_check_command, ["-p", port]).exit_code  # noqa: E731
        assert wait_until(healthy, 120), log.read_text()
        with run(tmp_path / "daemon.log", "dagster-daemon", "run", "-w", str(file)):
            yield file


def launch(workspace, selection):
    """Launch the job `everything`, as in the pod of the daemon."""
    config = {"ops": {"materialize": {"config": {"selection": selection}}}}
    options = ["-w", str(workspace), "-j", "everything", "--config-json", json.dumps(config)]
    launched = CliRunner().invoke(job_launch_command, options)
    assert launched.exit_code == 0, launched.output


def list_runs(instance, **filters):
    """Return runs, the latest first."""
    return instance.get_runs(dg.RunsFilter(**filters))


def list_made(pods, folder):
    """Return the names of the files in a folder of the data root."""
    store, path = open_address(parse_address(f"{pods.settings['PERVL_DATA']}/assets/{folder}"))
    return {one["path"].rpartition("/")[2] for one in store.list_with_delimiter(f"{path}/")["objects"]}


def list_steps(pods):
    """Return the steps that pods were started for, by the name of the job."""
    jobs = {name: job["metadata"]["labels"].get("dagster/op") for name, job in pods.jobs.items()}
    return {name: step for name, step in jobs.items() if step}


def test_everything_runs_in_pods_and_a_lost_one_is_started_again(pods, instance, workspace, tmp_path):
    pods.doomed = [SETS]
    launch(workspace, '+key:"ytvos/retrieval_set"')
    assert wait_until(lambda: list_runs(instance, job_name="everything")[0].is_finished, SECONDS)
    (everything,) = list_runs(instance, job_name="everything")
    # Dagster's daemon, which looks for lost runs, has marked none as failed.
    assert everything.is_success, "\n".join(pods.read_log(name)[-3000:] for name in pods.jobs)

    steps = list_steps(pods)
    assert sorted(steps.values()) == [TREE, SETS, SETS, SETS]  # the sets of two splits, and one of them again
    assert len([name for name in steps if name.endswith("-1")]) == 1
    assert len(pods.jobs) - len(steps) == 1  # planned runs are in the pod of their job
    planned = list_runs(instance, tags={JOB_RUN_TAG: everything.run_id})
    events = [event for one in planned for event in instance.all_logs(one.run_id)]
    assert any("more memory than its limit" in event.user_message + str(event.dagster_event) for event in events)
    assert list_made(pods, "ytvos/retrieval_set") == {"test.parquet", "validation.parquet"}
    for secret in (SECRET, "made-up-secret"):
        assert secret not in json.dumps(pods.jobs) + "".join(map(pods.read_log, pods.jobs))


def test_a_run_whose_pod_is_lost_is_started_again_beside_the_step_that_lives_on(pods, instance, workspace, tmp_path):
    launch(workspace, '+key:"ytvos/fsl_seg"')
    assert wait_until(lambda: list_steps(pods), SECONDS)
    (lost,) = list_runs(instance, job_name="everything")
    pods.lose(f"dagster-run-{lost.run_id}")

    def is_over():
        latest = list_runs(instance, job_name="everything")[0]
        return latest.run_id != lost.run_id and latest.is_finished

    assert wait_until(is_over, SECONDS), (tmp_path / "daemon.log").read_text()[-3000:]
    again, first = list_runs(instance, job_name="everything")
    assert (again.is_success, first.is_failure) == (True, True)
    planned = [one for one in list_runs(instance, tags={JOB_RUN_TAG: first.run_id}) if one.run_id != first.run_id]
    assert any(one.is_failure for one in planned)
    assert list_runs(instance, statuses=[dg.DagsterRunStatus.STARTED]) == []
    assert "fsl_seg.parquet" in list_made(pods, "ytvos")
