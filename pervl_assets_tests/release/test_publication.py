"""What may be passed on: tables, features and files, and of trees with other people's images only the ledgers."""

import dataclasses

import mlcroissant as mlc
import pytest

from pervl_assets.release.croissant import FILE
from pervl_assets.release.publication import leave_out, write_publication
from pervl_assets.release.validation import validate_croissant, verify_files
from pervl_assets.trees.ledger import list_files
from pervl_assets_tests.release.samples import NOTES, make_release

LEDGERS = {"assets/pets/whole.parquet", "assets/pets/sets/validation.parquet", "assets/pets/sets/test.parquet"}
OTHERS = {"assets/pets/names.parquet", "names.npy", "assets/release/images.parquet"} | {
    f"assets/pets/features/{number}-of-2.parquet" for number in range(2)
}
DESCRIPTIONS = {FILE, "README.md", "LICENSE.md"}


@pytest.fixture
def release(tmp_path):
    return make_release(tmp_path / "data")


def test_trees_with_images_of_others_are_left_out_and_their_ledgers_kept(release, tmp_path):
    folder = tmp_path / "upload"
    folder.mkdir()
    write_publication(release, folder)
    assert list_files(folder) == LEDGERS | OTHERS | DESCRIPTIONS
    assert validate_croissant(folder / FILE) == ([], [])
    assert verify_files(folder / FILE).unchanged
    dataset = mlc.Dataset(jsonld=str(folder / FILE))
    assert len([*dataset.records("pets/sets/ledger")]) == 3
    assert len([*dataset.records("release/images")]) == 6 + 3
    text = (folder / "README.md").read_text()
    assert "Left out, because their images may not be passed on: pets/whole, pets/sets." in text
    assert "- config_name: pets.sets.ledger" in text
    assert "| [Photographs of pets](https://example.org/photos) |" in text


def test_trees_with_images_that_may_be_passed_on_are_kept(release, tmp_path):
    ours = [dataclasses.replace(part, sources=(NOTES,)) for part in release.parts if part.name == "pets/sets"]
    parts = [part for part in release.parts if part.name != "pets/sets"]
    given = leave_out(dataclasses.replace(release, parts=(*parts, *ours)))
    assert [part.name for part in given.trees] == ["pets/sets"]
    assert [part.name for part in given.barred] == ["pets/whole"]
    folder = tmp_path / "upload"
    folder.mkdir()
    write_publication(dataclasses.replace(release, parts=(*parts, *ours)), folder)
    images = {file for file in list_files(folder) if file.endswith(".jpg")}
    assert images == {f"pets/sets_{split}/eval/{pet}.jpg" for split, pet in (("validation", "rex_the_1st"),)} | {
        f"pets/sets_test/eval/{pet}.jpg" for pet in ("tom", "mia")
    }
    assert validate_croissant(folder / FILE) == ([], [])


def test_nothing_is_left_out_of_a_release_without_trees(release):
    tables = dataclasses.replace(release, parts=release.parts[:2])
    assert leave_out(tables) == tables
