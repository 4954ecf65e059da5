"""Builds in processes of their own that kill themselves at chosen moments, for `test_kill.py`.

A moment is a line of the project's code, counted within a phase of the build, or a time. Nothing is cleaned up: the
process ends by SIGKILL, or by an alarm without a handler, which may come at any point. Every build is a fork of one
process, which has imported everything and run nothing.

    python -m pervl_assets_tests.trees.killed_build < MOMENTS

reads one `[root, phase, line]` or `[root, "alarm", seconds]` a line, as JSON, and prints one exit status a line. A
build that ends leaves `figures.json` in its root.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import polars as pl

import pervl_assets
from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.trees.build import FolderTree, Rendered, RenderTask, build_tree, commit_tree
from pervl_assets_tests.core.samples import list_files, plan_copies

PHASES = ("reading", "rendering", "assembling", "swapping")
NAMES = [f"{number:03}.txt" for number in range(24)]

phase = ""


def build(root: Path) -> FolderTree:
    """Make the tree from `raw.zip`, or repair it, in the steps of the tree's asset and its IO manager."""
    enter("reading")
    path, ledger = root / "raw.zip", root / "ledger.parquet"
    previous = pl.read_parquet(ledger) if ledger.exists() else None
    with open_members(RawArchive(path, identify(path))) as members:
        plan = plan_copies([name for name in NAMES if name in members.names])
        plan = replace(plan, render=render, finish=finish)
        tree = build_tree(plan, members, root / "tree", previous)
    enter("swapping")
    tree = commit_tree(tree, ledger)
    enter("")
    return tree


def render(job: RenderTask, blobs: list[bytes]) -> Iterator[Rendered]:
    enter("rendering")
    yield Rendered(job.outputs[0], blobs[0] * 500)


def finish(ledger: pl.DataFrame) -> dict[str, bytes]:
    enter("assembling")
    return list_files(ledger)


def enter(name: str) -> None:
    global phase  # noqa: PLW0603 - where the build is, for the line counter
    phase = name


class LineCounter:
    """Counts the executed lines of the project by phase, and ends the process at one of them."""

    def __init__(self, moment: tuple[str, int]) -> None:
        self.counts: Counter[str] = Counter()
        self._moment, self._home = moment, str(Path(pervl_assets.__file__).parent)

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._home):
            return None
        if event == "line":
            self.counts[phase] += 1
            if (phase, self.counts[phase]) == self._moment:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def run(root: Path, name: str, number: float) -> None:
    """Build in this process until the moment; write the seconds and the lines of each phase if it does not come."""
    counter = LineCounter((name, 0 if name == "alarm" else int(number)))
    if name == "alarm":
        signal.setitimer(signal.ITIMER_REAL, number)
    else:
        sys.settrace(counter)
    start = time.perf_counter()
    build(root)
    sys.settrace(None)
    figures = {"seconds": time.perf_counter() - start, "lines": counter.counts}
    (root / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


def run_forked(root: str, name: str, number: float) -> int:
    """Run in a fork, and return its exit status; a signal's is negative."""
    child = os.fork()
    if child == 0:
        run(Path(root), name, number)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        print(run_forked(*json.loads(line)), flush=True)  # noqa: T201 - the test reads it
