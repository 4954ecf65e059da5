"""What a benchmark is: archives, tables, trees. One value describes it whole.

Belongs here: the vocabulary. Does not belong here: any particular benchmark, which is one module of
`pervl_assets.benchmarks`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.core.checks import Check
from pervl_assets.core.tables import TableSchema
from pervl_assets.trees.build import TreePlan
from pervl_assets.trees.contact_sheet import SheetRules
from pervl_assets.trees.ledger import FolderTree

SplitRule = Literal["official", "scene_disjoint"]


def count_rows(frame: pl.DataFrame) -> Mapping[str, int]:
    """Count what there is to count in a table of which nothing else is known."""
    return {"rows": frame.height}


@dataclass(frozen=True)
class TableAsset:
    """A table read from a benchmark's annotation files.

    Attributes:
        name: Asset name below the benchmark's prefix.
        description: What a row is.
        schema: Its columns.
        read: Reads it from the folder with the benchmark's annotation files; raises `AnnotationError` with line
            numbers, or `MissingInputError`.
        count: Counts what the benchmark is described by, e.g. the concepts of each split; by name of the count.
        facts: What `count` gives for the official annotations.
        paper: Where these differ from what the paper says, in a sentence.
        checks: What else such a table must satisfy.
        variants: Other ways to read it, by the value of `PERVL_SPLITS` that asks for them.
        rule: What lays down its content, and where that is from; for its page, after *Rule:*.
    """

    name: str
    description: str
    schema: TableSchema
    read: Callable[[Path], pl.DataFrame]
    count: Callable[[pl.DataFrame], Mapping[str, int]] = count_rows
    facts: Mapping[str, int] = field(default_factory=dict)
    paper: str = ""
    checks: tuple[Check[pl.DataFrame], ...] = ()
    variants: Mapping[str, Callable[[Path], pl.DataFrame]] = field(default_factory=dict)
    rule: str = ""


@dataclass(frozen=True)
class TreeAsset:
    """A folder tree made from an archive or from another tree of the same benchmark.

    Attributes:
        name: Asset name below the benchmark's prefix.
        description: What it holds.
        splits: Its partitions; empty: it is not partitioned.
        tables: Names of the tables it needs.
        source: Name of the `ArchiveSpec`, or of the `TreeAsset`, that it is made from.
        folder: Its root below `PERVL_DATA`, by split (None for an unpartitioned tree).
        plan: What it shall hold, from the tables (by name) and the split.
        sheet: Which of its files a contact sheet shows.
        facts: Outputs by rule under the official annotations, by split (None for an unpartitioned tree).
        checks: What else such a tree must satisfy.
        name_classes: Class of every concept, from the tables (by name).
        tell: What a person wants to read of a concept, as label and text, from the tables (by name).
        label_images: Adds `split` and `caption` (String, null if there is none) to a frame with the columns `concept`
            and `image` (file name), one row per image; from the tables (by name).
        rule: What lays down its content, and where that is from; for its page, after *Rule:*.
    """

    name: str
    description: str
    splits: tuple[str, ...]
    tables: tuple[str, ...]
    source: str
    folder: Callable[[str | None], str]
    plan: Callable[[Mapping[str, pl.DataFrame], str | None], TreePlan]
    sheet: SheetRules
    facts: Mapping[str | None, Mapping[str, int]] = field(default_factory=dict)
    checks: tuple[Check[FolderTree], ...] = ()
    name_classes: Callable[[Mapping[str, pl.DataFrame]], Mapping[str, str]] = lambda tables: {}
    tell: Callable[[Mapping[str, pl.DataFrame], str], Sequence[tuple[str, str]]] = lambda tables, concept: ()
    label_images: Callable[[Mapping[str, pl.DataFrame], pl.DataFrame], pl.DataFrame] = lambda tables, images: (
        images.with_columns(split=pl.lit(None, pl.String), caption=pl.lit(None, pl.String))
    )
    rule: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: everything the project knows of it.

    Attributes:
        name: Group and key prefix of its assets, and the name of its folder below the annotations.
        title: Its name in the paper.
        description: What it measures.
        archives: Raw inputs it needs.
        tables: Tables read from its annotations.
        trees: Folder trees, a source before what is made from it.
        paper: Where it is defined.
    """

    name: str
    title: str
    description: str
    archives: tuple[ArchiveSpec, ...]
    tables: tuple[TableAsset, ...]
    trees: tuple[TreeAsset, ...]
    paper: str


def name_members(benchmark: Benchmark, archive: str, annotations: Path) -> set[str]:
    """Return the members of an archive that the benchmark's annotations name.

    Args:
        benchmark: Whose trees are made from the archive.
        archive: Name of its `ArchiveSpec`.
        annotations: The benchmark's annotations folder.

    Raises:
        AnnotationError: The annotations do not follow their format.
        MissingInputError: An annotation file is missing.
    """
    trees = [tree for tree in benchmark.trees if tree.source == archive]
    wanted = {name for tree in trees for name in tree.tables}
    tables = {table.name: table.read(annotations) for table in benchmark.tables if table.name in wanted}
    plans = [tree.plan(tables, split) for tree in trees for split in tree.splits or (None,)]
    return {member for plan in plans for job in plan.jobs for member in job.members}
