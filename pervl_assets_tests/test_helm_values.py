"""`docs/scale/values.yaml`: its keys are those of Dagster's Helm chart, and what the chart makes of them is valid.

Neither Helm nor the chart is installed here: the keys were read from the chart's schema, and the parts of its templates
that the values reach are repeated below.
"""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config

from pervl_assets.defs.kubernetes import PlannedRunLauncher
from pervl_assets.settings import Settings, get_variable

FILE = Path(__file__).parents[1] / "docs/scale/values.yaml"
KUBERNETES = "1.33"

_POD = "podSecurityContext securityContext resources volumes volumeMounts env envSecrets envConfigMaps"
KEYS = {
    "": "global generatePostgresqlPasswordSecret postgresql dagster-user-deployments runLauncher dagsterDaemon "
    "dagsterWebserver additionalInstanceConfig telemetry retention concurrency computeLogManager pythonLogs",
    "global": "postgresqlSecretName dagsterHome serviceAccountName celeryConfigSecretName dagsterInstanceConfigMap",
    "postgresql": "image enabled postgresqlHost postgresqlUsername postgresqlPassword postgresqlDatabase "
    "postgresqlParams postgresqlScheme service",
    "dagster-user-deployments": "enabled enableSubchart imagePullSecrets deployments",
    "dagster-user-deployments.deployments": f"name image port dagsterApiGrpcArgs codeServerArgs {_POD} "
    "includeConfigInLaunchedRuns nodeSelector tolerations labels annotations",
    "dagster-user-deployments.deployments.image": "repository tag pullPolicy",
    "runLauncher": "type config",
    "runLauncher.config": "k8sRunLauncher celeryK8sRunLauncher customRunLauncher",
    "runLauncher.config.customRunLauncher": "module class config",
    "dagsterDaemon": f"enabled image runCoordinator runMonitoring runRetries sensors schedules {_POD}",
    "dagsterDaemon.image": "repository tag pullPolicy",
    "dagsterDaemon.runCoordinator": "enabled type config",
    "dagsterDaemon.runMonitoring": "enabled",
    "dagsterDaemon.runRetries": "enabled",
    "pythonLogs": "pythonLogLevel managedPythonLoggers dagsterHandlerConfig",
    "dagsterWebserver": f"replicaCount image service workspace enableReadOnly readinessProbe livenessProbe {_POD}",
    "dagsterWebserver.service": "annotations type port",
    "computeLogManager": "type config",
    "computeLogManager.config": "s3ComputeLogManager gcsComputeLogManager azureBlobComputeLogManager",
    "computeLogManager.config.s3ComputeLogManager": "bucket prefix localDir useSsl verify verifyCertPath endpointUrl "
    "skipEmptyFiles uploadInterval uploadExtraArgs showUrlOnly region",
    "telemetry": "enabled",
}
"""Keys of the chart, by where they are; a place that is not named may have any."""

NAMES_OF_LOGS = {"skipEmptyFiles": "skip_empty_files", "uploadInterval": "upload_interval"}


@pytest.fixture
def values() -> Any:
    """The example values."""
    return yaml.safe_load(FILE.read_text())


def list_unknown(values: Any, place: str = "") -> list[str]:
    """Return the keys that the chart does not know."""
    if isinstance(values, list):
        return [name for one in values for name in list_unknown(one, place)]
    if not isinstance(values, dict):
        return []
    known = KEYS[place].split() if place in KEYS else values
    inner = [name for key, one in values.items() for name in list_unknown(one, f"{place}.{key}".strip("."))]
    return [f"{place}.{key}" for key in values if key not in known] + inner


def render_instance(values: Any) -> dict[str, Any]:
    """Return the chart's `dagster.yaml`."""
    database, logs = values["postgresql"], values["computeLogManager"]["config"]["s3ComputeLogManager"]
    postgres = {
        "username": database["postgresqlUsername"],
        "password": {"env": "DAGSTER_PG_PASSWORD"},
        "hostname": database["postgresqlHost"],
        "db_name": database["postgresqlDatabase"],
        "port": 5432,
        "params": {},
        "scheme": database["postgresqlScheme"],
    }
    return {
        "storage": {"postgres": {"postgres_db": postgres}},
        "run_launcher": values["runLauncher"]["config"]["customRunLauncher"],
        "compute_logs": {
            "module": "dagster_aws.s3.compute_log_manager",
            "class": values["computeLogManager"]["type"],
            "config": {NAMES_OF_LOGS.get(key, key): one for key, one in logs.items()},
        },
        "python_logs": {"python_log_level": values["pythonLogs"]["pythonLogLevel"]},
        "telemetry": values["telemetry"],
        **values["additionalInstanceConfig"],
    }


