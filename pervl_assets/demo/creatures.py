"""Painters of animals and people: each paints one, facing right, standing on the lower edge of a 100 x 100 tile."""

from dataclasses import dataclass
from typing import Final

from pervl_assets.demo.drawing import COLOURS, INK, Brush, Colour, Look, Marking, Painter, shade

_WHITE: Final[Colour] = (250, 250, 248)
_BEAK: Final[Colour] = (240, 160, 50)
_PINK: Final[Colour] = (240, 160, 160)


def _paint_eye(brush: Brush, x: float, y: float, radius: float = 3.4) -> None:
    brush.disc(x, y, radius, _WHITE)
    brush.disc(x + radius * 0.3, y, radius * 0.6, INK)


def _paint_markings(brush: Brush, look: Look, box: tuple[float, float, float, float]) -> None:
    """Paint stripes or spots on a body that fills about this box."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    if look.marking == "striped":
        for part in (0.25, 0.45, 0.65):
            x = x0 + part * width
            brush.line([(x, y0 + 0.12 * height), (x + 0.05 * width, y1 - 0.16 * height)], look.accent, 4)
    elif look.marking == "spotted":
        for part_x, part_y, radius in ((0.22, 0.4, 5), (0.45, 0.62, 6), (0.55, 0.28, 4.5), (0.76, 0.52, 5)):
            brush.disc(x0 + part_x * width, y0 + part_y * height, radius, look.accent)


def _move_legs(
    look: Look, swing: float, far: tuple[float, float], near: tuple[float, float]
) -> list[tuple[float, float, Colour]]:
    """Return place, step and colour of four legs. Legs side by side step in opposite directions."""
    colours = (look.dark, look.dark, look.rgb, look.rgb)
    return [*zip((*far, *near), (-swing, swing, swing, -swing), colours, strict=True)]


def _paint_dog(brush: Brush, look: Look) -> None:
    swing = 5 * look.swing
    for x, step, colour in _move_legs(look, swing, (28, 58), (34, 65)):
        brush.line([(x, 66), (x + step, 92)], colour, 9)
        brush.ellipse(x + step - 4, 89, x + step + 8, 97, colour)
    brush.line([(20, 52), (10, 42), (7 + look.swing * 2, 28)], look.rgb, 7)
    brush.ellipse(14, 44, 74, 78, look.rgb)
    brush.polygon([(54, 48), (64, 26), (86, 38), (72, 70)], look.rgb)
    _paint_markings(brush, look, (16, 45, 66, 77))
    brush.disc(73, 31, 16, look.rgb)
    brush.ellipse(76, 29, 99, 46, look.light)
    brush.disc(95.5, 33.5, 3.6, INK)
    brush.arc((82, 32, 95, 43), 30, 140, INK, 1.4)
    _paint_eye(brush, 78, 27)
    brush.ellipse(57, 19, 70, 49, look.dark)
    brush.line([(64, 49), (76, 52)], COLOURS["red"], 4)


def _paint_cat(brush: Brush, look: Look) -> None:
    brush.arc((58, 46, 98, 92), -80 + 12 * look.swing, 120, look.dark, 8)
    brush.ellipse(26, 44, 76, 98, look.rgb)
    brush.ellipse(39, 60, 63, 96, look.light)
    _paint_markings(brush, look, (24, 56, 78, 96))
    for x in (34, 54):
        brush.ellipse(x, 86, x + 14, 98, look.light)
    for left, tip, right in ((25, 23, 44), (77, 79, 58)):
        brush.polygon([(left, 34), (tip, 2), (right, 16)], look.rgb)
        brush.polygon([(left + (right - left) * 0.2, 26), (tip, 8), (left + (right - left) * 0.7, 18)], _PINK)
    brush.ellipse(22, 12, 80, 58, look.rgb)
    if look.marking == "striped":
        for x in (45, 51, 57):
            brush.line([(x, 14), (x, 23)], look.accent, 3)
    brush.ellipse(38, 38, 64, 56, look.light)
    for x in (38, 64):
        brush.ellipse(x - 6, 26, x + 6, 39, (190, 220, 110))
        brush.ellipse(x - 1.8, 27, x + 1.8, 38, INK)
    brush.polygon([(47, 40), (55, 40), (51, 45)], (225, 110, 120))
    for side in (-1, 1):
        brush.line([(51, 45), (51 + side * 5, 49)], INK, 1.2)
        for rise in (0, 5):
            brush.line([(51 + side * 12, 46 + rise / 2), (51 + side * 34, 43 + rise)], (90, 90, 96), 1)


def _paint_horse(brush: Brush, look: Look) -> None:
    swing = 6 * look.swing
    mane = shade(look.rgb, 0.45)
    for x, step, colour in _move_legs(look, -swing, (26, 58), (32, 64)):
        brush.line([(x, 58), (x + step * 0.3, 76), (x + step, 93)], colour, 7)
        brush.box(x + step - 4.5, 91, x + step + 5.5, 98, INK, corner=1)
    brush.line([(20, 46), (10, 56), (9 + swing * 0.5, 76)], mane, 8)
    brush.ellipse(16, 36, 72, 68, look.rgb)
    brush.polygon([(52, 48), (67, 12), (82, 18), (72, 60)], look.rgb)
    _paint_markings(brush, look, (18, 37, 64, 67))
    brush.polygon([(68, 10), (80, 8), (97, 28), (92, 35), (84, 34), (72, 26)], look.rgb)
    brush.disc(92.5, 31, 5.5, look.light)
    brush.disc(94, 30, 1.4, INK)
    brush.polygon([(72, 11), (74, 1), (79, 10)], look.rgb)
    brush.line([(70, 8), (60, 22), (54, 44)], mane, 7)
    _paint_eye(brush, 80, 17, 2.8)


def _paint_elephant(brush: Brush, look: Look) -> None:
    swing = 3 * look.swing
    for x, step, colour in _move_legs(look, -swing, (28, 56), (18, 46)):
        brush.box(x + step, 62, x + step + 13, 97, colour, corner=4)
        brush.box(x + step + 5, 93, x + step + 13, 97, look.light, corner=2)
    brush.line([(12, 46), (6, 56), (7 + swing, 68)], look.dark, 3)
    brush.ellipse(8, 24, 70, 80, look.rgb)
    _paint_markings(brush, look, (10, 30, 56, 76))
    brush.line([(86, 38), (92, 56), (91, 76), (96 + swing / 2, 84)], look.rgb, 10)
    brush.ellipse(56, 18, 94, 60, look.rgb)
    brush.line([(84, 56), (88, 66), (97, 66)], _WHITE, 4)
    brush.ellipse(46, 16, 76, 62, look.dark)
    brush.ellipse(50, 21, 72, 57, shade(look.rgb, 0.86))
    _paint_eye(brush, 83, 35, 3)


def _paint_bird(brush: Brush, look: Look) -> None:
    brush.polygon([(26, 58), (2, 52), (4, 62), (1, 70), (26, 70)], look.dark)
    for x in (44, 54):
        brush.line([(x, 76), (x - 3, 95)], _BEAK, 2.4)
        brush.line([(x - 7, 96), (x + 5, 96)], _BEAK, 2.4)
    brush.ellipse(18, 42, 74, 84, look.rgb)
    brush.ellipse(32, 60, 70, 83, look.light)
    brush.disc(72, 42, 16, look.rgb)
    brush.polygon([(85, 37), (99, 43), (85, 48)], _BEAK)
    _paint_eye(brush, 77, 38, 4)
    lift = 30 * look.swing
    brush.polygon([(60, 52), (40, 20 - lift * 0.4), (22, 12 - lift * 0.2), (24, 30), (12, 34), (26, 62)], look.dark)
    _paint_markings(brush, look, (22, 30, 58, 62))


def _paint_fish(brush: Brush, look: Look) -> None:
    wave = 6 * look.swing
    brush.polygon([(24, 50), (2, 26 + wave), (9, 50 + wave / 2), (2, 76 + wave)], look.dark)
    brush.polygon([(36, 32), (50, 10), (72, 28)], look.dark)
    brush.polygon([(44, 68), (52, 86), (66, 70)], look.dark)
    brush.ellipse(16, 24, 96, 76, look.rgb)
    brush.slice((16, 24, 96, 76), 20, 160, look.light)
    _paint_markings(brush, look, (20, 22, 84, 78))
    brush.polygon([(54, 50), (38, 60 + wave / 2), (42, 48), (38, 40 + wave / 2)], look.dark)
    _paint_eye(brush, 81, 43, 5)
    brush.arc((84, 48, 98, 62), 110, 200, INK, 1.6)


def _paint_turtle(brush: Brush, look: Look) -> None:
    skin = (150, 176, 96)
    swing = 5 * look.swing
    brush.polygon([(2, 84), (16, 72), (20, 84)], skin)
    brush.line([(68, 78), (84, 62)], skin, 11)
    brush.disc(87, 58, 11, skin)
    _paint_eye(brush, 90, 55, 3)
    brush.arc((86, 56, 97, 66), 40, 130, INK, 1.4)
    for x, step in ((26, swing), (64, -swing)):
        brush.polygon([(x - 9, 76), (x + 9, 76), (x + 8 + step, 97), (x - 6 + step, 97)], shade(skin, 0.85))
    brush.slice((10, 26, 80, 134), 180, 360, look.rgb)
    for points in (
        [(36, 38), (54, 38), (60, 54), (45, 64), (30, 54)],
        [(15, 68), (26, 56), (39, 68), (26, 74), (16, 74)],
        [(75, 68), (64, 56), (51, 68), (64, 74), (74, 74)],
    ):
        brush.polygon(points, look.light if look.marking == "plain" else look.accent)
    brush.box(7, 75, 83, 83, look.dark, corner=4)


@dataclass(frozen=True)
class Outfit:
    """Clothes and looks of a person."""

    category: str  # the garment, one of `GARMENTS`. It has the colour in captions
    colour: Colour
    marking: Marking
    accent: Colour  # of the marking
    other: Colour  # of the other clothes
    skin: Colour
    hair: Colour
    long_hair: bool  # to the shoulders
    arms: tuple[float, float] = (0.0, 0.0)  # height of the two hands: 0 hanging, 1 stretched up


GARMENTS: Final = (
    "short sleeve top", "long sleeve top", "short sleeve outwear", "long sleeve outwear", "vest", "sling", "shorts",
    "trousers", "skirt", "short sleeve dress", "long sleeve dress", "vest dress", "sling dress",
)  # fmt: skip
"""The garment categories of DeepFashion2."""

_TORSO: Final = [(37.0, 25.0), (44.0, 22.5), (56.0, 22.5), (63.0, 25.0), (61.0, 56.0), (39.0, 56.0)]
_SLING: Final = [(40.0, 29.0), (60.0, 29.0), (61.0, 56.0), (39.0, 56.0)]
_SKIRT: Final = [(40.0, 52.0), (60.0, 52.0), (70.0, 75.0), (30.0, 75.0)]


def _paint_legs(brush: Brush, outfit: Outfit, swing: float) -> None:
    colour = outfit.colour if outfit.category in ("trousers", "shorts", "skirt") else outfit.other
    bare = outfit.category in ("skirt", "shorts") or "dress" in outfit.category
    for x, step in ((45, -swing), (55, swing)):
        foot = x + step
        brush.line([(x, 56), (foot, 92)], outfit.skin if bare else colour, 7.5 if bare else 9.5)
        brush.ellipse(foot - 4, 91, foot + 8, 98, INK)
        hems = {"shorts": (x + step * 0.4, 6.5, 70), "trousers": (foot, 5.5, 91)}
        if outfit.category in hems:
            hem, half, y = hems[outfit.category]
            leg = [(x - 6, 53), (x + 6, 53), (hem + half, y), (hem - half, y)]
            brush.cloth(leg, colour, outfit.marking, outfit.accent)
    if outfit.category == "skirt":
        brush.cloth(_SKIRT, colour, outfit.marking, outfit.accent)


def _paint_upper(brush: Brush, outfit: Outfit) -> None:
    category = outfit.category
    worn = category not in ("trousers", "shorts", "skirt")
    colour = outfit.colour if worn else outfit.other
    marking: Marking = outfit.marking if worn else "plain"
    sleeve = 1.0 if "long" in category else 0.45 if "short sleeve" in category or not worn else 0.0
    for shoulder, side, height in ((38.5, -1, outfit.arms[0]), (61.5, 1, outfit.arms[1])):
        elbow = (shoulder + side * (7 + 3 * height), 41 - 16 * height)
        hand = (shoulder + side * (8 + 6 * height), 56 - 44 * height)
        brush.line([(shoulder, 27), elbow, hand], outfit.skin, 6)
        if sleeve:
            upper = [(shoulder, 27.0), elbow] + ([hand] if sleeve == 1.0 else [])
            brush.line(upper, colour, 8)
            if sleeve == 1.0:
                brush.disc(hand[0], hand[1], 3.4, outfit.skin)
    brush.polygon(_TORSO, outfit.skin)
    if "sling" in category:
        brush.cloth(_SLING, colour, marking, outfit.accent)
        for x in (43, 57):
            brush.line([(x, 23), (x, 30)], colour, 1.6)
    else:
        brush.cloth(_TORSO, colour, marking, outfit.accent)
    if "dress" in category:
        brush.cloth(_SKIRT, colour, marking, outfit.accent)
        brush.box(39.5, 51, 60.5, 54, shade(colour, 0.7))
    if "outwear" in category:
        brush.polygon([(46, 22.5), (54, 22.5), (52.5, 57), (47.5, 57)], outfit.other)
        brush.cloth([(38.5, 54), (47.5, 54), (47, 64), (37, 64)], colour, marking, outfit.accent)
        brush.cloth([(52.5, 54), (61.5, 54), (63, 64), (53, 64)], colour, marking, outfit.accent)


def _paint_person(brush: Brush, look: Look) -> None:
    outfit = look.outfit
    if not isinstance(outfit, Outfit):
        outfit = Outfit(
            "long sleeve top", look.rgb, look.marking, look.accent, (62, 76, 110), (226, 178, 142), (84, 56, 40), False
        )
    if outfit.long_hair:
        brush.box(40.5, 7, 59.5, 30, outfit.hair, corner=6)
    _paint_legs(brush, outfit, 2.5 + 2.5 * look.swing)
    brush.box(46.5, 18, 53.5, 26, shade(outfit.skin, 0.88), corner=1)
    _paint_upper(brush, outfit)
    brush.ellipse(41.5, 3, 58.5, 22, outfit.skin)
    brush.slice((40.5, 1, 59.5, 20), 180, 360, outfit.hair)
    for x in (46.5, 54.5):
        brush.disc(x, 13, 1.2, INK)
    brush.arc((46, 12, 55, 19), 25, 155, (170, 70, 70), 1)


CREATURES: Final[dict[str, Painter]] = {
    "dog": _paint_dog, "cat": _paint_cat, "horse": _paint_horse, "elephant": _paint_elephant, "bird": _paint_bird,
    "fish": _paint_fish, "turtle": _paint_turtle, "person": _paint_person,
}  # fmt: skip
"""Painter of every creature, by class name."""
