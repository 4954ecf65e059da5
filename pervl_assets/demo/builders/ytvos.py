"""Synthetic YouTube-VOS: short clips of moving things (`train.zip`), and the PerVL annotations of them."""

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml
from PIL import Image

from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.core.tables import encode_csv
from pervl_assets.demo.builder import Builder, RawInput
from pervl_assets.demo.drawing import encode_jpeg
from pervl_assets.demo.places import PLACES
from pervl_assets.demo.scenes import Figure, Scene, choose_look, render
from pervl_assets.demo.sentences import add_article, choose_verb
from pervl_assets.demo.zips import Member, write_zip

# Split, place, and the things that move there. A thing in brackets is in the clip but no concept. Things of one class
# are in the same place in several clips of a split, so that a caption without its concept fits several of them.
_SCRIPT: Final = (
    ("val", "sea", ("fish", "fish", "fish")),
    ("val", "street", ("car", "bus", "car")),
    ("val", "grass", ("dog", "dog", "cat")),
    ("val", "sky", ("airplane", "airplane", "bird")),
    ("val", "snow", ("horse", "person")),
    ("test", "sea", ("turtle", "fish", "turtle")),
    ("test", "beach", ("(ball)", "person", "dog")),
    ("test", "sky", ("bird", "balloon", "bird")),
    ("test", "grass", ("elephant", "elephant")),
    ("test", "street", ("car", "bicycle", "car")),
    ("", "room", ("(cat)", "(ball)")),
    ("val", "sea", ("fish", "fish")),
    ("val", "grass", ("dog", "dog", "dog")),
    ("val", "sky", ("airplane", "bird", "airplane")),
    ("val", "street", ("car", "car")),
    ("test", "sea", ("fish", "fish", "fish")),
    ("test", "sky", ("bird", "bird", "balloon")),
    ("test", "beach", ("person", "person", "dog")),
    ("test", "street", ("car", "car", "bicycle")),
)
_CLASS_NAMES: Final = {"turtle": "sea_turtle", "balloon": "hot_air_balloon"}
_SIZES: Final = {"person": 0.7, "elephant": 0.62, "horse": 0.6, "bus": 0.6, "ball": 0.3, "cat": 0.42, "fish": 0.38}
# Verbs in a clip, where everything moves.
_MOVES: Final = {"stands": "walks", "is parked": "rolls", "sits": "is"}
_RESOLUTIONS: Final = ((320, 180), (384, 216), (426, 240))


@dataclass(frozen=True)
class _Actor:
    """A thing that moves through a clip: its figure at the start, and its drift until the end."""

    start: Figure
    drift: float
    concept: bool

    def at(self, share: float) -> Figure:
        """Return the figure after a `share` (0 to 1) of the clip."""
        phase = self.start.look.phase + 9 * share
        sway = 0.02 * math.sin(phase)
        lift = 0.0 if self.start.grounded else sway
        look = replace(self.start.look, phase=phase)
        return replace(self.start, x=self.start.x + self.drift * share + sway, y=self.start.y + lift, look=look)


@dataclass(frozen=True)
class Clip:
    """A clip: its actors are instances 1, 2, … of the masks."""

    scene_id: str
    split: str
    place: str
    width: int
    height: int
    frames: tuple[str, ...]
    actors: tuple[_Actor, ...]

    def at(self, frame: str) -> Scene:
        """Return the scene that a frame shows."""
        share = int(frame) / int(self.frames[-1])
        figures = tuple(actor.at(share) for actor in self.actors)
        return Scene(self.place, self.scene_id, figures, self.width, self.height)


@dataclass(frozen=True)
class Concept:
    """A concept of the benchmark: an instance of a clip, its frames and its caption."""

    name: str
    class_name: str
    clip: Clip
    instance: int
    few_shot_frames: tuple[str, ...]
    evaluation_frame: str
    caption: str


