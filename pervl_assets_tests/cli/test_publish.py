"""`pervl publish`: a folder for the Hub, or what would be in it."""

import re

import pytest
from click.testing import CliRunner

from pervl_assets.cli.commands import main
from pervl_assets.trees.ledger import list_files


@pytest.fixture
def run(made_world, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments: object, data=made_world.data, code: int = 0) -> str:
        monkeypatch.setenv("PERVL_DATA", str(data))
        result = CliRunner().invoke(main, ["publish", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result.output + (result.stderr if code else "")

    return call


def test_no_image_of_deep_fashion_is_published_and_the_reason_is_printed(run, tmp_path):
    folder = tmp_path / "to" / "upload"
    would_be = run("deep_fashion", "palavra", folder, "--dry-run")
    assert not folder.exists()
    assert "left out, as with the real images, which may not be passed on" in would_be
    assert re.search(r"personalized +[0-9]+ +[0-9.]+ MB +DeepFashion2\n", would_be)
    assert re.search(rf"[0-9]+ parts of deep_fashion palavra, [0-9.]+ [kM]B, would be in {folder}\n", would_be)
    assert "hf upload" not in would_be
    printed = run("deep_fashion", "palavra", folder, "--wide")
    assert "CC-BY-NC-SA-4.0; terms of DeepFashion2" in printed
    assert f" are in {folder}\n" in printed
    assert f"\n  hf upload YOU/pervl {folder} --repo-type dataset --private\n" in printed
    files = list_files(folder)
    assert not [file for file in files if file.endswith((".jpg", ".png"))]
    assert {"README.md", "LICENSE.md", "croissant.json", "assets/deep_fashion/captions.parquet"} <= files
    assert "assets/deep_fashion/personalized/test.parquet" in files  # a ledger
    assert "inversion_model_train_data/txt_for_training/obj_names_only.npy" in files
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_a_folder_with_other_files_is_refused(run, tmp_path):
    (tmp_path / "secret.txt").touch()
    assert "is not empty" in run("deep_fashion", tmp_path, code=1)


def test_a_damaged_value_is_not_published(run, made_world, tmp_path):
    data = made_world.copy_to(tmp_path / "data")
    (data / "inversion_model_train_data/txt_for_training/obj_names_only.npy").write_bytes(b"damaged")
    shown = run("palavra", tmp_path / "upload", data=data, code=1)
    assert "1 file of what would be published: missing or damaged" in shown
    assert "obj_names_only.npy" in shown
    assert not (tmp_path / "upload").exists()


def test_a_forgotten_folder_is_not_taken_from_the_selection(run):
    assert "Name what to publish: SELECTION FOLDER" in run("ytvos", code=2)


def test_nothing_to_publish_is_an_error_with_advice(run, tmp_path):
    assert "raw has only raw inputs" in run("raw", tmp_path / "upload", code=1)
    assert "There is nothing to release" in run("ytvos", tmp_path / "upload", data=tmp_path / "data", code=1)
