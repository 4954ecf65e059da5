"""The files of a release in Croissant: one FileObject per single file, one FileSet per kind of image of a tree.

A tree of thousands of files has its ledger as FileObject, with the sha256 of every file, and one FileSet per group of
images.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pervl_assets.release.images import (
    IMAGE_TYPES,
    IMAGES_FILE,
    describe_images,
    group_images,
    list_single_files,
    name_file_set,
)
from pervl_assets.release.parts import (
    FeaturesPart,
    File,
    FilePart,
    Part,
    Release,
    TablePart,
    TreePart,
    describe_origin,
    read_file,
)

if TYPE_CHECKING:
    import mlcroissant as mlc

_MEDIA_TYPES: Final = {
    **IMAGE_TYPES,
    ".parquet": "application/x-parquet",
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}
_BINARY: Final = "application/octet-stream"
"""Media type of numpy files, which have none of their own."""


def build_distribution(release: Release, context: "mlc.Context") -> "list[mlc.FileObject | mlc.FileSet]":
    """Describe the files of all parts, and the table of their images.

    Raises:
        FileNotFoundError: A file does not exist.
    """
    nodes = [node for part in release.parts for node in _describe_part(part, release.root, context)]
    if release.trees:
        sources = tuple(dict.fromkeys(source for part in release.trees for source in part.sources))
        images = Part("images", "", sources)
        text = f"One row per image of {', '.join(part.name for part in release.trees)}: class, split and caption."
        nodes.append(_describe_file(read_file(release.root, IMAGES_FILE), images, text, context))
    return nodes


def _describe_part(part: Part, root: Path, context: "mlc.Context") -> "Iterator[mlc.FileObject | mlc.FileSet]":
    match part:
        case TablePart() | FilePart():
            yield _describe_file(read_file(root, part.file), part, describe_origin(part), context)
        case FeaturesPart():
            for file in part.files:
                yield _describe_file(read_file(root, file), part, describe_origin(part), context)
            if len(part.files) > 1:
                text = f"The shards of {part.name}. Their sha256 is in their FileObjects."
                pattern = f"{PurePosixPath(part.files[0]).parent}/*.parquet"
                yield _describe_files(part, part.name, [pattern], ".parquet", text, context)
        case TreePart():
            for tree in part.trees:
                written = int((tree.rows["status"] == "written").sum())
                text = f"The ledger of {tree.root}: path, bytes and sha256 of its {written:,} files, and their sources."
                yield _describe_file(read_file(root, tree.ledger), part, text, context)
            for single in list_single_files(part):
                text = f"About all concepts of {part.name}. {describe_origin(part)}"
                yield _describe_file(single, part, text, context)
            for group in group_images(part):
                text = describe_images(part, group)
                yield _describe_files(part, group.name, group.patterns, group.suffix, text, context)


def _describe_file(file: File, part: Part, text: str, context: "mlc.Context") -> "mlc.FileObject":
    import mlcroissant as mlc

    return mlc.FileObject(
        ctx=context,
        id=file.path,
        name=PurePosixPath(file.path).name,
        description=text,
        content_url=file.path,
        content_size=f"{file.bytes} B",
        encoding_formats=[_MEDIA_TYPES.get(PurePosixPath(file.path).suffix, _BINARY)],
        sha256=file.sha256,
        extra_properties=_list_licences(part),
    )


def _describe_files(
    part: Part, name: str, patterns: Sequence[str], suffix: str, text: str, context: "mlc.Context"
) -> "mlc.FileSet":
    import mlcroissant as mlc

    return mlc.FileSet(
        ctx=context,
        id=name_file_set(name),
        name=name,
        description=text,
        includes=list(patterns),
        encoding_formats=[_MEDIA_TYPES.get(suffix, _BINARY)],
        extra_properties=_list_licences(part),
    )


def _list_licences(part: Part) -> dict[str, Any]:
    """Return schema.org's `license` and `isBasedOn` of the inputs that a part derives from."""
    if not part.sources:
        return {}
    return {
        "isBasedOn": list(dict.fromkeys(source.homepage for source in part.sources)),
        "license": list(dict.fromkeys(source.licence_reference for source in part.sources)),
    }
