"""Train the tiny CLIP of the demo: `python -m pervl_assets_tests.tools.train_tiny_clip [FOLDER]`.

The model learns from images of seeds that nothing else uses (`tiny clip/…`), with captions that are true of them. Many
captions are true of several images of a batch ("This is a photo of a dog"), so the contrastive loss counts every true
pair as a match, not only the pair that was drawn together. Each batch also has a prompt for every class. No network is
used. The seed determines images, captions and initial weights. The learning rate depends on the elapsed time, so the
trained weights differ slightly between runs.
"""

import argparse
import gzip
import io
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pervl_assets.clip.encoder import PROMPT
from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import CLIP_MEAN, CLIP_STD, UPSTREAM
from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.demo import TINY_CLIP
from pervl_assets.demo.drawing import COLOURS
from pervl_assets.demo.places import PLACES
from pervl_assets.demo.scenes import CLASSES, THINGS, Figure, Scene, compose_scene, render
from pervl_assets.demo.sentences import SYNONYMS, describe_scene

if TYPE_CHECKING:
    import torch

MERGES: Final = "bpe_first_2000_merges.txt.gz"
"""File name of the tokenizer, in the folder of the configuration."""

_MERGE_COUNT: Final = 2000
_PLACE_WEIGHT: Final = 0.3
_MODEL: Final[dict[str, Any]] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": UPSTREAM.crop, "layers": [1, 1, 1, 1], "width": 12, "head_width": 48},
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 2 * 256 + _MERGE_COUNT + 2,
        "width": 128,
        "heads": 4,
        "layers": 2,
    },
}
# Everything a caption can name: a class, or a thing of a colour.
_TAGS: Final = {tag: k for k, tag in enumerate([*CLASSES, *(f"{c} {t}" for t in THINGS for c in COLOURS)])}


@dataclass(frozen=True)
class Example:
    """A training image: pixels, uint8 (224, 224, 3); its true tags; its sentences with the tags that they name."""

    pixels: NDArray[np.uint8]
    tags: frozenset[str]
    subjects: tuple[str, ...]
    sentences: tuple[tuple[str, frozenset[str]], ...]


def prepare_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return the pixels that CLIP gets of an image, uint8 (224, 224, 3), prepared as the assets do."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return prepare_image(buffer.getvalue())


def _crop_around(scene: Scene, image: Image.Image, mask: NDArray[np.uint8], random: Random) -> Image.Image:
    """Crop the first figure with some of its surroundings, like few-shot and retrieval crops."""
    rows, columns = np.nonzero(mask == 1)
    grow = random.uniform(0, 0.5)
    dx, dy = grow * (columns.max() - columns.min()), grow * (rows.max() - rows.min())
    box = (columns.min() - dx, rows.min() - dy, columns.max() + dx, rows.max() + dy)
    x0, y0, x1, y1 = (int(v) for v in box)
    return image.crop((max(0, x0), max(0, y0), min(scene.width, x1), min(scene.height, y1)))


def draw_example(seed: str) -> Example:
    """Draw one example: a thing alone, cropped, or with a second one."""
    random = Random(seed)
    kind = random.choice(["alone", "crop", "crop", "pair", "pair"])
    scene = compose_scene(random, random.choice(THINGS), alone=kind == "alone")
    image, mask = render(scene)
    figures = scene.figures
    sentences: list[tuple[str, frozenset[str]]] = []
    if kind == "crop":
        figures = figures[:1]
        image = _crop_around(scene, image, mask, random)
    else:
        named = frozenset(_name(figure) for figure in figures)
        facts = describe_scene(scene, random)
        for fact in facts[:-1]:
            sentences.append((fact.sentence, named | {scene.place}))
        lowest = max(figures, key=lambda figure: figure.y)
        sentences.append((facts[-1].sentence, frozenset({_name(lowest), scene.place})))
    subjects = tuple(_name(figure) for figure in figures)
    tags = frozenset([scene.place, *(figure.thing for figure in figures), *subjects])
    return Example(prepare_pixels(image), tags, subjects, tuple(sentences))


def _name(figure: Figure) -> str:
    return f"{figure.look.colour} {figure.thing}"


def choose_caption(example: Example, random: Random) -> tuple[str, frozenset[str]]:
    """Return a caption for an example, and the tags of every image that it describes."""
    subject = random.choice(example.subjects)
    thing = subject.split(" ", 1)[1]
    choice = random.random()
    if example.sentences and choice < 0.3:
        return random.choice(example.sentences)
    place = next(place for place in PLACES if place in example.tags)
    if example.sentences and choice < 0.45:
        return PROMPT + random.choice([place, place, *SYNONYMS[place]]), frozenset({place})
    name = random.choice([thing, thing, *SYNONYMS[thing]])
    if choice < 0.65:
        return f"{PROMPT}{subject.split(' ', 1)[0]} {name}", frozenset({subject})
    return PROMPT + name, frozenset({thing})


def write_merges(folder: Path) -> None:
    """Write the first merges of open_clip's own byte-pair encoding (MIT licence), from the installed package."""
    import open_clip

    full = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(full.read_bytes()).decode().split("\n")[: _MERGE_COUNT + 1]
    write_bytes_atomically(folder / MERGES, gzip.compress("\n".join(lines).encode(), mtime=0))


