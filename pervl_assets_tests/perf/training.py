"""One epoch of the inversion model's training: time, compared with the plain loop.

    python -m pervl_assets_tests.perf.training [--classes N] [--runs N] [--small]

The plain loop encodes every sentence, target and query of the epoch again, one text at a time in the whole context of
77 tokens. The project encodes different sentences once, short ones together and cut behind their end, and all queries
of a batch at once. Its seconds include what it encodes in advance, so an epoch of many is shorter. Both draw the same
rows, names, prompts and dropout, in the mode `palavra`, with the same CLIP with random weights: two layers of 256
numbers in the text tower. It is small so that the plain loop ends within a minute. Nothing is extrapolated.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from pervl_assets.clip.encoder import ClipEncoder
from pervl_assets.clip.features import Features
from pervl_assets.inversion.coco_classes import OBJECT_SENTENCES
from pervl_assets.training.modes import PROMPTS, TEST_PROMPT
from pervl_assets.training.set_encoder import TrainedSetEncoder, TrainingPassport, list_shapes
from pervl_assets.training.train import SHOTS, VERSION, _initialise, _seed, train_set_encoder
from pervl_assets.training.training_data import TrainingData, collect_training_data
from pervl_assets_tests.inversion.kit import make_passport
from pervl_assets_tests.perf.figures import start_table
from pervl_assets_tests.training.kit import list_matches

CONFIG = {
    "embed_dim": 256,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 2},
}
CLASSES, SMALL, IMAGES, HIDDEN = 256, 6, 40, 256
WORDS = ("red", "big", "old", "small", "blue", "wet", "young", "wooden", "dirty", "tall")
PASSPORT = make_passport(dimension=256)
TARGET = 5


@dataclass(frozen=True)
class World:
    """A CLIP with random weights, and training data."""

    model: nn.Module
    encoder: ClipEncoder
    data: TrainingData

    def encode(self, text: str, token: torch.Tensor | None = None) -> torch.Tensor:
        """Return the vector of one text (D,), with a token in place of its star if one is given."""
        numbers = torch.from_numpy(self.encoder.tokenize([text]))
        words = self.model.token_embedding(numbers).clone()
        if token is not None:
            words[0, int((numbers[0] == 265).nonzero()[0])] = token
        hidden = self.model.transformer(words + self.model.positional_embedding, attn_mask=self.model.attn_mask)
        return self.model.ln_final(hidden)[0, numbers.argmax()] @ self.model.text_projection


def make_world(classes: int) -> World:
    """Return a CLIP with random weights, and captions and random image features of so many classes."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG).eval()
    encoder = ClipEncoder(model, open_clip.get_tokenizer("ViT-B-32"), PASSPORT, torch.device("cpu"))
    random, rows = np.random.default_rng(0), []
    for row in range(classes):
        for image in range(IMAGES):
            first, second, third = random.choice(WORDS, 3)
            text = f"a {first} * that is {second} beside a {third} house number {image}"
            rows.append((row, f"thing {row}", 0, f"{row:03d}{image:03d} ", text.replace("*", f"thing {row}"), text))
    sentences = pl.DataFrame(rows, OBJECT_SENTENCES.to_polars(), orient="row")
    vectors = random.standard_normal((len(rows), 256)).astype(np.float32)
    matches = list_matches({f"Object {row} {word}": row for row in range(classes) for word in WORDS})
    features = Features(sentences["image_id"].to_list(), vectors, PASSPORT)
    return World(model, encoder, collect_training_data(sentences, matches, features, "palavra"))


