"""Check results and metadata of materializations: downloads, durations, images.

Metadata of the value itself comes from `describe` of its IO manager.
"""

import base64
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.downloads import Fetched
from pervl_assets.core.text import escape_markdown
from pervl_assets.io_managers.metadata import preview_table

OWNERS: Final = ["team:pervl"]

_CHECKED_ROWS: Final = 50
_LARGEST_IMAGE: Final = 100_000
"""Characters of markdown. Dagster keeps metadata in its event log, which larger images would slow down."""


def describe_download(fetched: Fetched | None) -> dict[str, Any]:
    """Return the metadata of a download. Empty if nothing was requested."""
    if fetched is None or fetched.record is None:
        return {"download": "put there by hand"} if fetched else {}
    metadata = {"download": fetched.outcome, "received_bytes": fetched.received, "url": fetched.record.url}
    return {**metadata, "not_revalidated": fetched.stale} if fetched.stale else metadata


def make_check_result(
    name: str | None, passed: bool, text: str, *, is_error: bool = False, **more: Any
) -> dg.AssetCheckResult:
    """Return the result of an asset check.

    Args:
        name: Name of the check, or None inside a function that is one check.
        passed: Whether it passed.
        text: The finding with counts and names, and what to do. Plain text, which is escaped for the UI.
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
    shown = format_image(data, alt, mime)
    if len(shown) > _LARGEST_IMAGE:
        return dg.MetadataValue.text(f"{alt}: {len(data):,} bytes, too large for the event log")
    return dg.MetadataValue.md(shown)


def format_image(data: bytes, alt: str, mime: str) -> str:
    """Return an image as markdown, with its bytes."""
    return f"![{escape_markdown(alt)}](data:{mime};base64,{base64.b64encode(data).decode()})"
