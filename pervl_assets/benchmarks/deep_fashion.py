"""PerVL-DeepFashion2: personal items of clothing.

Belongs here: everything that is particular to this benchmark. Rule numbers: the notes on upstream.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.core.annotations import Faults, read_csv, read_text
from pervl_assets.core.archives import ArchiveSpec
from pervl_assets.core.benchmark import Benchmark, TableAsset, TreeAsset
from pervl_assets.core.contact_sheet import SheetRules
from pervl_assets.core.pixels import measure_image
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.core.trees import Job, Output, Rendered, TreePlan

SPLITS: Final = ("validation", "test")
_CAPTION_FILES: Final = {
    "validation": "validation_captions.csv",
    "test": "test_captions.csv",
    "shortened": "shortened_deepfashion2_captions.csv",
    "detailed": "detailed_deepfashion2_captions.csv",
}

# Annotations are not trusted either: these become names of files.
_PAIR: Final = re.compile(r"[0-9]{1,12}")
_HEADER: Final = re.compile(r"codes_infer/([0-9]{1,12}):")
_IMAGE: Final = re.compile(r"([0-9]{1,12})\.jpg")
_IMAGE_NAME: Final = re.compile(r"train/image/([0-9]{1,12}\.jpg)")

CAPTIONS: Final = TableSchema(
    (
        Column(
            "caption_set", pl.String, "validation, test (the evaluation images), shortened or detailed (all images)"
        ),
        Column("pair_id", pl.String, "id of the item of clothing, which is the concept; text"),
        Column("image_name", pl.String, "member of the archive: train/image/<number>.jpg"),
        Column("image", pl.String, "its file name"),
        Column("caption", pl.String, "what the image shows; 'person' stands for the wearer of the item"),
        Column("split", pl.String, "validation or test; null if the item is in neither"),
    )
)

FEW_SHOT_SPLIT: Final = TableSchema(
    (
        Column("split", pl.String, "validation or test"),
        Column("pair_id", pl.String, "id of the item of clothing; text"),
        Column("image", pl.String, "file name of an image that the concept is learned from"),
    )
)


def read_few_shot_split(folder: Path) -> pl.DataFrame:
    """Read which images each concept is learned from (schema `FEW_SHOT_SPLIT`), in the files' order (rule C2, C3).

    Raises:
        AnnotationError: Names each faulty line: neither header nor image, an image before any header, a header twice or
            without images.
        MissingInputError: An annotation file is missing.
    """
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
                    faults.add(line, f"codes_infer/{pair} stands in line {headers[pair]} already")
                headers[pair] = line
            elif not _IMAGE.fullmatch(text):
                faults.add(line, f"{text[:80]!r} is neither codes_infer/<pair_id>: nor <number>.jpg")
            elif pair is None:
                faults.add(line, f"{text} stands before any codes_infer/<pair_id>:")
            else:
                filled.add(pair)
                rows.append((split, pair, text))
        for empty in headers.keys() - filled:
            faults.add(headers[empty], f"codes_infer/{empty} has no images")
        faults.raise_any()
    return pl.DataFrame(rows, schema=FEW_SHOT_SPLIT.to_polars(), orient="row")


def read_captions(folder: Path) -> pl.DataFrame:
    """Read all four caption files (schema `CAPTIONS`), in their order.

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


def plan_personalized(tables: Mapping[str, pl.DataFrame], split: str | None) -> TreePlan:
    """Plan what PALAVRA reads of a split: few-shot images by concept, evaluation images side by side (rules C1, C4)."""
    outputs: dict[str, Output] = {}
    sources: dict[str, list[Output]] = {}
    few_shot = tables["few_shot_split"].filter(split=split).select("pair_id", "image").iter_rows()
    evaluation = tables["captions"].filter(caption_set=split).select("pair_id", "image").iter_rows()
    wanted = [(image, Output(f"codes_infer/{pair}/{image}", pair, "few_shot_copy")) for pair, image in few_shot]
    wanted += [(image, Output(f"eval/test/{image}", pair, "evaluation_copy")) for pair, image in evaluation]
    for image, output in wanted:
        if output.path not in outputs:  # an image may have several captions
            outputs[output.path] = output
            sources.setdefault(f"train/image/{image}", []).append(output)
    jobs = tuple(Job((member,), tuple(made)) for member, made in sorted(sources.items()))
    return TreePlan(_place_personalized(split), jobs, copy_image, rules=1)


def copy_image(job: Job, blobs: list[bytes]) -> Iterator[Rendered]:
    """Copy an image byte for byte, once it is known to decode: its consumers would stop at one that does not.

    Raises:
        ImageError: It does not decode.
    """
    width, height = measure_image(blobs[0])
    for output in job.outputs:
        yield Rendered(output, blobs[0], None, width, height)


def _place_personalized(split: str | None) -> str:
    return f"deep_fashion2/personalized_{split}"


BENCHMARK: Final = Benchmark(
    name="deep_fashion",
    title="PerVL-DeepFashion2",
    description="Find the images that a caption about the wearer of an item of clothing describes; from DeepFashion2.",
    archives=(
        ArchiveSpec(
            name="deep_fashion2_train",
            title="DeepFashion2, train.zip",
            description="Images of clothing, encrypted; 1,764 of 191,961 are read and decrypted.",
            file="deep_fashion2/train.zip",
            folders=("deep_fashion2/train",),
            homepage="https://github.com/switchablenorms/DeepFashion2",
            how_to_get="Fill in the form named there to get the address and the password, and download train.zip.",
            licence="see the official site: non-commercial research",
            disk="about 13 GB, as downloaded",
            password_variable="DEEPFASHION2_PASSWORD",  # noqa: S106 - the variable's name
        ),
    ),
    tables=(
        TableAsset(
            "captions",
            "Captions of the evaluation images, and the shortened and detailed captions of all images.",
            CAPTIONS,
            read_captions,
            {"rows": 1756, "pair_id": 100},
        ),
        TableAsset(
            "few_shot_split",
            "The images that each item of clothing is learned from.",
            FEW_SHOT_SPLIT,
            read_few_shot_split,
            {"rows": 1314, "pair_id": 100},
        ),
    ),
    trees=(
        TreeAsset(
            name="personalized",
            description="What PALAVRA reads of a split: few-shot images by item, and evaluation images side by side.",
            splits=SPLITS,
            tables=("few_shot_split", "captions"),
            source="deep_fashion2_train",
            folder=_place_personalized,
            plan=plan_personalized,
            sheet=SheetRules("few_shot_copy", ("evaluation_copy",)),
            facts={
                "validation": {"few_shot_copy": 661, "evaluation_copy": 229},
                "test": {"few_shot_copy": 653, "evaluation_copy": 221},
            },
        ),
    ),
    annotation_files=(
        *_CAPTION_FILES.values(),
        "validation_fsl_train.txt",
        "test_fsl_train.txt",
        "train_coarse_grained_names.csv",
    ),
    paper="Cohen et al., 'This is my unicorn, Fluffy': Personalizing frozen vision-language representations, ECCV 2022",
)
