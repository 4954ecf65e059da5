"""Models of real size with random weights of a fixed seed, for what tiny ones cannot show.

ViT-B/32 is compared with open_clip's own model and transform, one image at a time. ViT-L/14 is created, loaded and run
in bf16, with one image; it has the published widths, and two of its 24 and 12 layers, which are all alike.
"""

import dataclasses
import io
import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms

from pervl_assets.clip.encoder import PROMPT, ClipEncoder, load_encoder
from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import CLIP_MEAN, CLIP_STD, UPSTREAM, choose_preprocessing
from pervl_assets_tests.defs.plain import measure_cosines
from pervl_assets_tests.inversion.kit import TINY_CONFIG, draw_jpeg, make_tiny_clip

PHOTOS = [draw_jpeg(seed, size) for seed, size in enumerate([(640, 480), (427, 640)])]


def draw_weights(config, dtype):
    """Create random weights without the model: small numbers, repeated after a million, and ones where layers scale."""
    with torch.device("meta"):
        shapes = open_clip.CLIP(**config).state_dict()
    noise = torch.empty(1 << 20, dtype=dtype).uniform_(-0.03, 0.03, generator=torch.Generator().manual_seed(0))
    weights = {}
    for name, tensor in shapes.items():
        if "ln_" in name:
            weights[name] = torch.full(tensor.shape, float(name.endswith("weight")), dtype=dtype)
        else:
            size = tensor.numel()
            weights[name] = noise.repeat(1 + size // noise.numel())[:size].reshape(tensor.shape).clone()
    return weights


@pytest.fixture(scope="session")
def vit_b_32(tmp_path_factory):
    """A checkpoint of ViT-B/32 in fp32."""
    path = tmp_path_factory.mktemp("vit_b_32") / "weights.safetensors"
    save_file(draw_weights(open_clip.get_model_config("ViT-B-32-quickgelu"), torch.float32), path)
    return path


@pytest.fixture(scope="session")
def plain_b_32(vit_b_32):
    """The same as open_clip loads it."""
    return open_clip.create_model("ViT-B-32-quickgelu", pretrained=str(vit_b_32)).eval()


def transform_as(mode, model):
    """Return upstream's transform, or open_clip's own for a model."""
    if mode == "model":
        return image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(300, bicubic), transforms.CenterCrop(224), lambda image: image.convert("RGB")]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(CLIP_MEAN, CLIP_STD)])


def encode_one_by_one(model, transform, photos):
    with torch.inference_mode():
        images = [transform(Image.open(io.BytesIO(data)))[None] for data in photos]
        dtype = model.visual.conv1.weight.dtype
        return np.concatenate([model.encode_image(image.to(dtype)).float().numpy() for image in images])


@pytest.mark.parametrize("mode", ["upstream", "model"])
def test_vit_b_32_gives_the_vectors_of_plain_open_clip(mode, vit_b_32, plain_b_32):
    encoder = load_encoder("ViT-B-32-quickgelu", str(vit_b_32), "cpu", "fp32", mode)
    vectors = encoder.encode_images(np.stack([prepare_image(data, encoder.preprocessing) for data in PHOTOS]))
    assert vectors.shape == (2, 512)
    expected = encode_one_by_one(plain_b_32, transform_as(mode, plain_b_32), PHOTOS)
    assert measure_cosines(vectors, expected).min() > 0.99999
    assert np.allclose(vectors, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    with torch.inference_mode():
        text = plain_b_32.encode_text(open_clip.tokenize([PROMPT + "dog"])).numpy()
    assert measure_cosines(encoder.encode_texts([PROMPT + "dog"]), text).min() > 0.99999


def test_vit_l_14_is_loaded_and_run_with_both_preprocessings(tmp_path, monkeypatch):
    path, config = tmp_path / "weights.safetensors", open_clip.get_model_config("ViT-L-14-quickgelu")
    for tower in ("vision_cfg", "text_cfg"):
        config[tower]["layers"] = 2
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-L-14-quickgelu", config)
    save_file(draw_weights(config, torch.bfloat16), path)
    encoder = load_encoder("ViT-L-14-quickgelu", str(path), "cpu", "bf16")
    assert encoder.passport.dimension == 768
    model = encoder._model
    model.visual.preprocess_cfg = {"size": 224}
    for steps in (UPSTREAM, choose_preprocessing("model", "ViT-L-14", {"image_size": 224}, {})):
        passport = dataclasses.replace(encoder.passport, preprocessing=steps.describe())
        same = ClipEncoder(model, encoder._tokenizer, passport, torch.device("cpu"), steps)
        vectors = same.encode_images(np.stack([prepare_image(PHOTOS[0], steps)]))
        assert vectors.shape == (1, 768)
        assert measure_cosines(vectors, encode_one_by_one(model, transform_as(steps.mode, model), PHOTOS[:1])) > 0.9999


@pytest.fixture
def folder_336(tmp_path):
    """A tiny CLIP that takes 336 x 336 pixels, with a mean of its own, as open_clip's local-dir."""
    vision = {**TINY_CONFIG["vision_cfg"], "image_size": 336, "patch_size": 56}
    config = {**TINY_CONFIG, "vision_cfg": vision}
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5], "interpolation": "bilinear"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(make_tiny_clip(config).state_dict(), tmp_path / "open_clip_model.safetensors")
    return tmp_path


def test_a_model_of_336_pixels_gives_the_vectors_of_plain_open_clip(folder_336):
    encoder = load_encoder(str(folder_336), "", "cpu", None, "model")
    assert encoder.passport.preprocessing == (
        "resize 336 bilinear (PIL, own mode) > centre crop 336 > RGB > /255 > "
        "mean [0.5, 0.5, 0.5], std [0.25, 0.5, 0.5]"
    )
    plain, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder_336}", return_transform=True)
    images = np.stack([prepare_image(data, encoder.preprocessing) for data in PHOTOS])
    assert images.shape == (2, 336, 336, 3)
    expected = encode_one_by_one(plain, transform, PHOTOS)
    assert np.allclose(encoder.encode_images(images), expected, rtol=1e-4, atol=1e-5)
