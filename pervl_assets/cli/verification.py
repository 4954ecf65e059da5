"""What is on disk, re-read and held against its manifests.

Belongs here: one way to verify for each kind of value. Does not belong here: repairing; `pervl materialize` does that.
Tables and features carry the hash of their content in the Parquet file; a tree has its ledger; a training file has a
manifest under `assets/`; a raw input has its identity card.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.clip.features import verify_features
from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import PARTIAL, hash_file
from pervl_assets.core.tables import CONTENT_SHA256, hash_frame
from pervl_assets.defs.raw import ANNOTATIONS_KEY, identify_annotations
from pervl_assets.defs.release import CROISSANT_KEY
from pervl_assets.defs.run_results import name_partition
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.training_files import read_manifest
from pervl_assets.io_managers.trees import read_tree
from pervl_assets.trees.ledger import TreeDiff, verify_tree


@dataclass(frozen=True)
class VerifyResult:
    """What re-reading one value showed.

    Attributes:
        asset: Asset key, with the partition in brackets.
        files: How many files were re-read; 0: the value has not been materialized.
        bytes: Their size.
        verdict: Names of what is missing, changed or extra.
    """

    asset: str
    files: int
    bytes: int
    verdict: TreeDiff


_NOTHING: Final = TreeDiff(missing=[], changed=[], extra=[])


def verify_values(defs: dg.Definitions, data: Path) -> Iterator[VerifyResult]:
    """Re-read every value of the graph that has been materialized, and what unfinished work was left behind."""
    graph = defs.resolve_asset_graph()
    for key in sorted(graph.materializable_asset_keys):
        kind = _KINDS[_name_io_manager(graph, key)]
        for partition in _list_partitions(graph, key):
            path = locate_value(data, key.path, kind.extension, partition)
            name = name_partition(key.to_user_string(), partition)
            if path.is_file():
                yield kind.verify(name, data, path)
            elif _is_used(graph, key, partition, data):
                yield VerifyResult(name, 1, 0, TreeDiff(missing=[str(path.relative_to(data))], changed=[], extra=[]))
            else:
                yield VerifyResult(name, 0, 0, _NOTHING)
    left = sorted(str(path.relative_to(data)) for path in data.rglob(f"*{PARTIAL}*"))
    if left:
        yield VerifyResult("unfinished work", len(left), 0, TreeDiff(missing=[], changed=[], extra=left))


def _is_used(graph: Any, key: dg.AssetKey, partition: str | None, data: Path) -> bool:
    """Tell whether a value was made from this one: then it was there, for only the release can leave it out.

    An asset of the same partitions is made from the one of its own name; any other, from all of them.
    """
    partitioning = graph.get(key).partitions_def
    return any(
        locate_value(data, child.path, _KINDS[_name_io_manager(graph, child)].extension, other).is_file()
        for child in graph.get(key).child_keys - {CROISSANT_KEY}
        for other in _list_partitions(graph, child)
        if graph.get(child).partitions_def != partitioning or other == partition
    )


def _list_partitions(graph: Any, key: dg.AssetKey) -> list[str | None]:
    """Return an asset's partitions; one without a name for an asset that has none."""
    partitioning = graph.get(key).partitions_def
    return [*partitioning.get_partition_keys()] if partitioning else [None]


def _name_io_manager(graph: Any, key: dg.AssetKey) -> str:
    """Return the key of the IO manager that keeps an asset's value."""
    return str(graph.get(key).assets_def.get_io_manager_key_for_asset_key(key))


def _judge_file(name: str, path: Path, data: Path, *, unchanged: bool) -> VerifyResult:
    shown = str(path.relative_to(data))
    verdict = _NOTHING if unchanged else TreeDiff(missing=[], changed=[shown], extra=[])
    return VerifyResult(name, 1, path.stat().st_size, verdict)


def _verify_table(name: str, data: Path, path: Path) -> VerifyResult:
    try:
        stated = pl.read_parquet_metadata(path).get(CONTENT_SHA256)
        unchanged = stated is not None and hash_frame(pl.read_parquet(path)) == stated
    except pl.exceptions.PolarsError:
        unchanged = False
    return _judge_file(name, path, data, unchanged=unchanged)


def _verify_features(name: str, data: Path, path: Path) -> VerifyResult:
    try:
        verify_features(path)
    except PervlError:
        return _judge_file(name, path, data, unchanged=False)
    return _judge_file(name, path, data, unchanged=True)


def _verify_tree(name: str, data: Path, path: Path) -> VerifyResult:
    try:
        tree = read_tree(data, path)
        return VerifyResult(name, tree.written, tree.bytes, verify_tree(tree.root, tree.ledger))
    except (pl.exceptions.PolarsError, KeyError):  # no ledger, or a damaged one
        return _judge_file(name, path, data, unchanged=False)


def _verify_training_file(name: str, data: Path, path: Path) -> VerifyResult:
    try:
        written = read_manifest(path)
    except (ValueError, TypeError):
        return _judge_file(name, path, data, unchanged=False)
    target = data / written.file
    if not target.is_file():
        return VerifyResult(name, 1, 0, TreeDiff(missing=[written.file], changed=[], extra=[]))
    return _judge_file(name, target, data, unchanged=hash_file(target) == written.sha256)


def _verify_raw_archive(name: str, data: Path, path: Path) -> VerifyResult:
    """Draw up the identity card again and compare it; of an archive this reads its directory, not its members."""
    try:
        archive = RawArchive.from_json(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError):
        return _judge_file(name, path, data, unchanged=False)
    shown = str(archive.path)
    if not archive.path.exists():
        return VerifyResult(name, archive.card.members, 0, TreeDiff(missing=[shown], changed=[], extra=[]))
    annotations = name == ANNOTATIONS_KEY.to_user_string()
    try:
        card = identify_annotations(archive.path).card if annotations else identify(archive.path)
    except PervlError:  # a zip without a directory that can be trusted
        return VerifyResult(name, 1, 0, TreeDiff(missing=[], changed=[shown], extra=[]))
    verdict = _NOTHING if card == archive.card else TreeDiff(missing=[], changed=[shown], extra=[])
    return VerifyResult(name, 1 if card.kind != "folder" else card.members, card.bytes, verdict)


@dataclass(frozen=True)
class _Kind:
    """How one kind of value is verified, and the extension of the file that says what it should be."""

    extension: str
    verify: Callable[[str, Path, Path], VerifyResult]


_KINDS: Final = {
    "tables": _Kind(".parquet", _verify_table),
    "features": _Kind(".parquet", _verify_features),
    "trees": _Kind(".parquet", _verify_tree),
    "training_files": _Kind(".json", _verify_training_file),
    "raw_archives": _Kind(".json", _verify_raw_archive),
}
"""By the key of the IO manager that keeps the value."""
