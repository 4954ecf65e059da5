"""Views of the `personalized` trees of PerVL-DeepFashion2 for other projects: ConCon-Chi and POLAR.

Both number the concepts: POLAR in the order of the split file, ConCon-Chi in the order in which the system lists a
folder, which differs between disks. Here the concepts are sorted by id as text, as in the official split files and in
`ImageFolder`. The annotation files name only existing images and concepts, because both readers stop at a missing one.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

import polars as pl

from pervl_assets.core.errors import AnnotationError, name_some
from pervl_assets.core.tables import encode_csv
from pervl_assets.trees.plans import Output, TreePlan
from pervl_assets.trees.views import EVALUATION, FEW_SHOT, plan_image_folder, plan_view

_ROLES: Final = {"few_shot_copy": FEW_SHOT, "evaluation_copy": EVALUATION}
_JOINT_SETS: Final = ("shortened", "detailed")
_COLUMNS: Final = ("image_name", "pair_id", "caption")


def plan_concon_chi(tables: Mapping[str, pl.DataFrame], sources: Mapping[str, TreePlan]) -> TreePlan:
    """Plan the folder that ConCon-Chi (hsp-iit/concon-chi_benchmark) reads as `dataset_root`.

    `data/deep_fashion2/personalized_<split>/` is the tree of that split, with the order of its concepts in
    `concepts.txt`. `annotations/deep_fashion/` contains the captions.
    `sources` is the plan of the `personalized` tree of each split.

    Raises:
        AnnotationError: As `_check_annotations`.
    """
    _check_annotations(tables, sources)
    folders = {split: f"data/deep_fashion2/personalized_{split}" for split in sources}

    def write_texts(ledger: pl.DataFrame) -> dict[str, bytes]:
        few_shot = _list_few_shot(tables, ledger)
        texts = {f"annotations/deep_fashion/{name}": text for name, text in write_annotations(tables, ledger).items()}
        for split, folder in folders.items():
            if concepts := sorted(set(few_shot.filter(split=split)["pair_id"])):
                texts[f"{folder}/concepts.txt"] = "".join(f"{concept}\n" for concept in concepts).encode()
        return texts

    files = (
        (member, Output(f"{folders[split]}/{output.path}", output.concept, _ROLES[output.role]))
        for split, member, output in _iterate_sources(sources)
    )
    return plan_view("views/concon_chi", files, write_texts)


def plan_polar(tables: Mapping[str, pl.DataFrame], sources: Mapping[str, TreePlan]) -> TreePlan:
    """Plan the folder that POLAR (adobe-research/polar-vl) reads as `--data_path`.

    The images of both splits are in `train/image/`, the annotation files next to `train`.
    `sources` is the plan of the `personalized` tree of each split.

    Raises:
        AnnotationError: As `_check_annotations`.
    """
    _check_annotations(tables, sources)
    files = (
        (member, Output(f"train/image/{PurePosixPath(output.path).name}", output.concept, _ROLES[output.role]))
        for _, member, output in _iterate_sources(sources)
    )
    return plan_view("views/polar", files, lambda ledger: write_annotations(tables, ledger))


def plan_images(tables: Mapping[str, pl.DataFrame], split: str | None, source: TreePlan) -> TreePlan:
    """Plan the Hugging Face `imagefolder` of a split. The caption of an image without captions is empty."""
    classes = dict(tables["few_shot_split"].select("pair_id", "class_name").iter_rows())
    captions = {name: _list_captions(tables, name) for name in _JOINT_SETS}

    def describe(concept: str, image: str) -> dict[str, str]:
        texts = {f"{name}_caption": captions[name].get(image, "") for name in _JOINT_SETS}
        return {"class_name": classes.get(concept) or "", **texts}

    return plan_image_folder(f"views/imagefolder/deep_fashion/{split}", source, _ROLES, describe)


def _check_annotations(tables: Mapping[str, pl.DataFrame], splits: Iterable[str]) -> None:
    """Check that ConCon-Chi and POLAR can read the annotations.

    Raises:
        AnnotationError: An evaluation image without exactly one shortened and one detailed caption, or a concept
            without a class.
    """
    captions, few_shot = tables["captions"], tables["few_shot_split"]
    splits = [*splits]
    evaluation = captions.filter(pl.col("caption_set").is_in(splits))["image"].unique()
    faults = []
    for name in _JOINT_SETS:
        joint = captions.filter(caption_set=name)["image"]
        once = set(joint.filter(joint.is_unique()))
        if bad := sorted(set(evaluation) - once):
            faults.append(f"{len(bad):,} evaluation images without exactly one {name} caption: {name_some(bad)}")
    if bad := sorted(set(few_shot.filter(pl.col("class_name").is_null())["pair_id"])):
        faults.append(f"{len(bad):,} concepts without a class: {name_some(bad)}")
    if faults:
        raise AnnotationError(
            "ConCon-Chi and POLAR cannot read these annotations of PerVL-DeepFashion2.",
            details=faults,
            advice="Use annotation files of the same release. The trees themselves are not affected.",
        )


def write_annotations(tables: Mapping[str, pl.DataFrame], ledger: pl.DataFrame) -> dict[str, bytes]:
    """Return the annotation files of the images in a view, by official name.

    They contain a concept if it has a few-shot image, and an evaluation image if they contain its concept.
    """
    few_shot = _list_few_shot(tables, ledger)
    images = _list_names(ledger, EVALUATION)
    concepts = set(few_shot["pair_id"])
    classes = few_shot.select("pair_id", "class_name").unique().sort("pair_id")
    header = ("unique_pair_ids", "pair_id_categories")
    texts = {"train_coarse_grained_names.csv": encode_csv(header, classes.iter_rows())}
    for split in few_shot["split"].unique().sort():
        mine = few_shot.filter(split=split)
        blocks = [
            f"codes_infer/{concept}:\n" + "".join(f"{image}\n" for image in mine.filter(pair_id=concept)["image"])
            for concept in sorted(set(mine["pair_id"]))
        ]
        # POLAR counts concepts by empty lines: one between two.
        texts[f"{split}_fsl_train.txt"] = "\n".join(blocks).encode()
        queries = tables["captions"].filter(
            pl.col("caption_set") == split, pl.col("image").is_in(images), pl.col("pair_id").is_in(concepts)
        )
        texts[f"{split}_captions.csv"] = encode_csv(_COLUMNS, queries.select(_COLUMNS).iter_rows())
    for name in _JOINT_SETS:
        joint = tables["captions"].filter(caption_set=name)
        texts[f"{name}_deepfashion2_captions.csv"] = encode_csv(_COLUMNS, joint.select(_COLUMNS).iter_rows())
    return texts


def _iterate_sources(sources: Mapping[str, TreePlan]) -> Iterator[tuple[str, str, Output]]:
    """Yield split, member (it starts with the name of the tree) and output of every file of the sources."""
    for split, plan in sources.items():
        tree = PurePosixPath(plan.folder).name
        for output in (output for task in plan.tasks for output in task.outputs):
            yield split, f"{tree}/{output.path}", output


def _list_few_shot(tables: Mapping[str, pl.DataFrame], ledger: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the few-shot split whose image is in the view."""
    return tables["few_shot_split"].filter(pl.col("image").is_in(_list_names(ledger, FEW_SHOT)))


def _list_names(ledger: pl.DataFrame, role: str) -> set[str]:
    return {PurePosixPath(path).name for path in ledger.filter(status="written", rule=role)["path"]}


def _list_captions(tables: Mapping[str, pl.DataFrame], caption_set: str) -> dict[str, str]:
    return dict(tables["captions"].filter(caption_set=caption_set).select("image", "caption").iter_rows())
