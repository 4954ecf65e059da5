"""Remote executors: what goes out, what travels with it, and what is said where a cluster does not answer."""

import base64
import errno
import fcntl
import json
import os
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import dagster as dg
import pytest

from pervl_assets.core.errors import PervlError
from pervl_assets.dagster_private import judge_step
from pervl_assets.defs import executors
from pervl_assets.defs.placement import HEAVY, gpu_tags
from pervl_assets.defs.run_results import read_run_result
from pervl_assets.settings import Settings

SECRETS = {
    "DEEPFASHION2_PASSWORD": "Zq7-unmistakable",
    "AWS_SECRET_ACCESS_KEY": "Zq7-unmistakable",
    "PERVL_POSTGRES_URL": "postgresql+psycopg2://pervl:Zq7-unmistakable@db/pervl",
}
SETTINGS = {
    "PERVL_EXECUTOR": "ray",
    "PERVL_DEVICE": "cuda",
    "PERVL_DATA": "/data/fluffy",
    "PERVL_ENCODERS": "RN50=openai",
}


@dg.op
def small() -> None: ...


@dg.op(tags=gpu_tags(Settings(device="cuda")))
def heavy() -> None: ...


def make_job(*ops) -> dg.JobDefinition:
    settings = Settings(executor="ray", device="cuda", data=os.environ["DAGSTER_HOME"])
    return dg.GraphDefinition("job", node_defs=ops).to_job(executor_def=executors.build_executor(settings))


def find_small_job() -> dg.JobDefinition:
    return make_job(small)


def find_heavy_job() -> dg.JobDefinition:
    return make_job(heavy)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS", "0.01")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
        yield instance


def execute(instance, job) -> list[str]:
    """Execute a job; return what the findings say."""
    dg.execute_job(dg.reconstructable(job), instance=instance)
    return [finding.text for finding in read_run_result(instance, instance.get_runs(limit=1)[0].run_id).findings]


def test_settings_travel_and_secrets_do_not(monkeypatch):
    monkeypatch.setattr("pervl_assets.settings._log", SimpleNamespace(warning=lambda *_: None))
    settings = Settings.from_env({**SETTINGS, **SECRETS, "HOME": "/root", "PERVL_SCRATCH": "/of/this/machine"})
    assert executors.list_variables(settings) == SETTINGS
    assert [*executors.list_variables(Settings())] == ["PERVL_DATA"]  # is relative to the folder of the command


def test_a_device_that_each_machine_would_choose_is_refused():
    with pytest.raises(PervlError, match="PERVL_EXECUTOR='ray': needs PERVL_DEVICE=cpu or PERVL_DEVICE=cuda"):
        Settings.from_env({"PERVL_EXECUTOR": "ray"})


def test_a_run_of_small_steps_needs_no_cluster(home):
    assert execute(home, find_small_job) == []


def test_a_folder_without_locks_is_not_shared(home, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    (text,) = execute(home, find_heavy_job)
    assert f"The file system of {os.environ['DAGSTER_HOME']} has no locks" in text
    assert "set PERVL_DATA to a bucket" in text


def test_without_address_or_package_the_error_names_the_command(home, monkeypatch):
    (text,) = execute(home, find_heavy_job)
    assert "RAY_ADDRESS is not set" in text
    assert "RAY_ADDRESS=http://HEAD:8265" in text
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "dagster_ray", None)
    (text,) = execute(home, find_heavy_job)
    assert "pip install 'pervl_assets[ray]'" in text


def test_a_job_asks_for_a_gpu_and_holds_no_secret(home, monkeypatch):
    pytest.importorskip("dagster_ray", reason="needs the extra ray")
    submitted = {}

    class Client:
        def __init__(self, address, **_) -> None:
            submitted["address"] = address

        def _do_request(self, *_, **__) -> None: ...

        def submit_job(self, **job) -> None:
            submitted.update(job)
            raise RuntimeError("refused by http://anna:Zq7-unmistakable@head:8265")

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Client)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    for name, value in {**SECRETS, **SETTINGS}.items():
        monkeypatch.setenv(name, value)
    (text,) = execute(home, find_heavy_job)
    assert text.startswith("The cluster does not answer, or does not take the step: refused by http://head:8265")
    assert "finished work is kept" in text
    assert submitted["address"] == "http://head:8265"
    assert (submitted["entrypoint_num_gpus"], submitted["entrypoint_num_cpus"]) == (1, 2)
    env = submitted["runtime_env"]["env_vars"]
    step = json.loads(zlib.decompress(base64.b64decode(env.pop("DAGSTER_COMPRESSED_EXECUTE_STEP_ARGS"))))
    assert set(env) - set(SETTINGS) == {"DAGSTER_RUN_JOB_NAME", "DAGSTER_RUN_STEP_KEY"}
    assert "Zq7-unmistakable" not in json.dumps({**submitted, "step": step})


