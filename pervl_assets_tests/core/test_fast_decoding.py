"""The quick ways to an image's pixels give what Pillow gives, damaged files included."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pervl_assets.core import pixels
from pervl_assets.core.pixels import ImageError, decode_frame, decode_mask, measure_image
from pervl_assets_tests.core.samples import PALETTE, draw_picture, save_jpeg, save_mask

INDICES = (np.add.outer(np.arange(45), np.arange(37)) // 9 % 6).astype(np.uint8)
FRAME = save_jpeg(draw_picture(53, 41))
MASK = save_mask(INDICES)


def decode_slowly(data, modes):
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.asarray(image) if image.mode in modes else None
    except Exception:  # whatever Pillow stops at
        return None


def decode(function, data, *arguments):
    try:
        return function(data, *arguments)
    except ImageError:
        return None


def assert_equal(one, other):
    assert (one is None) == (other is None)
    assert one is None or np.array_equal(drop_fourth_byte(one), other)


def drop_fourth_byte(decoded):
    return decoded[..., :3] if decoded.ndim == 3 else decoded


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 30},
        {"progressive": True},
        {"optimize": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"restart_marker_rows": 1},
        {"keep_rgb": True},
        {"comment": b"hello"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (53, 41)], ids=str)
def test_frames_have_pillows_pixels(options, size):
    data = save_jpeg(draw_picture(*size), **options)
    assert_equal(decode_frame(data), decode_slowly(data, ("RGB",)))


TALL = draw_picture(67, 230)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"restart_marker_rows": 1},
        {"keep_rgb": True},
        {"exif": b"Exif\0\0" + save_jpeg(draw_picture(8, 8))},
    ],
    ids=",".join,
)
@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 100, 197, 198, 214, 230, 500])
def test_the_upper_rows_are_those_of_the_whole_frame(options, rows):
    data = save_jpeg(TALL, **options)
    part, whole = decode_frame(data, rows), decode_frame(data)
    assert part.shape == whole.shape
    assert np.array_equal(part[:rows, :, :3], whole[:rows, :, :3])


def test_of_a_plain_frame_only_the_upper_rows_are_decoded():
    pixels = np.random.default_rng(0).integers(0, 256, (960, 64, 3), np.uint8)
    data = save_jpeg(pixels)
    part, whole = decode_frame(data, 40), decode_frame(data)
    assert np.array_equal(part[:40], whole[:40])
    assert not np.array_equal(part[64:, :, :3], whole[64:, :, :3])


def test_a_frame_cut_short_below_the_needed_rows_is_damaged_all_the_same():
    data = save_jpeg(TALL)
    for length in (len(data) - 1, len(data) - 2, len(data) * 3 // 4):
        with pytest.raises(ImageError):
            decode_frame(data[:length], 40)


def test_plain_frames_and_masks_take_the_quick_way(monkeypatch):
    monkeypatch.setattr(Image.Image, "tobytes", lambda *_: pytest.fail("Pillow handed out the pixels"))
    assert decode_frame(FRAME).shape == (41, 53, 4)
    assert np.array_equal(decode_mask(MASK), INDICES)


@pytest.mark.parametrize(("bits", "colours"), [(1, 2), (2, 4), (4, 16), (8, 256)])
def test_masks_of_any_depth_have_pillows_indices(bits, colours):
    image = Image.fromarray(INDICES % 2).convert("P")
    image.putpalette(PALETTE[: 3 * colours])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=bits)
    assert_equal(decode_mask(buffer.getvalue()), decode_slowly(buffer.getvalue(), ("P",)))


def test_grey_and_transparent_masks_have_pillows_indices():
    for mode, options in (("L", {}), ("P", {"transparency": 0})):
        buffer = io.BytesIO()
        Image.fromarray(INDICES).convert(mode).save(buffer, "PNG", **options)
        assert_equal(decode_mask(buffer.getvalue()), decode_slowly(buffer.getvalue(), ("P", "L")))


damage = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4)


def corrupt(data, changes, length):
    spoiled = bytearray(data)
    for place, value in changes:
        spoiled[place % len(data)] = value
    return bytes(spoiled[: length or None])


@settings(max_examples=150, deadline=None)
@given(damage, st.integers(-60, 0))
@example([], -1)
def test_damaged_frames_end_as_with_pillow(changes, length):
    data = corrupt(FRAME, changes, length)
    assert_equal(decode(decode_frame, data), decode_slowly(data, ("RGB",)))
    part = decode(decode_frame, data, 7)
    assert_equal(None if part is None else part[:7], None if part is None else decode_slowly(data, ("RGB",))[:7])
    whole = decode_slowly(data, ("RGB", "L", "CMYK"))
    assert decode(measure_image, data) == (None if whole is None else whole.shape[1::-1])


@settings(max_examples=150, deadline=None)
@given(damage, st.integers(-60, 0))
@example([], -1)
def test_damaged_masks_end_as_with_pillow(changes, length):
    data = corrupt(MASK, changes, length)
    assert_equal(decode(decode_mask, data), decode_slowly(data, ("P", "L")))


def test_a_mask_that_inflates_to_more_than_its_size_is_left_to_pillow(monkeypatch):
    monkeypatch.setattr(pixels, "MAX_PIXELS", 45 * 37 - 1)
    with pytest.raises(ImageError, match="37 x 45"):
        decode_mask(MASK)
