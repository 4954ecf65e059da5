"""The files of a release in Croissant: a FileObject for each single file, a FileSet for the many files of a tree.

Belongs here: what is told of files. Does not belong here: which files go together (`patterns`), and what is in them
(`record_sets`).

A tree of thousands of files is told by its ledger, a FileObject whose rows hold the sha256 of every file, and by one
FileSet for each kind of file in it. All places are below the data root, where `croissant.json` itself stands: there
mlcroissant finds them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pervl_assets.release.parts import (
    FeaturesPart,
    File,
    FilePart,
    Part,
    TablePart,
    TreePart,
    describe_file,
    describe_origin,
)
from pervl_assets.release.patterns import FileGroup, group_files, list_single_files

if TYPE_CHECKING:
    import mlcroissant as mlc

PICTURES: Final = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}

_ENCODINGS: Final = {
    **PICTURES,
    ".parquet": "application/x-parquet",
    ".csv": "text/csv",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}
_BYTES: Final = "application/octet-stream"
"""Media type of what has none: numpy's files."""


def name_group(part: str) -> str:
    """Return the identifier of a FileSet, which may not be that of the record set made from it."""
    return f"files/{part}"


def build_distribution(part: Part, root: Path, context: "mlc.Context") -> "Iterator[mlc.FileObject | mlc.FileSet]":
    """Describe the files of a part.

    Args:
        part: The part.
        root: The data root.
        context: mlcroissant's context of the whole description.

    Raises:
        FileNotFoundError: A file is not there.
    """
    match part:
        case TablePart() | FilePart():
            yield _describe(describe_file(root, part.file), part, describe_origin(part), context)
        case FeaturesPart():
            for file in part.files:
                yield _describe(describe_file(root, file), part, describe_origin(part), context)
            if len(part.files) > 1:
                told = f"The shards of {part.name}, whose sha256 their FileObjects have."
                yield _gather(part, _share_pattern(part.files), ".parquet", told, context)
        case TreePart():
            yield from _describe_tree(part, root, context)


def _describe_tree(part: TreePart, root: Path, context: "mlc.Context") -> "Iterator[mlc.FileObject | mlc.FileSet]":
    ledgers = [tree.ledger for tree in part.trees]
    for tree in part.trees:
        written = int((tree.rows["status"] == "written").sum())
        told = f"The ledger of {tree.root}: path, bytes and sha256 of its {written:,} files, and their sources."
        yield _describe(describe_file(root, tree.ledger), part, told, context)
    if len(ledgers) > 1:
        told = f"The ledgers of {part.name}, whose sha256 their FileObjects have."
        yield _gather(part, _share_pattern(ledgers), ".parquet", told, context)
    for file in list_single_files(part):
        told = f"About all concepts of {part.name}. {describe_origin(part)}"
        yield _describe(file, part, told, context)
    for group in group_files(part):
        yield _gather(part, group.patterns, group.suffix, describe_group(part, group), context, group.name)


def describe_group(part: TreePart, group: FileGroup) -> str:
    """Say what a group of files is, how much there is of it, and where the sha256 of each file stands."""
    return (
        f"{' and '.join(group.rules)} of {part.name}: {len(group.files):,} files, {group.bytes:,} bytes; the sha256 of "
        f"each stands in {' and '.join(tree.ledger for tree in part.trees)}. {describe_origin(part)}"
    )


def _share_pattern(files: Sequence[str]) -> tuple[str, ...]:
    """Return the pattern of partitions' files, which are alone in their folder."""
    return (f"{PurePosixPath(files[0]).parent}/*.parquet",)


def _describe(file: File, part: Part, told: str, context: "mlc.Context") -> "mlc.FileObject":
    import mlcroissant as mlc

    return mlc.FileObject(
        ctx=context,
        id=file.place,
        name=PurePosixPath(file.place).name,
        description=told,
        content_url=file.place,
        content_size=f"{file.bytes} B",
        encoding_formats=[_ENCODINGS.get(PurePosixPath(file.place).suffix, _BYTES)],
        sha256=file.sha256,
        extra_properties=list_licences(part),
    )


def _gather(
    part: Part, patterns: Sequence[str], suffix: str, told: str, context: "mlc.Context", name: str | None = None
) -> "mlc.FileSet":
    import mlcroissant as mlc

    return mlc.FileSet(
        ctx=context,
        id=name_group(name or part.name),
        name=name or part.name,
        description=told,
        includes=list(patterns),
        encoding_formats=[_ENCODINGS.get(suffix, _BYTES)],
        extra_properties=list_licences(part),
    )


def list_licences(part: Part) -> dict[str, Any]:
    """Return schema.org's `license` and `isBasedOn`: what a part's files derive from, and under which terms."""
    if not part.sources:
        return {}
    return {
        "isBasedOn": list(dict.fromkeys(source.homepage for source in part.sources)),
        "license": list(dict.fromkeys(source.licence_reference for source in part.sources)),
    }