def _make_id(random: Random, number: int) -> str:
    """Make a scene id of ten hexadecimal digits. Some look like a number, as some official ones do."""
    if number == 2:
        return str(random.randrange(10**9, 10**10))
    if number == 6:
        return f"{random.randrange(10, 100)}e{random.randrange(10**6, 10**7)}"
    return f"{random.randrange(16**9, 16**10):x}"


def _cast(random: Random, place: str, things: tuple[str, ...], taken: set[tuple[str, str]]) -> Iterator[_Actor]:
    """Place the actors of a clip side by side, moving the same way, each with a colour that is not taken."""
    spread = 0.5 if len(things) == 3 else 0.62
    drift = random.choice([-1, 1]) * random.uniform(0.16, 0.24)
    low, high = PLACES[place].ground
    for number, name in enumerate(things):
        thing = name.strip("()")
        look = choose_look(random, thing)
        while (thing, look.colour) in taken:
            look = choose_look(random, thing)
        taken.add((thing, look.colour))
        size = _SIZES.get(thing, 0.48) * random.uniform(0.95, 1.05)
        x = (number - (len(things) - 1) / 2) * spread - drift / 2
        floating = place in ("sea", "sky")
        y = random.uniform(0.55, 0.85) if floating else random.uniform(low + 0.06, high + 0.06)
        look = replace(look, flip=drift < 0 and thing != "cat", tilt=0.0)
        start = Figure(thing, look, x, y, size, grounded=not floating)
        yield _Actor(start, drift + random.uniform(-0.03, 0.03), concept=thing == name)


@cache
def plan_clips(seed: int) -> tuple[Clip, ...]:
    """Plan every clip. Things of one class differ in colour within a split."""
    clips = []
    taken: dict[str, set[tuple[str, str]]] = {split: set() for split, _, _ in _SCRIPT}
    for number, (split, place, things) in enumerate(_SCRIPT):
        random = Random(f"{seed}/ytvos/{number}")
        width, height = random.choice(_RESOLUTIONS)
        frames = tuple(f"{5 * k:05d}" for k in range(random.randint(7, 8)))
        actors = tuple(_cast(random, place, things, taken[split]))
        clips.append(Clip(_make_id(random, number), split, place, width, height, frames, actors))
    return tuple(clips)


def _describe_position(figure: Figure, other: Figure) -> str:
    """Return the position of a figure relative to another one."""
    right = figure.x - other.x
    lower = (figure.y - figure.size / 2) - (other.y - other.size / 2)
    if abs(lower) > abs(right):
        return "below" if lower > 0 else "above"
    return "to the right of" if right > 0 else "to the left of"


def _write_caption(random: Random, scene: Scene, figure: Figure) -> str:
    """Return a caption that is true of the scene, with `*` for the figure: where it is, not what it looks like."""
    others = sorted((o for o in scene.figures if o is not figure), key=lambda other: abs(other.x - figure.x))
    where, verb = PLACES[scene.place].phrase, choose_verb(figure, scene.place)
    verb = _MOVES.get(verb, verb)
    relation = f"{_describe_position(figure, others[0])} {add_article(others[0].thing)}"
    captions = [f"* {verb} {where}.", f"{where}, * {verb}.", f"* {verb} {relation} {where}."]
    if len(others) == 2:
        if all(figure.x < other.x for other in others):
            captions.append(f"* {verb} furthest to the left {where}.")
        elif all(figure.x > other.x for other in others):
            captions.append(f"* {verb} furthest to the right {where}.")
        else:
            first, second = (add_article(other.thing) for other in others)
            captions.append(f"a * between {first} and {second} {where}.")
    return random.choice(captions)


@cache
def plan_concepts(seed: int) -> tuple[Concept, ...]:
    """Plan the concepts: four to eight few-shot frames, then one evaluation frame each."""
    concepts = []
    for clip in plan_clips(seed):
        random = Random(f"{seed}/ytvos/{clip.scene_id}")
        for instance, actor in enumerate(clip.actors, start=1):
            if not actor.concept:
                continue
            thing = actor.start.thing
            class_name = _CLASS_NAMES.get(thing, thing)
            # Concepts of a clip can have different evaluation frames. None of them is a few-shot frame of any concept.
            last = random.choice([len(clip.frames) - 1, len(clip.frames) - 2])
            shown = clip.frames[:-2]
            few_shot = tuple(sorted(random.sample(shown, random.randint(4, min(8, len(shown))))))
            scene = clip.at(clip.frames[last])
            caption = _write_caption(random, scene, scene.figures[instance - 1])
            name = f"{class_name}_{clip.scene_id}_{instance}"
            concepts.append(Concept(name, class_name, clip, instance, few_shot, clip.frames[last], caption))
    return tuple(sorted(concepts, key=lambda concept: concept.name))


