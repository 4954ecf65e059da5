"""CLIP features as assets: the op `encode_images`, and the text features of both sets of names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.members import open_members
from pervl_assets.benchmarks.benchmark import FEW_SHOT_FOLDER, GALLERY_FOLDER
from pervl_assets.clip.drift import compare_vectors, take_sample
from pervl_assets.clip.encode_images import EncodeProgress, encode_image_shard
from pervl_assets.clip.encoder import PROMPT
from pervl_assets.clip.features import Features, list_feature_columns, update_names
from pervl_assets.core.progress import Progress
from pervl_assets.defs.checks import to_check_result
from pervl_assets.defs.metadata import OWNERS
from pervl_assets.defs.placement import GPU_POOL, claim_step, leave_if_given_up
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.steps import AS_PUBLISHED, record_step
from pervl_assets.inversion.checks import check_names
from pervl_assets.inversion.image_lists import ImageLists
from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.image_lists import ImageListsIOManager
from pervl_assets.io_managers.tables import declare_columns
from pervl_assets.trees.ledger import FolderTree
from pervl_assets.trees.members import open_tree

INVERSION: Final = "inversion"
IMAGE_FEATURES: Final = "coco_image_features"
TEXT_FEATURES: Final = {
    "coco_class_text_features": ("coco_object_classes", "object classes", "class"),
    "openimages_text_features": ("openimages_classes", "OpenImages names", "file"),
}
"""Table whose names are encoded, what they are, and their order, by the name of the asset."""

_NAMES_AND_VECTORS: Final = "names_and_vectors"

_EVALUATED: Final = f"^({FEW_SHOT_FOLDER}|{GALLERY_FOLDER})/"
"""Few-shot images and gallery of the tree that PALAVRA reads."""

_IMAGE_FEATURES: Final = """\
CLIP features of the images of the object classes. Id text, vector (D float32, not normalised).