def write_config(folder: Path) -> None:
    """Write `open_clip_config.json`."""
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": _MODEL, "preprocess_cfg": preprocess}
    write_bytes_atomically(folder / "open_clip_config.json", (json.dumps(config, indent=2) + "\n").encode())


def _save_weights(model: "torch.nn.Module", folder: Path) -> None:
    """Write the weights: matrices as float16, everything else as float32."""
    import torch
    from safetensors.torch import save

    state = {
        name: tensor.to(torch.float16 if tensor.ndim >= 2 else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_bytes_atomically(folder / "open_clip_model.safetensors", save(state))


def _to_tensor(pixels: NDArray[np.uint8]) -> "torch.Tensor":
    """Return normalised float32 (B, 3, 224, 224) of uint8 (B, 224, 224, 3)."""
    import torch

    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    mean, deviation = torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), torch.tensor(CLIP_STD).view(1, 3, 1, 1)
    return ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)


def _match_all(tags: list[frozenset[str]], named: list[frozenset[str]]) -> "torch.Tensor":
    """Return float32 (images, captions): 1 if the caption is true of the image."""
    import torch

    def encode(sets: list[frozenset[str]]) -> torch.Tensor:
        rows = torch.zeros(len(sets), len(_TAGS))
        for row, names in zip(rows, sets, strict=True):
            row[[_TAGS[name] for name in names]] = 1
        return rows

    wanted = encode(named)
    return (encode(tags) @ wanted.T == wanted.sum(1)).float()


def train(
    folder: Path,
    *,
    images: int,
    minutes: float,
    batch: int,
    seed: int,
    threads: int,
    resume: bool,
    report: Callable[[str], None],
) -> None:
    """Train a tiny CLIP and save it to `folder`.

    Args:
        folder: Gets `open_clip_config.json`, the merges of the tokenizer and `open_clip_model.safetensors`.
        images: Number of images to draw. Each is used many times, shifted by up to 10 pixels.
        minutes: Length of the training. The learning rate falls to zero over it.
        batch: Images per step.
        seed: Determines images, captions and initial weights.
        threads: Threads of torch. One is best if other processes use the cores.
        resume: Start from the weights in `folder` instead of random ones. Another seed then draws new images.
        report: Called with lines about the progress.
    """
    import open_clip
    import torch

    write_config(folder)
    write_merges(folder)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        examples = list(pool.map(draw_example, [f"tiny clip/{seed}/{n}" for n in range(images)], chunksize=50))
    report(f"{len(examples):,} images drawn")
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    random = Random(seed)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=str(folder / MERGES))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=resume)
    model = model.to(memory_format=torch.channels_last)
    optimizer = _make_optimizer(model)
    order: list[int] = []
    started, step, share = time.monotonic(), 0, 0.0
    while share < 1:
        share = min(1.0, (time.monotonic() - started) / (60 * minutes))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * share))
        if len(order) < batch:
            order = random.sample(range(images), images)
        loss, scale = _compute_loss(model, tokenizer, [examples[order.pop()] for _ in range(batch)], random)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 50 == 0:
            report(f"step {step}: loss {loss.item():.3f}, scale {scale:.1f}, {share:.0%} of the time")
        step += 1
    _save_weights(model.eval(), folder)
    report(f"saved after {step} steps of {batch}")


def _make_optimizer(model: "torch.nn.Module") -> "torch.optim.Optimizer":
    """Return AdamW with weight decay for matrices only."""
    import torch

    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )


def _compute_loss(
    model: "torch.nn.Module", tokenizer: Callable[[list[str]], Any], chosen: list[Example], random: Random
) -> "tuple[torch.Tensor, float]":
    """Return the contrastive loss of a batch with every true pair as a match, and the logit scale."""
    import torch

    captions = [choose_caption(example, random) for example in chosen]
    captions += [(PROMPT + random.choice([name, *SYNONYMS[name]]), frozenset({name})) for name in CLASSES]
    shifts = [(random.randint(-10, 10), random.randint(-10, 10)) for _ in chosen]
    pixels = np.stack([np.roll(e.pixels, shift, (0, 1)) for e, shift in zip(chosen, shifts, strict=True)])
    truth = _match_all([example.tags for example in chosen], [named for _, named in captions])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, text, scale = model(_to_tensor(pixels), tokenizer([caption for caption, _ in captions]))[:3]
    logits = scale * image.float() @ text.float().T
    # The things in an image count more than its place.
    wanted = truth * torch.tensor([_PLACE_WEIGHT if named <= set(PLACES) else 1.0 for _, named in captions])
    loss = torch.nn.functional.cross_entropy(logits, wanted / wanted.sum(1, keepdim=True))
    found = truth.T / truth.T.sum(1, keepdim=True).clamp(min=1)  # no target for a class that no image shows
    return loss + torch.nn.functional.cross_entropy(logits.T, found), scale.item()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the tiny CLIP of the demo.")
    parser.add_argument("folder", type=Path, nargs="?", default=TINY_CLIP)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    options = vars(parser.parse_args())
    train(**options, report=lambda line: print(line, flush=True))  # noqa: T201 - progress of a script


if __name__ == "__main__":
    main()
