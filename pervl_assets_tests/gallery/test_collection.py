"""What the gallery shows of a split: every image of its ledgers, with captions, places, map and neighbours."""

from dataclasses import replace

from pervl_assets.gallery.collection import Caption, Outline, collect
from pervl_assets_tests.gallery.samples import BOX, make_source


def test_every_image_of_the_ledgers_is_there_also_those_that_are_not_on_disk(tmp_path):
    source = make_source(tmp_path)
    collection = collect(source)
    paths = [picture.path for picture in collection.pictures]
    assert sorted(paths) == sorted([*source.tree.ledger["path"], "frame.jpg"])
    (left_out,) = [picture for picture in collection.pictures if picture.fault]
    assert (left_out.path, left_out.file) == ("codes_infer/ben_blue/2.jpg", None)
    assert left_out.fault == "quarantined: no JPEG"
    assert [picture.role for picture in collection.pictures[:4]] == ["evaluation", "frame", "few-shot", "few-shot"]
    assert collection.title == "PerVL-Mugs, test"
    assert collection.classes == {"anna_red": "coffee mug", "ben_blue": "no class", "cleo_green": "no class"}


def test_captions_have_the_places_of_the_first_seed_by_method(tmp_path):
    shown = {picture.path: picture for picture in collect(make_source(tmp_path, "a * mug")).pictures}
    assert shown["eval/test/anna_red.jpg"].captions == (
        Caption("short", "a * mug", {"Text only": 1, "PALAVRA": 1}),
        Caption("detailed", "a * mug", {}),
    )
    assert shown["eval/test/ben_blue.jpg"].captions[0].places == {"Text only": 1, "PALAVRA": 3}
    assert shown["codes_infer/anna_red/0.jpg"].captions == ()


def test_the_frame_has_box_and_mask(tmp_path):
    frames = [picture for picture in collect(make_source(tmp_path)).pictures if picture.role == "frame"]
    assert [picture.outline for picture in frames] == [Outline(BOX, (40, 30), tmp_path / "frames/mask.png")]


def test_the_nearest_image_is_of_the_same_concept_and_images_without_vector_are_not_on_the_map(tmp_path):
    collection = collect(make_source(tmp_path))
    placed = [picture for picture in collection.pictures if picture.point]
    assert len(placed) == 6
    for picture in placed:
        numbers = [number for number, _ in picture.nearest]
        assert len(numbers) == 5
        nearest = collection.pictures[numbers[0]]
        assert (nearest.concept, nearest.role != picture.role) == (picture.concept, True)
    assert collection.model == "fake"


def test_images_alone_are_enough(tmp_path):
    collection = collect(replace(make_source(tmp_path), framed=(), features=None, ranks=None))
    assert len(collection.pictures) == 10
    assert not collection.model
    assert all(caption.places == {} for picture in collection.pictures for caption in picture.captions)
