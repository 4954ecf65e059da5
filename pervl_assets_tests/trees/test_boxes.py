"""The arithmetic of boxes, against definitions written another way, and against OpenCV's own pixels."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.trees.boxes import Box, Region, draw_band, find_box, grow_box, tight_region
from pervl_assets_tests.core.samples import draw_picture

OPENCV_BANDS = "1423335a0d668092308d19f6a9d3d83331d9a4b04a7e30f0a6fdc43f31b2380a"
"""sha256 of `cv2.rectangle(..., thickness=2)` in seven places, the same for OpenCV 4.5.5 and 5.0.0."""


@st.composite
def boxes_in_frames(draw):
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    xs = sorted(draw(st.tuples(st.integers(0, width - 1), st.integers(0, width - 1))))
    ys = sorted(draw(st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))))
    return Box(xs[0], ys[0], xs[1], ys[1]), width, height


def test_an_empty_mask_has_no_box():
    assert find_box(np.zeros((4, 5), bool)) is None


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 8)), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_box_is_the_inclusive_extent_of_the_set_pixels(points):
    mask = np.zeros((9, 12), bool)
    for x, y in points:
        mask[y, x] = True
    xs, ys = zip(*points, strict=True)
    assert find_box(mask) == (min(xs), min(ys), max(xs), max(ys))


def test_a_few_shot_crop_leaves_the_last_row_and_column_out():
    pixels = draw_picture(12, 9)
    crop = tight_region(Box(2, 3, 6, 5)).cut(pixels)
    assert np.array_equal(crop, pixels[3:5, 2:6])


def test_growth_is_truncated_after_clipping():
    assert grow_box(Box(10, 10, 15, 13), 100, 100) == Region(7, 8, 17, 14)  # 7.5, 8.5, 17.5, 14.5
    assert grow_box(Box(1, 0, 8, 9), 9, 10) == Region(0, 0, 9, 10)  # clipped to width and height, not to the last pixel
    assert grow_box(Box(5, 2, 5, 8), 20, 20).cut(draw_picture(20, 20)).size == 0


@given(boxes_in_frames())
@settings(max_examples=80, deadline=None)
def test_growth_agrees_with_whole_numbers(case):
    (x0, y0, x1, y1), width, height = case
    grown = grow_box(Box(x0, y0, x1, y1), width, height)
    # in half pixels, so that no fraction is left: 2 * (x0 - (x1 - x0) / 2) = 3 * x0 - x1
    assert grown == (
        max(3 * x0 - x1, 0) // 2,
        max(3 * y0 - y1, 0) // 2,
        min(3 * x1 - x0, 2 * width) // 2,
        min(3 * y1 - y0, 2 * height) // 2,
    )


@given(boxes_in_frames())
@settings(max_examples=80, deadline=None)
def test_the_band_is_the_outline_spread_by_a_plus(case):
    box, width, height = case
    outline = np.zeros((height + 2, width + 2), bool)
    outline[box.y0 + 1 : box.y1 + 2, box.x0 + 1 : box.x1 + 2] = True
    outline[box.y0 + 2 : box.y1 + 1, box.x0 + 2 : box.x1 + 1] = False
    spread = outline.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        spread |= np.roll(outline, step, axis)
    pixels = draw_picture(width, height)
    expected = np.where(spread[1:-1, 1:-1, None], np.uint8([255, 255, 0]), pixels)
    before = pixels.copy()
    assert np.array_equal(draw_band(pixels, box, (255, 255, 0)), expected)
    assert np.array_equal(pixels, before)


def test_the_band_is_what_opencv_draws():
    digest = hashlib.sha256()
    places = [
        (5, 4, 20, 15),
        (0, 0, 29, 19),
        (3, 3, 3, 3),
        (0, 7, 29, 7),
        (12, 0, 12, 19),
        (28, 18, 29, 19),
        (1, 1, 2, 2),
    ]
    for place in places:
        digest.update(draw_band(draw_picture(30, 20), Box(*place), (255, 255, 0)).tobytes())
    assert digest.hexdigest() == OPENCV_BANDS
