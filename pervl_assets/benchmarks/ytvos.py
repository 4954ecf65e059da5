"""PerVL-YTVOS: personal objects in videos of YouTube-VOS.

Belongs here: everything that is particular to this benchmark. Rule numbers: the notes on upstream.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from pervl_assets.core.annotations import Faults, read_csv, read_text
from pervl_assets.core.archives import ArchiveSpec
from pervl_assets.core.benchmark import Benchmark, TableAsset, TreeAsset
from pervl_assets.core.boxes import Box, draw_band, find_box, grow_box, tight_region
from pervl_assets.core.contact_sheet import SheetRules
from pervl_assets.core.errors import AnnotationError, name_some
from pervl_assets.core.pixels import ImageError, decode_frame, decode_mask, encode_jpeg, encode_mask
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.core.trees import Job, Output, Quarantined, Rendered, TreePlan
from pervl_assets.core.upstream_names import RETRIVAL_SETS

SPLITS: Final = ("validation", "test")
_CAPTION_FILES: Final = {"validation": "cleaned_captions_ytvos_val.csv", "test": "cleaned_captions_ytvos_test.csv"}
_CONCEPTS_FILE: Final = "ytvos_personalization_meta.yaml"
_BAND_COLOUR: Final = (255, 255, 0)

# Annotations are not trusted either: these become names of files.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
_FRAME: Final = re.compile(r"[A-Za-z0-9-]{1,20}")
_INSTANCE: Final = re.compile(r"0*([1-9][0-9]{0,2})")
_IMAGE_NAME: Final = re.compile(r"eval/images/([A-Za-z0-9_-]{1,180})_([A-Za-z0-9-]{1,20})\.jpg")

CONCEPTS: Final = TableSchema(
    (
        Column("concept", pl.String, "name of the concept: class, scene and instance joined by _"),
        Column("class_name", pl.String, "class of the object, e.g. earless_seal"),
        Column("scene", pl.String, "id of the video in YouTube-VOS; text, though some look like numbers"),
        Column("instance", pl.UInt8, "palette index of the object in the video's masks"),
        Column("split", pl.String, "validation or test; null if no caption names the concept"),
        Column("caption", pl.String, "retrieval query with * in the object's place"),
        Column("evaluation_frame", pl.String, "the frame that is searched for, e.g. 00085"),
        Column("few_shot_frames", pl.List(pl.String), "the frames that the concept is learned from"),
    )
)

CAPTIONS: Final = TableSchema(
    (
        Column("split", pl.String, "validation or test"),
        Column("concept", pl.String, "file name of the image up to its last _ (upstream rule B3)"),
        Column("class_name", pl.String, "class of the object"),
        Column("caption", pl.String, "retrieval query with * in the object's place"),
        Column("image_name", pl.String, "evaluation image as upstream names it: eval/images/<concept>_<frame>.jpg"),
    )
)


def read_concepts(folder: Path) -> pl.DataFrame:
    """Read the concepts (schema `CONCEPTS`), sorted by name.

    Scalars are taken as the text that stands in the file, so an id stays an id with or without quotes (upstream rule
    A16).

    Raises:
        AnnotationError: Names each faulty concept with its line.
        MissingInputError: An annotation file is missing.
    """
    file = folder / _CONCEPTS_FILE
    splits = dict(read_captions(folder).select("concept", "split").iter_rows())
    faults = Faults(file)
    rows: dict[str, dict[str, object]] = {}
    for line, fields in _iterate_concepts(file, faults):
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        frames = fields.get("train_frames")
        if absent := {"coarse_grained_class", "scene_id", "instance_id", "test_frame", "caption"} - texts.keys():
            faults.add(line, f"no {' and no '.join(sorted(absent))}")
            continue
        if not isinstance(frames, list):
            faults.add(line, "train_frames is not a list")
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


def _iterate_concepts(file: Path, faults: Faults) -> Iterator[tuple[int, dict[str, str | list[str]]]]:
    """Yield line and fields of every concept; nodes are composed, never constructed, so text stays text."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        root = yaml.compose(read_text(file), Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise AnnotationError(
            f"{file} is not YAML{f' at line {mark.line + 1}' if mark else ''}: {getattr(error, 'problem', error)}.",
            advice="Restore the official file at the pinned commit.",
        ) from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        faults.add(1, "no mapping of concepts")
        return
    for key, value in root.value:
        line = key.start_mark.line + 1
        if not isinstance(value, yaml.MappingNode):
            faults.add(line, "the concept has no fields")
            continue
        fields: dict[str, str | list[str]] = {}
        for name, node in value.value:
            if isinstance(node, yaml.ScalarNode):
                fields[str(name.value)] = str(node.value)
            elif isinstance(node, yaml.SequenceNode):
                fields[str(name.value)] = [str(item.value) for item in node.value]
        yield line, fields


