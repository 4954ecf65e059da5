"""The images of all folder trees in one table, `images.parquet`, and in groups that share folders.

Example of a row: path `deep_fashion2/personalized_test/eval/test/107.jpg`, tree `deep_fashion/personalized`, role
`evaluation_copy`, concept `1245`, class `long sleeve dress`, split `test`, caption `A person walks a dog.`
"""

import glob
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import polars as pl

from pervl_assets.core.tables import Column, TableSchema, write_parquet
from pervl_assets.release.parts import Release, Tree, TreePart

IMAGES_FILE: Final = "assets/release/images.parquet"
"""Path of the table below the data root."""

IMAGE_TYPES: Final = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
"""Media type by file suffix."""

IMAGES: Final = TableSchema(
    (
        Column("path", pl.String, "path of the image below the data root, with forward slashes"),
        Column("tree", pl.String, "asset of the folder tree, e.g. ytvos/fsl_seg"),
        Column("rule", pl.String, "what the image is for, e.g. few_shot_crop"),
        Column("concept", pl.String, "concept that the image belongs to"),
        Column("class_name", pl.String, "class of the concept, null if the annotations name none"),
        Column("split", pl.String, "split of the concept, null if it is in none"),
        Column(
            "caption",
            pl.String,
            "caption of the image, or of its concept where captions belong to concepts (PerVL-YTVOS), null if the "
            "annotations have none",
        ),
    )
)
"""One row per image, sorted by tree and path."""

LABELS: Final = ("class_name", "split", "caption")

Labeller = Callable[[pl.DataFrame], pl.DataFrame]
"""Adds the columns `LABELS` to a frame with the columns `concept` and `image` (file name)."""


@dataclass(frozen=True)
class ImageGroup:
    """Images of a tree that one FileSet and one record set describe.

    Attributes:
        name: Name of the tree and of the roles, e.g. `ytvos/fsl_seg/few_shot_crop`.
        roles: The roles of the images, several if their files share a folder.
        patterns: Glob patterns of the images' paths below the data root. In Croissant a `*` also matches `/`.
    """

    name: str
    roles: tuple[str, ...]
    patterns: tuple[str, ...]
    suffix: str
    count: int
    bytes: int


def label_images(tree: str, trees: Sequence[Tree], label: Labeller) -> pl.DataFrame:
    """Return the rows of `IMAGES` for one asset, `tree`. The split of a partition precedes that of `label`."""
    frames = []
    for part in trees:
        files = _list_images(part).select("path", "rule", "concept", image=pl.col("path").str.split("/").list.last())
        labelled = label(files).with_columns(tree=pl.lit(tree), path=pl.lit(f"{part.root}/") + pl.col("path"))
        if part.split is not None:
            labelled = labelled.with_columns(split=pl.lit(part.split))
        frames.append(labelled.select(pl.col(column.name).cast(column.dtype) for column in IMAGES))
    return pl.concat(frames).sort("path")


def write_images(release: Release) -> None:
    """Write `IMAGES_FILE` for all trees of a release, whole or not at all. An unchanged one rewrites nothing.

    Raises:
        WriteError: No permission, or no space left.
    """
    if release.trees:
        write_parquet(pl.concat([part.images for part in release.trees]), release.root / IMAGES_FILE, {})


def list_single_files(part: TreePart) -> list[tuple[str, int, str]]:
    """Return path, size and sha256 of the files that belong to no single concept, e.g. `gt_box_labels.yaml`."""
    return [
        (f"{tree.root}/{path}", size, sha256)
        for tree in part.trees
        for path, size, sha256 in tree.rows.filter(status="written", concept="")
        .select("path", "bytes", "sha256")
        .sort("path")
        .iter_rows()
    ]


def group_images(part: TreePart) -> list[ImageGroup]:
    """Group the images of a tree by role and suffix. Where folders of roles overlap, all roles form one group.

    A FileSet selects files by path, so it cannot separate two roles in one folder. The field `rule` of the record set
    does. Example: `ytvos/fsl_seg/few_shot_crop` is `youtube_vos/ytvos_PerVL/fsl_seg/train/*.jpg`.
    """
    images = pl.concat([_list_images(tree).with_columns(root=pl.lit(tree.root)) for tree in part.trees])
    groups: list[ImageGroup] = []
    for (suffix,), rows in sorted(images.group_by("suffix")):
        folders: dict[str, list[str]] = defaultdict(list)
        for role, root, paths in rows.group_by("rule", "root", maintain_order=True).agg("path").iter_rows():
            common = PurePosixPath(os.path.commonpath([PurePosixPath(path).parent for path in paths]))
            folders[role].append((root / common).as_posix())
        every = [folder for role in sorted(folders) for folder in folders[role]]
        outer = [
            folder for folder in dict.fromkeys(every) if not any(folder.startswith(f"{other}/") for other in every)
        ]
        kinds = [(tuple(sorted(folders)), outer)]
        if len(outer) == len(every):
            kinds = [((role,), folders[role]) for role in sorted(folders)]
        for roles, roots in kinds:
            mine = rows.filter(pl.col("rule").is_in(roles))
            patterns = tuple(f"{glob.escape(folder)}/*{suffix}" for folder in sorted(roots))
            name = f"{part.name}/{'_and_'.join(roles)}"
            name += str(suffix) if any(group.name == name for group in groups) else ""
            groups.append(ImageGroup(name, roles, patterns, str(suffix), mine.height, int(mine["bytes"].sum())))
    return groups


def _list_images(tree: Tree) -> pl.DataFrame:
    """Return path, concept, role, bytes and suffix of the written images of a tree, sorted by path."""
    suffix = pl.col("path").str.extract(r"(\.[^./]+)$")
    return (
        tree.rows.filter(pl.col("status") == "written", pl.col("concept") != "", suffix.is_in([*IMAGE_TYPES]))
        .select("path", "concept", "rule", "bytes", suffix=suffix)
        .sort("path")
    )
