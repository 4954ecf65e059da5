"""Figures of PALAVRA, run unmodified: read from `../shared/golden`, which is no part of the project."""

import base64
import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"

SHALLOW = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 1},
}
"""Architecture of the CLIP of one layer that `make_shallow.py` makes the weights of."""


def find_golden(name: str) -> Path:
    """Return the path of a file of figures, or skip."""
    if not (GOLDEN / name).is_file():
        pytest.skip(f"needs PALAVRA's figures {GOLDEN / name}, which are not part of the project")
    return GOLDEN / name


def read_golden(name: str) -> dict:
    """Return the content of a file of figures, or skip."""
    return json.loads(find_golden(f"{name}.json").read_text())


def rnd(name: str, *shape: int) -> np.ndarray:
    """Return the random numbers of that name, float32."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def decode(text: str, *shape: int) -> np.ndarray:
    """Return an array of float32 that is stored as base64."""
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


def save_shallow_clip(folder: Path) -> Path:
    """Save a model folder with PALAVRA's random CLIP of one layer: weights in OpenAI's layout. Skips without recipe."""
    import torch

    spec = importlib.util.spec_from_file_location("make_shallow", find_golden("make_shallow.py"))
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SHALLOW, "preprocess_cfg": {}}))
    torch.save(recipe.make(), folder / "open_clip_pytorch_model.bin")
    return folder
