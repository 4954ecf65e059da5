"""PerVL-DeepFashion2: personal items of clothing. Rule numbers refer to docs/fidelity.md."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.archives.annotations import Faults, read_csv, read_text
from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.benchmarks.benchmark import Benchmark, Retrieval, TableAsset, TreeAsset
from pervl_assets.benchmarks.deep_fashion_views import plan_concon_chi, plan_images, plan_polar
from pervl_assets.core.pixels import measure_image
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.trees.checks import check_roles_apart
from pervl_assets.trees.contact_sheet import SheetRoles
from pervl_assets.trees.plans import Output, Rendered, RenderTask, TreePlan
from pervl_assets.trees.views import EVALUATION, FEW_SHOT, IMAGE_FOLDER_NOTE
from pervl_assets.upstream import CONCON_CHI, POLAR, cite_script

SPLITS: Final = ("validation", "test")
_CAPTION_FILES: Final = {
    "validation": "validation_captions.csv",
    "test": "test_captions.csv",
    "shortened": "shortened_deepfashion2_captions.csv",
    "detailed": "detailed_deepfashion2_captions.csv",
}

_CLASSES_FILE: Final = "train_coarse_grained_names.csv"
_PREPARE: Final = "deep_fashion/prepare_deep_fashion2_initial_directory_structure.py"

# Annotations are not trusted: these texts become file names.
_PAIR: Final = re.compile(r"[0-9]{1,12}")
_HEADER: Final = re.compile(r"codes_infer/([0-9]{1,12}):")
_IMAGE: Final = re.compile(r"([0-9]{1,12})\.jpg")
_IMAGE_NAME: Final = re.compile(r"train/image/([0-9]{1,12}\.jpg)")

CAPTIONS: Final = TableSchema(
    (
        Column(
            "caption_set", pl.String, "validation, test (the evaluation images), shortened or detailed (all images)"
        ),
        Column("pair_id", pl.String, "id of the item of clothing, i.e. the concept (text)"),
        Column("image_name", pl.String, "member of the archive: train/image/<number>.jpg"),
        Column("image", pl.String, "its file name"),
        Column("caption", pl.String, "caption of the image; 'person' is the wearer of the item"),
        Column("split", pl.String, "validation or test, null if the item is in neither"),
    )
)

_FEW_SHOT_SPLIT: Final = TableSchema(
    (
        Column("split", pl.String, "validation or test"),
        Column("pair_id", pl.String, "id of the item of clothing (text)"),
        Column("image", pl.String, "file name of an image from which the concept is learned"),
        Column("class_name", pl.String, "class of the item, e.g. long sleeve dress, null if the annotations have none"),
    )
)


def read_few_shot_split(folder: Path) -> pl.DataFrame:
    """Read the few-shot images of each concept (schema `_FEW_SHOT_SPLIT`), in file order (upstream rules C2, C3).

    Raises:
        AnnotationError: Lists each faulty line: neither header nor image, an image before any header, a repeated header
            or one without images, a malformed pair id, or a second class of an item.
        MissingInputError: An annotation file is missing.
    """
    classes = _read_classes(folder / _CLASSES_FILE)
    rows = []
    for split in SPLITS:
        faults = Faults(folder / f"{split}_fsl_train.txt")
        headers: dict[str, int] = {}
        filled: set[str] = set()
        pair = None
        for line, text in enumerate(read_text(faults.file).split("\n"), start=1):
            if not (text := text.rstrip()):
                continue
            if header := _HEADER.fullmatch(text):
                pair = header[1]
                if pair in headers:
                    faults.add(line, f"codes_infer/{pair} is already in line {headers[pair]}")
                headers[pair] = line
            elif not _IMAGE.fullmatch(text):
                faults.add(line, f"{text[:80]!r} is neither codes_infer/<pair_id>: nor <number>.jpg")
            elif pair is None:
                faults.add(line, f"{text} is before any codes_infer/<pair_id>:")
            else:
                filled.add(pair)
                rows.append((split, pair, text, classes.get(pair)))
        for empty in headers.keys() - filled:
            faults.add(headers[empty], f"codes_infer/{empty} has no images")
        faults.raise_any()
    return pl.DataFrame(rows, schema=_FEW_SHOT_SPLIT.to_polars(), orient="row")


def _read_classes(file: Path) -> dict[str, str]:
    faults = Faults(file)
    classes: dict[str, str] = {}
    for line, row in read_csv(file, ("unique_pair_ids", "pair_id_categories")):
        pair, name = faults.check(line, _PAIR, row["unique_pair_ids"], "unique_pair_ids"), row["pair_id_categories"]
        if pair and classes.setdefault(pair[0], name) != name:
            faults.add(line, f"a second class of {pair[0]}")
    faults.raise_any()
    return classes


def read_captions(folder: Path) -> pl.DataFrame:
    """Read all four caption files (schema `CAPTIONS`), in file order.

    Raises:
        AnnotationError: Names each faulty row with its line.
        MissingInputError: An annotation file is missing.
    """
    splits = dict(read_few_shot_split(folder).select("pair_id", "split").iter_rows())
    rows = []
    for caption_set, name in _CAPTION_FILES.items():
        faults = Faults(folder / name)
        for line, row in read_csv(faults.file, ("image_name", "pair_id", "caption")):
            image = faults.check(line, _IMAGE_NAME, row["image_name"], "image_name")
            pair = faults.check(line, _PAIR, row["pair_id"], "pair_id")
            if image and pair:
                split = caption_set if caption_set in SPLITS else splits.get(row["pair_id"])
                rows.append((caption_set, row["pair_id"], row["image_name"], image[1], row["caption"], split))
        faults.raise_any()
    return pl.DataFrame(rows, schema=CAPTIONS.to_polars(), orient="row")


def count_captions(captions: pl.DataFrame) -> dict[str, int]:
    """Count captions, images and concepts of each caption set (schema `CAPTIONS`)."""
    sets = {name: captions.filter(caption_set=name) for name in _CAPTION_FILES}
    return {
        **{f"{name} captions": frame.height for name, frame in sets.items()},
        **{f"{name} images": frame["image"].n_unique() for name, frame in sets.items()},
        "concepts": captions["pair_id"].n_unique(),
    }


def _count_few_shot(few_shot: pl.DataFrame) -> dict[str, int]:
    """Count concepts and few-shot images of each split (schema `_FEW_SHOT_SPLIT`)."""
    splits = {split: few_shot.filter(split=split) for split in SPLITS}
    return {f"{split} concepts": frame["pair_id"].n_unique() for split, frame in splits.items()} | {
        f"{split} few-shot images": frame["image"].n_unique() for split, frame in splits.items()
    }


def name_classes(tables: Mapping[str, pl.DataFrame]) -> dict[str, str]:
    """Return the class of every concept that has one."""
    return dict(tables["few_shot_split"].select("pair_id", "class_name").drop_nulls().iter_rows())


def label_images(tables: Mapping[str, pl.DataFrame], images: pl.DataFrame) -> pl.DataFrame:
    """Add the split of the concept and the detailed caption of the image to images (columns `concept`, `image`).

    Detailed captions are those of the split's own caption file, and of some few-shot images: the first if there are
    several. The shortened ones are in the table `captions`.
    """
    splits = tables["few_shot_split"].select("split", concept="pair_id").unique("concept", keep="first")
    captions = tables["captions"].filter(caption_set="detailed").select("image", "caption")
    return images.join(splits, on="concept", how="left", maintain_order="left").join(
        captions.unique("image", keep="first", maintain_order=True), on="image", how="left", maintain_order="left"
    )


def list_captions(tables: Mapping[str, pl.DataFrame], split: str) -> pl.DataFrame:
    """Return the captions of a split as queries (schema `QUERY_CAPTIONS`).

    The detailed text is that of the split's own caption file, the short one that of the first shortened caption of the
    image, as PALAVRA looks it up (null if the image has none).
    """
    own = tables["captions"].filter(caption_set=split).with_row_index("query")
    short = tables["captions"].filter(caption_set="shortened").unique("image_name", keep="first")
    both = own.join(short.select("image_name", short="caption"), on="image_name", how="left", maintain_order="left")
    return pl.concat(
        both.select(
            pl.lit(name).alias("caption_set"),
            pl.col("query").cast(pl.Int32),
            pl.col("pair_id").alias("concept"),
            pl.col(text).alias("caption"),
            "image",
        )
        for name, text in (("short", "short"), ("detailed", "caption"))
    )


def list_few_shot(tables: Mapping[str, pl.DataFrame], split: str) -> list[str]:
    """Return the few-shot images of a split as paths below its tree, in the order of `<split>_fsl_train.txt`."""
    rows = tables["few_shot_split"].filter(split=split).select("pair_id", "image").iter_rows()
    return [f"codes_infer/{pair}/{image}" for pair, image in rows]


def describe_concept(tables: Mapping[str, pl.DataFrame], concept: str) -> list[tuple[str, str]]:
    """Return the class of a concept and the captions of its evaluation images, as pairs of label and text."""
    captions = tables["captions"].filter(pair_id=concept)
    short = dict(captions.filter(caption_set="shortened").select("image", "caption").iter_rows())
    texts = [("class", name_classes(tables).get(concept, "none"))]
    for split in SPLITS:
        for image, caption in captions.filter(caption_set=split).select("image", "caption").iter_rows():
            texts.append((image, caption))
            if image in short:
                texts.append(("shortened", short[image]))
    return texts


def plan_personalized(tables: Mapping[str, pl.DataFrame], split: str | None) -> TreePlan:
    """Plan the folder that PALAVRA reads for a split: few-shot images by concept, all evaluation images in one folder.

    Upstream rules C1, C4.
    """
    outputs: dict[str, Output] = {}
    sources: dict[str, list[Output]] = {}
    few_shot = tables["few_shot_split"].filter(split=split).select("pair_id", "image").iter_rows()
    evaluation = tables["captions"].filter(caption_set=split).select("pair_id", "image").iter_rows()
    wanted = [(image, Output(f"codes_infer/{pair}/{image}", pair, "few_shot_copy")) for pair, image in few_shot]
    wanted += [(image, Output(f"eval/test/{image}", pair, "evaluation_copy")) for pair, image in evaluation]
    for image, output in wanted:
        if output.path not in outputs:  # an image can have several captions
            outputs[output.path] = output
            sources.setdefault(f"train/image/{image}", []).append(output)
    tasks = tuple(RenderTask((member,), tuple(made)) for member, made in sorted(sources.items()))
    return TreePlan(_locate_personalized(split), tasks, _copy_image)


def _copy_image(task: RenderTask, blobs: list[bytes]) -> Iterator[Rendered]:
    """Copy an image byte for byte after checking that it decodes, because consumers stop at one that does not.

    Raises:
        ImageError: It does not decode.
    """
    width, height = measure_image(blobs[0])
    for output in task.outputs:
        yield Rendered(output, blobs[0], None, width, height)


def _locate_personalized(split: str | None) -> str:
    return f"deep_fashion2/personalized_{split}"


def _plan_sources(tables: Mapping[str, pl.DataFrame]) -> dict[str, TreePlan]:
    return {split: plan_personalized(tables, split) for split in SPLITS}


_describe_tree: Final = partial(
    TreeAsset,
    tables=("few_shot_split", "captions"),
    name_classes=name_classes,
    describe=describe_concept,
    label_images=label_images,
)
_describe_view: Final = partial(
    _describe_tree,
    splits=(),
    source="personalized",
    sheet=SheetRoles(FEW_SHOT, (EVALUATION,)),
    facts={None: {FEW_SHOT: 1314, EVALUATION: 450}},
)
_LINKED: Final = "Hard links to the files of `personalized`, which need almost no space."


BENCHMARK: Final = Benchmark(
    name="deep_fashion",
    title="PerVL-DeepFashion2",
    description="Retrieve the image for a caption about the wearer of an item of clothing in DeepFashion2.",
    archives=(
        ArchiveSpec(
            name="deep_fashion2_train",
            title="DeepFashion2, train.zip",
            description="Encrypted images of clothing. 1,764 of 191,961 are read and decrypted.",
            file="deep_fashion2/train.zip",
            folders=("deep_fashion2/train",),
            homepage="https://github.com/switchablenorms/DeepFashion2",
            how_to_get="Fill in the form on that page to get the address and the password, and download train.zip.",
            licence="see the official site: non-commercial research",
            disk="about 10 GB",
            password_variable="DEEPFASHION2_PASSWORD",  # noqa: S106 - the name of the variable
        ),
    ),
    tables=(
        TableAsset(
            "captions",
            "Captions of the evaluation images by split, and the shortened and detailed captions.",
            CAPTIONS,
            read_captions,
            count_captions,
            {
                f"{name} {what}": count
                for what in ("captions", "images")
                for name, count in {"validation": 229, "test": 221, "shortened": 653, "detailed": 653}.items()
            }
            | {"concepts": 100},
            source_note="the four caption files in file order. `image` is the last part of `image_name`, as in "
            f"{cite_script(_PREPARE, 'C4')}. The split of shortened and detailed captions is that of their item.",
        ),
        TableAsset(
            "few_shot_split",
            "The few-shot images of each item of clothing.",
            _FEW_SHOT_SPLIT,
            read_few_shot_split,
            _count_few_shot,
            {
                "validation concepts": 50,
                "test concepts": 50,
                "validation few-shot images": 661,
                "test few-shot images": 653,
            },
            source_note="in `<split>_fsl_train.txt` a line `codes_infer/<pair_id>:` starts an item, and `.jpg` lines "
            f"below it are its images, as in {cite_script(_PREPARE, 'C2, C3')}. A header without `:` is an error.",
        ),
    ),
    trees=(
        _describe_tree(
            name="personalized",
            description="The folder that PALAVRA reads for a split: few-shot images by item and evaluation images.",
            splits=SPLITS,
            source="deep_fashion2_train",
            folder=_locate_personalized,
            plan=plan_personalized,
            sheet=SheetRoles("few_shot_copy", ("evaluation_copy",)),
            facts={
                "validation": {"few_shot_copy": 661, "evaluation_copy": 229},
                "test": {"few_shot_copy": 653, "evaluation_copy": 221},
            },
            checks=(check_roles_apart("few_shot_copy", "evaluation_copy"),),
            source_note=f"as in {cite_script(_PREPARE, 'C1, C4')}: files byte for byte, the few-shot images of an "
            "item in `codes_infer/<pair_id>/`, the images of all captions of the split in `eval/test/`, 1 to 5 per "
            "item.",
        ),
        _describe_view(
            name="concon_chi_view",
            description="The `dataset_root` of ConCon-Chi: both splits, captions, and the order of the concepts. "
            f"{_LINKED}",
            source_note=f"the folder that {CONCON_CHI} reads.",
            folder=lambda _: "views/concon_chi",
            plan=lambda tables, _: plan_concon_chi(tables, _plan_sources(tables)),
        ),
        _describe_view(
            name="polar_view",
            description=f"The `--data_path` of POLAR: images of both splits and annotations. {_LINKED}",
            source_note=f"the folder that {POLAR} reads.",
            folder=lambda _: "views/polar",
            plan=lambda tables, _: plan_polar(tables, _plan_sources(tables)),
        ),
        _describe_view(
            name="imagefolder_view",
            description="A split as Hugging Face `imagefolder`: few-shot images as train, evaluation images as test. "
            f"{_LINKED}",
            splits=SPLITS,
            facts={"validation": {FEW_SHOT: 661, EVALUATION: 229}, "test": {FEW_SHOT: 653, EVALUATION: 221}},
            source_note=IMAGE_FOLDER_NOTE,
            folder=lambda split: f"views/imagefolder/deep_fashion/{split}",
            plan=lambda tables, split: plan_images(tables, split, plan_personalized(tables, split)),
        ),
    ),
    paper="Cohen et al., 'This is my unicorn, Fluffy': Personalizing frozen vision-language representations, ECCV 2022",
    retrieval=Retrieval(
        tree="personalized",
        placeholder="person",
        list_captions=list_captions,
        list_few_shot=list_few_shot,
        few_shot_tables=("few_shot_split",),
        sources={
            "concept": ("captions.pair_id", "few_shot_split.pair_id"),
            "class_name": ("few_shot_split.class_name",),
            "text": ("captions.caption", "few_shot_split.class_name"),
            "targets": ("captions.image",),
            "image": ("few_shot_split.image",),
        },
    ),
)
