"""Synthetic COCO: pictures of two things in a place (`train2014.zip`), and triplets that are true of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.demo.builder import Builder, RawInput
from pervl_assets.demo.drawing import encode_jpeg
from pervl_assets.demo.scenes import THINGS, Scene, compose_scene, render
from pervl_assets.demo.sentences import Fact, describe_scene
from pervl_assets.demo.zips import Member, write_zip

_PICTURES: Final = 240
_SIZES: Final = ((320, 240), (320, 256), (300, 260), (320, 240), (280, 280))
_PORTRAIT: Final = (240, 320)
_RARITIES: Final = ("sun",) * 5 + ("moon",) * 4 + ("rainbow",) * 3


@dataclass(frozen=True)
class Picture:
    """A picture of COCO: its id, its scene and facts about it."""

    image_id: int
    scene: Scene
    facts: tuple[Fact, ...]


@cache
def plan_pictures(seed: int) -> tuple[Picture, ...]:
    """Plan every picture. Each thing is the main one of ten or eleven pictures, alone in about every fifth."""
    ids = Random(f"{seed}/coco/ids").sample(range(9, 581922), _PICTURES)
    pictures = []
    for number, image_id in enumerate(ids):
        random = Random(f"{seed}/coco/{image_id}")
        thing, alone = THINGS[number % len(THINGS)], number % 5 == 4
        rarity = None
        if number % 20 == 7 and number // 20 < len(_RARITIES):
            thing, rarity = ("dog", "kite", "bird", "balloon", "airplane")[number % 3], _RARITIES[number // 20]
        size = _PORTRAIT if number % 100 == 34 else random.choice(_SIZES)
        scene = compose_scene(random, thing, alone=alone, size=size, rarity=rarity)
        pictures.append(Picture(image_id, scene, tuple(describe_scene(scene, random))))
    return tuple(pictures)


def _draw_members(seed: int) -> Iterator[Member]:
    yield "train2014/", b""
    for picture in sorted(plan_pictures(seed), key=lambda picture: picture.image_id):
        image, _ = render(picture.scene)
        yield f"train2014/COCO_train2014_{picture.image_id:012d}.jpg", encode_jpeg(image)


def _write_triplets(target: Path, seed: int) -> None:
    lines = [
        f"img_id={picture.image_id} | {fact.subject}, {fact.relation}, {fact.object} | "
        f"{fact.subject} {fact.relation} {fact.object} | {fact.sentence}\n"
        for picture in plan_pictures(seed)
        for fact in picture.facts
    ]
    Random(f"{seed}/coco/order").shuffle(lines)
    write_bytes_atomically(target, "".join(lines).encode())


_FOLDER: Final = "inversion_model_train_data"

BUILDER: Final = Builder(
    raw={
        "coco_train2014": RawInput(
            f"{_FOLDER}/train2014.zip", lambda target, seed: write_zip(target, _draw_members(seed))
        ),
        "coco_svo_triplets": RawInput(f"{_FOLDER}/mscoco-train2014-svo-2016-02-18.txt", _write_triplets),
    }
)
