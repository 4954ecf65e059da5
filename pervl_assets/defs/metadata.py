"""What every materialization tells: counts, bytes, seconds, previews, pictures, and a content hash as data version.

Belongs here: turning a value into a `MaterializeResult`. Does not belong here: computing the value, or a rule about it.
Numbers are told as numbers under names that stay, for the UI plots them over time.
"""

import base64
import functools
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.downloads import Fetched
from pervl_assets.archives.inputs import RawArchive
from pervl_assets.clip.features import Features, list_feature_columns
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.tables import hash_frame
from pervl_assets.io_managers.base import SECONDS
from pervl_assets.io_managers.tables import declare_columns
from pervl_assets.trees.ledger import FolderTree

OWNERS: Final = ["team:pervl"]

ROWS: Final = "dagster/row_count"
FILES: Final = "files"
BYTES: Final = "bytes"
QUARANTINED: Final = "quarantined"
MISSING: Final = "missing"

_PREVIEW_ROWS: Final = 8
_CHECKED_ROWS: Final = 50
_LONGEST_CELL: Final = 80
_LARGEST_PICTURE: Final = 100_000
"""Bytes of base64: Dagster keeps metadata in its event log, which larger pictures would slow down."""


def record_duration(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Let what an asset's body gives tell the seconds of its own work, which the UI plots over time.

    Own work is what the body does, and the writing of its value, which `PervlIOManager` adds; loading inputs is not. A
    body that yields several results tells in each what it did since the one before, so that they add up.
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


def describe_archive(
    archive: RawArchive, *, checks: Sequence[dg.AssetCheckResult] = (), **more: Any
) -> dg.MaterializeResult[RawArchive]:
    """Materialize a raw input: its identity card as metadata, the card's hash as data version."""
    card = archive.card
    return dg.MaterializeResult(
        value=archive,
        data_version=dg.DataVersion(card.sha256[:16]),
        metadata={
            BYTES: card.bytes,
            FILES: card.members,
            "kind": card.kind,
            "encrypted": card.encrypted,
            "identity_sha256": card.sha256,
            **more,
        },
        check_results=checks,
    )


def describe_download(fetched: Fetched | None) -> dict[str, Any]:
    """Return what is told of a download; nothing where nothing was asked."""
    if fetched is None or fetched.record is None:
        return {"download": "put there by hand"} if fetched else {}
    told = {"download": fetched.outcome, "received_bytes": fetched.received, "url": fetched.record.url}
    return {**told, "not_revalidated": fetched.stale} if fetched.stale else told


def describe_table(
    frame: pl.DataFrame,
    *,
    asset_key: dg.AssetKey | None = None,
    checks: Sequence[dg.AssetCheckResult] = (),
    **more: Any,
) -> dg.MaterializeResult[pl.DataFrame]:
    """Materialize a table: row count and first rows as metadata, the content's hash as data version."""
    return dg.MaterializeResult(
        asset_key=asset_key,
        value=frame,
        data_version=dg.DataVersion(hash_frame(frame)[:16]),
        metadata={ROWS: frame.height, "preview": preview_table(frame), **more},
        check_results=checks,
    )


def describe_tree(
    tree: FolderTree, *, checks: Sequence[dg.AssetCheckResult] = (), **more: Any
) -> dg.MaterializeResult[FolderTree]:
    """Materialize a folder tree: counts as metadata, the hash of paths and contents as data version."""
    return dg.MaterializeResult(
        value=tree,
        data_version=dg.DataVersion(tree.content_hash[:16]),
        metadata={
            FILES: tree.written,
            BYTES: tree.bytes,
            QUARANTINED: tree.quarantined,
            MISSING: tree.missing,
            "folder": dg.MetadataValue.path(str(tree.root)),
            **more,
        },
        check_results=checks,
    )


def describe_features(
    features: Features, *, checks: Sequence[dg.AssetCheckResult] = (), **more: Any
) -> dg.MaterializeResult[Features]:
    """Materialize features: their counts and passport as metadata, their hash as data version."""
    return dg.MaterializeResult(
        value=features,
        data_version=dg.DataVersion(features.hash()[:16]),
        metadata={**summarize_features(features), **more},
        check_results=checks,
    )


def summarize_features(features: Features) -> dict[str, Any]:
    """Return what is told of features: columns, rows, bytes of the vectors, rejected images, the passport."""
    rejected = features.rejected
    return {
        **declare_columns(list_feature_columns(dimension=features.passport.dimension)),
        ROWS: len(features.ids),
        BYTES: features.vectors.nbytes,
        QUARANTINED: int((rejected["status"] == "quarantined").sum()),
        MISSING: int((rejected["status"] == "missing").sum()),
        "rejected": preview_table(rejected, rows=50),
        "passport": dg.MetadataValue.json(json.loads(features.passport.to_json())),
    }


def make_check_result(
    name: str | None, passed: bool, text: str, *, is_error: bool = False, **numbers: Any
) -> dg.AssetCheckResult:
    """Return the result of an asset check.

    Args:
        name: Name of the check; None within a check of its own, which has one.
        passed: Whether it passed.
        text: What was found, with counts and names, and what to do.
        is_error: Whether not passing is an error; else it is a warning.
        numbers: What else is shown: numbers, and frames of rows concerned, of which the first are shown, if any.
    """
    frames = {key: value for key, value in numbers.items() if isinstance(value, pl.DataFrame)}
    shown = {key: preview_table(frame, rows=_CHECKED_ROWS) for key, frame in frames.items() if frame.height}
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={**{key: value for key, value in numbers.items() if key not in frames}, **shown},
    )


def preview_table(
    frame: pl.DataFrame, rows: int = _PREVIEW_ROWS, longest: int | None = _LONGEST_CELL
) -> dg.MetadataValue:
    """Return a table's first rows as markdown: numbers to the right, to four significant figures; long cells cut."""
    if frame.is_empty():
        return dg.MetadataValue.md("*no rows*")
    rule = "".join(" ---: |" if dtype.is_numeric() else " --- |" for dtype in frame.dtypes)
    lines = ["| " + " | ".join(frame.columns) + " |", f"|{rule}"]
    for row in frame.head(rows).iter_rows():
        lines.append("| " + " | ".join(_show(cell, longest) for cell in row) + " |")
    return dg.MetadataValue.md("\n".join(lines))


def _show(cell: object, longest: int | None) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    text = ", ".join(map(str, cell)) if isinstance(cell, list) else "" if cell is None else str(cell)
    text = text.replace("|", "\\|").replace("\n", " ")
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"


def embed_image(data: bytes, alt: str, mime: str = "image/jpeg") -> dg.MetadataValue:
    """Return a picture for the asset page: the UI draws markdown images from data addresses."""
    encoded = base64.b64encode(data).decode()
    if len(encoded) > _LARGEST_PICTURE:
        return dg.MetadataValue.text(f"{alt}: {len(data):,} bytes, too large for the event log")
    return dg.MetadataValue.md(f"![{alt}](data:{mime};base64,{encoded})")


def combine_versions(parts: Mapping[str, str]) -> dg.DataVersion:
    """Return one data version for several named contents."""
    return dg.DataVersion(hash_bytes("\n".join(f"{k} {v}" for k, v in sorted(parts.items())).encode())[:16])
