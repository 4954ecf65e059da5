"""What the evaluation asks, and from which images it learns: queries and few-shot draws of every searched benchmark."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_searched
from pervl_assets.benchmarks.benchmark import GALLERY_FOLDER, Benchmark, Retrieval, TreeAsset
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.tables import TableSchema
from pervl_assets.defs.checks import to_check_result
from pervl_assets.defs.metadata import OWNERS
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.evaluation.draws import DRAWS, check_shots, list_draws, list_few_shot, summarize_draws
from pervl_assets.evaluation.protocols import DISTINCT, choose_protocols, tabulate_protocols
from pervl_assets.evaluation.queries import (
    QUERIES,
    check_placeholders,
    check_targets,
    list_queries,
    mark_faults,
    summarize_queries,
)
from pervl_assets.io_managers.metadata import preview_table
from pervl_assets.io_managers.tables import TableIOManager, declare_columns
from pervl_assets.trees.ledger import FolderTree

EVALUATION: Final = "evaluation"
"""Group and key prefix."""

_Made = dg.MaterializeResult[pl.DataFrame]

_ROWS: Final = 50

_PLACEHOLDERS: Final = "one_placeholder"
_TARGETS: Final = "targets_exist"
_SHOTS: Final = "enough_images"


@dataclass(frozen=True)
class _Table:
    """A table of a searched benchmark, made split by split from its tree and the tables of that.

    Attributes:
        name: Asset name.
        description: Meaning of a row.
        schema: Its columns.
        checks: Description by name.
        list_tables: Names of the tables of the benchmark that it needs.
        uses: Settings of the workspace that it depends on.
        make: Makes it for a split, from the inputs by name; the tree is `tree`.
    """

    name: str
    description: str
    schema: TableSchema
    checks: Mapping[str, str]
    list_tables: Callable[[Retrieval, TreeAsset], tuple[str, ...]]
    uses: tuple[str, ...]
    make: Callable[[Retrieval, TreeAsset, str, Workspace, Mapping[str, Any]], _Made]


def _make_queries(
    retrieval: Retrieval, tree: TreeAsset, split: str, workspace: Workspace, inputs: Mapping[str, Any]
) -> _Made:
    protocols = choose_protocols(retrieval.placeholder)
    marked = mark_faults(retrieval.list_captions(inputs, split), tree.name_classes(inputs), retrieval.placeholder)
    frame = list_queries(marked, retrieval.placeholder, protocols)
    return TableIOManager.describe(
        frame,
        checks=[
            to_check_result(_PLACEHOLDERS, check_placeholders(marked), "warning"),
            to_check_result(_TARGETS, check_targets(frame, _list_gallery(inputs["tree"])), "warning"),
        ],
        examples=preview_table(summarize_queries(frame), rows=_ROWS),
        protocols=preview_table(tabulate_protocols(protocols), rows=_ROWS),
    )


def _make_draws(
    retrieval: Retrieval, tree: TreeAsset, split: str, workspace: Workspace, inputs: Mapping[str, Any]
) -> _Made:
    few_shot = list_few_shot(inputs["tree"].ledger)
    schemes = dict.fromkeys([*(one.draws for one in choose_protocols(retrieval.placeholder)), DISTINCT])
    frame = list_draws(few_shot, retrieval.list_few_shot(inputs, split), schemes, workspace.repetitions)
    return TableIOManager.describe(
        frame,
        checks=[to_check_result(_SHOTS, check_shots(few_shot, DISTINCT), "warning")],
        schemes=preview_table(summarize_draws(frame), rows=_ROWS),
    )


_TABLES: Final = (
    _Table(
        name="queries",
        description="The queries of the split: the text that is asked for each caption, and the images that are right. "
        "By protocol, set of queries and form.",
        schema=QUERIES,
        checks={
            _PLACEHOLDERS: "Every caption names its concept once. A warning: each of several placeholders gets the "
            "class, and only the first the token. A caption without text, placeholder or class is left out.",
            _TARGETS: "Every right image is in the tree. A warning: a query without its image has no score, so scores "
            "cannot be compared with published ones.",
        },
        list_tables=lambda retrieval, tree: tree.tables,
        uses=(),
        make=_make_queries,
    ),
    _Table(
        name="few_shot_draws",
        description="The few-shot images from which each concept of the split is learned, by scheme and seed. Only "
        "files that are in the tree are drawn.",
        schema=DRAWS,
        checks={
            _SHOTS: "Every concept has as many different few-shot images as are drawn. A warning: 55 concepts of "
            "PerVL-YTVOS have only four of five. PALAVRA draws with replacement, and can draw five of four."
        },
        list_tables=lambda retrieval, tree: retrieval.few_shot_tables,
        uses=("repetitions",),
        make=_make_draws,
    ),
)


def build_evaluation_tables() -> list[dg.AssetsDefinition]:
    """Return the assets `evaluation/<benchmark>/queries` and `few_shot_draws` of every searched benchmark."""
    return [_build_table(*searched, table) for searched in find_searched() for table in _TABLES]


def _build_table(benchmark: Benchmark, retrieval: Retrieval, tree: TreeAsset, table: _Table) -> dg.AssetsDefinition:
    key = dg.AssetKey([EVALUATION, benchmark.name, table.name])
    tables = table.list_tables(retrieval, tree)
    made_with = repr((choose_protocols(retrieval.placeholder), DISTINCT))

    @dg.asset(
        key=key,
        group_name=EVALUATION,
        ins={
            "tree": dg.AssetIn([benchmark.name, tree.name]),
            **{name: dg.AssetIn([benchmark.name, name]) for name in tables},
        },
        partitions_def=dg.StaticPartitionsDefinition(list(tree.splits)),
        io_manager_key=TableIOManager.key,
        description=table.description,
        kinds={"parquet"},
        owners=OWNERS,
        code_version=f"1.{hash_bytes(made_with.encode())[:8]}",
        metadata=declare_columns(_trace_columns(table.schema, retrieval, tables), benchmark.name),
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=text) for name, text in table.checks.items()],
    )
    @record_step(uses=table.uses)
    def evaluation_table(context: dg.AssetExecutionContext, workspace: Workspace, **inputs: Any) -> Iterator[_Made]:
        yield table.make(retrieval, tree, context.partition_key, workspace, inputs)

    return evaluation_table


def _trace_columns(schema: TableSchema, retrieval: Retrieval, tables: Collection[str]) -> TableSchema:
    """Return a schema whose columns name those of the benchmark's tables that they are from."""
    sources = {
        column.name: [one for one in retrieval.sources.get(column.name, ()) if one.partition(".")[0] in tables]
        for column in schema
    }
    return TableSchema(tuple(replace(column, made_from=tuple(sources[column.name])) for column in schema))


def _list_gallery(tree: FolderTree) -> set[str]:
    """Return the file names of the images that are searched."""
    path = pl.col("path")
    mine = tree.ledger.filter(path.str.starts_with(f"{GALLERY_FOLDER}/"), status="written")
    return set(mine.select(path.str.split("/").list.last()).to_series())