Unless `PERVL_PREPROCESSING` is `model`, the shorter side is resized to 300 (PIL bicubic, in the image's own mode),
the centre 224 x 224 cropped, then RGB, CLIP mean and deviation, `encode_image`. Each shard carries its embedding
passport: model, sha256 of the weights, preprocessing, precision, device, versions. An image belongs to the same shard
on every machine."""


def name_key(name: str, encoder: str | None, group: str = INVERSION) -> dg.AssetKey:
    """Return the key of features: `<group>/<name>`, or `<group>/<encoder>/<name>` of a further encoder.

    The name has one part in the group `inversion`, and two in `evaluation`: `ytvos/image_features`.
    """
    return dg.AssetKey([group, *([encoder] if encoder else []), *name.split("/")])


def find_encoder(key: dg.AssetKey) -> str | None:
    """Return the encoder of a key that `name_key` returned; None: the default one."""
    return key.path[1] if len(key.path) > (2 if key.path[0] == INVERSION else 3) else None


def _choose_clip(clip: Clip, key: dg.AssetKey) -> Clip:
    """Return the CLIP of an asset: in the groups of the evaluation, images are prepared as its model was published."""
    return clip.as_published() if key.path[0] in AS_PUBLISHED else clip


def name_shards(shards: int) -> list[str]:
    """Return the partition keys of the image features, in text order: `0-of-8` to `7-of-8`, `00-of-16` and so on."""
    width = len(str(shards - 1))
    return [f"{shard:0{width}d}-of-{shards}" for shard in range(shards)]


@dg.op(
    pool=GPU_POOL,
    code_version="1",
    ins={"images": dg.In(input_manager_key=ImageListsIOManager.key)},
    out=dg.Out(io_manager_key="features"),
)
@record_step(uses=())
def encode_images(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    clip: Clip,
    source: Any,
    images: Any,
) -> dg.MaterializeResult[Features]:
    """Encode the images of one partition with CLIP. The model is loaded only if there is work for it.

    `source` is the `RawArchive` that the images are in, and `images` the `ImageLists` of the table that names them; or
    `source` is the `FolderTree` of a split, which is evaluated, and lists them itself.
    """
    key, partition = context.asset_key, context.partition_key
    encoder, model = find_encoder(key), _choose_clip(clip, key)
    stored, passport = FeaturesIOManager(data=workspace.data), model.describe(encoder)
    progress, rates = Progress(context.log.info, "images"), dict[str, Any]()

    def report(now: EncodeProgress) -> None:
        shares = {"decode_share": now.decode_share, "device_share": now.device_share}
        rates.update(images_per_second=round(now.images_per_second, 1), **shares)
        progress(now.done, now.total, f"decoding {now.decode_share:.0%}, device {now.device_share:.0%}")

    def keep(chunk: Path) -> None:
        stored.store.push_file(chunk)
        leave_if_given_up(context)  # where machines share a bucket, no lock shows it

    with open_tree(source) if isinstance(source, FolderTree) else open_members(source) as members:
        wanted = _list_images(source, images, partition)
        # Read last: a run that was given up may store its features until the work is locked.
        previous: Features | None = stored.read_previous(key, partition)
        features = encode_image_shard(
            wanted,
            members,
            passport,
            lambda: model.load(encoder),
            stored.resume_work(key, partition),
            previous=previous,
            batch_size=clip.batch_size,
            workers=workspace.workers,
            max_lost=workspace.max_quarantined_share,
            claim=claim_step(context),
            on_progress=report,
            on_saved=keep,
        )
    return FeaturesIOManager.describe(features, **rates, **_describe_change(previous, features))


def _list_images(source: Any, images: ImageLists, partition: str) -> list[tuple[str, str]]:
    """Return id and member of each image: those of a shard, or all that an evaluation needs of a tree."""
    if isinstance(source, FolderTree):
        paths = source.ledger["path"]
        return [(path, path) for path in paths.filter(paths.str.contains(_EVALUATED))]
    return images.list_shard(partition)


def _describe_change(previous: Features | None, features: Features) -> dict[str, Any]:
    """Return how far a sample of the vectors moved that these features replace, as metadata; empty if none moved."""
    known = set(features.ids)
    if previous is None or previous is features or not known & set(previous.ids):
        return {}
    sample = take_sample(previous.take([row for row, one in enumerate(previous.ids) if one in known]))
    result, _ = compare_vectors(sample, features)
    names = ("largest_relative_difference", "smallest_cosine")
    return {"replaced_vectors": result.text, **{name: result.numbers[name] for name in names}}


def build_features(shards: int, encoder: str | None = None) -> list[dg.AssetsDefinition]:
    """Return the assets of the features of an encoder, with one partition of the image features per shard.

    Args:
        shards: Number of shards.
        encoder: Name of a further encoder; None: the default one.
    """
    return [_build_image_features(shards, encoder), *(_build_text_features(name, encoder) for name in TEXT_FEATURES)]


def _build_image_features(shards: int, encoder: str | None = None) -> dg.AssetsDefinition:
    """Return the asset of the image features of the object classes. Arguments as of `build_features`."""
    description = _IMAGE_FEATURES
    if encoder:
        description = (
            f"As `{INVERSION}/{IMAGE_FEATURES}`, with the encoder {encoder}; images prepared as it was published."
        )
    return build_image_features(
        name_key(IMAGE_FEATURES, encoder),
        {"source": dg.AssetKey([RAW, "coco_train2014"]), "images": dg.AssetKey([INVERSION, "coco_object_sentences"])},
        name_shards(shards),
        description,
        "coco_object_sentences.image_id",
    )


def build_image_features(
    key: dg.AssetKey,
    inputs: Mapping[str, dg.AssetKey],
    partitions: Sequence[str],
    description: str,
    encoded: str | None = None,
) -> dg.AssetsDefinition:
    """Return an asset of image features, which the op `encode_images` makes.

    Args:
        key: Its key, from `name_key`.
        inputs: Assets of the op's `source` and `images`.
        partitions: Its partitions.
        description: Shown on its page.
        encoded: See `list_feature_columns`.
    """
    asset = dg.AssetsDefinition.from_op(
        encode_images,
        keys_by_input_name=inputs,
        keys_by_output_name={"result": key},
        group_name=key.path[0],
        partitions_def=dg.StaticPartitionsDefinition([*partitions]),
        descriptions_by_output_name={"result": description},
        metadata_by_output_name={"result": declare_columns(list_feature_columns(encoded), key.path[0])},
    )
    return asset.map_asset_specs(
        lambda spec: spec.replace_attributes(kinds={"parquet"}, owners=OWNERS, code_version="1")
    )


def _build_text_features(name: str, encoder: str | None = None) -> dg.AssetsDefinition:
    """Return the asset of the text features of a table's names.

    Args:
        name: One of `TEXT_FEATURES`.
        encoder: Name of a further encoder; None: the default one.
    """
    table, names_of, order = TEXT_FEATURES[name]
    return build_text_features(
        name_key(name, encoder),
        dg.AssetKey([INVERSION, table]),
        f"CLIP text features of the {names_of}. Prompt `This is a photo of a <name>`, not normalised, in "
        f"{order} order" + (f", with the encoder {encoder}." if encoder else "."),
        f"{table}.name",
    )


def build_text_features(
    key: dg.AssetKey,
    table: dg.AssetKey,
    description: str,
    encoded: str,
    *,
    list_texts: Callable[[pl.DataFrame], list[str]] = lambda table: table["name"].to_list(),
    prompt: str = PROMPT,
    partitions: Sequence[str] = (),
) -> dg.AssetsDefinition:
    """Return an asset of text features.

    Args:
        key: Its key, from `name_key`.
        table: The asset of the table with the texts.
        description: Shown on its page.
        encoded: See `list_feature_columns`.
        list_texts: Returns the texts of the table, which are the ids.
        prompt: Text before each of them.
        partitions: Its partitions, if it and the table have some.
    """

    @dg.asset(
        key=key,
        group_name=key.path[0],
        ins={"names": dg.AssetIn(table)},
        partitions_def=dg.StaticPartitionsDefinition([*partitions]) if partitions else None,
        io_manager_key="features",
        description=description,
        metadata=declare_columns(list_feature_columns(encoded), key.path[0]),
        kinds={"parquet"},
        owners=OWNERS,
        code_version="1",
        pool=GPU_POOL,
        check_specs=[
            dg.AssetCheckSpec(
                _NAMES_AND_VECTORS,
                asset=key,
                description="The vectors are those of the table's names, in its order, and finite.",
            )
        ],
    )
    @record_step(uses=())
    def text_features(
        context: dg.AssetExecutionContext, workspace: Workspace, clip: Clip, names: pl.DataFrame
    ) -> Iterator[dg.MaterializeResult[Features]]:
        partition = context.partition_key if partitions else None
        encoder, model = find_encoder(key), _choose_clip(clip, key)
        previous: Features | None = FeaturesIOManager(data=workspace.data).read_previous(key, partition)
        texts, progress = list_texts(names), Progress(context.log.info, "texts")
        features = update_names(texts, model.describe(encoder), lambda: model.load(encoder), previous, progress, prompt)
        checks = [to_check_result(_NAMES_AND_VECTORS, check_names(features, texts), "error")]
        yield FeaturesIOManager.describe(features, checks=checks, **_describe_change(previous, features))

    return text_features
