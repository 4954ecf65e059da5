"""Curves as SVG: valid, without a script, and inside the image whatever the values are."""

import re
from xml.etree.ElementTree import tostring

from hypothesis import given
from hypothesis import strategies as st

from pervl_assets.core.plots import draw_curves


def list_lines(svg) -> list[list[tuple[float, float]]]:
    """Return the points of every coloured line."""
    paths = [path.get("d") for path in svg.iter() if path.get("stroke-width")]
    return [[tuple(map(float, point.split())) for point in re.split("[ML]", path)[1:]] for path in paths]


def test_a_falling_loss_is_a_falling_line():
    svg = draw_curves({"cycle": [3.0, 2.0, 1.0]}, "epoch")
    (line,) = list_lines(svg)
    xs, ys = zip(*line[1:], strict=True)
    assert sorted(xs) == list(xs)
    assert sorted(ys) == list(ys)  # SVG counts from the top
    texts = [text.text for text in svg.iter("text")]
    assert texts[-3:] == ["epoch 1", "3", "cycle"]
    assert texts[:-3] == ["1", "1.5", "2", "2.5", "3"]


def test_names_are_text_and_values_that_are_no_numbers_are_left_out():
    svg = draw_curves({"<script>&": [float("nan"), 1.0, float("inf")], "none": []}, "step")
    assert [len(line) for line in list_lines(svg)] == [2]
    assert {element.tag for element in svg.iter()} == {"svg", "path", "text"}
    assert b">&lt;script&gt;&amp;</text>" in tostring(svg)


def test_a_long_training_is_drawn_with_as_many_points_as_can_be_seen():
    svg = draw_curves({"cycle": [1 / step for step in range(1, 100_001)]}, "epoch")
    (line,) = list_lines(svg)
    assert 200 < len(line) < 500
    assert line[-1][0] > 460
    assert "100,000" in [text.text for text in svg.iter("text")]


@given(st.dictionaries(st.text("abc", max_size=40), st.lists(st.floats(), max_size=5), max_size=8))
def test_all_values_are_inside_the_image(curves):
    svg = draw_curves(curves, "step")
    width, height = int(svg.get("width")), int(svg.get("height"))
    for line in list_lines(svg):
        assert all(0 <= x <= width and 0 <= y <= height for x, y in line)
    assert all(float(text.get("y")) <= height for text in svg.iter("text"))
