"""Painters of the seven places, which are backgrounds, and of sun, moon and rainbow."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from PIL import Image

from pervl_assets.demo.drawing import COLOURS, Brush, Colour, shade

_OVERSAMPLE = 2


def _vary(random: Random, colour: Colour, by: int = 14) -> Colour:
    red, green, blue = (max(0, min(255, c + random.randint(-by, by))) for c in colour)
    return red, green, blue


def _fill(brush: Brush, top: Colour, bottom: Colour, y0: float = 0, y1: float = 100) -> None:
    """Fill a band of the picture with a vertical change of colour."""
    width, height = brush.image.size
    first, last = round(height * y0 / 100), round(height * y1 / 100)
    ramp = np.linspace(top, bottom, last - first).astype(np.uint8)
    brush.image.paste(Image.fromarray(np.repeat(ramp[:, None], width, axis=1)), (0, first))


def _paint_clouds(brush: Brush, random: Random, count: int, lowest: float) -> None:
    squeeze = brush.image.height / brush.image.width
    for _ in range(count):
        x, y, size = random.uniform(0, 100), random.uniform(4, lowest), random.uniform(3, 6)
        for dx, dy, part in ((-1.6, 0.2, 0.7), (0, -0.3, 1.0), (1.5, 0.1, 0.8), (2.8, 0.4, 0.5)):
            brush.disc(x + dx * size * squeeze, y + dy * size, part * size, (246, 249, 252))


def _paint_hills(brush: Brush, random: Random, horizon: float, colour: Colour, height: float) -> None:
    start, length = random.uniform(0, 6), random.uniform(14, 26)
    ridge = [(x, horizon - height * (0.55 + 0.45 * math.sin(start + x / length))) for x in range(0, 101, 4)]
    brush.polygon([(0.0, 100.0), *ridge, (100.0, 100.0)], colour)


def _paint_grass(brush: Brush, random: Random) -> None:
    _fill(brush, _vary(random, (112, 176, 232)), (206, 232, 246), 0, 58)
    _paint_clouds(brush, random, 3, 24)
    _paint_hills(brush, random, 52, _vary(random, (140, 190, 150)), 14)
    _paint_hills(brush, random, 56, _vary(random, (112, 172, 110)), 8)
    _fill(brush, _vary(random, (132, 192, 92)), (82, 146, 64), 55)
    for _ in range(70):
        x, y = random.uniform(0, 100), random.uniform(58, 100)
        blade = shade((84, 150, 64), random.uniform(0.8, 1.25))
        brush.line([(x, y), (x + random.uniform(-1, 1), y - 2.6)], blade, 0.7)


def _paint_beach(brush: Brush, random: Random) -> None:
    _fill(brush, _vary(random, (122, 194, 240)), (224, 242, 250), 0, 38)
    _paint_clouds(brush, random, 2, 20)
    _fill(brush, (44, 122, 188), _vary(random, (98, 196, 210)), 36, 58)
    for _ in range(14):
        x, y = random.uniform(0, 100), random.uniform(39, 55)
        brush.line([(x, y), (x + 7, y)], (206, 236, 242), 0.7)
    shore = [(x, 58 + 1.6 * math.sin(x / 9 + random.random())) for x in range(0, 101, 5)]
    brush.polygon([(0.0, 100.0), (0.0, 56.0), *[(x, y - 2) for x, y in shore], (100.0, 100.0)], (248, 250, 248))
    sand = _vary(random, (238, 212, 158), 8)
    brush.polygon([(0.0, 100.0), *shore, (100.0, 100.0)], sand)
    for _ in range(80):
        brush.disc(random.uniform(0, 100), random.uniform(63, 100), 0.5, shade(sand, random.uniform(0.82, 1.2)))


def _paint_street(brush: Brush, random: Random) -> None:
    _fill(brush, _vary(random, (160, 196, 226)), (226, 234, 240), 0, 60)
    x = random.uniform(-12, 0)
    while x < 100:
        width, top = random.uniform(15, 24), random.uniform(4, 26)
        wall = _vary(random, random.choice([(196, 148, 122), (214, 196, 164), (166, 174, 188), (188, 160, 160)]))
        brush.box(x, top, x + width, 60, wall)
        brush.box(x, top, x + width, top + 2, shade(wall, 0.75))
        for row in range(int(top) + 6, 50, 11):
            for column in range(3):
                left = x + width * (0.14 + 0.28 * column)
                glass = (252, 226, 150) if random.random() < 0.2 else (104, 130, 156)
                brush.box(left, row, left + width * 0.16, row + 6, glass)
        x += width + 0.6
    _fill(brush, (196, 194, 190), (180, 178, 174), 58, 66)
    _fill(brush, _vary(random, (112, 114, 122), 8), (82, 84, 92), 66)
    for left in range(-4, 100, 18):
        brush.polygon([(left + 2, 83), (left + 11, 83), (left + 10, 86), (left, 86)], (236, 234, 222))


def _paint_snow(brush: Brush, random: Random) -> None:
    _fill(brush, _vary(random, (150, 176, 206)), (222, 230, 240), 0, 60)
    for _ in range(3):
        x, top, width = random.uniform(0, 100), random.uniform(10, 24), random.uniform(24, 40)
        brush.polygon([(x - width, 60), (x, top), (x + width, 60)], _vary(random, (138, 152, 178), 8))
        cap = [(x - width * 0.3, top + 15), (x, top), (x + width * 0.3, top + 15), (x, top + 11)]
        brush.polygon(cap, (250, 252, 255))
    for _ in range(9):
        x, y = random.uniform(0, 100), random.uniform(50, 58)
        for part in (0, 3.4, 6.8):
            tree = [(x - 3 + part / 4, y - part), (x, y - 8 - part), (x + 3 - part / 4, y - part)]
            brush.polygon(tree, (70, 108, 98))
    _fill(brush, (250, 252, 255), _vary(random, (214, 224, 238), 6), 57)
    for _ in range(70):
        brush.disc(random.uniform(0, 100), random.uniform(0, 100), random.uniform(0.4, 0.9), (255, 255, 255))


def _paint_room(brush: Brush, random: Random) -> None:
    wall = _vary(random, random.choice([(226, 196, 160), (196, 206, 186), (214, 186, 190), (190, 204, 220)]), 10)
    _fill(brush, shade(wall, 1.12), wall, 0, 64)
    for x in range(3, 100, 8):
        brush.box(x, 0, x + 0.8, 62, shade(wall, 0.95))
    left = random.choice([8.0, 66.0])
    brush.box(left, 8, left + 26, 42, (250, 248, 244))
    brush.box(left + 2, 10.5, left + 24, 39.5, (170, 214, 240))
    brush.box(left + 12.3, 10, left + 13.7, 40, (250, 248, 244))
    frame = random.uniform(42, 50)
    brush.box(frame, 14, frame + 13, 30, (120, 84, 56))
    brush.box(frame + 1.4, 16, frame + 11.6, 28, _vary(random, (220, 170, 130), 30))
    brush.box(0, 61, 100, 65, (244, 240, 232))
    floor = _vary(random, (176, 124, 80), 10)
    _fill(brush, floor, shade(floor, 0.8), 65)
    for y in (70, 77, 86):
        brush.line([(0, y), (100, y)], shade(floor, 0.72), 0.7)
    rug = COLOURS[random.choice(["red", "blue", "green", "purple", "grey"])]
    brush.ellipse(10, 76, 90, 98, shade(rug, 1.25))
    brush.ellipse(15, 78.5, 85, 95.5, rug)


def _paint_sea(brush: Brush, random: Random) -> None:
    _fill(brush, _vary(random, (140, 200, 240)), (226, 242, 250), 0, 32)
    _paint_clouds(brush, random, 2, 14)
    _fill(brush, _vary(random, (70, 170, 208)), (16, 66, 124), 28)
    wave = [(x, 29 + 1.2 * math.sin(x / 5 + random.random())) for x in range(0, 101, 4)]
    brush.line(wave, (222, 244, 250), 1.2)
    for _ in range(16):
        x, y = random.uniform(0, 100), random.uniform(36, 88)
        radius = random.uniform(0.7, 1.7)
        brush.disc(x, y, radius, (152, 212, 232))
        brush.disc(x, y, radius * 0.6, (90, 172, 212))
    _paint_hills(brush, random, 96, (196, 176, 126), 6)
    for _ in range(8):
        x = random.uniform(0, 100)
        weed = shade((48, 132, 92), random.uniform(0.8, 1.2))
        brush.line([(x, 100), (x + 1.5, 93), (x - 1, 87), (x + 1, random.uniform(76, 84))], weed, 1.5)


def _paint_sky(brush: Brush, random: Random) -> None:
    low = random.choice([(214, 236, 250), (252, 222, 196), (226, 230, 250)])
    _fill(brush, _vary(random, (84, 152, 226)), low)
    _paint_clouds(brush, random, 7, 84)
    _paint_hills(brush, random, 101, _vary(random, (110, 150, 136)), 9)


def _paint_sun(brush: Brush) -> None:
    for ray in range(12):
        x, y = math.cos(ray * math.pi / 6), math.sin(ray * math.pi / 6)
        brush.line([(31 + 7 * x, 22 + 9 * y), (31 + 9 * x, 22 + 12 * y)], (252, 206, 72), 1.4)
    brush.disc(31, 22, 7.5, (254, 220, 90))


def _paint_moon(brush: Brush) -> None:
    brush.disc(31, 22, 9, (250, 246, 224))
    for x, y, radius in ((29, 19, 1.8), (33, 24, 2.4), (30, 27, 1.2)):
        brush.disc(x, y, radius, (226, 220, 196))


def _paint_rainbow(brush: Brush) -> None:
    for ring, name in enumerate(("red", "orange", "yellow", "green", "blue", "purple")):
        grow = 2.2 * ring
        brush.arc((6 + grow, 8 + grow, 94 - grow, 110 - grow), 180, 360, shade(COLOURS[name], 1.25), 2.4)


@dataclass(frozen=True)
class Place:
    """A place."""

    paint: Callable[[Brush, Random], None]
    phrase: str
    ground: tuple[float, float]  # highest and lowest line for the lower edge of things, in picture heights


PLACES: Final[dict[str, Place]] = {
    "grass": Place(_paint_grass, "on the grass", (0.72, 0.86)),
    "beach": Place(_paint_beach, "on the beach", (0.74, 0.86)),
    "street": Place(_paint_street, "on the street", (0.72, 0.84)),
    "snow": Place(_paint_snow, "in the snow", (0.72, 0.86)),
    "room": Place(_paint_room, "in a room", (0.74, 0.86)),
    "sea": Place(_paint_sea, "in the sea", (0.62, 0.82)),
    "sky": Place(_paint_sky, "in the sky", (0.5, 0.8)),
}
"""Every place by its name, which is also an object class."""

RARITIES: Final = {"sun": _paint_sun, "moon": _paint_moon, "rainbow": _paint_rainbow}
"""Things in few pictures only, so that they are not among the most common objects."""


def paint_place(name: str, seed: str, width: int, height: int, rarity: str | None = None) -> Image.Image:
    """Paint a place: RGB, `width` by `height` pixels. The same seed has the same hills and houses."""
    canvas = Image.new("RGB", (width * _OVERSAMPLE, height * _OVERSAMPLE))
    brush = Brush(canvas)
    PLACES[name].paint(brush, Random(seed))
    if rarity is not None:
        RARITIES[rarity](brush)
    return canvas.reduce(_OVERSAMPLE)