def _make_palette() -> list[int]:
    """Return the palette of DAVIS and YouTube-VOS masks: the bits of an index go to red, green and blue in turn."""
    return [
        sum((index >> (3 * step + channel) & 1) << (7 - step) for step in range(3))
        for index in range(256)
        for channel in range(3)
    ]


def _draw_members(seed: int) -> Iterator[Member]:
    palette = _make_palette()
    videos: dict[str, Any] = {}
    yield from ((folder, b"") for folder in ("train/", "train/JPEGImages/", "train/Annotations/"))
    for clip in plan_clips(seed):
        seen: dict[int, list[str]] = {k: [] for k in range(1, len(clip.actors) + 1)}
        for frame in clip.frames:
            picture, mask = render(clip.at(frame), int(frame))
            for instance, frames in seen.items():
                if (mask == instance).any():
                    frames.append(frame)
            image = Image.fromarray(mask).convert("L")
            image.putpalette(palette)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            yield f"train/JPEGImages/{clip.scene_id}/{frame}.jpg", encode_jpeg(picture)
            yield f"train/Annotations/{clip.scene_id}/{frame}.png", buffer.getvalue()
        names = [_CLASS_NAMES.get(actor.start.thing, actor.start.thing) for actor in clip.actors]
        objects = {str(k): {"category": names[k - 1], "frames": frames} for k, frames in seen.items()}
        videos[clip.scene_id] = {"objects": objects}
    yield "train/meta.json", json.dumps({"videos": videos}).encode()


class _QuotingDumper(yaml.SafeDumper):
    """Quotes every text that some YAML readers take for a number: `00085`, `13e3070469`, `1336440745`."""


_QuotingDumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[0-9]+(e[0-9]+)?$"), list("0123456789"))


def _write_annotations(folder: Path, seed: int) -> None:
    meta = {
        concept.name: {
            "coarse_grained_class": concept.class_name,
            "caption": concept.caption,
            "class_id": concept.name,
            "scene_id": concept.clip.scene_id,
            "instance_id": str(concept.instance),
            "test_frame": concept.evaluation_frame,
            "train_frames": list(concept.few_shot_frames),
        }
        for concept in plan_concepts(seed)
    }
    text = yaml.dump(meta, Dumper=_QuotingDumper, sort_keys=False, default_flow_style=False, width=1000)
    write_bytes_atomically(folder / "ytvos_personalization_meta.yaml", text.encode())
    header = ["image_name", "coarse_grained_class", "caption", "class_id"]
    joint: list[list[str]] = []
    for split in ("val", "test"):
        concepts = [concept for concept in plan_concepts(seed) if concept.clip.split == split]
        Random(f"{seed}/ytvos/captions/{split}").shuffle(concepts)
        rows = [[f"eval/images/{c.name}_{c.evaluation_frame}.jpg", c.class_name, c.caption, c.name] for c in concepts]
        write_bytes_atomically(folder / f"cleaned_captions_ytvos_{split}.csv", encode_csv(header, rows))
        joint += rows
    numbered = [[str(number), *row] for number, row in enumerate(joint)]
    write_bytes_atomically(folder / "ytvos_joint_captions.csv", encode_csv(["", *header], numbered))


BUILDER: Final = Builder(
    raw={
        "youtube_vos_train": RawInput(
            "youtube_vos/train.zip", lambda target, seed: write_zip(target, _draw_members(seed))
        )
    },
    annotations="ytvos",
    write_annotations=_write_annotations,
)
