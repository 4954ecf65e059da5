"""The one decorator of asset bodies and asset checks: duration and settings as metadata, errors as `dg.Failure`."""

import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import dagster as dg

from pervl_assets.clip.checkpoints import parse_encoders
from pervl_assets.io_managers.metadata import SECONDS, show_errors

SETTINGS: Final = "settings"
"""Metadata of a materialization: the settings it was made with, see `describe_settings`."""

_WITHOUT_EFFECT: Final = {"workspace": {"data", "workers"}, "clip": {"batch_size"}, "downloads": {"*"}}
"""Fields of resources that change no result, by the key of the resource; `*`: all of its fields."""
_CLIP_LIBRARIES: Final = ("torch", "open_clip_torch", "pillow")


def record_step(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the body of an asset or of an asset check, below Dagster's own decorator.

    Every materialization gets the seconds of the body's own work and the settings of the resources it used. The IO
    manager adds the seconds of writing; loading inputs is not counted. A body that yields several results records in
    each the time since the one before. A `PervlError` becomes a `dg.Failure`, which Dagster shows without a stack.
    """

    def complete(result: Any, start: float, named: Mapping[str, Any]) -> Any:
        if not isinstance(result, dg.MaterializeResult):
            return result
        resources = {name: value for name, value in named.items() if isinstance(value, dg.ConfigurableResource)}
        settings = dg.MetadataValue.json(describe_settings(resources))
        recorded = {SECONDS: round(time.perf_counter() - start, 3), SETTINGS: settings}
        return result._replace(metadata={**recorded, **(result.metadata or {})})

    @functools.wraps(compute)
    def call(*inputs: Any, **named: Any) -> Any:
        with show_errors():
            start = time.perf_counter()
            return complete(compute(*inputs, **named), start, named)

    @functools.wraps(compute)
    def generate(*inputs: Any, **named: Any) -> Iterator[Any]:
        with show_errors():
            start = time.perf_counter()
            for result in compute(*inputs, **named):
                yield complete(result, start, named)
                start = time.perf_counter()  # Dagster wrote the result before it requested the next one

    return generate if inspect.isgeneratorfunction(compute) else call


def describe_settings(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that results depend on, by the key of their resource.

    Example: `{"workspace": {"profile": "demo", "top_objects": 30, …}}`. The settings of `clip` hold the size and time
    of the files of its weights and the versions of its libraries, so that nothing heavy is loaded to compare them.
    """
    described = {}
    for name in sorted(resources):
        without = _WITHOUT_EFFECT.get(name, set())
        if "*" in without:
            continue
        described[name] = resources[name].model_dump(mode="json", exclude=without)
        if name == "clip":
            described[name]["weights"] = _stat_weights(described[name])
            described[name]["libraries"] = {library: version(library) for library in _CLIP_LIBRARIES}
    return described


def _stat_weights(clip: Mapping[str, Any]) -> list[list[Any]]:
    """Return name, bytes and modification time (ns) of the files of models, but of those that open_clip downloads."""
    named = [clip.get("model"), clip.get("pretrained")]
    named += [text for pair in parse_encoders(clip.get("encoders") or "").values() for text in pair]
    paths = [Path(text).expanduser() for text in named if text]
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files if file.is_file()]
