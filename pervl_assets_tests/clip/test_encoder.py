import io
import os
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from pervl_assets.clip import encoder as module
from pervl_assets.clip.encoder import (
    PROMPT,
    ClipEncoder,
    EmbeddingPassport,
    choose_device,
    describe_encoder,
    load_encoder,
)
from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import CLIP_MEAN, CLIP_STD
from pervl_assets.core.errors import PervlError
from pervl_assets_tests.defs.plain import measure_cosines
from pervl_assets_tests.inversion.kit import draw_jpeg, make_passport

upstream = transforms.Compose(
    [
        transforms.Resize(300, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        lambda image: image.convert("RGB"),
        transforms.ToTensor(),
        transforms.Normalize(CLIP_MEAN, CLIP_STD),
    ]
)

PHOTOS = [
    draw_jpeg(seed, size, mode)
    for seed, (size, mode) in enumerate(
        [((64, 48), "RGB"), ((480, 640), "RGB"), ((500, 90), "L"), ((31, 31), "CMYK"), ((300, 224), "RGB")] * 3
    )
]


def encode_one_by_one(model, photos):
    with torch.inference_mode():
        return np.concatenate(
            [model.encode_image(upstream(Image.open(io.BytesIO(data)))[None]).numpy() for data in photos]
        )


def test_images_as_plain_open_clip_one_at_a_time(tiny_folder, tiny_clip):
    import open_clip

    plain = open_clip.create_model(f"local-dir:{tiny_folder}").eval()
    expected = encode_one_by_one(plain, PHOTOS)
    vectors = load_encoder(str(tiny_folder), "", "cpu", None).encode_images(np.stack([*map(prepare_image, PHOTOS)]))
    assert vectors.dtype == np.float32
    assert measure_cosines(vectors, expected).min() > 0.9999
    assert np.allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(vectors, axis=1).std() > 1e-4  # not normalised


def test_texts_batched_as_one_at_a_time(tiny_folder, tiny_clip):
    import open_clip

    texts = [PROMPT + name for name in ["man", "Fiat 500", "", "Ducks, geese and swans", "Man", "cat " * 100, "MAN"]]
    encoder = load_encoder(str(tiny_folder), "", "cpu", None)
    vectors = encoder.encode_texts(texts, batch_size=2)
    with torch.inference_mode():
        expected = torch.cat([tiny_clip.encode_text(open_clip.tokenize([text])) for text in texts]).numpy()
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[4])
    assert np.array_equal(vectors[0], vectors[6])
    assert encoder.encode_texts([]).shape == (0, 16)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_close_and_recorded(precision, tiny_folder):
    images = np.stack([*map(prepare_image, PHOTOS)])
    full, half = (load_encoder(str(tiny_folder), "", "cpu", p) for p in ("fp32", precision))
    vectors = half.encode_images(images)
    assert half.passport.precision == precision
    assert vectors.dtype == np.float32
    assert measure_cosines(vectors, full.encode_images(images)).min() > 0.999
    assert not np.array_equal(vectors, full.encode_images(images))


class SmallDevice(torch.nn.Module):
    """A model whose device holds three images; its feature is the mean colour."""

    def __init__(self, fits: int = 3) -> None:
        super().__init__()
        self.fits, self.batches = fits, []

    def encode_image(self, images, normalize):
        self.batches.append(len(images))
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.mean(dim=(2, 3))


def make_small_encoder(model):
    return ClipEncoder(model, lambda texts: None, make_passport(dimension=3), torch.device("cpu"))


def test_a_batch_that_does_not_fit_is_halved_and_so_are_later_ones():
    images = np.random.default_rng(0).integers(0, 256, (10, 224, 224, 3), dtype=np.uint8)
    model = SmallDevice()
    encoder = make_small_encoder(model)
    vectors = encoder.encode_images(images)
    assert model.batches == [10, 5, 3, 3, 3, 1]
    means = images.mean(axis=(1, 2)) / 255
    assert np.allclose(vectors, (means - CLIP_MEAN) / CLIP_STD, atol=1e-5)
    model.batches.clear()
    encoder.encode_images(images[:6])
    assert model.batches == [3, 3]


def test_a_device_too_small_for_one_image_is_an_error():
    with pytest.raises(PervlError, match=r"does not hold fake(.|\n)*PERVL_DEVICE"):
        make_small_encoder(SmallDevice(0)).encode_images(np.zeros((4, 224, 224, 3), np.uint8))


def test_vectors_that_are_not_finite_are_an_error():
    model = SmallDevice()
    model.encode_image = lambda images, normalize: images.mean(dim=(2, 3)) / 0
    with pytest.raises(PervlError, match=r"2 of 2 vectors of fake in fp32 not finite(.|\n)*weights are damaged"):
        make_small_encoder(model).encode_images(np.full((2, 224, 224, 3), 255, np.uint8))


def test_passports_go_through_json_and_name_their_differences(tiny_folder):
    passport = describe_encoder(str(tiny_folder), "", "cpu", None)
    assert EmbeddingPassport.from_json(passport.to_json()) == passport
    assert (passport.precision, passport.device, passport.dimension) == ("fp32", "cpu", 16)
    assert passport.list_differences(describe_encoder(str(tiny_folder), "", "cpu", "bf16")) == ["precision fp32 / bf16"]
    with pytest.raises(ValueError, match="not an embedding passport"):
        EmbeddingPassport.from_json('{"model": "x"}')


def test_a_device_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == "cpu"
    for device in ("cuda", "cuda:1"):
        with pytest.raises(PervlError, match=f"device {device} does not exist"):
            choose_device(device)


def test_processes_beside_each_other_take_different_gpus(monkeypatch):
    names = [f"test-{os.getpid()}-{number}" for number in range(3)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=names[number]))
    monkeypatch.setattr(module, "_taken", None)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0pervl/{names[0]}")
        assert [module._take_device(device) for device in ("cpu", "cuda:2", "cuda", "cuda")] == [
            "cpu",
            "cuda:2",
            "cuda:1",  # the first that is free, and then the same
            "cuda:1",
        ]
        with module._taken[1]:
            monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
            monkeypatch.setattr(module, "_taken", None)
            assert module._take_device("cuda") == "cuda"  # none is free
