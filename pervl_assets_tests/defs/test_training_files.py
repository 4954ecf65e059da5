"""The training files, read as PALAVRA reads them, compared with upstream's rules (docs/fidelity.md) in plain Python."""

import io
import pickletools
import shutil
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pervl_assets.testing.runs import explain, make_settings, run_selection
from pervl_assets_tests.core.samples import photograph
from pervl_assets_tests.defs.plain import (
    COCO,
    OPENIMAGES,
    RAW,
    load_plain_clip,
    measure_cosines,
    name_member,
    read_openimages,
    read_sentences,
)

NAMES = f"{RAW}/txt_for_training/obj_names_only.npy"
DICTIONARY = f"{RAW}/txt_for_training/commom_obj_dict.npy"
VISUAL = f"{RAW}/visual_features/visual_features_dict_center_crop_300_224.npz"
OPEN_NAMES = f"{RAW}/open_images/open_images_obj_names.npz"
OPEN_MAP = f"{RAW}/open_images/open_images_to_mscoco_map.npz"
FILES = (NAMES, DICTIONARY, VISUAL, OPEN_NAMES, OPEN_MAP)


@pytest.fixture(scope="module")
def expected(made_world) -> dict[str, list[tuple[str, str, str]]]:
    return read_sentences(made_world.data, make_settings(made_world.data).top_objects)


def test_object_names_are_plain_text_in_class_order(made_world, expected):
    names = np.load(made_world.data / NAMES, allow_pickle=False)
    assert (names.shape, names.dtype.kind) == ((len(expected),), "U")
    assert names.tolist() == list(expected)


def test_the_dictionary_has_every_row_in_the_order_of_upstream(made_world, expected):
    loaded = np.load(made_world.data / DICTIONARY, allow_pickle=True)
    assert loaded.shape == ()
    objects = loaded.tolist()
    assert list(objects) == list(expected)
    for name, rows in expected.items():
        assert type(objects[name]) is list
        ids, sentences, masked = objects[name]
        assert {array.dtype.kind for array in (ids, sentences, masked)} == {"U"}
        assert list(zip(ids.tolist(), sentences.tolist(), masked.tolist(), strict=True)) == rows
        assert all(image_id == f"{int(image_id)} " for image_id in ids.tolist())
        assert len(set(ids.tolist())) >= 8


def test_image_features_are_one_row_each_in_text_order(made_world, expected):
    loaded = np.load(made_world.data / VISUAL, allow_pickle=True)
    assert loaded.files == ["arr_0"]
    vectors = loaded["arr_0"].item()
    assert list(vectors) == sorted({row[0] for rows in expected.values() for row in rows})
    assert list(vectors) != sorted(vectors, key=int)  # as text: `10136 ` is before `9712 `
    for value in vectors.values():
        assert type(value) is list
        assert [(array.shape, array.dtype) for array in value] == [((1, 128), np.float32)]
    some = list(vectors)[::40]
    plain = load_plain_clip().encode_images(made_world.data / COCO, [name_member(image_id) for image_id in some])
    assert measure_cosines(np.concatenate([vectors[image_id][0] for image_id in some]), plain).min() >= 0.9999


def test_openimages_names_and_the_map_to_classes(made_world, expected):
    names = np.load(made_world.data / OPEN_NAMES, allow_pickle=False)
    assert names.files == ["arr_0"]
    assert names["arr_0"].tolist() == read_openimages(made_world.data)
    rows = np.load(made_world.data / OPEN_MAP, allow_pickle=False)["arr_0"]
    assert (rows.shape, rows.dtype) == ((len(names["arr_0"]), 1), np.int64)
    matches = pl.read_parquet(made_world.data / "assets/inversion/openimages_matches.parquet")
    assert rows[:, 0].tolist() == matches["class_row"].to_list()
    # An OpenImages name that is a class's own name: CLIP knows no capitals, so its vector is the class's.
    own = {name.lower(): row for name, row in zip(names["arr_0"].tolist(), rows[:, 0].tolist(), strict=True)}
    classes = list(expected)
    assert sum(name in own for name in classes) >= 10
    assert all(classes[own[name]] == name for name in classes if name in own)


@pytest.mark.parametrize("file", [DICTIONARY, VISUAL])
def test_pickles_name_numpy_as_numpy_1_and_2_know_it(made_world, file):
    data = (made_world.data / file).read_bytes()
    if file.endswith(".npz"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read("arr_0.npy")
    stream = io.BytesIO(data)
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    operations = list(pickletools.genops(stream.read()))
    assert {argument for operation, argument, _ in operations if operation.name == "GLOBAL"} == {
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    }
    assert "STACK_GLOBAL" not in {operation.name for operation, *_ in operations}


def test_the_folders_contain_only_the_training_files(made_world):
    folder = made_world.data / RAW
    found = {path.relative_to(made_world.data).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {file for file in found if "/" in file.removeprefix(f"{RAW}/")} == set(FILES)


def photograph_values(data: Path) -> dict:
    """Return the files of a data root without the indexes of zips, which depend on the inode and thus on the copy."""
    return {name: content for name, content in photograph(data).items() if not name.endswith(".members.parquet")}


def test_an_unchanged_second_run_rewrites_nothing(made_world, tmp_path):
    data = made_world.copy_to(tmp_path / "data")
    before = photograph_values(data)
    assert set(FILES) <= set(before)
    results = run_selection(data, "+group:palavra")
    assert all(result.success for result in results), explain(results[-1])
    assert photograph_values(data) == before


def run_changed(data: Path) -> set[str]:
    """Run everything again; return which training files were written."""
    before = photograph_values(data)
    results = run_selection(data, "+group:palavra")
    assert all(result.success for result in results), explain(results[-1])
    after = photograph_values(data)
    assert not [name for name in after if ".partial" in name]
    return {file for file in FILES if after[file][1] != before[file][1]}


def test_a_changed_openimages_list_rewrites_names_and_map_only(made_world, tmp_path):
    data = made_world.copy_to(tmp_path / "data")
    with (data / OPENIMAGES).open("a") as file:
        file.write("/m/0extra,Unicorn named Fluffy\n")
    assert run_changed(data) == {OPEN_NAMES, OPEN_MAP}
    names = np.load(data / OPEN_NAMES)["arr_0"].tolist()
    assert names[-1] == "Unicorn named Fluffy"
    assert np.load(data / OPEN_MAP)["arr_0"].shape == (len(names), 1)


def test_only_a_corrupted_file_is_written_again(made_world, tmp_path):
    data = made_world.copy_to(tmp_path / "data")
    good = (data / DICTIONARY).read_bytes()
    (data / DICTIONARY).write_bytes(good[:-5])
    shutil.rmtree(data / RAW / "visual_features")
    before = photograph_values(data)
    assert all(result.success for result in run_selection(data, "+group:palavra"))
    after = photograph_values(data)
    assert (data / DICTIONARY).read_bytes() == good
    assert set(after) - set(before) == {VISUAL}
    assert {name for name in before if after[name] != before[name]} == {DICTIONARY}
