"""The inversion side as assets: triplets, classes, sentences, features and matches.

Belongs here: thin bodies around `pervl_assets.inversion`, and the GPU-tagged op `encode_images`. Does not belong here:
any rule about triplets, features or names.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.core.archives import RawArchive
from pervl_assets.core.members import open_members
from pervl_assets.core.tables import TableSchema
from pervl_assets.defs.metadata import (
    OWNERS,
    QUARANTINED,
    combine_versions,
    describe_features,
    describe_table,
    preview_table,
    summarize_features,
)
from pervl_assets.defs.raw import RAW, build_raw_asset
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.inversion.clip_features import Features, read_features, select_images, update_names
from pervl_assets.inversion.coco_classes import (
    OBJECT_CLASSES,
    OBJECT_SENTENCES,
    TRIPLETS,
    collect_object_sentences,
    count_object_classes,
    read_triplets,
)
from pervl_assets.inversion.encode_shard import EncodeProgress, encode_image_shard
from pervl_assets.inversion.open_images import (
    OPENIMAGES_CLASSES,
    OPENIMAGES_MATCHES,
    find_nearest_classes,
    read_class_names,
)
from pervl_assets.inversion.sources import ARCHIVES
from pervl_assets.inversion.text_lines import MALFORMED_LINES
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.features import locate_chunks
from pervl_assets.io_managers.tables import declare_columns

_REPORT_SECONDS: Final = 2.0
INVERSION: Final = "inversion"
IMAGE_FEATURES_KEY: Final = dg.AssetKey([INVERSION, "coco_image_features"])

GPU_TAGS: Final = {
    "pervl/device": "gpu",
    # What the Kubernetes and Ray executors read of an op; the executors of one machine pass them over.
    "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
    "dagster-ray/config": {"num_cpus": 2, "num_gpus": 1},
}


def _key(name: str) -> dg.AssetKey:
    return dg.AssetKey([INVERSION, name])


def _raw(name: str) -> dg.AssetIn:
    return dg.AssetIn([RAW, name])


def _table_asset(schema: TableSchema) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator of an asset that is a table of the inversion side."""
    return dg.asset(
        key_prefix=INVERSION,
        group_name=INVERSION,
        io_manager_key="tables",
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version="1",
        metadata=declare_columns(schema),
    )


def _table_out(name: str, schema: TableSchema, description: str) -> dg.AssetOut:
    return dg.AssetOut(
        key=_key(name),
        group_name=INVERSION,
        io_manager_key="tables",
        description=description,
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version="1",
        metadata=declare_columns(schema),
    )


