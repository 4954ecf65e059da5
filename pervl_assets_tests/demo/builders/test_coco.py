import io
import re
import zipfile
from collections import Counter, defaultdict

import pytest
from PIL import Image

from pervl_assets.demo import OBJECT_CLASSES
from pervl_assets.demo.builders.coco import plan_pictures
from pervl_assets.demo.places import RARITIES
from pervl_assets.demo.scenes import CLASSES

LINE = re.compile(r"img_id=(\d+) \| ([^,|]+), ([^,|]+), ([^,|]+) \| \2 \3 \4 \| ([^|]+)")


@pytest.fixture(scope="module")
def triplets(drawn):
    text = (drawn / "inversion_model_train_data/mscoco-train2014-svo-2016-02-18.txt").read_text()
    matches = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(matches)
    return [match.groups() for match in matches]


def test_there_are_600_lines_or_more_over_240_pictures(triplets):
    assert len(triplets) >= 600
    assert len({line[0] for line in triplets}) == 240


def test_the_most_common_objects_are_the_classes_of_the_demo(triplets):
    counts = Counter([line[1] for line in triplets] + [line[3] for line in triplets])
    assert {name for name, _ in counts.most_common(OBJECT_CLASSES)} == set(CLASSES)
    assert set(counts) == {*CLASSES, *RARITIES}


def test_palavra_has_eight_pictures_or_more_of_every_class(triplets):
    images = defaultdict(set)
    for image, subject, _, other, _ in triplets:
        images[subject].add(image)
        images[other].add(image)
    assert min(len(images[name]) for name in CLASSES) >= 8
    assert max(len(images[name]) for name in RARITIES) < 8


def test_every_picture_is_in_the_archive_and_a_few_are_portraits(drawn, triplets):
    with zipfile.ZipFile(drawn / "inversion_model_train_data/train2014.zip") as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        sizes = [Image.open(io.BytesIO(archive.read(name))).size for name in sorted(names)]
    assert names == {f"train2014/COCO_train2014_{int(line[0]):012d}.jpg" for line in triplets}
    assert 1 <= sum(height > width for width, height in sizes) <= 5


def test_triplets_say_what_the_scenes_show(triplets):
    scenes = {picture.image_id: picture.scene for picture in plan_pictures(0)}
    for image, subject, _, other, sentence in triplets:
        scene = scenes[int(image)]
        shown = {figure.thing for figure in scene.figures} | {scene.place, scene.rarity}
        assert {subject, other} <= shown
        assert subject in sentence
        assert other in sentence
