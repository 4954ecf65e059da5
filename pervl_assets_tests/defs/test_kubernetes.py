"""Heavy steps in Kubernetes: manifests of the real ops, lost pods, and runs that a cluster does not know.

There is no cluster: its API is a double that keeps what it is given. What it is given is checked against Kubernetes'
own schemas.
"""

import base64
import json
import sys
import uuid
import zlib
from functools import partialmethod

import dagster as dg
import kubernetes
import kubernetes_validate
import pytest
import urllib3
import yaml
from click.testing import CliRunner
from dagster._cli.api import execute_step_command
from dagster._core.executor.step_delegating import StepDelegatingExecutor
from dagster._core.launcher import DefaultRunLauncher
from kubernetes.client import (
    ApiException,
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStatus,
    V1JobStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodCondition,
    V1PodList,
    V1PodStatus,
)

from pervl_assets.dagster_private import ReconstructableRepository, WorkerStatus, create_run, execute_assets_run
from pervl_assets.defs.jobs import JOB_RUN_TAG
from pervl_assets.defs.runs import PROCESS_TAG
from pervl_assets_tests.test_helm_values import FILE, KUBERNETES, render_context

VALUES = yaml.safe_load(FILE.read_text())
(SERVER,) = VALUES["dagster-user-deployments"]["deployments"]
IMAGE = "registry.example.org/pervl:0.1.0"
SECRETS = ("DEEPFASHION2_PASSWORD", "AWS_SECRET_ACCESS_KEY", "DAGSTER_PG_PASSWORD", "PERVL_POSTGRES_URL")

REAL = """
from pathlib import Path
from pervl_assets.definitions import build_definitions
from pervl_assets.testing.runs import make_settings

defs = build_definitions(make_settings(Path({data!r}), executor="k8s", device={device!r}))
"""
SMALL = """
from pathlib import Path
import dagster as dg
from pervl_assets.defs.executors import build_executor
from pervl_assets.defs.placement import HEAVY
from pervl_assets.testing.runs import make_settings

@dg.asset(op_tags={{HEAVY: ""}}, retry_policy=dg.RetryPolicy(max_retries=4))
def heavy():
    return 1

settings = make_settings(Path({data!r}), executor="k8s", device={device!r})
defs = dg.Definitions([heavy], executor=build_executor(settings))
"""


def end_pod(why="OOMKilled", code=137, **status):
    """Return a pod that has ended."""
    ended = V1ContainerState(terminated=V1ContainerStateTerminated(exit_code=code, reason=why))
    one = V1ContainerStatus(name="dagster", image="", image_id="", ready=False, restart_count=0, state=ended)
    return V1Pod(
        metadata=V1ObjectMeta(name="pod"), status=V1PodStatus(phase="Failed", container_statuses=[one], **status)
    )


class Cluster:
    """Kubernetes' API. A job fails with the next pod of `lost`; else it is executed here, after the pods of `waits`."""

    def __init__(self):
        self.jobs, self.lost, self.waits, self.ended = {}, [], [], []
        self.refusals, self.blindness = [], None

    def create_namespaced_job(self, body, namespace, **_):
        if self.refusals:
            raise self.refusals.pop()
        self.jobs[body.metadata.name] = body
        body.status = V1JobStatus(failed=1) if self.lost else V1JobStatus(active=1)
        if self.lost:
            self.ended = [pod for pod in (self.lost.pop(0),) if pod]
        elif not self.waits:
            self.execute(body)

    def execute(self, job):
        (container,) = job.spec.template.spec.containers
        variables = {one.name: one.value for one in container.env if one.value and one.name != "DAGSTER_HOME"}
        done = CliRunner().invoke(execute_step_command, container.args[3:], env=variables)
        assert done.exit_code == 0, done.output

    def read_namespaced_job_status(self, name, namespace):
        if name not in self.jobs:
            raise ApiException(status=404)
        return self.jobs[name]

    def list_namespaced_pod(self, namespace, label_selector):
        if self.blindness:
            raise self.blindness
        if not self.waits:
            return V1PodList(items=self.ended)
        pod = self.waits.pop(0)
        if not self.waits:
            self.execute(self.jobs[label_selector.removeprefix("job-name=")])
        return V1PodList(items=[pod])

    @property
    def manifests(self):
        for job in self.jobs.values():
            job.status = None
        return [kubernetes.client.ApiClient().sanitize_for_serialization(job) for job in self.jobs.values()]


@pytest.fixture(scope="module")
def api():
    """A double of the cluster, which is asked without pauses."""
    made, init = Cluster(), StepDelegatingExecutor.__init__
    quick = partialmethod(init, check_step_health_interval_seconds=0, sleep_seconds=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepDelegatingExecutor, "__init__", quick)
        patch.setattr("kubernetes.config.load_incluster_config", lambda: None)
        patch.setattr("kubernetes.client.BatchV1Api", lambda api_client=None: made)
        patch.setattr("kubernetes.client.CoreV1Api", lambda api_client=None: made)
        yield made


