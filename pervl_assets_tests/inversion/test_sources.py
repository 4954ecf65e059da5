import pytest

from pervl_assets.archives.inputs import find_archive
from pervl_assets.archives.members import open_members
from pervl_assets.core.errors import MissingInputError
from pervl_assets.inversion.sources import (
    ARCHIVES,
    COCO_TRAIN2014,
    locate_image,
)
from pervl_assets_tests.inversion.kit import draw_jpeg, draw_raw_kit, write_coco


@pytest.mark.parametrize("spec", ARCHIVES, ids=lambda spec: spec.name)
def test_the_error_of_a_missing_input_has_address_and_path(spec, tmp_path):
    with pytest.raises(MissingInputError) as error:
        find_archive(spec, tmp_path)
    for part in (spec.title, spec.homepage, spec.licence, spec.disk, str(tmp_path / spec.file)):
        assert part in str(error.value)


@pytest.mark.parametrize("image_id", ["57870 ", "57870", "57870\t", "57870  ", " 57870 "])
def test_spaces_around_an_id_do_not_change_the_image(image_id):
    assert locate_image(image_id) == "train2014/COCO_train2014_000000057870.jpg"


def test_an_unzipped_folder_has_the_archives_members(tmp_path):
    zipped = write_coco(tmp_path / "train2014.zip", {"57870 ": draw_jpeg(0)})
    folder = tmp_path / COCO_TRAIN2014.folders[0]
    folder.mkdir(parents=True)
    (folder / "COCO_train2014_000000057870.jpg").write_bytes(draw_jpeg(0))
    unzipped = open_members(find_archive(COCO_TRAIN2014, tmp_path))
    name = locate_image("57870 ")
    assert set(unzipped.names) == set(zipped.names) == {name}
    assert unzipped.crc32(name) == zipped.crc32(name)


def test_the_inputs_of_the_raw_kit_are_found(tmp_path):
    root = draw_raw_kit(tmp_path, "svo", "coco", "oid")
    found = [find_archive(spec, root).card for spec in ARCHIVES]
    assert [card.kind for card in found] == ["zip", "file", "file"]
    assert found[0].members > 200
