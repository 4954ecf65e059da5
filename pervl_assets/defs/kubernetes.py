"""Kubernetes: heavy steps as jobs of a cluster, and a launcher of runs that knows planned runs. Extra: `k8s`.

The packages `dagster-k8s` and `kubernetes` are imported here, and this module only where they are used.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import dagster as dg
import kubernetes
import urllib3
from dagster_k8s import K8sRunLauncher, k8s_job_executor
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.executor import K8sStepHandler

from pervl_assets.core.errors import PervlError
from pervl_assets.core.text import escape_terminal
from pervl_assets.dagster_private import CheckRunHealthResult, WorkerStatus
from pervl_assets.defs.jobs import JOB_RUN_TAG
from pervl_assets.defs.runs import PROCESS_TAG

_SHOWN: Final = 300
_MEMORY: Final = (
    "its pod used more memory than its limit, and was killed. What to do: raise the memory limit of runs and steps "
    "(`resources` in the values of the Helm chart), or lower PERVL_WORKERS or PERVL_BATCH_SIZE."
)
_GONE: Final = "its pod is gone: its node was lost, or it was deleted."


class PodHandler(K8sStepHandler):
    """Starts a step as a Kubernetes job, says what its pod waits for, and why it died."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what dagster-k8s's own handler takes."""
        super().__init__(*args, **kwargs)
        self._waiting: dict[str, str] = {}

    def launch_step(self, step_handler_context: Any) -> Iterator[dg.DagsterEvent]:
        """Start a step.

        Raises:
            ConnectionError: The cluster does not answer, or cannot take any job now.
            PervlError: The cluster refuses its job.
        """
        try:
            yield from super().launch_step(step_handler_context)
        except Exception as error:  # the clients of Dagster, Kubernetes and urllib3 raise types of their own
            if _is_temporary(error):
                raise ConnectionError(_read_refusal(error)) from error
            step = self._get_step_key(step_handler_context)
            raise PervlError(
                f"The Kubernetes job of the step {step} was not started: {_read_refusal(error)}",
                advice="Check the permissions of the service account and the values of the Helm chart (docs/scale.md). "
                "Then run again: finished work is kept.",
            ) from error

    def check_step_health(self, step_handler_context: Any) -> Any:
        """Return whether a step is alive; if not, with the reason that the cluster gives for the end of its pod."""
        found = super().check_step_health(step_handler_context)
        name = self._get_k8s_step_job_name(step_handler_context)
        namespace = self._get_container_context(step_handler_context).namespace
        try:
            pods = self._api_client.get_pods_in_job(name, namespace)
        except kubernetes.client.ApiException:  # a service account may be allowed to see jobs, and no pods
            return found
        if not found.is_healthy:
            return found._replace(unhealthy_reason=f"{found.unhealthy_reason} Why: {_explain_end(pods)}")
        if pods and (text := _explain_wait(pods[-1])) and text != self._waiting.get(name):
            self._waiting[name] = text
            context, step = step_handler_context, self._get_step_key(step_handler_context)
            context.instance.report_engine_event(f"The pod of {step} waits: {text}", context.dagster_run, step_key=step)
        return found


def _cut(text: object) -> str:
    """Return a message of the cluster in one line."""
    return escape_terminal(" ".join(str(text).split())[:_SHOWN])


def _is_temporary(error: Exception) -> bool:
    """Return whether the same request may be obeyed later: no answer, or one of a cluster that has too much to do."""
    answer = getattr(error, "k8s_api_exception", error)
    status = getattr(answer, "status", None) or 0
    return isinstance(answer, urllib3.exceptions.HTTPError) or status >= 500 or status == 429


def _read_refusal(error: Any) -> str:
    """Return what the cluster says about a refused request; the headers of its answer are left out."""
    answer = getattr(error, "k8s_api_exception", error)
    try:
        return _cut(json.loads(answer.body)["message"])
    except (AttributeError, TypeError, ValueError, KeyError):
        return _cut(answer)


