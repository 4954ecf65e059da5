"""Building folder trees: rendered in worker processes, repaired rather than rebuilt, and put in place whole."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from pervl_assets.archives.members import MemberError, Members, select_members
from pervl_assets.core.checks import MAX_QUARANTINED_SHARE, refuse_losses
from pervl_assets.core.errors import PervlError, name_some
from pervl_assets.core.files import (
    Lock,
    explain_write_errors,
    hash_bytes,
    is_whole,
    make_folder,
    sync,
    write_bytes_atomically,
)
from pervl_assets.core.pixels import ImageError
from pervl_assets.core.tables import write_hashed
from pervl_assets.core.workers import map_in_processes, map_in_threads
from pervl_assets.trees.ledger import FolderTree, Row, build_frame, list_files
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
    record_bytes,
    start_row,
)
from pervl_assets.trees.staging import Staging, link, write_again


def build_tree(
    plan: TreePlan,
    members: Members,
    destination: Path,
    previous: pl.DataFrame | None = None,
    *,
    workers: int = 1,
    max_lost: float = MAX_QUARANTINED_SHARE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> FolderTree:
    """Build a tree in a staging folder; reuse every file that is already correct.

    A file is correct if its row in `previous`, or in the journal of a killed run, has today's recipe and the sha256 of
    its bytes. Quarantined outputs are tried again. If the tree at `destination` is correct, nothing is written and
    nothing is locked. After an error (a full disk, a kill) the finished part stays in `DESTINATION.partial`, and the
    next call resumes from it.

    Args:
        plan: All files of the tree.
        members: Open source of the members.
        destination: The tree's root.
        previous: Ledger of the tree at `destination`, if there is one.
        workers: Number of worker processes. Small plans and links are done in this one.
        max_lost: Share of the outputs that may be quarantined or missing, 0 to 1.
        on_progress: Called with the number of outputs that are done, and their total.

    Returns:
        The tree. If `staged` is set, `commit_tree` must put it in place. If `lock` is, it stays locked until then.

    Raises:
        PasswordError: The members cannot be decrypted. Raised before any work.
        ArchiveError: Not one of the members is in the source, more outputs are lost than `max_lost`, or the source
            cannot be read any more. The tree stays as it was.
        PervlError: Nothing is planned, and the tree has files.
        WriteError: No permission, no space left, or another run builds the same tree.
    """
    if not (total := len(list_outputs(plan))):
        _refuse_to_empty(destination, plan.folder)
    members = select_members(members, {name for task in plan.tasks for name in task.members}, plan.folder)
    members.check_password()
    with explain_write_errors(destination):
        work = _plan_work(plan, members, Staging(destination), previous, max_lost)
        seen = work.staging.identify_target()
        in_place = _find_whole(work.recipes, work.old, work.staging.target)
        if len(in_place) == len(work.recipes):
            ledger, summaries = _complete(work, work.rows | in_place)
            if _is_in_place(work.staging, ledger, _list_kept(work.staging, in_place, summaries)):
                work.staging.tidy()
                on_progress(total, total)
                return FolderTree(destination, ledger, is_saved=previous is not None and ledger.equals(previous))
        lock = work.staging.lock()
        try:
            journal = work.staging.heal()
            if work.staging.identify_target() != seen:  # another run has finished since
                in_place = _find_whole(work.recipes, work.old, work.staging.target)
            tree = _build_locked(work, in_place, journal, lock, workers, lambda done: on_progress(done, total))
            return replace(tree, root=destination)
        except BaseException:
            lock.release()
            raise


def _refuse_to_empty(destination: Path, folder: str) -> None:
    if list_files(destination):
        raise PervlError(
            f"The annotations name no file of {folder}, and {destination} holds files.",
            advice=f"Nothing was replaced. Compare the annotations with the official ones, or move {destination} away.",
        )


def commit_tree(tree: FolderTree, ledger: Path | None = None, metadata: Mapping[str, str] | None = None) -> FolderTree:
    """Put a staged tree in place, whole, save its ledger, and unlock it.

    After an error the old ones are in place where the swap can be undone; else the next run completes it.
    A run that is killed between the two leaves the journal of the new tree, from which the next run makes the ledger.

    Args:
        tree: As returned by `build_tree`. If nothing is staged, only the ledger is saved, unless it `is_saved`.
        ledger: Parquet file of the ledger; None: it is not saved.
        metadata: Written into that file.

    Raises:
        WriteError: No permission, no space left, or a failing disk.
    """
    try:
        with explain_write_errors(tree.root):
            if tree.staged is not None:
                _replace_tree(tree, ledger, metadata)
            elif ledger and not tree.is_saved:
                write_hashed(tree.ledger, ledger, metadata)
            if tree.lock is not None:
                Staging(tree.root).clear()
    finally:
        if tree.lock is not None:
            tree.lock.release()
    return replace(tree, staged=None, lock=None, is_saved=True)


def _replace_tree(tree: FolderTree, ledger: Path | None, metadata: Mapping[str, str] | None) -> None:
    staging = Staging(tree.root)
    old_ledger = ledger.read_bytes() if ledger and ledger.is_file() else None
    can_undo = staging.swap()
    try:
        sync(staging.target.parent)
        if ledger:
            write_hashed(tree.ledger, ledger, metadata)
    except BaseException:
        if can_undo:
            staging.swap()
            if ledger and old_ledger is not None:
                write_bytes_atomically(ledger, old_ledger)
            elif ledger:
                ledger.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class _Render:
    """Makes the files of a task in a worker process."""

    render: Renderer
    version: int
    members: Members
    folder: Path
    link: bool

    def __call__(self, task: RenderTask) -> list[Row]:
        crcs = [self.members.crc32(name) for name in task.members]
        if self.link and (row := self._link(task, crcs)):
            return [row]
        return list(self._render(task, crcs))

    def _link(self, task: RenderTask, crcs: list[int]) -> Row | None:
        """Link a file whose record in the source is current, without reading it. Return None if it must be read."""
        (name,), (output,) = task.members, task.outputs
        with suppress(FileNotFoundError):
            source = self.members.locate(name)
            stat = link(self.folder / output.path, source) if source else None
            if stat and (record := self.members.find_record(name, stat)):
                row = start_row(self.version, output, task.members, crcs)
                return fill_row(row, record)
        return None

    def _render(self, task: RenderTask, crcs: list[int]) -> Iterator[Row]:
        pending = {output.path: output for output in task.outputs}
        reason = ""
        try:
            blobs = []
            for name in task.members:
                reason = f"{name}: "
                blobs.append(self.members.read(name))
            reason = ""
            for result in self.render(task, blobs):
                del pending[result.output.path]
                row = start_row(self.version, result.output, task.members, crcs)
                if isinstance(result, Quarantined):
                    yield {**row, "status": "quarantined", "reason": result.reason}
                else:
                    yield self._write(row, result)
        except (MemberError, ImageError) as error:
            reason += str(error)
        if pending and not reason:
            raise ValueError(f"No result for {name_some(pending)}.")
        for output in pending.values():
            yield {**start_row(self.version, output, task.members, crcs), "status": "quarantined", "reason": reason}

    def _write(self, row: Row, result: Rendered) -> Row:
        file = self.folder / row["path"]
        source = self.members.locate(row["source_members"][0]) if self.link else None
        if source is None or link(file, source) is None:
            write_again(file, result.data)
        box = None if result.box is None else list(result.box)
        return {**fill_row(row, record_bytes(result.data)), "box": box, "width": result.width, "height": result.height}


@dataclass(frozen=True)
class _Work:
    """The start of a build: its plan, its members only, and the tree's folders.

    By path: rows of outputs whose members are missing, and recipes of the outputs of `tasks`, whose members are all
    there. `old` are the rows of the previous ledger.
    """

    plan: TreePlan
    members: Members
    staging: Staging
    rows: dict[str, Row]
    tasks: list[RenderTask]
    recipes: dict[str, str]
    old: list[Row]
    max_lost: float


def _build_locked(
    work: _Work, in_place: dict[str, Row], journal: list[Row], lock: Lock, workers: int, on_done: Callable[[int], None]
) -> FolderTree:
    """Render all outputs that are neither in place nor staged, and complete the staged tree."""
    plan, staging = work.plan, work.staging
    rest = {path: recipe for path, recipe in work.recipes.items() if path not in in_place}
    in_place |= _find_whole(rest, journal, staging.target)
    rest = {path: recipe for path, recipe in rest.items() if path not in in_place}
    rows = work.rows | in_place | _find_whole(rest, [*work.old, *journal], staging.folder)
    on_done(len(rows))
    make_folder(staging.folder)
    left = ((task, tuple(output for output in task.outputs if output.path not in rows)) for task in work.tasks)
    todo = [replace(task, outputs=outputs) for task, outputs in left if outputs]
    render = _Render(plan.render, plan.version, work.members, staging.folder, plan.link)
    rendered = 0
    for made in map_in_processes(render, todo, 0 if plan.link or workers < 2 else workers):
        rows |= {row["path"]: row for row in made}
        written = [row for row in made if row["status"] == "written"]
        lock.write("".join(json.dumps(row) + "\n" for row in written).encode())
        rendered += len(written)
        on_done(len(rows))

    ledger, summaries = _complete(work, rows)
    kept = _list_kept(staging, in_place, summaries)
    if _is_in_place(staging, ledger, kept):
        return FolderTree(staging.target, ledger, rendered=rendered, lock=lock)
    for path in kept:
        staging.keep(path)
    for path in summaries.keys() - kept:
        write_again(staging.folder / path, summaries[path])
    staging.finish(ledger.filter(status="written")["path"])
    return FolderTree(staging.target, ledger, staging.folder, rendered=rendered, lock=lock)


def _plan_work(
    plan: TreePlan, members: Members, staging: Staging, previous: pl.DataFrame | None, max_lost: float
) -> _Work:
    old: list[Row] = [] if previous is None else previous.to_dicts()  # type: ignore[assignment]
    work = _Work(plan, members, staging, {}, [], {}, old, max_lost)
    present = members.names
    for task in plan.tasks:
        if absent := [name for name in task.members if name not in present]:
            reason = f"not in {members.path.name}: {', '.join(absent)}"
            for output in task.outputs:
                work.rows[output.path] = {**start_row(plan.version, output, task.members, []), "reason": reason}
            continue
        work.tasks.append(task)
        crcs = [members.crc32(name) for name in task.members]
        for output in task.outputs:
            work.recipes[output.path] = make_recipe(plan.version, output, task.members, crcs)
    return work


def _find_whole(recipes: Mapping[str, str], rows: Iterable[Row], root: Path) -> dict[str, Row]:
    """Return, by path, the rows with the right recipe whose file below `root` holds the right bytes."""
    candidates = [row for row in rows if row["status"] == "written" and recipes.get(row["path"]) == row["recipe"]]
    whole = map_in_threads(lambda row: is_whole(root / row["path"], row["bytes"] or 0, row["sha256"] or ""), candidates)
    return {row["path"]: row for row, is_right in zip(candidates, whole, strict=True) if is_right}


def _complete(work: _Work, rows: Mapping[str, Row]) -> tuple[pl.DataFrame, Mapping[str, bytes]]:
    """Return the whole ledger, and the files that the plan makes from it, which are in it.

    Raises:
        ArchiveError: Too many outputs are lost.
    """
    plan, source = work.plan, work.members.path
    lost = [f"{path}: {row['reason']}" for path, row in rows.items() if row["status"] != "written"]
    refuse_losses(lost, len(rows), f"files of {plan.folder}", source, work.max_lost)
    ledger = build_frame(rows.values())
    summaries = plan.finish(ledger) if plan.finish else {}
    outputs = {path: Output(path, "", "summary", (hash_bytes(data),)) for path, data in summaries.items()}
    starts = (start_row(plan.version, output, (), []) for output in outputs.values())
    more = [fill_row(row, record_bytes(summaries[row["path"]])) for row in starts]
    return pl.concat([ledger, build_frame(more)]).sort("path"), summaries


def _list_kept(staging: Staging, in_place: Iterable[str], summaries: Mapping[str, bytes]) -> set[str]:
    """Return the files of the existing tree that can be kept."""
    whole = (p for p, data in summaries.items() if is_whole(staging.target / p, len(data), hash_bytes(data)))
    return {*in_place, *whole}


def _is_in_place(staging: Staging, ledger: pl.DataFrame, kept: set[str]) -> bool:
    """Return whether the existing tree holds the ledger's files and no others."""
    wanted = set(ledger.filter(status="written")["path"])
    return wanted <= kept and list_files(staging.target) == wanted
