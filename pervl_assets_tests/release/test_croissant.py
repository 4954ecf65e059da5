"""The description of a release, as mlcroissant reads it."""

import dataclasses
import fnmatch
import json
from collections import Counter

import mlcroissant as mlc
import numpy as np
import polars as pl
import pytest

from pervl_assets.core.errors import MissingInputError, SchemaError
from pervl_assets.core.files import hash_file
from pervl_assets.release.croissant import CONFORMS_TO, FILE, build_croissant, encode_croissant
from pervl_assets.release.images import group_images
from pervl_assets.release.parts import Release, TablePart
from pervl_assets.release.validation import validate_croissant, verify_files
from pervl_assets_tests.release.samples import (
    ARCHIVE,
    CAPTION_OF,
    CLASS_OF,
    NOTES,
    PASSPORT,
    SPLIT_OF,
    make_part,
    make_release,
    make_tree,
)


@pytest.fixture
def release(tmp_path) -> Release:
    return make_release(tmp_path / "data")


@pytest.fixture
def description(release) -> dict:
    description = build_croissant(release)
    (release.root / FILE).write_bytes(encode_croissant(description))
    return description


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


def find(description: dict, kind: str, name: str) -> dict:
    (found,) = (node for node in description[kind] if node["@id"] == name)
    return found


def test_mlcroissant_finds_no_error_and_no_warning(release, description):
    assert validate_croissant(release.root / FILE) == ([], [])
    assert description["conformsTo"] == CONFORMS_TO
    assert mlc.Dataset(jsonld=description).metadata.name == "PerVL"


def test_invalid_descriptions_are_errors(release, description):
    del description["distribution"][0]["encodingFormat"]
    del description["license"]
    (release.root / FILE).write_bytes(encode_croissant(description))
    assert any("encodingFormat" in error for error in validate_croissant(release.root / FILE)[0])
    for text in ("{", "[]", '{"distribution": []}'):
        (release.root / FILE).write_text(text)
        assert validate_croissant(release.root / FILE)[0]
    with pytest.raises(FileNotFoundError):
        validate_croissant(release.root / "elsewhere.json")


def test_a_missing_recommended_property_is_a_warning(release, description):
    del description["license"]
    (release.root / FILE).write_bytes(encode_croissant(description))
    errors, warnings = validate_croissant(release.root / FILE)
    assert not errors
    assert any("license" in warning for warning in warnings)


def test_every_file_has_its_size_and_sha256(release, description):
    objects = [node for node in description["distribution"] if node["@type"] == "cr:FileObject"]
    assert len(objects) == 1 + 2 + 1 + 2 + 1 + 1 + 1
    for node in objects:
        path = release.root / node["contentUrl"]
        assert node["sha256"] == hash_file(path)
        assert node["contentSize"] == f"{path.stat().st_size} B"


def test_rows_of_a_table_are_read_with_their_types(release, description):
    rows = read(release, "pets/names")
    assert [(row["pet"], row["split"], row["age"]) for row in rows] == [
        (pet, split, age) for (pet, split), age in zip(SPLIT_OF.items(), (3, 4, 5), strict=True)
    ]
    assert rows[1]["frames"] == [b"2", b"3"]
    assert isinstance(rows[0]["age"], np.uint8)
    frames = find(find(description, "recordSet", "pets/names"), "field", "pets/names/frames")
    assert (frames["dataType"], frames["isArray"], frames["arrayShape"]) == ("sc:Text", True, "-1")


def test_images_are_read_with_concept_class_split_and_caption(release, description):
    for name in ("pets/whole/crop", "pets/sets/copy"):
        rows = read(release, name)
        assert Counter(row["concept"] for row in rows) == dict.fromkeys(SPLIT_OF, 2 if name == "pets/whole/crop" else 1)
        for row in rows:
            labels = {"split": SPLIT_OF, "class_name": CLASS_OF, "caption": CAPTION_OF}
            assert {field: row[field] for field in labels} == {
                field: values[row["concept"]] for field, values in labels.items()
            }
            assert row["rule"] == name.rpartition("/")[2]
            assert row["image"].size == (24, 16)
            assert (release.root / row["path"]).is_file()
    (field,) = (node for node in find(description, "recordSet", name)["field"] if node["name"] == "split")
    assert field["references"] == {"field": {"@id": "splits/name"}}


