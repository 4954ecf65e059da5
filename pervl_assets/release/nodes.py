"""The files and record sets of a release as JSON-LD of Croissant.

A tree of thousands of files has its ledger as FileObject, with the sha256 of every file, and one FileSet per group of
images. An image file can have no columns in Croissant, so each record set of images joins its FileSet with the table of
all images by path.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import polars as pl

from pervl_assets.core.errors import SchemaError
from pervl_assets.core.files import hash_file
from pervl_assets.release.images import (
    IMAGE_TYPES,
    IMAGES,
    IMAGES_FILE,
    ImageGroup,
    group_images,
    list_single_files,
)
from pervl_assets.release.parts import FeaturesPart, FilePart, Part, Release, TablePart, TreePart, describe_origin
from pervl_assets.trees.ledger import LEDGER

Node = dict[str, Any]

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

_NUMBERS: Final = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float32, pl.Float64),
)
_TYPES: Final = {pl.String: "sc:Text", pl.Null: "sc:Text", pl.Boolean: "sc:Boolean"} | {
    number: f"cr:{number.__name__}" for number in _NUMBERS
}
"""Croissant's type by polars type."""

_SPLITS: Final = "splits"
_SPLIT: Final = "split"
KINDS_OF_SPLIT: Final = {"train": "TrainingSplit", "validation": "ValidationSplit", "test": "TestSplit"}
_PASSPORTS: Final = "embedding_passports"
_FEATURES: Final = {
    "id": "COCO image id as text, path of the image below its tree, or the text that was encoded",
    "crc32": "CRC-32 of the image file, null for texts",
    "vector": "the feature vector, not normalised",
}
_LEDGER: Final = {column.name: column.description for column in LEDGER}
_IMAGES: Final = {column.name: column.description for column in IMAGES}


def describe_files_and_records(release: Release) -> tuple[list[Node], list[Node]]:
    """Return all files of a release, and their records. Files in formats that Croissant cannot read have no records.

    Raises:
        FileNotFoundError: A file does not exist.
        SchemaError: A column has a type without a counterpart in Croissant.
    """
    root = release.root
    nodes = [node for part in release.parts for node in _describe_part(part, root)]
    if release.trees:
        sources = tuple(dict.fromkeys(source for part in release.trees for source in part.sources))
        text = f"One row per image of {', '.join(part.name for part in release.trees)}: class, split and caption."
        nodes.append(_describe_file(Part("images", "", sources), text, *_measure(root, IMAGES_FILE)))
        text = "One row per image of the folder trees, without the pixels, which are in the record sets of the trees."
        nodes.append(_describe_rows("images", text, root, IMAGES_FILE, _IMAGES))
    records = [node for node in nodes if node["@type"] == "cr:RecordSet"]
    return (
        [node for node in nodes if node["@type"] != "cr:RecordSet"],
        [*_describe_splits(release), *_describe_passports(release), *records],
    )


def _describe_part(part: Part, root: Path) -> Iterator[Node]:
    origin = describe_origin(part)
    match part:
        case TablePart() | FeaturesPart():
            for file in part.files:
                yield _describe_file(part, origin, *_measure(root, file))
            source: Node | None = None
            if len(part.files) > 1:
                text = f"The partitions of {part.name}. Their sha256 is in their FileObjects."
                pattern = f"{PurePosixPath(part.files[0]).parent}/*.parquet"
                yield _describe_file_set(part, part.name, text, [pattern], ".parquet")
                source = {"fileSet": {"@id": f"files/{part.name}"}}
            if isinstance(part, TablePart):
                yield _describe_rows(part.name, origin, root, part.files[0], part.columns, source)
            else:
                text = f"{origin} {_describe_encoders(part)}"
                yield _describe_rows(part.name, text, root, part.files[0], _FEATURES, source)
        case FilePart():
            yield from (_describe_file(part, origin, *_measure(root, file)) for file in part.files)
        case TreePart():
            yield from _describe_trees(part, origin, root)


