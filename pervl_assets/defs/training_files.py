"""The training files of PALAVRA as assets, written from the tables and features."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.clip.features import MISSING, QUARANTINED
from pervl_assets.clip.merge import require_same_passport
from pervl_assets.core.errors import name_some
from pervl_assets.core.tables import hash_frame
from pervl_assets.core.text import count_of
from pervl_assets.defs.features import INVERSION
from pervl_assets.defs.metadata import OWNERS, make_check_result
from pervl_assets.defs.steps import record_step
from pervl_assets.inversion import training_files as palavra
from pervl_assets.inversion.image_lists import ImageLists
from pervl_assets.io_managers.base import Partitions
from pervl_assets.io_managers.image_lists import ImageListsIOManager
from pervl_assets.io_managers.training_files import TrainingFile, TrainingFileIOManager

PALAVRA: Final = "palavra"


def _input(name: str, **more: Any) -> dg.AssetIn:
    return dg.AssetIn([INVERSION, name], **more)


def _training_file(**more: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator of an asset whose value is a training file."""
    decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        key_prefix=PALAVRA,
        group_name=PALAVRA,
        io_manager_key="training_files",
        owners=OWNERS,
        code_version="1",
        **more,
    )
    return lambda compute: decorate(record_step(compute))


@_training_file(ins={"coco_object_classes": _input("coco_object_classes")}, kinds={"numpy"})
def object_names(coco_object_classes: pl.DataFrame) -> dg.MaterializeResult[TrainingFile]:
    """`txt_for_training/obj_names_only.npy`: the names of the object classes, in class order (text, shape (N,))."""
    return TrainingFileIOManager.describe(
        TrainingFile(palavra.OBJECT_NAMES_FILE, lambda target: palavra.write_object_names(coco_object_classes, target)),
        {"classes": hash_frame(coco_object_classes)},
        rows=coco_object_classes.height,
    )


@_training_file(
    ins={
        "classes": _input("coco_object_classes"),
        "sentences": _input("coco_object_sentences", input_manager_key=ImageListsIOManager.key),
        "shards": _input("coco_image_features"),
    },
    kinds={"pickle"},
    check_specs=[
        dg.AssetCheckSpec(
            "every_image_has_features",
            asset=dg.AssetKey([PALAVRA, "object_sentences"]),
            description="No sentence is left out because its image has no features. PALAVRA would stop at it.",
        ),
        dg.AssetCheckSpec(
            "every_class_has_enough_images",
            asset=dg.AssetKey([PALAVRA, "object_sentences"]),
            description="Every class has at least 8 different images, as PALAVRA's training needs.",
        ),
    ],
)
def object_sentences(
    classes: pl.DataFrame, sentences: ImageLists, shards: Partitions
) -> Iterator[dg.MaterializeResult[TrainingFile]]:
    """`txt_for_training/commom_obj_dict.npy`: name to [image ids, sentences, masked sentences], in class order.

    A pickled dictionary, because PALAVRA reads one. The same data as a table: `inversion/coco_object_sentences`.
    Sentences whose image has no features are left out.
    """
    left_out = pl.concat([sentences.list_left_out(shard, features.ids) for shard, features in shards.items()]).sort()
    table = sentences.read()
    summary = palavra.summarize_sentences(classes, table, left_out)
    images, short = summary.images_left_out, summary.short_classes
    yield TrainingFileIOManager.describe(
        TrainingFile(
            palavra.OBJECT_SENTENCES_FILE,
            lambda target: palavra.write_object_sentences(classes, table, left_out, target),
        ),
        {"classes": hash_frame(classes), "sentences": table.sha256, "left out": repr(images)},
        rows=summary.rows,
        rows_left_out=summary.rows_left_out,
        images_left_out=len(images),
        checks=[
            make_check_result(
                "every_image_has_features",
                not images,
                f"{count_of(summary.rows_left_out, 'sentence')} left out, of {count_of(len(images), 'image')} without "
                f"features: {name_some(images)}"
                if images
                else f"none of {summary.rows:,} sentences is left out",
                sentences=summary.rows,
                sentences_left_out=summary.rows_left_out,
                images_left_out=len(images),
            ),
            make_check_result(
                "every_class_has_enough_images",
                not short,
                f"{len(short):,} of {classes.height:,} classes with fewer than {palavra.IMAGES_NEEDED} "
                f"different images: {name_some([f'{name!r} ({n})' for name, n in short.items()])}. Lower "
                "PERVL_TOP_OBJECTS, or train with flags that need fewer images."
                if short
                else f"each of {classes.height:,} classes has {palavra.IMAGES_NEEDED} or more different images",
                classes=classes.height,
                classes_with_few_images=len(short),
                rows=pl.DataFrame({"class": short.keys(), "images": short.values()}),
            ),
        ],
    )


