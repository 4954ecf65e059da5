"""TITLE: a personal object, learned from a few photographs, is found by captions in others."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.archives.annotations import Faults, read_csv
from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.benchmarks.benchmark import (
    FEW_SHOT_FOLDER,
    GALLERY_FOLDER,
    QUERY_CAPTIONS,
    Benchmark,
    Retrieval,
    TableAsset,
    TreeAsset,
)
from pervl_assets.core.pixels import measure_image
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.trees.checks import check_roles_apart
from pervl_assets.trees.contact_sheet import SheetRoles
from pervl_assets.trees.plans import Output, Rendered, RenderTask, TreePlan

_SPLIT: Final = "test"

_FORMS: Final = {  # annotations become file names, so they are checked
    "concept": re.compile(r"[a-z]+(?:_[a-z]+)*"),
    "photo": re.compile(r"[0-9]{3}\.jpg"),
    "role": re.compile(r"few_shot|evaluation"),
    "class": re.compile(r"[a-z]+(?: [a-z]+)*"),
}

PHOTOS: Final = TableSchema(
    (
        Column("concept", pl.String, "the personal object"),
        Column("photo", pl.String, "member of the archive below photos/"),
        Column("role", pl.String, "few_shot: the concept is learned from it; evaluation: it must be found in it"),
        Column("class", pl.String, "what the object is, in a word that CLIP knows"),
        Column("caption", pl.String, "content of the photograph, with `*` for the concept"),
    )
)


def read_photos(folder: Path) -> pl.DataFrame:
    """Read concept, role, class and caption of each photograph (schema `PHOTOS`), in the file's order.

    Raises:
        AnnotationError: Names each invalid row with its line.
        MissingInputError: The file is missing.
    """
    faults = Faults(folder / "photos.csv")
    rows = []
    for line, row in read_csv(faults.file, tuple(PHOTOS.names)):
        for name, form in _FORMS.items():
            faults.check(line, form, row[name], name)
        rows.append(row)
    faults.raise_any()
    return pl.DataFrame(rows, schema=PHOTOS.to_polars())


def count_photos(photos: pl.DataFrame) -> dict[str, int]:
    """Count concepts, and photographs by role."""
    return {"concepts": photos["concept"].n_unique(), **dict(photos.group_by("role").len().sort("role").iter_rows())}


def plan_personalized(tables: Mapping[str, pl.DataFrame], split: str | None) -> TreePlan:
    """Plan the layout that PALAVRA reads: few-shot photographs by concept, evaluation photographs in one folder."""
    tasks = []
    for concept, photo, role in tables["photos"].select("concept", "photo", "role").iter_rows():
        path = f"{FEW_SHOT_FOLDER}/{concept}/{photo}" if role == "few_shot" else f"{GALLERY_FOLDER}/{photo}"
        tasks.append(RenderTask((f"photos/{photo}",), (Output(path, concept, role),)))
    return TreePlan(locate_personalized(split), tuple(tasks), copy_photo)


def locate_personalized(split: str | None) -> str:
    """Return the folder of a split below `PERVL_DATA`."""
    return f"NAME/personalized_{split}"


def copy_photo(task: RenderTask, blobs: list[bytes]) -> Iterator[Rendered]:
    """Copy a photograph byte for byte after decoding it once.

    Raises:
        ImageError: It does not decode. It is quarantined with that reason; the others are made.
    """
    width, height = measure_image(blobs[0])
    yield Rendered(task.outputs[0], blobs[0], None, width, height)


def list_captions(tables: Mapping[str, pl.DataFrame], split: str) -> pl.DataFrame:
    """Return the captions of the evaluation photographs as queries (schema `QUERY_CAPTIONS`)."""
    asked = tables["photos"].filter(role="evaluation").with_row_index("query")
    captions = asked.select("query", "concept", "caption", caption_set=pl.lit("short"), image="photo")
    return captions.select(QUERY_CAPTIONS.names).cast(QUERY_CAPTIONS.to_polars())


def name_classes(tables: Mapping[str, pl.DataFrame]) -> dict[str, str]:
    """Return the class of every concept."""
    return dict(tables["photos"].select("concept", "class").iter_rows())


def describe_concept(tables: Mapping[str, pl.DataFrame], concept: str) -> list[tuple[str, str]]:
    """Return the evaluation photographs of a concept with their captions, for its preview."""
    asked = tables["photos"].filter(concept=concept, role="evaluation")
    return [*asked.select("photo", "caption").iter_rows()]


BENCHMARK: Final = Benchmark(
    name="NAME",
    title="TITLE",
    description="Find the photograph of a personal object that a caption describes.",
    archives=(
        ArchiveSpec(
            name="NAME_photos",
            title="Photographs of TITLE",
            description="All photographs. Only those that the annotations name are read.",
            file="NAME/photos.zip",
            folders=("NAME/photos",),
            homepage="https://example.org",
            how_to_get="Ask the authors.",
            licence="unknown",
            disk="100 kB",
        ),
    ),
    tables=(
        TableAsset(
            name="photos",
            description="One row per photograph: its concept, role, class and caption.",
            schema=PHOTOS,
            read=read_photos,
            count=count_photos,
            source_note="the rows of `photos.csv`, in file order.",
        ),
    ),
    trees=(
        TreeAsset(
            name="personalized",
            description="PALAVRA's input: few-shot photographs by concept, and evaluation photographs in one folder.",
            splits=(_SPLIT,),
            tables=("photos",),
            source="NAME_photos",
            folder=locate_personalized,
            plan=plan_personalized,
            facts={_SPLIT: {}},
            sheet=SheetRoles("few_shot", ("evaluation",)),
            checks=(check_roles_apart("few_shot", "evaluation"),),
            name_classes=name_classes,
            describe=describe_concept,
            source_note="photographs are copied byte for byte.",
        ),
    ),
    paper="none",
    retrieval=Retrieval(
        tree="personalized",
        placeholder="*",
        list_captions=list_captions,
        sources={
            "concept": ("photos.concept",),
            "class_name": ("photos.class",),
            "text": ("photos.caption", "photos.class"),
            "targets": ("photos.photo",),
        },
    ),
)
