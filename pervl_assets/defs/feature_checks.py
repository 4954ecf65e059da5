"""The checks of features that can be run by themselves: drift and ids.

None of them is partitioned: of a partitioned asset, the UI of Dagster 1.13 runs only such a check without
materializing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import RawArchive
from pervl_assets.archives.members import open_members
from pervl_assets.clip.drift import SAMPLE_SIZE, Drift, encode_again, measure_drift, take_sample
from pervl_assets.clip.features import Features, encode_names, merge_features
from pervl_assets.core.errors import PervlError, SchemaError
from pervl_assets.dagster_private import read_check_history
from pervl_assets.defs.checks import report
from pervl_assets.defs.features import (
    DRIFT,
    GPU_TAGS,
    IMAGE_FEATURES,
    INVERSION,
    REWRITTEN,
    TEXT_FEATURES,
    describe_drift,
    find_encoder,
    name_key,
    name_shards,
)
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.inversion.checks import check_ids
from pervl_assets.inversion.sources import assign_images, locate_image, select_images
from pervl_assets.io_managers.features import FeaturesIOManager

DRIFT_PROBE: Final = "drift_probe"
IDS_AND_VECTORS: Final = "ids_and_vectors"

_DRIFT: Final = (
    f"A fixed sample of {SAMPLE_SIZE} stored vectors is encoded again and compared with what is stored. An error "
    "where a cosine is below the bound of the precision; a warning where vectors moved beyond its tolerance only. Run "
    "by itself it loads the model; in a run that materializes the features it reports what moved before vectors were "
    "replaced."
)
_HISTORY: Final = 20


def build_feature_checks(shards: int, encoder: str | None = None) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the features of an encoder. Arguments as of `build_features`."""
    images, *texts = (name_key(name, encoder) for name in (IMAGE_FEATURES, *TEXT_FEATURES))
    return [
        _build_ids_check(images, shards),
        _build_image_drift_check(images, shards),
        *(_build_name_drift_check(key) for key in texts),
    ]


def _build_ids_check(key: dg.AssetKey, shards: int) -> dg.AssetChecksDefinition:
    """Return the check that ids and vectors of the image features belong together."""

    @dg.asset_check(
        asset=key,
        name=IDS_AND_VECTORS,
        additional_ins={"coco_object_sentences": dg.AssetIn([INVERSION, "coco_object_sentences"])},
        description="Every image that the sentences name occurs once in its shard, with a finite vector or, with a "
        "reason, among the rejected; no other image does; and each file is as it was written. Loads no model.",
    )
    @record_step
    def ids_and_vectors(workspace: Workspace, coco_object_sentences: pl.DataFrame) -> dg.AssetCheckResult:
        unreadable, stored = list[str](), FeaturesIOManager(data=workspace.data)

        def read() -> Iterator[tuple[str, Features, list[str]]]:
            assigned = assign_images(coco_object_sentences, shards)
            for number, shard in enumerate(name_shards(shards)):
                if not stored.exists(key, shard):
                    continue
                try:
                    features = stored.read(key, shard)
                    yield shard, features, [one for one, _ in select_images(assigned, number)]
                except SchemaError as error:
                    unreadable.append(str(error))

        found = check_ids(read(), shards)
        if unreadable:
            return make_check_result(
                None, passed=False, text="; ".join(unreadable), is_error=True, unreadable=len(unreadable)
            )
        return report(None, found, "error")

    return ids_and_vectors


def _build_image_drift_check(key: dg.AssetKey, shards: int) -> dg.AssetChecksDefinition:
    """Return the drift check of the image features, over all shards that are materialized."""

    @dg.asset_check(
        asset=key,
        name=DRIFT_PROBE,
        additional_ins={"coco_train2014": dg.AssetIn([RAW, "coco_train2014"])},
        description=_DRIFT,
        pool="gpu",
        op_tags=GPU_TAGS,
    )
    @record_step
    def drift_probe(
        context: dg.AssetCheckExecutionContext, workspace: Workspace, clip: Clip, coco_train2014: RawArchive
    ) -> dg.AssetCheckResult:
        def probe(sample: Features) -> Drift:
            names = [locate_image(image_id) for image_id in sample.ids]
            with open_members(coco_train2014) as members:
                return encode_again(sample, names, members, clip.load(find_encoder(key)), clip.batch_size)

        return _check_drift(context, workspace, key, name_shards(shards), probe)

    return drift_probe


