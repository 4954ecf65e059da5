"""The records of a release in Croissant: splits, embedding passports, rows of tables, features, ledgers and images."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from pervl_assets.core.errors import SchemaError
from pervl_assets.release.images import IMAGES, IMAGES_FILE, build_images, group_images, name_file_set
from pervl_assets.release.parts import (
    SPLIT,
    SPLITS,
    FeaturesPart,
    Part,
    Release,
    TablePart,
    TreePart,
    describe_origin,
)
from pervl_assets.trees.ledger import LEDGER

if TYPE_CHECKING:
    import mlcroissant as mlc

_PASSPORTS: Final = "embedding_passports"

_CROISSANT: Final = "http://mlcommons.org/croissant/"
_KINDS_OF_SPLIT: Final = {
    "train": f"{_CROISSANT}TrainingSplit",
    "validation": f"{_CROISSANT}ValidationSplit",
    "test": f"{_CROISSANT}TestSplit",
}
_TYPES: Final = {
    pl.String: "TEXT",
    pl.Null: "TEXT",
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
    "id": "COCO image id as text, or the name that was encoded",
    "crc32": "CRC-32 of the image file in the archive; null for names",
    "vector": "the feature vector, not normalised",
}


def build_record_sets(release: Release, context: "mlc.Context") -> "list[mlc.RecordSet]":
    """Describe the records of a release. Parts in formats that Croissant cannot read have none.

    Raises:
        SchemaError: A column has a type without a counterpart in Croissant.
    """
    records = [node for part in release.parts for node in _describe_part(part, release, context)]
    if release.trees:
        columns = {column.name: column.description for column in IMAGES}
        text = "One row per image of the folder trees, without the pixels, which are in the record sets of the trees."
        records.append(_build_rows("images", text, IMAGES_FILE, columns, release, context))
    splits, passports = _list_splits(release), _build_passports(release, context)
    return [*([_build_splits(splits, context)] if splits else []), *([passports] if passports else []), *records]


def _describe_part(part: Part, release: Release, context: "mlc.Context") -> "Iterator[mlc.RecordSet]":
    match part:
        case TablePart():
            yield _build_rows(part.name, describe_origin(part), part.file, part.columns, release, context)
        case FeaturesPart():
            text = f"{describe_origin(part)} {_describe_passports(part)}"
            file_set = name_file_set(part.name) if len(part.files) > 1 else None
            yield _build_rows(part.name, text, part.files[0], _FEATURES, release, context, file_set=file_set)
        case TreePart():
            columns = {column.name: column.description for column in LEDGER}
            for tree in part.trees:
                name = f"{part.name}/ledger" if tree.split is None else f"{part.name}/ledger/{tree.split}"
                text = (
                    f"One row per expected file of {part.name}: its path below {tree.root}, sha256, sources, and "
                    f"whether it was written. {describe_origin(part)}"
                )
                yield _build_rows(name, text, tree.ledger, columns, release, context)
            for group in group_images(part):
                yield build_images(part, group, context)


def _list_splits(release: Release) -> list[str]:
    """Return the splits of images and tables, sorted."""
    names: set[str | None] = {name for part in release.trees for name in part.images[SPLIT]}
    for part in release.parts:
        if isinstance(part, TablePart) and SPLIT in part.columns:
            names |= set(pl.read_parquet(release.root / part.file, columns=[SPLIT], glob=False)[SPLIT])
    return sorted(name for name in names if name is not None)


def _build_splits(splits: list[str], context: "mlc.Context") -> "mlc.RecordSet":
    """Describe the splits as `cr:Split`."""
    import mlcroissant as mlc

    fields = {"name": ("name of the split", mlc.DataType.TEXT), "url": ("kind of the split", mlc.DataType.URL)}
    return mlc.RecordSet(
        ctx=context,
        id=SPLITS,
        name=SPLITS,
        description="The splits of the benchmarks. A concept is in one of them, with its few-shot images, from which "
        "it is learned, and its evaluation images, among which it is searched.",
        data_types=[mlc.DataType.SPLIT],
        key=[f"{SPLITS}/name"],
        fields=[
            mlc.Field(ctx=context, id=f"{SPLITS}/{name}", name=name, description=text, data_types=[kind])
            for name, (text, kind) in fields.items()
        ],
        data=[
            {f"{SPLITS}/name": name, f"{SPLITS}/url": _KINDS_OF_SPLIT.get(name, f"{_CROISSANT}Split")}
            for name in splits
        ],
    )


def _build_passports(release: Release, context: "mlc.Context") -> "mlc.RecordSet | None":
    """Describe the embedding passports of all features; None if there are no features."""
    import mlcroissant as mlc

    rows = [
        {"features": part.name, **passport}
        for part in release.parts
        if isinstance(part, FeaturesPart)
        for passport in part.passports
    ]
    if not rows:
        return None
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return mlc.RecordSet(
        ctx=context,
        id=_PASSPORTS,
        name=_PASSPORTS,
        description="One row per set of feature vectors: model, sha256 of architecture and weights, preprocessing, "
        "precision, device and versions. Vectors with different passports must not be mixed.",
        fields=[
            mlc.Field(
                ctx=context,
                id=f"{_PASSPORTS}/{name}",
                name=name,
                description="name of the features" if name == "features" else f"entry `{name}` of the passport",
                **_find_type(dtype, f"{_PASSPORTS}/{name}"),
            )
            for name, dtype in frame.schema.items()
        ],
        data=[{f"{_PASSPORTS}/{name}": value for name, value in row.items()} for row in frame.to_dicts()],
    )


def _describe_passports(part: FeaturesPart) -> str:
    texts = [
        f"{passport.get('model')}, weights sha256 {passport.get('weights_sha256')}, {passport.get('precision')} on "
        f"{passport.get('device')}, preprocessing: {passport.get('preprocessing')}"
        for passport in part.passports
    ]
    return f"Encoded with {'; or '.join(texts)}. The whole passport is in the record set {_PASSPORTS}."


def _build_rows(
    name: str,
    text: str,
    file: str,
    columns: Mapping[str, str],
    release: Release,
    context: "mlc.Context",
    *,
    file_set: str | None = None,
) -> "mlc.RecordSet":
    """Describe the rows of a Parquet file, or of a FileSet of such files.

    Args:
        name: Id of the record set.
        text: Its description.
        file: Path of the file; of a FileSet any one of its files, whose schema holds for all.
        columns: Description of each column.
        release: The release, for its data root.
        context: Context of mlcroissant.
        file_set: Id of the FileSet.
    """
    import mlcroissant as mlc

    source = {"file_set": file_set} if file_set else {"file_object": file}
    split = {"references": mlc.Source(ctx=context, field=f"{SPLITS}/name")}
    fields = [
        mlc.Field(
            ctx=context,
            id=f"{name}/{column}",
            name=column,
            description=columns.get(column, ""),
            source=mlc.Source(ctx=context, **source, extract=mlc.Extract(ctx=context, column=column)),
            **_find_type(dtype, f"{name}/{column}"),
            **(split if column == SPLIT else {}),
        )
        for column, dtype in pl.read_parquet_schema(release.root / file).items()
    ]
    return mlc.RecordSet(ctx=context, id=name, name=name, description=text, fields=fields)


def _find_type(dtype: pl.DataType, field: str) -> dict[str, Any]:
    """Return type and shape of a field. An array has the type of its elements; -1 is a length that varies.

    Raises:
        SchemaError: The type has no counterpart in Croissant.
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
            advice="Use a plain type for the column, or add the type to `release.record_sets`.",
        )
    return {"data_types": [getattr(mlc.DataType, known)], **shape}
