"""What a release is told to be, as mlcroissant itself reads it."""

import dataclasses
import json
from collections import Counter

import mlcroissant as mlc
import numpy as np
import polars as pl
import pytest

from pervl_assets.core.errors import MissingInputError, SchemaError
from pervl_assets.core.files import hash_file
from pervl_assets.release.croissant import CONFORMS_TO, FILE, build_croissant, encode_croissant, write_croissant
from pervl_assets.release.parts import Release, TablePart
from pervl_assets.release.validation import validate_croissant, verify_files
from pervl_assets_tests.release.samples import ARCHIVE, NOTES, PASSPORT, SPLIT_OF, make_release


@pytest.fixture
def release(tmp_path) -> Release:
    return make_release(tmp_path / "data")


@pytest.fixture
def told(release) -> dict:
    told = build_croissant(release)
    write_croissant(told, release.root / FILE)
    return told


def read(release: Release, record_set: str) -> list[dict]:
    """Return the records of a record set, fields by their short names, texts as texts."""
    dataset = mlc.Dataset(jsonld=str(release.root / FILE))
    return [
        {
            name.removeprefix(f"{record_set}/"): value.decode() if isinstance(value, bytes) else value
            for name, value in row.items()
        }
        for row in dataset.records(record_set)
    ]


def find(told: dict, kind: str, name: str) -> dict:
    (found,) = (node for node in told[kind] if node["@id"] == name)
    return found


def test_the_library_finds_nothing_wrong(release, told):
    found = validate_croissant(release.root / FILE)
    assert (found.errors, found.warnings) == ((), ())
    assert told["conformsTo"] == CONFORMS_TO
    assert mlc.Dataset(jsonld=told).metadata.name == "PerVL"


def test_the_library_is_asked(release, told):
    del told["distribution"][0]["encodingFormat"]
    del told["license"]
    write_croissant(told, release.root / FILE)
    assert any("encodingFormat" in error for error in validate_croissant(release.root / FILE).errors)
    for text in ("{", "[]", '{"distribution": []}'):
        (release.root / FILE).write_text(text)
        assert validate_croissant(release.root / FILE).errors
    with pytest.raises(FileNotFoundError):
        validate_croissant(release.root / "elsewhere.json")


def test_what_the_library_would_like_is_a_warning(release, told):
    del told["license"]
    write_croissant(told, release.root / FILE)
    found = validate_croissant(release.root / FILE)
    assert not found.errors
    assert any("license" in warning for warning in found.warnings)


def test_every_file_has_its_size_and_sha256(release, told):
    objects = [node for node in told["distribution"] if node["@type"] == "cr:FileObject"]
    assert len(objects) == 1 + 2 + 1 + 2 + 1 + 1
    for node in objects:
        path = release.root / node["contentUrl"]
        assert node["sha256"] == hash_file(path)
        assert node["contentSize"] == f"{path.stat().st_size} B"


def test_rows_of_a_table_are_read_with_their_types(release, told):
    rows = read(release, "pets/names")
    assert [(row["pet"], row["split"], row["age"]) for row in rows] == [
        (pet, split, age) for (pet, split), age in zip(SPLIT_OF.items(), (3, 4, 5), strict=True)
    ]
    assert rows[1]["frames"] == [b"2", b"3"]
    assert isinstance(rows[0]["age"], np.uint8)
    frames = find(find(told, "recordSet", "pets/names"), "field", "pets/names/frames")
    assert (frames["dataType"], frames["isArray"], frames["arrayShape"]) == ("sc:Text", True, "-1")


def test_pictures_are_read_with_concept_and_split(release, told):
    rows = read(release, "pets/whole/crop")
    assert Counter(row["concept"] for row in rows) == dict.fromkeys(SPLIT_OF, 2)
    assert all(row["split"] == SPLIT_OF[row["concept"]] for row in rows)  # joined from the table
    assert all(row["image"].size == (24, 16) for row in rows)
    assert {row["path"] for row in rows} == {
        f"pets/whole/train/{pet}/{pet}_{n:05d}.jpg" for pet in SPLIT_OF for n in range(2)
    }
    rows = read(release, "pets/sets/copy")
    assert {row["concept"]: row["split"] for row in rows} == SPLIT_OF  # told by the paths
    assert {row["path"] for row in rows} == {f"pets/sets_{split}/eval/{pet}.jpg" for pet, split in SPLIT_OF.items()}


def test_the_pictures_of_one_split_can_be_asked_for(release, told):
    dataset = mlc.Dataset(jsonld=str(release.root / FILE))
    rows = list(dataset.records("pets/sets/copy", filters={"pets/sets/copy/split": "test"}))
    assert {row["pets/sets/copy/concept"] for row in rows} == {b"tom", b"mia"}


def test_features_are_arrays_with_their_dimension_and_passport(release, told):
    rows = read(release, "pets/features")
    assert [row["id"] for row in rows] == ["0 ", "x", "1 ", "x"]
    assert np.array(rows[2]["vector"]).tolist() == [1, 2, 3, 4]
    vector = find(find(told, "recordSet", "pets/features"), "field", "pets/features/vector")
    assert (vector["dataType"], vector["isArray"], vector["arrayShape"]) == ("cr:Float32", True, "4")
    assert read(release, "embedding_passports") == [{"features": "pets/features", **PASSPORT}]