def test_the_table_of_images_has_one_row_per_image(release, description):
    rows = read(release, "images")
    assert len(rows) == 6 + 3
    assert {row["path"]: row["split"] for row in rows if row["tree"] == "pets/sets"} == {
        f"pets/sets_{split}/eval/{pet}.jpg": split for pet, split in SPLIT_OF.items()
    }


def test_features_are_arrays_with_their_dimension_and_passport(release, description):
    rows = read(release, "pets/features")
    assert [row["id"] for row in rows] == ["0 ", "x", "1 ", "x"]
    assert np.array(rows[2]["vector"]).tolist() == [1, 2, 3, 4]
    vector = find(find(description, "recordSet", "pets/features"), "field", "pets/features/vector")
    assert (vector["dataType"], vector["isArray"], vector["arrayShape"]) == ("cr:Float32", True, "4")
    assert read(release, "embedding_passports") == [{"features": "pets/features", **PASSPORT}]


def test_ledgers_are_read_with_the_sha256_of_every_file(release, description):
    rows = {
        name: read(release, f"pets/{name}") for name in ("whole/ledger", "sets/ledger/validation", "sets/ledger/test")
    }
    assert [len(found) for found in rows.values()] == [7, 1, 2]
    assert [row["path"] for row in rows["sets/ledger/validation"]] == ["eval/rex_the_1st.jpg"]
    crop = next(row for row in rows["whole/ledger"] if row["path"] == "train/tom/tom_00001.jpg")
    assert crop["sha256"] == hash_file(release.root / "pets/whole/train/tom/tom_00001.jpg")


def test_splits_are_croissants_own(release, description):
    splits = find(description, "recordSet", "splits")
    assert splits["dataType"] == "cr:Split"
    assert {row["name"]: row["url"].rpartition("/")[2] for row in read(release, "splits")} == {
        "test": "TestSplit",
        "validation": "ValidationSplit",
    }


def test_licences_of_the_inputs_are_carried_to_the_outputs(description):
    crops = find(description, "distribution", "files/pets/whole/crop")
    assert crops["license"] == ["https://spdx.org/licenses/CC-BY-4.0", "see the owners"]
    assert crops["isBasedOn"] == [NOTES.homepage, ARCHIVE.homepage]
    assert find(description, "distribution", "assets/pets/names.parquet")["license"] == [
        "https://spdx.org/licenses/CC-BY-4.0"
    ]
    assert "license" not in find(description, "distribution", "names.npy")
    for name in ("pets/whole/crop", "pets/whole/ledger", "pets/features"):
        assert "Photographs of pets (licence: see the owners)" in find(description, "recordSet", name)["description"]
    licences = {entry["name"]: entry for entry in description["license"]}
    assert set(licences) == {"CC-BY-4.0", "see the owners"}
    assert licences["see the owners"]["url"] == ARCHIVE.homepage
    assert "pets/features, pets/whole, pets/sets" in licences["see the owners"]["description"]
    assert "pets/names" not in licences["see the owners"]["description"]


def test_the_same_release_has_the_same_bytes_in_any_folder(tmp_path, release, description):
    moved = make_release(tmp_path / "run [1] *?%20#")
    assert encode_croissant(build_croissant(moved)) == (release.root / FILE).read_bytes()


def test_changed_content_changes_the_version(release, description):
    frame = pl.read_parquet(release.root / "assets/pets/names.parquet")
    frame.head(2).write_parquet(release.root / "assets/pets/names.parquet")
    again = build_croissant(release)
    assert again["version"] != description["version"]
    assert description["version"].startswith("1.2.3+")


