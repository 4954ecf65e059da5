"""The project's way to the same trees: the code below Dagster, from the zip to trees and saved ledgers.

The same calls as in the tree assets, with the option to use fewer concepts. Run by `perf.trees` as a command of its
own; prints its figures as one line of JSON.

    python -m pervl_assets_tests.perf.project {ytvos,deep_fashion} ARCHIVE ANNOTATIONS OUT
        [--password P] [--every N] [--workers N]
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import polars as pl

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import Members, open_members
from pervl_assets.benchmarks import deep_fashion, ytvos, ytvos_annotations
from pervl_assets.trees.build import FolderTree, TreePlan, build_tree, commit_tree


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("benchmark", choices=["ytvos", "deep_fashion"])
    parser.add_argument("archive", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--password")
    parser.add_argument("--every", type=int, default=1, help="use every n-th concept")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    start = time.perf_counter()
    plans = plan_trees(given.benchmark, given.annotations, given.every)
    archive = RawArchive(given.archive, identify(given.archive))
    with open_members(archive, given.password) as members:
        trees = [make_tree(plan, members, given.out / name, given.workers) for name, plan in plans.items()]
    report = {
        "own_seconds": time.perf_counter() - start,
        "written": sum(tree.written for tree in trees),
        "rendered": sum(tree.rendered for tree in trees),
        "content": [tree.content_hash for tree in trees],
    }
    print(json.dumps(report))  # noqa: T201 - read by `perf.trees`


def plan_trees(benchmark: str, annotations: Path, every: int) -> dict[str, TreePlan]:
    """Return the plans by the folder of their tree."""
    if benchmark == "ytvos":
        concepts = ytvos_annotations.read_concepts(annotations / "ytvos").gather_every(every)
        return {"trees": ytvos.plan_fsl_seg({"concepts": concepts})}
    few_shot = deep_fashion.read_few_shot_split(annotations / "deep_fashion")
    captions = deep_fashion.read_captions(annotations / "deep_fashion")
    plans = {}
    for split in deep_fashion.SPLITS:
        pairs = few_shot.filter(split=split)["pair_id"].unique().sort().gather_every(every).implode()
        tables = {
            "few_shot_split": few_shot.filter(pl.col("pair_id").is_in(pairs)),
            "captions": captions.filter(pl.col("pair_id").is_in(pairs)),
        }
        plans[f"trees/personalized_{split}"] = deep_fashion.plan_personalized(tables, split)
    return plans


def make_tree(plan: TreePlan, members: Members, target: Path, workers: int) -> FolderTree:
    """Build a tree, save its ledger, and move the tree into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    ledger = target.with_name(f"{target.name}.ledger.parquet")
    previous = pl.read_parquet(ledger) if ledger.exists() else None
    tree = build_tree(replace(plan, folder=target.name), members, target, previous, workers=workers)
    return commit_tree(tree, ledger)


if __name__ == "__main__":
    main()
