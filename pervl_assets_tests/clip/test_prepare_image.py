import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import Preprocessing
from pervl_assets.core.pixels import ImageError
from pervl_assets_tests.core.samples import draw_picture, repeat_scans, save_jpeg
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


def draw_blank(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def prepare_plainly(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(upstream(image))


def assert_as_upstream(data: bytes) -> None:
    pixels = prepare_image(data)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, prepare_plainly(data))


def draw_noise(width: int, height: int, seed: int = 0, **options: object) -> bytes:
    """Draw noise, the hardest to resize alike, as a colour JPEG."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return save_jpeg(noise, **options)


COCO_SIZES = [
    (640, 480),
    (480, 640),
    (640, 427),
    (427, 640),
    (500, 375),
    (640, 360),
    (640, 426),
    (612, 612),
    (333, 500),
]


@pytest.mark.parametrize(
    "size", [*SIZES, *COCO_SIZES, (1, 40), (40, 1), (300, 301), (900, 224), (224, 900), (310, 700), (400, 801)], ids=str
)
def test_colour_jpegs_have_the_bits_of_torchvision(size):
    assert_as_upstream(draw_noise(*size))


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"restart_marker_rows": 1},
        {"keep_rgb": True},
        {"comment": b"hello"},
        {"exif": b"Exif\0\0" + save_jpeg(draw_picture(8, 8))},
        {"icc_profile": b"profile"},
    ],
    ids=",".join,
)
def test_jpegs_of_any_kind_have_the_bits_of_torchvision(options):
    assert_as_upstream(draw_noise(320, 430, **options))


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 700), st.integers(8, 1500), st.integers(0, 9))
def test_colour_jpegs_of_any_size_have_the_bits_of_torchvision(width, height, seed):
    assert_as_upstream(draw_noise(width, height, seed, quality=70))


def test_a_plain_colour_jpeg_is_never_opened_by_pillow(monkeypatch):
    data = draw_noise(640, 480)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow opened it"))
    assert prepare_image(data).shape == (224, 224, 3)


PUBLISHED = [
    Preprocessing("model", 224, 224),
    Preprocessing("model", 336, 336),
    Preprocessing("model", 336, 336, "bilinear", squash=True),
    Preprocessing("model", 96, 96, "bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)),
]


@pytest.mark.parametrize("steps", PUBLISHED, ids=Preprocessing.describe)
def test_preparing_as_published_is_open_clips_transform_for_evaluation(steps):
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    mode = "squash" if steps.squash else "shortest"
    config = PreprocessCfg(steps.crop, mean=steps.mean, std=steps.std, interpolation=steps.filter, resize_mode=mode)
    transform = image_transform_v2(config, is_train=False)
    images = [draw_noise(*size) for size in (*COCO_SIZES, *SIZES)]
    images += [draw(mode, size) for mode in MODES for size in ((333, 500), (50, 40))]
    for data in images:
        pixels = torch.tensor(prepare_image(data, steps)).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (steps.mean, steps.std))
        with Image.open(io.BytesIO(data)) as image:
            assert torch.equal((pixels.float() / 255 - mean) / std, transform(image))


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
        (draw_blank(9000, 9000), r"oversized: 9000 x 9000 pixels"),
        (draw("L", (3000, 2)), r"oversized once its shorter side is 300: 450000 x 300"),
    ],
)
def test_unusable_images_say_why(data, reason):
    with pytest.raises(ImageError, match=reason):
        prepare_image(data)


def prepare_or_refuse(data: bytes, how) -> np.ndarray | None:
    try:
        return how(data)
    except Exception:  # whatever Pillow stops at
        return None


def assert_damaged_as_with_pillow(data: bytes) -> None:
    expected = prepare_or_refuse(data, prepare_plainly)
    try:
        pixels = prepare_image(data)
    except ImageError as error:
        assert str(error)
        assert expected is None
    else:
        assert np.array_equal(pixels, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_damaged_bytes_return_pixels_or_a_reason_as_pillow_does(position, value):
    damaged = bytearray(WHOLE)
    damaged[position] = value
    assert_damaged_as_with_pillow(bytes(damaged))


@settings(max_examples=40, deadline=None)
@given(st.integers(-4000, -1))
def test_a_photograph_cut_short_is_refused_wherever_it_ends(length):
    assert_damaged_as_with_pillow(TALL[:length])


TALL = draw_noise(64, 960, quality=50)


def test_an_image_of_thousands_of_scans_is_refused():
    with pytest.raises(ImageError, match="scans, more than 100"):
        prepare_image(repeat_scans(3000, progressive=True))