def render_context(deployment: Any) -> dict[str, Any]:
    """Return what the chart passes from a code server to its runs and steps (`includeConfigInLaunchedRuns`)."""
    return {
        "k8s": {
            "image_pull_policy": deployment["image"]["pullPolicy"],
            "env_config_maps": [f"dagster-dagster-user-deployments-{deployment['name']}-user-env"],
            "env_secrets": [one["name"] for one in deployment["envSecrets"]],
            "volume_mounts": deployment["volumeMounts"],
            "volumes": deployment["volumes"],
            "resources": deployment["resources"],
            "namespace": "pervl",
            "service_account_name": "dagster",
            "run_k8s_config": {"pod_spec_config": {"automount_service_account_token": True}},
        }
    }


def render_server(deployment: Any) -> dict[str, Any]:
    """Return the chart's Kubernetes deployment of a code server."""
    image = f"{deployment['image']['repository']}:{deployment['image']['tag']}"
    container = {
        "name": "pervl",
        "image": image,
        "imagePullPolicy": deployment["image"]["pullPolicy"],
        "args": ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", "3030", *deployment["dagsterApiGrpcArgs"]],  # noqa: S104
        "envFrom": [{"secretRef": one} for one in deployment["envSecrets"]],
        "env": [{"name": name, "value": value} for name, value in deployment["env"].items()],
        "resources": deployment["resources"],
        "securityContext": deployment["securityContext"],
        "volumeMounts": deployment["volumeMounts"],
    }
    labels = {"deployment": deployment["name"]}
    pod = {
        "containers": [container],
        "securityContext": deployment["podSecurityContext"],
        "volumes": deployment["volumes"],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment["name"]},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def test_the_chart_knows_every_key(values):
    assert list_unknown(values) == []
    values["dagsterDaemon"]["tolerances"] = []
    assert list_unknown(values) == ["dagsterDaemon.tolerances"]


def test_dagster_accepts_the_instance(values, tmp_path):
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(render_instance(values)))
    config, custom = dagster_instance_config(str(tmp_path))
    assert custom is None
    assert config["run_launcher"]["class"] == PlannedRunLauncher.__name__
    assert validate_config(PlannedRunLauncher.config_type(), config["run_launcher"]["config"]).success


def test_the_logs_go_into_a_bucket(values):
    aws = pytest.importorskip("dagster_aws.s3.compute_log_manager", reason="needs the extra postgres")
    logs = render_instance(values)["compute_logs"]
    assert logs["module"] == aws.__name__
    assert validate_config(getattr(aws, logs["class"]).config_type(), logs["config"]).success


def test_the_instance_is_that_of_one_machine_but_for_devices_and_pods(values):
    here, there = yaml.safe_load((FILE.parents[2] / "dagster.yaml").read_text()), render_instance(values)
    assert not any(
        values["dagsterDaemon"][name]["enabled"] for name in ("runCoordinator", "runMonitoring", "runRetries")
    )
    here["concurrency"]["pools"]["default_limit"] = 4
    here["concurrency"]["runs"]["max_concurrent_runs"] += 4
    here["run_monitoring"] |= {"start_timeout_seconds": 600, "max_resume_run_attempts": 0}
    same = here.keys() - {"retention"}  # the ticks of schedules are kept as long as Dagster's default says
    assert {name: there[name] for name in same} == {name: here[name] for name in same}


def test_kubernetes_accepts_the_code_server(values):
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    server = render_server(deployment)
    kubernetes_validate.validate(server, KUBERNETES, strict=True)
    server["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": ["12Gi"]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(server, KUBERNETES, strict=True)


def test_every_variable_is_a_setting_or_public(values):
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    known = {get_variable(name) for name in Settings.model_fields} | {"AWS_REGION", "AWS_ENDPOINT_URL"}
    assert set(deployment["env"]) <= known
    assert all(isinstance(value, str) for value in deployment["env"].values())  # Kubernetes takes no numbers here


def test_pools_have_a_slot_per_device_and_the_queue_has_room_for_others(values):
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    concurrency, devices = values["additionalInstanceConfig"]["concurrency"], int(deployment["env"]["PERVL_DEVICES"])
    assert concurrency["pools"]["default_limit"] == devices
    # `everything` and the runs that it started are devices + 1
    assert concurrency["runs"]["max_concurrent_runs"] == devices + 3
