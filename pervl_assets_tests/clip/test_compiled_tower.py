import logging
import shutil

import numpy as np
import pytest
import torch

from pervl_assets.clip.compiled_tower import compile_tower
from pervl_assets.clip.encoder import ClipEncoder, describe_encoder, load_encoder
from pervl_assets_tests.inversion.kit import make_passport

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def test_a_tower_that_cannot_be_compiled_runs_as_it_is_and_says_why(tiny_folder, monkeypatch, caplog):
    def refuse(_):
        raise RuntimeError("No compiler found\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    encoder = load_encoder(str(tiny_folder), "", "cpu", None, torch_compile=True)
    with caplog.at_level(logging.WARNING):
        vectors = [encoder.encode_images(IMAGES) for _ in range(2)]
    plain = load_encoder(str(tiny_folder), "", "cpu", None)
    assert np.array_equal(vectors, [plain.encode_images(IMAGES)] * 2)
    (message,) = caplog.messages
    assert message == "PERVL_COMPILE: the image tower runs uncompiled: RuntimeError: No compiler found and more"
    assert encoder.passport.compile_failure == "RuntimeError"
    assert encoder.passport == describe_encoder(str(tiny_folder), "", "cpu", None, torch_compile=True)
    assert encoder.passport.list_differences(plain.passport) == ["torch_compile True / False"]


def test_a_compiler_that_is_not_there_is_named(caplog):
    """Torch's own error: the compiler is looked for where there is none."""
    import torch._inductor.config

    failures = []
    tower = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU(), torch.nn.Softmax(-1))
    compile_tower(tower, failures.append)
    changed = torch._inductor.config.patch({"fx_graph_cache": False, "cpp.cxx": (None, "/nowhere/c++")})
    with changed, torch.inference_mode(), caplog.at_level(logging.WARNING, "pervl_assets"):
        assert tower(torch.ones(2, 4)).shape == (2, 4)
    torch._dynamo.reset()
    (message,) = (record.getMessage() for record in caplog.records if record.name.startswith("pervl_assets"))
    assert "No working C++ compiler found" in message
    assert len(failures) == 1


def test_a_batch_too_large_for_a_compiled_tower_is_the_encoders_to_halve():
    tower, failures = torch.nn.Identity(), []
    tower.forward = lambda images: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    compile_tower(tower, failures.append)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(torch, "compile", lambda plain: plain)
        tower(torch.ones(2))
    assert failures == []


class SmallClip(torch.nn.Module):
    """A tower of few layers: compiling takes as long as there are different ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [torch.nn.Conv2d(3, 8, 32, 32), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(392, 8)]
        self.visual = torch.nn.Sequential(*layers)

    def encode_image(self, images):
        return self.visual(images)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU; no g++ is here")
@pytest.mark.filterwarnings("ignore")  # torch's own, of what it compiles
def test_a_compiled_tower_gives_the_same_vectors_to_rounding(caplog):
    compiled, plain = (
        ClipEncoder(SmallClip(), lambda texts: None, make_passport(torch_compile=wanted), torch.device("cpu"))
        for wanted in (True, False)
    )
    with caplog.at_level(logging.WARNING, "pervl_assets"):
        vectors = compiled.encode_images(IMAGES)
    assert compiled.passport.compile_failure is None, caplog.text
    assert np.allclose(vectors, plain.encode_images(IMAGES), rtol=1e-4, atol=1e-5)