@pytest.mark.parametrize("file", ["assets/pets/names.parquet", "names.npy", "assets/pets/sets/test.parquet"])
def test_a_changed_byte_is_found(release, description, file):
    assert verify_files(release.root / FILE).unchanged
    content = bytearray((release.root / file).read_bytes())
    content[len(content) // 2] ^= 1
    (release.root / file).write_bytes(content)
    difference = verify_files(release.root / FILE)
    assert (difference.missing, difference.changed) == ([], [file])
    (release.root / file).unlink()
    assert verify_files(release.root / FILE).missing == [file]


def test_mlcroissant_refuses_a_changed_table(release, description):
    file = release.root / "assets/pets/names.parquet"
    pl.read_parquet(file).head(1).write_parquet(file)
    with pytest.raises(mlc.GenerationError) as caught:
        read(release, "pets/names")
    assert "is not identical with the reference" in str(caught.value.__cause__)


def test_absent_results_are_named(tmp_path):
    description = build_croissant(make_release(tmp_path, absent=("pets/more [1-of-2]", "pets/most")))
    assert "Incomplete: 2 results not materialized" in description["description"]
    assert "pets/more [1-of-2], pets/most" in description["description"]
    assert "pets/most" in description["rai:dataCollectionMissingData"]


def test_quarantined_files_are_counted(release):
    (part,) = (part for part in release.parts if part.name == "pets/whole")
    rows = part.trees[0].rows.with_columns(
        status=pl.when(pl.col("concept") == "tom").then(pl.lit("quarantined")).otherwise("status")
    )
    part = dataclasses.replace(part, trees=(dataclasses.replace(part.trees[0], rows=rows),))
    description = build_croissant(dataclasses.replace(release, parts=(part,)))
    assert "pets/whole: 2 files quarantined, 0 missing" in description["rai:dataCollectionMissingData"]
    assert "4 files" in find(description, "distribution", "files/pets/whole/crop")["description"]


def test_a_synthetic_release_is_described_as_such(tmp_path):
    description = build_croissant(make_release(tmp_path, synthetic=True))
    assert description["name"] == "PerVL, synthetic demo data"
    assert "Nothing here is the published data" in description["description"]


def test_an_empty_release_is_an_error(release):
    with pytest.raises(MissingInputError, match="none of 1 results is materialized"):
        build_croissant(dataclasses.replace(release, parts=(), absent=("pets/names",)))


def test_a_column_without_a_croissant_type_is_named(release):
    file = "assets/pets/odd.parquet"
    pl.DataFrame({"odd": [{"a": 1}]}).write_parquet(release.root / file)
    part = TablePart("pets/odd", "", (), (file,), {})
    with pytest.raises(SchemaError, match="The column pets/odd/odd is Struct"):
        build_croissant(dataclasses.replace(release, parts=(part,)))


def test_the_file_is_indented_json(release, description):
    text = (release.root / FILE).read_text()
    assert json.loads(text) == description
    assert text.startswith('{\n "@context"')
    assert "cohen2022unicorn" in description["citeAs"]


@pytest.mark.parametrize(
    ("files", "groups"),
    [
        (
            [("a/rex/1.jpg", "rex", "crop"), ("a/tom/2.jpg", "tom", "crop"), ("b/1.png", "rex", "mask")],
            {"crop": ("pets/[[]x]/a/*.jpg", 2), "mask": ("pets/[[]x]/b/*.png", 1)},
        ),
        (  # two rules in one folder, and nested folders
            [("i/1.jpg", "rex", "crop"), ("i/2.jpg", "rex", "frame"), ("i/deep/3.jpg", "rex", "zoom")],
            {"crop_and_frame_and_zoom": ("pets/[[]x]/i/*.jpg", 3)},
        ),
        (  # two types of one rule
            [("1.jpg", "a", "r"), ("y/2.jpg", "a", "r"), ("1.png", "a", "r"), ("all.yaml", "", "summary")],
            {"r": ("pets/[[]x]/*.jpg", 2), "r.png": ("pets/[[]x]/*.png", 1)},
        ),
    ],
)
def test_images_are_grouped_by_rule_unless_their_folders_overlap(tmp_path, files, groups):
    tree = make_tree(tmp_path, "pets/[x]", "ledger.parquet", files)
    found = group_images(make_part("pets/tree", tree))
    assert {group.name.removeprefix("pets/tree/"): (group.patterns[0], group.count) for group in found} == groups
    assert all(len(group.patterns) == 1 for group in found)
    for group in found:
        matching = [path for path, *_ in files if fnmatch.fnmatchcase(f"pets/[x]/{path}", group.patterns[0])]
        assert len(matching) == group.count
