"""Curves as SVG without a script, for asset pages of the Dagster UI and for the report."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from xml.etree.ElementTree import Element, SubElement

_WIDTH: Final = 480
_HEIGHT: Final = 180
"""Height of the axis. All sizes are pixels."""

_LEFT: Final = 52
_MARGIN: Final = 14
_LINE: Final = 18
"""Height of a line of text."""

_LETTER: Final = 7
"""Width of a letter of the legend, or a little more."""

_TICKS: Final = 4
_LARGEST: Final = 1e30
_INK: Final = "#7a7a82"
_COLOURS: Final = ("#3b82f6", "#f97316", "#10b981", "#ec4899", "#8b5cf6", "#ca8a04")
"""They and `_INK` can be seen on white and on black."""


def draw_curves(curves: Mapping[str, Sequence[float]], steps: str) -> Element:
    """Draw curves over one axis of steps, which are counted from 1.

    Example: `tostring(draw_curves({"cycle": [2.1, 1.4, 1.2]}, "epoch"))` is an image file.

    Args:
        curves: Values by name, one per step. NaN and numbers beyond 1e30 are left out; of many steps some are drawn.
        steps: Name of a step.

    Returns:
        An `svg` element with a transparent background.
    """
    points = {name: _list_points(values) for name, values in curves.items()}
    ticks = _choose_ticks([value for curve in points.values() for _, value in curve])
    last = max((step for curve in points.values() for step, _ in curve), default=1)
    legend = list(_place_legend(curves))
    height = _MARGIN + _HEIGHT + 2 * _LINE + max((top for _, top in legend), default=0) + _LINE
    svg = _start(height, f"{', '.join(curves)} by {steps}")

    def place(step: int, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - _MARGIN) * (step - 1) / max(last - 1, 1)
        return f"{x:.1f} {_MARGIN + _HEIGHT * (ticks[-1] - value) / (ticks[-1] - ticks[0]):.1f}"

    for tick in ticks:
        SubElement(svg, "path", {"d": f"M{place(1, tick)}H{_WIDTH - _MARGIN}", "stroke": _INK, "stroke-opacity": "0.3"})
        _add_text(svg, f"{tick:.3g}", _LEFT - 6, float(place(1, tick).split()[1]) + 4, anchor="end")
    bottom = _MARGIN + _HEIGHT + _LINE
    _add_text(svg, f"{steps} 1", _LEFT, bottom)
    _add_text(svg, f"{last:,}" if last > 1 else "", _WIDTH - _MARGIN, bottom, anchor="end")
    for row, ((name, curve), (left, top)) in enumerate(zip(points.items(), legend, strict=True)):
        colour = _COLOURS[row % len(_COLOURS)]
        if curve:  # a line of no length is a dot, because its ends are round
            line = {"fill": "none", "stroke": colour, "stroke-width": "2", "stroke-linecap": "round"}
            SubElement(svg, "path", {"d": f"M{'L'.join(place(*point) for point in (curve[0], *curve))}", **line})
        _add_text(svg, name, left, bottom + _LINE + top, colour)
    return svg


def _start(height: int, label: str) -> Element:
    return Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_WIDTH} {height}",
            "width": str(_WIDTH),
            "height": str(height),
            "font-family": "system-ui, sans-serif",
            "font-size": "12",
            "role": "img",
            "aria-label": label,
        },
    )


def _list_points(values: Sequence[float]) -> list[tuple[int, float]]:
    points = [(step, value) for step, value in enumerate(values, 1) if abs(value) < _LARGEST]
    return [*points[: -1 : 1 + len(points) // _WIDTH], *points[-1:]]


def _choose_ticks(values: Sequence[float]) -> list[float]:
    """Return round numbers at equal distances, the first and the last of which enclose all values."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        high, low = high + max(abs(high), 1) / 2, low - max(abs(low), 1) / 2
    power = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor * _TICKS >= high - low)
    return [row * step for row in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _place_legend(names: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield the place of each name: left, and below the first line."""
    left, top = _LEFT, 0
    for name in names:
        width = _LETTER * len(name)
        if left > _LEFT and left + width > _WIDTH:
            left, top = _LEFT, top + _LINE
        yield left, top
        left += width + 2 * _MARGIN


def _add_text(svg: Element, text: str, x: float, y: float, colour: str = _INK, anchor: str = "start") -> None:
    SubElement(svg, "text", {"x": str(x), "y": f"{y:.1f}", "text-anchor": anchor, "fill": colour}).text = text
