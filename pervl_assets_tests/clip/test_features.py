import json

import numpy as np
import polars as pl
import pytest

from pervl_assets.clip.features import (
    MISSING,
    QUARANTINED,
    REJECTED_IMAGES,
    Features,
    encode_names,
    read_features,
    update_names,
    write_features,
)
from pervl_assets.core.errors import SchemaError
from pervl_assets_tests.inversion.kit import FakeEncoder, make_passport


def make_features(ids, seed=0, dimension=8, rejected=(), **changes):
    vectors = np.random.default_rng(seed).normal(size=(len(ids), dimension)).astype(np.float32)
    frame = pl.DataFrame(list(rejected), schema=REJECTED_IMAGES.to_polars(), orient="row")
    return Features(list(ids), vectors, make_passport(dimension=dimension, **changes), [7] * len(ids), frame)


REJECTED = [
    ("3 ", "train2014/3.jpg", MISSING, "not in the archive", None),
    ("4 ", "m", QUARANTINED, "truncated", 2**32 - 1),
]


@pytest.mark.parametrize("ids", [["10136 ", "9712 "], []])
def test_parquet_keeps_everything(ids, tmp_path):
    features = make_features(ids, rejected=REJECTED)
    path = tmp_path / "shard.parquet"
    write_features(features, path)
    again = read_features(path)
    assert again.ids == features.ids
    assert again.crc32s == features.crc32s
    assert again.vectors.dtype == np.float32
    assert np.array_equal(again.vectors, features.vectors)
    assert again.passport == features.passport
    assert again.rejected.equals(features.rejected)
    assert again.hash() == features.hash()
    assert pl.read_parquet_schema(path)["vector"] == pl.Array(pl.Float32, 8)
    before = path.stat().st_mtime_ns
    write_features(again, path)
    assert path.stat().st_mtime_ns == before


def test_texts_have_no_crc(tmp_path):
    features = Features(["man", "man"], np.ones((2, 8), np.float32), make_passport())
    write_features(features, tmp_path / "texts.parquet")
    again = read_features(tmp_path / "texts.parquet")
    assert (again.ids, again.crc32s, again.rejected.height) == (["man", "man"], None, 0)


def test_hash_depends_on_everything():
    base = make_features(["1 ", "2 "])
    others = [
        make_features(["1 ", "3 "]),
        make_features(["1 ", "2 "], seed=1),
        make_features(["1 ", "2 "], precision="fp16"),
        make_features(["1 ", "2 "], rejected=REJECTED),
        Features(base.ids, base.vectors, base.passport, [7, 8]),
    ]
    assert len({features.hash() for features in [base, *others]}) == 6


def test_other_files_are_not_features(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(FileNotFoundError):
        read_features(path)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(SchemaError, match="cannot be read as Parquet"):
        read_features(path)
    pl.DataFrame({"id": ["a"]}).write_parquet(path)
    with pytest.raises(SchemaError, match="does not hold features"):
        read_features(path)
    passport = make_passport().to_json()
    pl.DataFrame({"id": ["a"]}).write_parquet(
        path, metadata={"pervl_passport": passport, "pervl_rejected": json.dumps([])}
    )
    with pytest.raises(SchemaError, match="does not hold features"):
        read_features(path)


@pytest.mark.parametrize(
    ("ids", "vectors", "crc32s"),
    [
        (["a"], np.zeros((2, 8), np.float32), None),
        (["a"], np.zeros((1, 7), np.float32), None),
        (["a"], np.zeros((1, 8), np.float64), None),
        (["a"], np.zeros((1, 8), np.float32), [1, 2]),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(ids, vectors, crc32s):
    with pytest.raises(SchemaError, match=r"expected float32 \(1, 8\)"):
        Features(ids, vectors, make_passport(), crc32s)


def test_names_are_encoded_in_the_prompt():
    encoder = FakeEncoder()
    assert encode_names(encoder, ["man", ""]).ids == ["man", ""]
    assert encoder.texts == ["This is a photo of a man", "This is a photo of a "]


def test_the_same_names_are_not_encoded_again_and_one_new_name_encodes_all():
    encoder = FakeEncoder()
    first = update_names(["man", "goose", "man"], encoder.passport, lambda: encoder)
    assert first.hash() == encode_names(FakeEncoder(), ["man", "goose", "man"]).hash()
    assert update_names(["man", "goose", "man"], encoder.passport, lambda: pytest.fail("loaded"), first) is first
    encoder.texts.clear()
    second = update_names(["man", "Man"], encoder.passport, lambda: encoder, first)
    assert encoder.texts == ["This is a photo of a man", "This is a photo of a Man"]
    assert second.hash() == encode_names(FakeEncoder(), ["man", "Man"]).hash()
    other = make_passport(precision="fp16")
    encoder.passport = other
    assert update_names(["man"], other, lambda: encoder, first).passport == other