@_training_file(
    ins={"shards": _input("coco_image_features")},
    kinds={"pickle"},
    check_specs=[
        dg.AssetCheckSpec(
            "no_image_missing",
            asset=dg.AssetKey([PALAVRA, "visual_features"]),
            description="Every image of the object classes is in the COCO archive. An error: the archive is another "
            "than that of the triplets, or incomplete.",
        ),
        dg.AssetCheckSpec(
            "no_image_quarantined",
            asset=dg.AssetKey([PALAVRA, "visual_features"]),
            description="Every image in the archive could be decoded. A warning.",
        ),
    ],
)
def visual_features(shards: Partitions) -> Iterator[dg.MaterializeResult[TrainingFile]]:
    """`visual_features/visual_features_dict_center_crop_300_224.npz`: image id to a list of one (1, D) array.

    A pickled dictionary in text order of the ids, float32 from a CPU and float16 from CUDA. The same data as a table:
    `inversion/coco_image_features`.
    """
    hashes, passports, rejected, rows = {}, [], [], 0
    for name, shard in shards.items():
        hashes[name], rows = shard.hash(), rows + len(shard.ids)
        passports.append(shard.passport)
        rejected.append(shard.rejected)
    require_same_passport(passports)
    missing, broken = (pl.concat(rejected).filter(status=status).sort("id") for status in (MISSING, QUARANTINED))
    total = rows + missing.height + broken.height
    yield TrainingFileIOManager.describe(
        TrainingFile(
            palavra.VISUAL_FEATURES_FILE, lambda target: palavra.write_visual_features(shards.values(), target)
        ),
        hashes,
        rows=rows,
        quarantined=broken.height,
        missing=missing.height,
        checks=[
            make_check_result(
                "no_image_missing",
                missing.is_empty(),
                _count_rejected(missing, total, "not in the archive")
                + (". Download train2014.zip again and compare its size." if missing.height else ""),
                is_error=True,
                images=total,
                missing=missing.height,
                rows=missing,
            ),
            make_check_result(
                "no_image_quarantined",
                broken.is_empty(),
                _count_rejected(broken, total, "quarantined"),
                images=total,
                quarantined=broken.height,
                rows=broken,
            ),
        ],
    )


def _count_rejected(rejected: pl.DataFrame, total: int, what: str) -> str:
    names = f": {name_some(rejected['member'].to_list())}" if rejected.height else ""
    return f"{rejected.height:,} of {total:,} images {what}{names}"


@_training_file(ins={"matches": _input("openimages_matches")}, kinds={"numpy"})
def openimages_names(matches: pl.DataFrame) -> dg.MaterializeResult[TrainingFile]:
    """`open_images/open_images_obj_names.npz`: the OpenImages names (`arr_0`, text, shape (M,))."""
    return _write_matches(palavra.OPENIMAGES_NAMES_FILE, palavra.write_openimages_names, matches)


@_training_file(ins={"matches": _input("openimages_matches")}, kinds={"numpy"})
def openimages_map(matches: pl.DataFrame) -> dg.MaterializeResult[TrainingFile]:
    """`open_images/open_images_to_mscoco_map.npz`: the nearest class of each name (`arr_0`, int64, shape (M, 1))."""
    return _write_matches(palavra.OPENIMAGES_MAP_FILE, palavra.write_openimages_map, matches)


def _write_matches(file: str, write: Any, matches: pl.DataFrame) -> dg.MaterializeResult[TrainingFile]:
    return TrainingFileIOManager.describe(
        TrainingFile(file, lambda target: write(matches, target)),
        {"matches": hash_frame(matches)},
        rows=matches.height,
    )


PALAVRA_ASSETS: Final = (object_names, object_sentences, visual_features, openimages_names, openimages_map)
