"""Synthetic DeepFashion2: people who wear the same garment in different places, an encrypted archive, annotations."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.core.tables import encode_csv
from pervl_assets.demo.builder import Builder, RawInput
from pervl_assets.demo.creatures import GARMENTS
from pervl_assets.demo.drawing import Marking, encode_jpeg
from pervl_assets.demo.places import PLACES
from pervl_assets.demo.scenes import Figure, Scene, choose_look, dress_person, render
from pervl_assets.demo.sentences import add_article, describe
from pervl_assets.demo.zips import Member, write_zip

DEMO_PASSWORD: Final = "fluffy-the-unicorn"  # noqa: S105 - the public password of a synthetic archive
"""Password of the synthetic DeepFashion2 archive."""

_SPLITS: Final = ("validation", "test")
_CATEGORIES: Final = 2  # of garments in a split
_RIVALS: Final = 5  # pairs of a category and split: they differ in colour and marking
_PAIRS: Final = _CATEGORIES * _RIVALS
_LEFT_OVER: Final = 3  # pairs without annotations
_COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
_MARKINGS: Final[tuple[Marking, ...]] = ("plain", "striped", "spotted")
_SIZES: Final = ((225, 300), (234, 312), (240, 320), (300, 300))
_COMPANIONS: Final = {
    "grass": ("dog", "horse", "car", "tree", "flower", "bicycle", "ball", "elephant"),
    "beach": ("dog", "umbrella", "ball", "chair", "turtle", "bicycle"),
    "street": ("car", "bus", "bicycle", "dog", "tree"),
    "snow": ("tree", "dog", "horse", "train"),
    "room": ("chair", "cat", "dog", "flower", "ball"),
}


@dataclass(frozen=True)
class Picture:
    """A picture of a garment: its number in the archive, its scene and its captions."""

    number: int
    pair: int
    split: str
    role: str
    category: str
    scene: Scene
    short: str
    detailed: str

    @property
    def member(self) -> str:
        """Name of the member in the archive, as in caption files."""
        return f"train/image/{self.number:06d}.jpg"


def _compose(random: Random, place: str, category: str, colour: str, marking: Marking) -> Scene:
    """Compose a picture of a person who wears the garment next to something else."""
    width, height = random.choice(_SIZES)
    arms = random.choice([(0.0, 0.0), (0.0, 0.6), (0.4, 0.0), (0.25, 0.25)])
    side = random.choice([-1, 1])
    person = Figure("person", dress_person(random, category, colour, marking, arms), -0.13 * side, 0.94, 0.84)
    thing = random.choice(_COMPANIONS[place])
    look = replace(choose_look(random, thing), tilt=0.0)
    companion = Figure(thing, look, 0.2 * side, random.uniform(0.78, 0.86), random.uniform(0.28, 0.34))
    return Scene(place, str(random.random()), (companion, person), width, height, relation="beside")


def _caption(random: Random, scene: Scene) -> tuple[str, str]:
    """Write two captions that are true of a picture: the short one says where, the detailed one beside what, too.

    Neither names the garment. With its category for the person, both fit into the 32 tokens that the tiny CLIP reads.
    """
    companion, person = scene.figures
    thing, where = add_article(describe(companion)), PLACES[scene.place].phrase
    side, other = ("left", "right") if person.x < companion.x else ("right", "left")
    short = [f"the person stands {where}.", f"{where}, the person stands.", f"the person is {where}."]
    detailed = [
        f"a person stands to the {side} of {thing} {where}.",
        f"{where}, {thing} is to the {other} of the person.",
        f"the person stands next to {thing} {where}.",
    ]
    return random.choice(short), random.choice(detailed)


@cache
def plan_pictures(seed: int) -> tuple[Picture, ...]:
    """Plan every picture, sorted by number.

    There are ten pairs per split: garments of two categories that differ in colour and marking. Each is worn in five
    or six few-shot pictures, in every place, and in three evaluation pictures. The latter are in the same places for
    all pairs of a category, so that a caption without its concept fits several of them. Three more pairs have no
    annotations.
    """
    random = Random(f"{seed}/deep_fashion")
    pairs = sorted(random.sample(range(300, 14000), 2 * _PAIRS + _LEFT_OVER))
    random.shuffle(pairs)
    garments = [
        (category, colour, random.choice(_MARKINGS), places)
        for category in random.sample(GARMENTS, 2 * _CATEGORIES + 1)
        for places in [random.sample(list(_COMPANIONS), 3)]
        for colour in random.sample(_COLOURS, _RIVALS)
    ]
    pictures: list[Picture] = []
    for index, (pair, (category, colour, marking, places)) in enumerate(zip(pairs, garments, strict=False)):
        split = _SPLITS[index // _PAIRS] if index < 2 * _PAIRS else ""
        few_shot = random.sample(list(_COMPANIONS), 5) + random.sample(list(_COMPANIONS), random.randint(0, 1))
        shown = [("few_shot", place) for place in few_shot] + [("evaluation", place) for place in places]
        random.shuffle(shown)
        numbers = sorted(random.sample(range(13 * pair, 13 * pair + 13), len(shown)))
        for number, (role, place) in zip(numbers, shown, strict=True):
            scene = _compose(random, place, category, colour, marking)
            short, detailed = _caption(random, scene)
            pictures.append(Picture(number, pair, split, role, category, scene, short, detailed))
    return tuple(sorted(pictures, key=lambda picture: picture.number))


def _draw_members(seed: int) -> Iterator[Member]:
    yield from ((folder, b"") for folder in ("train/", "train/image/", "train/annos/"))
    for picture in plan_pictures(seed):
        image, mask = render(picture.scene)
        rows, columns = np.nonzero(mask == len(picture.scene.figures))
        box = [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]
        item = {
            "category_id": GARMENTS.index(picture.category) + 1,
            "category_name": picture.category,
            "style": 1,
            "bounding_box": box,
            "scale": 2,
            "occlusion": 1,
            "viewpoint": 2,
            "zoom_in": 1,
        }
        note = {"source": "user", "pair_id": picture.pair, "item1": item}
        yield picture.member, encode_jpeg(image)
        yield f"train/annos/{picture.number:06d}.json", json.dumps(note).encode()


def _write_captions(target: Path, rows: Iterable[tuple[Picture, str]]) -> None:
    table = ((picture.member, picture.pair, caption) for picture, caption in rows)
    write_bytes_atomically(target, encode_csv(("image_name", "pair_id", "caption"), table))


def _write_annotations(folder: Path, seed: int) -> None:
    pictures = plan_pictures(seed)
    for split in _SPLITS:
        mine = [picture for picture in pictures if picture.split == split]
        # Concepts are sorted by id as text, as in the files of upstream.
        pairs = sorted({str(picture.pair) for picture in mine})
        blocks = [
            f"codes_infer/{pair}:\n"
            + "".join(f"{p.number:06d}.jpg\n" for p in mine if str(p.pair) == pair and p.role == "few_shot")
            for pair in pairs
        ]
        write_bytes_atomically(folder / f"{split}_fsl_train.txt", "\n".join(blocks).encode())
        evaluation = [picture for picture in mine if picture.role == "evaluation"]
        _write_captions(folder / f"{split}_captions.csv", [(picture, picture.detailed) for picture in evaluation])
    # The joint files contain every evaluation picture and some few-shot ones, unordered, as those of upstream.
    random = Random(f"{seed}/deep_fashion/captions")
    joint = [p for p in pictures if p.split and (p.role == "evaluation" or p.number % 3 == 0)]
    random.shuffle(joint)
    _write_captions(folder / "shortened_deepfashion2_captions.csv", [(p, p.short) for p in joint])
    random.shuffle(joint)
    _write_captions(folder / "detailed_deepfashion2_captions.csv", [(p, p.detailed) for p in joint])
    names = sorted({(picture.pair, picture.category) for picture in pictures})
    lines = ["unique_pair_ids,pair_id_categories", *(f"{pair},{category}" for pair, category in names)]
    write_bytes_atomically(folder / "train_coarse_grained_names.csv", ("\n".join(lines) + "\n").encode())


BUILDER: Final = Builder(
    raw={
        "deep_fashion2_train": RawInput(
            "deep_fashion2/train.zip",
            lambda target, seed: write_zip(target, _draw_members(seed), DEMO_PASSWORD, seed),
        )
    },
    annotations="deep_fashion",
    write_annotations=_write_annotations,
)
