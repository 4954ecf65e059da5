"""CLIP features as assets: the GPU-tagged op `encode_images`, and the text features of both sets of names.

Belongs here: what runs an encoder, and how its progress is told. Does not belong here: encoding itself, which is
`pervl_assets.inversion`, and the tables around it, which are `defs.inversion`.
"""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import RawArchive
from pervl_assets.archives.members import open_members
from pervl_assets.clip.drift_probe import probe_images, probe_names
from pervl_assets.clip.encode_images import EncodeProgress, encode_image_shard
from pervl_assets.clip.feature_columns import list_feature_columns
from pervl_assets.clip.features import Features, assign_images, read_features, select_images, update_names
from pervl_assets.defs.checks import report
from pervl_assets.defs.drift_checks import ProbingLoader, describe_drift
from pervl_assets.defs.metadata import OWNERS, describe_features, record_duration
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.inversion.checks import check_names
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.features import locate_chunks
from pervl_assets.io_managers.tables import declare_columns

INVERSION: Final = "inversion"
IMAGE_FEATURES_KEY: Final = dg.AssetKey([INVERSION, "coco_image_features"])
CLASS_FEATURES_KEY: Final = dg.AssetKey([INVERSION, "coco_class_text_features"])
NAMES_AND_VECTORS: Final = "names_and_vectors"

_REPORT_SECONDS: Final = 2.0

GPU_TAGS: Final = {
    "pervl/device": "gpu",
    # What the Kubernetes and Ray executors read of an op; the executors of one machine pass them over.
    "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
    "dagster-ray/config": {"num_cpus": 2, "num_gpus": 1},
}


_IMAGE_FEATURES: Final = """\
CLIP features of the images that the object classes name: id text, vector (D float32, not normalised).

Unless `PERVL_PREPROCESSING` says otherwise, the shorter side is resized to 300 (PIL bicubic, in the image's own mode),
the centre 224 x 224 cropped, then RGB, CLIP mean and deviation, `encode_image`. Each shard carries its embedding
passport: model, sha256 of the weights, preprocessing, precision, device, versions. An image belongs to the same shard
on every machine."""


def name_shards(shards: int) -> list[str]:
    """Return the partition keys of the image features, in text order: `0-of-8` to `7-of-8`, `00-of-16` and so on."""
    width = len(str(shards - 1))
    return [f"{shard:0{width}d}-of-{shards}" for shard in range(shards)]


def count_shards(shard: str) -> int:
    """Return how many shards there are, which the name of each tells."""
    return int(shard.rpartition("-")[2])


@dg.op(
    pool="gpu",
    tags=GPU_TAGS,
    code_version="1",
    out=dg.Out(io_manager_key="features"),
)
@record_duration
def encode_images(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    clip: Clip,
    coco_train2014: RawArchive,
    coco_object_sentences: pl.DataFrame,
) -> dg.MaterializeResult[Features]:
    """Encode the images of one shard with CLIP. The model is loaded only if there is work for it.

    Where it is loaded and the shard was stored before, a sample of it is encoded again before any vector is replaced.
    """
    shard = context.partition_key
    target = locate_value(workspace.root, context.asset_key.path, ".parquet", shard)
    progress = EncodingReport(context.log.info, f"shard {shard}")
    previous, probing, probe = _read_stored(target), ProbingLoader(), None
    if previous is not None:
        classes = read_class_features(workspace)
        probe = functools.partial(probe_images, previous, classes=classes, batch_size=clip.batch_size)
    assigned = assign_images(coco_object_sentences, count_shards(shard))
    with open_members(coco_train2014) as members:
        features = encode_image_shard(
            select_images(assigned, int(shard.partition("-of-")[0])),
            members,
            clip.describe(),
            probing.wrap(clip.load, probe and functools.partial(probe, members)),
            locate_chunks(target),
            previous=previous,
            batch_size=clip.batch_size,
            workers=workspace.workers,
            report=progress,
        )
    numbers = {**progress.rates, **describe_drift(probing.drift, rewritten=features is not previous)}
    return describe_features(features, **numbers)


def _read_stored(path: Path) -> Features | None:
    return read_features(path) if path.is_file() else None


def read_class_features(workspace: Workspace) -> Features | None:
    """Return the text features of the object classes as they are stored; None: they have not been materialized."""
    return _read_stored(locate_value(workspace.root, CLASS_FEATURES_KEY.path, ".parquet"))


