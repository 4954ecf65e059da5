"""The one decorator of asset bodies and asset checks: duration, settings and inputs as metadata, errors as failures."""

import functools
import inspect
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import dagster as dg

from pervl_assets.clip.checkpoints import parse_encoders
from pervl_assets.core.files import hash_bytes
from pervl_assets.dagster_private import BaseAssetGraph, read_data_versions
from pervl_assets.defs.placement import is_given_up, leave_if_given_up
from pervl_assets.io_managers.base import PervlIOManager, begin_with_inputs
from pervl_assets.io_managers.metadata import SECONDS, end_if_given_up, order_metadata, show_errors

SETTINGS: Final = "settings"
"""Metadata of a materialization: the settings it was made with, see `describe_settings`."""

INPUTS: Final = "inputs"
"""Metadata of a materialization: the data versions it was made from, see `InputVersions`."""

_WITHOUT_EFFECT: Final = {
    "workspace": {"data", "workers", "max_quarantined_share"},
    "clip": {"batch_size", "encoders"},
    "downloads": {"*"},
}
"""Resource fields that do not affect results, by resource key (`*` = all fields)."""
AS_PUBLISHED: Final = ("evaluation", "training")
"""Groups whose assets use `Clip.as_published`, whatever the setting says."""

_CLIP_LIBRARIES: Final = ("torch", "open_clip_torch", "pillow")
_DRIVER: Final = Path("/proc/driver/nvidia/version")


def record_step(
    compute: Callable[..., Any] | None = None, *, uses: Collection[str] | None = None
) -> Callable[..., Any]:
    """Decorate the body of an asset or of an asset check, below Dagster's own decorator.

    Every materialization records the seconds of the body's own work, the settings of the resources it used, and the
    data versions of its inputs. The IO manager adds the seconds of writing; loading inputs is not counted. A body that
    yields several results records in each the time since the one before. A `PervlError` becomes a `dg.Failure`, which
    Dagster shows without a stack.

    Args:
        compute: The body.
        uses: The fields of the workspace that the result depends on; None: all of them. The asset is outdated when one
            of these changes.
    """
    if compute is None:
        return functools.partial(record_step, uses=uses)

    def complete(result: Any, start: float, named: Mapping[str, Any], inputs: Mapping[dg.AssetKey, Any]) -> Any:
        _leave_if_given_up()
        if not isinstance(result, dg.MaterializeResult):
            return result
        resources = {name: value for name, value in named.items() if isinstance(value, dg.ConfigurableResource)}
        key: dg.AssetKey | None = result.asset_key or next(iter(inputs), None)
        settings = dg.MetadataValue.json(describe_settings(resources, key, uses))
        recorded: dict[str, Any] = {SECONDS: round(time.perf_counter() - start, 3), SETTINGS: settings}
        if key is not None and key in inputs:
            recorded[INPUTS] = dg.MetadataValue.json(inputs[key])
        return result._replace(metadata=order_metadata({**(result.metadata or {}), **recorded}))

    @functools.wraps(compute)
    def call(*args: Any, **named: Any) -> Any:
        with show_errors():
            inputs, start = _begin(), time.perf_counter()
            return complete(compute(*args, **named), start, named, inputs)

    @functools.wraps(compute)
    def generate(*args: Any, **named: Any) -> Iterator[Any]:
        with show_errors():
            inputs, start = _begin(), time.perf_counter()
            for result in compute(*args, **named):
                yield complete(result, start, named, inputs)
                start = time.perf_counter()  # Dagster wrote the result before it requested the next one

    return generate if inspect.isgeneratorfunction(compute) else call


_begun: tuple[object, dict[dg.AssetKey, dict[str, str]]] = (None, {})
"""The attempt of a step that has begun in this process, and its input versions."""


def _begin() -> dict[dg.AssetKey, dict[str, str]]:
    """Return the input versions of every asset of the current step; empty outside of assets."""
    context = _find_context()
    return _begin_attempt(context) if context else {}


def _begin_with_input(context: dg.InputContext) -> None:
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:  # a value that is read outside of a step
        return
    _begin_attempt(dg.AssetExecutionContext(dg.OpExecutionContext(step)))


begin_with_inputs(_begin_with_input)


def _begin_attempt(context: dg.AssetExecutionContext) -> dict[dg.AssetKey, dict[str, str]]:
    """Return the input versions of every asset of a step, as they were when this attempt called first.

    That is before the inputs are read: one that is replaced meanwhile makes the result outdated. The stores remember
    the values that the step will replace: they replace no others.
    """
    global _begun  # noqa: PLW0603 - a process executes one step at a time
    attempt = context.run.run_id, context.op_execution_context.op.name, context.retry_number
    if _begun[0] != attempt:
        end_if_given_up(lambda: is_given_up(context))
        _begun = attempt, _look_at_values(context)
    return _begun[1]


