"""A small training set of the inversion model, and a CLIP with random weights that it can be trained with."""

import numpy as np
import polars as pl

from pervl_assets.clip.encoder import ClipEncoder
from pervl_assets.clip.features import Features
from pervl_assets.inversion.coco_classes import OBJECT_SENTENCES
from pervl_assets.inversion.open_images import OPENIMAGES_MATCHES
from pervl_assets.training.modes import MODES
from pervl_assets.training.set_encoder import TrainingPassport
from pervl_assets.training.train import VERSION
from pervl_assets.training.training_data import TrainingData, collect_training_data
from pervl_assets_tests.inversion.kit import TINY_CONFIG, make_passport, make_tiny_clip

PASSPORT = make_passport(dimension=TINY_CONFIG["embed_dim"])


def list_sentences(counts: dict[str, int]) -> pl.DataFrame:
    """Return a frame of `OBJECT_SENTENCES` with so many images of each class, and two sentences about each image."""
    rows = [
        (row, name, line, f"{row}{image:03d} ", f"{word} {name} {image}", f"{word} * {image}")
        for row, (name, count) in enumerate(counts.items())
        for image in range(count)
        for line, word in enumerate(("a", "second"))
    ]
    return pl.DataFrame(rows, OBJECT_SENTENCES.to_polars(), orient="row")


def list_matches(names: dict[str, int]) -> pl.DataFrame:
    """Return a frame of `OPENIMAGES_MATCHES`: names with the row of their class."""
    rows = [(row, name, of, "", 0.0, None, None, None) for row, (name, of) in enumerate(names.items())]
    return pl.DataFrame(rows, OPENIMAGES_MATCHES.to_polars(), orient="row")


def make_data(splits: str = "palavra", images: int = 40) -> TrainingData:
    """Return the training data of six classes, two of which have OpenImages names."""
    sentences = list_sentences(dict.fromkeys(("dog", "cat", "bus", "sofa", "tree", "cup"), images))
    ids = sentences["image_id"].unique().sort().to_list()
    vectors = np.random.default_rng(0).standard_normal((len(ids), PASSPORT.dimension)).astype(np.float32)
    matches = list_matches({"Poodle": 0, "Husky": 0, "Minibus": 2})
    return collect_training_data(sentences, matches, Features(ids, vectors, PASSPORT), splits)


def make_training(mode: str, seed: int = 1, epochs: int = 3) -> tuple[TrainingData, TrainingPassport]:
    """Return data and passport of a small training."""
    data = make_data(MODES[mode].splits)
    return data, TrainingPassport(mode, VERSION, seed, epochs, 8, PASSPORT, data.hash())


def make_encoder() -> ClipEncoder:
    """Return the CLIP with random weights of a fixed seed."""
    import open_clip
    import torch

    return ClipEncoder(make_tiny_clip(TINY_CONFIG), open_clip.tokenize, PASSPORT, torch.device("cpu"))
