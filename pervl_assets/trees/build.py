"""Folder trees: rendered in worker processes, repaired rather than rebuilt, and put in place whole.

Belongs here: the one way to build a tree. Does not belong here: what it shall hold (`core.plans`), and the names under
which unfinished work stands (`core.staging`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from pervl_assets.archives.members import Members, check_password
from pervl_assets.archives.zips import MemberError
from pervl_assets.core.errors import ArchiveError, name_some
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.pixels import ImageError
from pervl_assets.core.workers import map_in_threads, run_in_workers
from pervl_assets.trees.ledger import FolderTree, Row, build_frame, is_whole, list_files, verify_tree
from pervl_assets.trees.plans import (
    Output,
    Quarantined,
    Rendered,
    Renderer,
    RenderTask,
    TreePlan,
    fill_row,
    list_outputs,
    make_recipe,
    start_row,
)
from pervl_assets.trees.staging import Staging, link_anew, write_anew

__all__ = [
    "FolderTree",
    "Output",
    "Quarantined",
    "RenderTask",
    "Rendered",
    "TreePlan",
    "build_tree",
    "commit_tree",
    "verify_tree",
]


def build_tree(
    plan: TreePlan,
    members: Members,
    destination: Path,
    previous: pl.DataFrame | None = None,
    *,
    workers: int = 1,
    report: Callable[[int, int], None] | None = None,
) -> FolderTree:
    """Make a tree beside `destination`, taking over every file that is already right.

    A file is right if its row in `previous`, or in the journal of a run that was killed, has the recipe it has now, and
    its bytes hash as that row says. Quarantined outputs are tried again. Where nothing differs from what stands at
    `destination`, nothing is written. After an error (a full disk, a kill) the finished part stays in
    `DESTINATION.partial`, and the next call goes on from there.

    Args:
        plan: What the tree shall hold.
        members: Open source of the members.
        destination: The tree's root.
        previous: Ledger of the tree at `destination`, if there is one.
        workers: Number of worker processes; small plans are done in this one.
        report: Called with the number of outputs settled and their total.

    Returns:
        The tree; `staged` is set if `commit_tree` must put it in place.

    Raises:
        PasswordError: The members cannot be decrypted; found before any work.
        ArchiveError: Not one of the members is in the source.
        WriteError: No permission, no space left, or another run builds the same tree.
    """
    wanted = list_outputs(plan)
    names = members.names
    needed = {name for job in plan.jobs for name in job.members}
    present = sorted(name for name in needed if name in names)
    if needed and not present:
        raise ArchiveError(
            f"None of the {len(needed):,} members that {plan.folder} is made from is in {members.path}, "
            f"which holds {len(names):,} others.",
            details=[f"looked for: {name_some(sorted(needed), 3)}", f"found: {name_some(sorted(names)[:4], 3)}"],
            advice="This is another archive than the annotations are about, or one packed in another way.",
        )
    members = members.select(present)
    check_password(members)

    staging = Staging(destination)
    journal = staging.heal()
    rows, jobs, recipes = _settle_missing(plan, frozenset(present), members)
    old: list[Row] = [] if previous is None else previous.to_dicts()  # type: ignore[assignment]
    kept = _find_kept(recipes, [*old, *journal], staging)
    rows |= {path: row for path, (row, _) in kept.items()}
    todo = [
        replace(job, outputs=rest)
        for job in jobs
        if (rest := tuple(output for output in job.outputs if output.path not in kept))
    ]
    rendered = 0
    if report:
        report(len(rows), len(wanted))
    if todo:
        with staging.write() as file:
            task = _Task(plan.render, plan.rules, members, staging.folder, plan.link)
            for made in run_in_workers(task, todo, 1 if plan.link else workers):
                rows |= {row["path"]: row for row in made}
                file.writelines(json.dumps(row) + "\n" for row in made if row["status"] == "written")
                file.flush()
                rendered += sum(row["status"] == "written" for row in made)
                if report:
                    report(len(rows), len(wanted))
    in_place = {path for path, (_, at_goal) in kept.items() if at_goal}
    ledger, changed = _assemble(plan, staging, build_frame(rows.values()), in_place)
    return FolderTree(destination, ledger, staging.folder if changed else None, rendered=rendered)


def commit_tree(tree: FolderTree) -> FolderTree:
    """Put a staged tree in place, whole; where nothing is staged, do nothing.

    Save the ledger before, not after: a run killed between the two then finds every file of the ledger either in the
    staged tree or in its place.

    Raises:
        WriteError: No permission.
    """
    if tree.staged is not None:
        Staging(tree.root).swap()
    return replace(tree, staged=None)


@dataclass(frozen=True)
class _Task:
    """What a worker process needs beside the job itself."""

    render: Renderer
    rules: int
    members: Members
    folder: Path
    link: bool

    def __call__(self, job: RenderTask) -> list[Row]:
        return list(self._render(job))

    def _render(self, job: RenderTask) -> Iterator[Row]:
        crcs = [self.members.crc32(name) for name in job.members]
        pending = {output.path: output for output in job.outputs}
        reason = ""
        try:
            blobs = []
            for name in job.members:
                reason = f"{name}: "
                blobs.append(self.members.read(name))
            reason = ""
            for result in self.render(job, blobs):
                del pending[result.output.path]
                row = start_row(self.rules, result.output, job.members, crcs)
                if isinstance(result, Quarantined):
                    yield {**row, "status": "quarantined", "reason": result.reason}
                else:
                    yield self._write(row, result)
        except (MemberError, ImageError) as error:
            reason += str(error)
        if pending and not reason:
            raise ValueError(f"No result for {name_some(pending)}.")
        for output in pending.values():
            yield {**start_row(self.rules, output, job.members, crcs), "status": "quarantined", "reason": reason}

    def _write(self, row: Row, result: Rendered) -> Row:
        file = self.folder / row["path"]
        if self.link and (source := self.members.locate(row["source_members"][0])):
            link_anew(file, source)
        else:
            write_anew(file, result.data)
        box = None if result.box is None else list(result.box)
        return {**fill_row(row, result.data), "box": box, "width": result.width, "height": result.height}


def _settle_missing(
    plan: TreePlan, present: frozenset[str], members: Members
) -> tuple[dict[str, Row], list[RenderTask], dict[str, str]]:
    """Return the rows of outputs whose members are missing, the jobs that can be done, and their outputs' recipes."""
    rows: dict[str, Row] = {}
    jobs: list[RenderTask] = []
    recipes: dict[str, str] = {}
    for job in plan.jobs:
        if absent := [name for name in job.members if name not in present]:
            reason = f"not in {members.path.name}: {', '.join(absent)}"
            for output in job.outputs:
                rows[output.path] = {**start_row(plan.rules, output, job.members, []), "reason": reason}
            continue
        jobs.append(job)
        crcs = [members.crc32(name) for name in job.members]
        recipes |= {output.path: make_recipe(plan.rules, output, job.members, crcs) for output in job.outputs}
    return rows, jobs, recipes


