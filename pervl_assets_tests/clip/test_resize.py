"""The parts of the quick way by themselves; its outcome is held against torchvision's in test_clip_preprocess."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pervl_assets.clip import resize as quick_resize
from pervl_assets.clip.prepare_image import plan_cut
from pervl_assets.clip.preprocessing import UPSTREAM, Preprocessing
from pervl_assets.clip.resize import measure_plain_jpeg, resize_plain_jpeg
from pervl_assets_tests.core.samples import draw_picture, save_jpeg
from pervl_assets_tests.inversion.kit import draw_jpeg

BICUBIC = Image.Resampling.BICUBIC


def draw_rows(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.booleans())
@example(300, 300, True)
def test_rows_that_are_called_needless_change_nothing(height, target, bilinear):
    count = min(target, 224)
    start = round((target - count) / 2)
    first, last = quick_resize._find_needed(start, count, height, target)
    resample = Image.Resampling.BILINEAR if bilinear else BICUBIC
    column = np.random.default_rng(height).integers(0, 256, (height, 1), dtype=np.uint8)
    other = 255 - column
    other[first:last] = column[first:last]
    one, two = (np.asarray(Image.fromarray(each).resize((1, target), resample)) for each in (column, other))
    assert np.array_equal(one[start : start + count], two[start : start + count])
    assert last - first <= (count + 6) * max(1, height / target) + 6


def test_the_fast_ways_first_pass_is_exact_at_every_width():
    for width in range(225, 1025):
        for height in (224, 300, 375, 480, 640):
            cut = plan_cut((width, height), UPSTREAM)
            rows = draw_rows(width, 4)
            whole = rows.resize((cut.width, 4), BICUBIC).crop((cut.left, 0, cut.left + cut.side, 4))
            assert quick_resize._resize_part(rows, cut, BICUBIC).tobytes() == whole.tobytes(), (width, height)


@pytest.mark.parametrize("preprocessing", [UPSTREAM, Preprocessing("model", 336, 336, squash=True)], ids=str)
def test_where_rows_are_said_to_come_first_they_do(preprocessing):
    """The order changed with Pillow 13; should it change again, this is the place to look."""
    random = np.random.default_rng(0)
    taken = 0
    for width, height in random.integers(200, 1000, (150, 2)).tolist():
        cut = plan_cut((width, height), preprocessing)
        if quick_resize._goes_rows_first((width, height), cut):
            image = Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8))
            rows_first = image.resize((cut.width, height), BICUBIC).resize((cut.width, cut.height), BICUBIC)
            assert image.resize((cut.width, cut.height), BICUBIC).tobytes() == rows_first.tobytes(), (width, height)
            taken += 1
    assert taken > 75


def test_of_a_row_no_more_is_made_than_whole_numbered_edges_ask_for(monkeypatch):
    made, resize = [], Image.Image.resize

    def note(image, size, *rest):
        made.append(size)
        return resize(image, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", note)
    for size, columns in (((640, 480), 230), ((640, 427), 449), ((480, 640), 230), ((427, 640), 300)):
        cut = plan_cut(size, UPSTREAM)
        resize_plain_jpeg(save_jpeg(draw_picture(*size)), size, cut, BICUBIC, exact=False)
        assert made[0][0] == columns
        assert columns % (cut.width // math.gcd(size[0], cut.width)) == 0
        made.clear()


@pytest.mark.parametrize(
    "data", [b"", b"no image", draw_jpeg(0, mode="L"), draw_jpeg(0, mode="CMYK"), draw_jpeg(0)[:20]], ids=len
)
def test_what_is_no_colour_jpeg_is_left_to_pillow(data):
    assert measure_plain_jpeg(data) is None


def test_a_colour_jpeg_with_a_fault_is_left_to_pillow():
    data = draw_jpeg(0)
    assert measure_plain_jpeg(data) == (80, 60)
    cut = plan_cut((80, 60), UPSTREAM)
    assert resize_plain_jpeg(data[:-40], (80, 60), cut, BICUBIC, exact=True) is None
    assert resize_plain_jpeg(data, (80, 60), cut, BICUBIC, exact=True) is not None
