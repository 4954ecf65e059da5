"""What a benchmark is: archives, tables, trees. One value describes it whole.

Belongs here: the vocabulary. Does not belong here: any particular benchmark, which is one module of
`pervl_assets.benchmarks`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pervl_assets.core.archives import ArchiveSpec
from pervl_assets.core.contact_sheet import SheetRules
from pervl_assets.core.tables import TableSchema
from pervl_assets.core.trees import TreePlan


@dataclass(frozen=True)
class TableAsset:
    """A table read from a benchmark's annotation files.

    Attributes:
        name: Asset name below the benchmark's prefix.
        description: What a row is.
        schema: Its columns.
        read: Reads it from the folder with the benchmark's annotation files; raises `AnnotationError` with line
            numbers, or `MissingInputError`.
        facts: What is known of the official annotations: name of the fact to its value. `rows` is the row count; any
            other name is a column, and the value the number of its distinct values.
    """

    name: str
    description: str
    schema: TableSchema
    read: Callable[[Path], pl.DataFrame]
    facts: Mapping[str, int] = field(default_factory=dict)


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
        annotation_files: Its official annotation files, by name in its annotations folder.
        paper: Where it is defined.
    """

    name: str
    title: str
    description: str
    archives: tuple[ArchiveSpec, ...]
    tables: tuple[TableAsset, ...]
    trees: tuple[TreeAsset, ...]
    annotation_files: tuple[str, ...]
    paper: str
