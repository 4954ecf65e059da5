"""Decoding and encoding: what upstream does, and what it gets silently wrong."""

import contextlib
import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pervl_assets.core import pixels
from pervl_assets.core.pixels import (
    ImageError,
    decode_frame,
    decode_mask,
    encode_jpeg,
    encode_mask,
    measure_image,
    read_thumbnail,
)
from pervl_assets.core.plain_images import count_scans
from pervl_assets_tests.core.samples import draw_picture, repeat_scans, save_jpeg, save_mask

OPENCV_JPEGS = {
    (1, 1): "0713ce07a3603a3bb0d6aaabddcdf7049d9e5a0697b2c850c47e8fa719217e55",
    (37, 23): "2e29efc45e8dfdd7ba24ea4d0b17bc4862ee29a67064523abaf95880e0648e5a",
    (160, 90): "3b25a4905910e57bc9a6c4bce82052272ae5f70e915308e7d7c350ee0dc61fe4",
}
"""sha256 of what `cv2.imencode(".jpg", ...)` gives for the same pixels, the same for OpenCV 4.5.5 and 5.0.0."""


@pytest.mark.parametrize("size", OPENCV_JPEGS)
def test_jpegs_are_opencvs_byte_for_byte(size):
    assert hashlib.sha256(encode_jpeg(draw_picture(*size))).hexdigest() == OPENCV_JPEGS[size]


def test_orientation_is_not_applied_and_nothing_of_the_source_file_remains():
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = save_jpeg(draw_picture(40, 20))
    marked = save_jpeg(draw_picture(40, 20), exif=exif.tobytes(), icc_profile=profile, dpi=(300, 300), comment=b"hello")
    assert decode_frame(marked).shape == (20, 40, 4)
    assert encode_jpeg(decode_frame(marked)) == encode_jpeg(decode_frame(plain))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_frames_of_other_modes_are_refused(mode):
    with pytest.raises(ImageError, match=f"mode {mode}, not RGB"):
        decode_frame(save_jpeg(Image.fromarray(draw_picture(8, 8)).convert(mode)))


def test_masks_give_palette_indices():
    indices = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    assert np.array_equal(decode_mask(save_mask(indices)), indices)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "I;16"])
def test_masks_of_other_modes_are_refused(mode):
    buffer = io.BytesIO()
    image = Image.new(mode, (8, 8))
    image.save(buffer, "PNG")
    with pytest.raises(ImageError, match="not P or L"):
        decode_mask(buffer.getvalue())


def test_written_masks_are_grey_zeros_and_ones():
    mask = np.eye(7, 9, dtype=bool)
    image = Image.open(io.BytesIO(encode_mask(mask)))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (9, 7))
    assert np.array_equal(np.asarray(image), mask.astype(np.uint8))


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (decode_frame, b""),
        (decode_frame, b"\xff\xd8\xff\xe0 no picture"),
        (decode_frame, save_jpeg(draw_picture(64, 64))[:900]),
        (decode_frame, b"GIF89a" + bytes(40)),
        (decode_mask, save_mask(np.eye(64))[:60]),
        (decode_mask, save_mask(np.eye(64))[:-40]),
        (measure_image, save_jpeg(draw_picture(64, 64))[:-900]),
    ],
)
def test_damaged_images_are_refused(decode, data):
    with pytest.raises(ImageError, match="cannot be decoded") as caught:
        decode(data)
    with pytest.raises(ImageError) as again:
        decode(bytes(bytearray(data)))
    assert str(again.value) == str(caught.value), "a reason that differs from run to run would change the ledger"


def test_faults_beside_the_pixels_are_neither_errors_nor_warnings():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12"
    assert measure_image(save_jpeg(draw_picture(8, 6), exif=exif)) == (8, 6)
    grey = Image.fromarray(draw_picture(8, 6)).convert("L")
    assert decode_mask(save_jpeg(grey, exif=exif)).shape == (6, 8)


SEEDS = [
    save_jpeg(draw_picture(20, 20), exif=b"Exif\0\0" + bytes(20)),
    save_jpeg(draw_picture(20, 20), progressive=True),
    save_mask(np.eye(20)),
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_decoded_or_refused(data, changes):
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    for decode in (decode_frame, decode_mask, measure_image):
        with contextlib.suppress(ImageError):
            decode(bytes(changed))


def test_huge_images_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(pixels, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="11 x 10"):
        decode_frame(save_jpeg(draw_picture(11, 10)))


@pytest.mark.parametrize("decode", [decode_frame, decode_mask, measure_image])
@pytest.mark.parametrize("progressive", [True, False])
def test_images_of_thousands_of_scans_are_refused(decode, progressive):
    assert decode_frame(repeat_scans(9, progressive=progressive)).shape == (16, 16, 4)
    with pytest.raises(ImageError, match=r"the image has 3,\d{3} scans"):
        decode(repeat_scans(3000, progressive=progressive))


@pytest.mark.parametrize(("progressive", "scans"), [(False, 1), (True, 10)])
def test_scans_are_counted(progressive, scans):
    thumbnail = save_jpeg(draw_picture(9, 9))
    data = save_jpeg(draw_picture(64, 48), progressive=progressive, exif=b"Exif\0\0" + thumbnail)
    assert count_scans(data) == scans + progressive


def test_any_whole_image_can_be_measured():
    for mode in ("RGB", "L", "CMYK"):
        assert measure_image(save_jpeg(Image.fromarray(draw_picture(12, 7)).convert(mode))) == (12, 7)


def test_a_thumbnail_is_small_rgb_and_a_file_without_an_image_is_refused(tmp_path):
    file = tmp_path / "image.jpg"
    file.write_bytes(save_jpeg(Image.fromarray(draw_picture(800, 400)).convert("CMYK")))
    small = read_thumbnail(file, 100)
    assert (small.mode, small.size) == ("RGB", (100, 50))
    file.write_bytes(b"no image")
    for broken in (file, tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(ImageError):
            read_thumbnail(broken, 100)