@dg.multi_asset(
    name="read_coco_triplets",
    ins={"coco_svo_triplets": _raw("coco_svo_triplets")},
    outs={
        "coco_triplets": _table_out(
            "coco_triplets",
            TRIPLETS,
            "Subject-relation-object triplets of the COCO 2014 train captions, one row a well-formed line, in file "
            "order. Rule: upstream's parse of the text (UTF-8; CRLF, a BOM and a missing final line break are fine).",
        ),
        "coco_malformed_lines": _table_out(
            "coco_malformed_lines",
            MALFORMED_LINES,
            "Lines of the triplet text that do not follow its format: quarantined with line number and reason. More "
            "than 1 % of them is an error.",
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(
            "no_malformed_lines", asset=_key("coco_triplets"), description="Every line follows the format; a warning."
        ),
        dg.AssetCheckSpec(
            "no_empty_objects",
            asset=_key("coco_triplets"),
            description="No subject or object is empty. A warning: upstream counts an empty name like any other.",
        ),
    ],
)
def coco_triplets(coco_svo_triplets: RawArchive) -> Iterator[dg.MaterializeResult[Any]]:
    """Parse the triplet text."""
    triplets = read_triplets(coco_svo_triplets.path)
    bad, empty = triplets.malformed.height, triplets.frame.filter((pl.col("subject") == "") | (pl.col("object") == ""))
    yield describe_table(
        triplets.frame,
        asset_key=_key("coco_triplets"),
        checks=[
            _warn(
                "no_malformed_lines",
                bad == 0,
                f"{bad:,} of {bad + triplets.frame.height:,} lines are quarantined",
                lines=preview_table(triplets.malformed, rows=50),
            ),
            _warn(
                "no_empty_objects",
                empty.is_empty(),
                f"{empty.height:,} of {triplets.frame.height:,} triplets have an empty subject or object",
                lines=preview_table(empty),
            ),
        ],
        **{QUARANTINED: bad, "blank_lines": triplets.blank_lines, "images": triplets.frame["image_id"].n_unique()},
    )
    yield describe_table(triplets.malformed, asset_key=_key("coco_malformed_lines"))


@_table_asset(OBJECT_CLASSES)
def coco_object_classes(workspace: Workspace, coco_triplets: pl.DataFrame) -> dg.MaterializeResult[pl.DataFrame]:
    """The most common objects (`PERVL_TOP_OBJECTS`): counts over subjects and objects, most common first.

    Ties stand in order of first appearance in the list of all subjects followed by all objects; names are
    case-sensitive. The row number is the class number in every file made for PALAVRA.
    """
    return describe_table(count_object_classes(coco_triplets, workspace.top_objects))


@_table_asset(OBJECT_SENTENCES)
def coco_object_sentences(
    coco_triplets: pl.DataFrame, coco_object_classes: pl.DataFrame
) -> dg.MaterializeResult[pl.DataFrame]:
    """Every sentence about each object class, with the first occurrence of the class name masked by `*`.

    The occurrence is a substring, case-sensitive (`woman` masked for `man` is `wo*`), as upstream has it; a sentence
    without the name is left as it is.
    """
    sentences = collect_object_sentences(coco_triplets, coco_object_classes)
    return describe_table(sentences, images=sentences["image_id"].n_unique())


def name_shards(shards: int) -> list[str]:
    """Return the partition keys of the image features, in text order: `0-of-8` to `7-of-8`, `00-of-16` and so on."""
    width = len(str(shards - 1))
    return [f"{shard:0{width}d}-of-{shards}" for shard in range(shards)]


@dg.op(
    pool="gpu",
    tags=GPU_TAGS,
    code_version="1",
)
def encode_images(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    clip: Clip,
    coco_train2014: RawArchive,
    coco_object_sentences: pl.DataFrame,
) -> Any:
    """Encode the images of the run's shards with CLIP; the model is loaded once, and only if there is work for it.

    Dagster 1.13 gives all partitions of one run the same data version; here it is the hash of them all.
    """
    passport, load = clip.describe(), functools.cache(clip.load)
    made: dict[str, Features] = {}
    with open_members(coco_train2014) as members:
        for shard in sorted(context.partition_keys):
            number, shards = (int(part) for part in shard.split("-of-"))
            goal = locate_value(workspace.root, IMAGE_FEATURES_KEY.path, ".parquet", shard)
            report = EncodingReport(context.log.info, f"shard {shard}")
            made[shard] = encode_image_shard(
                select_images(coco_object_sentences, shards, number),
                members,
                passport,
                load,
                locate_chunks(goal),
                previous=read_features(goal) if goal.is_file() else None,
                batch_size=clip.batch_size,
                workers=workspace.workers,
                report=report,
            )
            told = {**summarize_features(made[shard]), **report.rates}
            context.add_asset_metadata(told, IMAGE_FEATURES_KEY, shard)
    context.set_data_version(
        IMAGE_FEATURES_KEY, combine_versions({shard: features.hash() for shard, features in made.items()})
    )
    return made if len(made) > 1 else next(iter(made.values()))


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
    """Return the asset of the image features, partitioned into so many shards."""

    @dg.graph_asset(
        key=IMAGE_FEATURES_KEY,
        group_name=INVERSION,
        ins={
            "coco_train2014": _raw("coco_train2014"),
            "coco_object_sentences": dg.AssetIn(_key("coco_object_sentences")),
        },
        partitions_def=dg.StaticPartitionsDefinition(name_shards(shards)),
        backfill_policy=dg.BackfillPolicy.single_run(),
        kinds={"torch", "parquet"},
        owners=OWNERS,
        code_version="1",
    )
    def coco_image_features(coco_train2014: RawArchive, coco_object_sentences: pl.DataFrame) -> Any:
        """CLIP features of the images that the object classes name: id text, vector (D float32, not normalised).

        The shorter side is resized to 300 (PIL bicubic, in the image's own mode), the centre 224 x 224 cropped, then
        RGB, CLIP mean and deviation, `encode_image`. Each shard's file carries its embedding passport: model, sha256
        of the weights, preprocessing, precision, device, versions. An image belongs to the same shard on every machine.
        """
        return encode_images(coco_train2014, coco_object_sentences)

    return coco_image_features


def _features_asset(name: str, table: str, description: str) -> dg.AssetsDefinition:
    """Return the asset of the text features of a table's names."""

    @dg.asset(
        name=name,
        key_prefix=INVERSION,
        group_name=INVERSION,
        ins={"names": dg.AssetIn(_key(table))},
        io_manager_key="features",
        description=description,
        kinds={"torch", "parquet"},
        owners=OWNERS,
        code_version="1",
        pool="gpu",
        op_tags=GPU_TAGS,
    )
    def text_features(
        context: dg.AssetExecutionContext, workspace: Workspace, clip: Clip, names: pl.DataFrame
    ) -> dg.MaterializeResult[Features]:
        goal = locate_value(workspace.root, [INVERSION, name], ".parquet")
        previous = read_features(goal) if goal.is_file() else None
        report = EncodingReport(context.log.info, name).count_names
        return describe_features(update_names(names["name"].to_list(), clip.describe(), clip.load, previous, report))

    return text_features


coco_class_text_features = _features_asset(
    "coco_class_text_features",
    "coco_object_classes",
    "CLIP text features of the object classes, prompt `This is a photo of a <name>`, not normalised: in class order.",
)

openimages_text_features = _features_asset(
    "openimages_text_features",
    "openimages_classes",
    "CLIP text features of the OpenImages names, prompt `This is a photo of a <name>`, not normalised: in file order.",
)


@dg.multi_asset(
    name="read_openimages_classes",
    ins={"openimages_class_descriptions": _raw("openimages_class_descriptions")},
    outs={
        "openimages_classes": _table_out(
            "openimages_classes",
            OPENIMAGES_CLASSES,
            "OpenImages V6 class names in file order, read as CSV (quotes, commas, header), or by upstream's own rule "
            "with `PERVL_OPENIMAGES_NAMES=upstream` (header as a class, commas lost, quotes kept).",
        ),
        "openimages_malformed_rows": _table_out(
            "openimages_malformed_rows",
            MALFORMED_LINES,
            "Rows of the OpenImages class list without a name: quarantined with line number and reason.",
        ),
    },
    check_specs=[
        dg.AssetCheckSpec(
            "no_malformed_rows", asset=_key("openimages_classes"), description="Every row has a name; a warning."
        )
    ],
)
def openimages_classes(
    workspace: Workspace, openimages_class_descriptions: RawArchive
) -> Iterator[dg.MaterializeResult[Any]]:
    """Read the class names."""
    names, malformed = read_class_names(openimages_class_descriptions.path, workspace.names_rule)
    text = f"{malformed.height:,} of {malformed.height + names.height:,} rows have no name and are quarantined"
    yield describe_table(
        names,
        asset_key=_key("openimages_classes"),
        checks=[_warn("no_malformed_rows", malformed.is_empty(), text, rows=preview_table(malformed, rows=50))],
        **{QUARANTINED: malformed.height, "rule": workspace.openimages_names},
    )
    yield describe_table(malformed, asset_key=_key("openimages_malformed_rows"))


@_table_asset(OPENIMAGES_MATCHES)
def openimages_matches(
    openimages_text_features: Features, coco_class_text_features: Features
) -> dg.MaterializeResult[pl.DataFrame]:
    """For every OpenImages name the nearest object class, by squared L2 between unnormalised float32 text features.

    Exact, the first class on a tie; with distance, runner-up and margin (runner-up's distance minus nearest's).
    """
    matches = find_nearest_classes(openimages_text_features, coco_class_text_features)
    surest = matches.sort("margin", descending=True)
    return describe_table(
        matches, surest=preview_table(surest, rows=15), least_sure=preview_table(surest.reverse(), rows=15)
    )


def _warn(name: str, passed: bool, text: str, **metadata: Any) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=text, metadata=metadata
    )


def build_inversion_assets(shards: int) -> list[dg.AssetsDefinition]:
    """Return all assets of the inversion side, with the image features in so many shards."""
    return [
        *(build_raw_asset(spec) for spec in ARCHIVES),
        coco_triplets,
        coco_object_classes,
        coco_object_sentences,
        build_image_features(shards),
        openimages_classes,
        coco_class_text_features,
        openimages_text_features,
        openimages_matches,
    ]
