import io

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.core.errors import SchemaError
from pervl_assets.core.tables import Column, TableSchema, hash_frame, read_in_parts, write_hashed, write_parquet

SCHEMA = TableSchema((Column("name", pl.String, "a name"), Column("sizes", pl.List(pl.UInt8), "sizes in pixels")))


def test_a_frame_that_keeps_to_its_schema_is_returned():
    frame = pl.DataFrame({"name": ["a"], "sizes": [[1]]}, schema=SCHEMA.to_polars())
    assert SCHEMA.validate(frame, "t") is frame


def test_every_difference_is_named():
    frame = pl.DataFrame({"name": [1], "more": [2]})
    with pytest.raises(SchemaError) as caught:
        SCHEMA.validate(frame, "group/table")
    text = str(caught.value)
    assert "group/table" in text
    assert "3 columns" in text
    assert "missing: sizes (List(UInt8))" in text
    assert "unexpected: more (Int64)" in text
    assert "wrong type: name is Int64, declared String" in text


def test_order_counts():
    frame = pl.DataFrame({"name": ["a"], "sizes": [[1]]}, schema=SCHEMA.to_polars())
    with pytest.raises(SchemaError, match="wrong order: sizes, name"):
        SCHEMA.validate(frame.select("sizes", "name"), "t")


def test_vectors_may_have_any_length():
    schema = TableSchema((Column("vector", pl.Array, "a vector"),))
    frame = pl.DataFrame({"vector": [[1.0, 2.0]]}, {"vector": pl.Array(pl.Float32, 2)})
    assert schema.validate(frame, "t") is frame
    with pytest.raises(SchemaError, match=r"vector is List\(Float32\), declared Array"):
        schema.validate(frame.cast(pl.List(pl.Float32)), "t")


ROWS = st.lists(
    st.tuples(st.none() | st.text(max_size=20), st.none() | st.lists(st.integers(0, 255), max_size=3)), max_size=20
)


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_hash_is_of_the_content_wherever_it_lies(rows):
    frame = pl.DataFrame(rows, schema=SCHEMA.to_polars(), orient="row")
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    buffer.seek(0)
    padded = pl.concat([frame, frame], rechunk=False).slice(len(rows), len(rows))
    assert hash_frame(frame) == hash_frame(pl.read_parquet(buffer)) == hash_frame(padded)


@given(ROWS.filter(bool))
@settings(max_examples=40, deadline=None)
def test_hash_changes_with_values_and_types(rows):
    frame = pl.DataFrame(rows, schema=SCHEMA.to_polars(), orient="row")
    changed = frame.with_columns(pl.concat_str(pl.col("name").fill_null(""), pl.lit("x")).alias("name"))
    retyped = frame.with_columns(pl.col("sizes").cast(pl.List(pl.UInt16)))
    assert len({hash_frame(frame), hash_frame(changed), hash_frame(retyped)}) == 3


def test_null_and_empty_text_differ():
    assert hash_frame(pl.DataFrame({"a": [""]})) != hash_frame(pl.DataFrame({"a": [None]}, schema={"a": pl.String}))


def test_parts_are_the_table_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr("pervl_assets.core.tables._HASHED_ROWS", 100)
    frame = pl.DataFrame({"name": [f"mug {row}" for row in range(1234)], "sizes": [[row % 9] for row in range(1234)]})
    path = tmp_path / "mugs.parquet"
    write_hashed(frame, path)
    parts = read_in_parts(path)
    assert parts.sha256 == hash_frame(frame)
    path.unlink()
    for _ in range(2):
        read = [*parts]
        assert max(part.height for part in read) <= 100
        assert pl.concat(read).equals(frame)
    write_hashed(frame.clear(), path)
    assert pl.concat([frame.clear(), *read_in_parts(path)]).is_empty()


@pytest.mark.parametrize("fault", ["other values", "no hash", "damaged page", "half a file", "no Parquet"])
def test_a_damaged_table_is_refused_before_its_first_part(fault, tmp_path):
    path = tmp_path / "mugs.parquet"
    frame = pl.DataFrame({"name": [f"mug {row}" for row in range(5000)]})
    if fault in ("other values", "no hash"):
        write_parquet(frame, path, {"pervl_content_sha256": "0" * 64} if fault == "other values" else {})
    else:
        write_hashed(frame, path)
        data = bytearray(path.read_bytes())
        if fault == "damaged page":
            data[200:260] = bytes(60)
        path.write_bytes({"half a file": data[: len(data) // 2], "no Parquet": b"mugs"}.get(fault, data))
    with pytest.raises(SchemaError, match=r"mugs\.parquet"):
        read_in_parts(path)
