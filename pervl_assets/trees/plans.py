"""Plans of folder trees: which files are made from which members, and by which recipe.

For example, the crop `train/cat_a1_1/cat_a1_1_00005.jpg` (an `Output`) is made from the frame and the mask `a1/00005`
of the archive (the members of its `RenderTask`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import polars as pl
from zlib_ng import zlib_ng

from pervl_assets.archives.members import FileRecord
from pervl_assets.core.errors import AnnotationError, list_some, name_some
from pervl_assets.core.files import hash_bytes
from pervl_assets.trees.boxes import Box
from pervl_assets.trees.ledger import Row, Status


@dataclass(frozen=True)
class Output:
    """A file of a tree.

    Attributes:
        path: Relative to the tree's root, with forward slashes.
        concept: Concept it belongs to.
        role: What it is for, e.g. `few_shot_crop`. The ledger's column `rule`, and part of its recipe.
        params: Input of the renderer beside the source members, and part of its recipe.
    """

    path: str
    concept: str
    role: str
    params: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class RenderTask:
    """Outputs with the same source members, which are therefore read and decoded once."""

    members: tuple[str, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Rendered:
    """An output's bytes, with the object's box and the size of the source frame where they are known."""

    output: Output
    data: bytes
    box: Box | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Quarantined:
    """An output that cannot be made, and why."""

    output: Output
    reason: str


Renderer = Callable[[RenderTask, list[bytes]], Iterator[Rendered | Quarantined]]


@dataclass(frozen=True)
class TreePlan:
    """All files of a tree.

    Attributes:
        folder: The tree's root below `PERVL_DATA`.
        tasks: Which outputs are made from which members.
        render: Makes the outputs of a task from its members' bytes. A top-level function: it runs in worker processes.
            Outputs not yet yielded when it raises `MemberError` or `ImageError` are quarantined.
        version: Part of every recipe. That of a benchmark's tree is its `TreeAsset.version`.
        finish: Makes further files (path to bytes) from the finished ledger.
        link: Whether every output is a copy of its one source member. It becomes a hard link to the source file, which
            costs no space, if source and tree are on one disk that has hard links.
    """

    folder: str
    tasks: tuple[RenderTask, ...]
    render: Renderer
    version: int = 1
    finish: Callable[[pl.DataFrame], Mapping[str, bytes]] | None = None
    link: bool = False


def copy_member(task: RenderTask, blobs: list[bytes]) -> Iterator[Rendered]:
    """Render every output of a task as a byte for byte copy of its one member."""
    for output in task.outputs:
        yield Rendered(output, blobs[0])


def list_outputs(plan: TreePlan) -> dict[str, Output]:
    """Return all outputs of a plan by path.

    Raises:
        AnnotationError: The plan names a file twice; upper and lower case are the same.
        ValueError: The plan names a file outside its folder.
    """
    paths = [output.path for task in plan.tasks for output in task.outputs]
    wanted = {output.path: output for task in plan.tasks for output in task.outputs}
    if len({path.casefold() for path in paths}) != len(paths):
        counts = Counter(path.casefold() for path in paths)
        twins = sorted(path for path in paths if counts[path.casefold()] > 1)
        raise AnnotationError(
            f"{plan.folder} would hold {len(twins):,} files of the same names, but for upper and lower case.",
            details=list_some(twins),
            advice="Rename these concepts or frames in the annotations: on some disks such files are one.",
        )
    if bad := [path for path in wanted if path.startswith("/") or ".." in path.split("/")]:
        raise ValueError(f"The plan of {plan.folder} leaves its folder: {name_some(bad)}.")
    return wanted


def make_recipe(version: int, output: Output, members: Iterable[str], crcs: Iterable[int]) -> str:
    """Return the sha256 of everything that decides an output's bytes."""
    return hash_bytes(json.dumps([version, output.role, output.params, [*members], [*crcs]]).encode())


def start_row(version: int, output: Output, members: Iterable[str], crcs: list[int]) -> Row:
    """Return an output's row before anything is known about its file."""
    return Row(
        path=output.path,
        concept=output.concept,
        rule=output.role,
        status="missing",
        reason=None,
        bytes=None,
        sha256=None,
        crc32=None,
        source_members=[*members],
        source_crc32s=crcs,
        box=None,
        width=None,
        height=None,
        recipe=make_recipe(version, output, members, crcs),
    )


def fill_row(row: Row, file: FileRecord) -> Row:
    """Return the row of an output that is written."""
    status: Status = "written"
    return {**row, "status": status, "bytes": file.bytes, "sha256": file.sha256, "crc32": file.crc32}


def record_bytes(data: bytes) -> FileRecord:
    """Return size, sha256 and CRC of `data`."""
    return FileRecord(len(data), hash_bytes(data), zlib_ng.crc32(data))
