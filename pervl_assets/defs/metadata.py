"""Check results and metadata of materializations: downloads, durations, images.

What a materialization records of its value itself is `describe` of the value's IO manager.
"""

import base64
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.downloads import Fetched
from pervl_assets.core.text import escape_markdown
from pervl_assets.io_managers.metadata import (
    BYTES,
    FILES,
    MISSING,
    QUARANTINED,
    ROWS,
    SECONDS,
    preview_table,
)

__all__ = [
    "BYTES",
    "FILES",
    "MISSING",
    "OWNERS",
    "QUARANTINED",
    "ROWS",
    "describe_download",
    "embed_image",
    "make_check_result",
    "preview_table",
    "record_duration",
]

OWNERS: Final = ["team:pervl"]

_CHECKED_ROWS: Final = 50
_LARGEST_IMAGE: Final = 100_000
"""Bytes of base64. Dagster keeps metadata in its event log, which larger images would slow down."""


def record_duration(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Record the seconds of an asset's own work in its metadata, where the UI plots them over time.

    Own work is the body, and the writing of its value, which `PervlIOManager` adds, without loading inputs. A body that
    yields several results records in each the seconds since the one before, so that they add up.
    """

    def add_seconds(result: dg.MaterializeResult[Any], start: float) -> dg.MaterializeResult[Any]:
        seconds = round(time.perf_counter() - start, 3)
        return result._replace(metadata={SECONDS: seconds, **(result.metadata or {})})

    if not inspect.isgeneratorfunction(compute):

        @functools.wraps(compute)
        def time_result(*inputs: Any, **named: Any) -> dg.MaterializeResult[Any]:
            start = time.perf_counter()
            return add_seconds(compute(*inputs, **named), start)

        return time_result

    @functools.wraps(compute)
    def time_results(*inputs: Any, **named: Any) -> Iterator[dg.MaterializeResult[Any]]:
        start = time.perf_counter()
        for result in compute(*inputs, **named):
            yield add_seconds(result, start)
            start = time.perf_counter()  # what was yielded has been written meanwhile

    return time_results


def describe_download(fetched: Fetched | None) -> dict[str, Any]:
    """Return the metadata of a download; empty if nothing was requested."""
    if fetched is None or fetched.record is None:
        return {"download": "put there by hand"} if fetched else {}
    metadata = {"download": fetched.outcome, "received_bytes": fetched.received, "url": fetched.record.url}
    return {**metadata, "not_revalidated": fetched.stale} if fetched.stale else metadata


def make_check_result(
    name: str | None, passed: bool, text: str, *, is_error: bool = False, **more: Any
) -> dg.AssetCheckResult:
    """Return the result of an asset check.

    Args:
        name: Name of the check; None inside a function that is one check.
        passed: Whether it passed.
        text: The finding with counts and names, and what to do; plain text, which is escaped for the UI.
        is_error: Severity of a failure: error, else warning.
        more: Metadata: numbers under names that stay, and frames of the rows concerned, shown unless empty.
    """
    frames = {name: value for name, value in more.items() if isinstance(value, pl.DataFrame)}
    shown = {name: preview_table(frame, rows=_CHECKED_ROWS) for name, frame in frames.items() if frame.height}
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description=escape_markdown(text),
        metadata={**{name: value for name, value in more.items() if name not in frames}, **shown},
    )


def embed_image(data: bytes, alt: str, mime: str = "image/jpeg") -> dg.MetadataValue:
    """Return an image for the asset page: the UI draws markdown images from data URIs."""
    encoded = base64.b64encode(data).decode()
    if len(encoded) > _LARGEST_IMAGE:
        return dg.MetadataValue.text(f"{alt}: {len(data):,} bytes, too large for the event log")
    return dg.MetadataValue.md(f"![{escape_markdown(alt)}](data:{mime};base64,{encoded})")
