import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pervl_assets.core.errors import SchemaError
from pervl_assets.training.set_encoder import (
    CURVES,
    TrainedSetEncoder,
    TrainingPassport,
    align,
    list_shapes,
    predict_tokens,
    read_curves,
    read_set_encoder,
    write_set_encoder,
)
from pervl_assets_tests.goldens import decode, read_golden, rnd
from pervl_assets_tests.inversion.kit import make_passport


def make_set_encoder(dimension=8, width=6, hidden=16, seed=1) -> TrainedSetEncoder:
    names = {"layers.0.weight": "map", "layers.0.bias": "map"}
    shapes = list_shapes(dimension, width, hidden)
    weights = {
        name: np.float32(0.05) * rnd(f"{names.get(name, 'set_encoder')}/{name}", *shape)
        for name, shape in shapes.items()
    }
    passport = TrainingPassport(
        "palavra", "1", seed, 2, hidden, make_passport(dimension=dimension), "0" * 64, width=width
    )
    rows = [(1, "image", 0.5, 1.5, 0.1, 0.25), (1, "text", 0.25, 1.25, None, 0.5)]
    return TrainedSetEncoder(weights, passport, pl.DataFrame(rows, CURVES.to_polars(), orient="row"))


def test_parameters_have_the_names_and_shapes_of_palavra():
    golden = read_golden("set_encoder")
    for hidden, entry in ((32, "parameters"), (4096, "parameters_at_4096")):
        shapes = list_shapes(512, 512, hidden)
        own = {name: list(shape) for name, shape in shapes.items() if not name.startswith("layers")}
        assert own == golden[entry]
        assert [*own] == [*golden[entry]]
    assert sum(np.prod(shape) for shape in own.values()) == golden["count_at_4096"]


def test_outputs_are_those_of_palavra():
    golden = read_golden("set_encoder")
    trained = make_set_encoder(512, 512, 32)
    sets = rnd("set_encoder/input", 3, 5, 512)
    assert np.allclose(predict_tokens(trained, sets), decode(golden["output"], -1, 512), atol=1e-5)
    unit = sets / np.linalg.norm(sets, axis=-1, keepdims=True)
    assert np.allclose(align(trained, unit[:, 0]), decode(golden["map_output"], -1, 512), atol=1e-5)


def test_sets_have_no_order_and_no_scale():
    trained, sets = make_set_encoder(), rnd("sets", 4, 5, 8)
    tokens = predict_tokens(trained, sets)
    assert tokens.shape == (4, 6)
    assert np.allclose(predict_tokens(trained, 3 * sets[:, ::-1]), tokens, atol=1e-6)
    assert not np.allclose(predict_tokens(trained, sets[::-1]), tokens, atol=1e-4)


def test_a_file_holds_the_same_and_its_bytes_are_repeatable(tmp_path):
    trained = make_set_encoder()
    for name in ("a", "b"):
        write_set_encoder(trained, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_set_encoder(tmp_path / "a")
    assert found.hash() == trained.hash()
    assert found.passport == trained.passport
    assert found.curves.equals(trained.curves)
    assert read_curves(tmp_path / "b").equals(trained.curves)
    assert np.array_equal(predict_tokens(found, rnd("sets", 1, 2, 8)), predict_tokens(trained, rnd("sets", 1, 2, 8)))


def change_entry(header, **entries) -> None:
    own = header["__metadata__"]
    own["pervl_set_encoder"] = json.dumps(json.loads(own["pervl_set_encoder"]) | entries)


def change_header(path, change) -> None:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("__metadata__"),
        lambda header: header["__metadata__"].update(pervl_set_encoder="[]"),
        lambda header: header["__metadata__"].update(pervl_set_encoder=json.dumps({"passport": "{}"})),
        lambda header: change_entry(header, curves=[{"epoch": "x"}]),
        lambda header: header.update({"more.weight": header.pop("ro.1.weight")}),
        lambda header: header["ro.1.bias"].update(dtype="I32"),
        lambda header: header["layers.0.bias"].update(data_offsets=[0, 1 << 40]),
        lambda header: header["layers.0.weight"].update(shape=[64]),
    ],
)
def test_another_header_is_refused(change, tmp_path):
    write_set_encoder(make_set_encoder(), path := tmp_path / "weights")
    change_header(path, change)
    with pytest.raises(SchemaError):
        read_set_encoder(path)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 64, b"\x80\x04K\x01.", (1 << 40).to_bytes(8, "little") + b"{}"])
def test_another_file_is_refused(data, tmp_path):
    (tmp_path / "weights").write_bytes(data)
    with pytest.raises(SchemaError, match="has no passport of a set encoder"):
        read_set_encoder(tmp_path / "weights")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    trained = make_set_encoder()
    broken = {**trained.weights, "ro.4.bias": np.full(6, np.nan, np.float32)}
    write_set_encoder(replace(trained, weights=broken), path := tmp_path / "weights")
    with pytest.raises(SchemaError, match="does not hold the set encoder"):
        read_set_encoder(path)


def test_a_file_that_is_larger_than_its_passport_says_is_not_read(tmp_path, monkeypatch):
    write_set_encoder(make_set_encoder(), path := tmp_path / "weights")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # without a block on the disk
    monkeypatch.setattr(type(path), "read_bytes", pytest.fail)
    with pytest.raises(SchemaError, match="1,099,511,627,776 bytes"):
        read_set_encoder(path)