def test_ledgers_are_read_with_the_sha256_of_every_file(release, told):
    rows = [row for name in ("pets/whole/ledger", "pets/sets/ledger") for row in read(release, name)]
    assert len(rows) == 7 + 3
    assert {row["path"]: row["split"] for row in rows if "split" in row} == {
        f"eval/{pet}.jpg": split for pet, split in SPLIT_OF.items()
    }
    crop = next(row for row in rows if row["path"] == "train/tom/tom_00001.jpg")
    assert crop["sha256"] == hash_file(release.root / "pets/whole/train/tom/tom_00001.jpg")


def test_splits_are_croissants_own(release, told):
    splits = find(told, "recordSet", "splits")
    assert splits["dataType"] == "cr:Split"
    assert {row["name"]: row["url"].rpartition("/")[2] for row in read(release, "splits")} == {
        "test": "TestSplit",
        "validation": "ValidationSplit",
    }


def test_licences_of_the_inputs_are_carried_to_the_outputs(told):
    crops = find(told, "distribution", "files/pets/whole/crop")
    assert crops["license"] == ["https://spdx.org/licenses/CC-BY-4.0", "see the owners"]
    assert crops["isBasedOn"] == [NOTES.homepage, ARCHIVE.homepage]
    assert find(told, "distribution", "assets/pets/names.parquet")["license"] == ["https://spdx.org/licenses/CC-BY-4.0"]
    assert "license" not in find(told, "distribution", "names.npy")
    for name in ("pets/whole/crop", "pets/whole/ledger", "pets/features"):
        assert "Photographs of pets (licence: see the owners)" in find(told, "recordSet", name)["description"]
    licences = {entry["name"]: entry for entry in told["license"]}
    assert set(licences) == {"CC-BY-4.0", "see the owners"}
    assert licences["see the owners"]["url"] == ARCHIVE.homepage
    assert "pets/features, pets/whole, pets/sets" in licences["see the owners"]["description"]
    assert "pets/names" not in licences["see the owners"]["description"]


def test_the_same_release_gives_the_same_bytes_anywhere(tmp_path, release, told):
    moved = make_release(tmp_path / "another place")
    assert encode_croissant(build_croissant(moved)) == (release.root / FILE).read_bytes()


def test_another_content_is_another_version(release, told):
    frame = pl.read_parquet(release.root / "assets/pets/names.parquet")
    frame.head(2).write_parquet(release.root / "assets/pets/names.parquet")
    again = build_croissant(release)
    assert again["version"] != told["version"]
    assert told["version"].startswith("1.2.3+")


@pytest.mark.parametrize("file", ["assets/pets/names.parquet", "names.npy", "assets/pets/sets/test.parquet"])
def test_a_changed_byte_is_found(release, told, file):
    assert verify_files(release.root / FILE)
    content = bytearray((release.root / file).read_bytes())
    content[len(content) // 2] ^= 1
    (release.root / file).write_bytes(content)
    verdict = verify_files(release.root / FILE)
    assert (verdict.missing, verdict.changed) == ([], [file])
    (release.root / file).unlink()
    assert verify_files(release.root / FILE).missing == [file]


def test_the_library_refuses_a_changed_table(release, told):
    file = release.root / "assets/pets/names.parquet"
    pl.read_parquet(file).head(1).write_parquet(file)
    with pytest.raises(mlc.GenerationError) as caught:
        read(release, "pets/names")
    assert "is not identical with the reference" in str(caught.value.__cause__)


def test_what_is_left_out_is_named(tmp_path):
    told = build_croissant(make_release(tmp_path, absent=("pets/more [1-of-2]", "pets/most")))
    assert "Not whole: 2 results are not materialized" in told["description"]
    assert "pets/more [1-of-2], pets/most" in told["description"]
    assert "pets/most" in told["rai:dataCollectionMissingData"]


def test_quarantined_files_are_counted(release):
    (part,) = (part for part in release.parts if part.name == "pets/whole")
    rows = part.trees[0].rows.with_columns(
        status=pl.when(pl.col("concept") == "tom").then(pl.lit("quarantined")).otherwise("status")
    )
    part = dataclasses.replace(part, trees=(dataclasses.replace(part.trees[0], rows=rows),))
    told = build_croissant(dataclasses.replace(release, parts=(part,)))
    assert "pets/whole: 2 files quarantined, 0 missing" in told["rai:dataCollectionMissingData"]
    assert "4 files" in find(told, "distribution", "files/pets/whole/crop")["description"]


def test_a_drawn_release_says_so(tmp_path):
    told = build_croissant(make_release(tmp_path, drawn=True))
    assert told["name"] == "PerVL, drawn in miniature"
    assert "nothing here is the published data" in told["description"]


def test_nothing_cannot_be_released(release):
    with pytest.raises(MissingInputError, match="none of 1 results is materialized"):
        build_croissant(dataclasses.replace(release, parts=(), absent=("pets/names",)))


def test_a_column_without_a_croissant_type_is_named(release):
    file = "assets/pets/odd.parquet"
    pl.DataFrame({"odd": [{"a": 1}]}).write_parquet(release.root / file)
    part = TablePart("pets/odd", "", (), file, {})
    with pytest.raises(SchemaError, match="The column pets/odd/odd is Struct"):
        build_croissant(dataclasses.replace(release, parts=(part,)))


def test_the_file_is_json_for_people(release, told):
    text = (release.root / FILE).read_text()
    assert json.loads(text) == told
    assert text.startswith('{\n "@context"')
    assert "cohen2022unicorn" in told["citeAs"]
