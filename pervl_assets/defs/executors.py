"""How a run executes its steps: the executors of one machine, and those that send heavy steps to others.

A remote executor is the one of its package. Around it: small steps stay on the machine of the run, settings travel to
the others and secrets do not, and a cluster that does not answer is an error with advice.
"""

import multiprocessing
import os
import runpy
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import dagster as dg

from pervl_assets.core.errors import PervlError
from pervl_assets.core.text import hide_secrets
from pervl_assets.core.workers import end_with_parent
from pervl_assets.dagster_private import fail_step, judge_step
from pervl_assets.defs.placement import HEAVY
from pervl_assets.defs.pools import in_process_executor
from pervl_assets.io_managers.metadata import show_errors
from pervl_assets.settings import Settings, get_variable
from pervl_assets.storage import open_store

_PRELOADED: Final = ["pervl_assets.definitions"]
_LOCAL: Final = {
    "in_process": in_process_executor,
    # Every step is forked from a process that has loaded this module: loading it for each takes longer than most steps.
    "multiprocess": dg.multiprocess_executor.configured(
        {"start_method": {"forkserver": {"preload_modules": _PRELOADED}}}
    ),
}

_PATIENCE_SECONDS: Final = 60.0
"""How long a cluster may be silent before its steps are given up: a head that is restarted answers sooner."""

_HTTP_SECONDS: Final = (10.0, 60.0)
"""How long Ray's head may take to be connected to, and to answer. Without a limit a vanished machine is waited for."""


def build_executor(settings: Settings) -> dg.ExecutorDefinition:
    """Return the executor of `PERVL_EXECUTOR`. Packages of a cluster are imported when a run needs them."""
    if settings.executor in _LOCAL:
        return _LOCAL[settings.executor]
    create = partial(_REMOTE[settings.executor], list_variables(settings))
    plain: Any = in_process_executor
    return dg.ExecutorDefinition(
        settings.executor,
        plain.config_schema,
        executor_creation_fn=lambda context: _Executor(context, create, str(settings.data)),
        requirements=dg.multiprocess_executor.get_requirements,
        description="Send heavy steps to other machines, and execute the others on the machine of the run.",
    )


def list_variables(settings: Settings) -> dict[str, str]:
    """Return the environment variables of the settings that were set, and of the data root.

    A step on another machine gets these and no others: they are shown there in clear text, and no setting is a secret.
    Every machine has a scratch folder of its own.
    """
    names = settings.model_fields_set - {"scratch"} | {"data"}
    values = {name: getattr(settings, name) for name in sorted(names)}
    return {get_variable(name): str(value) for name, value in values.items() if value is not None}


def _create_ray(variables: dict[str, str], context: dg.InitExecutorContext) -> Any:
    """Return dagster-ray's executor, for the cluster of `RAY_ADDRESS`."""
    if not (address := os.environ.get("RAY_ADDRESS")):
        raise PervlError(
            "PERVL_EXECUTOR=ray needs the address of Ray's head, and RAY_ADDRESS is not set.",
            advice="RAY_ADDRESS=http://HEAD:8265 pervl …; `ray start --head` starts a head and prints its address.",
        )
    try:
        from dagster_ray import ray_executor
    except ImportError as error:
        raise PervlError(
            f"PERVL_EXECUTOR=ray needs a package that is not installed: {error}.",
            advice="pip install 'pervl_assets[ray]', here and on every node.",
        ) from error
    config = {
        # No resources: one set here would replace the tags of every step.
        "ray": {"address": address, "env_vars": [f"{name}={value}" for name, value in variables.items()]},
        "retries": context.executor_config["retries"],
        "tag_concurrency_limits": [],
    }
    plain: Any = ray_executor
    try:
        executor = plain.executor_creation_fn(context._replace(executor_config=config))
    except Exception as error:
        raise PervlError(
            f"Ray does not answer at RAY_ADDRESS: {_shorten(error)}",
            advice="Start the cluster (`ray start --head`), or correct RAY_ADDRESS: http://HEAD:8265.",
        ) from error
    client = executor._step_handler.client
    client._do_request = partial(_ask_ray, client._do_request)
    return executor


