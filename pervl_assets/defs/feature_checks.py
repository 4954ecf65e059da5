"""The checks of features that can be run by themselves: the drift probe, and ids against vectors.

Belongs here: loading what is stored, and the archive or the names behind it. None of them has partitions of its own:
of a partitioned asset, the UI of Dagster 1.13 executes only such a check without materializing. Does not belong here:
what is judged (`pervl_assets.inversion`), and how a drift is shown (`drift_checks`).
"""

from collections.abc import Iterator
from typing import Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import RawArchive
from pervl_assets.archives.members import open_members
from pervl_assets.clip.drift import merge_drifts
from pervl_assets.clip.drift_probe import SAMPLE_SIZE, probe_images, probe_names, share_sample, take_sample
from pervl_assets.clip.features import Features, assign_images, read_features, select_images, verify_features
from pervl_assets.core.errors import SchemaError
from pervl_assets.defs.checks import report
from pervl_assets.defs.drift_checks import DRIFT_PROBE, report_drift, review_run
from pervl_assets.defs.features import (
    CLASS_FEATURES_KEY,
    GPU_TAGS,
    IMAGE_FEATURES_KEY,
    INVERSION,
    name_shards,
    read_class_features,
)
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.tree_checks import SUMS_HOLD
from pervl_assets.inversion.checks import check_ids
from pervl_assets.io_managers.base import locate_value

IDS_AND_VECTORS: Final = "ids_and_vectors"

_DRIFT: Final = (
    f"A fixed sample of {SAMPLE_SIZE} of the stored vectors is encoded again by the encoder of today and held against "
    "what is stored. An error where a cosine is below the bound of the precision, or nearest object classes change "
    "beyond its tolerance; a warning where vectors move beyond the tolerance only. By itself it loads the model; in a "
    "run that materializes the features it tells what that run found before it replaced any."
)


def build_feature_checks(shards: int) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the image features, in so many shards, and of both text features."""
    texts = (CLASS_FEATURES_KEY, dg.AssetKey([INVERSION, "openimages_text_features"]))
    return [
        build_ids_check(shards),
        build_image_drift_check(shards),
        *(build_name_drift_check(key) for key in texts),
        *(build_file_check(key) for key in texts),
    ]


def build_file_check(key: dg.AssetKey) -> dg.AssetChecksDefinition:
    """Return the check that the file of a text features' asset is as it was written."""

    @dg.asset_check(
        asset=key,
        name=SUMS_HOLD,
        description="The file holds the vectors whose hash was written with them. Loads no model.",
    )
    def sums_hold(workspace: Workspace) -> dg.AssetCheckResult:
        path = locate_value(workspace.root, key.path, ".parquet")
        try:
            vectors = len(verify_features(path).ids)
        except (SchemaError, FileNotFoundError) as error:
            return make_check_result(None, passed=False, text=str(error), is_error=True)
        text = f"{vectors:,} vectors re-read; all are as they were written"
        return make_check_result(None, passed=True, text=text, vectors=vectors)

    return sums_hold


def build_ids_check(shards: int) -> dg.AssetChecksDefinition:
    """Return the check that ids and vectors of the image features belong together."""

    @dg.asset_check(
        asset=IMAGE_FEATURES_KEY,
        name=IDS_AND_VECTORS,
        additional_ins={"coco_object_sentences": dg.AssetIn([INVERSION, "coco_object_sentences"])},
        description="Every image that the sentences name stands once in its shard, with a finite vector or, with a "
        "reason, among the rejected; no other image does; and each file is as it was written. Loads no model.",
    )
    def ids_and_vectors(workspace: Workspace, coco_object_sentences: pl.DataFrame) -> dg.AssetCheckResult:
        unreadable: list[str] = []

        def read() -> Iterator[tuple[str, Features, list[str]]]:
            assigned = assign_images(coco_object_sentences, shards)
            for number, shard in enumerate(name_shards(shards)):
                path = locate_value(workspace.root, IMAGE_FEATURES_KEY.path, ".parquet", shard)
                if path.is_file():
                    try:
                        yield shard, verify_features(path), select_images(assigned, number)
                    except SchemaError as error:
                        unreadable.append(str(error))

        found = check_ids(read(), shards)
        if unreadable:
            return make_check_result(
                None, passed=False, text="; ".join(unreadable), is_error=True, unreadable=len(unreadable)
            )
        return report(None, found, "error")

    return ids_and_vectors


def build_image_drift_check(shards: int) -> dg.AssetChecksDefinition:
    """Return the drift probe of the image features; it looks at all shards that are materialized."""

    @dg.asset_check(
        asset=IMAGE_FEATURES_KEY,
        name=DRIFT_PROBE,
        additional_ins={"coco_train2014": dg.AssetIn([RAW, "coco_train2014"])},
        additional_deps=[CLASS_FEATURES_KEY],
        description=_DRIFT,
        pool="gpu",
        op_tags=GPU_TAGS,
    )
    def drift_probe(
        context: dg.AssetCheckExecutionContext, workspace: Workspace, clip: Clip, coco_train2014: RawArchive
    ) -> dg.AssetCheckResult:
        return review_run(context, IMAGE_FEATURES_KEY) or probe_stored_images(workspace, clip, coco_train2014, shards)

    return drift_probe


def probe_stored_images(workspace: Workspace, clip: Clip, archive: RawArchive, shards: int) -> dg.AssetCheckResult:
    """Encode a sample over all shards that are there again; reads one shard at a time."""
    paths = [locate_value(workspace.root, IMAGE_FEATURES_KEY.path, ".parquet", shard) for shard in name_shards(shards)]
    try:
        parts = [take_sample(read_features(path)) for path in paths if path.is_file()]
    except SchemaError as error:
        return make_check_result(None, passed=False, text=str(error), is_error=True)
    if not parts:
        return _report_nothing()
    classes, encoder = read_class_features(workspace), clip.load()
    with open_members(archive) as members:
        drifts = [
            probe_images(part, members, encoder, classes, batch_size=clip.batch_size) for part in share_sample(parts)
        ]
    return report_drift(merge_drifts(drifts))


def build_name_drift_check(key: dg.AssetKey) -> dg.AssetChecksDefinition:
    """Return the drift probe of text features; nearest classes are counted for names other than the classes' own."""

    @dg.asset_check(
        asset=key,
        name=DRIFT_PROBE,
        additional_deps=[CLASS_FEATURES_KEY] if key != CLASS_FEATURES_KEY else None,
        description=_DRIFT,
        pool="gpu",
        op_tags=GPU_TAGS,
    )
    def drift_probe(context: dg.AssetCheckExecutionContext, workspace: Workspace, clip: Clip) -> dg.AssetCheckResult:
        return review_run(context, key) or probe_stored_names(workspace, clip, key)

    return drift_probe


def probe_stored_names(workspace: Workspace, clip: Clip, key: dg.AssetKey) -> dg.AssetCheckResult:
    """Encode a sample of the names of a text features' asset again."""
    path = locate_value(workspace.root, key.path, ".parquet")
    if not path.is_file():
        return _report_nothing()
    try:
        stored = take_sample(read_features(path))
    except SchemaError as error:
        return make_check_result(None, passed=False, text=str(error), is_error=True)
    classes = read_class_features(workspace) if key != CLASS_FEATURES_KEY else None
    return report_drift(probe_names(stored, clip.load(), classes))


def _report_nothing() -> dg.AssetCheckResult:
    return make_check_result(None, passed=False, text="nothing is materialized, so there is nothing to encode again")
