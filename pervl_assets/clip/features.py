"""Feature vectors as one typed value: ids, vectors and passport in one table and one Parquet file."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.clip.encoder import PROMPT, TEXT_BATCH, ClipEncoder
from pervl_assets.clip.passport import EmbeddingPassport
from pervl_assets.core.errors import SchemaError
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.tables import CONTENT_SHA256, Column, TableSchema, hash_frame, read_parquet, write_parquet

REJECTED_IMAGES: Final = TableSchema(
    (
        Column("id", pl.String, "Id of the image as text"),
        Column("member", pl.String, "Member of the archive"),
        Column("status", pl.String, "missing: not in the archive; quarantined: it is, and cannot be used"),
        Column("reason", pl.String, "What is wrong"),
        Column("crc32", pl.UInt32, "CRC-32 of the member; null where it is missing"),
    )
)


def list_feature_columns(encoded: str | None = None, dimension: int | None = None) -> TableSchema:
    """Return the columns of `Features.to_frame`.

    Args:
        encoded: The column of names or image ids that are encoded: `<table>.<column>`; None: not stated.
        dimension: Length of the vectors; None: the model's, which is unknown until it is read.
    """
    made_from = (encoded,) if encoded else ()
    return TableSchema(
        (
            Column("id", pl.String, "Id of the image as text, or the name", made_from),
            Column("crc32", pl.UInt32, "CRC-32 of the archive's member that the image is; null for names"),
            Column(
                "vector",
                pl.Array(pl.Float32, dimension) if dimension else pl.Array,
                "CLIP features: one float32 number per dimension of the model (ViT-B/32: 512). They have no unit and "
                "are not normalised",
                made_from,
            ),
        )
    )


MISSING: Final = "missing"
QUARANTINED: Final = "quarantined"

_PASSPORT: Final = "pervl_passport"
_REJECTED: Final = "pervl_rejected"
_REPAIR: Final = "Delete the file and materialize its asset again."


def _no_rejected() -> pl.DataFrame:
    return pl.DataFrame(schema=REJECTED_IMAGES.to_polars())


@dataclass(frozen=True, eq=False)
class Features:
    """Feature vectors of images or texts.

    Attributes:
        ids: Image ids or names, one per vector. Names may repeat.
        vectors: Float32 of shape (N, D), not normalised.
        passport: Everything the vectors depend on.
        crc32s: CRC-32 of the member each image was decoded from; None for texts.
        rejected: Images that have no vector, as `REJECTED_IMAGES`; empty for texts.
    """

    ids: list[str]
    vectors: npt.NDArray[np.float32]
    passport: EmbeddingPassport
    crc32s: list[int] | None = None
    rejected: pl.DataFrame = field(default_factory=_no_rejected)

    def __post_init__(self) -> None:
        wanted = (len(self.ids), self.passport.dimension)
        crc32s = len(self.ids) if self.crc32s is None else len(self.crc32s)
        if self.vectors.shape != wanted or self.vectors.dtype != np.float32 or crc32s != len(self.ids):
            raise SchemaError(
                f"{len(self.ids)} ids and {crc32s} CRCs do not fit vectors of {self.vectors.dtype} "
                f"{self.vectors.shape}; expected float32 {wanted}.",
                advice="Change the function that computes the vectors; nothing was written.",
            )
        REJECTED_IMAGES.validate(self.rejected, "rejected images")

    def take(self, rows: Sequence[int]) -> "Features":
        """Return the features with these vectors only; `rejected` stays."""
        crc32s = self.crc32s and [self.crc32s[row] for row in rows]
        return replace(self, ids=[self.ids[row] for row in rows], vectors=self.vectors[rows], crc32s=crc32s)

    def to_frame(self) -> pl.DataFrame:
        """Return columns `id` (String), `crc32` (UInt32, null for texts) and `vector` (Array(Float32, D))."""
        vectors = pl.Series("vector", self.vectors.ravel(), dtype=pl.Float32).reshape((-1, self.passport.dimension))
        return self._tabulate_ids().with_columns(vectors.cast(pl.Array(pl.Float32, self.passport.dimension)))

    def _tabulate_ids(self) -> pl.DataFrame:
        crc32s = self.crc32s if self.crc32s is not None else [None] * len(self.ids)
        return pl.DataFrame({"id": self.ids, "crc32": crc32s}, schema={"id": pl.String, "crc32": pl.UInt32})

    def hash(self) -> str:
        """Return a sha256 of ids, vectors, CRCs, rejected images and passport."""
        return self._hash

    @functools.cached_property
    def _hash(self) -> str:
        parts = (
            hash_frame(self._tabulate_ids()),
            hash_bytes(np.ascontiguousarray(self.vectors).reshape(-1).view(np.uint8).data),
            hash_frame(self.rejected),
            self.passport.to_json(),
        )
        return hash_bytes("\n".join(parts).encode())


def write_features(features: Features, path: Path) -> None:
    """Write features to a Parquet file whole or not at all; the passport is in its key-value metadata.

    Raises:
        WriteError: No permission, or no space left.
    """
    metadata = {
        _PASSPORT: features.passport.to_json(),
        _REJECTED: json.dumps(features.rejected.to_dicts()),
        CONTENT_SHA256: features.hash(),
    }
    write_parquet(features.to_frame(), path, metadata)


def read_features(path: Path) -> Features:
    """Read features from Parquet, and compare them with the hash that was written with them.

    Raises:
        OSError: The file does not exist, or cannot be read.
        SchemaError: The file is damaged, or does not hold the features that were written to it.
    """
    frame, metadata = read_parquet(path)
    try:
        passport = EmbeddingPassport.from_json(metadata[_PASSPORT])
        rejected = pl.DataFrame(json.loads(metadata[_REJECTED]), schema=REJECTED_IMAGES.to_polars())
        crc32s = None if frame["crc32"].null_count() else frame["crc32"].to_list()
        vectors = frame["vector"].to_numpy().reshape(-1, passport.dimension)
        features = Features(frame["id"].to_list(), vectors, passport, crc32s, rejected)
    except (pl.exceptions.PolarsError, KeyError, ValueError, TypeError) as error:
        raise SchemaError(f"{path} does not hold features with their passport: {error!r}.", advice=_REPAIR) from error
    if metadata.get(CONTENT_SHA256) != features.hash():
        raise SchemaError(f"{path} does not hold the features that were written to it.", advice=_REPAIR)
    return features


def read_passport(path: Path) -> EmbeddingPassport:
    """Read the passport of a features file; no vector is read.

    Raises:
        FileNotFoundError: The file does not exist.
        KeyError: It is no features file.
        ValueError: Its passport is damaged.
    """
    return EmbeddingPassport.from_json(pl.read_parquet_metadata(path)[_PASSPORT])


def normalise(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return vectors, float32 (…, D), with length 1; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def encode_names(
    encoder: ClipEncoder,
    names: list[str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    prompt: str = PROMPT,
) -> Features:
    """Encode names, each after the prompt; ids are the names."""
    vectors = encoder.encode_texts([prompt + name for name in names], TEXT_BATCH, on_progress)
    return Features(names, vectors, replace(encoder.passport, batch_size=TEXT_BATCH))


def update_names(
    names: list[str],
    passport: EmbeddingPassport,
    load_encoder: Callable[[], ClipEncoder],
    previous: Features | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    prompt: str = PROMPT,
) -> Features:
    """Encode names, unless `previous` holds just these under the same passport; then no model is loaded.

    If one name is new, all are encoded: names that differ only in case must get the same vector to the last bit, which
    holds within one call only.

    Args:
        names: Names in order; ids of the result.
        passport: The encoder's passport, from `describe_encoder`.
        load_encoder: Loads the encoder.
        previous: The features as they were stored last.
        on_progress: Called after every batch with the number of different texts done and their total.
        prompt: Text before each name; empty for whole sentences. Vectors stored under another prompt are not noticed.
    """
    if previous is not None and previous.passport == passport and previous.ids == names:
        return previous
    return encode_names(load_encoder(), names, on_progress, prompt)