def _ask_ray(ask: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Send a request to Ray's head. An answer of 5xx is no answer: dagster-ray would read it as a job that is gone."""
    answer = ask(*arguments, **options, timeout=_HTTP_SECONDS)
    if answer.status_code >= 500:
        raise ConnectionError(f"status {answer.status_code}: {answer.text}")
    return answer


def _create_k8s(variables: dict[str, str], context: dg.InitExecutorContext) -> Any:
    """Return dagster-k8s's executor, for the cluster of the run's pod."""
    try:
        from pervl_assets.defs.kubernetes import create_executor
    except ImportError as error:
        raise PervlError(
            f"PERVL_EXECUTOR=k8s needs a package that is not installed: {error}.",
            advice="pip install 'pervl_assets[k8s]', here and in the image of the pods.",
        ) from error
    return create_executor(variables, context)


_REMOTE: Final[dict[str, Callable[[dict[str, str], dg.InitExecutorContext], Any]]] = {
    "k8s": _create_k8s,
    "ray": _create_ray,
}
"""Functions that return an executor with a step handler, by `PERVL_EXECUTOR`."""


def _shorten(error: BaseException) -> str:
    return hide_secrets(" ".join(str(error).split()))[:300] or type(error).__name__


@dataclass(frozen=True)
class _Executor(dg.Executor):
    """A remote executor for runs with a heavy step; the executor of one process for the others."""

    context: dg.InitExecutorContext
    create: Callable[[dg.InitExecutorContext], Any]
    data: str

    @property
    def _local(self) -> Any:
        plain: Any = in_process_executor
        return plain.executor_creation_fn(self.context)

    @property
    def retries(self) -> Any:
        return self._local.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._local.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Yield the events of a run."""
        steps = map(execution_plan.get_step_by_key, execution_plan.step_keys_to_execute)
        if not any(HEAVY in step.tags for step in steps):
            yield from self._local.execute(plan_context, execution_plan)
            return
        with show_errors():
            open_store(self.data).check_sharing()
            executor = self.create(self.context)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            executor._step_handler = _StepHandler(executor._step_handler, threads)
            yield from executor.execute(plan_context, execution_plan)


class _StepHandler:
    """Starts, watches and ends steps: heavy ones by another handler, the others in processes of this machine.

    Small steps are forked from a process that has loaded the definitions; as many run at once as there are processors.
    """

    def __init__(self, remote: Any, threads: ThreadPoolExecutor) -> None:
        self._remote, self._threads = remote, threads
        self._processes: dict[str, Any] = {}
        self._ends: dict[str, Future[None]] = {}
        self._ended: set[Future[None]] = set()
        self._refusals: dict[str, str] = {}
        self._silent_since: float | None = None
        self._fork = multiprocessing.get_context("forkserver")
        self._fork.set_forkserver_preload(_PRELOADED)

    @property
    def name(self) -> str:
        """Its name in the events of the run."""
        return str(self._remote.name)

    def launch_step(self, context: Any) -> Iterator[dg.DagsterEvent]:
        """Start a step. It fails if the cluster refuses it, or has been silent for long.

        Without an answer it may have begun: `check_step_health` finds out.
        """
        (key,) = context.execute_step_args.step_keys_to_execute
        if HEAVY not in context.step_tags[key]:
            process = self._fork.Process(target=_execute_step, args=(context.execute_step_args.get_command_args(),))
            self._processes[key] = process
            self._ends[key] = self._threads.submit(_run, process)
            return
        try:
            yield from self._remote.launch_step(context)
        except Exception as error:
            text = str(_explain_silence(error))
            if not isinstance(error, OSError) or self._is_lost():
                fail_step(context.get_step_context(key), text)
                return
            self._refusals[key] = text
            context.instance.report_engine_event(text, context.dagster_run, step_key=key)

    def check_step_health(self, context: Any) -> Any:
        """Return whether a step goes on, or why it does not."""
        (key,) = context.execute_step_args.step_keys_to_execute
        if process := self._processes.get(key):
            return judge_step(self._explain_end(self._ends[key], process))
        try:
            health = self._remote.check_step_health(context)
        except Exception as error:
            return judge_step(str(_explain_silence(error)) if self._is_lost() else None)
        self._silent_since = None
        refusal = self._refusals.pop(key, None)
        return health if health.is_healthy or not refusal else judge_step(refusal)

    def _is_lost(self) -> bool:
        """Return whether the cluster, which does not answer now, has been silent for too long."""
        self._silent_since = self._silent_since or time.monotonic()
        return time.monotonic() - self._silent_since > _PATIENCE_SECONDS

    def _explain_end(self, end: Future[None], process: Any) -> str | None:
        """Return why a process ended whose step has not. None: it runs, or has just ended, and its events are due."""
        if not end.done() or end.cancelled():
            return None
        if error := end.exception():
            return f"Its process could not be started: {_shorten(error)}"
        if process.exitcode == 0 and end not in self._ended:
            self._ended.add(end)
            return None
        return f"Its process ended with exit code {process.exitcode}."

    def terminate_step(self, context: Any) -> Iterator[dg.DagsterEvent]:
        """End a step."""
        (key,) = context.execute_step_args.step_keys_to_execute
        if process := self._processes.get(key):
            if not self._ends[key].cancel() and process.pid:
                process.terminate()
            return
        try:
            yield from self._remote.terminate_step(context)
        except Exception as error:
            text = f"The step {key} could not be ended, and may go on: {_explain_silence(error)}"
            context.instance.report_engine_event(text, context.dagster_run, step_key=key)


def _run(process: Any) -> None:
    process.start()
    process.join()


def _execute_step(command: Sequence[str]) -> None:
    """Execute one step in this process, as `dagster api execute_step` does: the command without its program."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.argv = ["dagster", *command[-4:]]
    runpy.run_module("dagster", run_name="__main__")


def _explain_silence(error: Exception) -> PervlError:
    if isinstance(error, PervlError):
        return error
    return PervlError(
        f"The cluster does not answer, or does not take the step: {_shorten(error)}",
        advice="Start the cluster again, or correct what it says; then run again: finished work is kept.",
    )
