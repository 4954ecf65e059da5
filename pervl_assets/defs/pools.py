"""Executor of one process: its steps wait for a slot of a pool, report what they wait for, and end on a termination.

Dagster's own waits at full load, and a termination does not end it.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from pervl_assets.core.signals import hold_interrupts
from pervl_assets.dagster_private import (
    ExecuteRunWithPlanIterable,
    InstanceConcurrencyContext,
    PlanExecutionContextManager,
    inner_plan_execution_iterator,
    read_pool_holders,
)
from pervl_assets.defs.runs import PROCESS_TAG, fail_dead_runs

WAITING: Final = "waiting for the pool "
"""How the messages of a wait begin, which are engine events of the run."""

_PERIOD: Final = 0.5
_REPORT_SECONDS: Final = 60.0
_SEARCH_SECONDS: Final = 5.0


class _Claims(InstanceConcurrencyContext):
    """Claims of pool slots by the steps of a run."""

    _reported = _searched = -_REPORT_SECONDS

    def claim(self, concurrency_key: str, step_key: str, step_priority: int = 0) -> bool:
        """Return whether a step got a slot; wait a moment if it did not.

        Raises:
            DagsterExecutionInterruptedError: The run is to end.
        """
        if super().claim(concurrency_key, step_key, step_priority):
            return True
        if (now := time.monotonic()) - self._searched >= _SEARCH_SECONDS:
            self._searched = now
            if fail_dead_runs(self._instance):
                return False
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            text = _describe_wait(self._instance, concurrency_key)
            self._instance.report_engine_event(text, self._instance.get_run_by_id(self._run_id), step_key=step_key)
        with dg.raise_execution_interrupts():
            time.sleep(_PERIOD)
        return False


def _describe_wait(instance: dg.DagsterInstance, pool: str) -> str:
    """Return what a step waits for: the pool, its holders, since when they run, and how to free it."""
    holders = []
    for run_id in read_pool_holders(instance, pool):
        record = instance.get_run_record_by_id(run_id)
        if record is None:
            holders.append(f"run {run_id}, which was deleted")
            continue
        began = time.strftime(
            "%Y-%m-%d %H:%M", time.localtime(record.start_time or record.create_timestamp.timestamp())
        )
        host, process, *_ = [*record.dagster_run.tags.get(PROCESS_TAG, "").split("/"), ""]
        where = f", process {process} on {host}" if host else ""
        holders.append(f"run {run_id} ({record.dagster_run.status.value.lower()}, since {began}{where})")
    return (
        f"{WAITING}{pool}: in use by {'; '.join(holders) or 'no run that is known'}. What to do: wait for that run, or "
        "end it (Ctrl-C, or Terminate in the UI). If its process is gone, free its slot in the UI: Deployment, "
        "Concurrency."
    )


def _iterate(job_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
    with _Claims(job_context.instance, job_context.dagster_run) as claims:
        try:
            events = inner_plan_execution_iterator(job_context, execution_plan, claims)
            with hold_interrupts():  # the processes that copy logs to the terminal are started here
                first = next(events, None)
            if first is None:
                return
            yield first
            yield from events
        except dg.DagsterExecutionInterruptedError:
            yield job_context.instance.report_engine_event("The run was interrupted.", job_context.dagster_run)
            raise


@dataclass(frozen=True)
class _Executor(dg.Executor):
    """Dagster's executor of one process, with `_Claims` and without its engine events around the steps.

    Those are "Executing steps in process" and "Finished steps in process".
    """

    plain: Any

    @property
    def retries(self) -> Any:
        return self.plain.retries

    @property
    def step_dependency_config(self) -> Any:
        return self.plain.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Yield the events of a run."""
        context = PlanExecutionContextManager(
            job=plan_context.job,
            retry_mode=plan_context.retry_mode,
            execution_plan=plan_context.execution_plan,
            run_config=plan_context.run_config,
            dagster_run=plan_context.dagster_run,
            instance=plan_context.instance,
            raise_on_error=plan_context.raise_on_error,
            output_capture=plan_context.output_capture,
            step_dependency_config=self.step_dependency_config,
        )
        yield from ExecuteRunWithPlanIterable(execution_plan, _iterate, context)


_plain: Any = dg.in_process_executor
in_process_executor: Final = dg.ExecutorDefinition(
    "in_process",
    _plain.config_schema,
    executor_creation_fn=lambda context: _Executor(_plain.executor_creation_fn(context)),
    description="Execute the steps of a run one after another in its process.",
)
