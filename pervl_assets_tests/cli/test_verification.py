"""`pervl verify` by kind of value: missing, changed and extra files, and values that are not materialized."""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from pervl_assets.cli.selections import choose_assets
from pervl_assets.cli.verification import record_results, verify_values
from pervl_assets.core.files import VerifyResult
from pervl_assets.core.tables import CONTENT_SHA256, hash_frame
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.run_results import name_partition
from pervl_assets.defs.runs import Plan
from pervl_assets.defs.selections import select_assets
from pervl_assets.testing.runs import explain, make_settings, run_assets, run_selection
from pervl_assets_tests.core.samples import photograph

RAW = "inversion_model_train_data"
TABLE = "assets/inversion/coco_object_classes.parquet"
IMAGES = "assets/inversion/coco_image_features/1-of-2.parquet"
TEXTS = "assets/inversion/openimages_text_features.parquet"
TREE = "deep_fashion2/personalized_test"
LEDGER = "assets/deep_fashion/personalized/test.parquet"
NAMES = f"{RAW}/txt_for_training/obj_names_only.npy"
CARD = "assets/raw/coco_train2014.json"


@functools.cache
def define() -> dg.Definitions:
    """Return the graph, which is the same for every data folder."""
    return build_definitions(make_settings(Path("nowhere")))


def verify(data: Path) -> dict[str, VerifyResult]:
    return {one.name: one.result for one in verify_values(define(), data)}


def find_differences(data: Path) -> dict[str, VerifyResult]:
    return {name: value for name, value in verify(data).items() if not value.unchanged}


