import io
import pickle
import pickletools
import zipfile

import numpy as np
import polars as pl
import pytest

from pervl_assets.clip.features import Features
from pervl_assets.core.files import hash_file
from pervl_assets.inversion.coco_classes import collect_object_sentences, count_object_classes, read_triplets
from pervl_assets.inversion.open_images import OPENIMAGES_MATCHES
from pervl_assets.inversion.training_files import (
    _pickle,
    _pickle_array,
    _pickle_texts,
    summarize_sentences,
    write_object_names,
    write_object_sentences,
    write_openimages_map,
    write_openimages_names,
    write_visual_features,
)
from pervl_assets_tests.inversion.kit import make_passport

LINES = """img_id=9712 | man, ride, horse | x | a man riding a horse
img_id=10136 | dog, on, 人 | x | a dog on a 人
img_id=5| , in, man | x | a woman in a man
img_id=77 | man, on, hill | x | a very old man on a hill
"""

MATCHES = pl.DataFrame(
    [(0, "Ducks, geese", 3, "hill", 1.5, 0, "man", 0.5), (1, "人", 0, "man", 0.0, None, None, None)],
    schema=OPENIMAGES_MATCHES.to_polars(),
    orient="row",
)

# Names that numpy 1.21 has. It cannot load a pickle with any other name.
NUMPY_1_GLOBALS = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


@pytest.fixture
def tables(tmp_path):
    path = tmp_path / "svo.txt"
    path.write_text(LINES, encoding="utf-8")
    triplets = read_triplets(path).frame
    classes = count_object_classes(triplets, 100)
    return classes, collect_object_sentences(triplets, classes)


def make_features(device="cpu"):
    ids = ["9712 ", "10136 ", "5"]
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    return Features(ids, vectors, make_passport(device=device), [1, 2, 3])


def read_pickle(path):
    """Return the bytes of the pickle in a .npy, or in the .npy of a .npz."""
    data = path.read_bytes()
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == ["arr_0.npy"]
            data = archive.read("arr_0.npy")
    file = io.BytesIO(data)
    assert np.lib.format.read_magic(file) == (1, 0)
    assert np.lib.format.read_array_header_1_0(file) == ((), False, np.dtype("O"))
    return file.read()


def write_all(folder, tables, features):
    classes, sentences = tables
    write_object_names(classes, folder / "names.npy")
    left_out = pl.Series(sorted({*sentences["image_id"]}.difference(features.ids)), dtype=pl.String)
    write_object_sentences(classes, [sentences], left_out, folder / "dict.npy")
    write_visual_features([features], folder / "visual.npz")
    write_openimages_names(MATCHES, folder / "oi_names.npz")
    write_openimages_map(MATCHES, folder / "oi_map.npz")


def test_the_dictionary_as_its_consumer_loads_it(tables, tmp_path):
    classes, sentences = tables
    none = pl.Series([], dtype=pl.String)
    parts = [*sentences.iter_slices(2)]
    write_object_sentences(classes, parts, none, tmp_path / "dict.npy")
    summary = summarize_sentences(classes, parts, none)
    loaded = np.load(tmp_path / "dict.npy", allow_pickle=True)
    assert loaded.shape == ()
    objects = loaded.tolist()
    assert list(objects) == classes["name"].to_list() == ["man", "dog", "", "horse", "人", "hill"]
    for name, value in objects.items():
        rows = sentences.filter(pl.col("name") == name)
        assert type(value) is list
        assert [array.dtype.kind for array in value] == ["U", "U", "U"]
        assert [array.tolist() for array in value] == [rows[c].to_list() for c in rows.columns[3:]]
        value[0] = value[0][:1]  # the consumer assigns into the list
    assert objects["man"][1].tolist() == ["a man riding a horse", "a very old man on a hill", "a woman in a man"]
    assert objects["man"][2].tolist()[2] == "a wo* in a man"
    assert objects["man"][0].tolist() == ["9712 "]
    assert objects[""][2].tolist() == ["*a woman in a man"]
    assert (summary.rows, summary.rows_left_out, summary.images_left_out) == (8, 0, ())


def test_images_without_features_are_left_out_and_counted(tables, tmp_path):
    classes, sentences = tables
    left_out = pl.Series(["77 "])
    write_object_sentences(classes, [sentences], left_out, tmp_path / "dict.npy")
    summary = summarize_sentences(classes, [sentences], left_out)
    objects = np.load(tmp_path / "dict.npy", allow_pickle=True).tolist()
    assert list(objects) == classes["name"].to_list()
    assert objects["man"][0].tolist() == ["9712 ", "5"]
    assert [array.shape for array in objects["hill"]] == [(0,)] * 3
    assert (summary.rows, summary.rows_left_out, summary.images_left_out) == (6, 2, ("77 ",))
    assert summary.short_classes == {"man": 2, "dog": 1, "": 1, "horse": 1, "人": 1, "hill": 0}


def test_classes_with_eight_different_images_are_enough(tmp_path):
    path = tmp_path / "svo.txt"
    path.write_text("".join(f"img_id={n % 8} | man, on, hill{n % 7} | x | y\n" for n in range(56)))
    triplets = read_triplets(path).frame
    classes = count_object_classes(triplets, 8)
    sentences = collect_object_sentences(triplets, classes)
    assert summarize_sentences(classes, [sentences], pl.Series([], dtype=pl.String)).short_classes == {}
    fewer = summarize_sentences(classes, [sentences], pl.Series(["0 "]))
    assert fewer.short_classes == dict.fromkeys(classes["name"], 7)


