"""Boxes of masks, grown boxes and drawn boxes: upstream's arithmetic, to the pixel."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Box(NamedTuple):
    """The smallest and largest column (x) and row (y) of an object, both ends inclusive, in pixels."""

    x0: int
    y0: int
    x1: int
    y1: int


class Region(NamedTuple):
    """Columns `left` to `right` and rows `top` to `bottom` of an image, the latter two excluded, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return this part of an image, shape (height, width, ...). It may have no pixels."""
        return pixels[self.top : self.bottom, self.left : self.right]


def find_box(mask: NDArray[np.bool_]) -> Box | None:
    """Return the box of the set pixels of a mask, shape (height, width), or None if none is set."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    first, last = int(rows[0]), int(rows[-1])
    columns = np.flatnonzero(mask[first : last + 1].any(axis=0))
    return Box(int(columns[0]), first, int(columns[-1]), last)


def tight_region(box: Box) -> Region:
    """Return the region of a few-shot crop.

    The box's ends are inclusive and the slice's are not, so the object's last row and column are left out (upstream
    rule A1; PALAVRA embeds these crops, so they stay as they are).
    """
    return Region(*box)


def grow_box(box: Box, width: int, height: int) -> Region:
    """Return the region of a retrieval crop in a frame of `width` by `height` pixels.

    The box grows by half its width and height on every side, is clipped to 0 and to width and height (not to the last
    pixel), and only then truncated (upstream rule A2).
    """
    half_width, half_height = 0.5 * (box.x1 - box.x0), 0.5 * (box.y1 - box.y0)
    return Region(
        int(max(box.x0 - half_width, 0)),
        int(max(box.y0 - half_height, 0)),
        int(min(box.x1 + half_width, width)),
        int(min(box.y1 + half_height, height)),
    )


def draw_band(pixels: NDArray[np.uint8], box: Box, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return an image, shape (height, width, 3 or more), with a box drawn over its first three channels.

    Every edge is a band of 3 pixels centred on its line. On the middle row or column it is one pixel longer at both
    ends (upstream rule A15: what OpenCV draws for thickness 2). Parts outside the image are not drawn.
    """
    drawn = pixels.copy()

    def fill(left: int, top: int, right: int, bottom: int) -> None:
        drawn[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0), :3] = colour

    for y in (box.y0, box.y1):
        fill(box.x0, y - 1, box.x1, y + 1)
        fill(box.x0 - 1, y, box.x1 + 1, y)
    for x in (box.x0, box.x1):
        fill(x - 1, box.y0, x + 1, box.y1)
        fill(x, box.y0 - 1, x, box.y1 + 1)
    return drawn
