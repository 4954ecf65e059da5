"""Anybody's embeddings, scored: Parquet files of queries, ranked against a gallery.

The files are of unknown origin. Whatever cannot be ranked is an error that counts and names it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.core.errors import PervlError, SchemaError, name_some
from pervl_assets.core.file_kinds import recognize_file
from pervl_assets.core.files import explain_read_errors
from pervl_assets.core.text import count_of
from pervl_assets.evaluation.metrics import Comparison, compare_rankings, compute_scores, rank_queries

_BATCH: Final = 8192
_FLOATS: Final = (pl.Float16, pl.Float32, pl.Float64)
_TEXTS: Final = (pl.String, pl.Categorical, pl.Enum)
_FORM: Final = (
    "A file of queries has the columns query (an id), target (name of the right image, or a list of names) and vector, "
    "and concept if you like. A gallery has image and vector. A vector is a list or array of floats."
)

_Faults = dict[str, list[Any]]
"""Names of wrong rows, by what is wrong with them."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Named vectors.

    Attributes:
        source: The file, or what else they are from.
        rows: N rows: `image` of a gallery; `query`, `target` (list of names) and `concept` of queries.
        vectors: Float32 (N, D).
    """

    source: str
    rows: pl.DataFrame
    vectors: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FileScore:
    """How the queries of a file find their images.

    Attributes:
        queries: The queries.
        ranks: One row per query, as `RANKS`.
        scores: The row of `SCORES`.
        change: These ranks compared with those of the first file; None for that one.
    """

    queries: Vectors
    ranks: pl.DataFrame
    scores: dict[str, Any]
    change: Comparison | None


def read_gallery(path: Path) -> Vectors:
    """Read the images of a gallery. Memory is that of the vectors as float32, and of a few row groups of the file.

    Raises:
        SchemaError: The file is not Parquet, is damaged or empty, or has not these columns; or image names repeat or
            are missing, or vectors cannot be ranked. Counts and names them.
        ArchiveError: It cannot be read.
    """
    gallery, faults = _read_vectors(path, "image")
    gallery = Vectors(gallery.source, gallery.rows.cast(pl.String), gallery.vectors)
    faults["image named twice"] = _find_repeated(gallery.rows["image"])
    _refuse(path, faults)
    return gallery


def read_queries(path: Path) -> Vectors:
    """Read queries; the concept of one is itself, where the file has no concepts. Raises as `read_gallery` does."""
    queries, faults = _read_vectors(path, "query", "target", "concept")
    rows = queries.rows
    if "concept" not in rows.columns:
        rows = rows.with_columns(concept="query")
    if not rows["target"].dtype.is_nested():
        rows = rows.with_columns(pl.concat_list("target"))
    target = pl.col("target").cast(pl.List(pl.String)).list.unique(maintain_order=True)
    rows = rows.with_columns(target, pl.col("concept").cast(pl.String))
    has_name = (pl.col("target").list.len() > 0) & ~pl.col("target").list.contains(None)
    faults["query without a target, or with one without a name"] = rows.filter(~has_name.fill_null(False))[
        "query"
    ].to_list()
    faults["query without a concept"] = rows.filter(pl.col("concept").is_null())["query"].to_list()
    faults["query named twice"] = _find_repeated(rows["query"])
    _refuse(path, faults)
    return Vectors(queries.source, rows, queries.vectors)


def score_queries(files: Sequence[Vectors], gallery: Vectors) -> list[FileScore]:
    """Score the queries of files against a gallery, and compare those of each file with those of the first.

    Raises:
        PervlError: Vectors of another dimension, targets that are not in the gallery, or other queries than those of
            the first file, or the same with other targets or concepts. Counts and names them.
    """
    dimension, found = gallery.vectors.shape[1], list[FileScore]()
    first: pl.DataFrame | None = None
    for file in files:
        if file.vectors.shape[1] != dimension:
            raise PervlError(
                f"The vectors of {file.source} have {file.vectors.shape[1]:,} numbers, those of {gallery.source} have "
                f"{dimension:,}.",
                advice="Encode queries and gallery with the same model.",
            )
        queries = file.rows.select(
            pl.lit("").alias("protocol"),
            pl.lit("").alias("query_set"),
            pl.col("query").cast(pl.String).alias("query_id"),
            pl.int_range(pl.len()).alias("query"),
            "concept",
            pl.col("target").alias("targets"),
        )
        try:
            ranks = rank_queries(queries, file.vectors, gallery.rows["image"].to_list(), gallery.vectors, "")
            _refuse_other_questions(queries, queries if first is None else first)
            change = compare_rankings(ranks, found[0].ranks) if found else None
        except PervlError as error:
            raise type(error)(f"{file.source}: {error.problem}", advice=error.advice) from error
        first = queries if first is None else first
        found.append(FileScore(file, ranks, compute_scores(ranks).row(0, named=True), change))
    return found


def _refuse_other_questions(queries: pl.DataFrame, first: pl.DataFrame) -> None:
    """Raise an error if queries have other targets or concepts than those of the first file with the same ids."""
    left, right = (one.select("query_id", "concept", pl.col("targets").list.sort()) for one in (queries, first))
    both = left.join(right, "query_id", maintain_order="left")
    for name in ("targets", "concept"):
        other = both.filter(pl.col(name) != pl.col(f"{name}_right"))["query_id"]
        if len(other):
            raise PervlError(
                f"{count_of(len(other), 'query')} with other {name.rstrip('s')}s than in the first file: "
                f"{name_some([*map(repr, other)])}.",
                advice="Compare vectors of the same queries: ids, targets and concepts must be equal.",
            )


def _read_vectors(path: Path, key: str, *more: str) -> tuple[Vectors, _Faults]:
    """Read names and vectors of a Parquet file, and find those that cannot be ranked.

    Args:
        path: The file.
        key: Column that names a row.
        more: Further columns; `concept` may be absent, and `target` may hold lists.
    """
    with explain_read_errors(path):
        kind = recognize_file(path)
    if kind:
        raise SchemaError(f"{path} is {kind.name}.", advice=kind.advice)
    with _explain_damage(path):
        scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = scan.collect_schema()
        names = [name for name in (key, *more) if name in schema or name != "concept"]
        _check_columns(path, schema, names)
        count = scan.select(pl.len()).collect().item()
        first = scan.select("vector").head(1).collect()["vector"].to_list()
        if not (first and first[0]):
            raise SchemaError(f"{path} has no {'vector in its first row' if first else 'rows'}.", advice=_FORM)
        vectors, parts, at = np.zeros((count, len(first[0])), np.float32), [], 0
        faults: _Faults = {f"row (counted from 0) without {key}": []}
        for batch in scan.select(*names, "vector").collect_batches(chunk_size=_BATCH):
            _fill(vectors[at : at + batch.height], batch["vector"], batch[key], faults)
            parts.append(batch.select(names))
            at += batch.height
        rows = pl.concat(parts)
    faults[next(iter(faults))] = rows[key].is_null().arg_true().to_list()
    return Vectors(str(path), rows, vectors), faults


def _check_columns(path: Path, schema: pl.Schema, names: Sequence[str]) -> None:
    """Refuse a file whose columns are missing, or of a type that is neither a name nor a vector."""
    wrong = [f"missing: {name}" for name in (*names, "vector") if name not in schema]
    for name in [name for name in names if name in schema]:
        dtype: Any = schema[name]
        inner = dtype.inner if name == "target" and isinstance(dtype, pl.List) else dtype
        if not (inner in _TEXTS or inner.is_integer()):
            wrong.append(f"wrong type: {name} is {dtype}, not text or a whole number")
    vector = schema.get("vector", pl.List(pl.Float32))
    if not (isinstance(vector, pl.List | pl.Array) and vector.inner in _FLOATS):
        wrong.append(f"wrong type: vector is {vector}, not a list or array of floats")
    if wrong:
        raise SchemaError(f"The columns of {path} are not those of vectors to score.", details=wrong, advice=_FORM)


def _fill(target: npt.NDArray[np.float32], vectors: pl.Series, names: pl.Series, faults: _Faults) -> None:
    """Write vectors into an array, leave zeros where they do not fit, and add the names of faulty ones to `faults`."""
    dimension = target.shape[1]
    lists = vectors.cast(pl.List(pl.Float32))
    fitting = (lists.list.len() == dimension).fill_null(False)
    rows = fitting.to_numpy()
    numbers = lists.filter(fitting).explode().to_numpy()  # null becomes NaN
    target[rows] = numbers.reshape(-1, dimension)
    finite = np.isfinite(target).all(axis=1)
    for problem, wrong in (
        ("vector that is null", vectors.is_null().to_numpy()),
        (f"vector without {dimension:,} numbers, as the first has", ~rows & ~vectors.is_null().to_numpy()),
        ("vector with numbers that are null, NaN, or infinite as float32", ~finite),
        ("vector of zeros", rows & ~target.any(axis=1)),
    ):
        faults.setdefault(problem, []).extend(names.filter(pl.Series(wrong)).to_list())


def _find_repeated(names: pl.Series) -> list[Any]:
    return names.filter(names.is_duplicated() & names.is_not_null()).unique(maintain_order=True).to_list()


def _refuse(path: Path, faults: _Faults) -> None:
    """Raise an error that counts and names the faulty rows, if there are any."""
    if lines := [f"{problem} ({len(w):,}): {name_some([*map(repr, w)])}" for problem, w in faults.items() if w]:
        raise SchemaError(f"{path} has rows that cannot be ranked.", details=lines, advice=_FORM)


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turn what reading a damaged or a huge file raises into a `SchemaError`."""
    try:
        with explain_read_errors(path):
            yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, IndexError) as error:
        raise SchemaError(f"{path} cannot be read as Parquet: {error}", advice="Write the file again.") from error
    except MemoryError as error:
        raise SchemaError(f"{path} does not fit into memory: {error}", advice="Score a smaller gallery.") from error