class Equivariant(nn.Module):
    """A layer of f_theta over the elements of a set."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.Gamma, self.Lambda = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, sets: torch.Tensor) -> torch.Tensor:
        return self.Gamma(sets) - self.Lambda(sets.mean(dim=1, keepdim=True))


class Dropout(nn.Module):
    """Dropout whose random numbers come from `generator`."""

    generator: torch.Generator

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * (torch.rand(hidden.shape, generator=Dropout.generator) >= 0.25) / 0.75


class Inverter(nn.Module):
    """f_theta and A as modules, with the parameter names of the project."""

    def __init__(self) -> None:
        super().__init__()
        layers = [layer for size in (256, HIDDEN, HIDDEN) for layer in (Equivariant(size, HIDDEN), nn.ELU())]
        self.phi = nn.Sequential(*layers)
        self.ro = nn.Sequential(Dropout(), nn.Linear(HIDDEN, HIDDEN), nn.ELU(), Dropout(), nn.Linear(HIDDEN, 256))
        self.layers = nn.Sequential(nn.Linear(256, 256))

    def align(self, texts: torch.Tensor) -> torch.Tensor:
        return normalize(texts + self.layers(texts), dim=-1)


def train_plainly(world: World) -> tuple[dict[str, np.ndarray], list[tuple[float, float]]]:
    """Train an epoch, one text at a time; return the weights, and cycle and ground-truth loss of every pass."""
    data, inverter, shapes = world.data, Inverter(), list_shapes(256, 256, HIDDEN)
    generator = _seed(1, 0)
    inverter.load_state_dict({name: _initialise(name, shapes, generator) for name in shapes})
    theta = torch.optim.Adam([*inverter.phi.parameters(), *inverter.ro.parameters()], lr=1e-4)
    alignment = torch.optim.Adam(inverter.layers.parameters(), lr=1e-4)
    images, losses = normalize(torch.from_numpy(data.features.vectors), dim=-1), []
    for number, phase in enumerate(("image", "text", "test"), 1):
        Dropout.generator = generator = _seed(1, number)
        drawn, labels = data.train.draw(SHOTS, generator), data.classes
        texts = [data.train.sentences[row] for row in drawn.ravel()]
        if phase == "text":
            labels, texts = data.draw_augmented(drawn, generator)
        prompts = (TEST_PROMPT,) if phase == "test" else PROMPTS
        prompt = prompts[int(torch.randint(len(prompts), (), generator=generator))]
        order = torch.randperm(len(labels), generator=generator).tolist()
        with torch.no_grad():
            sentences = torch.stack([world.encode(text) for text in texts]).reshape(len(labels), SHOTS, -1)[order]
            targets = torch.stack([world.encode(prompt[:-1] + labels[row]) for row in order])
            numbers = world.encoder.tokenize([labels[row] for row in order])[:, 1]
            words = world.model.token_embedding(torch.from_numpy(numbers))
        sets = images[torch.from_numpy(data.train.images[drawn])][order]
        if phase == "image":
            step(alignment, mse_loss(inverter.align(sentences), sets))
        else:
            sets = inverter.align(sentences).detach()
        tokens = inverter.ro(inverter.phi(sets).mean(dim=1))
        queries = torch.stack([world.encode(prompt, token) for token in tokens])
        vectors = normalize(torch.cat([queries, targets]), dim=-1)
        similar = (vectors @ vectors.T / 0.25).fill_diagonal_(-torch.inf)
        cycle = cross_entropy(similar, torch.arange(len(vectors)).roll(len(queries)))
        ground_truth = 256 * mse_loss(normalize(tokens, dim=-1), normalize(words, dim=-1))
        if phase != "test":
            step(theta, cycle + ground_truth)
        losses.append((cycle.item(), ground_truth.item()))
    return {name: one.numpy() for name, one in inverter.state_dict().items()}, losses


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Take a step along the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train_as_project(world: World) -> TrainedSetEncoder:
    """Train an epoch as the project does, with nothing encoded before."""
    passport = TrainingPassport("palavra", VERSION, 1, 1, HIDDEN, PASSPORT, "")
    with tempfile.TemporaryDirectory(suffix=".partial") as work:
        return train_set_encoder(world.data, passport, lambda: world.encoder, Path(work))


def compare_ways(classes: int, runs: int) -> dict[str, float]:
    """Return the seconds of the plain loop, and the median of those of the project.

    Raises:
        RuntimeError: They found other losses or weights.
    """
    world, seconds = make_world(classes), []
    world.encoder.encode_texts(["a word"])  # starts threads
    for _ in range(runs):
        start = time.perf_counter()
        found = train_as_project(world)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    weights, losses = train_plainly(world)
    plain = time.perf_counter() - start
    own = found.curves.select("cycle", "ground_truth").rows()
    moved = [np.abs(weights[name] - one) for name, one in found.weights.items()]
    if not np.allclose(own, losses, rtol=1e-3) or np.mean(np.concatenate([one.ravel() for one in moved])) > 1e-6:
        raise RuntimeError(f"The two ways trained differently: {own}, {losses}.")
    return {"plain": plain, "project": median(seconds)}


def make_table(seconds: dict[str, float], classes: int, runs: int) -> Table:
    """Return the table of all figures."""
    title = f"One epoch of {classes:,} classes, medians of {runs} runs (plain loop: one run)"
    table = start_table(title, "way", "target", "s", "times as fast")
    table.add_row("plain loop", "", f"{seconds['plain']:.2f}", "")
    ratio = seconds["plain"] / seconds["project"]
    table.add_row("project", f"{TARGET} times", f"{seconds['project']:.2f}", f"{ratio:.1f}")
    table.caption = "Both ways found the same losses and weights."
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=CLASSES, help="at most 256, one batch")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one run of few classes: to test that everything works")
    given = parser.parse_args(arguments)
    classes, runs = (SMALL, 1) if given.small else (given.classes, given.runs)
    Console(width=max(120, Console().width)).print(make_table(compare_ways(classes, runs), classes, runs))


if __name__ == "__main__":
    main()
