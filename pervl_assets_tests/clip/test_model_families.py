"""One model of each family that open_clip builds, at toy size: the same vectors as open_clip's own."""

import json
import sys

import numpy as np
import pytest
import torch

from pervl_assets.clip.encoder import load_encoder
from pervl_assets.core.errors import CheckpointError

VISION = {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 32}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": 64}

FAMILIES = {
    "OpenAI": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "ResNet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": TEXT,
    },
    "SigLIP": {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": TIMM,
        "text_cfg": {
            **TEXT,
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    },
    "EVA": {
        "embed_dim": 192,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "eva02_tiny_patch14_224",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": None,
            "image_size": 224,
        },
        "text_cfg": TEXT,
    },
    "ConvNeXt": {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_convnext", "timm_proj": "linear", "image_size": 64},
        "text_cfg": TEXT,
    },
    "CoCa": {
        "embed_dim": 16,
        "multimodal_cfg": {"width": 16, "context_length": 16, "heads": 2, "layers": 1, "attn_pooler_heads": 2},
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 15, "embed_cls": True, "output_tokens": True},
        "custom_text": True,
    },
}
TEXTS = ["This is a photo of a dog", "goose", "This is a photo of a very long name"]


def write_folder(folder, config, **preprocessing):
    import open_clip

    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    torch.manual_seed(0)
    plain = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
    torch.save(plain.state_dict(), folder / "open_clip_pytorch_model.bin")
    return plain


def check_vectors(folder, plain, precision="fp32"):
    import open_clip

    encoder = load_encoder(str(folder), "", "cpu", precision, "model")
    preprocessing = encoder.preprocessing
    images = np.random.default_rng(0).integers(0, 256, (3, preprocessing.crop, preprocessing.crop, 3), dtype=np.uint8)
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        expected = plain.encode_image((scaled - mean) / std, normalize=False)
        texts = plain.encode_text(tokenizer(TEXTS), normalize=False)
    for vectors, wanted in ((encoder.encode_images(images), expected), (encoder.encode_texts(TEXTS, 2), texts)):
        assert vectors.shape == (3, encoder.passport.dimension)
        tolerance = 1e-4 if precision == "fp32" else 5e-2
        assert np.allclose(vectors, wanted.numpy(), rtol=tolerance, atol=tolerance)
        assert np.linalg.norm(vectors, axis=1).std() > 1e-6  # not normalised
    return encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_open_clip(family, tmp_path):
    plain = write_folder(tmp_path / "model", FAMILIES[family])
    check_vectors(tmp_path / "model", plain)


@pytest.mark.parametrize("family", ["OpenAI", "SigLIP", "CoCa"])
def test_half_precision_builds_too(family, tmp_path):
    check_vectors(tmp_path / "model", write_folder(tmp_path / "model", FAMILIES[family]), "bf16")


def test_the_published_preprocessing_of_a_folder_is_used(tmp_path):
    plain = write_folder(
        tmp_path / "model", FAMILIES["SigLIP"], mean=[0.5] * 3, std=[0.5] * 3, resize_mode="squash", size=64
    )
    preprocessing = check_vectors(tmp_path / "model", plain).preprocessing
    assert (preprocessing.crop, preprocessing.squash, preprocessing.mean) == (64, True, (0.5, 0.5, 0.5))


def test_a_text_tower_from_hugging_face_builds_from_its_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path / "model"
    folder.mkdir()
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.RobertaConfig(vocab_size=64, max_position_embeddings=40, **size).save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", *" ".join(TEXTS).lower().split()]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": "x", "hf_pooler_type": "mean_pooler"}
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": {**text, "hf_proj_type": "mlp", "context_length": 16}}
    plain = write_folder(folder, config)
    config["text_cfg"]["hf_model_name"] = "roberta-base"  # which is not fetched
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    check_vectors(folder, plain)


def test_a_model_that_needs_transformers_says_so(tmp_path, monkeypatch):
    plain = write_folder(tmp_path / "model", FAMILIES["OpenAI"])
    config = {**FAMILIES["OpenAI"], "text_cfg": {**TEXT, "hf_tokenizer_name": "x"}}
    (tmp_path / "model/open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    encoder = load_encoder(str(tmp_path / "model"), "", "cpu", None, "model")
    images = np.zeros((1, 64, 64, 3), np.uint8)
    assert encoder.encode_images(images).shape == (1, plain.visual.output_dim)  # images need no tokenizer
    with pytest.raises(CheckpointError, match=r"needs the package transformers(.|\n)*pervl_assets\[hf\]"):
        encoder.encode_texts(["dog"])
