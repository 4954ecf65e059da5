"""The demo data as folders: all inputs or one, generated once, copied for tests that change them."""

import json

import pytest

from pervl_assets.demo import RAW_NAMES
from pervl_assets.testing.worlds import copy_raw, draw_world, locate_raw


def list_files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_raw_input_is_at_its_path(synthetic_raw, data):
    paths = {locate_raw(synthetic_raw, name) for name in RAW_NAMES}
    assert {path for path in synthetic_raw.rglob("*") if path.is_file()} == paths
    assert list_files(data) == list_files(synthetic_raw)


def test_a_test_changes_only_its_copy(synthetic_raw, data, one_archive):
    before = locate_raw(synthetic_raw, "coco_svo_triplets").read_bytes()
    locate_raw(data, "coco_svo_triplets").write_text("changed")
    one_archive("coco_svo_triplets").write_text("changed, too")
    assert locate_raw(synthetic_raw, "coco_svo_triplets").read_bytes() == before


def test_only_the_named_input_is_generated(tmp_path):
    world = draw_world(tmp_path / "world", ["openimages_class_descriptions"])
    assert list_files(world) == {"inversion_model_train_data/oidv6-class-descriptions.csv"}
    copy = copy_raw("openimages_class_descriptions", world, tmp_path / "other")
    assert copy == locate_raw(tmp_path / "other", "openimages_class_descriptions")
    assert copy.read_bytes() == locate_raw(world, "openimages_class_descriptions").read_bytes()


def test_an_unknown_input_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="flickr30k"):
        locate_raw(tmp_path, "flickr30k")


def test_a_copy_of_a_made_world_is_independent(made_world, tmp_path):
    data = made_world.copy_to(tmp_path / "data")
    assert list_files(data) == list_files(made_world.data)
    for card in (data / "assets/raw").glob("*.json"):
        assert str(made_world.data) not in json.dumps(json.loads(card.read_text()))
