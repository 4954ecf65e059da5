"""The columns of features as they stand in Parquet: what `Features.to_frame` gives.

Belongs here: the declaration. Does not belong here: the value itself (`clip_features`).
"""

import polars as pl

from pervl_assets.core.tables import Column, TableSchema


def list_feature_columns(encoded: str | None = None, dimension: int | None = None) -> TableSchema:
    """Return the columns of features.

    Args:
        encoded: The column of names, or of ids of images, that are encoded: `<table>.<column>`; None: not told.
        dimension: Length of the vectors; None: the model's, which is not known until one looks at it.
    """
    made_from = (encoded,) if encoded else ()
    return TableSchema(
        (
            Column("id", pl.String, "Image id as text, with its blank; or the name", made_from),
            Column("crc32", pl.UInt32, "CRC-32 of the archive's member that the image is; null for names"),
            Column(
                "vector",
                pl.Array(pl.Float32, dimension) if dimension else pl.Array,
                "CLIP features: as many float32 numbers as the model has dimensions (ViT-B/32: 512). They have no unit "
                "and are not normalised",
                made_from,
            ),
        )
    )
