import json

import pytest

from pervl_assets_tests.inversion.kit import TINY_CONFIG, make_tiny_clip


@pytest.fixture(scope="session")
def tiny_clip():
    """A CLIP small enough for tests, with random weights of a fixed seed."""
    return make_tiny_clip(TINY_CONFIG)


@pytest.fixture(scope="session")
def tiny_folder(tiny_clip, tmp_path_factory):
    """The tiny CLIP as open_clip's local-dir."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CONFIG, "preprocess_cfg": {}}))
    save_file(tiny_clip.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_name(tmp_path_factory):
    """The tiny CLIP's architecture, registered with open_clip under a name, and once without QuickGELU."""
    import open_clip

    folder = tmp_path_factory.mktemp("configs")
    (folder / "Tiny-quickgelu.json").write_text(json.dumps(TINY_CONFIG))
    (folder / "Tiny.json").write_text(json.dumps({**TINY_CONFIG, "quick_gelu": False}))
    wider = {**TINY_CONFIG, "text_cfg": {**TINY_CONFIG["text_cfg"], "layers": 2}, "embed_dim": 24}
    (folder / "Wider-quickgelu.json").write_text(json.dumps(wider))
    open_clip.add_model_config(folder)
    return "Tiny-quickgelu"