def _describe_encoders(part: FeaturesPart) -> str:
    encoders = "; or ".join(
        f"{passport.get('model')}, weights sha256 {passport.get('weights_sha256')}, "
        f"{passport.get('precision')} on {passport.get('device')}, preprocessing: "
        f"{passport.get('preprocessing')}"
        for passport in part.passports
    )
    return f"Encoded with {encoders}. The whole passport is in the record set {_PASSPORTS}."


def _describe_trees(part: TreePart, origin: str, root: Path) -> Iterator[Node]:
    for tree in part.trees:
        written = int((tree.rows["status"] == "written").sum())
        text = f"The ledger of {tree.root}: path, bytes and sha256 of its {written:,} files, and their sources."
        yield _describe_file(part, text, *_measure(root, tree.ledger))
        text = (
            f"One row per expected file of {part.name}: its path below {tree.root}, sha256, sources, and "
            f"whether it was written. {origin}"
        )
        name = f"{part.name}/ledger" if tree.split is None else f"{part.name}/ledger/{tree.split}"
        yield _describe_rows(name, text, root, tree.ledger, _LEDGER)
    for path, size, sha256 in list_single_files(part):
        yield _describe_file(part, f"About all concepts of {part.name}. {origin}", path, size, sha256)
    for group in group_images(part):
        text = (
            f"{' and '.join(group.roles)} of {part.name}: {group.count:,} files, {group.bytes:,} bytes. The sha256 of "
            f"each file is in {' and '.join(tree.ledger for tree in part.trees)}. {origin}"
        )
        yield _describe_file_set(part, group.name, text, group.patterns, group.suffix)
        yield _describe_images(group, text)


def _measure(root: Path, path: str) -> tuple[str, int, str]:
    """Return path, size and sha256 of a file."""
    return path, (root / path).stat().st_size, hash_file(root / path)


def _describe_file(part: Part, text: str, path: str, size: int, sha256: str) -> Node:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": PurePosixPath(path).name,
        "description": text,
        "contentSize": f"{size} B",
        "contentUrl": path,
        "encodingFormat": _MEDIA_TYPES.get(PurePosixPath(path).suffix, _BINARY),
        **_list_licences(part),
        "sha256": sha256,
    }


def _describe_file_set(part: Part, name: str, text: str, patterns: Sequence[str], suffix: str) -> Node:
    """Describe files by patterns. Its id must differ from that of the record set read from it."""
    return {
        "@type": "cr:FileSet",
        "@id": f"files/{name}",
        "name": name,
        "description": text,
        "encodingFormat": _MEDIA_TYPES.get(suffix, _BINARY),
        "includes": unbox(patterns),
        **_list_licences(part),
    }


def _list_licences(part: Part) -> Node:
    if not part.sources:
        return {}
    return {
        "isBasedOn": list(dict.fromkeys(source.homepage for source in part.sources)),
        "license": list(dict.fromkeys(source.licence_reference for source in part.sources)),
    }


def _describe_records(name: str, text: str, fields: Sequence[Node], *, data: Sequence[Node] = (), **more: Any) -> Node:
    ids: Node = {"@type": "cr:RecordSet", "@id": name, "name": name, "description": text}
    values = [{f"{name}/{field}": value for field, value in row.items()} for row in data]
    return {**ids, **more, "field": list(fields), **({"data": unbox(values)} if values else {})}


def _describe_field(owner: str, name: str, text: str, **more: Any) -> Node:
    """Describe a field. One with the name of the splits refers to their record set."""
    if name == _SPLIT:
        more["references"] = {"field": {"@id": f"{_SPLITS}/name"}}
    about = {"description": text} if text else {}
    return {"@type": "cr:Field", "@id": f"{owner}/{name}", "name": name, **about, **dict(sorted(more.items()))}


def _describe_rows(
    name: str, text: str, root: Path, file: str, columns: Mapping[str, str], source: Node | None = None
) -> Node:
    """Describe the rows of a Parquet file, or of a FileSet of such files (`source`), whose schema is that of `file`."""
    source = source or {"fileObject": {"@id": file}}
    fields = [
        _describe_field(
            name,
            column,
            columns.get(column, ""),
            source={**source, "extract": {"column": column}},
            **_find_type(dtype, f"{name}/{column}"),
        )
        for column, dtype in pl.scan_parquet(root / file, glob=False).collect_schema().items()
    ]
    return _describe_records(name, text, fields)


