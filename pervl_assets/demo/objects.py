"""Painters of vehicles, furniture, plants and toys: each paints one on a 100 x 100 tile."""

import math
from typing import Final

from pervl_assets.demo.drawing import COLOURS, INK, Brush, Colour, Look, Painter, shade

_WHITE: Final[Colour] = (248, 248, 244)
_GLASS: Final[Colour] = (176, 216, 238)
_METAL: Final[Colour] = (176, 182, 190)
_WOOD: Final[Colour] = (150, 104, 62)
_LAMP: Final[Colour] = (255, 226, 130)


def _paint_wheel(brush: Brush, x: float, y: float, radius: float, turn: float = 0.0) -> None:
    brush.disc(x, y, radius, INK)
    brush.disc(x, y, radius * 0.58, _METAL)
    for spoke in range(3):
        angle = turn + spoke * math.pi / 3
        dx, dy = radius * 0.5 * math.cos(angle), radius * 0.5 * math.sin(angle)
        brush.line([(x - dx, y - dy), (x + dx, y + dy)], INK, 1.2)


def _paint_car(brush: Brush, look: Look) -> None:
    brush.slice((20, 34, 80, 106), 180, 360, look.rgb)
    brush.slice((27, 42, 73, 100), 180, 360, _GLASS)
    brush.box(48, 40, 52, 72, look.rgb)
    brush.box(3, 62, 97, 88, look.rgb, corner=8)
    brush.box(3, 78, 97, 88, look.dark, corner=4)
    if look.marking != "plain":
        brush.box(4, 70, 96, 75, look.accent)
    brush.ellipse(89, 65, 97, 74, _LAMP)
    brush.box(3, 66, 7, 74, COLOURS["red"], corner=1)
    brush.box(54, 73, 61, 75, look.dark)
    for x in (24, 76):
        _paint_wheel(brush, x, 86, 11.5, look.phase)


def _paint_bus(brush: Brush, look: Look) -> None:
    brush.box(1, 24, 99, 88, look.rgb, corner=6)
    brush.box(3, 22, 97, 30, look.light, corner=3)
    for x in (6, 22, 38, 54):
        brush.box(x, 34, x + 13, 54, _GLASS, corner=2)
    brush.box(70, 34, 82, 84, shade(_GLASS, 0.85), corner=2)
    brush.line([(76, 35), (76, 83)], look.dark, 1.4)
    brush.box(86, 34, 98, 56, _GLASS, corner=2)
    brush.box(2, 61, 68, 66, look.accent)
    brush.ellipse(92, 70, 98, 78, _LAMP)
    for x in (22, 86):
        _paint_wheel(brush, x, 87, 10, look.phase)


def _paint_train(brush: Brush, look: Look) -> None:
    for x, y, radius in ((70, 18, 5), (60, 11, 7), (46, 8, 8)):
        brush.disc(x + 3 * look.swing, y, radius, (214, 216, 222))
    brush.box(6, 30, 38, 80, look.rgb, corner=3)
    brush.box(2, 26, 42, 34, look.dark, corner=2)
    brush.box(13, 40, 31, 56, _GLASS, corner=2)
    brush.box(30, 46, 92, 80, look.rgb, corner=8)
    for x in (50, 66):
        brush.box(x, 46, x + 3, 80, look.accent)
    brush.polygon([(70, 46), (73, 26), (83, 26), (80, 46)], look.dark)
    brush.slice((50, 36, 64, 58), 180, 360, look.dark)
    brush.disc(91, 58, 5, _LAMP)
    brush.polygon([(88, 80), (99, 96), (84, 96)], INK)
    for x, radius in ((18, 12), (46, 9), (66, 9)):
        _paint_wheel(brush, x, 97 - radius, radius, look.phase)
    brush.line([(18, 87 + 3 * look.swing), (66, 88 + 3 * look.swing)], _METAL, 2.4)


def _paint_boat(brush: Brush, look: Look) -> None:
    brush.line([(48, 6), (48, 76)], _WOOD, 3.4)
    brush.polygon([(51, 8), (88, 66), (51, 66)], (250, 248, 240))
    if look.marking != "plain":
        brush.polygon([(51, 34), (67, 34), (74, 44), (51, 44)], look.accent)
    brush.polygon([(45, 18), (45, 66), (16, 66)], (232, 230, 224))
    brush.polygon([(48, 2), (62, 7), (48, 12)], look.rgb)
    brush.polygon([(4, 72), (96, 72), (82, 97), (18, 97)], look.rgb)
    brush.box(4, 72, 96, 77, look.light, corner=1)


