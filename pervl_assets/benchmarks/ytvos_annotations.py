"""Read the annotations of PerVL-YTVOS, count them, and check for scenes in both splits.

The paper splits by scene, but in the published annotations three scenes are in both splits, with one concept in each.
`PERVL_SPLITS=official` (the default) keeps them, because published numbers use these splits. An asset check names the
scenes. `PERVL_SPLITS=scene_disjoint` removes the concepts of such scenes from validation: they have no split, and their
captions and their part of `retrieval_set [validation]` are left out. Test is as published, and `fsl_seg` contains every
concept in both cases. Rule numbers refer to docs/fidelity.md.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.archives.annotations import Faults, read_csv, read_yaml
from pervl_assets.core.checks import Check, CheckResult
from pervl_assets.core.errors import name_some
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.core.text import count_of

SPLITS: Final = ("validation", "test")
CAPTION_FILES: Final = {"validation": "cleaned_captions_ytvos_val.csv", "test": "cleaned_captions_ytvos_test.csv"}
CONCEPTS_FILE: Final = "ytvos_personalization_meta.yaml"

# Annotations are not trusted: these texts become file names.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
_FRAME: Final = re.compile(r"[A-Za-z0-9-]{1,20}")
_INSTANCE: Final = re.compile(r"0*([1-9][0-9]{0,2})")
_IMAGE_NAME: Final = re.compile(r"eval/images/([A-Za-z0-9_-]{1,180})_([A-Za-z0-9-]{1,20})\.jpg")

CONCEPTS: Final = TableSchema(
    (
        Column("concept", pl.String, "name of the concept: class, scene and instance joined by _"),
        Column("class_name", pl.String, "class of the object, e.g. earless_seal"),
        Column("scene", pl.String, "id of the video in YouTube-VOS (text), though some look like numbers"),
        Column("instance", pl.UInt8, "palette index of the object in the video's masks"),
        Column("split", pl.String, "validation or test, null if no caption names the concept"),
        Column("caption", pl.String, "retrieval query with * instead of the object"),
        Column("evaluation_frame", pl.String, "the frame to retrieve, e.g. 00085"),
        Column("few_shot_frames", pl.List(pl.String), "the frames from which the concept is learned"),
    )
)

CAPTIONS: Final = TableSchema(
    (
        Column("split", pl.String, "validation or test"),
        Column("concept", pl.String, "file name of the image up to its last _ (upstream rule B3)"),
        Column("class_name", pl.String, "class of the object"),
        Column("caption", pl.String, "retrieval query with * instead of the object"),
        Column("image_name", pl.String, "evaluation image as named by upstream: eval/images/<concept>_<frame>.jpg"),
    )
)


def read_concepts(folder: Path) -> pl.DataFrame:
    """Read the concepts (schema `CONCEPTS`), sorted by name.

    Scalars are read as the text in the file, so an id such as `1336440745` is a text with or without quotes (upstream
    rule A16).

    Raises:
        AnnotationError: Names each faulty concept with its line.
        MissingInputError: An annotation file is missing.
    """
    file = folder / CONCEPTS_FILE
    splits = dict(read_captions(folder).select("concept", "split").iter_rows())
    faults = Faults(file)
    rows: dict[str, dict[str, object]] = {}
    for line, _, fields in read_yaml(file):
        if not isinstance(fields, dict):
            faults.add(line, "the concept has no fields")
            continue
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        frames = fields.get("train_frames")
        if absent := {"coarse_grained_class", "scene_id", "instance_id", "test_frame", "caption"} - texts.keys():
            faults.add(line, f"no {' and no '.join(sorted(absent))}")
            continue
        if not isinstance(frames, list) or not all(isinstance(frame, str) for frame in frames):
            faults.add(line, "train_frames is not a list of frames")
            continue
        instance = faults.check(line, _INSTANCE, texts["instance_id"], "instance_id")
        checked = [
            faults.check(line, _ID, texts["coarse_grained_class"], "coarse_grained_class"),
            faults.check(line, _ID, texts["scene_id"], "scene_id"),
            *(faults.check(line, _FRAME, frame, "frame") for frame in (texts["test_frame"], *frames)),
        ]
        if instance is None or None in checked:
            continue
        number = int(instance[1])
        name = f"{texts['coarse_grained_class']}_{texts['scene_id']}_{number}"
        if number > 255 or name in rows or len(set(frames)) < len(frames):
            faults.add(line, f"{name}: listed twice, a frame listed twice, or an instance above 255")
            continue
        rows[name] = {
            "concept": name,
            "class_name": texts["coarse_grained_class"],
            "scene": texts["scene_id"],
            "instance": number,
            "split": splits.get(name),
            "caption": texts["caption"],
            "evaluation_frame": texts["test_frame"],
            "few_shot_frames": frames,
        }
    faults.raise_any()
    return pl.DataFrame([rows[name] for name in sorted(rows)], schema=CONCEPTS.to_polars(), orient="row")


def read_captions(folder: Path) -> pl.DataFrame:
    """Read the captions of both splits (schema `CAPTIONS`), in the files' order, validation first.

    Raises:
        AnnotationError: Names each faulty row with its line.
        MissingInputError: An annotation file is missing.
    """
    rows, seen = [], set()
    for split, name in CAPTION_FILES.items():
        faults = Faults(folder / name)
        for line, row in read_csv(folder / name, ("image_name", "coarse_grained_class", "caption")):
            match = faults.check(line, _IMAGE_NAME, row["image_name"], "image_name")
            if match and match[1] in seen:
                faults.add(line, f"a second caption of {match[1]}")
            elif match:
                seen.add(match[1])
                rows.append((split, match[1], row["coarse_grained_class"], row["caption"], row["image_name"]))
        faults.raise_any()
    return pl.DataFrame(rows, schema=CAPTIONS.to_polars(), orient="row")


def read_disjoint_concepts(folder: Path) -> pl.DataFrame:
    """Read the concepts as `read_concepts` does, without a split for validation concepts whose scene is also in test.

    Raises as `read_concepts` does.
    """
    concepts = read_concepts(folder)
    is_test = pl.col("split") == "test"
    return concepts.with_columns(split=pl.when(is_test | ~is_test.any().over("scene")).then("split"))


def read_disjoint_captions(folder: Path) -> pl.DataFrame:
    """Read the captions as `read_captions` does, without those of validation concepts whose scene is also in test.

    Raises as `read_concepts` does.
    """
    concepts = read_concepts(folder).select("concept", old="split")
    left_out = concepts.join(read_disjoint_concepts(folder), on="concept").filter(
        pl.col("old").is_not_null() & pl.col("split").is_null()
    )
    return read_captions(folder).join(left_out, on="concept", how="anti", maintain_order="left")


def count_concepts(concepts: pl.DataFrame) -> dict[str, int]:
    """Count concepts, classes, scenes, frames and crops (schema `CONCEPTS`)."""
    crops = [len(frames) for frames in concepts["few_shot_frames"]]
    few_shot = concepts.select("scene", frame="few_shot_frames").explode("frame")
    evaluation = concepts.select("scene", frame="evaluation_frame")
    return {
        "concepts": concepts.height,
        **{f"{split} concepts": concepts.filter(split=split).height for split in SPLITS},
        "concepts in no split": concepts["split"].null_count(),
        "classes": concepts["class_name"].n_unique(),
        "scenes": concepts["scene"].n_unique(),
        "distinct frames": pl.concat([few_shot, evaluation]).n_unique(),
        "few-shot crops": sum(crops),
        "fewest few-shot crops of a concept": min(crops, default=0),
        "most few-shot crops of a concept": max(crops, default=0),
    }


def count_captions(captions: pl.DataFrame) -> dict[str, int]:
    """Count captions and evaluation images of each split (schema `CAPTIONS`)."""
    by_split = {split: captions.filter(split=split) for split in SPLITS}
    return {f"{split} captions": frame.height for split, frame in by_split.items()} | {
        f"{split} images": frame["image_name"].n_unique() for split, frame in by_split.items()
    }


def _check_scenes(concepts: pl.DataFrame) -> CheckResult:
    """Check that no scene has concepts in more than one split (schema `CONCEPTS`)."""
    shared = (
        concepts.drop_nulls("split")
        .filter(pl.col("split").n_unique().over("scene") > 1)
        .select("scene", "split", "concept")
        .sort("scene", "split", "concept", descending=[False, True, False])
    )
    scenes = shared["scene"].unique(maintain_order=True).to_list()
    no_split = concepts["split"].null_count()
    numbers = {"scenes": concepts["scene"].n_unique(), "scenes in both splits": len(scenes)}
    numbers |= {f"{split} concepts of these": shared.filter(split=split).height for split in SPLITS}
    text = f"none of {numbers['scenes']:,} scenes is in both splits; {count_of(no_split, 'concept')} in no split"
    if scenes:
        named = [f"{concept} ({split})" for _, split, concept in shared.iter_rows()]
        text = (
            f"{len(scenes):,} of {numbers['scenes']:,} scenes in both splits: {name_some(scenes)}; "
            f"with {name_some(named)}. PERVL_SPLITS=scene_disjoint leaves these concepts out of validation"
        )
    return CheckResult(not scenes, text, numbers | {"concepts in no split": no_split}, shared)


def name_classes(tables: Mapping[str, pl.DataFrame]) -> dict[str, str]:
    """Return the class of every concept."""
    return dict(tables["concepts"].select("concept", "class_name").iter_rows())


def label_images(tables: Mapping[str, pl.DataFrame], images: pl.DataFrame) -> pl.DataFrame:
    """Add split and caption of the concept to images (column `concept`): a concept has one caption, its query."""
    labels = tables["concepts"].select("concept", "split", "caption")
    return images.join(labels, on="concept", how="left", maintain_order="left")


def list_captions(tables: Mapping[str, pl.DataFrame], split: str) -> pl.DataFrame:
    """Return the captions of a split as queries (schema `QUERY_CAPTIONS`). Each concept has one."""
    return (
        tables["captions"]
        .filter(split=split)
        .with_row_index("query")
        .select(
            pl.lit("short").alias("caption_set"),
            pl.col("query").cast(pl.Int32),
            "concept",
            "caption",
            image=pl.col("concept") + ".jpg",
        )
    )


def describe_concept(tables: Mapping[str, pl.DataFrame], concept: str) -> list[tuple[str, str]]:
    """Return the annotations of a concept as pairs of label and text."""
    (row,) = tables["concepts"].filter(concept=concept).to_dicts()
    return [
        ("class", row["class_name"].replace("_", " ")),
        ("caption", row["caption"]),
        ("split", row["split"] or "none"),
        ("scene", f"{row['scene']}, object {row['instance']} in its masks"),
    ]


SCENES_APART: Final = Check(
    "scenes_in_one_split",
    "No scene has concepts in both splits, so nothing that is tuned on validation has seen the videos of test. The "
    "paper splits by scene, but the published annotations have 77610860e0, c55784c766 and ff15a5eff6 in both splits. A "
    "warning: published numbers use these splits. PERVL_SPLITS=scene_disjoint leaves such concepts out of validation.",
    "warning",
    _check_scenes,
)
