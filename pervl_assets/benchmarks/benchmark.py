"""A benchmark as one value: its archives, tables and trees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import polars as pl

from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.core.checks import Check
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.trees.contact_sheet import SheetRoles
from pervl_assets.trees.ledger import FolderTree
from pervl_assets.trees.plans import TreePlan

SplitMode = Literal["official", "scene_disjoint"]

FEW_SHOT_FOLDER: Final = "codes_infer"
GALLERY_FOLDER: Final = "eval/test"

QUERY_CAPTIONS: Final = TableSchema(
    (
        Column("caption_set", pl.String, "short or detailed; a benchmark with one kind of captions has short ones"),
        Column("query", pl.Int32, "row among the captions of the split, from 0"),
        Column("concept", pl.String, "the concept that it asks for"),
        Column("caption", pl.String, "its text with the benchmark's placeholder, null if the annotations have none"),
        Column("image", pl.String, "file name of its right image in `eval/test`"),
    )
)
"""What `Retrieval.list_captions` returns: the same rows for every caption set, in the file's order."""


@dataclass(frozen=True)
class TableAsset:
    """A table read from a benchmark's annotation files.

    Attributes:
        name: Asset name below the benchmark's prefix.
        description: Meaning of a row.
        schema: Its columns.
        read: Reads it from the folder with the benchmark's annotation files. Raises `AnnotationError` with line
            numbers, or `MissingInputError`.
        count: Counts, e.g. the concepts of each split, by name of the count.
        facts: The counts of the official annotations.
        paper: How these differ from the paper, in a sentence.
        checks: Further checks of the table.
        variants: Other ways to read it, by the value of `PERVL_SPLITS` that selects them.
        source_note: What defines its content, and where that is from. Shown on its page after *Source:*.
    """

    name: str
    description: str
    schema: TableSchema
    read: Callable[[Path], pl.DataFrame]
    count: Callable[[pl.DataFrame], Mapping[str, int]] = lambda frame: {"rows": frame.height}
    facts: Mapping[str, int] = field(default_factory=dict)
    paper: str = ""
    checks: tuple[Check[pl.DataFrame], ...] = ()
    variants: Mapping[str, Callable[[Path], pl.DataFrame]] = field(default_factory=dict)
    source_note: str = ""


@dataclass(frozen=True)
class TreeAsset:
    """A folder tree made from an archive or from another tree of the same benchmark.

    Attributes:
        name: Asset name below the benchmark's prefix.
        description: Its content.
        splits: Its partitions. Empty if it is not partitioned.
        tables: Names of the tables it needs.
        source: Name of the `ArchiveSpec`, or of the `TreeAsset`, that it is made from.
        folder: Its root below `PERVL_DATA`, by split (None for an unpartitioned tree).
        plan: All its files, from the tables (by name) and the split.
        sheet: Files shown on the contact sheet.
        facts: Outputs by role under the official annotations, by split (None for an unpartitioned tree).
        checks: Further checks of the tree.
        name_classes: Class of every concept, from the tables (by name).
        describe: Facts about a concept for its preview, as label and text, from the tables (by name).
        label_images: Adds `split` and `caption` (String, null if there is none) to a frame with the columns `concept`
            and `image` (file name), one row per image, from the tables (by name).
        source_note: What defines its content, and where that is from. Shown on its page after *Source:*.
        version: Raise it when the same input must give different bytes: every file is then rendered again. Part of
            every recipe and of the asset's code version.
    """

    name: str
    description: str
    splits: tuple[str, ...]
    tables: tuple[str, ...]
    source: str
    folder: Callable[[str | None], str]
    plan: Callable[[Mapping[str, pl.DataFrame], str | None], TreePlan]
    sheet: SheetRoles
    facts: Mapping[str | None, Mapping[str, int]] = field(default_factory=dict)
    checks: tuple[Check[FolderTree], ...] = ()
    name_classes: Callable[[Mapping[str, pl.DataFrame]], Mapping[str, str]] = lambda tables: {}
    describe: Callable[[Mapping[str, pl.DataFrame], str], Sequence[tuple[str, str]]] = lambda tables, concept: ()
    label_images: Callable[[Mapping[str, pl.DataFrame], pl.DataFrame], pl.DataFrame] = lambda tables, images: (
        images.with_columns(split=pl.lit(None, pl.String), caption=pl.lit(None, pl.String))
    )
    source_note: str = ""
    version: int = 1


@dataclass(frozen=True)
class Retrieval:
    """How the images of a benchmark are searched by captions.

    Attributes:
        tree: Name of its `TreeAsset`, partitioned by split: few-shot images in `codes_infer/<concept>/`, the images
            that are searched in `eval/test/`. Concepts have the classes that its `name_classes` returns.
        placeholder: What stands for the concept in a caption: `*`, or a word.
        list_captions: Captions of a split (schema `QUERY_CAPTIONS`), from the tables of the tree (by name).
        list_few_shot: Few-shot images of a split in the order of the annotations, as paths below the tree, from the
            tables `few_shot_tables`. For protocols that draw in this order; empty: as sorted by path.
        few_shot_tables: Names of the tables that it needs.
        sources: Columns of the tables that a column of the queries or draws is from, as `<table>.<column>`.
    """

    tree: str
    placeholder: str
    list_captions: Callable[[Mapping[str, pl.DataFrame], str], pl.DataFrame]
    list_few_shot: Callable[[Mapping[str, pl.DataFrame], str], Sequence[str]] = lambda tables, split: ()
    few_shot_tables: tuple[str, ...] = ()
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """Everything the project knows about a benchmark.

    Attributes:
        name: Group and key prefix of its assets, and the name of its folder below the annotations.
        title: Its name in the paper.
        description: What it measures.
        archives: Raw inputs it needs.
        tables: Tables read from its annotations.
        trees: Folder trees, each after the tree it is made from.
        paper: Citation.
        retrieval: How its images are searched. None: it gets no evaluation.
    """

    name: str
    title: str
    description: str
    archives: tuple[ArchiveSpec, ...]
    tables: tuple[TableAsset, ...]
    trees: tuple[TreeAsset, ...]
    paper: str
    retrieval: Retrieval | None = None


def name_members(benchmark: Benchmark, archive: str, annotations: Path) -> set[str]:
    """Return the members of an archive (name of its `ArchiveSpec`) that the annotations in a folder name.

    Raises:
        AnnotationError: The annotations do not follow their format.
        MissingInputError: An annotation file is missing.
    """
    trees = [tree for tree in benchmark.trees if tree.source == archive]
    wanted = {name for tree in trees for name in tree.tables}
    tables = {table.name: table.read(annotations) for table in benchmark.tables if table.name in wanted}
    plans = [tree.plan(tables, split) for tree in trees for split in tree.splits or (None,)]
    return {member for plan in plans for task in plan.tasks for member in task.members}