def _paint_airplane(brush: Brush, look: Look) -> None:
    brush.polygon([(46, 46), (28, 20), (38, 20), (66, 46)], look.dark)
    brush.polygon([(16, 46), (4, 22), (14, 22), (30, 46)], look.rgb)
    brush.ellipse(4, 40, 98, 62, (244, 244, 246))
    brush.slice((4, 40, 98, 62), 10, 170, look.rgb)
    if look.marking != "plain":
        brush.box(22, 55, 82, 58, look.accent)
    brush.polygon([(84, 43), (93, 47), (83, 49)], (70, 110, 150))
    for x in range(24, 78, 7):
        brush.box(x, 45, x + 3.6, 49, (86, 130, 170), corner=1)
    brush.polygon([(42, 53), (66, 53), (34, 84), (24, 84)], look.dark)
    brush.polygon([(10, 50), (22, 50), (10, 62), (4, 62)], look.dark)
    brush.box(46, 64, 60, 71, _METAL, corner=3)


def _paint_bicycle(brush: Brush, look: Look) -> None:
    for x in (22, 78):
        brush.arc((x - 20, 57, x + 20, 97), 0, 360, INK, 3.6)
        for spoke in range(6):
            angle = look.phase + spoke * math.pi / 3
            brush.line([(x, 77), (x + 17 * math.cos(angle), 77 + 17 * math.sin(angle))], _METAL, 1)
    frame = look.rgb
    brush.line([(22, 77), (38, 50), (68, 50), (48, 77), (22, 77)], frame, 4.4)
    brush.line([(48, 77), (36, 44)], frame, 4.4)
    brush.line([(78, 77), (66, 40), (74, 34), (80, 38)], frame, 4.4)
    brush.box(28, 40, 44, 45, INK, corner=2)
    brush.disc(48, 77, 5, look.dark)


def _paint_umbrella(brush: Brush, look: Look) -> None:
    brush.line([(50, 12), (50, 88)], _WOOD, 3.4)
    brush.arc((50, 80, 64, 96), 0, 180, _WOOD, 3.4)
    brush.slice((4, 10, 96, 94), 180, 360, look.rgb)
    brush.slice((20, 10, 80, 94), 180, 360, look.light if look.marking == "plain" else look.accent)
    brush.slice((38, 10, 62, 94), 180, 360, look.rgb)
    for x, width in ((4, 16), (20, 18), (38, 24), (62, 18), (80, 16)):
        brush.slice((x, 47, x + width, 57), 180, 360, look.dark)
    brush.line([(50, 4), (50, 12)], _WOOD, 3)


def _paint_ball(brush: Brush, look: Look) -> None:
    brush.disc(50, 58, 38, look.rgb)
    for start in (200, 320, 80):
        brush.slice((12, 20, 88, 96), start + 20 * look.phase, start + 60 + 20 * look.phase, _WHITE)
    brush.disc(50, 58, 9, look.dark)
    brush.ellipse(30, 28, 44, 38, look.light)


def _paint_kite(brush: Brush, look: Look) -> None:
    tail = [(50.0, 62.0), (42.0 + 4 * look.swing, 74.0), (56.0, 84.0), (48.0 + 4 * look.swing, 97.0)]
    brush.line(tail, INK, 1.4)
    for x, y in tail[1:]:
        brush.polygon([(x - 6, y - 4), (x - 6, y + 4), (x + 6, y - 4), (x + 6, y + 4)], look.rgb)
    brush.polygon([(50, 2), (82, 28), (50, 64), (18, 28)], look.rgb)
    brush.polygon([(50, 2), (82, 28), (50, 28)], look.light)
    brush.polygon([(50, 64), (18, 28), (50, 28)], look.light)
    brush.line([(50, 2), (50, 64)], look.dark, 1.4)
    brush.line([(18, 28), (82, 28)], look.dark, 1.4)


def _paint_balloon(brush: Brush, look: Look) -> None:
    for x in (38, 62):
        brush.line([(x, 60), (44 + (x > 50) * 12, 82)], INK, 1.4)
    brush.ellipse(14, 2, 86, 66, look.rgb)
    brush.polygon([(20, 48), (80, 48), (60, 72), (40, 72)], look.rgb)
    brush.ellipse(30, 2, 70, 66, look.light if look.marking == "plain" else look.accent)
    brush.ellipse(42, 2, 58, 66, look.rgb)
    brush.polygon([(38, 62), (62, 62), (59, 73), (41, 73)], look.dark)
    brush.box(41, 80, 59, 96, _WOOD, corner=2)
    brush.box(40, 79, 60, 83, shade(_WOOD, 0.7), corner=1)