def _describe_images(group: ImageGroup, text: str) -> Node:
    """Describe the images of a group: the pixels, and the columns of `IMAGES` joined by path."""
    files, table = {"fileSet": {"@id": f"files/{group.name}"}}, {"fileObject": {"@id": IMAGES_FILE}}
    fields = [
        _describe_field(
            group.name,
            "image",
            "the image",
            dataType="sc:ImageObject",
            source={**files, "extract": {"fileProperty": "content"}},
        )
    ]
    for name, description in _IMAGES.items():
        column: Node = {**table, "extract": {"column": name}}
        more = {"source": column}
        if name == "path":
            # mlcroissant makes one join per record set, the first it finds, and joins texts only: the transform makes
            # the path a text. So `path` comes before `split`, which refers to the splits.
            path = {**files, "extract": {"fileProperty": "fullpath"}, "transform": {"regex": "(.+)"}}
            more = {"source": path, "references": column}
        if name != "tree":
            fields.append(_describe_field(group.name, name, description, dataType="sc:Text", **more))
    return _describe_records(group.name, text, fields)


def _describe_splits(release: Release) -> Iterator[Node]:
    """Describe the splits of images and tables as `cr:Split`, if there are any."""
    found: set[str | None] = {name for part in release.trees for name in part.images[_SPLIT]}
    for part in release.parts:
        if isinstance(part, TablePart) and _SPLIT in part.columns:
            files = [release.root / file for file in part.files]
            found |= {split for file in files for split in pl.read_parquet(file, columns=[_SPLIT], glob=False)[_SPLIT]}
    if splits := sorted(name for name in found if name is not None):
        yield _describe_records(
            _SPLITS,
            "The splits of the benchmarks. A concept is in one of them, with its few-shot images, from which it is "
            "learned, and its evaluation images, among which it is searched.",
            [
                _describe_field(_SPLITS, "name", "name of the split", dataType="sc:Text"),
                _describe_field(_SPLITS, "url", "kind of the split", dataType="sc:URL"),
            ],
            data=[
                {"name": name, "url": f"http://mlcommons.org/croissant/{KINDS_OF_SPLIT.get(name, 'Split')}"}
                for name in splits
            ],
            dataType="cr:Split",
            key={"@id": f"{_SPLITS}/name"},
        )


def _describe_passports(release: Release) -> Iterator[Node]:
    """Describe the embedding passports of all features, if there are any."""
    features = [part for part in release.parts if isinstance(part, FeaturesPart)]
    rows = [{"features": part.name, **passport} for part in features for passport in part.passports]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    fields = [
        _describe_field(
            _PASSPORTS,
            name,
            "name of the features" if name == "features" else f"entry `{name}` of the passport",
            **_find_type(dtype, f"{_PASSPORTS}/{name}"),
        )
        for name, dtype in frame.schema.items()
    ]
    if rows:
        text = (
            "One row per set of feature vectors: model, sha256 of architecture and weights, preprocessing, precision, "
            "device and versions. Vectors with different passports must not be mixed."
        )
        yield _describe_records(_PASSPORTS, text, fields, data=frame.to_dicts())


def _find_type(dtype: pl.DataType, field: str) -> dict[str, Any]:
    """Return type and shape of a field. An array has the type of its elements; -1 is a length that varies."""
    inner: Any = dtype
    shape: Node = {}
    if isinstance(dtype, pl.Array | pl.List):
        lengths = ",".join(map(str, dtype.shape)) if isinstance(dtype, pl.Array) else "-1"
        inner, shape = dtype.inner, {"isArray": True, "arrayShape": lengths}
    known = _TYPES.get(inner.base_type())
    if known is None:
        raise SchemaError(
            f"The column {field} is {dtype}, for which Croissant has no data type.",
            advice="Use a plain type for the column, or add the type to `release.nodes`.",
        )
    return {"dataType": known, **shape}


def unbox(values: Sequence[Any]) -> Any:
    """Return the value of a list with one value, as mlcroissant writes it, else the list."""
    return values[0] if len(values) == 1 else list(values)
