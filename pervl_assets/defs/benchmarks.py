"""The benchmarks as assets: for every `BENCHMARK` its raw archives, annotation tables and folder trees."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import ArchiveSpec, RawArchive, locate_local
from pervl_assets.archives.members import open_members
from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import Benchmark, TableAsset, TreeAsset
from pervl_assets.core.errors import FailedCheckError
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.progress import Progress
from pervl_assets.defs.checks import declare_benchmark_checks, evaluate_checks, evaluate_counts
from pervl_assets.defs.metadata import OWNERS
from pervl_assets.defs.placement import HEAVY
from pervl_assets.defs.raw import ANNOTATIONS_KEY, RAW, build_raw_asset
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.run_results import name_partition
from pervl_assets.defs.sheets import show_concepts
from pervl_assets.defs.steps import record_step
from pervl_assets.defs.tree_checks import check_ledger, check_quarantine, declare_tree_checks
from pervl_assets.io_managers.metadata import preview_table
from pervl_assets.io_managers.tables import TableIOManager, declare_columns
from pervl_assets.io_managers.trees import TreeIOManager
from pervl_assets.trees.build import build_tree
from pervl_assets.trees.ledger import FolderTree, require_whole
from pervl_assets.trees.members import open_tree, open_trees
from pervl_assets.trees.summary import count_classes, tabulate_sizes

_CLASSES: Final = 50
"""Classes shown of a tree; PerVL-YTVOS has 43."""


def build_benchmark_assets() -> list[dg.AssetsDefinition]:
    """Return the assets of every benchmark in the package."""
    return [
        asset
        for benchmark in find_benchmarks()
        for asset in (
            *(build_raw_asset(spec) for spec in benchmark.archives),
            *(_build_table_asset(benchmark, table) for table in benchmark.tables),
            *(_build_tree_asset(benchmark, tree) for tree in benchmark.trees),
        )
    ]


def _build_table_asset(benchmark: Benchmark, table: TableAsset) -> dg.AssetsDefinition:
    """Return the asset of one annotation table."""
    key = dg.AssetKey([benchmark.name, table.name])

    @dg.asset(
        key=key,
        group_name=benchmark.name,
        ins={"pervl_annotations": dg.AssetIn(ANNOTATIONS_KEY)},
        io_manager_key="tables",
        description=table.description,
        kinds={"parquet"},
        owners=OWNERS,
        code_version=f"1.{_hash_facts(table.facts)}",
        metadata=declare_columns(table.schema),
        check_specs=declare_benchmark_checks(key, table.checks, table.paper),
    )
    @record_step(uses=("profile", "splits") if table.variants else ("profile",))
    def annotation_table(
        workspace: Workspace, pervl_annotations: RawArchive
    ) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
        read = table.variants.get(workspace.splits, table.read)
        frame = read(locate_local(pervl_annotations) / benchmark.name)
        counts = evaluate_counts(table.count(frame), table.facts, synthetic=workspace.profile == "demo")
        more: dict[str, Any] = {"splits": workspace.splits} if table.variants else {}
        yield TableIOManager.describe(frame, checks=[counts, *evaluate_checks(table.checks, frame)], **more)

    return annotation_table


def _build_tree_asset(benchmark: Benchmark, tree: TreeAsset) -> dg.AssetsDefinition:
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
        kinds={"folder"},
        owners=OWNERS,
        op_tags={HEAVY: ""},
        code_version=f"{tree.version}.{_hash_facts(tree.facts)}",
        check_specs=[*declare_tree_checks(key), *declare_benchmark_checks(key, tree.checks)],
    )
    @record_step(uses=("profile",))
    def folder_tree(
        context: dg.AssetExecutionContext, workspace: Workspace, **inputs: Any
    ) -> Iterator[dg.MaterializeResult[FolderTree]]:
        split = context.partition_key if tree.splits else None
        built = _build_from_source(context, workspace, tree, spec, split, inputs)
        on_disk = replace(built, root=built.staged or built.root)
        tables = {name: inputs[name] for name in tree.tables}
        classes = tree.name_classes(tables)
        sheet, pages = show_concepts(on_disk, benchmark, tree, tables)
        shown = (tree.sheet.few_shot, *tree.sheet.evaluation)
        counts = dict(built.ledger.group_by("rule").len().sort("rule").iter_rows())
        yield TreeIOManager.describe(
            built,
            checks=[
                check_ledger(built),
                check_quarantine(built),
                evaluate_counts(counts, tree.facts.get(split, {}), synthetic=workspace.profile == "demo"),
                *evaluate_checks(tree.checks, built),
            ],
            **sheet,
            classes=preview_table(count_classes(built, shown, classes).rename(_space), rows=_CLASSES),
            image_sizes=preview_table(tabulate_sizes(on_disk, shown).rename(_space)),
            **pages,
        )
        # It is stored by now. Without this the step would end with Dagster's error, which names the failed check alone.
        require_whole(built, name_partition(context.asset_key.to_user_string(), split), FailedCheckError)

    return folder_tree


def _hash_facts(facts: Mapping[Any, Any]) -> str:
    """Return the part of a code version that changes with the official counts, which checks compare with."""
    return hash_bytes(repr(facts).encode())[:8]


def _space(column: str) -> str:
    """Return a column's name as a heading that the page can break into two lines."""
    return column.replace("_", " ")


def _build_from_source(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    tree: TreeAsset,
    spec: ArchiveSpec | None,
    split: str | None,
    inputs: Mapping[str, Any],
) -> FolderTree:
    """Build a tree from its source (an archive or another tree), keeping the files of earlier runs that are right."""
    plan = replace(tree.plan({name: inputs[name] for name in tree.tables}, split), version=tree.version)
    previous: FolderTree | None = TreeIOManager(data=workspace.data).read_previous(context.asset_key, split)
    source = inputs["source"]
    if spec:
        members = open_members(source, workspace.read_password(spec))
    else:  # an unpartitioned tree is made from all partitions of its source
        members = open_trees(source.values()) if isinstance(source, dict) else open_tree(source)
    with members:
        return build_tree(
            plan,
            members,
            workspace.root / plan.folder,
            previous=previous.ledger if previous else None,
            workers=workspace.workers,
            max_lost=workspace.max_quarantined_share,
            on_progress=Progress(context.log.info, "files"),
        )
