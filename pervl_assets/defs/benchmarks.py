"""The benchmarks as assets: for every `BENCHMARK` its raw archives, annotation tables and folder trees.

Belongs here: the one way from a `Benchmark` to its assets. Does not belong here: any particular benchmark; a new module
in `pervl_assets/benchmarks` is found by itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.core.archives import ArchiveSpec, RawArchive
from pervl_assets.core.benchmark import Benchmark, TableAsset, TreeAsset
from pervl_assets.core.contact_sheet import draw_contact_sheet
from pervl_assets.core.ledger import FolderTree
from pervl_assets.core.members import open_members, open_tree
from pervl_assets.core.trees import build_tree
from pervl_assets.defs.metadata import OWNERS, describe_table, describe_tree, show_picture
from pervl_assets.defs.raw import ANNOTATIONS_KEY, RAW, build_raw_asset
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.tree_checks import check_tree, declare_tree_checks
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.tables import declare_columns
from pervl_assets.io_managers.trees import read_tree


def build_benchmark_assets() -> list[dg.AssetsDefinition]:
    """Return the assets of every benchmark that the package holds."""
    return [
        asset
        for benchmark in find_benchmarks()
        for asset in (
            *(build_raw_asset(spec) for spec in benchmark.archives),
            *(build_table_asset(benchmark, table) for table in benchmark.tables),
            *(build_tree_asset(benchmark, tree) for tree in benchmark.trees),
        )
    ]


def build_table_asset(benchmark: Benchmark, table: TableAsset) -> dg.AssetsDefinition:
    """Return the asset of one annotation table."""

    @dg.asset(
        name=table.name,
        key_prefix=benchmark.name,
        group_name=benchmark.name,
        ins={"pervl_annotations": dg.AssetIn(ANNOTATIONS_KEY)},
        io_manager_key="tables",
        description=table.description,
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version="1",
        metadata=declare_columns(table.schema),
    )
    def annotation_table(pervl_annotations: RawArchive) -> dg.MaterializeResult[pl.DataFrame]:
        return describe_table(table.read(pervl_annotations.path / benchmark.name))

    return annotation_table


def build_tree_asset(benchmark: Benchmark, tree: TreeAsset) -> dg.AssetsDefinition:
    """Return the asset of one folder tree, partitioned by split where the tree is."""
    archives = {spec.name: spec for spec in benchmark.archives}
    spec = archives.get(tree.source)
    source = dg.AssetKey([RAW, tree.source] if spec else [benchmark.name, tree.source])
    key = dg.AssetKey([benchmark.name, tree.name])

    @dg.asset(
        key=key,
        group_name=benchmark.name,
        ins={
            "source": dg.AssetIn(source),
            **{table: dg.AssetIn([benchmark.name, table]) for table in tree.tables},
        },
        partitions_def=dg.StaticPartitionsDefinition(list(tree.splits)) if tree.splits else None,
        io_manager_key="trees",
        description=tree.description,
        kinds={"pillow", "folder"},
        owners=OWNERS,
        code_version="1",
        check_specs=declare_tree_checks(key),
    )
    def folder_tree(
        context: dg.AssetExecutionContext, workspace: Workspace, **inputs: Any
    ) -> Iterator[dg.MaterializeResult[FolderTree]]:
        split = context.partition_key if tree.splits else None
        built = build_from_source(context, workspace, tree, spec, split, inputs)
        sheet = draw_contact_sheet(replace(built, root=built.staged or built.root), tree.sheet)
        yield describe_tree(
            built,
            checks=check_tree(built, tree.facts.get(split, {}), drawn=workspace.profile == "demo"),
            contact_sheet=show_picture(sheet, f"{key.to_user_string()}: a sample of its concepts"),
        )

    return folder_tree


def build_from_source(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    tree: TreeAsset,
    spec: ArchiveSpec | None,
    split: str | None,
    inputs: Mapping[str, Any],
) -> FolderTree:
    """Build a tree from its source (a raw archive, or another tree), keeping whatever a former run got right."""
    plan = tree.plan({name: inputs[name] for name in tree.tables}, split)
    ledger = locate_value(workspace.root, context.asset_key.path, ".parquet", split)
    source = inputs["source"]
    members = open_members(source, workspace.read_password(spec)) if spec else open_tree(source)
    with members:
        return build_tree(
            plan,
            members,
            workspace.root / plan.folder,
            previous=read_tree(workspace.root, ledger).ledger if ledger.is_file() else None,
            workers=workspace.workers,
            report=report_progress(context),
        )


def report_progress(context: dg.AssetExecutionContext) -> Callable[[int, int], None]:
    """Return a reporter that logs at every tenth of the work."""
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal last
        if (tenth := 10 * done // total if total else 10) > last:
            last = tenth
            context.log.info(f"{done:,} of {total:,} files settled")

    return report
