import csv
import json
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pervl_assets.demo import DEMO_PASSWORD
from pervl_assets.demo.builders.deep_fashion import plan_pictures
from pervl_assets.demo.creatures import GARMENTS
from pervl_assets.demo.drawing import COLOURS
from pervl_assets.demo.places import PLACES
from pervl_assets.demo.scenes import render

CAPTION_FILES = (
    "validation_captions.csv",
    "test_captions.csv",
    "shortened_deepfashion2_captions.csv",
    "detailed_deepfashion2_captions.csv",
)


@pytest.fixture(scope="module")
def archive(drawn):
    with zipfile.ZipFile(drawn / "deep_fashion2/train.zip") as archive:
        archive.setpassword(DEMO_PASSWORD.encode())
        yield archive


def read_rows(drawn, name):
    with (drawn / "annotations/deep_fashion" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def read_split(drawn, split):
    blocks = (drawn / f"annotations/deep_fashion/{split}_fsl_train.txt").read_text().split("\n\n")
    pairs = {}
    for block in blocks:
        head, *images = block.strip().split("\n")
        assert head.startswith("codes_infer/")
        assert head.endswith(":")
        pairs[head.removeprefix("codes_infer/").removesuffix(":")] = images
    return pairs


def test_every_file_of_the_archive_is_encrypted_and_whole(archive):
    assert all(info.flag_bits & 1 for info in archive.infolist() if not info.is_dir())
    assert archive.testzip() is None
    assert {name.rsplit("/", 1)[0] for name in archive.namelist()} == {"train", "train/image", "train/annos"}


def test_ten_pairs_per_split_with_separate_images(drawn, archive):
    seen = []
    for split in ("validation", "test"):
        pairs = read_split(drawn, split)
        assert len(pairs) == 10
        assert list(pairs) == sorted(pairs)
        evaluated = read_rows(drawn, f"{split}_captions.csv")
        assert {row["pair_id"] for row in evaluated} == set(pairs)
        few_shot = [f"train/image/{image}" for images in pairs.values() for image in images]
        assert all(5 <= len(images) <= 6 for images in pairs.values())
        seen += few_shot + [row["image_name"] for row in evaluated]
    assert len(seen) == len(set(seen))
    assert set(seen) < set(archive.namelist())


def test_caption_sets_cover_the_evaluation_images_and_some_others(drawn):
    rows = {name: read_rows(drawn, name) for name in CAPTION_FILES}
    joint = {row["image_name"] for row in rows[CAPTION_FILES[2]]}
    assert joint == {row["image_name"] for row in rows[CAPTION_FILES[3]]}
    evaluated = {row["image_name"] for name in CAPTION_FILES[:2] for row in rows[name]}
    assert evaluated < joint
    detailed = {row["image_name"]: row["caption"] for row in rows[CAPTION_FILES[3]]}
    for name in CAPTION_FILES[:2]:
        assert all(detailed[row["image_name"]] == row["caption"] for row in rows[name])
    for name in CAPTION_FILES:
        assert all("person" in row["caption"] for row in rows[name])


def test_json_notes_name_the_pair_and_its_garment(drawn, archive):
    names = {
        row["unique_pair_ids"]: row["pair_id_categories"] for row in read_rows(drawn, "train_coarse_grained_names.csv")
    }
    for picture in plan_pictures(0):
        note = json.loads(archive.read(f"train/annos/{picture.number:06d}.json"))
        assert names[str(note["pair_id"])] == note["item1"]["category_name"]
        assert GARMENTS[note["item1"]["category_id"] - 1] == note["item1"]["category_name"]
        with archive.open(picture.member) as file:  # only its beginning is decrypted, which Python does slowly
            width, height = Image.open(file).size
        x0, y0, x1, y1 = note["item1"]["bounding_box"]
        assert 0 <= x0 < x1 < width
        assert 0 <= y0 < y1 < height


def test_captions_are_true_of_the_pictures():
    for picture in plan_pictures(0)[::5]:
        companion, _person = picture.scene.figures
        assert companion.thing in picture.detailed
        assert companion.look.colour in picture.detailed
        _, mask = render(picture.scene)
        thing_x, person_x = (np.argwhere(mask == instance)[:, 1].mean() for instance in (1, 2))
        person_is_left = person_x < thing_x
        if "person stands to the left" in picture.detailed or "to the right of the person" in picture.detailed:
            assert person_is_left
        if "person stands to the right" in picture.detailed or "to the left of the person" in picture.detailed:
            assert not person_is_left


def test_a_pair_wears_one_garment_in_different_places():
    pictures = plan_pictures(0)
    for pair in {picture.pair for picture in pictures}:
        mine = [picture for picture in pictures if picture.pair == pair]
        outfits = [picture.scene.figures[1].look.outfit for picture in mine]
        assert len({(outfit.category, outfit.colour, outfit.marking) for outfit in outfits}) == 1
        assert len({picture.scene.place for picture in mine}) == 5


def test_a_short_caption_without_its_concept_fits_several_pairs():
    """Else retrieval by text alone would find the picture, and a learned concept could not be better."""
    evaluated = [picture for picture in plan_pictures(0) if picture.role == "evaluation" and picture.split]
    rivals = Counter((picture.split, picture.category, picture.scene.place) for picture in evaluated)
    assert set(rivals.values()) == {5}
    colours = {(p.split, p.category, p.scene.place, p.scene.figures[1].look.colour) for p in evaluated}
    assert len(colours) == len(evaluated)
    assert all(PLACES[picture.scene.place].phrase in picture.short for picture in evaluated)
    assert not any(colour in picture.short for picture in evaluated for colour in COLOURS)
