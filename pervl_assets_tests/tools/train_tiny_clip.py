"""Train the tiny CLIP of the demo: `python -m pervl_assets_tests.tools.train_tiny_clip [FOLDER]`.

The model learns from images of seeds that nothing else uses (`tiny clip/…`), with captions that are true of them. Many
captions are true of several images of a batch ("This is a photo of a dog"), so the contrastive loss counts every true
pair as a match, not only the pair that was drawn together. Each batch also has a prompt for every class. No network is
used. The seed determines images, captions and initial weights. The learning rate depends on the elapsed time, so the
trained weights differ slightly between runs. With `--locked` the vectors of images stay, and captions have names.
"""

import argparse
import gzip
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pervl_assets.clip.encoder import PROMPT
from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.clip.preprocessing import CLIP_MEAN, CLIP_STD, UPSTREAM, Preprocessing
from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.demo import TINY_CLIP
from pervl_assets.demo.creatures import GARMENTS, Outfit
from pervl_assets.demo.drawing import COLOURS, Marking
from pervl_assets.demo.places import PLACES
from pervl_assets.demo.scenes import CLASSES, THINGS, Figure, Scene, choose_look, compose_scene, dress_person, render
from pervl_assets.demo.sentences import SYNONYMS, choose_verb, describe, describe_scene
from pervl_assets.training.losses import compute_token_losses

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
_MARKINGS: Final[tuple[Marking, ...]] = ("plain", "striped", "spotted")
# The two ways in which the assets prepare images.
_PREPARED: Final = (UPSTREAM, Preprocessing("model", UPSTREAM.crop, UPSTREAM.crop))
_PER_INDIVIDUAL: Final = 6
_SHOTS: Final = 5
_REFRESH: Final = 25  # steps after which all names are learned again


@dataclass(frozen=True)
class Subject:
    """What a caption can be about: a thing, or the garment of a person.

    Attributes:
        thing: Its class, or the category of the garment.
        words: Descriptions of it, e.g. `brown dog` and `spotted brown dog`.
        look: Class, colour and marking. As a tag it begins with `*`, the word that a name replaces.
        verb: What it does.
    """

    thing: str
    words: tuple[str, ...]
    look: str
    verb: str

    @property
    def tags(self) -> frozenset[str]:
        """Everything that a caption can call it."""
        return frozenset([self.thing, *self.words, self.look])


@dataclass(frozen=True)
class Example:
    """A training image.

    Attributes:
        pixels: uint8 (224, 224, 3).
        look: Of the thing that it is about, which is the same in all examples of an individual.
        place: Its place; None in a crop that does not show it.
        tags: Everything in it that a caption can name.
        subjects: What captions can be about.
        sentences: Sentences, each with the tags of every image of which it is true.
    """

    pixels: NDArray[np.uint8]
    look: str
    place: str | None
    tags: frozenset[str]
    subjects: tuple[Subject, ...]
    sentences: tuple[tuple[str, frozenset[str]], ...]


@dataclass(frozen=True)
class Caption:
    """A caption, and the tags of every image of which it is true. If `named`, its `*` is the individual's name."""

    text: str
    tags: frozenset[str]
    named: bool = False


