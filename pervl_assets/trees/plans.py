"""Plans of folder trees: which files are made from which members, and by which recipe.

Belongs here: the vocabulary of plans, and the ledger row that an output starts with. Does not belong here: building
(`core.trees`), what a picture holds (`core.pixels`), and which files a benchmark wants (`pervl_assets.benchmarks`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import polars as pl
from zlib_ng import zlib_ng

from pervl_assets.core.errors import name_some
from pervl_assets.core.files import hash_bytes
from pervl_assets.trees.boxes import Box
from pervl_assets.trees.ledger import Row, Status


@dataclass(frozen=True)
class Output:
    """A file that a tree shall hold.

    Attributes:
        path: Relative to the tree's root, with forward slashes.
        concept: Concept it belongs to.
        rule: Name of the rule that makes it; part of its recipe.
        params: What the rule needs beside the source members; part of its recipe.
    """

    path: str
    concept: str
    rule: str
    params: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class RenderTask:
    """Outputs that share their source members, which are therefore read and decoded once."""

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
    """All that a tree shall hold.

    Attributes:
        folder: The tree's root below `PERVL_DATA`.
        jobs: What to make from which members.
        render: Makes the outputs of a job from its members' bytes; a top-level function, for it runs in worker
            processes. A `MemberError` or `ImageError` quarantines the outputs it has not given yet.
        rules: Version of the rules: raise it when the same input shall give other bytes.
        finish: Makes further files (path to bytes) from the finished ledger.
        link: Whether every output is its one source member as it is: then it becomes a second name of the same file,
            which costs no space, where source and tree stand on one disk that has hard links.
    """

    folder: str
    jobs: tuple[RenderTask, ...]
    render: Renderer
    rules: int
    finish: Callable[[pl.DataFrame], Mapping[str, bytes]] | None = None
    link: bool = False


def list_outputs(plan: TreePlan) -> dict[str, Output]:
    """Return all outputs of a plan by path; a plan that names a file twice, or one outside its folder, is a mistake."""
    outputs = [output for job in plan.jobs for output in job.outputs]
    wanted = {output.path: output for output in outputs}
    if len(wanted) != len(outputs) or len({path.casefold() for path in wanted}) != len(wanted):
        raise ValueError(f"The plan of {plan.folder} names a file twice, but for upper and lower case.")
    if bad := [path for path in wanted if path.startswith("/") or ".." in path.split("/")]:
        raise ValueError(f"The plan of {plan.folder} leaves its folder: {name_some(bad)}.")
    return wanted


def make_recipe(rules: int, output: Output, members: Iterable[str], crcs: Iterable[int]) -> str:
    """Return the sha256 of all that decides an output's bytes."""
    return hash_bytes(json.dumps([rules, output.rule, output.params, [*members], [*crcs]]).encode())


def start_row(rules: int, output: Output, members: Iterable[str], crcs: list[int]) -> Row:
    """Return an output's row before anything is known of its file."""
    return Row(
        path=output.path,
        concept=output.concept,
        rule=output.rule,
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
        recipe=make_recipe(rules, output, members, crcs),
    )


def fill_row(row: Row, data: bytes) -> Row:
    """Return the row of an output whose file holds `data`."""
    status: Status = "written"
    return {**row, "status": status, "bytes": len(data), "sha256": hash_bytes(data), "crc32": zlib_ng.crc32(data)}