def read_captions(folder: Path) -> pl.DataFrame:
    """Read the captions of both splits (schema `CAPTIONS`), in the files' order, validation first.

    Raises:
        AnnotationError: Names each faulty row with its line.
        MissingInputError: An annotation file is missing.
    """
    rows, seen = [], set()
    for split, name in _CAPTION_FILES.items():
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


def plan_fsl_seg(tables: Mapping[str, pl.DataFrame], split: str | None = None) -> TreePlan:
    """Plan the tree of crops, evaluation frames, masks and boxes: one job a frame, whatever it is used for."""
    outputs: defaultdict[tuple[str, str], list[Output]] = defaultdict(list)
    for row in tables["concepts"].iter_rows(named=True):
        concept, scene, instance = row["concept"], row["scene"], row["instance"]
        for frame in row["few_shot_frames"]:
            if frame != row["evaluation_frame"]:  # upstream rule A7
                path = f"train/{concept}/{concept}_{frame}.jpg"
                outputs[scene, frame].append(Output(path, concept, "few_shot_crop", (instance,)))
        name = f"{concept}_{row['evaluation_frame']}"
        outputs[scene, row["evaluation_frame"]] += [
            Output(f"eval/images/{name}.jpg", concept, "evaluation_frame", (instance,)),
            Output(f"eval/gt_mask/{name}.png", concept, "evaluation_mask", (instance,)),
            Output(f"eval/retrieval/{name}.jpg", concept, "retrieval_crop", (instance,)),
            Output(f"eval/images_with_bbox/{name}.jpg", concept, "evaluation_box", (instance,)),
        ]
    jobs = tuple(
        Job((f"train/JPEGImages/{scene}/{frame}.jpg", f"train/Annotations/{scene}/{frame}.png"), tuple(made))
        for (scene, frame), made in sorted(outputs.items())
    )
    return TreePlan("youtube_vos/ytvos_PerVL/fsl_seg", jobs, render_frame, rules=1, finish=list_boxes)


def render_frame(job: Job, blobs: list[bytes]) -> Iterator[Rendered | Quarantined]:
    """Render all outputs of one frame and its mask.

    Raises:
        ImageError: Frame or mask cannot be used (upstream rule A11).
    """
    pixels, indices = decode_frame(blobs[0]), decode_mask(blobs[1])
    height, width = indices.shape
    if pixels.shape[:2] != (height, width):
        raise ImageError(
            f"the mask has {width} x {height} pixels, the frame {pixels.shape[1]} x {pixels.shape[0]} (width x height)"
        )
    masks: dict[int, tuple[NDArray[np.bool_], Box | None]] = {}
    for output in job.outputs:
        instance = int(output.params[0])
        if instance not in masks:
            mask = indices == instance
            masks[instance] = mask, find_box(mask)
        mask, box = masks[instance]
        try:
            yield Rendered(output, _render(output.rule, pixels, mask, box), box, width, height)
        except ImageError as error:
            yield Quarantined(output, str(error))


def _render(rule: str, pixels: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box | None) -> bytes:
    if box is None:
        raise ImageError("the mask does not hold this instance")  # upstream rule A10
    match rule:
        case "evaluation_frame":
            return encode_jpeg(pixels)
        case "evaluation_mask":
            return encode_mask(mask)
        case "evaluation_box":
            return encode_jpeg(draw_band(pixels, box, _BAND_COLOUR))
        case "few_shot_crop":
            region = tight_region(box)
        case "retrieval_crop":
            region = grow_box(box, pixels.shape[1], pixels.shape[0])
        case _:
            raise ValueError(f"No rule {rule!r}.")
    crop = region.cut(pixels)
    if not crop.size:  # upstream rule A9
        raise ImageError(f"the mask is one pixel wide or high, so the crop is empty: box {list(box)}")
    return encode_jpeg(crop)


def list_boxes(ledger: pl.DataFrame) -> dict[str, bytes]:
    """Return `gt_box_labels.yaml`: plain YAML, concept to `[x0, y0, x1, y1]`, inclusive (upstream rule A13)."""
    masks = ledger.filter(status="written", rule="evaluation_mask").select("concept", "box")
    text = yaml.safe_dump(dict(masks.iter_rows()), sort_keys=True, default_flow_style=None)
    return {"eval/gt_box_labels.yaml": text.encode()}