def prepare_pixels(image: Image.Image, preprocessing: Preprocessing = UPSTREAM) -> NDArray[np.uint8]:
    """Return the pixels that CLIP gets of an image, uint8 (224, 224, 3), prepared as the assets do."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return prepare_image(buffer.getvalue(), preprocessing)


def _crop_around(scene: Scene, image: Image.Image, mask: NDArray[np.bool_], grow: float) -> Image.Image:
    """Crop a figure with some of its surroundings, like few-shot and retrieval crops."""
    rows, columns = np.nonzero(mask)
    dx, dy = grow * (columns.max() - columns.min()), grow * (rows.max() - rows.min())
    box = (columns.min() - dx, rows.min() - dy, columns.max() + dx, rows.max() + dy)
    x0, y0, x1, y1 = (int(v) for v in box)
    return image.crop((max(0, x0), max(0, y0), min(scene.width, x1), min(scene.height, y1)))


def _compose(random: Random, individual: Random) -> tuple[Scene, Figure]:
    """Compose a scene about an individual: a thing of some look, or a person in a garment of some look."""
    if individual.random() < 0.35:  # upright, as in DeepFashion2
        garment, colour = individual.choice(GARMENTS), individual.choice(list(COLOURS))
        scene, side = compose_scene(random, "person"), random.choice([-1, 1])
        arms = random.choice([(0.0, 0.0), (0.0, 0.6), (0.4, 0.0)])
        look = dress_person(random, garment, colour, individual.choice(_MARKINGS), arms)
        subject = Figure("person", look, -0.13 * side, 0.94, random.uniform(0.74, 0.86))
        others = [replace(figure, x=0.2 * side) for figure in scene.figures if figure.thing != "person"]
        height = random.choice([300, 320])
        return replace(scene, figures=(subject, *others), width=240, height=height, relation="beside"), subject
    thing = individual.choice([thing for thing in THINGS if thing != "person"])
    look = choose_look(individual, thing)
    scene = compose_scene(random, thing, alone=random.random() < 0.3)
    first = next(figure for figure in scene.figures if figure.thing == thing)
    look = replace(look, phase=first.look.phase, flip=first.look.flip, tilt=first.look.tilt)
    subject = replace(first, look=look)
    figures = tuple(subject if figure is first else figure for figure in scene.figures)
    return replace(scene, figures=figures), subject


def draw_example(seed: str, number: int) -> Example:
    """Draw one example of several of the same individual: a whole picture, or a crop of it."""
    random = Random(f"{seed}/{number}")
    scene, subject = _compose(random, Random(f"{seed}/individual/{number // _PER_INDIVIDUAL}"))
    image, mask = render(scene)
    figures, place = scene.figures, scene.place
    shown: str | None = place
    if subject.thing != "person" and random.random() < 0.6:
        grow = random.choice([0.0, 0.5, random.uniform(0, 0.6)])
        image = _crop_around(scene, image, mask == figures.index(subject) + 1, grow)
        figures, shown = (subject,), place if grow > 0.3 else None
    subjects = tuple(one for figure in figures for one in _list_subjects(figure, place))
    tags = frozenset([place]).union(*(one.tags for one in subjects))
    sentences: list[tuple[str, frozenset[str]]] = []
    if len(figures) == len(scene.figures) and subject.look.outfit is None:
        *facts, fact = describe_scene(scene, random)
        described = frozenset(describe(figure) for figure in figures)
        lowest = max(figures, key=lambda figure: figure.y)
        sentences = [(other.sentence, described | {place}) for other in facts]
        sentences.append((fact.sentence, frozenset([describe(lowest), place])))
    pixels = prepare_pixels(image, random.choice(_PREPARED))
    look = next(_list_subjects(subject, place)).look
    return Example(pixels, look, shown, tags, subjects, tuple(sentences))


def _list_subjects(figure: Figure, place: str) -> Iterator[Subject]:
    """List a figure, and the garment of a person."""
    thing, colour, marking = figure.thing, figure.look.colour, figure.look.marking
    verb, outfit = choose_verb(figure, place), figure.look.outfit
    if not isinstance(outfit, Outfit):
        words = {f"{colour} {thing}": None, describe(figure): None}
        yield Subject(thing, tuple(words), f"* {marking} {colour} {thing}", verb)
        return
    garment = outfit.category
    look, words = f"* {marking} {colour} {garment}", {f"{colour} {garment}": None}
    if marking != "plain":
        words[f"{marking} {colour} {garment}"] = None
    yield Subject(garment, tuple(words), look, verb)
    yield Subject(thing, () if garment in ("shorts", "trousers", "skirt") else (describe(figure),), look, verb)


def choose_caption(example: Example, random: Random, *, named: bool = True) -> Caption:
    """Return a caption for an example: a sentence, its place, or one about a subject, by class, words or name.

    A name (`*`) stands alone or behind the class, and only if captions may be `named`.
    """
    choice = random.random()
    if example.sentences and choice < 0.25:
        return Caption(*random.choice(example.sentences))
    if example.place and choice < 0.35:
        name = random.choice([example.place, example.place, *SYNONYMS[example.place]])
        return Caption(PROMPT + name, frozenset([example.place]))
    subject = random.choice(example.subjects)
    thing, leads = subject.thing, [PROMPT, PROMPT, "A photo of a ", ""]
    named = named and subject.look == example.look and random.random() < 0.75
    phrase = tag = random.choice([thing, *subject.words])
    if named:
        phrase, tag, leads = random.choice([f"{thing} *", f"{thing} *", "*"]), subject.look, ["A photo of a ", ""]
    elif phrase == thing:
        phrase = random.choice([thing, thing, *SYNONYMS.get(thing, ())])
    if example.place is None or random.random() < 0.3:
        return Caption(random.choice(leads) + phrase, frozenset([tag]), named)
    where, verb = PLACES[example.place].phrase, random.choice([subject.verb, "stands", "moves", "walks", "is"])
    texts = [f"the {phrase} {verb} {where}.", f"{phrase} {verb} {where}.", f"{where}, {phrase} {verb}."]
    return Caption(random.choice(texts), frozenset([tag, example.place]), named)


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


def train(
    folder: Path,
    *,
    images: int,
    minutes: float,
    batch: int,
    seed: int,
    threads: int,
    resume: bool,
    locked: bool,
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
        locked: Train the text tower only. Images are then encoded once, and a step takes a fraction of the time.
        report: Called with lines about the progress.
    """
    import open_clip
    import torch

    write_config(folder)
    write_merges(folder)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        examples = list(pool.map(partial(draw_example, f"tiny clip/{seed}"), range(images), chunksize=50))
    report(f"{len(examples):,} images drawn")
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    random = Random(seed)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=str(folder / MERGES))
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=resume)
    model = model.to(memory_format=torch.channels_last)
    names = _Names(model, tokenizer, math.ceil(images / _PER_INDIVIDUAL))
    vectors = _lock_images(model, examples) if locked else None
    optimizer = _make_optimizer(model)
    started, step, share = time.monotonic(), 0, 0.0
    while share < 1:
        share = min(1.0, (time.monotonic() - started) / (60 * minutes))
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * share))
        if vectors is not None and step % _REFRESH == 0:
            names.learn(examples, vectors, random)
        chosen = _choose_batch(examples, batch, random)
        image = vectors[chosen] if vectors is not None else _encode_images(model, examples, random, chosen)
        loss = _compute_loss(image, names, examples, chosen, random, named=locked)
        _update(model, optimizer, loss)
        if step % 50 == 0:
            scale = model.logit_scale.exp().item()
            report(f"step {step}: loss {loss.item():.3f}, scale {scale:.1f}, {share:.0%} of the time")
        step += 1
    _save_weights(model.eval(), folder)
    report(f"saved after {step} steps of {batch}")


