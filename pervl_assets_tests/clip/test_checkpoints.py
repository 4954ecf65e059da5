import argparse
import errno
import gzip
import json
import os
import struct
import zipfile

import pytest

from pervl_assets.clip import checkpoints
from pervl_assets.clip.checkpoints import find_checkpoint, parse_encoders, read_weights, takes_tokens
from pervl_assets.clip.encoder import describe_encoder, load_encoder
from pervl_assets.core.errors import ArchiveError, CheckpointError, PervlError
from pervl_assets_tests.inversion.kit import TINY_CONFIG


def save(weights, path, layout="open_clip"):
    import torch
    from safetensors.torch import save_file

    if layout == "safetensors":
        save_file(weights, path)
        return str(path)
    numbers = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    openai = {**{n: t.half() for n, t in weights.items()}, **{n: torch.tensor(v) for n, v in numbers.items()}}
    contents = {
        "open_clip": weights,
        "openai": openai,
        "state_dict": {"epoch": 3, "state_dict": weights},
        "model": {"model": weights, "scaler": {"scale": 1.0}},
        "model_state_dict": {"model_state_dict": weights},
        "nested": {"state_dict": {"model": weights}},
        "arguments": {"state_dict": weights, "args": argparse.Namespace(lr=1e-4), "epoch": 10},
    }
    torch.save(contents[layout], path)
    return str(path)


def check_loaded(encoder, weights, rounded=False):
    import torch

    loaded = encoder._model.state_dict()
    assert loaded.keys() == weights.keys()
    for name, tensor in weights.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.half().float() if rounded else tensor), name


@pytest.mark.parametrize(
    "layout", ["safetensors", "open_clip", "openai", "state_dict", "model", "model_state_dict", "nested", "arguments"]
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_every_layout_of_a_checkpoint_loads_under_any_suffix(layout, suffix, tiny_clip, tiny_name, tmp_path, caplog):
    path = save(tiny_clip.state_dict(), tmp_path / f"weights.{suffix}", layout)
    encoder = load_encoder(tiny_name, path, "cpu", None)
    check_loaded(encoder, tiny_clip.state_dict(), rounded=layout == "openai")
    assert encoder.passport == describe_encoder(tiny_name, path, "cpu", None)
    assert ("argparse.Namespace" in caplog.text) == (layout == "arguments")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model.model."])
def test_prefixes_of_training_scripts_are_removed(prefix, tiny_clip, tiny_name, tmp_path):
    weights = {prefix + name: tensor for name, tensor in tiny_clip.state_dict().items()}
    path = save(weights, tmp_path / "weights.pt", "state_dict")
    check_loaded(load_encoder(tiny_name, path, "cpu", None), tiny_clip.state_dict())


def test_openais_weights_need_quickgelu(tiny_clip, tiny_name, tmp_path):
    path = save(tiny_clip.state_dict(), tmp_path / "openai.pt", "openai")
    with pytest.raises(CheckpointError, match=r"QuickGELU, which Tiny does not use(.|\n)*Tiny-quickgelu"):
        load_encoder("Tiny", path, "cpu", None)
    with pytest.raises(CheckpointError, match=r"a different activation(.|\n)*ViT-B-32-quickgelu"):
        find_checkpoint("ViT-B-32", "openai")


def test_another_architecture_is_named_and_counted(tiny_clip, tiny_name, tmp_path):
    path = save(tiny_clip.state_dict(), tmp_path / "tiny.pt", "open_clip")
    pattern = r"of 62 tensors 12 missing and 2 of another shape; 0 unexpected(.|\n)*text_projection is \(16, 16\)"
    with pytest.raises(CheckpointError, match=pattern) as error:
        load_encoder("Wider-quickgelu", path, "cpu", None)
    assert "transformer.resblocks.1." in str(error.value)
    weights = {**tiny_clip.state_dict(), "extra": tiny_clip.logit_scale}
    with pytest.raises(CheckpointError, match=r"1 unexpected(.|\n)*unexpected: extra"):
        load_encoder(tiny_name, save(weights, tmp_path / "extra.pt", "open_clip"), "cpu", None)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def test_nothing_in_a_checkpoint_is_executed(tiny_name, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Evil()}, "evil.pt")
    torch.save({"weights": Evil(), "args": argparse.Namespace(lr=1)}, "both.pt")
    for name in ("evil.pt", "both.pt"):
        with pytest.raises(CheckpointError, match=r"holds more than tensors: posix.mkdir(.|\n)*Save its weights alone"):
            load_encoder(tiny_name, name, "cpu", None)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_a_torchscript_archive_is_refused_with_advice(tiny_name, tmp_path):
    import torch

    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "ViT-B-32.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript archive(.|\n)*safetensors"):
        load_encoder(tiny_name, str(tmp_path / "ViT-B-32.pt"), "cpu", None)


def test_a_checkpoint_that_inflates_is_refused(tiny_name, tiny_clip, tmp_path):
    save(tiny_clip.state_dict(), tmp_path / "stored.pt")
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name))
    with pytest.raises(CheckpointError, match="members are compressed"):
        load_encoder(tiny_name, str(tmp_path / "bomb.pt"), "cpu", None)