def _look_at_values(context: dg.AssetExecutionContext) -> dict[dg.AssetKey, dict[str, str]]:
    """Let the stores remember the values of a step, and return its input versions."""
    partition = context.partition_key if context.has_partition_key else None
    for key in context.selected_asset_keys:
        manager = getattr(context.resources, context.assets_def.get_io_manager_key_for_asset_key(key), None)
        if isinstance(manager, PervlIOManager):
            manager.store.begin(manager.locate(key, partition))
    versions = InputVersions(context.job_def.asset_layer.asset_graph, context.instance, context.selected_asset_keys)
    return {key: versions.describe(key, partition) for key in context.selected_asset_keys}


def _find_context() -> dg.AssetExecutionContext | None:
    try:
        return dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # an asset check, or a body that a test calls
        return None


def _leave_if_given_up() -> None:
    if context := _find_context():
        leave_if_given_up(context)


class InputVersions:
    """Data versions of the inputs of assets, as they are now. Each input is read once, all in one query if possible.

    Dagster compares inputs too, but none that has 100 partitions or more, and no input that is older than the result.
    """

    def __init__(self, graph: BaseAssetGraph[Any], instance: dg.DagsterInstance, keys: Collection[dg.AssetKey]) -> None:
        """Read the inputs of these assets."""
        self._graph = graph
        inputs = {parent for key in keys for parent in graph.get(key).parent_keys}
        split = [key for key in inputs if graph.get(key).partitions_def]
        self._versions = read_data_versions(instance, inputs.difference(split), split)

    def describe(self, key: dg.AssetKey, partition: str | None) -> dict[str, str]:
        """Return one hash per input of a value, over the data versions of all partitions that it is made from.

        Example: `{"ytvos/concepts": "3f0c9b51a2d4e678"}`. An input of the same partitions is one partition of it.
        """
        own, described = self._graph.get(key).partitions_def, {}
        for parent in sorted(self._graph.get(key).parent_keys):
            split = self._graph.get(parent).partitions_def
            partitions = [partition] if split == own else list(split.get_partition_keys()) if split else [None]
            versions = [[one, self._versions.get((parent, one))] for one in partitions]
            described[parent.to_user_string()] = hash_bytes(json.dumps(versions).encode())[:16]
        return described


def describe_settings(
    resources: Mapping[str, Any], key: dg.AssetKey | None = None, uses: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the settings that results depend on, by the key of their resource.

    Example: `{"workspace": {"profile": "demo", "top_objects": 30, …}}`. The settings of `clip` are those of the encoder
    that the asset is named after, with its device and precision, the size and time of its weights, and the versions of
    its libraries. Nothing heavy is loaded to compare them.

    Args:
        resources: The resources that an asset uses, by their keys.
        key: The asset, e.g. `inversion/ENCODER/coco_image_features`.
        uses: See `record_step`.
    """
    described = {}
    for name in sorted(resources):
        without = _WITHOUT_EFFECT.get(name, set())
        if "*" in without:
            continue
        described[name] = resources[name].model_dump(mode="json", exclude=without)
        if name == "workspace" and uses is not None:
            described[name] = {field: value for field, value in described[name].items() if field in uses}
            if prompts := described[name].get("training_prompts"):
                described[name]["training_prompts"] = _stat_files([Path(prompts)])
        if name == "clip":
            described[name] |= _describe_clip(resources[name], key)
    return described


def _describe_clip(clip: Any, key: dg.AssetKey | None) -> dict[str, Any]:
    encoders = parse_encoders(clip.encoders)
    pair = next((encoders[part] for part in (key.path[1:-1] if key else ()) if part in encoders), None)
    model, pretrained = pair or (clip.model, clip.pretrained)
    return {
        "model": model,
        "pretrained": pretrained,
        "preprocessing": "model" if pair or (key and key.path[0] in AS_PUBLISHED) else clip.preprocessing,
        "device": (device := _resolve_device(clip.device)),
        "precision": clip.precision or ("fp16" if device == "cuda" else "fp32"),
        "weights": _stat_weights(model, pretrained),
        "libraries": {library: version(library) for library in _CLIP_LIBRARIES},
    }


def _resolve_device(device: str) -> str:
    """Return `cpu` or `cuda`; `auto` is resolved by the driver, because importing torch takes seconds."""
    if device == "auto":
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        return "cuda" if _DRIVER.exists() and not hidden else "cpu"
    return device.partition(":")[0]


def _stat_weights(model: str, pretrained: str) -> list[list[Any]]:
    """Return name, size and mtime (ns) of local model files. Files downloaded by open_clip are not included."""
    folder, weights = Path(model).expanduser(), Path(pretrained).expanduser()
    return _stat_files([*(sorted(folder.iterdir()) if folder.is_dir() else []), weights])


def _stat_files(files: Iterable[Path]) -> list[list[Any]]:
    return [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files if file.is_file()]
