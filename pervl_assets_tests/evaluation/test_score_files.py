"""Embeddings of others: every form that is read, and every one that is refused with counts and names."""

import numpy as np
import polars as pl
import pytest

from pervl_assets.core.errors import PervlError, SchemaError
from pervl_assets.evaluation import score_files
from pervl_assets.evaluation.score_files import read_gallery, read_queries, score_queries

GALLERY = np.eye(4, dtype=np.float32)
NAMES = [f"{letter}.jpg" for letter in "abcd"]


def write(path, vectors, dtype=None, **columns):
    """Write a file with these columns and vectors, which are lists unless a type is given."""
    kind = dtype or pl.List(pl.Float64)
    frame = pl.DataFrame(columns).with_columns(pl.Series("vector", vectors, kind, strict=False))
    frame.write_parquet(path, row_group_size=3)
    return path


@pytest.fixture
def gallery(tmp_path):
    return read_gallery(write(tmp_path / "gallery.parquet", GALLERY.tolist(), image=NAMES))


@pytest.mark.parametrize(
    "dtype",
    [
        pl.List(pl.Float16),
        pl.List(pl.Float32),
        pl.List(pl.Float64),
        pl.Array(pl.Float16, 4),
        pl.Array(pl.Float32, 4),
        pl.Array(pl.Float64, 4),
    ],
    ids=str,
)
def test_lists_and_arrays_of_floats_are_read(gallery, tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(score_files, "_BATCH", 2)
    vectors = [[2, 0, 0, 0], [0.5, 0, 0.25, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, -1]]
    queries = read_queries(
        write(tmp_path / "q.parquet", vectors, dtype, query=[7, 8, 9, 10, 11], target=["a.jpg", *NAMES])
    )
    assert queries.vectors.tolist() == vectors
    (score,) = score_queries([queries], gallery)
    assert score.ranks["place"].to_list() == [1, 1, 4, 4, 4]
    assert score.ranks["ties"].to_list() == [0, 0, 2, 2, 0]
    assert score.ranks["found"].to_list() == ["a.jpg", "a.jpg", "c.jpg", "b.jpg", "a.jpg"]
    assert score.scores["mrr"] == (1 + 1 + 3 / 4) / 5
    assert (score.scores["tied"], score.scores["gallery"], score.scores["concepts"]) == (2, 4, 5)
    assert score.change is None
    assert queries.rows["query"].to_list() == [7, 8, 9, 10, 11]


def test_several_right_images_and_concepts_are_read(gallery, tmp_path):
    file = write(
        tmp_path / "q.parquet",
        [[1, 0, 0, 0], [0, 1, 0, 0]],
        query=["x", "y"],
        target=[["b.jpg", "a.jpg"], ["b.jpg", "b.jpg"]],
        concept=["skirt", "skirt"],
    )
    (score,) = score_queries([read_queries(file)], gallery)
    assert score.ranks.select("target", "place", "concept").rows() == [("a.jpg", 1, "skirt"), ("b.jpg", 1, "skirt")]
    assert score.ranks["average_precision"].to_list() == [(1 + 2 / 4) / 2, 1]
    assert score.scores["concepts"] == 1


def test_files_are_compared_with_the_first_query_by_query(gallery, tmp_path):
    vectors = {"good": GALLERY, "bad": -GALLERY, "other": GALLERY[:2]}
    files = [
        read_queries(write(tmp_path / name, rows.tolist(), query=NAMES[: len(rows)], target=NAMES[: len(rows)]))
        for name, rows in vectors.items()
    ]
    good, bad = score_queries(files[:2], gallery)
    assert good.change is None
    assert (bad.change.difference, bad.change.worse, bad.change.better) == (1 / 4 - 1, 4, 0)
    with pytest.raises(PervlError, match=r"other: 2 queries in one of the two rankings only: 'c\.jpg', 'd\.jpg'"):
        score_queries([files[0], files[2]], gallery)


def test_queries_with_other_targets_or_concepts_are_not_compared(gallery, tmp_path):
    rows = {"query": NAMES, "target": NAMES}
    first = read_queries(write(tmp_path / "first", GALLERY.tolist(), **rows))
    swapped = read_queries(write(tmp_path / "swapped", GALLERY.tolist(), **rows | {"target": NAMES[::-1]}))
    with pytest.raises(PervlError, match=rf"swapped: {len(NAMES)} queries with other targets than .*: 'a\.jpg'"):
        score_queries([first, swapped], gallery)
    grouped = read_queries(write(tmp_path / "grouped", GALLERY.tolist(), **rows, concept=[*NAMES[:3], "skirt"]))
    for files in ((first, grouped), (grouped, first)):
        with pytest.raises(PervlError, match=r": 1 query with other concepts than in the first file: 'd\.jpg'"):
            score_queries(files, gallery)
    sets = [
        write(tmp_path / end, GALLERY.tolist(), query=NAMES, target=[NAMES[:2][::step]] * 4)
        for end, step in (("one", 1), ("two", -1))
    ]
    assert score_queries([*map(read_queries, sets)], gallery)[1].change.queries == 4


def fill(row, value):
    """Return eight good vectors, but one or two."""
    vectors = [[1.0, 2.0, 3.0]] * 8
    for one in row:
        vectors[one] = value
    return vectors


ROWS = {
    "null": (fill([2], None), r"vector that is null \(1\): 'i2'"),
    "null number": (
        fill([2], [1.0, None, 2.0]),
        r"vector with numbers that are null, NaN, or infinite as float32 \(1\): 'i2'",
    ),
    "NaN": (fill([2, 7], [float("nan")] * 3), "vector with numbers that are null, NaN, .*: 'i2', 'i7'"),
    "infinite": (fill([2], [float("inf"), 0.0, 0.0]), "vector with numbers that are null, NaN, or infinite"),
    "beyond float32": (fill([2], [1e300, 0.0, 0.0]), "vector with numbers that are null, NaN, or infinite"),
    "zero": (fill([2], [0.0, 0.0, 0.0]), r"vector of zeros \(1\): 'i2'"),
    "ragged": (fill([3, 7], [1.0, 2.0]), r"vector without 3 numbers, as the first has \(2\): 'i3', 'i7'"),
    "an empty one": (fill([3], []), "vector without 3 numbers"),
}


@pytest.mark.parametrize("name", ROWS)
def test_vectors_that_cannot_be_ranked_are_counted_and_named(tmp_path, name, monkeypatch):
    monkeypatch.setattr(score_files, "_BATCH", 3)
    vectors, message = ROWS[name]
    with pytest.raises(SchemaError, match=message) as error:
        read_gallery(write(tmp_path / "g.parquet", vectors, image=[f"i{row}" for row in range(8)]))
    assert len(error.value.details) == 1
    with pytest.raises(SchemaError, match=message):
        read_queries(
            write(tmp_path / "q.parquet", vectors, query=[f"i{row}" for row in range(8)], target=["a.jpg"] * 8)
        )


def test_names_that_cannot_be_used_are_counted_and_named(tmp_path):
    vectors = [[1.0, 2.0]] * 5
    with pytest.raises(SchemaError) as error:
        read_gallery(write(tmp_path / "g.parquet", vectors, image=["a", None, "b", "a", "b"]))
    assert error.value.details == (
        "row (counted from 0) without image (1): 1",
        "image named twice (2): 'a', 'b'",
    )
    with pytest.raises(SchemaError) as error:
        read_queries(
            write(
                tmp_path / "q.parquet",
                vectors,
                query=["a", "a", None, "c", "d"],
                target=["x", None, "x", "x", "x"],
                concept=["x", "x", "x", None, "x"],
            )
        )
    assert error.value.details == (
        "row (counted from 0) without query (1): 2",
        "query without a target, or with one without a name (1): 'a'",
        "query without a concept (1): 'c'",
        "query named twice (1): 'a'",
    )
    lists = [[], ["x", None], ["x"]]
    with pytest.raises(SchemaError, match=r"query without a target, or with one without a name \(2\): 1, 2"):
        read_queries(write(tmp_path / "q.parquet", vectors[:3], query=[1, 2, 3], target=lists))


def test_unknown_targets_and_other_dimensions_are_counted_and_named(gallery, tmp_path):
    file = write(
        tmp_path / "q.parquet", GALLERY.tolist(), query=[1, 2, 3, 4], target=["a.jpg", "e.jpg", "A.jpg", "e.jpg"]
    )
    with pytest.raises(PervlError, match=r"q\.parquet: 2 right images not among the 4 .* 'A\.jpg', 'e\.jpg'"):
        score_queries([read_queries(file)], gallery)
    file = write(tmp_path / "q.parquet", [[1.0, 2.0]], query=[1], target=["a.jpg"])
    with pytest.raises(PervlError, match=r"q\.parquet have 2 numbers, those of .*gallery\.parquet have 4"):
        score_queries([read_queries(file)], gallery)


COLUMNS = {
    "no vector": (pl.DataFrame({"image": ["a"]}), "missing: vector"),
    "no image": (pl.DataFrame({"vector": [[1.0]]}), "missing: image"),
    "whole numbers": (pl.DataFrame({"image": ["a"], "vector": [[1]]}), r"vector is List\(Int64\), not a list or array"),
    "a number": (pl.DataFrame({"image": ["a"], "vector": [1.0]}), "vector is Float64, not a list"),
    "matrices": (pl.DataFrame({"image": ["a"], "vector": [[[1.0]]]}), r"vector is List\(List"),
    "binary names": (pl.DataFrame({"image": [b"a"], "vector": [[1.0]]}), "image is Binary, not text"),
    "lists of names": (pl.DataFrame({"image": [["a"]], "vector": [[1.0]]}), "image is List"),
    "no rows": (
        pl.DataFrame({"image": [], "vector": []}, {"image": pl.String, "vector": pl.List(pl.Float32)}),
        "no rows",
    ),
    "empty vectors": (
        pl.DataFrame({"image": ["a"], "vector": [[]]}, {"image": pl.String, "vector": pl.List(pl.Float32)}),
        "no vector in its first row",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_other_columns_are_refused(tmp_path, name):
    frame, message = COLUMNS[name]
    frame.write_parquet(tmp_path / "g.parquet")
    with pytest.raises(SchemaError, match=message):
        read_gallery(tmp_path / "g.parquet")


def test_names_may_be_categories(tmp_path):
    path = tmp_path / "g.parquet"
    pl.DataFrame({"image": ["a", "b"], "vector": [[1.0], [2.0]]}).cast({"image": pl.Categorical}).write_parquet(path)
    assert read_gallery(path).rows["image"].to_list() == ["a", "b"]


def test_files_that_are_no_parquet_are_refused(tmp_path):
    path = write(tmp_path / "g.parquet", [[1.0, 2.0]] * 500, image=[f"{row}.jpg" for row in range(500)])
    content = path.read_bytes()
    for changed, message in {
        b"": "is empty",
        b"<html>log in</html>": "is a web page",
        b"image,vector\n": "cannot be read as Parquet",
        content[:-20]: "cannot be read as Parquet",
        content[:500] + bytes(200) + content[700:]: "cannot be read as Parquet|cannot be ranked",
    }.items():
        path.write_bytes(changed)
        with pytest.raises(SchemaError, match=message):
            read_gallery(path)
    (tmp_path / "x.parquet").mkdir()
    for name in ("x.parquet", "none.parquet", "*.parquet"):
        with pytest.raises(PervlError, match="cannot be read"):
            read_gallery(tmp_path / name)


def test_a_gallery_beyond_memory_is_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise MemoryError("Unable to allocate 2.0 TiB")

    monkeypatch.setattr(np, "zeros", refuse)
    with pytest.raises(SchemaError, match=r"does not fit into memory: Unable to allocate 2\.0 TiB"):
        read_gallery(write(tmp_path / "g.parquet", [[1.0]], image=["a"]))
