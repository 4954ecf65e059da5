"""A build in a process of its own, for `test_kill.py`: every render adds a line to a log."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.trees.build import Rendered, RenderTask, build_tree, commit_tree
from pervl_assets_tests.core.samples import plan_copies

JOBS = 100
WORKERS = 2


def render_slowly(job: RenderTask, blobs: list[bytes]) -> Iterator[Rendered]:
    with Path(job.outputs[0].params[0]).open("a") as log:
        log.write(f"{job.members[0]}\n")
    time.sleep(0.004)
    yield Rendered(job.outputs[0], blobs[0] * 500)


def build(root: Path) -> None:
    path, log = root / "raw.zip", str(root / "renders.log")
    plan = plan_copies([f"{number:03}.txt" for number in range(JOBS)])
    jobs = tuple(replace(job, outputs=(replace(job.outputs[0], params=(log,)),)) for job in plan.tasks)
    ledger = root / "ledger.parquet"
    previous = pl.read_parquet(ledger) if ledger.exists() else None
    with open_members(RawArchive(path, identify(path))) as members:
        tree = build_tree(
            replace(plan, tasks=jobs, render=render_slowly), members, root / "tree", previous, workers=WORKERS
        )
    (root / "built").touch()
    commit_tree(tree, ledger)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