HEADER = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a checkpoint at all",
        b"PK\x03\x04" + bytes(40),
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", len(HEADER)) + HEADER + bytes(16),
    ],
    ids=["empty", "text", "zip", "long header", "lying shape"],
)
def test_damaged_files_are_refused(name, data, tiny_name, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
        load_encoder(tiny_name, str(tmp_path / name), "cpu", None)


def test_an_error_of_the_system_is_not_called_damage(tiny_name, tmp_path, monkeypatch):
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04" + bytes(40))
    checkpoint = find_checkpoint(tiny_name, str(tmp_path / "w.pt"))

    def fail(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(checkpoints, "_is_safetensors", fail)
    with pytest.raises(ArchiveError, match=r"w\.pt cannot be read: Too many open files[\s\S]*ulimit -n"):
        read_weights(checkpoint)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(9), "it is a 7z archive"),
        (bytes(99), "full of zero bytes"),
        (b"hello", "it is damaged, or no checkpoint"),
    ],
)
def test_a_file_of_another_kind_is_named(data, words, tiny_name, tmp_path):
    (tmp_path / "w.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        load_encoder(tiny_name, str(tmp_path / "w.pt"), "cpu", None)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("change", ["char", "to_sparse", "meta"])
def test_tensors_that_are_no_plain_numbers_are_refused(change, tiny_name, tiny_clip, tmp_path):
    weights = tiny_clip.state_dict()
    wrong = weights["text_projection"]
    weights["text_projection"] = wrong.to("meta") if change == "meta" else getattr(wrong, change)()
    with pytest.raises(CheckpointError, match=r"1 without plain numbers(.|\n)*text_projection is torch\."):
        load_encoder(tiny_name, save(weights, tmp_path / "w.pt"), "cpu", None)


def test_members_that_share_their_bytes_are_refused(tiny_name, tiny_clip, tmp_path):
    save(tiny_clip.state_dict(), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        archive.filelist += [max(archive.filelist, key=lambda member: member.file_size)] * 9
        archive.writestr("w/more", b"")
    with pytest.raises(CheckpointError, match="its members share their bytes"):
        load_encoder(tiny_name, str(tmp_path / "w.pt"), "cpu", None)


@pytest.mark.parametrize(
    "change",
    [
        {"vision_cfg": []},
        {"text_cfg": None},
        {"embed_dim": None},
        {"embed_dim": "16"},
        "[" * 200_000,
        {"preprocess_cfg": [1]},
        [],
    ],
    ids=str,
)
def test_a_configuration_of_other_types_is_refused(change, tiny_folder, tmp_path):
    text = (tiny_folder / "open_clip_config.json").read_text()
    content = json.loads(text)
    if isinstance(change, dict):
        (content if "preprocess_cfg" in change else content["model_cfg"]).update(change)
    (tmp_path / "open_clip_config.json").write_text(
        change if isinstance(change, str) else json.dumps(content if change else [])
    )
    with pytest.raises(CheckpointError, match="has no readable open_clip_config"):
        find_checkpoint(str(tmp_path), "")


@pytest.mark.parametrize("weights", ["x" * 5000, "~nobody/x", "a\0b"])
@pytest.mark.parametrize("model", ["Tiny-quickgelu", "y" * 5000, "~nobody/y", "a\0b"])
def test_no_path_is_too_odd_for_an_error_of_ours(model, weights, tiny_name):
    with pytest.raises(PervlError):
        find_checkpoint(model, weights)


def test_a_file_without_a_state_dict_is_refused(tiny_name, tmp_path):
    import torch

    for content in ([torch.zeros(1)], {"context_length": torch.tensor(77)}):
        torch.save(content, tmp_path / "none.pt")
        with pytest.raises(CheckpointError, match="holds no state dict"):
            load_encoder(tiny_name, str(tmp_path / "none.pt"), "cpu", None)


def test_unknown_names_and_missing_files_say_what_there_is(tiny_name, tmp_path):
    with pytest.raises(CheckpointError, match=r"neither a folder nor one of(.|\n)*ViT-B-32"):
        find_checkpoint("ViT-B/32", "openai")
    with pytest.raises(CheckpointError, match=r"neither one of its . pretrained tags nor a file(.|\n)*openai"):
        find_checkpoint("ViT-B-32-quickgelu", str(tmp_path / "nothing.pt"))
    with pytest.raises(CheckpointError, match="neither one of its 0 pretrained tags nor a file"):
        find_checkpoint(tiny_name, "")


def test_models_that_take_other_pixels_are_refused():
    with pytest.raises(CheckpointError, match=r"336 x 336(.|\n)*PERVL_PREPROCESSING=model"):
        describe_encoder("ViT-L-14-336", __file__, "cpu", None)
    with pytest.raises(CheckpointError, match="384 x 384"):
        load_encoder("ViT-B-16-SigLIP-384", __file__, "cpu", None)
    passport = describe_encoder("ViT-L-14-336", __file__, "cpu", None, "model")
    assert passport.preprocessing.startswith("resize 336 bicubic (PIL, own mode) > centre crop 336 > RGB")


def test_a_tag_without_network_is_refused_with_advice(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="PERVL_CLIP_PRETRAINED") as caught:
        describe_encoder("ViT-B-32-quickgelu", "openai", "cpu", None)
    assert "'openai' of ViT-B-32-quickgelu are not in the cache and cannot be fetched" in str(caught.value)


def test_a_tag_in_the_cache_needs_no_network(tiny_clip, tmp_path, monkeypatch):
    import huggingface_hub.constants
    import open_clip.pretrained

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", lambda *_: pytest.fail("used the network"))
    repository = tmp_path / "models--timm--vit_base_patch32_clip_224.openai"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    (repository / "snapshots/abc").mkdir(parents=True)
    save(tiny_clip.state_dict(), repository / "snapshots/abc/open_clip_model.safetensors", "safetensors")
    found = find_checkpoint("ViT-B-32-quickgelu", "openai")
    assert found.weights == repository / "snapshots/abc/open_clip_model.safetensors"


def test_a_folder_brings_its_weights_and_merges(tiny_folder, tmp_path, monkeypatch):
    checkpoint = find_checkpoint(str(tiny_folder), "")
    monkeypatch.setenv("HOME", str(tiny_folder))
    assert find_checkpoint(str(tiny_folder), "~/open_clip_model.safetensors").weights == checkpoint.weights
    assert (checkpoint.weights.name, checkpoint.bpe) == ("open_clip_model.safetensors", None)
    assert set(read_weights(checkpoint)) > {"visual.proj", "text_projection"}

    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CONFIG}))
    (folder / "open_clip_model.safetensors").symlink_to(checkpoint.weights)
    with gzip.open(folder / "merges.txt.gz", "wt") as file:
        file.write("#version\nm a\nma n</w>")
    mine = load_encoder(str(folder), "", "cpu", None)
    assert mine._tokenizer(["man"])[0, :4].tolist() == [514, 513, 515, 0]
    assert (
        mine.passport.architecture_sha256
        != load_encoder(str(tiny_folder), "", "cpu", None).passport.architecture_sha256
    )
    (folder / "more.txt.gz").touch()
    with pytest.raises(CheckpointError, match="2 files of byte-pair merges"):
        find_checkpoint(str(folder), "")


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    import torch

    from pervl_assets_tests.inversion.kit import make_tiny_clip

    config = {**TINY_CONFIG, "text_cfg": {**TINY_CONFIG["text_cfg"], "vocab_size": 600}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(make_tiny_clip(config).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="49,408 tokens, its model embeds 600"):
        load_encoder(str(tmp_path), "", "cpu", None)


def test_an_incomplete_folder_says_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"no readable open_clip_config.json"):
        find_checkpoint(str(tmp_path), "")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no readable open_clip_config.json"):
        find_checkpoint(str(tmp_path), "")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CONFIG}))
    with pytest.raises(CheckpointError, match="No weights for the model folder"):
        find_checkpoint(str(tmp_path), "")


