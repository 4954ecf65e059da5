"""Learning 252 concepts in 30 steps: time, compared with the plain loop.

    python -m pervl_assets_tests.perf.tuning [--concepts N] [--runs N] [--small]

The plain loop encodes the five images of every concept again in each of its steps, and one text at a time in the whole
context of 77 tokens, as PALAVRA's code does. The project averages stored image features once, and encodes the texts of
all concepts at once, cut behind their last token. Both use the same CLIP with random weights: one layer in each tower,
128 numbers in the text tower and 64 in the vision tower, images of 64 pixels. It is small so that the plain loop ends
within a minute, and its images cost less beside its texts than those of ViT-B/32. Nothing is extrapolated. Seconds are
those of the learning alone, in one process and with all of torch's threads.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import normalize

from pervl_assets.clip.encoder import ClipEncoder
from pervl_assets.clip.token_texts import TokenTexts
from pervl_assets.training.concept_tokens import learn_tokens
from pervl_assets_tests.inversion.kit import make_passport
from pervl_assets_tests.perf.figures import start_table

CONFIG = {
    "embed_dim": 256,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "head_width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 1},
}
CONCEPTS, SHOTS, STEPS, SMALL = 252, 5, 30, 12
RATE, TEMPERATURE, TEXT = 0.01, 0.25, "* "
TARGET = 5


@dataclass(frozen=True)
class World:
    """A CLIP, pixels of images (C, K, 3, 64, 64), normalised negatives (C, D), tokens to start from (C, W)."""

    model: torch.nn.Module
    encoder: ClipEncoder
    pixels: torch.Tensor
    negatives: torch.Tensor
    starts: torch.Tensor

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the mean of normalised features (D,) of some images."""
        with torch.no_grad():
            return normalize(self.model.encode_image(pixels), dim=-1).mean(dim=0)


def make_world(concepts: int) -> World:
    """Return a CLIP with random weights, and random images."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG).eval()
    encoder = ClipEncoder(model, open_clip.get_tokenizer("ViT-B-32"), make_passport(dimension=256), torch.device("cpu"))
    pixels, negatives = torch.randn(concepts, SHOTS, 3, 64, 64), normalize(torch.randn(concepts, 256), dim=-1)
    return World(model, encoder, pixels, negatives, 0.02 * torch.randn(concepts, 128))


def learn_plainly(world: World, steps: int) -> np.ndarray:
    """Learn the tokens with images encoded in every step and one text at a time, without any code of the project."""
    import open_clip

    tokens = torch.nn.Parameter(world.starts.clone())
    optimizer = torch.optim.Adam([tokens], RATE)
    model, numbers = world.model, open_clip.get_tokenizer("ViT-B-32")([TEXT])
    place = int((numbers[0] == 265).nonzero()[0])
    for _ in range(steps):
        losses = []
        for row, token in enumerate(tokens):
            words = model.token_embedding(numbers).clone()
            words[0, place] = token
            hidden = model.transformer(words + model.positional_embedding, attn_mask=model.attn_mask)
            last = model.ln_final(hidden)[0, numbers.argmax()]
            pair = [world.encode_images(world.pixels[row]), last @ model.text_projection]
            vectors = normalize(torch.stack([*pair, world.negatives[row], world.negatives[row]]), dim=-1)
            similar = (vectors @ vectors.T / TEMPERATURE).fill_diagonal_(-torch.inf)
            losses.append(torch.nn.functional.cross_entropy(similar, torch.tensor([1, 0, 3, 2])))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    return tokens.detach().numpy()


def learn_at_once(world: World, steps: int) -> np.ndarray:
    """Learn the tokens as the project does; the images are encoded once."""
    means = torch.stack([world.encode_images(pixels) for pixels in world.pixels]).numpy()
    texts, tuning = TokenTexts(world.encoder), {"learning_rate": RATE, "temperature": TEMPERATURE, "text": TEXT}
    tokens, _ = learn_tokens(texts, means, world.negatives.numpy(), world.starts.numpy(), steps=steps, **tuning)
    return tokens


def compare_ways(concepts: int, steps: int, runs: int) -> dict[str, float]:
    """Return the seconds of the plain loop, and the median of those of the project.

    Raises:
        RuntimeError: They learned other tokens.
    """
    world = make_world(concepts)
    learn_at_once(world, 1)  # starts threads
    plain, expected = measure(learn_plainly, world, steps)
    fast = [measure(learn_at_once, world, steps) for _ in range(runs)]
    if not all(np.allclose(found, expected, atol=1e-3) for _, found in fast):
        raise RuntimeError("The two ways learned other tokens.")
    return {"plain": plain, "project": median(seconds for seconds, _ in fast)}


def measure(learn: Callable[[World, int], np.ndarray], world: World, steps: int) -> tuple[float, np.ndarray]:
    """Return the seconds of learning, and the tokens."""
    start = time.perf_counter()
    tokens = learn(world, steps)
    return time.perf_counter() - start, tokens


def make_table(seconds: dict[str, float], concepts: int, runs: int) -> Table:
    """Return the table of all figures."""
    title = f"{concepts:,} concepts, {STEPS} steps, medians of {runs} runs (plain loop: one run)"
    table = start_table(title, "way", "target", "s", "times as fast")
    table.add_row("plain loop", "", f"{seconds['plain']:.2f}", "")
    table.add_row(
        "project", f"{TARGET} times", f"{seconds['project']:.2f}", f"{seconds['plain'] / seconds['project']:.1f}"
    )
    table.caption = "Both ways learned the same tokens, the project with images encoded once within its seconds."
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=CONCEPTS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one run of few concepts: to test that everything works")
    given = parser.parse_args(arguments)
    concepts, runs = (SMALL, 1) if given.small else (given.concepts, given.runs)
    Console(width=max(120, Console().width)).print(make_table(compare_ways(concepts, STEPS, runs), concepts, runs))


if __name__ == "__main__":
    main()
