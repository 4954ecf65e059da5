"""Encoding and training on a GPU, on synthetic images and random weights, in less than five minutes: one table.

    make bench-gpu
    python3 pervl_assets_tests/perf/gpu.py [REPORT.md] [--small] [--clip-retrieval COMMAND] [--models NAME …]

Measured are images a second end to end and of the model alone by precision, decoding, pinned memory, names, a batch
that does not fit into memory, the tuning of concept tokens and an epoch of f_theta. Beside them is clip-retrieval's
own inference on the same images, by the Python COMMAND of an environment that has it: it needs older versions of numpy
and open_clip than this project.

Also runs from a checkout without an installation, with Python 3.12, torch, torchvision, timm (with huggingface_hub,
safetensors, pyyaml, tqdm), numpy and Pillow installed. The other packages are read from a folder `wheels` in the root
of the checkout, into which their wheels are unpacked:

    pip download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform any \
        --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 -d downloaded open_clip_torch ftfy wcwidth \
        regex polars polars-runtime-32 simplejpeg fast-zip-decryption zlib-ng typing_extensions \
        pydantic pydantic_core annotated_types typing_inspection
    for wheel in downloaded/*.whl; do python3 -m zipfile -e $wheel wheels; done

`--small` measures a tiny model on a CPU in about a minute, as a trial.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "wheels")]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])  # for decode workers

if __name__ == "__main__":  # decode workers import this file again, and need none of these
    import numpy as np
    import numpy.typing as npt
    import torch
    from PIL import Image

    from pervl_assets.archives.inputs import RawArchive, identify
    from pervl_assets.archives.members import Members, open_members
    from pervl_assets.clip.encode_images import EncodeProgress, encode_image_shard
    from pervl_assets.clip.encoder import ClipEncoder, load_encoder
    from pervl_assets.clip.features import Features, normalise
    from pervl_assets.clip.passport import EmbeddingPassport, Precision
    from pervl_assets.clip.prepare_image import decode_images
    from pervl_assets.clip.token_texts import TokenTexts
    from pervl_assets.core.errors import PervlError
    from pervl_assets.evaluation.protocols import PALAVRA_TUNING
    from pervl_assets.training.concept_tokens import learn_tokens
    from pervl_assets.training.modes import PROMPTS
    from pervl_assets.training.set_encoder import TrainingPassport
    from pervl_assets.training.train import VERSION, Trainer
    from pervl_assets.training.training_data import Rows, TrainingData

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
DIFFERENT = 64
"""Different photographs; the archive holds each again and again."""

Row = tuple[str, str, str, str]
"""Model, what was measured, with which options, and the figure."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        images: Images in the archive.
        batches: Images in one forward pass; in fp32 the last alone.
        names: Texts.
        seconds: How long each model alone runs, at least.
        too_large: Images in the batch that does not fit.
        memory: Share of the device's memory that this batch may use.
        concepts: Concepts that are tuned together: those of a split of PerVL-YTVOS.
        classes: Object classes that f_theta is trained on.
        hidden: Units of its hidden layers.
    """

    images: int = 3072
    batches: tuple[int, ...] = (64, 256)
    names: int = 20_000
    seconds: float = 1.0
    too_large: int = 2048
    memory: float = 0.08
    concepts: int = 252
    classes: int = 1000
    hidden: int = 4096


SMALL = Scale(images=64, batches=(16,), names=300, seconds=0.1, too_large=64, concepts=8, classes=20, hidden=64)
TINY: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


_CLIP_RETRIEVAL = """
import json, sys
from importlib.metadata import version
import open_clip
from clip_retrieval.clip_inference.main import main
options = json.loads(sys.argv[1])
open_clip.add_model_config(options.pop("configs"))
main(**options)
print()
print(version("clip_retrieval"), "with open_clip", version("open_clip_torch"))
"""


def draw_archive(path: Path, images: int) -> Members:
    """Write a zip of synthetic JPEGs, 640 x 480, about 60 kB each, and open it."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        photographs = []
        for _ in range(DIFFERENT):
            coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).resize((640, 480), 3)
            pixels = np.asarray(coarse, np.int16) + random.integers(-12, 13, (480, 640, 3))
            buffer = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
            photographs.append(buffer.getvalue())
        for number in range(images):
            archive.writestr(f"{number:06d}.jpg", photographs[number % DIFFERENT])
    return open_members(RawArchive(path, identify(path)))


