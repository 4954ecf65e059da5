"""Where steps may be executed: which are heavy, what they ask of a machine, and when a lost one is tried again.

An op says what it is: in the pool `gpu`, or tagged `HEAVY`. What follows from the settings is added to all ops in one
place, when the definitions are built. A remote executor (`defs.executors`) sends heavy steps out; the others stay with
their run.
"""

import os
from collections.abc import Iterable
from typing import Any, Final

import dagster as dg

from pervl_assets.core.claims import Claim
from pervl_assets.dagster_private import change_op
from pervl_assets.settings import Settings

HEAVY: Final = "pervl/heavy"
"""Tag of an op that is worth a machine of its own."""

GPU_POOL: Final = "gpu"
"""Pool of the steps that need a device. Every op in it is heavy."""

_CPUS: Final = 2
"""Processors of a heavy step, unless `PERVL_WORKERS` is set: by default that is all of a machine."""

_TOLERATION: Final = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
"""Nodes with GPUs have this taint on most clusters, so that no other pods take their place."""

_RETRIES: Final = dg.RetryPolicy(max_retries=4, delay=10, backoff=dg.Backoff.EXPONENTIAL)
"""After 10, 30, 70 and 150 seconds: a process that was given up may go on for minutes."""


def cpu_tags(settings: Settings) -> dict[str, Any]:
    """Return the tags of a heavy step that needs no GPU, for the Kubernetes and Ray executors."""
    cpus = settings.workers if "workers" in settings.model_fields_set else _CPUS
    requests = {"cpu": str(cpus), "memory": f"{settings.step_memory}Gi"}
    return {
        HEAVY: "",
        "dagster-k8s/config": {"container_config": {"resources": {"requests": requests}}},
        "dagster-ray/config": {"num_cpus": cpus},
    }


def gpu_tags(settings: Settings) -> dict[str, Any]:
    """Return the tags of a step that needs the device of `PERVL_DEVICE`: one GPU, but none for `cpu`."""
    tags = cpu_tags(settings) | {"pervl/device": "cpu" if settings.device == "cpu" else "gpu"}
    if settings.device != "cpu":
        tags["dagster-k8s/config"]["container_config"]["resources"]["limits"] = {"nvidia.com/gpu": "1"}
        tags["dagster-k8s/config"]["pod_spec_config"] = {"tolerations": [_TOLERATION]}
        tags["dagster-ray/config"]["num_gpus"] = 1
    return tags


def place_assets(assets: Iterable[dg.AssetsDefinition], settings: Settings) -> list[dg.AssetsDefinition]:
    """Return assets or asset checks with the tags and retries of their heavy ops.

    Retries are for processes and machines that are lost. A step in the process of its run has neither: there an
    interruption would be retried too.

    Args:
        assets: Assets or asset checks.
        settings: Names device, executor, processors and memory.
    """
    retries = None if settings.executor == "in_process" else _RETRIES
    ops: dict[dg.OpDefinition, dg.OpDefinition] = {}  # several assets may share one op, and must go on to share one

    def place(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
        op = asset.node_def if asset.is_executable else None
        if not isinstance(op, dg.OpDefinition) or not (op.pool == GPU_POOL or HEAVY in op.tags):
            return asset
        if op not in ops:
            ops[op] = dg.OpDefinition(
                op.compute_fn,
                op.name,
                ins=op.ins,
                outs=op.outs,
                description=op.description,
                config_schema=op.config_schema,
                required_resource_keys=op.required_resource_keys,
                tags={**op.tags, **(gpu_tags(settings) if op.pool == GPU_POOL else cpu_tags(settings))},
                retry_policy=op.retry_policy or retries,
                pool=op.pool,
            )
        return change_op(asset, ops[op])

    return [place(asset) for asset in assets]


def claim_step(context: dg.AssetExecutionContext) -> Claim:
    """Return the claim of a step. It may take over from an earlier attempt of itself, and from a run that is over."""
    run_id, attempt, instance = context.run.run_id, context.retry_number, context.instance

    def was_given_up(holder: str) -> bool:
        other, _, number = holder.partition("/")
        if other == run_id:
            return number.isdecimal() and int(number) < attempt
        run = instance.get_run_by_id(other)
        return run is not None and run.is_finished

    return Claim(f"{run_id}/{attempt}", was_given_up)


def leave_if_given_up(context: dg.AssetExecutionContext) -> None:
    """End this process without a word if `is_given_up`: its events would be taken for those of the later attempt."""
    if is_given_up(context):
        os._exit(0)


def is_given_up(context: dg.AssetExecutionContext) -> bool:
    """Return whether the executor has given this attempt of the step up, or its run is over.

    Steps in the process of their run are never given up.
    """
    step = context.op_execution_context
    if step.op_def.retry_policy is None:
        return False
    kinds = {dg.DagsterEventType.STEP_UP_FOR_RETRY, dg.DagsterEventType.STEP_FAILURE}
    ends = context.instance.get_records_for_run(context.run.run_id, of_type=kinds).records
    run = context.instance.get_run_by_id(context.run.run_id)
    is_over = bool(run and run.is_finished)
    ended = sum(end.event_log_entry.step_key == step.op.name for end in ends)
    return is_over or bool(ended > context.retry_number)