def _find_kept(recipes: Mapping[str, str], rows: Iterable[Row], staging: Staging) -> dict[str, tuple[Row, bool]]:
    """Return, by path, rows whose file is right as it stands, and whether it stands in the target (else in staging)."""
    candidates = [row for row in rows if row["status"] == "written" and recipes.get(row["path"]) == row["recipe"]]

    def locate(row: Row) -> bool | None:
        for at_goal, root in ((True, staging.target), (False, staging.folder)):
            if is_whole(root / row["path"], row["bytes"] or 0, row["sha256"] or ""):
                return at_goal
        return None

    places = map_in_threads(locate, candidates)
    return {row["path"]: (row, at) for row, at in zip(candidates, places, strict=True) if at is not None}


def _assemble(plan: TreePlan, staging: Staging, ledger: pl.DataFrame, in_place: set[str]) -> tuple[pl.DataFrame, bool]:
    """Complete the staged tree from the old one, or drop it where the old one is right as it stands.

    Args:
        plan: For the files it makes from the finished ledger.
        staging: Where the new files stand.
        ledger: The finished ledger, but for those files.
        in_place: Outputs whose file stands in the old tree.

    Returns:
        The whole ledger, and whether the staged tree must be put in place.
    """
    summaries = plan.finish(ledger) if plan.finish else {}
    recipes = {path: Output(path, "", "summary", (hash_bytes(data),)) for path, data in summaries.items()}
    rows = [fill_row(start_row(plan.rules, recipes[path], (), []), data) for path, data in summaries.items()]
    ledger = pl.concat([ledger, build_frame(rows)]).sort("path")
    wanted = set(ledger.filter(status="written")["path"])
    kept = in_place | {
        path for path, data in summaries.items() if is_whole(staging.target / path, len(data), hash_bytes(data))
    }
    if wanted <= kept and list_files(staging.target) == wanted:
        staging.clear()
        return ledger, False
    with staging.write():
        for path in kept:
            staging.keep(path)
        for path in summaries.keys() - kept:
            write_anew(staging.folder / path, summaries[path])
        staging.prune(wanted)
    return ledger, True