def test_encoders_have_names_that_are_safe_in_paths(tiny_folder):
    text = f"ViT-L-14-quickgelu=openai, ViT-B-16=/weights/my run.v2.pt,{tiny_folder}=,"
    assert parse_encoders(text) == {
        "ViT-L-14-quickgelu_openai": ("ViT-L-14-quickgelu", "openai"),
        "ViT-B-16_my-run-v2": ("ViT-B-16", "/weights/my run.v2.pt"),
        "tiny": (str(tiny_folder), ""),
    }
    assert parse_encoders(" ") == {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ViT-B/32=openai", r"'ViT-B/32' is neither a folder nor a model of open_clip; .*ViT-B-32"),
        ("ViT-B-32", "'ViT-B-32' has no weights"),
        ("ViT-B-32=", "'ViT-B-32=' has no weights"),
        ("ViT-B-32=a/w.pt,ViT-B-32=b/w.pt", "ViT-B-32_w occurs twice"),
        ("ViT-B-32=a-w.pt,ViT-B-32=A_W.pt", "ViT-B-32_A_W occurs twice"),
    ],
)
def test_encoders_that_are_unknown_or_occur_twice_are_refused_by_name(text, named):
    with pytest.raises(ValueError, match=named):
        parse_encoders(text)


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("ViT-B-32-quickgelu", True),
        ("ViT-L-14-quickgelu", True),
        ("coca_ViT-B-32", True),
        ("EVA02-B-16", True),
        ("ViT-B-16-SigLIP", False),
        ("xlm-roberta-base-ViT-B-32", False),
        ("no model", True),
    ],
)
def test_models_whose_texts_take_learned_tokens_are_known_without_loading_them(model, takes):
    assert takes_tokens(model) == takes


def test_a_folder_says_itself_whether_its_texts_take_learned_tokens(tiny_folder, tmp_path):
    assert takes_tokens(str(tiny_folder))
    text = {"tokenizer_kwargs": {"clean": "canonicalize"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text}}))
    assert not takes_tokens(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("[]")
    assert takes_tokens(str(tmp_path))