@pytest.fixture(scope="module")
def team(api, tmp_path_factory):
    """An instance with the run launcher of the example values."""
    config = {"run_launcher": VALUES["runLauncher"]["config"]["customRunLauncher"]}
    with dg.instance_for_test(overrides=config, temp_dir=str(tmp_path_factory.mktemp("team"))) as instance:
        yield instance


@pytest.fixture
def cluster(api):
    """The double, as it is at first."""
    api.__init__()
    return api


@pytest.fixture
def start(team, tmp_path, monkeypatch):
    """Return a function that executes a run of one asset in a project, as the pod of a run does; returns its events."""
    for name in SECRETS:
        monkeypatch.setenv(name, "Zq7-unmistakable-Kx9")

    def start(project, key, partition=None, device="cuda", retries="disabled"):
        file = tmp_path / f"{'real' if project is REAL else 'small'}_{device}.py"
        file.write_text(project.format(data=str(tmp_path / "data"), device=device))
        plain = ReconstructableRepository.for_file(str(file), "defs", str(tmp_path))
        repository = plain._replace(container_image=IMAGE, container_context=render_context(SERVER))
        config = {"execution": {"config": {"retries": {retries: {}}}}}
        tags = {"dagster/partition": partition} if partition else {}
        keys, run_id = [dg.AssetKey.from_user_string(key)], str(uuid.uuid4())
        checks = [*repository.get_definition().asset_graph.get_check_keys_for_assets({*keys})]
        run = create_run(repository, team, run_id, keys, checks, config=config, tags=tags, launcher=None)
        return [*execute_assets_run(repository, team, run)]

    return start


def list_errors(events):
    """Return the messages of steps that failed or are tried again."""
    kinds = ("STEP_FAILURE", "STEP_UP_FOR_RETRY")
    return [event.event_specific_data.error.message for event in events if event.event_type_value in kinds]


# ---- manifests


ENCODING, SETS, TRAINING = "inversion/coco_image_features", "ytvos/retrieval_set", "training/set_encoder"
PARTITIONS = {ENCODING: "0-of-2", SETS: "test", TRAINING: "1"}


@pytest.mark.parametrize(
    ("device", "gpus"), [("cuda", {ENCODING: 1, SETS: 0, TRAINING: 1}), ("cpu", {ENCODING: 0})], ids=["cuda", "cpu"]
)
def test_the_jobs_of_heavy_steps_are_valid(cluster, start, device, gpus):
    for key in gpus:
        cluster.lost = [end_pod()]
        start(REAL, key, PARTITIONS[key], device)
    for job, (key, wanted) in zip(cluster.manifests, gpus.items(), strict=True):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
        check_job(job, key, device, wanted)


