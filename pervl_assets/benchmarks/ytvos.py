"""PerVL-YTVOS: personal objects in videos of YouTube-VOS.

Rule numbers refer to docs/fidelity.md. The annotations are read by `ytvos_annotations`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.benchmarks import ytvos_annotations as annotations
from pervl_assets.benchmarks.benchmark import Benchmark, Retrieval, TableAsset, TreeAsset
from pervl_assets.core.errors import AnnotationError, name_some
from pervl_assets.core.pixels import ImageError, decode_frame, decode_mask, encode_jpeg, encode_mask
from pervl_assets.core.text import count_of
from pervl_assets.trees.boxes import Box, draw_band, find_box, grow_box, tight_region
from pervl_assets.trees.checks import BOXES_INSIDE, check_roles_apart
from pervl_assets.trees.contact_sheet import SheetRoles
from pervl_assets.trees.plans import Output, Quarantined, Rendered, RenderTask, TreePlan, copy_member
from pervl_assets.trees.views import EVALUATION, FEW_SHOT, IMAGE_FOLDER_NOTE, plan_image_folder
from pervl_assets.upstream import PAPER, RETRIVAL_SETS, cite_script

_BAND_COLOUR: Final = (255, 255, 0)
_PREPARE: Final = "ytvos/prepare_YTVOS_initial_directory_structure.py"
_SPLIT: Final = "ytvos/ytvos_read_split.py"


def plan_fsl_seg(tables: Mapping[str, pl.DataFrame], split: str | None = None) -> TreePlan:
    """Plan the tree of crops, evaluation frames, masks and boxes, with one task per frame."""
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
    tasks = tuple(
        RenderTask((f"train/JPEGImages/{scene}/{frame}.jpg", f"train/Annotations/{scene}/{frame}.png"), tuple(made))
        for (scene, frame), made in sorted(outputs.items())
    )
    return TreePlan("youtube_vos/ytvos_PerVL/fsl_seg", tasks, _render_frame, finish=_list_boxes)


def _render_frame(task: RenderTask, blobs: list[bytes]) -> Iterator[Rendered | Quarantined]:
    """Render all outputs of one frame and its mask.

    Raises:
        ImageError: Frame or mask is unusable (upstream rule A11).
    """
    indices = decode_mask(blobs[1])
    masks = {instance: indices == instance for instance in {int(output.params[0]) for output in task.outputs}}
    boxes = {instance: find_box(mask) for instance, mask in masks.items()}
    pixels = decode_frame(blobs[0], _count_rows(task, boxes))
    height, width = indices.shape
    if pixels.shape[:2] != (height, width):
        raise ImageError(
            f"the mask has {width} x {height} pixels, the frame {pixels.shape[1]} x {pixels.shape[0]} (width x height)"
        )
    whole_frame = cache(lambda: encode_jpeg(pixels))  # the same bytes for every concept in the frame
    for output in task.outputs:
        instance = int(output.params[0])
        mask, box = masks[instance], boxes[instance]
        try:
            yield Rendered(output, _render(output.role, pixels, mask, box, whole_frame), box, width, height)
        except ImageError as error:
            yield Quarantined(output, str(error))


def _count_rows(task: RenderTask, boxes: Mapping[int, Box | None]) -> int | None:
    """Return the number of pixel rows of the frame that are needed, or None if all are."""
    if any(output.role != "few_shot_crop" for output in task.outputs):
        return None
    return max((box.y1 for box in boxes.values() if box), default=None)


def _render(
    role: str, pixels: NDArray[np.uint8], mask: NDArray[np.bool_], box: Box | None, whole_frame: Callable[[], bytes]
) -> bytes:
    if box is None:
        raise ImageError("the mask does not contain this instance")  # upstream rule A10
    match role:
        case "evaluation_frame":
            return whole_frame()
        case "evaluation_mask":
            return encode_mask(mask)
        case "evaluation_box":
            return encode_jpeg(draw_band(pixels, box, _BAND_COLOUR))
        case "few_shot_crop":
            region = tight_region(box)
        case "retrieval_crop":
            region = grow_box(box, pixels.shape[1], pixels.shape[0])
        case _:
            raise ValueError(f"No role {role!r}.")
    crop = region.cut(pixels)
    if not crop.size:  # upstream rule A9
        raise ImageError(f"the mask is one pixel wide or high, so the crop is empty: box {list(box)}")
    return encode_jpeg(crop)


def _list_boxes(ledger: pl.DataFrame) -> dict[str, bytes]:
    """Return `gt_box_labels.yaml`: plain YAML, concept to `[x0, y0, x1, y1]`, inclusive (upstream rule A13)."""
    masks = ledger.filter(status="written", rule="evaluation_mask").select("concept", "box")
    text = yaml.safe_dump(dict(masks.iter_rows()), sort_keys=True, default_flow_style=None)
    return {"eval/gt_box_labels.yaml": text.encode()}


def plan_retrieval_set(tables: Mapping[str, pl.DataFrame], split: str | None) -> TreePlan:
    """Plan the retrieval set of a split: few-shot crops in one folder per concept, one retrieval crop per concept.

    This is the folder that PALAVRA reads (upstream rules B1, B2).

    Raises:
        AnnotationError: A caption names a concept that is not among the concepts.
    """
    frames = {
        row["concept"]: [frame for frame in row["few_shot_frames"] if frame != row["evaluation_frame"]]
        for row in tables["concepts"].iter_rows(named=True)
    }
    captions = tables["captions"].filter(split=split)
    if unknown := [concept for concept in captions["concept"] if concept not in frames]:
        raise AnnotationError(
            f"{count_of(len(unknown), 'caption')} of the {split} split with a concept that {annotations.CONCEPTS_FILE} "
            f"does not contain: {name_some(unknown)}.",
            advice="Use caption files and concepts of the same release.",
        )
    tasks = []
    for concept, image_name in captions.select("concept", "image_name").iter_rows():
        for frame in frames[concept]:
            name = f"{concept}/{concept}_{frame}.jpg"
            tasks.append(RenderTask((f"train/{name}",), (Output(f"codes_infer/{name}", concept, "few_shot_copy"),)))
        crop = f"eval/retrieval/{Path(image_name).name}"
        tasks.append(RenderTask((crop,), (Output(f"eval/test/{concept}.jpg", concept, "evaluation_copy"),)))
    return TreePlan(_locate_retrieval_set(split), tuple(tasks), copy_member, link=True)


def plan_images(tables: Mapping[str, pl.DataFrame], split: str | None) -> TreePlan:
    """Plan the Hugging Face `imagefolder` of a split: its retrieval set, with class and caption of every concept."""
    captions = tables["captions"].filter(split=split).select("concept", "class_name", "caption").iter_rows()
    columns = {concept: {"class_name": class_name, "query": caption} for concept, class_name, caption in captions}
    return plan_image_folder(
        f"views/imagefolder/ytvos/{split}",
        plan_retrieval_set(tables, split),
        {"few_shot_copy": FEW_SHOT, "evaluation_copy": EVALUATION},
        lambda concept, _: columns[concept],
    )


def _locate_retrieval_set(split: str | None) -> str:
    return f"youtube_vos/{RETRIVAL_SETS}/{split}"


_describe_tree: Final = partial(
    TreeAsset,
    name_classes=annotations.name_classes,
    describe=annotations.describe_concept,
    label_images=annotations.label_images,
)

BENCHMARK: Final = Benchmark(
    name="ytvos",
    title="PerVL-YTVOS",
    description="Find the YouTube-VOS frame that a caption with a personal concept in it describes.",
    archives=(
        ArchiveSpec(
            name="youtube_vos_train",
            title="YouTube-VOS, 2019 version, train.zip",
            description="Video frames and instance masks. 4,129 of each are read, directly from the archive.",
            file="youtube_vos/train.zip",
            folders=("youtube_vos/train",),
            homepage="https://youtube-vos.org/dataset/vos/",
            how_to_get="Register there and download train.zip of the 2019 version.",
            licence="annotations CC-BY-4.0; for the videos see the official site",
            disk="several GB",
        ),
    ),
    tables=(
        TableAsset(
            "concepts",
            "The personal concepts: class, scene, instance, split, few-shot frames and evaluation frame.",
            annotations.CONCEPTS,
            annotations.read_concepts,
            annotations.count_concepts,
            {
                "concepts": 498,
                "validation concepts": 246,
                "test concepts": 252,
                "concepts in no split": 0,
                "classes": 43,
                "scenes": 270,
                "distinct frames": 4129,
                "few-shot crops": 5989,
                "fewest few-shot crops of a concept": 4,
                "most few-shot crops of a concept": 33,
            },
            paper="The paper counts 251 test concepts. Its published annotations have 252.",
            checks=(annotations.SCENES_APART,),
            source_note=f"a concept is an entry of `{annotations.CONCEPTS_FILE}`, named `<class>_<scene>_<instance>` "
            f"with ids kept as text, as in {cite_script(_PREPARE, 'A16')}. Its split is that of the caption file with "
            f"its name. {PAPER} splits by scene.",
            variants={"scene_disjoint": annotations.read_disjoint_concepts},
        ),
        TableAsset(
            "captions",
            "The retrieval queries of both splits.",
            annotations.CAPTIONS,
            annotations.read_captions,
            annotations.count_captions,
            {"validation captions": 246, "test captions": 252, "validation images": 246, "test images": 252},
            paper="The paper counts 251 test concepts. Its published annotations have captions of 252.",
            variants={"scene_disjoint": annotations.read_disjoint_captions},
            source_note="the caption files in file order, validation first. The concept is `image_name` up to its "
            f"last `_`, as in {cite_script(_SPLIT, 'B3')}.",
        ),
    ),
    trees=(
        _describe_tree(
            name="fsl_seg",
            description="Few-shot crops, evaluation frames with masks and boxes, and retrieval crops of every concept.",
            splits=(),
            tables=("concepts",),
            source="youtube_vos_train",
            folder=lambda _: "youtube_vos/ytvos_PerVL/fsl_seg",
            plan=plan_fsl_seg,
            sheet=SheetRoles("few_shot_crop", ("evaluation_frame", "retrieval_crop"), "evaluation_mask"),
            facts={
                None: {
                    "few_shot_crop": 5989,
                    **dict.fromkeys(("evaluation_frame", "evaluation_mask", "retrieval_crop", "evaluation_box"), 498),
                }
            },
            checks=(check_roles_apart("few_shot_crop", "evaluation_frame"), BOXES_INSIDE),
            source_note=f"as in {cite_script(_PREPARE, 'A1 to A15')}. Pixels as Pillow decodes them, without EXIF "
            "orientation or ICC. The mask is where the palette index equals the instance. Its box is the lowest and "
            "highest x and y in pixels, inclusive. Few-shot crop: rows `y0:y1`, columns `x0:x1`, without the last of "
            "each. Retrieval crop: the box enlarged by half its width and height on every side, clipped to the image, "
            "truncated to whole pixels. JPEG quality 95, 4:2:0. Masks are 8-bit grey with values 0 and 1.",
        ),
        _describe_tree(
            name="retrieval_set",
            description="The folder that PALAVRA reads for a split: few-shot crops and one retrieval crop per concept.",
            splits=annotations.SPLITS,
            tables=("concepts", "captions"),
            source="fsl_seg",
            folder=_locate_retrieval_set,
            plan=plan_retrieval_set,
            sheet=SheetRoles("few_shot_copy", ("evaluation_copy",)),
            facts={
                "validation": {"few_shot_copy": 2948, "evaluation_copy": 246},
                "test": {"few_shot_copy": 3041, "evaluation_copy": 252},
            },
            source_note=f"as in {cite_script(_SPLIT, 'B1, B2')}: for every caption of the split, the few-shot crops "
            "of its concept in `codes_infer/<concept>/` and the retrieval crop as `eval/test/<concept>.jpg`, byte for "
            "byte.",
        ),
        _describe_tree(
            name="imagefolder_view",
            description="A retrieval set as Hugging Face `imagefolder`: few-shot crops as train, retrieval crops as "
            "test. Hard links to the files of `retrieval_set`, which need almost no space.",
            splits=annotations.SPLITS,
            tables=("concepts", "captions"),
            source="retrieval_set",
            folder=lambda split: f"views/imagefolder/ytvos/{split}",
            plan=plan_images,
            sheet=SheetRoles(FEW_SHOT, (EVALUATION,)),
            facts={"validation": {FEW_SHOT: 2948, EVALUATION: 246}, "test": {FEW_SHOT: 3041, EVALUATION: 252}},
            source_note=IMAGE_FOLDER_NOTE,
        ),
    ),
    paper="Cohen et al., 'This is my unicorn, Fluffy': Personalizing frozen vision-language representations, ECCV 2022",
    retrieval=Retrieval(
        tree="retrieval_set",
        placeholder="*",
        list_captions=annotations.list_captions,
        sources={
            "concept": ("captions.concept",),
            "class_name": ("concepts.class_name",),
            "text": ("captions.caption", "concepts.class_name"),
            "targets": ("captions.concept",),
        },
    ),
)