@pytest.fixture
def data(made_world, tmp_path) -> Path:
    return made_world.copy_to(tmp_path / "data")


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def flip(path: Path) -> None:
    """Turn over the last bit of the byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite_table(path: Path) -> None:
    """Change one value of a table and keep the rest, the stated hash included, as a careless edit would."""
    stated = pl.read_parquet_metadata(path)[CONTENT_SHA256]
    frame = pl.read_parquet(path).with_columns(pl.col("triplets") + 1)
    frame.write_parquet(path, metadata={CONTENT_SHA256: stated})


def rewrite_vectors(path: Path) -> None:
    metadata = {k: v for k, v in pl.read_parquet_metadata(path).items() if k.startswith("pervl_")}
    frame = pl.read_parquet(path)
    vectors = frame["vector"].to_numpy().copy()
    vectors[0, 0] = np.nextafter(vectors[0, 0], np.float32(9))  # the smallest change there is
    frame.with_columns(pl.Series("vector", vectors, dtype=frame.schema["vector"])).write_parquet(
        path, metadata=metadata
    )


def test_fresh_values_are_unchanged_and_verifying_writes_nothing(made_world):
    before = photograph(made_world.data)
    results = verify(made_world.data)
    assert all(value.unchanged for value in results.values())
    made = {name for name, value in results.items() if value.files}
    others = ("ytvos/", "evaluation/", "training/", "release/")  # of these groups nothing was made
    assert {name for name in results if not name.startswith(others)} == made
    assert {"inversion/coco_image_features [0-of-2]", "deep_fashion/personalized [test]"} <= made
    tree = results["deep_fashion/personalized [test]"]
    files = [path for path in (made_world.data / TREE).rglob("*") if path.is_file()]
    assert (tree.files, tree.bytes) == (len(files), sum(path.stat().st_size for path in files))
    assert photograph(made_world.data) == before


def test_an_empty_folder_has_no_value_and_no_difference(tmp_path):
    results = verify(tmp_path)
    assert len(results) > 30
    assert all(value.unchanged and not value.files for value in results.values())


CHANGES: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "a table's value": ("inversion/coco_object_classes", TABLE, rewrite_table),
    "a table cut off": ("inversion/coco_object_classes", TABLE, lambda path: path.write_bytes(path.read_bytes()[:-9])),
    "a table without a hash": ("inversion/coco_object_classes", TABLE, lambda path: pl.DataFrame().write_parquet(path)),
    "a feature's value": ("inversion/coco_image_features [1-of-2]", IMAGES, rewrite_vectors),
    "text features' bytes": ("inversion/openimages_text_features", TEXTS, append),
    "a training file": ("palavra/object_names", NAMES, flip),
    "a training file's manifest": (
        "palavra/object_names",
        "assets/palavra/object_names.json",
        lambda path: path.write_text("{}"),
    ),
    "a ledger": (
        "deep_fashion/personalized [test]",
        LEDGER,
        lambda path: pl.DataFrame({"path": ["x"]}).write_parquet(path, metadata={"root": TREE}),
    ),
    "an identity card": ("raw/coco_train2014", CARD, lambda path: path.write_text("[]")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_reported_and_nothing_else(data, name):
    asset, file, change = CHANGES[name]
    change(data / file)
    wrong = find_differences(data)
    assert list(wrong) == [asset]
    assert (wrong[asset].missing, wrong[asset].changed, wrong[asset].extra) == ([], [file], [])


def test_materializing_repairs_values_that_differ_in_bytes_alone(data, instance):
    """Neither size nor time changes: what a failing disk does, or `cp -p` of a damaged copy."""
    selection = '+key:"deep_fashion/personalized" or +key:"deep_fashion/captions"'
    assert all(result.success for result in run_selection(data, selection, instance))
    image = next((data / TREE).rglob("*.jpg"))
    captions = data / "assets/deep_fashion/captions.parquet"
    for path in (image, captions):
        times = path.stat()
        flip(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    real = build_definitions(make_settings(data))
    defs = dg.Definitions(assets=real.assets, asset_checks=real.asset_checks, resources=real.resources)
    record_results(instance, verify_values(defs, data))
    graph = defs.resolve_asset_graph()
    plan = Plan(graph, instance, select_assets(graph, selection), real.resources)
    reasons = {name_partition(key.to_user_string(), partition): why for (key, partition), why in plan.todo.items()}
    damaged = {"deep_fashion/personalized [test]", "deep_fashion/captions"}
    assert {name for name, why in reasons.items() if why == "its check sums_hold failed"} == damaged
    for run in plan:
        result = run_assets(data, dg.AssetSelection.assets(*run.keys), instance, run.partition)
        assert result.success, explain(result)
    assert not find_differences(data)


def test_only_what_is_selected_is_verified(data):
    (data / TABLE).unlink()
    (data / "tree.partial").mkdir()
    chosen = choose_assets(define(), ["inversion/coco_object_sentences", "deep_fashion/personalized"])
    found = {one.name: one.result for one in verify_values(define(), data, chosen)}
    trees = ["deep_fashion/personalized [test]", "deep_fashion/personalized [validation]"]
    assert sorted(found) == [*trees, "inversion/coco_object_sentences"]
    assert all(result.files and result.unchanged for result in found.values())
    assert find_differences(data).keys() == {"inversion/coco_object_classes", "unfinished work"}


def test_a_changed_raw_input_is_reported(data):
    archive, text = data / RAW / "train2014.zip", next((data / RAW).glob("*.txt"))
    append(text)
    archive.write_bytes(archive.read_bytes()[:-100])  # no zip any more
    wrong = find_differences(data)
    assert {name: result.changed for name, result in wrong.items()} == {
        "raw/coco_svo_triplets": [text.relative_to(data).as_posix()],
        "raw/coco_train2014": [archive.relative_to(data).as_posix()],
    }


@pytest.mark.parametrize(
    ("asset", "file"),
    [
        ("inversion/coco_object_classes", TABLE),
        ("inversion/coco_image_features [1-of-2]", IMAGES),
        ("inversion/openimages_text_features", TEXTS),
        ("palavra/object_names", NAMES),
        ("raw/coco_train2014", CARD),
    ],
)
def test_a_missing_file_is_reported(data, asset, file):
    (data / file).unlink()
    wrong = find_differences(data)
    assert list(wrong) == [asset]
    assert (wrong[asset].missing, wrong[asset].changed, wrong[asset].extra) == ([file], [], [])


def test_a_partition_that_was_never_made_is_not_missing(data):
    made = data / "assets/deep_fashion"
    for file in ("personalized/test.parquet", "imagefolder_view/test.parquet"):
        (made / file).unlink()
    wrong = set(find_differences(data))
    assert wrong == {"deep_fashion/personalized [test]"}  # the views of both splits were made of it
    for view in ("polar_view", "concon_chi_view"):
        (made / f"{view}.parquet").unlink()
    assert not find_differences(data)


def test_a_missing_raw_input_is_reported(data):
    archive = data / RAW / "train2014.zip"
    archive.unlink()
    assert verify(data)["raw/coco_train2014"].missing == [archive.relative_to(data).as_posix()]


def test_missing_changed_and_extra_files_of_a_tree_are_reported(data):
    files = sorted(path for path in (data / TREE).rglob("*.jpg"))
    files[0].unlink()
    flip(files[1])
    (data / TREE / "eval/test/.hidden").write_bytes(b"")
    wrong = find_differences(data)
    assert list(wrong) == ["deep_fashion/personalized [test]"]
    (result,) = wrong.values()
    missing, changed = (path.relative_to(data).as_posix() for path in files[:2])
    assert (result.missing, result.changed, result.extra) == ([missing], [changed], [f"{TREE}/eval/test/.hidden"])


def test_a_whole_tree_that_is_gone_is_missing(data):
    shutil.rmtree(data / TREE)
    result = verify(data)["deep_fashion/personalized [test]"]
    assert len(result.missing) == pl.read_parquet(data / LEDGER).filter(status="written").height
    assert result.missing[0].startswith(f"{TREE}/codes_infer/")


def test_unfinished_work_is_extra(data):
    (data / f"{TREE}.partial").mkdir()
    (data / f"{TREE}.partial.jsonl").write_text("")
    result = verify(data)["unfinished work"]
    assert result.extra == [f"{TREE}.partial", f"{TREE}.partial.jsonl"]


def test_annotations_are_read_again(data, tmp_path):
    own = tmp_path / "annotations"
    card = data / "assets/raw/pervl_annotations.json"
    plain = json.loads(card.read_text())
    shutil.copytree(plain["path"], own)
    card.write_text(json.dumps({**plain, "path": str(own)}))
    assert verify(data)["raw/pervl_annotations"].unchanged
    flip(own / "ytvos/ytvos_joint_captions.csv")
    assert verify(data)["raw/pervl_annotations"].changed == [str(own)]


def test_a_table_written_in_another_way_is_the_same_table(data):
    """The hash is of the content: another compression or row group size changes nothing."""
    frame = pl.read_parquet(data / TABLE)
    frame.write_parquet(data / TABLE, compression="gzip", metadata={CONTENT_SHA256: hash_frame(frame)})
    assert verify(data)["inversion/coco_object_classes"].unchanged
