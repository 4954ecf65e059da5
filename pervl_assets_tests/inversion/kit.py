"""Helpers of the tests in this folder: a synthetic COCO archive, a small fake encoder, the raw kit."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import Members, open_members
from pervl_assets.clip.passport import EmbeddingPassport
from pervl_assets.clip.preprocessing import UPSTREAM
from pervl_assets.inversion.sources import locate_image
from pervl_assets.testing import fake_clip

SHARED = Path(__file__).parents[2].parent / "shared"


def require_raw_kit() -> Path:
    """Return the folder of the raw kit, or skip."""
    kit = SHARED / "raw_kit"
    if not (kit / "make_raw.py").is_file():
        pytest.skip(f"the raw kit is not at {kit}")
    return kit


def draw_raw_kit(out: Path, *parts: str) -> Path:
    """Write parts of the small raw kit."""
    command = [sys.executable, str(require_raw_kit() / "make_raw.py"), str(out), "--scale", "small", "--seed", "0"]
    subprocess.run([*command, "--parts", ",".join(parts)], check=True, capture_output=True)
    return out


def make_passport(**changes) -> EmbeddingPassport:
    """Return the passport of the fake encoder, with vectors of eight numbers."""
    return fake_clip.issue_fake_passport(**{"weights_sha256": "b" * 64, "dimension": 8, **changes})


class FakeEncoder(fake_clip.FakeEncoder):
    """The fake encoder with the passport of `make_passport`, so with vectors of eight numbers: colours, then a to e."""

    def __init__(self, passport: EmbeddingPassport | None = None, preprocessing=UPSTREAM) -> None:
        super().__init__(passport or make_passport(), preprocessing)


def draw_jpeg(seed: int, size: tuple[int, int] = (80, 60), mode: str = "RGB") -> bytes:
    """Return smooth noise as JPEG."""
    channels = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    image = Image.frombytes(mode, (8, 8), noise.tobytes()).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_coco(path: Path, images: dict[str, bytes]) -> Members:
    """Write a COCO archive from image id to bytes, and open it."""
    with zipfile.ZipFile(path, "w") as archive:
        for image_id, data in images.items():
            archive.writestr(locate_image(image_id), data)
    return open_members(RawArchive(path, identify(path)))


TINY_CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 32, "head_width": 16, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def make_tiny_clip(config):
    import open_clip
    import torch

    torch.manual_seed(0)
    return open_clip.CLIP(**config).eval()