def draw_weights(model: str, folder: Path) -> tuple[str, str]:
    """Save random weights of a model; return its name and their path, as `load_encoder` takes them."""
    import open_clip

    torch.manual_seed(0)
    if model == "tiny":
        (folder / "tiny").mkdir()
        (folder / "tiny/open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
        (folder / "tiny.json").write_text(json.dumps(TINY))  # for clip-retrieval
        torch.save(open_clip.CLIP(**TINY).state_dict(), folder / "tiny/open_clip_pytorch_model.bin")
        return str(folder / "tiny"), ""
    weights = folder / f"{model}.pt"
    torch.save(open_clip.create_model(model).state_dict(), weights)
    return model, str(weights)


def repeat(run: Callable[[], object], seconds: float) -> float:
    """Return the median seconds of a call, called for at least so long and three times, after two warm-up calls."""
    run(), run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure_precisions(
    model: str, source: tuple[str, str], members: Members, device: str, scale: Scale
) -> Iterator[Row]:
    """Measure images per second by precision and batch size, and cosines to fp32."""
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    names = sorted(members.names)
    prepared = [image for image in decode_images(members, names[:DIFFERENT], 0) if not isinstance(image, str)]
    pixels = np.stack(prepared * (max(scale.batches) // DIFFERENT + 1))
    for precision in PRECISIONS:
        encoder = load_encoder(*source, device, precision)
        vectors[precision] = encoder.encode_images(pixels[:DIFFERENT])
        for batch in scale.batches if precision != "fp32" else scale.batches[-1:]:
            alone = batch / repeat(partial(encoder.encode_images, pixels[:batch]), scale.seconds)
            yield model, "model alone", f"{precision}, batch {batch}", f"{alone:,.0f} images/s"
            yield model, "end to end", f"{precision}, batch {batch}", encode_archive(encoder, members, batch)
        del encoder
        free(device)
    for precision in PRECISIONS[1:]:
        one, other = (vectors[each].astype(np.float64) for each in ("fp32", precision))
        cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        figure = f"smallest {cosines.min():.7f}, median {np.median(cosines):.7f}"
        yield model, "cosine to fp32", precision, figure


def encode_archive(encoder: ClipEncoder, members: Members, batch: int) -> str:
    """Encode all images of an archive as the op does, without loading the model; return the rate."""
    progress: list[EncodeProgress] = []
    images = [(name, name) for name in sorted(members.names)]
    with tempfile.TemporaryDirectory() as work:
        options: dict[str, Any] = {"batch_size": batch, "on_progress": progress.append}
        start = time.perf_counter()
        encode_image_shard(images, members, encoder.passport, lambda: encoder, Path(work, "x.partial"), **options)
        rate = len(images) / (time.perf_counter() - start)
    shares = f"waits for images {progress[-1].decode_share:.0%}, device {progress[-1].device_share:.0%}"
    return f"{rate:,.0f} images/s ({shares})"


def measure_clip_retrieval(
    model: str, source: tuple[str, str], members: Members, batch: int, command: str, seconds: float
) -> Iterator[Row]:
    """Measure clip-retrieval's inference on the same images as files, with as many workers as there are cores."""
    name, weights = source if source[1] else ("tiny", f"{source[0]}/open_clip_pytorch_model.bin")
    with tempfile.TemporaryDirectory() as work:
        for member in members.names:
            Path(work, member).write_bytes(members.read(member))
        options = {
            "configs": str(Path(weights).parents[0 if source[1] else 1]),
            "input_dataset": work,
            "output_folder": f"{work}/out",
            "clip_model": f"open_clip:{name}/{weights}",
            "batch_size": batch,
            "num_prepro_workers": os.cpu_count(),
            "enable_text": False,
        }
        run = [*shlex.split(command), "-W", "ignore", "-c", _CLIP_RETRIEVAL, json.dumps(options)]
        done = subprocess.run(run, capture_output=True, text=True, timeout=max(seconds, 1), check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            yield model, "clip-retrieval, end to end", "", f"not measured: {why[:200]}"
            return
        stats = json.loads(Path(work, "out/stats/0.json").read_text())
    total, count = stats["total_duration"], stats["sample_count"]
    shares = f"waits for images {stats['read_duration'] / total:.0%}, device {stats['inference_duration'] / total:.0%}"
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    title = f"clip-retrieval {done.stdout.splitlines()[-1]}, end to end"
    yield model, title, f"{precision}, batch {batch}", f"{count / total:,.0f} images/s ({shares})"


def measure_learning(model: str, source: tuple[str, str], device: str, scale: Scale) -> Iterator[Row]:
    """Measure names, concept tokens and f_theta with one encoder, in the precision that the project chooses."""
    encoder = load_encoder(*source, device, None)
    yield from measure_texts(model, encoder, scale)
    yield from measure_tuning(model, encoder, scale)
    yield from measure_epochs(model, encoder, scale)


def measure_texts(model: str, encoder: ClipEncoder, scale: Scale) -> Iterator[Row]:
    """Measure the encoding of names in their prompt."""
    texts = [f"This is a photo of a name {number:05d}" for number in range(scale.names)]
    encoder.encode_texts(texts[:256])
    for batch in (256, 1024):
        start = time.perf_counter()
        encoder.encode_texts(texts, batch)
        seconds = time.perf_counter() - start
        figure = f"{len(texts) / seconds:,.0f} names/s, {seconds:.1f} s"
        yield model, f"{len(texts):,} names", f"{encoder.passport.precision}, batch {batch}", figure


def measure_tuning(model: str, encoder: ClipEncoder, scale: Scale) -> Iterator[Row]:
    """Measure the tuning of concept tokens as in PALAVRA, by one method and seed."""
    texts, steps = TokenTexts(encoder), PALAVRA_TUNING.steps
    images, negatives = draw_vectors(scale.concepts, encoder.passport.dimension, 2)
    (starts,) = draw_vectors(scale.concepts, texts.width, 1)
    tuning = {name: getattr(PALAVRA_TUNING, name) for name in ("steps", "learning_rate", "temperature", "text")}
    seconds = repeat(lambda: learn_tokens(texts, images, negatives, starts, **tuning), 0)
    figure = f"{steps / seconds:,.1f} steps/s, {seconds:.2f} s"
    yield model, f"{scale.concepts} concept tokens, {steps} steps", encoder.passport.precision, figure


def measure_epochs(model: str, encoder: ClipEncoder, scale: Scale) -> Iterator[Row]:
    """Measure an epoch of f_theta, whose images and captions are encoded before, and what is saved after it."""
    passport = TrainingPassport("palavra", VERSION, 1, 1, scale.hidden, encoder.passport, "")
    data = draw_training_data(encoder.passport, scale.classes)
    with tempfile.TemporaryDirectory(suffix=".partial") as work:
        trainer = Trainer(data, passport, encoder, Path(work), PROMPTS, lambda *_: None, lambda _: None)
        seconds = repeat(trainer.run_epoch, 0)
        start = time.perf_counter()
        size = trainer.save().stat().st_size
        saving = time.perf_counter() - start
    title = f"f_theta, width {scale.hidden:,}, {scale.classes:,} classes"
    figure = f"{seconds:.2f} s per epoch, and {saving:.1f} s to save it ({size / 1e9:.2f} GB)"
    yield model, title, encoder.passport.precision, figure


def draw_vectors(rows: int, length: int, count: int) -> list[npt.NDArray[np.float32]]:
    """Return arrays of random unit vectors, float32 (rows, length)."""
    random = np.random.default_rng(0)
    return [normalise(random.standard_normal((rows, length), np.float32)) for _ in range(count)]


def draw_training_data(passport: EmbeddingPassport, classes: int, images: int = 8, names: int = 20) -> TrainingData:
    """Return random image features with a caption each, and names, so many of every class."""
    (vectors,) = draw_vectors(classes * images, passport.dimension, 1)
    masked = [f"a photo of * beside house number {row}" for row in range(len(vectors))]
    captions = [text.replace("*", f"thing {row // images}") for row, text in enumerate(masked)]
    starts = np.arange(classes + 1, dtype=np.int64)
    rows = Rows(starts * images, np.arange(len(vectors)), captions, masked)
    features = Features([f"{row:06d}" for row in range(len(vectors))], vectors, passport)
    things = [f"thing {number}" for number in range(classes)]
    objects = [f"object {number}" for number in range(classes * names)]
    return TrainingData(things, features, rows, rows, objects, starts * names, [])


def measure_halving(model: str, source: tuple[str, str], device: str, scale: Scale) -> Iterator[Row]:
    """Encode a batch that does not fit into a small share of the memory, and compare with one that does."""
    encoder = load_encoder(*source, device, "fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (scale.too_large, 224, 224, 3), np.uint8)
    expected = encoder.encode_images(pixels[:32])
    options = f"fp32, batch {scale.too_large}"
    if device == "cpu":
        yield model, "out of memory", options, "not measured on a CPU"
        return
    free(device)
    torch.cuda.set_per_process_memory_fraction(scale.memory)
    try:
        start = time.perf_counter()
        vectors = encoder.encode_images(pixels)
        seconds = time.perf_counter() - start
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    largest = encoder.largest_batch
    difference = float(np.abs(vectors[:32] - expected).max())
    limit = torch.cuda.get_device_properties(0).total_memory * scale.memory / 2**30
    figure = f"halved to {largest}, {seconds:.1f} s, largest difference {difference:.1e}"
    yield model, "out of memory", f"{options}, {limit:.1f} GiB", figure if largest < scale.too_large else "it did fit"


def measure_decoding(members: Members, scale: Scale) -> Iterator[Row]:
    """Measure decoding and preparing alone, by worker processes."""
    names = sorted(members.names)
    for workers in sorted({1, 4, 8, 16, os.cpu_count() or 1}):
        if workers > (os.cpu_count() or 1):
            continue
        start = first = 0.0
        chosen = names[: 256 * workers]
        for number, _ in enumerate(decode_images(members, chosen, workers)):
            if number == len(chosen) // 4 - 1:  # the workers have started
                start, first = time.perf_counter(), number + 1
        rate = (len(chosen) - first) / (time.perf_counter() - start)
        yield "", "decoding alone", f"{workers} workers", f"{rate:,.0f} images/s"


def measure_copies(device: str, scale: Scale) -> Iterator[Row]:
    """Measure copies of one batch to the device: from pageable memory, pinned for each batch, pinned before."""
    if device == "cpu":
        yield "", "copy to the device", "", "not measured on a CPU"
        return
    for batch in scale.batches:
        pageable = torch.zeros((batch, 224, 224, 3), dtype=torch.uint8)
        pinned = pageable.pin_memory()

        ways = {
            "pageable": partial(torch.Tensor.view_as, pageable, pageable),
            "pinned for each batch": pageable.pin_memory,  # as the encoder does
            "pinned before": partial(torch.Tensor.view_as, pinned, pinned),
        }
        for title, take in ways.items():
            seconds = repeat(partial(copy, take, device), scale.seconds / 4)
            figure = f"{seconds * 1e3:.2f} ms, {pageable.numel() / seconds / 1e9:.1f} GB/s"
            yield "", "copy to the device", f"batch {batch}, {title}", figure


def copy(take: Callable[[], torch.Tensor], device: str) -> None:
    """Copy a tensor to the device, and wait for it."""
    take().to(device, non_blocking=True)
    torch.cuda.synchronize()


def go_on(part: Iterator[Row], end: float) -> Iterator[Row]:
    """Return the rows of a part up to a time of the monotonic clock, the last one naming what ended it."""
    try:
        while time.monotonic() < end:
            if (row := next(part, None)) is None:
                return
            yield row
        yield "", "left out", "", "the time was over"
    except (RuntimeError, OSError, PervlError, subprocess.TimeoutExpired) as error:
        yield "", "failed", "", " ".join(str(error).split())[:300]


def free(device: str) -> None:
    """Return cached memory to the device."""
    if device != "cpu":
        torch.cuda.empty_cache()


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the table after every row, so that a run that is cut off leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", help="markdown file for the table, too")
    parser.add_argument("--models", nargs="+", default=["ViT-B-32-quickgelu", "ViT-L-14-quickgelu"])
    parser.add_argument("--small", action="store_true", help="a tiny model on few images")
    parser.add_argument("--clip-retrieval", metavar="COMMAND", default=sys.executable, help="a Python that has it")
    parser.add_argument("--seconds", type=float, default=280, help="what has not begun by then is left out")
    given = parser.parse_args(arguments)
    end = time.monotonic() + given.seconds
    scale, models = (SMALL, ["tiny"]) if given.small else (Scale(), given.models)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    title = f"{card}, {os.cpu_count()} cores, torch {torch.__version__}"
    lines = [title, "", "| model | measured | with | figure |", "| --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as scratch:
        for part in list_parts(Path(scratch), models, device, scale, given.clip_retrieval, end):
            for row in go_on(part, end):
                lines.append(f"| {' | '.join(row)} |")
                print(" | ".join(row), file=sys.stderr, flush=True)  # noqa: T201
                if given.report:
                    given.report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))  # noqa: T201


def list_parts(
    scratch: Path, models: Sequence[str], device: str, scale: Scale, clip_retrieval: str, end: float
) -> Iterator[Iterator[Row]]:
    """Return what is measured, part by part."""
    members = draw_archive(scratch / "images.zip", scale.images)
    yield measure_decoding(members, scale)
    yield measure_copies(device, scale)
    for model in models:
        source = draw_weights(model, scratch)
        yield measure_precisions(model, source, members, device, scale)
        yield measure_learning(model, source, device, scale)
        yield measure_halving(model, source, device, scale)
        left = end - time.monotonic()
        yield measure_clip_retrieval(model, source, members, scale.batches[-1], clip_retrieval, left)


if __name__ == "__main__":
    main()
