"""Brushes and stamps: colours, shapes, smooth edges, shadows, grain and JPEG.

A stamp is one thing painted on a transparent tile, ready to be pasted into a picture.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
_Point = tuple[float, float]
Marking = Literal["plain", "striped", "spotted"]

COLOURS: Final[dict[str, Colour]] = {
    "red": (206, 54, 50), "orange": (236, 138, 44), "yellow": (244, 204, 70), "green": (74, 156, 82),
    "blue": (56, 112, 204), "purple": (128, 82, 172), "pink": (238, 138, 172), "brown": (146, 96, 58),
    "black": (56, 56, 64), "white": (244, 242, 236), "grey": (150, 154, 162),
}  # fmt: skip
"""The colours that captions name, as RGB."""

INK: Final[Colour] = (38, 34, 40)
_OVERSAMPLE = 2.5


def shade(colour: Colour, factor: float) -> Colour:
    """Return `colour` darker (factor below 1) or lighter (above 1), kept within 0 to 255."""
    if factor <= 1:
        red, green, blue = (round(c * factor) for c in colour)
    else:
        red, green, blue = (round(255 - (255 - c) * (2 - factor)) for c in colour)
    return red, green, blue


class Brush:
    """Paints on an image in units of a hundredth of its width and height, whatever its size in pixels."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)
        self._x, self._y = image.width / 100, image.height / 100

    def _place(self, points: Sequence[_Point]) -> list[_Point]:
        return [(x * self._x, y * self._y) for x, y in points]

    def _width(self, width: float) -> int:
        return max(1, round(width * self._y))

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill the ellipse within a box."""
        self._draw.ellipse(self._place([(x0, y0), (x1, y1)]), fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fill a true circle. The radius is in hundredths of the height."""
        cx, cy, r = x * self._x, y * self._y, radius * self._y
        self._draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=colour)

    def polygon(self, points: Sequence[_Point], colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._place(points), fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, *, corner: float = 0) -> None:
        """Fill a rectangle with rounded corners."""
        self._draw.rounded_rectangle(self._place([(x0, y0), (x1, y1)]), radius=corner * self._y, fill=colour)

    def line(self, points: Sequence[_Point], colour: Colour, width: float) -> None:
        """Draw a line with round ends and joints."""
        self._draw.line(self._place(points), fill=colour, width=self._width(width), joint="curve")
        for x, y in (points[0], points[-1]):
            self.disc(x, y, width / 2, colour)

    def arc(self, box: tuple[float, float, float, float], start: float, end: float, colour: Colour, w: float) -> None:
        """Draw a part of an ellipse's edge, `w` wide. Angles are in degrees, clockwise from three o'clock."""
        x0, y0, x1, y1 = box
        self._draw.arc(self._place([(x0, y0), (x1, y1)]), start, end, fill=colour, width=self._width(w))

    def slice(self, box: tuple[float, float, float, float], start: float, end: float, colour: Colour) -> None:
        """Fill a slice of an ellipse. Angles are as in `arc`."""
        x0, y0, x1, y1 = box
        self._draw.pieslice(self._place([(x0, y0), (x1, y1)]), start, end, fill=colour)

    def cloth(self, points: Sequence[_Point], colour: Colour, marking: Marking, accent: Colour) -> None:
        """Fill a polygon with cloth: plain, striped across, or spotted."""
        if marking == "plain":
            self.polygon(points, colour)
            return
        pattern = Image.new("RGB", self.image.size, colour)
        brush = Brush(pattern)
        for row in range(0, 100, 6):
            if marking == "striped":
                brush.box(0, row, 100, row + 2.6, accent)
            else:
                for column in range(0, 100, 7):
                    brush.disc(column + (row % 12) / 2, row, 1.7, accent)
        mask = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(mask).polygon(self._place(points), fill=255)
        self.image.paste(pattern, (0, 0), mask)


@dataclass(frozen=True)
class Look:
    """Appearance of a thing. It differs between things of one class."""

    colour: str  # a key of `COLOURS`
    marking: Marking = "plain"
    accent: Colour = COLOURS["white"]  # of the markings and of smaller parts
    phase: float = 0.0  # of the movement of legs, wings and fins, in radians
    flip: bool = False  # faces left instead of right
    tilt: float = 0.0  # degrees, counter-clockwise
    outfit: object = None  # `creatures.Outfit` of a person

    @property
    def rgb(self) -> Colour:
        """The main colour."""
        return COLOURS[self.colour]

    @property
    def dark(self) -> Colour:
        """A darker main colour, for parts further away."""
        return shade(self.rgb, 0.72)

    @property
    def light(self) -> Colour:
        """A lighter main colour, for parts in the light."""
        return shade(self.rgb, 1.3)

    @property
    def swing(self) -> float:
        """Swing of a limb, -1 to 1."""
        return math.sin(self.phase)


Painter = Callable[[Brush, Look], None]


@cache
def _light() -> Image.Image:
    """Light from above: a grey ramp to multiply a stamp with."""
    ramp = np.linspace(255, 205, 100).astype(np.uint8)
    return Image.fromarray(np.repeat(ramp[:, None], 4, axis=1)).convert("RGB")


@cache
def _soft_disc() -> Image.Image:
    """A round shadow with a soft edge, as a mask of 96 by 96 pixels."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    return Image.fromarray((np.clip(1.05 - np.hypot(x, y), 0, 1) * 150).astype(np.uint8))


def paint_stamp(painter: Painter, look: Look, size: int) -> Image.Image:
    """Paint a thing on a transparent tile (RGBA, `size` by `size` pixels): smooth edges, outline, light from above."""
    fine = max(64, round(size * _OVERSAMPLE))
    tile = Image.new("RGBA", (fine, fine), (0, 0, 0, 0))
    painter(Brush(tile), look)
    if look.flip:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if look.tilt:
        tile = tile.rotate(look.tilt, Image.Resampling.BILINEAR)
    tile = tile.resize((size, size), Image.Resampling.HAMMING)
    alpha = tile.getchannel("A")
    lit = ImageChops.multiply(tile.convert("RGB"), _light().resize(tile.size))
    contour = alpha.filter(ImageFilter.MaxFilter(3))
    stamp = Image.composite(lit, Image.new("RGB", tile.size, INK), alpha)
    stamp.putalpha(ImageChops.lighter(alpha, contour.point(lambda a: a * 7 // 10)))
    return stamp


def cast_shadow(picture: Image.Image, x: float, y: float, width: float) -> None:
    """Darken the ground around (x, y), in pixels, under a thing `width` pixels wide."""
    w, h = max(4, round(width)), max(3, round(width * 0.24))
    picture.paste((20, 24, 30), (round(x - w / 2), round(y - h / 2)), _soft_disc().resize((w, h)))


def add_grain(picture: Image.Image, seed: int, strength: float = 5.0) -> Image.Image:
    """Add the grain of a camera: noise of `strength` grey levels and a slow change of light."""
    random = np.random.default_rng(seed)
    height, width = picture.height, picture.width
    coarse = random.normal(0, 7, (4, 5)).astype(np.float32)
    slow = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = random.standard_normal((height, width), dtype=np.float32) * strength + slow
    pixels = np.asarray(picture, dtype=np.float32) + noise[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode_jpeg(picture: Image.Image, quality: int = 88) -> bytes:
    """Return the picture as JPEG bytes (the same for the same version of Pillow)."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