def plan_retrieval_set(tables: Mapping[str, pl.DataFrame], split: str | None) -> TreePlan:
    """Plan what PALAVRA reads of a split: few-shot crops in class folders, one retrieval crop a concept (rules B1, B2).

    Raises:
        AnnotationError: A caption names a concept that is not among the concepts.
    """
    frames = {
        concept: [frame for frame in few_shot if frame != evaluation]
        for concept, evaluation, few_shot in tables["concepts"]
        .select("concept", "evaluation_frame", "few_shot_frames")
        .iter_rows()
    }
    captions = tables["captions"].filter(split=split)
    if unknown := [concept for concept in captions["concept"] if concept not in frames]:
        raise AnnotationError(
            f"{len(unknown):,} captions of the {split} split name concepts that {_CONCEPTS_FILE} does not hold: "
            f"{name_some(unknown)}.",
            advice="Use caption files and concepts of the same release.",
        )
    jobs = []
    for concept, image_name in captions.select("concept", "image_name").iter_rows():
        for frame in frames[concept]:
            name = f"{concept}/{concept}_{frame}.jpg"
            jobs.append(Job((f"train/{name}",), (Output(f"codes_infer/{name}", concept, "few_shot_copy"),)))
        crop = f"eval/retrieval/{Path(image_name).name}"
        jobs.append(Job((crop,), (Output(f"eval/test/{concept}.jpg", concept, "evaluation_copy"),)))
    return TreePlan(_place_retrieval_set(split), tuple(jobs), copy_file, rules=1)


def copy_file(job: Job, blobs: list[bytes]) -> Iterator[Rendered]:
    """Copy one file byte for byte."""
    yield Rendered(job.outputs[0], blobs[0])


def _place_retrieval_set(split: str | None) -> str:
    return f"youtube_vos/{RETRIVAL_SETS}/{split}"


BENCHMARK: Final = Benchmark(
    name="ytvos",
    title="PerVL-YTVOS",
    description="Find the video frame that a caption with a personal concept in it describes; objects of YouTube-VOS.",
    archives=(
        ArchiveSpec(
            name="youtube_vos_train",
            title="YouTube-VOS, 2019 version, train.zip",
            description="Video frames and instance masks; 4,129 of each are read, straight from the archive.",
            file="youtube_vos/train.zip",
            folders=("youtube_vos/train",),
            homepage="https://youtube-vos.org/dataset/vos/",
            how_to_get="Register there and download train.zip of the 2019 version.",
            licence="annotations CC-BY-4.0; for the videos see the official site",
            disk="several GB, as downloaded",
        ),
    ),
    tables=(
        TableAsset(
            "concepts",
            "The personal concepts: class, scene, instance, split, and which frames play which part.",
            CONCEPTS,
            read_concepts,
            {"rows": 498, "class_name": 43, "scene": 270},
        ),
        TableAsset("captions", "The retrieval queries of both splits.", CAPTIONS, read_captions, {"rows": 498}),
    ),
    trees=(
        TreeAsset(
            name="fsl_seg",
            description="Few-shot crops, evaluation frames with masks and boxes, and retrieval crops of every concept.",
            splits=(),
            tables=("concepts",),
            source="youtube_vos_train",
            folder=lambda _: "youtube_vos/ytvos_PerVL/fsl_seg",
            plan=plan_fsl_seg,
            sheet=SheetRules("few_shot_crop", ("evaluation_frame", "retrieval_crop"), "evaluation_mask"),
            facts={
                None: {
                    "few_shot_crop": 5989,
                    "evaluation_frame": 498,
                    "evaluation_mask": 498,
                    "retrieval_crop": 498,
                    "evaluation_box": 498,
                }
            },
        ),
        TreeAsset(
            name="retrieval_set",
            description="What PALAVRA reads of a split: few-shot crops by concept, and one retrieval crop a concept.",
            splits=SPLITS,
            tables=("concepts", "captions"),
            source="fsl_seg",
            folder=_place_retrieval_set,
            plan=plan_retrieval_set,
            sheet=SheetRules("few_shot_copy", ("evaluation_copy",)),
            facts={"validation": {"evaluation_copy": 246}, "test": {"evaluation_copy": 252}},
        ),
    ),
    annotation_files=(_CONCEPTS_FILE, *_CAPTION_FILES.values(), "ytvos_joint_captions.csv"),
    paper="Cohen et al., 'This is my unicorn, Fluffy': Personalizing frozen vision-language representations, ECCV 2022",
)
