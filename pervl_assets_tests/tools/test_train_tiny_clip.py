import gzip
import io
import re
import socket
import zipfile
from collections import defaultdict
from random import Random

import numpy as np
import pytest
from PIL import Image

from pervl_assets.clip.encoder import PROMPT
from pervl_assets.clip.preprocessing import CLIP_MEAN, CLIP_STD
from pervl_assets.demo import TINY_CLIP
from pervl_assets.demo.places import PLACES
from pervl_assets.demo.scenes import CLASSES, THINGS, compose_scene, render
from pervl_assets.demo.sentences import SYNONYMS
from pervl_assets_tests.tools.train_tiny_clip import (
    MERGES,
    choose_caption,
    draw_example,
    prepare_pixels,
    train,
    write_config,
    write_merges,
)

pytestmark = pytest.mark.bench

# The accuracy of the committed weights is in their README. Chance is 1/23 for things and 1/30 for all classes.
LEAST_THING_ACCURACY = 0.8
LEAST_CLASS_ACCURACY = 0.75
LEAST_TRUE_SHARE = 0.8
LEAST_SYNONYM_ACCURACY = 0.95


class Clip:
    """The committed model, loaded by open_clip only."""

    def __init__(self):
        import open_clip
        import torch

        self.torch = torch
        self.model = open_clip.create_model(f"local-dir:{TINY_CLIP}").eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{TINY_CLIP}", bpe_path=str(TINY_CLIP / MERGES))

    def encode_images(self, images):
        pixels = np.stack([prepare_pixels(image) for image in images]).astype(np.float32) / 255
        pixels = (pixels - CLIP_MEAN) / CLIP_STD
        images = self.torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2))
        with self.torch.no_grad():
            return self.model.encode_image(images).numpy()

    def encode_texts(self, names):
        with self.torch.no_grad():
            return self.model.encode_text(self.tokenizer([PROMPT + name for name in names])).numpy()

    def classify(self, images, names):
        texts = self.encode_texts(names)
        texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
        return [names[k] for k in (images @ texts.T).argmax(1)]


@pytest.fixture(scope="module")
def clip():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("loading the tiny CLIP reached for the network"))
        return Clip()


@pytest.fixture(scope="module")
def held_out(clip):
    """Things, places and vectors of images that the training never draws (its seeds start with `tiny clip/`)."""
    scenes = [
        (thing, compose_scene(Random(f"held out/{thing}/{k}"), thing, alone=True)) for thing in THINGS for k in range(3)
    ]
    vectors = clip.encode_images([render(scene)[0] for _, scene in scenes])
    return [thing for thing, _ in scenes], [scene.place for _, scene in scenes], vectors


def test_the_folder_is_small_and_complete(clip):
    sizes = {path.name: path.stat().st_size for path in TINY_CLIP.iterdir()}
    assert {"open_clip_config.json", "open_clip_model.safetensors", MERGES, "README.md", "LICENSE-bpe.txt"} == set(
        sizes
    )
    assert sizes["open_clip_model.safetensors"] <= 4e6
    assert clip.tokenizer.vocab_size == clip.model.vocab_size


def measure_accuracy(found, wanted) -> float:
    return np.mean([one == other for one, other in zip(found, wanted, strict=True)])


def test_zero_shot_finds_the_thing_in_held_out_images(clip, held_out):
    things, _, vectors = held_out
    assert measure_accuracy(clip.classify(vectors, THINGS), things) >= LEAST_THING_ACCURACY


def test_zero_shot_finds_the_thing_among_all_classes(clip, held_out):
    things, _, vectors = held_out
    assert measure_accuracy(clip.classify(vectors, CLASSES), things) >= LEAST_CLASS_ACCURACY


def test_zero_shot_finds_the_place(clip, held_out):
    _, places, vectors = held_out
    assert measure_accuracy(clip.classify(vectors, list(PLACES)), places) >= LEAST_THING_ACCURACY


def test_zero_shot_names_something_true_of_the_synthetic_coco_images(clip, drawn):
    folder = drawn / "inversion_model_train_data"
    true = defaultdict(set)
    for line in (folder / "mscoco-train2014-svo-2016-02-18.txt").read_text().splitlines():
        image, subject, _, other = re.match(r"img_id=(\d+) \| (.*?), (.*?), (.*?) \|", line).groups()
        true[int(image)] |= {subject, other}
    chosen = sorted(true)[::5]
    with zipfile.ZipFile(folder / "train2014.zip") as archive:
        images = [
            Image.open(io.BytesIO(archive.read(f"train2014/COCO_train2014_{image:012d}.jpg"))) for image in chosen
        ]
    found = clip.classify(clip.encode_images(images), CLASSES)
    assert np.mean([name in true[image] for name, image in zip(found, chosen, strict=True)]) >= LEAST_TRUE_SHARE


def test_synonyms_are_nearest_to_their_class(clip):
    names = [(name, synonym) for name in CLASSES for synonym in SYNONYMS[name]]
    queries, keys = clip.encode_texts([synonym for _, synonym in names]), clip.encode_texts(CLASSES)
    nearest = ((queries[:, None] - keys[None]) ** 2).sum(2).argmin(1)
    assert np.mean([CLASSES[k] == name for k, (name, _) in zip(nearest, names, strict=True)]) >= LEAST_SYNONYM_ACCURACY


def test_merges_and_configuration_equal_those_of_the_script(tmp_path):
    write_merges(tmp_path)
    write_config(tmp_path)
    assert (tmp_path / "open_clip_config.json").read_bytes() == (TINY_CLIP / "open_clip_config.json").read_bytes()
    new, committed = (gzip.decompress((folder / MERGES).read_bytes()) for folder in (tmp_path, TINY_CLIP))
    assert new == committed


def test_captions_are_true_of_their_image():
    for number in range(36):
        example = draw_example("test", number)
        caption = choose_caption(example, Random(number))
        assert caption.tags <= example.tags
        assert caption.text
        assert caption.named == ("*" in caption.text)
        assert not caption.named or example.look in caption.tags
        assert example.look == draw_example("test", number - number % 6).look  # of the same individual
        assert not choose_caption(example, Random(number), named=False).named
    assert draw_example("test", 0).pixels.tolist() == draw_example("test", 0).pixels.tolist()


@pytest.mark.parametrize("locked", [False, True])
def test_a_short_training_saves_a_model_that_open_clip_loads(tmp_path, locked):
    import open_clip

    lines = []
    train(
        tmp_path, images=24, minutes=0.01, batch=8, seed=0, threads=1, resume=False, locked=locked, report=lines.append
    )
    assert "saved" in lines[-1]
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=0.2)