def _paint_cup(brush: Brush, look: Look) -> None:
    for x in (36, 50):
        brush.arc((x, 8, x + 8, 22), 90, 270, (226, 228, 232), 2)
        brush.arc((x, 20, x + 8, 34), 270, 450, (226, 228, 232), 2)
    brush.arc((62, 46, 92, 76), 0, 360, look.dark, 6)
    brush.ellipse(6, 84, 90, 98, look.light)
    brush.polygon([(16, 42), (76, 42), (66, 92), (26, 92)], look.rgb)
    if look.marking != "plain":
        brush.polygon([(18.5, 56), (73.5, 56), (71, 66), (21, 66)], look.accent)
    brush.ellipse(16, 36, 76, 49, look.light)
    brush.ellipse(20, 38.5, 72, 47, (92, 58, 38))


def _paint_cake(brush: Brush, look: Look) -> None:
    for x in (30, 50, 70):
        brush.box(x - 2, 20, x + 2, 42, _WHITE, corner=1)
        brush.ellipse(x - 3, 8 + 2 * look.swing, x + 3, 20, (255, 190, 70))
    brush.ellipse(4, 84, 96, 98, (222, 226, 232))
    brush.box(14, 46, 86, 92, (226, 186, 130), corner=5)
    brush.box(14, 66, 86, 71, (190, 110, 80))
    brush.box(14, 40, 86, 54, look.rgb, corner=6)
    for x in (14, 26, 38, 50, 62, 74):
        brush.ellipse(x, 47, x + 12, 63, look.rgb)
    for x in (24, 42, 60, 78):
        brush.disc(x, 40, 4, COLOURS["red"])


def _paint_chair(brush: Brush, look: Look) -> None:
    brush.line([(24, 4), (24, 96)], look.dark, 6)
    brush.line([(72, 60), (72, 96)], look.rgb, 6)
    brush.line([(34, 4), (34, 96)], look.rgb, 6)
    brush.line([(82, 62), (84, 96)], look.dark, 6)
    for y in (10, 24, 38):
        brush.box(21, y, 37, y + 7, look.light, corner=2)
    brush.polygon([(20, 56), (80, 56), (90, 66), (30, 66)], look.rgb)
    brush.polygon([(24, 54), (78, 54), (84, 60), (32, 60)], look.accent)


def _paint_tree(brush: Brush, look: Look) -> None:
    brush.polygon([(44, 97), (46, 50), (54, 50), (57, 97)], (118, 82, 52))
    brush.line([(50, 66), (64, 50)], (118, 82, 52), 4)
    for x, y, radius in ((32, 44, 20), (68, 44, 20), (50, 26, 24), (50, 46, 20)):
        brush.disc(x, y, radius, look.rgb)
    for x, y, radius in ((44, 20, 12), (30, 38, 9), (64, 36, 10)):
        brush.disc(x, y, radius, look.light)
    if look.marking != "plain":
        for x, y in ((30, 52), (48, 38), (66, 52), (58, 20), (40, 58)):
            brush.disc(x, y, 3.4, COLOURS["red"])


def _paint_flower(brush: Brush, look: Look) -> None:
    brush.line([(50, 40), (49, 68), (52, 96)], (70, 140, 70), 4)
    brush.polygon([(50, 80), (26, 62), (32, 80)], (84, 160, 80))
    brush.polygon([(51, 86), (76, 70), (70, 86)], (84, 160, 80))
    for petal in range(7):
        angle = petal * 2 * math.pi / 7 + 0.2 * look.swing
        brush.disc(50 + 20 * math.cos(angle), 32 + 20 * math.sin(angle), 12.5, look.rgb if petal % 2 else look.light)
    brush.disc(50, 32, 11, (250, 206, 70) if look.colour != "yellow" else (150, 96, 50))


OBJECTS: Final[dict[str, Painter]] = {
    "car": _paint_car, "bus": _paint_bus, "train": _paint_train, "boat": _paint_boat, "airplane": _paint_airplane,
    "bicycle": _paint_bicycle, "umbrella": _paint_umbrella, "ball": _paint_ball, "kite": _paint_kite,
    "balloon": _paint_balloon, "cup": _paint_cup, "cake": _paint_cake, "chair": _paint_chair, "tree": _paint_tree,
    "flower": _paint_flower,
}  # fmt: skip
"""Painter of every thing, by class name."""
