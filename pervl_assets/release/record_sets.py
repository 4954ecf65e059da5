"""The records of a release in Croissant: splits, embedding passports, the rows of tables, features and ledgers.

Belongs here: which record sets there are, and typed fields. Does not belong here: the files that they are read from
(`distribution`), and the pictures of trees (`pictures`).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from pervl_assets.core.errors import SchemaError
from pervl_assets.release.distribution import PICTURES, name_group
from pervl_assets.release.parts import FeaturesPart, Part, Release, TablePart, TreePart, describe_origin
from pervl_assets.release.patterns import group_files
from pervl_assets.release.pictures import SPLIT, SPLITS, build_pictures, read_path
from pervl_assets.trees.ledger import LEDGER

if TYPE_CHECKING:
    import mlcroissant as mlc

PASSPORTS: Final = "embedding_passports"

_CROISSANT: Final = "http://mlcommons.org/croissant/"
_KINDS_OF_SPLIT: Final = {
    "train": f"{_CROISSANT}TrainingSplit",
    "validation": f"{_CROISSANT}ValidationSplit",
    "test": f"{_CROISSANT}TestSplit",
}
_TYPES: Final = {
    pl.String: "TEXT",
    pl.Boolean: "BOOL",
    pl.Int8: "INT8",
    pl.Int16: "INT16",
    pl.Int32: "INT32",
    pl.Int64: "INT64",
    pl.UInt8: "UINT8",
    pl.UInt16: "UINT16",
    pl.UInt32: "UINT32",
    pl.UInt64: "UINT64",
    pl.Float32: "FLOAT32",
    pl.Float64: "FLOAT64",
}
"""Names in `mlcroissant.DataType` by polars type."""

_FEATURES: Final = {
    "id": "What the vector belongs to: a COCO image id as text, or a name",
    "crc32": "CRC-32 of the image's file in the archive; null for names",
    "vector": "The feature vector, not normalised",
}


def list_splits(release: Release) -> list[str]:
    """Return the splits that trees are made by or tables name, in order of their names."""
    names = {tree.split for part in release.parts if isinstance(part, TreePart) for tree in part.trees}
    for part in release.parts:
        if isinstance(part, TablePart) and SPLIT in part.columns:
            names |= set(pl.read_parquet(release.root / part.file, columns=[SPLIT])[SPLIT])
    return sorted(name for name in names if name is not None)


def build_splits(splits: list[str], context: "mlc.Context") -> "mlc.RecordSet":
    """Describe the splits, as Croissant's `cr:Split`."""
    import mlcroissant as mlc

    fields = {"name": "Name of the split", "url": "Its kind"}
    types = {"name": mlc.DataType.TEXT, "url": mlc.DataType.URL}
    return mlc.RecordSet(
        ctx=context,
        id=SPLITS,
        name=SPLITS,
        description="The splits of the benchmarks. A concept is in one of them, with its few-shot images, which it is "
        "learned from, and its evaluation images, which are searched.",
        data_types=[mlc.DataType.SPLIT],
        key=[f"{SPLITS}/name"],
        fields=[
            mlc.Field(ctx=context, id=f"{SPLITS}/{name}", name=name, description=text, data_types=[types[name]])
            for name, text in fields.items()
        ],
        data=[
            {f"{SPLITS}/name": name, f"{SPLITS}/url": _KINDS_OF_SPLIT.get(name, f"{_CROISSANT}Split")}
            for name in splits
        ],
    )


def build_passports(release: Release, context: "mlc.Context") -> "mlc.RecordSet | None":
    """Describe the embedding passports of all features; None where there are no features."""
    import mlcroissant as mlc

    rows = [
        {"features": part.name, **passport}
        for part in release.parts
        if isinstance(part, FeaturesPart)
        for passport in part.passports
    ]
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    return mlc.RecordSet(
        ctx=context,
        id=PASSPORTS,
        name=PASSPORTS,
        description="What the feature vectors depend on beside their images or texts: model, sha256 of architecture "
        "and weights, preprocessing, precision, device, versions. Vectors of different passports do not mix.",
        fields=[
            mlc.Field(
                ctx=context,
                id=f"{PASSPORTS}/{name}",
                name=name,
                description="Name of the features" if name == "features" else f"Entry `{name}` of the passport",
                data_types=[_find_type_of({type(row.get(name)) for row in rows})],
            )
            for name in names
        ],
        data=[{f"{PASSPORTS}/{name}": row.get(name) for name in names} for row in rows],
    )


def _find_type_of(types: set[type]) -> Any:
    import mlcroissant as mlc

    known = {bool: mlc.DataType.BOOL, int: mlc.DataType.INTEGER, float: mlc.DataType.FLOAT}
    (only,) = types if len(types) == 1 else (str,)
    return known.get(only, mlc.DataType.TEXT)


