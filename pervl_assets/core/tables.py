"""Schemas of tables: their columns, the check that a frame has them, and a frame's Parquet file and content hash."""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.core.errors import SchemaError
from pervl_assets.core.files import write_bytes_atomically

CONTENT_SHA256: Final = "pervl_content_sha256"
"""Key of a Parquet file's metadata: the content hash of the values in it."""

_HASHED_ROWS: Final = 100_000
_REPAIR: Final = "Delete the file and materialize its asset again."


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: Its name.
        dtype: Its polars type.
        description: Its content, with units.
        made_from: Columns of other tables that its values are taken or computed from, as `<table>.<column>`.
    """

    name: str
    dtype: pl.DataType | type[pl.DataType]
    description: str
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table, in order."""

    columns: tuple[Column, ...]

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    @property
    def names(self) -> list[str]:
        """The column names in order."""
        return [column.name for column in self.columns]

    def to_polars(self) -> pl.Schema:
        """Return the polars schema, for building frames."""
        return pl.Schema({column.name: column.dtype for column in self.columns})

    def validate(self, frame: pl.DataFrame, table: str) -> pl.DataFrame:
        """Return `frame` unchanged if it has exactly these columns; see `validate_columns`."""
        return validate_columns(frame, {column.name: str(column.dtype) for column in self.columns}, table)


def validate_columns(frame: pl.DataFrame, declared: Mapping[str, str], table: str) -> pl.DataFrame:
    """Return `frame` unchanged if its columns are those declared: name to polars type as text, in order.

    A declared `Array` is one of any length: that of a vector is known only once its model is.

    Raises:
        SchemaError: Names every missing, unexpected, misplaced or wrongly typed column.
    """
    actual = {name: str(dtype) for name, dtype in frame.schema.items()}
    wrong = [f"missing: {name} ({dtype})" for name, dtype in declared.items() if name not in actual]
    wrong += [f"unexpected: {name} ({dtype})" for name, dtype in actual.items() if name not in declared]
    wrong += [
        f"wrong type: {name} is {actual[name]}, declared {dtype}"
        for name, dtype in declared.items()
        if name in actual and actual[name] != dtype and not (dtype == "Array" and actual[name].startswith("Array("))
    ]
    if not wrong and list(actual) != list(declared):
        wrong = [f"wrong order: {', '.join(actual)}; declared {', '.join(declared)}"]
    if wrong:
        raise SchemaError(
            f"The table {table} does not follow its declared schema in {len(wrong)} "
            f"column{'s' if len(wrong) > 1 else ''}.",
            details=wrong,
            advice="Change the function that builds the table, or its declared columns; nothing was written.",
        )
    return frame


def write_parquet(frame: pl.DataFrame, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a frame and key-value metadata to a Parquet file, whole or not at all; an unchanged one rewrites nothing.

    The file's bytes are made in memory: when polars writes to disk itself, it reports a full disk or a read-only folder
    by errors of its own, without the system's error number.

    Raises:
        WriteError: No permission, or no space left.
    """
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata=dict(metadata))
    write_bytes_atomically(path, buffer.getvalue())


def encode_csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    r"""Return a CSV file in UTF-8, with `\n` at the end of every line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode()


def write_hashed(frame: pl.DataFrame, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a frame like `write_parquet`, with the hash of its content in the file's metadata."""
    write_parquet(frame, path, {**(metadata or {}), CONTENT_SHA256: hash_frame(frame)})


def read_parquet(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the frame and the key-value metadata of a Parquet file. Neither is compared with a hash.

    Python reads the bytes: polars would map the file into memory, and the process would die if the disk failed or the
    file became shorter meanwhile.

    Raises:
        OSError: The file does not exist, or cannot be read.
        SchemaError: It is not Parquet, or is damaged.
    """
    data = path.read_bytes()
    with _explain_damage(path):
        return pl.read_parquet(io.BytesIO(data)), pl.read_parquet_metadata(io.BytesIO(data))


def read_hashed(path: Path) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return a frame and the metadata of its file, after comparing the frame with its recorded hash.

    Raises as `read_parquet` does; `SchemaError` also if the file is not one of `write_hashed`.
    """
    frame, metadata = read_parquet(path)
    if metadata.get(CONTENT_SHA256) != hash_frame(frame):
        raise SchemaError(f"The content of {path} does not match its recorded hash.", advice=_REPAIR)
    return frame, metadata


class TableParts:
    """A table of which one part is in memory at a time, beside its file; decoded again whenever it is iterated over.

    Attributes:
        sha256: Hash of its content, as `hash_frame` returns it.
    """

    def __init__(self, data: bytes, sha256: str) -> None:
        self._data, self.sha256 = data, sha256

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield the rows in order, at most `_HASHED_ROWS` at a time."""
        scan = pl.scan_parquet(io.BytesIO(self._data))
        for batch in scan.collect_batches(chunk_size=_HASHED_ROWS, maintain_order=True):
            yield from batch.iter_slices(_HASHED_ROWS)


def read_in_parts(path: Path) -> TableParts:
    """Return a table to be read in parts, after comparing it with its recorded hash. Raises as `read_hashed` does."""
    data = path.read_bytes()
    with _explain_damage(path):
        parts = TableParts(data, pl.read_parquet_metadata(io.BytesIO(data)).get(CONTENT_SHA256, ""))
        found = _hash_parts(pl.read_parquet_schema(io.BytesIO(data)), parts)
    if found != parts.sha256:
        raise SchemaError(f"The content of {path} does not match its recorded hash.", advice=_REPAIR)
    return parts


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise SchemaError(f"{path} cannot be read as Parquet: {error}", advice=_REPAIR) from error


def hash_frame(frame: pl.DataFrame) -> str:
    """Return a sha256 of a frame's schema and values.

    Equal for equal content: the values are hashed as JSON lines, since the same values may lie in memory, and in
    Parquet, in more than one way.
    """
    return _hash_parts(frame.schema, frame.iter_slices(_HASHED_ROWS))


def _hash_parts(schema: Mapping[str, pl.DataType], parts: Iterable[pl.DataFrame]) -> str:
    digest = hashlib.sha256(repr(list(schema.items())).encode())
    for part in parts:
        digest.update(part.write_ndjson().encode())
    return digest.hexdigest()
