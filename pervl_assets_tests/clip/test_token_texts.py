"""Texts with learned tokens: PALAVRA's own vectors, gradients, and towers that cannot."""

import numpy as np
import pytest
import torch

from pervl_assets.clip.encoder import load_encoder
from pervl_assets.clip.token_texts import TokenTexts
from pervl_assets.core.errors import CheckpointError, PervlError
from pervl_assets_tests.clip.test_model_families import FAMILIES, TEXT, VISION, write_folder
from pervl_assets_tests.goldens import decode, read_golden, rnd

TEXTS = ["a * on a sofa", "*", "two skirts * and another *."]


def load(folder, config):
    write_folder(folder, config)
    encoder = load_encoder(str(folder), "", "cpu", "fp32", "model")
    return encoder, TokenTexts(encoder)


def test_vectors_are_those_of_palavra(shallow_clip):
    golden = read_golden("token_insertion")
    tokens = torch.from_numpy(0.02 * rnd("tokens", 4, 512))
    vectors = shallow_clip.encode(golden["texts"], tokens)
    assert np.abs(vectors.numpy() - decode(golden["output"], 4, 512)).max() < 1e-4
    one_by_one = torch.cat([shallow_clip.encode([text], tokens[[row]]) for row, text in enumerate(golden["texts"])])
    assert np.abs(one_by_one.numpy() - decode(golden["output"], 4, 512)).max() < 1e-4
    at_once = shallow_clip.encode_all(golden["texts"] * 2, np.tile(tokens.numpy(), (2, 1)), 3)
    assert np.abs(at_once - decode(golden["output"], 4, 512)[[*range(4)] * 2]).max() < 1e-4


@pytest.mark.parametrize("family", ["OpenAI", "EVA", "CoCa"])
def test_the_tokens_own_embedding_gives_the_vectors_of_the_plain_text(family, tmp_path):
    """Joint and token widths differ; the towers are `CLIP`, `CustomTextCLIP` and CoCa's."""
    config = FAMILIES[family] | {"embed_dim": 24 if family == "OpenAI" else FAMILIES[family]["embed_dim"]}
    encoder, texts = load(tmp_path / "model", config)
    assert texts.width == 16
    stars = texts.embed_first_tokens(["* of a kind"] * 3)
    plain = encoder.encode_texts([text.replace("*", " * ", 1) for text in TEXTS])
    assert np.allclose(texts.encode(TEXTS, stars).numpy(), plain, atol=1e-5)
    assert np.allclose(texts.encode_all(TEXTS, stars.numpy()), plain, atol=1e-5)
    assert np.allclose(encoder.encode_texts(["two * of"]), texts.encode(["two * of"], stars[:1]).numpy(), atol=1e-5)
    assert not np.allclose(texts.encode(TEXTS, -stars).numpy(), plain, atol=1e-3)


def test_gradients_are_those_of_the_whole_context_and_reach_each_text_alone(tmp_path, monkeypatch):
    _, texts = load(tmp_path / "model", FAMILIES["OpenAI"])
    tokens = torch.from_numpy(0.02 * rnd("gradient", 3, 16)).requires_grad_()
    (cut,) = torch.autograd.grad(texts.encode(TEXTS, tokens).square().sum(), tokens)
    monkeypatch.setattr("pervl_assets.clip.encoder._can_cut_context", lambda tower: False)
    (whole,) = torch.autograd.grad(texts.encode(TEXTS, tokens).square().sum(), tokens)
    assert torch.allclose(cut, whole, rtol=1e-4, atol=1e-3)
    (first,) = torch.autograd.grad(texts.encode(TEXTS, tokens)[0].sum(), tokens)
    assert first[0].norm() > 1e-6
    assert not first[1:].any()


def test_half_precision_takes_tokens_of_single_precision(tmp_path):
    write_folder(tmp_path / "model", FAMILIES["OpenAI"])
    full, half = (TokenTexts(load_encoder(str(tmp_path / "model"), "", "cpu", p, "model")) for p in ("fp32", "bf16"))
    tokens = torch.from_numpy(0.02 * rnd("half", 3, 16)).requires_grad_()
    vectors = half.encode(TEXTS, tokens)
    assert vectors.dtype == torch.float32
    assert torch.cosine_similarity(vectors, full.encode(TEXTS, tokens)).min() > 0.999
    assert torch.autograd.grad(vectors.sum(), tokens)[0].isfinite().all()


def test_first_tokens_are_first_words_or_parts_of_them(tmp_path):
    encoder, texts = load(tmp_path / "model", FAMILIES["OpenAI"])
    table = encoder.text_tower.token_embedding.weight
    ends = encoder.tokenize(["sofa", "Sofa bed", ""])
    assert torch.equal(texts.embed_first_tokens(["sofa", "Sofa bed", ""]), table[ends[:, 1]])
    assert ends[0, 1] == ends[1, 1]
    assert ends[2, 1] == ends.max()  # of an empty text, end-of-text


def test_texts_without_a_place_for_the_token_are_an_error(tmp_path):
    _, texts = load(tmp_path / "model", FAMILIES["OpenAI"])
    with pytest.raises(PervlError, match=r"2 of 3 texts without '\*' .* 16 tokens (.|\n)*'a dog'"):
        texts.encode(["a dog", "*", "dog " * 20 + "*"], torch.zeros(3, 16))


def test_towers_that_cannot_say_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"makes 0 tokens of '\*'(.|\n)*ViT-L-14-quickgelu"):
        load(tmp_path / "model", FAMILIES["SigLIP"])  # its tokenizer drops punctuation
    encoder, _ = load(tmp_path / "plain", {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT})
    del encoder.text_tower.token_embedding
    with pytest.raises(CheckpointError, match=r"plain cannot encode texts .* no table of word embeddings"):
        TokenTexts(encoder)