def _explain_end(pods: list[Any]) -> str:
    """Return why the last pod of a job ended."""
    if not pods:
        return _GONE
    status = pods[-1].status
    ended = [one.state.terminated for one in status.container_statuses or () if one.state and one.state.terminated]
    if any(one.reason == "OOMKilled" for one in ended):
        return _MEMORY
    if status.reason:
        return f"the cluster ended its pod: {_cut(f'{status.reason}: {status.message}')}"
    if ended and ended[0].exit_code:
        return f"its process ended with the exit code {ended[0].exit_code}; its output is in the log of its pod."
    return _GONE


def _explain_wait(pod: Any) -> str | None:
    """Return what a pod waits for that has not begun: a node, or its image. None: nothing, or not known."""
    status = pod.status
    if status.phase != "Pending":
        return None
    states = [one.state.waiting for one in status.container_statuses or () if one.state and one.state.waiting]
    unmet = [one for one in status.conditions or () if one.type == "PodScheduled" and one.status == "False"]
    return next((_cut(f"{one.reason}: {one.message}") for one in (*unmet, *states) if one.message), None)


def create_executor(variables: Mapping[str, str], context: dg.InitExecutorContext) -> Any:
    """Return dagster-k8s's executor with a `PodHandler`.

    If the pod of the run is deleted, Kubernetes ends those of its steps, too.

    Args:
        variables: Environment variables of every step; no secrets.
        context: The run's context.

    Raises:
        PervlError: The instance starts no runs in Kubernetes, there is no cluster, or no image is known.
    """
    try:
        launcher: Any = context.instance.run_launcher
        if not isinstance(launcher, K8sRunLauncher):
            raise PervlError(
                "PERVL_EXECUTOR=k8s needs a Dagster instance that starts its runs in Kubernetes, and this one has a "
                f"{type(launcher).__name__}.",
                advice="Launch the run in the cluster: in its UI, or there by `dagster job launch` (docs/scale.md).",
            )
        cluster = {name: getattr(launcher, name) for name in ("load_incluster_config", "kubeconfig_file")}
        config, plain = {"retries": context.executor_config["retries"], **cluster}, cast("Any", k8s_job_executor)
        executor = plain.executor_creation_fn(context._replace(executor_config=config))
        passed = K8sContainerContext(env_vars=[f"{name}={value}" for name, value in variables.items()])
        image = launcher.job_image or cast("Any", context.job).get_python_origin().repository_origin.container_image
        executor._step_handler = PodHandler(image, passed, enable_owner_references=True, **cluster)
    except kubernetes.config.ConfigException as error:
        raise PervlError(
            f"There is no Kubernetes cluster here: {_cut(error)}",
            advice="Run in a pod with a service account, or set `kubeconfig_file` of the run launcher in dagster.yaml.",
        ) from error
    if not image:
        raise PervlError(
            "The image of the steps is not known: neither the code server nor the run launcher names one.",
            advice="Set `job_image` of the run launcher in dagster.yaml, or DAGSTER_CURRENT_IMAGE of the code server.",
        )
    return executor


class PlannedRunLauncher(K8sRunLauncher):
    """Dagster's launcher of runs in Kubernetes, which also knows planned runs.

    A planned run has no Kubernetes job: it is executed by the run that started it. Dagster's daemon would look for its
    job, find none, and mark it as failed while it runs. For `run_launcher` in `dagster.yaml`.
    """

    def check_run_worker_health(self, run: dg.DagsterRun) -> Any:
        """Return the health of a run's job; for a planned run, of the job of the run that started it."""
        if PROCESS_TAG not in run.tags:
            return super().check_run_worker_health(run)
        starter = self._instance.get_run_by_id(run.tags.get(JOB_RUN_TAG, ""))
        if starter is None:  # `pervl materialize` started it, in a process that is not known here
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if starter.is_finished:
            return CheckRunHealthResult(WorkerStatus.FAILED, f"The run that started it, {starter.run_id}, is over.")
        return super().check_run_worker_health(starter)

    def terminate(self, run_id: str) -> Any:
        """Delete the job of a run. A planned run has none, and ends with the run that started it: return False."""
        run, plain = self._instance.get_run_by_id(run_id), cast("Any", super())
        return False if run and PROCESS_TAG in run.tags else plain.terminate(run_id)