def build_record_sets(part: Part, release: Release, context: "mlc.Context") -> "Iterator[mlc.RecordSet]":
    """Describe the records of a part; a part in a format that Croissant does not read has none.

    Raises:
        SchemaError: A column has a type that Croissant has no word for.
    """
    match part:
        case TablePart():
            yield _build_rows(part, part.name, describe_origin(part), part.file, part.columns, release, context)
        case FeaturesPart():
            source = part.files[0] if len(part.files) == 1 else None
            told = f"{describe_origin(part)} {_tell_passports(part)}"
            yield _build_rows(part, part.name, told, source, _FEATURES, release, context, sample=part.files[0])
        case TreePart():
            yield _build_ledger(part, release, context)
            for group in group_files(part):
                if group.suffix in PICTURES:
                    yield build_pictures(part, group, release, context)


def _tell_passports(part: FeaturesPart) -> str:
    told = [
        f"{passport.get('model')}, weights sha256 {passport.get('weights_sha256')}, {passport.get('precision')} on "
        f"{passport.get('device')}, preprocessing: {passport.get('preprocessing')}"
        for passport in part.passports
    ]
    return f"Encoded with {'; or '.join(told)}. The whole passport stands in the record set {PASSPORTS}."


def _build_rows(
    part: Part,
    name: str,
    told: str,
    file: str | None,
    columns: Mapping[str, str],
    release: Release,
    context: "mlc.Context",
    *,
    sample: str | None = None,
    more: "list[mlc.Field] | None" = None,
) -> "mlc.RecordSet":
    """Describe the rows of Parquet files.

    Args:
        part: The part they belong to.
        name: Identifier of the record set.
        told: Its description.
        file: The file they are read from; None: the part's FileSet.
        columns: What each column holds.
        release: For the data root.
        context: mlcroissant's context.
        sample: One of the files, where `file` is None.
        more: Further fields.
    """
    import mlcroissant as mlc

    schema = pl.read_parquet_schema(release.root / (file or sample or ""))
    place = {"file_object": file} if file else {"file_set": name_group(part.name)}
    fields = []
    for column, dtype in schema.items():
        text = columns.get(column, "")
        references = {"references": mlc.Source(ctx=context, field=f"{SPLITS}/name")} if column == SPLIT else {}
        fields.append(
            mlc.Field(
                ctx=context,
                id=f"{name}/{column}",
                name=column,
                description=text,
                source=mlc.Source(ctx=context, **place, extract=mlc.Extract(ctx=context, column=column)),
                **_find_type(dtype, f"{name}/{column}"),
                **references,
            )
        )
    return mlc.RecordSet(ctx=context, id=name, name=name, description=told, fields=[*fields, *(more or [])])


def _find_type(dtype: pl.DataType, field: str) -> dict[str, Any]:
    """Return type and shape of a field: arrays are told with their element's type; -1 for a length that varies.

    Raises:
        SchemaError: Croissant has no word for it.
    """
    import mlcroissant as mlc

    match dtype:
        case pl.Array():
            shape = {"is_array": True, "array_shape": ",".join(map(str, dtype.shape))}
            inner: Any = dtype.inner
        case pl.List():
            shape, inner = {"is_array": True, "array_shape": "-1"}, dtype.inner
        case _:
            shape, inner = {}, dtype
    known = _TYPES.get(inner.base_type())
    if known is None:
        raise SchemaError(
            f"The column {field} is {dtype}, for which Croissant has no data type.",
            advice="Give the column a plain type, or teach `release.record_sets` how it is told.",
        )
    return {"data_types": [getattr(mlc.DataType, known)], **shape}


def _build_ledger(part: TreePart, release: Release, context: "mlc.Context") -> "mlc.RecordSet":
    """Describe the ledger of a tree, or those of all its splits in one: a row a file."""
    import mlcroissant as mlc

    name = f"{part.name}/ledger"
    columns = {column.name: column.description for column in LEDGER}
    told = (
        f"What became of every expected file of {part.name}: where it stands (below "
        f"{' or '.join(tree.root for tree in part.trees)}), its sha256 and its sources. {describe_origin(part)}"
    )
    if len(part.trees) == 1:
        return _build_rows(part, name, told, part.trees[0].ledger, columns, release, context)
    names = "|".join(sorted(tree.split or "" for tree in part.trees))
    split = mlc.Field(
        ctx=context,
        id=f"{name}/{SPLIT}",
        name=SPLIT,
        description="The split that the file belongs to",
        data_types=[mlc.DataType.TEXT],
        source=read_path(name_group(part.name), rf"^(?:.*/)?({names})(?:\.parquet)?$", context),
        references=mlc.Source(ctx=context, field=f"{SPLITS}/name"),
    )
    return _build_rows(part, name, told, None, columns, release, context, sample=part.trees[0].ledger, more=[split])