def _build_name_drift_check(key: dg.AssetKey) -> dg.AssetChecksDefinition:
    """Return the drift check of text features."""

    @dg.asset_check(asset=key, name=DRIFT_PROBE, description=_DRIFT, pool="gpu", op_tags=GPU_TAGS)
    @record_step
    def drift_probe(context: dg.AssetCheckExecutionContext, workspace: Workspace, clip: Clip) -> dg.AssetCheckResult:
        def probe(sample: Features) -> Drift:
            again = encode_names(clip.load(find_encoder(key)), sample.ids)
            return measure_drift(sample, again.vectors, again.passport)

        return _check_drift(context, workspace, key, [None], probe)

    return drift_probe


def _check_drift(
    context: dg.AssetCheckExecutionContext,
    workspace: Workspace,
    key: dg.AssetKey,
    partitions: Sequence[str | None],
    probe: Callable[[Features], Drift],
) -> dg.AssetCheckResult:
    """Return what this run's materialization measured; in a run of the check by itself, measure what is stored."""
    if (reviewed := _review_run(context, key)) is not None:
        return reviewed
    try:
        stored = FeaturesIOManager(data=workspace.data)
        there = [partition for partition in partitions if stored.exists(key, partition)]
        samples = [take_sample(stored.read(key, partition)) for partition in there]  # one shard in memory
        if not samples:
            text = "nothing is materialized, so there is nothing to encode again"
            return make_check_result(None, passed=False, text=text)
        return _report_drift(probe(take_sample(merge_features(samples))))
    except PervlError as error:
        return make_check_result(None, passed=False, text=str(error), is_error=True)


def _review_run(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> dg.AssetCheckResult | None:
    """Return the result of a run that materialized the features; None for any other run.

    Such a run has compared a sample wherever it loaded the model. Where it did not, no vector has changed, and the last
    result of the same passport is repeated.
    """
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    records = context.instance.get_records_for_run(context.run.run_id, of_type=kind).records
    events = [record.event_log_entry.get_dagster_event() for record in records]
    made = [event.step_materialization_data.materialization for event in events if event.asset_key == key]
    if not made:
        return None
    alone = "Run this check by itself to encode a sample of the stored vectors again"
    metadata = made[-1].metadata
    if DRIFT in metadata:
        return _report_drift(_read_drift(metadata), is_replaced=True)
    if metadata[REWRITTEN].value:
        text = f"No vector was stored before that could have moved. {alone}"
        return make_check_result(None, passed=True, text=text, **{REWRITTEN: True})
    if last := _find_last(context.instance, dg.AssetCheckKey(key, DRIFT_PROBE)):
        return _report_drift(last, "Nothing was encoded in this run. Last result: ")
    return make_check_result(None, passed=True, text=f"Nothing was encoded in this run. {alone}", probed=0)


def _find_last(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> Drift | None:
    """Return the last drift of the vectors that are stored now from an encoder of their own passport."""
    for record in read_check_history(instance, check, _HISTORY):
        metadata = getattr(record.evaluation, "metadata", {})  # none while the check is only planned
        if DRIFT in metadata and not _read_drift(metadata).passport_differences:
            return _read_drift(metadata)
        if REWRITTEN in metadata and metadata[REWRITTEN].value:
            return None  # earlier results are of other vectors
    return None


def _read_drift(metadata: Mapping[str, Any]) -> Drift:
    return Drift(**metadata[DRIFT].value)


def _report_drift(drift: Drift, before: str = "", *, is_replaced: bool = False) -> dg.AssetCheckResult:
    replaced = is_replaced and bool(drift.passport_differences)  # else the moved vectors are kept
    passed, text = drift.check(replaced=replaced)
    return make_check_result(
        None,
        passed,
        before + text,
        is_error=drift.is_error and not replaced,
        sample=drift.sample,
        worst=pl.DataFrame(drift.worst, infer_schema_length=None),
        **describe_drift(drift, rewritten=replaced),
    )