def check_job(job, key, device, gpus):
    """Check that a job asks for what its step needs, and holds no secret."""
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    limits = {"memory": "12Gi"} | ({"nvidia.com/gpu": "1"} if gpus else {})
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": limits}
    assert ("tolerations" in pod) == bool(gpus)
    assert (container["image"], container["args"][:3]) == (IMAGE, ["dagster", "api", "execute_step"])
    assert (pod["restartPolicy"], job["spec"]["backoffLimit"]) == ("Never", 0)  # Dagster tries again, not Kubernetes
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    secrets = [one["secretRef"]["name"] for one in container["envFrom"] if "secretRef" in one]
    assert secrets == ["pervl-bucket", "pervl-archives"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    assert variables["PERVL_DEVICE"] == device
    assert variables["DAGSTER_PG_PASSWORD"] is None  # a reference to a secret
    assert set(variables).isdisjoint({*SECRETS} - {"DAGSTER_PG_PASSWORD"})
    arguments = zlib.decompress(base64.b64decode(variables["DAGSTER_COMPRESSED_EXECUTE_STEP_ARGS"])).decode()
    assert (key.replace("/", "__") if key != ENCODING else "encode_images") in arguments
    assert "Zq7" not in json.dumps(job) + arguments


def test_a_broken_job_is_refused_by_the_same_schema(cluster, start):
    cluster.lost = [end_pod()]
    start(SMALL, "heavy")
    (job,) = cluster.manifests
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    job["spec"]["template"]["spec"]["containers"][0]["resource"] = {"limits": {"nvidia.com/gpu": "1"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


# ---- pods that are lost


def test_a_step_whose_pod_was_lost_is_tried_again_and_its_end_is_explained(cluster, start):
    evicted = end_pod("Error", 1, reason="Evicted", message="low on\nephemeral-storage")
    cluster.lost = [None, end_pod(), evicted, end_pod("Error", 139)]
    events = start(SMALL, "heavy", retries="enabled")
    assert [message.split("Why: ")[1].split(". What")[0] for message in list_errors(events)] == [
        "its pod is gone: its node was lost, or it was deleted.",
        "its pod used more memory than its limit, and was killed",
        "the cluster ended its pod: Evicted: low on ephemeral-storage",
        "its process ended with the exit code 139; its output is in the log of its pod.",
    ]
    assert events[-1].is_job_success
    first, *others = cluster.jobs
    assert others == [f"{first}-{attempt}" for attempt in (1, 2, 3, 4)]  # a name is never used twice


def test_what_a_pod_waits_for_is_said_once(cluster, start, team):
    unmet = V1PodCondition(type="PodScheduled", status="False", reason="Unschedulable", message="3 have no GPU")
    cluster.waits = [V1Pod(status=V1PodStatus(phase="Pending", conditions=[unmet]))] * 3
    events = start(SMALL, "heavy")
    said = [event.message for event in events if "waits" in (event.message or "")]
    assert said == ["The pod of heavy waits: Unschedulable: 3 have no GPU"]


def test_a_service_account_need_not_see_pods(cluster, start):
    cluster.lost, cluster.blindness = [end_pod()], ApiException(status=403)
    (message,) = list_errors(start(SMALL, "heavy"))
    assert "Discovered failed Kubernetes job" in message


def test_a_job_that_is_refused_is_explained(cluster, start):
    body = json.dumps({"message": 'jobs.batch is forbidden: User "dagster" cannot create'})
    cluster.refusals = [ApiException(status=403, reason="Forbidden")]
    cluster.refusals[0].body = body
    (message,) = list_errors(start(SMALL, "heavy", retries="enabled"))
    assert "jobs.batch is forbidden" in message
    assert "permissions of the service account" in message


@pytest.mark.parametrize(
    "error", [ApiException(status=429, reason="Too Many"), urllib3.exceptions.ProtocolError("Too")]
)
def test_a_job_that_the_cluster_cannot_take_now_is_tried_again(cluster, start, monkeypatch, error):
    monkeypatch.setattr("time.sleep", lambda _: None)
    cluster.refusals = [error] * 4  # dagster-k8s itself tries a request without an answer four times
    *_, message = list_errors(events := start(SMALL, "heavy", retries="enabled"))
    assert "The cluster does not answer, or does not take the step: " in message
    assert "Too" in message
    assert events[-1].is_job_success


# ---- what is missing


def read_failure(events):
    """Return the error that ended a run before its steps began."""
    return events[-1].event_specific_data.error.to_string()


def test_an_instance_that_starts_no_pods_is_explained(cluster, start, monkeypatch):
    monkeypatch.setattr(dg.DagsterInstance, "run_launcher", DefaultRunLauncher())
    message = read_failure(start(SMALL, "heavy"))
    assert "needs a Dagster instance that starts its runs in Kubernetes, and this one has a DefaultRunLau" in message
    assert "dagster job launch" in message


def test_a_process_outside_of_a_cluster_is_explained(cluster, start, monkeypatch):
    def fail():
        raise kubernetes.config.ConfigException("Service host/port is not set.")

    monkeypatch.setattr("kubernetes.config.load_incluster_config", fail)
    assert "There is no Kubernetes cluster here: Service host/port is not set." in read_failure(start(SMALL, "heavy"))


def test_a_missing_extra_is_explained(cluster, start, monkeypatch):
    monkeypatch.delitem(sys.modules, "pervl_assets.defs.kubernetes")
    monkeypatch.setitem(sys.modules, "dagster_k8s.executor", None)
    assert "pip install 'pervl_assets[k8s]'" in read_failure(start(SMALL, "heavy"))


# ---- runs that the cluster does not know


@pytest.fixture
def runs(team):
    """A job's run, a planned run that it started, and one that `pervl` started."""

    @dg.job
    def job():
        pass

    starter = team.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    tags = {PROCESS_TAG: "pod/1/boot"}
    made = [tags | {JOB_RUN_TAG: starter.run_id}, tags]
    return starter, *(team.create_run_for_job(job, tags=one, status=dg.DagsterRunStatus.STARTED) for one in made)


def test_a_planned_run_lives_as_long_as_the_run_that_started_it(cluster, team, runs):
    starter, planned, own = runs
    job = kubernetes.client.V1Job(status=V1JobStatus(active=1))
    cluster.jobs[f"dagster-run-{starter.run_id}"] = job
    check = team.run_launcher.check_run_worker_health
    assert [check(run).status for run in (starter, planned, own)] == [WorkerStatus.RUNNING] * 3
    job.status = V1JobStatus(failed=1)
    assert [check(run).status for run in (starter, planned)] == [WorkerStatus.FAILED] * 2
    team.report_run_failed(starter)
    assert "is over" in check(planned).msg


def test_a_planned_run_is_not_ended_without_the_run_that_started_it(team, runs):
    _, planned, own = runs
    assert [team.run_launcher.terminate(run.run_id) for run in (planned, own)] == [False, False]
    assert team.get_run_by_id(planned.run_id).status == dg.DagsterRunStatus.STARTED
