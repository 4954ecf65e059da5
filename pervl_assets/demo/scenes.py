"""Scenes: things in a place, composed at random, rendered as a picture with the mask of every thing.

Lengths are in picture heights. `x` is measured from the centre of the picture, y from its top. Everything important is
within the central square of 0.75 heights, because preprocessing for CLIP crops the rest (shorter side to 300, centre
crop 224).
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pervl_assets.demo.creatures import CREATURES, GARMENTS, Outfit
from pervl_assets.demo.drawing import COLOURS, Colour, Look, Marking, Painter, add_grain, cast_shadow, paint_stamp
from pervl_assets.demo.objects import OBJECTS
from pervl_assets.demo.places import PLACES, paint_place

PAINTERS: Final[dict[str, Painter]] = {**CREATURES, **OBJECTS}
THINGS: Final = tuple(PAINTERS)
"""Classes of things."""
CLASSES: Final = (*THINGS, *PLACES)
"""All 30 object classes: things and places."""

_Relation = Literal["beside", "above", "on", "hold"]

_SIZES: Final = {
    "dog": 0.34, "cat": 0.33, "horse": 0.46, "elephant": 0.48, "bird": 0.28, "fish": 0.31, "turtle": 0.32,
    "person": 0.56, "car": 0.4, "bus": 0.46, "train": 0.46, "boat": 0.44, "airplane": 0.4, "bicycle": 0.4,
    "umbrella": 0.4, "ball": 0.28, "kite": 0.36, "balloon": 0.42, "cup": 0.3, "cake": 0.32, "chair": 0.38,
    "tree": 0.54, "flower": 0.36,
}  # fmt: skip

_STANDING: Final = {
    "grass": ("dog", "cat", "horse", "elephant", "turtle", "person", "car", "train", "bicycle", "umbrella", "ball",
              "chair", "tree", "flower"),
    "beach": ("dog", "turtle", "person", "bicycle", "umbrella", "ball", "chair"),
    "street": ("dog", "cat", "person", "car", "bus", "bicycle", "tree"),
    "snow": ("dog", "cat", "horse", "person", "car", "bus", "train", "tree"),
    "room": ("dog", "cat", "person", "ball", "cup", "cake", "chair", "flower"),
    "sea": ("fish", "turtle", "boat"),
    "sky": ("bird", "airplane", "kite", "balloon"),
}  # fmt: skip
_FLYING: Final = {
    "grass": ("bird", "airplane", "kite", "balloon"),
    "beach": ("bird", "airplane", "kite", "balloon"),
    "street": ("bird", "balloon"),
    "snow": ("bird", "airplane"),
}
# Things that carry another one: the top (x from the middle, y from the upper edge), and what they carry.
_CARRIERS: Final = {
    "chair": (0.05, 0.57, ("cat", "ball", "cup", "cake")),
    "car": (0.0, 0.36, ("bird", "cat")),
    "bus": (0.0, 0.23, ("bird",)),
    "train": (-0.28, 0.27, ("bird",)),
    "elephant": (-0.12, 0.26, ("bird",)),
    "horse": (-0.08, 0.39, ("bird",)),
}
# Where a hand grips each thing: y of the grip from the thing's upper edge, and the thing's size.
_GRIPS: Final = {"umbrella": (0.88, 0.36), "kite": (0.97, 0.3), "flower": (0.85, 0.24), "ball": (0.58, 0.16)}

_NATURAL: Final = {
    "dog": ("brown", "black", "white", "grey", "orange"),
    "cat": ("orange", "grey", "black", "white", "brown"),
    "horse": ("brown", "black", "white", "grey"),
    "elephant": ("grey", "blue", "brown"),
    "turtle": ("green", "brown", "purple", "orange"),
    "tree": ("green", "green", "orange", "yellow", "pink"),
    "chair": ("brown", "white", "red", "blue", "yellow"),
}
# A "person in red" wears red above the waist.
_UPPER_GARMENTS: Final = tuple(g for g in GARMENTS if g not in ("shorts", "trousers", "skirt"))
_BRIGHT: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
_SKINS: Final[tuple[Colour, ...]] = ((238, 200, 170), (222, 172, 134), (176, 124, 88), (116, 80, 58))
_HAIRS: Final[tuple[Colour, ...]] = ((52, 40, 36), (98, 64, 42), (196, 152, 84), (150, 76, 46), (148, 146, 146))


@dataclass(frozen=True)
class Figure:
    """One thing in a scene: the middle of its lower edge at (x, y), its size, and whether it is on the ground."""

    thing: str
    look: Look
    x: float
    y: float
    size: float
    grounded: bool = True


@dataclass(frozen=True)
class Scene:
    """A place with figures. Instance k of a mask is `figures[k - 1]`. Width and height are in pixels."""

    place: str
    seed: str  # determines the hills and houses of the place
    figures: tuple[Figure, ...]
    width: int
    height: int
    relation: _Relation | None = None  # of the first figure to the second, if there are two
    rarity: str | None = None  # `sun`, `moon` or `rainbow`, if one is seen


def dress_person(random: Random, category: str, colour: str, marking: Marking, arms: tuple[float, float]) -> Look:
    """Return the look of a person who wears a garment. Everything but the garment is chosen at random."""
    accent = COLOURS["brown"] if colour in ("white", "yellow") else COLOURS["white"]
    outfit = Outfit(
        *(category, COLOURS[colour], marking, accent),
        other=random.choice([(66, 80, 112), (92, 92, 98), (214, 206, 192), (58, 58, 66)]),
        skin=random.choice(_SKINS),
        hair=random.choice(_HAIRS),
        long_hair=random.random() < 0.5,
        arms=arms,
    )
    return Look(colour, marking, accent, phase=random.uniform(0, 6.28), outfit=outfit)


def choose_look(random: Random, thing: str, colour: str | None = None) -> Look:
    """Choose a natural look for a thing, of a given colour or a random one."""
    colour = colour or random.choice(_NATURAL.get(thing, _BRIGHT))
    if thing == "person":
        garment, right = random.choice(_UPPER_GARMENTS), random.choice([0.0, 0.0, 0.6])
        return dress_person(random, garment, colour, "plain", (0.0, right))
    markings: tuple[Marking, ...] = ("plain", "striped")
    if thing in CREATURES:
        markings = ("plain", "plain", "spotted", "striped")
    accent = COLOURS["brown"] if colour in ("white", "yellow", "grey") else COLOURS["white"]
    tilt = random.uniform(-9, 9) if thing in ("airplane", "kite", "fish", "ball") else 0.0
    return Look(colour, random.choice(markings), accent, random.uniform(0, 6.28), random.random() < 0.5, tilt)


def _place_on_ground(random: Random, thing: str, place: str, x: float, scale: float = 1.0) -> Figure:
    """Put a thing on the ground of a place, or in its sea or sky."""
    size = _SIZES[thing] * scale * random.uniform(0.92, 1.08)
    look = choose_look(random, thing)
    if place == "sea" and thing == "boat":
        return Figure(thing, look, x, 0.33 + size * 0.24, size, grounded=False)
    return Figure(thing, look, x, random.uniform(*PLACES[place].ground), size, grounded=place not in ("sea", "sky"))


def _fly(random: Random, thing: str, x: float) -> Figure:
    size = _SIZES[thing] * random.uniform(0.78, 0.92)
    return Figure(thing, choose_look(random, thing), x, 0.14 + size, size, grounded=False)


def _put_on(random: Random, thing: str, carrier: Figure) -> Figure:
    """Put a thing on top of its carrier."""
    x, y, _ = _CARRIERS[carrier.thing]
    size = _SIZES[thing] * 0.74
    side = -x if carrier.look.flip else x
    top = carrier.y - carrier.size * (1 - y) + size * 0.03
    return Figure(thing, choose_look(random, thing), carrier.x + side * carrier.size, top, size, grounded=False)


def _hold(random: Random, thing: str, person: Figure) -> tuple[Figure, Figure]:
    """Return a person with a raised right hand, and a thing in it."""
    outfit = person.look.outfit
    if not isinstance(outfit, Outfit):
        raise TypeError("only a person with an outfit can hold something")
    grip, size = _GRIPS[thing]
    raised = replace(person, look=replace(person.look, outfit=replace(outfit, arms=(0.0, 0.5))))
    hand_x, hand_y = person.x + 0.225 * person.size, person.y - person.size * (1 - 0.34)
    held = Figure(thing, choose_look(random, thing), hand_x, hand_y + size * (1 - grip), size, grounded=False)
    return raised, replace(held, look=replace(held.look, tilt=0.0))


def compose_scene(
    random: Random, thing: str, *, alone: bool = False, size: tuple[int, int] = (320, 240), rarity: str | None = None
) -> Scene:
    """Compose a scene about a thing: alone and large, or with a second thing in some relation to it.

    The size is width and height in pixels. A sun, moon or rainbow (`rarity`) is shown in a place with a sky.
    """
    places = ("grass", "beach", "sky") if rarity else tuple(PLACES)
    place = random.choice([place for place in places if thing in _STANDING[place]])
    scene = Scene(place, str(random.random()), (), *size, rarity=rarity)
    if alone:
        scale = 1.5 if _SIZES[thing] < 0.35 else 1.25
        return replace(scene, figures=(_place_on_ground(random, thing, place, random.uniform(-0.06, 0.06), scale),))
    left, right = random.uniform(-0.23, -0.19), random.uniform(0.19, 0.23)
    if random.random() < 0.5:
        left, right = right, left
    choice = random.random()
    if thing in _CARRIERS and choice < 0.3 and not rarity:
        carrier = _place_on_ground(random, thing, place, random.uniform(-0.08, 0.08), 1.1)
        figures = (_put_on(random, random.choice(_CARRIERS[thing][2]), carrier), carrier)
        return replace(scene, figures=figures, relation="on")
    if thing == "person" and place != "street" and choice < 0.6:
        held = random.choice(["flower", "ball"] if place == "room" else list(_GRIPS))
        figures = _hold(random, held, _place_on_ground(random, "person", place, random.uniform(-0.14, -0.02)))
        return replace(scene, figures=figures, relation="hold")
    if place in _FLYING and choice > 0.66:
        flying = random.choice([other for other in _FLYING[place] if (thing, other) != ("ball", "balloon")])
        figures = (_fly(random, flying, left * 0.8), _place_on_ground(random, thing, place, right * 0.8))
        return replace(scene, figures=figures, relation="above")
    others = [other for other in _STANDING[place] if other != thing]
    first = _place_on_ground(random, thing, place, left)
    second = _place_on_ground(random, random.choice(others), place, right)
    if "boat" in (first.thing, second.thing):
        boat, below = sorted((first, second), key=lambda figure: figure.thing != "boat")
        return replace(scene, figures=(boat, below), relation="above")
    return replace(scene, figures=(first, second), relation="beside")


def render(scene: Scene, moment: int = 0) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Paint a scene. The grain depends on the moment.

    Returns:
        The picture (RGB), and its mask: uint8 (height, width), 0 for the place, k where `figures[k - 1]` is seen.
    """
    picture = paint_place(scene.place, scene.seed, scene.width, scene.height, scene.rarity)
    mask = Image.new("L", picture.size, 0)
    by_height = sorted(range(len(scene.figures)), key=lambda k: scene.figures[k].y)
    for k in {"on": [1, 0], "hold": [0, 1]}.get(scene.relation or "", by_height):
        figure = scene.figures[k]
        pixels = max(8, round(figure.size * scene.height))
        x = scene.width / 2 + figure.x * scene.height
        corner = (round(x - pixels / 2), round(figure.y * scene.height - pixels))
        if figure.grounded:
            width = pixels * (0.5 if figure.thing == "person" else 0.95)
            cast_shadow(picture, x, figure.y * scene.height - pixels * 0.03, width)
        stamp = paint_stamp(PAINTERS[figure.thing], figure.look, pixels)
        alpha = stamp.getchannel("A")
        picture.paste(stamp, corner, alpha)
        mask.paste(k + 1, corner, alpha.point(lambda a: 255 * (a >= 128)))
    return add_grain(picture, Random(f"{scene.seed}/{moment}").getrandbits(32)), np.asarray(mask)