@pytest.mark.parametrize(("device", "dtype"), [("cpu", np.float32), ("cuda", np.float16)])
def test_visual_features_as_their_consumer_loads_them(device, dtype, tmp_path):
    features = make_features(device)
    write_visual_features([features.take([2]), features.take([0, 1])], tmp_path / "visual.npz")
    loaded = np.load(tmp_path / "visual.npz", allow_pickle=True)
    assert loaded.files == ["arr_0"]
    vectors = loaded["arr_0"].item()
    assert list(vectors) == ["10136 ", "5", "9712 "] == np.unique(features.ids).tolist()
    for image_id, vector in zip(features.ids, features.vectors, strict=True):
        assert type(vectors[image_id]) is list
        assert [array.shape for array in vectors[image_id]] == [(1, 8)]
        assert vectors[image_id][0].dtype == dtype
        assert np.array_equal(vectors[image_id][0][0], vector.astype(dtype))


DICTIONARY_SHA256 = "d7b56fc32f7354a18b28619dbedb4aceeaa1e95967b85e511fef8ad3608ce933"


@pytest.mark.parametrize(
    ("device", "visual_sha256"),
    [
        ("cpu", "02632bd8c7f809ebb7202361a994d1b13f41a7eb2c224b63f1088652d26794f7"),
        ("cuda", "4028537123133b542fe258bfda962c94ae3dd6b3c90ac19f9524673e18832a6c"),
    ],
)
def test_the_bytes_are_those_of_the_first_release_however_small_the_pieces(
    device, visual_sha256, tables, tmp_path, monkeypatch
):
    monkeypatch.setattr("pervl_assets.inversion.training_files._ROWS", 2)
    monkeypatch.setattr("pervl_assets.clip.merge._BLOCK", 2)
    write_all(tmp_path, tables, make_features(device))
    assert hash_file(tmp_path / "dict.npy") == DICTIONARY_SHA256
    assert hash_file(tmp_path / "visual.npz") == visual_sha256


@pytest.mark.parametrize("rows", [0, 1, 3, 255, 256, 65_536, 70_000])
@pytest.mark.parametrize("text", ["", "a", "人 and more"])
def test_an_array_of_texts_is_pickled_in_pieces_as_pickle_does(rows, text):
    texts = [text if row % 3 else "" for row in range(rows)]
    whole = _pickle(np.array(texts, np.str_))
    assert b"".join(_pickle_texts(pl.Series(texts, dtype=pl.String))) == whole


def test_an_array_of_more_than_4_gib_has_a_long_length():
    before, after = _pickle_array((5_000_000,), np.dtype("<U250"))
    size = 5_000_000 * 1000
    assert before.endswith(pickle.BINBYTES8 + size.to_bytes(8, "little"))
    small = before.removesuffix(size.to_bytes(8, "little")) + (8).to_bytes(8, "little") + bytes(8) + after
    with pytest.raises(ValueError, match="buffer size does not match"):  # so the length was understood
        pickle.loads(pickle.PROTO + b"\3" + small + pickle.STOP)


def test_plain_files_need_no_pickle(tables, tmp_path):
    write_all(tmp_path, tables, make_features())
    names = np.load(tmp_path / "names.npy", allow_pickle=False)
    assert (names.dtype.kind, names.tolist()) == ("U", tables[0]["name"].to_list())
    oi_names = np.load(tmp_path / "oi_names.npz", allow_pickle=False)["arr_0"]
    assert (oi_names.dtype.kind, oi_names.tolist()) == ("U", ["Ducks, geese", "人"])
    oi_map = np.load(tmp_path / "oi_map.npz", allow_pickle=False)["arr_0"]
    assert (oi_map.dtype, oi_map.tolist()) == (np.int64, [[3], [0]])


@pytest.mark.parametrize("name", ["dict.npy", "visual.npz"])
def test_pickles_use_only_names_that_numpy_1_has(name, tables, tmp_path):
    write_all(tmp_path, tables, make_features())
    data = read_pickle(tmp_path / name)
    operations = list(pickletools.genops(data))
    named = {tuple(argument.split(" ")) for op, argument, _ in operations if op.name == "GLOBAL"}
    assert named == NUMPY_1_GLOBALS
    assert not {op.name for op, _, _ in operations} & {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID"}
    assert max(op.proto for op, _, _ in operations) <= 3
    assert operations[-1][0].name == "STOP"
    assert operations[-1][2] == len(data) - 1

    class Numpy1(pickle.Unpickler):
        def find_class(self, module, qualname):
            assert (module, qualname) in NUMPY_1_GLOBALS
            return super().find_class(module, qualname)

    assert Numpy1(io.BytesIO(data)).load().shape == ()


def test_equal_content_has_equal_bytes_and_rewrites_nothing(tables, tmp_path, monkeypatch):
    write_all(tmp_path / "one", tables, make_features())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    assert len(before) == 5
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_all(tmp_path / "one", tables, make_features())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()} == before
    write_all(tmp_path / "two", tables, make_features())
    assert all((tmp_path / "two" / path.name).read_bytes() == path.read_bytes() for path in before)
