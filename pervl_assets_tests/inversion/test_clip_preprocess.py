import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from pervl_assets.core.pixels import ImageError
from pervl_assets.inversion.clip_preprocess import prepare_image
from pervl_assets_tests.inversion.kit import draw_jpeg

MODES = {"RGB": 3, "L": 1, "CMYK": 4, "P": 1, "RGBA": 4, "LA": 2, "1": 1, "I;16": 2}
SIZES = [(1, 1), (7, 5), (224, 224), (299, 301), (300, 300), (301, 300), (640, 480), (481, 640), (2000, 31), (3, 200)]

upstream = transforms.Compose(
    [
        transforms.Resize(300, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        lambda image: image.convert("RGB"),
    ]
)


def draw(mode: str, size: tuple[int, int], seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], MODES[mode]), dtype=np.uint8).tobytes()
    if mode == "P":
        image = Image.frombytes("L", size, noise).convert("RGB").quantize(64)
    elif mode == "1":
        image = Image.frombytes("L", size, noise).convert("1")
    else:
        image = Image.frombytes(mode, size, noise)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    return buffer.getvalue()


def assert_as_upstream(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(upstream(image))
    pixels = prepare_image(data)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("mode", MODES)
def test_same_bits_as_torchvision_in_every_mode(mode):
    for size in SIZES:
        assert_as_upstream(draw(mode, size))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_same_bits_as_torchvision_at_any_size(width, height):
    assert_as_upstream(draw("L", (width, height)))


def test_exif_orientation_and_colour_profile_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, marked = io.BytesIO(), io.BytesIO()
    with Image.open(io.BytesIO(draw_jpeg(3, (90, 60)))) as image:
        image.save(plain, "PNG")
        image.save(marked, "PNG", exif=exif, icc_profile=b"profile")
    assert np.array_equal(prepare_image(plain.getvalue()), prepare_image(marked.getvalue()))


WHOLE = draw_jpeg(0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a JPEG or PNG"),
        (b"GIF89a" + bytes(100), "not a JPEG or PNG"),
        (WHOLE[:20], "not a JPEG or PNG"),
        (WHOLE[: len(WHOLE) * 6 // 10], "truncated"),
        (draw("RGB", (50, 50))[:-60], "cannot be decoded"),
        (draw("1", (9000, 9000)), r"oversized: 9000 x 9000 pixels"),
        (draw("L", (3000, 2)), r"oversized once its shorter side is 300: 450000 x 300"),
    ],
)
def test_unusable_images_say_why(data, reason):
    with pytest.raises(ImageError, match=reason):
        prepare_image(data)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(place, value):
    damaged = bytearray(WHOLE)
    damaged[place] = value
    try:
        assert prepare_image(bytes(damaged)).shape == (224, 224, 3)
    except ImageError as error:
        assert str(error)