class Silent:
    """A step handler whose cluster does not answer."""

    name = "Silent"

    def check_step_health(self, context) -> None:
        raise ConnectionError("no route")

    launch_step = terminate_step = check_step_health


class Lazy(Silent):
    """A step handler whose cluster took no step, and says so now."""

    def check_step_health(self, context):
        return judge_step("not found.")


class Process:
    """A process that ended with exit code 3."""

    exitcode, pid = 3, 1

    def __init__(self, target, args) -> None: ...

    def start(self) -> None: ...

    join = start


class Successful(Process):
    exitcode = 0


class Unstarted(Process):
    exitcode = None

    def start(self) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def make_context(key: str, tags=()) -> SimpleNamespace:
    events = []
    return SimpleNamespace(
        execute_step_args=SimpleNamespace(step_keys_to_execute=[key], get_command_args=lambda: ["dagster"]),
        step_tags={key: dict.fromkeys(tags, "")},
        instance=SimpleNamespace(report_engine_event=lambda text, *_, **__: events.append(text)),
        dagster_run=None,
        get_step_context=lambda key: key,
        events=events,
    )


def test_a_silent_cluster_is_waited_for_and_then_given_up(monkeypatch):
    context = make_context("encode")
    with ThreadPoolExecutor(1) as threads:
        handler = executors._StepHandler(Silent(), threads)
        assert handler.check_step_health(context).is_healthy
        monkeypatch.setattr(executors, "_PATIENCE_SECONDS", -1)
        health = handler.check_step_health(context)
        assert not health.is_healthy
        assert "no route" in health.unhealthy_reason
        assert [*handler.terminate_step(context)] == []
    assert context.events[0].startswith("The step encode could not be ended, and may go on: The cluster does not")


def test_a_step_that_the_cluster_did_not_take_is_reported_as_lost(monkeypatch):
    failed = {}
    monkeypatch.setattr(executors, "fail_step", failed.__setitem__)
    context = make_context("encode", [HEAVY])
    with ThreadPoolExecutor(1) as threads:
        handler = executors._StepHandler(Lazy(), threads)
        assert [*handler.launch_step(context)] == []
        assert failed == {}
        health = handler.check_step_health(context)  # which the retry policy of the step acts upon
        assert context.events == [health.unhealthy_reason]
        assert handler.check_step_health(context).unhealthy_reason == "not found."
        handler._silent_since = time.monotonic() - 2 * executors._PATIENCE_SECONDS
        assert [*handler.launch_step(context)] == []
    assert failed == {"encode": health.unhealthy_reason}
    assert failed["encode"].startswith("The cluster does not answer, or does not take the step: no route")


def test_an_answer_of_a_broken_head_is_no_answer():
    with pytest.raises(ConnectionError, match="status 503: busy"):
        executors._ask_ray(lambda *_, **__: SimpleNamespace(status_code=503, text="busy"), "GET", "/api/jobs/")
    found = SimpleNamespace(status_code=404)
    assert executors._ask_ray(lambda *_, timeout: found if timeout else None, "GET", "/api/jobs/") is found


@pytest.mark.parametrize(
    ("process", "reasons"),
    [
        (Process, ["Its process ended with exit code 3."]),
        (Unstarted, ["Its process could not be started: [Errno 11] Resource temporarily unavailable"]),
        (Successful, [None, "Its process ended with exit code 0."]),  # its events may be due at first
    ],
)
def test_a_small_step_has_a_process_here_whose_end_is_noticed(process, reasons):
    context = make_context("table")
    with ThreadPoolExecutor(1) as threads:
        handler = executors._StepHandler(Silent(), threads)
        handler._fork = SimpleNamespace(Process=process)
        assert [*handler.launch_step(context)] == []
        handler._ends["table"].exception()
        assert [handler.check_step_health(context).unhealthy_reason for _ in reasons] == reasons