class EncodingReport:
    """Logs how the encoding comes along, at most once in two seconds and at its end; keeps the rates it ended with."""

    def __init__(self, say: Callable[[str], None], what: str) -> None:
        self._say, self._what, self._last = say, what, 0.0
        self.rates: dict[str, float] = {}

    def __call__(self, now: EncodeProgress) -> None:
        """Take note of the progress of images."""
        rate, decode, device = now.images_per_second, now.decode_share, now.device_share
        self.rates = {"images_per_second": round(rate, 1), "decode_share": decode, "device_share": device}
        self._tell(now.done, now.total, f"images, {rate:,.1f} images/s (decoding {decode:.0%}, device {device:.0%})")

    def count_names(self, done: int, total: int) -> None:
        """Take note of the progress of names."""
        self._tell(done, total, "names")

    def _tell(self, done: int, total: int, rest: str) -> None:
        if done == total or time.monotonic() - self._last > _REPORT_SECONDS:
            self._last = time.monotonic()
            self._say(f"{self._what}: {done:,} of {total:,} {rest}")


def build_image_features(shards: int) -> dg.AssetsDefinition:
    """Return the asset of the image features, with one partition per shard."""
    asset = dg.AssetsDefinition.from_op(
        encode_images,
        keys_by_input_name={
            "coco_train2014": dg.AssetKey([RAW, "coco_train2014"]),
            "coco_object_sentences": dg.AssetKey([INVERSION, "coco_object_sentences"]),
        },
        keys_by_output_name={"result": IMAGE_FEATURES_KEY},
        group_name=INVERSION,
        partitions_def=dg.StaticPartitionsDefinition(name_shards(shards)),
        backfill_policy=dg.BackfillPolicy.multi_run(1),
        descriptions_by_output_name={"result": _IMAGE_FEATURES},
        metadata_by_output_name={
            "result": declare_columns(list_feature_columns("coco_object_sentences.image_id"), INVERSION)
        },
    )
    return asset.map_asset_specs(
        lambda spec: spec.replace_attributes(kinds={"torch", "parquet"}, owners=OWNERS, code_version="1")
    )


def build_text_features(name: str, table: str, description: str) -> dg.AssetsDefinition:
    """Return the asset of the text features of a table's names."""
    key = dg.AssetKey([INVERSION, name])

    @dg.asset(
        key=key,
        group_name=INVERSION,
        ins={"names": dg.AssetIn([INVERSION, table])},
        io_manager_key="features",
        description=description,
        metadata=declare_columns(list_feature_columns(f"{table}.name"), INVERSION),
        kinds={"torch", "parquet"},
        owners=OWNERS,
        code_version="1",
        pool="gpu",
        op_tags=GPU_TAGS,
        check_specs=[
            dg.AssetCheckSpec(
                NAMES_AND_VECTORS,
                asset=key,
                description="The vectors are those of the table's names, in its order, and finite.",
            )
        ],
    )
    @record_duration
    def text_features(
        context: dg.AssetExecutionContext, workspace: Workspace, clip: Clip, names: pl.DataFrame
    ) -> Iterator[dg.MaterializeResult[Features]]:
        previous, probing = _read_stored(locate_value(workspace.root, key.path, ".parquet")), ProbingLoader()
        classes = read_class_features(workspace) if key != CLASS_FEATURES_KEY else None
        probe = functools.partial(probe_names, previous, classes=classes) if previous else None
        texts, progress = names["name"].to_list(), EncodingReport(context.log.info, name).count_names
        features = update_names(texts, clip.describe(), probing.wrap(clip.load, probe), previous, progress)
        yield describe_features(
            features,
            checks=[report(NAMES_AND_VECTORS, check_names(features, texts), "error")],
            **describe_drift(probing.drift, rewritten=features is not previous),
        )

    return text_features


coco_class_text_features = build_text_features(
    "coco_class_text_features",
    "coco_object_classes",
    "CLIP text features of the object classes, prompt `This is a photo of a <name>`, not normalised: in class order.",
)

openimages_text_features = build_text_features(
    "openimages_text_features",
    "openimages_classes",
    "CLIP text features of the OpenImages names, prompt `This is a photo of a <name>`, not normalised: in file order.",
)
