"""The checks of features that can be run by themselves: drift and ids.

None of them is partitioned: of a partitioned asset, the UI of Dagster 1.13 runs only such a check without
materializing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import dagster as dg

from pervl_assets.archives.members import open_members
from pervl_assets.clip.drift import SAMPLE_SIZE, compare_vectors, take_sample
from pervl_assets.clip.encode_images import encode_image_shard
from pervl_assets.clip.features import Features, encode_names
from pervl_assets.clip.merge import merge_features
from pervl_assets.core.errors import PervlError, SchemaError
from pervl_assets.core.files import PARTIAL
from pervl_assets.dagster_private import read_check_history
from pervl_assets.defs.checks import FAILED_PARTITIONS, to_check_result
from pervl_assets.defs.features import (
    IMAGE_FEATURES,
    INVERSION,
    TEXT_FEATURES,
    find_encoder,
    name_key,
    name_shards,
)
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.defs.placement import GPU_POOL
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.inversion.checks import check_ids
from pervl_assets.inversion.image_lists import ImageLists
from pervl_assets.inversion.sources import COCO_TRAIN2014, locate_image
from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.image_lists import ImageListsIOManager

DRIFT_PROBE: Final = "drift_probe"
IDS_AND_VECTORS: Final = "ids_and_vectors"

_DRIFT: Final = (
    f"A fixed sample of {SAMPLE_SIZE} stored vectors is encoded again and compared with what is stored. An error "
    "where a cosine is below the bound of the precision; a warning where vectors moved beyond its tolerance only. Run "
    "by itself it loads the model; in a run that materializes the features only if it failed before."
)
_HISTORY: Final = 20


def build_feature_checks(shards: int, encoder: str | None = None) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the features of an encoder. Arguments as of `build_features`."""
    images, *texts = (name_key(name, encoder) for name in (IMAGE_FEATURES, *TEXT_FEATURES))
    return [
        _build_ids_check(images, shards),
        _build_drift_check(images, name_shards(shards)),
        *(_build_drift_check(key, [None]) for key in texts),
    ]


def _build_ids_check(key: dg.AssetKey, shards: int) -> dg.AssetChecksDefinition:
    """Return the check that ids and vectors of the image features belong together."""

    @dg.asset_check(
        asset=key,
        name=IDS_AND_VECTORS,
        additional_ins={
            "images": dg.AssetIn([INVERSION, "coco_object_sentences"], input_manager_key=ImageListsIOManager.key)
        },
        description="Every image that the sentences name occurs once in its shard, with a finite vector or, with a "
        "reason, among the rejected. No other image does. Each file is as it was written. Loads no model.",
    )
    @record_step
    def ids_and_vectors(workspace: Workspace, images: ImageLists) -> dg.AssetCheckResult:
        unreadable, stored = list[str](), FeaturesIOManager(data=workspace.data)

        def read() -> Iterator[tuple[str, Features, list[str]]]:
            for shard in name_shards(shards):
                if not stored.exists(key, shard):
                    continue
                try:
                    features = stored.read(key, shard)
                    yield shard, features, images.read_ids(shard).to_list()
                except SchemaError as error:
                    unreadable.append(str(error))

        found = check_ids(read(), shards)
        if unreadable:
            text = "; ".join(unreadable)
            result = make_check_result(None, passed=False, text=text, is_error=True, unreadable=len(unreadable))
        else:
            result = to_check_result(None, found, "error")
        failed = [] if result.passed else name_shards(shards)
        return result._replace(metadata={**result.metadata, FAILED_PARTITIONS: dg.MetadataValue.json(failed)})

    return ids_and_vectors


def _build_drift_check(key: dg.AssetKey, partitions: Sequence[str | None]) -> dg.AssetChecksDefinition:
    """Return the drift check of features, over all partitions that are materialized."""

    @dg.asset_check(asset=key, name=DRIFT_PROBE, description=_DRIFT, pool=GPU_POOL)
    @record_step
    def drift_probe(context: dg.AssetCheckExecutionContext, workspace: Workspace, clip: Clip) -> dg.AssetCheckResult:
        if _was_materialized(context, key) and not _failed_before(context.instance, dg.AssetCheckKey(key, DRIFT_PROBE)):
            text = "The features were materialized in this run. Run this check by itself to encode a sample again"
            return make_check_result(None, passed=True, text=text)
        try:
            stored = FeaturesIOManager(data=workspace.data)
            there = [partition for partition in partitions if stored.exists(key, partition)]
            samples = [take_sample(stored.read(key, partition)) for partition in there]  # one shard in memory
            if not samples:
                text = "nothing is materialized, so there is nothing to encode again"
                return make_check_result(None, passed=False, text=text)
            sample = take_sample(merge_features(samples))
            return to_check_result(None, *compare_vectors(sample, _encode_again(sample, key, workspace, clip)))
        except PervlError as error:
            return make_check_result(None, passed=False, text=str(error), is_error=True)

    return drift_probe


def _encode_again(sample: Features, key: dg.AssetKey, workspace: Workspace, clip: Clip) -> Features:
    encoder = find_encoder(key)
    if key.path[-1] in TEXT_FEATURES:
        return encode_names(clip.load(encoder), sample.ids)
    images = [(image_id, locate_image(image_id)) for image_id in sample.ids]
    passport, size = clip.describe(encoder), clip.batch_size
    with open_members(workspace.find_raw(COCO_TRAIN2014)) as members, TemporaryDirectory(suffix=PARTIAL) as work:
        return encode_image_shard(images, members, passport, lambda: clip.load(encoder), Path(work), batch_size=size)


def _was_materialized(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> bool:
    """Return whether this run has materialized an asset, so that its vectors have today's passport."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    records = context.instance.get_records_for_run(context.run.run_id, of_type=kind).records
    return any(record.event_log_entry.get_dagster_event().asset_key == key for record in records)


def _failed_before(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> bool:
    """Return whether a check failed when it was evaluated last, so that only another probe may let it pass."""
    evaluations = (record.evaluation for record in read_check_history(instance, check, _HISTORY))
    return next((not one.passed for one in evaluations if isinstance(one, dg.AssetCheckEvaluation)), False)
