"""Parts of the partial resize; its pixels are compared with torchvision's in test_prepare_image."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pervl_assets.clip import resize
from pervl_assets.clip.prepare_image import plan_cut
from pervl_assets.clip.preprocessing import UPSTREAM, Preprocessing
from pervl_assets.clip.resize import measure_plain_jpeg, resize_plain_jpeg
from pervl_assets_tests.inversion.kit import draw_jpeg

BICUBIC = Image.Resampling.BICUBIC


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.booleans())
@example(300, 300, True)
def test_rows_that_are_called_needless_change_nothing(height, target, bilinear):
    count = min(target, 224)
    start = round((target - count) / 2)
    first, last = resize._find_needed(start, count, height, target)
    resample = Image.Resampling.BILINEAR if bilinear else BICUBIC
    column = np.random.default_rng(height).integers(0, 256, (height, 1), dtype=np.uint8)
    other = 255 - column
    other[first:last] = column[first:last]
    one, two = (np.asarray(Image.fromarray(each).resize((1, target), resample)) for each in (column, other))
    assert np.array_equal(one[start : start + count], two[start : start + count])
    assert last - first <= (count + 6) * max(1, height / target) + 6


@pytest.mark.parametrize("preprocessing", [UPSTREAM, Preprocessing("model", 336, 336, squash=True)], ids=str)
def test_where_rows_are_said_to_come_first_they_do(preprocessing):
    """The order changed with Pillow 13; should it change again, change `_goes_rows_first`."""
    random = np.random.default_rng(0)
    taken = 0
    for width, height in random.integers(200, 1000, (150, 2)).tolist():
        cut = plan_cut((width, height), preprocessing)
        if resize._goes_rows_first((width, height), cut):
            image = Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8))
            rows_first = image.resize((cut.width, height), BICUBIC).resize((cut.width, cut.height), BICUBIC)
            assert image.resize((cut.width, cut.height), BICUBIC).tobytes() == rows_first.tobytes(), (width, height)
            taken += 1
    assert taken > 75


@pytest.mark.parametrize(
    "data", [b"", b"no image", draw_jpeg(0, mode="L"), draw_jpeg(0, mode="CMYK"), draw_jpeg(0)[:20]], ids=len
)
def test_what_is_no_colour_jpeg_is_left_to_pillow(data):
    assert measure_plain_jpeg(data) is None


def test_a_colour_jpeg_with_a_fault_is_left_to_pillow():
    data = draw_jpeg(0)
    assert measure_plain_jpeg(data) == (80, 60)
    cut = plan_cut((80, 60), UPSTREAM)
    assert resize_plain_jpeg(data[:-40], (80, 60), cut, BICUBIC) is None
    assert resize_plain_jpeg(data, (80, 60), cut, BICUBIC) is not None