def _update(model: Any, optimizer: "torch.optim.Optimizer", loss: "torch.Tensor") -> None:
    import torch

    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))


def _choose_batch(examples: list[Example], size: int, random: Random) -> list[int]:
    """Return numbers of examples. Half of them are of two classes, so that looks are compared, too."""
    classes = [example.subjects[0].thing for example in examples]
    two = random.sample(sorted(set(classes)), 2)
    similar = [number for number, thing in enumerate(classes) if thing in two]
    return random.choices(range(len(examples)), k=size - size // 2) + random.choices(similar, k=size // 2)


def _encode_images(model: Any, examples: list[Example], random: Random, chosen: list[int]) -> "torch.Tensor":
    """Return the unit vectors of some examples, each shifted by up to 10 pixels."""
    import torch

    shifts = [(random.randint(-10, 10), random.randint(-10, 10)) for _ in chosen]
    pixels = [np.roll(examples[number].pixels, shift, (0, 1)) for number, shift in zip(chosen, shifts, strict=True)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return cast("torch.Tensor", model.encode_image(_to_tensor(np.stack(pixels)), normalize=True))


def _lock_images(model: Any, examples: list[Example]) -> "torch.Tensor":
    """Freeze the image tower; return the unit vectors of all examples."""
    import torch

    model.eval().visual.requires_grad_(requires_grad=False)
    parts = [[example.pixels for example in examples[k : k + 50]] for k in range(0, len(examples), 50)]
    with torch.no_grad():
        return torch.cat([model.encode_image(_to_tensor(np.stack(part)), normalize=True) for part in parts])


class _Names:
    """Names of individuals: tokens in place of `*`, learned from a few images as PALAVRA learns concepts.

    A large CLIP can use a word that it never read. This one learns how: texts with a name must fit the images of its
    individual, in other sentences than the one from which the name was learned.
    """

    def __init__(self, model: Any, tokenizer: Callable[[list[str]], Any], individuals: int) -> None:
        import torch

        self.model, self._tokenizer = model, tokenizer
        self._star = int(tokenizer(["*"])[0, 1])
        self.tokens = torch.zeros(individuals, model.token_embedding.embedding_dim)

    def encode(self, texts: list[str], tokens: "torch.Tensor") -> "torch.Tensor":
        """Return unit vectors (M, D) of texts in which `*` is replaced by tokens (M, W). Padding is cut off."""
        import torch
        from torch.nn.functional import normalize

        numbers = self._tokenizer(texts)
        ends = numbers.argmax(1)
        length = int(ends.max()) + 1
        numbers, model = numbers[:, :length], self.model
        words = torch.where((numbers == self._star)[..., None], tokens[:, None], model.token_embedding(numbers))
        hidden = model.transformer(words + model.positional_embedding[:length], model.attn_mask[:length, :length])
        return normalize(model.ln_final(hidden)[torch.arange(len(texts)), ends] @ model.text_projection, dim=-1)

    def learn(self, examples: list[Example], vectors: "torch.Tensor", random: Random) -> None:
        """Learn the name of every individual from shots drawn with replacement; half start at random."""
        import torch
        from torch.nn.functional import normalize

        groups = [range(k, min(k + _PER_INDIVIDUAL, len(examples))) for k in range(0, len(examples), _PER_INDIVIDUAL)]
        shots = torch.stack([vectors[random.choices(group, k=_SHOTS)].mean(0) for group in groups])
        words = self._tokenizer([examples[group[0]].look.split(" ", 3)[-1] for group in groups])[:, 1]
        start = self.model.token_embedding(words).detach()
        at_random = torch.rand(len(groups), 1) < 0.5
        tokens = torch.where(at_random, normalize(torch.rand_like(start)), start).requires_grad_()
        optimizer = torch.optim.Adam([tokens], lr=0.01)
        item = self.encode(["item"], tokens[:1]).detach().expand(len(groups), -1)
        for _ in range(30):
            loss = compute_token_losses(shots, self.encode(["*"] * len(groups), tokens), item, 0.25).mean()
            (tokens.grad,) = torch.autograd.grad(loss, tokens)
            optimizer.step()
        self.tokens = tokens.detach()


def _make_optimizer(model: "torch.nn.Module") -> "torch.optim.Optimizer":
    """Return AdamW with weight decay for matrices only."""
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed, plain = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )


def _compute_loss(
    image: "torch.Tensor", names: _Names, examples: list[Example], chosen: list[int], random: Random, *, named: bool
) -> "torch.Tensor":
    """Return the contrastive loss of a batch with every true pair as a match. `image` are the vectors of `chosen`."""
    import torch

    captions = [choose_caption(examples[number], random, named=named) for number in chosen]
    captions += [Caption(PROMPT + random.choice([name, *SYNONYMS[name]]), frozenset([name])) for name in CLASSES]
    owners = [number // _PER_INDIVIDUAL for number in chosen] + [0] * len(CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text = names.encode([caption.text for caption in captions], names.tokens[owners])
    logits = names.model.logit_scale.exp() * image.float() @ text.float().T
    truth = torch.tensor([[float(one.tags <= examples[number].tags) for one in captions] for number in chosen])
    # The things in an image count more than its place.
    wanted = truth * torch.tensor([_PLACE_WEIGHT if caption.tags <= set(PLACES) else 1.0 for caption in captions])
    loss = torch.nn.functional.cross_entropy(logits, wanted / wanted.sum(1, keepdim=True))
    found = truth.T / truth.T.sum(1, keepdim=True).clamp(min=1)  # no target for a class that no image shows
    return loss + torch.nn.functional.cross_entropy(logits.T, found)


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
    parser.add_argument("--locked", action="store_true")
    options = vars(parser.parse_args())
    train(**options, report=lambda line: print(line, flush=True))  # noqa: T201 - progress of a script


if __name__ == "__main__":
    main()
