"""Encoding on a GPU, measured once with the project's own encoder on synthetic images and random weights: one table.

    python3 pervl_assets_tests/perf/gpu.py REPORT.md [--small] [--models ViT-B-32-quickgelu ViT-L-14-quickgelu]

Runs from a checkout without an installation, with Python 3.12, torch, torchvision, timm (with huggingface_hub,
safetensors, pyyaml, tqdm), numpy and Pillow installed. The other packages are read from a folder `wheels` in the root
of the checkout, into which their wheels are unpacked:

    pip download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform any \
        --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 -d downloaded open_clip_torch ftfy wcwidth \
        regex polars polars-runtime-32 simplejpeg fast-zip-decryption zlib-ng typing_extensions
    for wheel in downloaded/*.whl; do python3 -m zipfile -e $wheel wheels; done

`--small` measures a tiny model on a CPU in under a minute, as a trial.
"""

from __future__ import annotations

import argparse
import io
import json
import os
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
    from pervl_assets.clip.passport import Precision
    from pervl_assets.clip.prepare_image import decode_images
    from pervl_assets.core.errors import PervlError

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
        batches: Images in one forward pass.
        names: Texts.
        seconds: How long each model alone runs, at least.
        too_large: Images in the batch that does not fit.
        memory: Share of the device's memory that this batch may use.
    """

    images: int = 4096
    batches: tuple[int, ...] = (64, 256, 512)
    names: int = 20_000
    seconds: float = 2.0
    too_large: int = 4096
    memory: float = 0.08


SMALL = Scale(images=192, batches=(16, 64), names=300, seconds=0.2, too_large=64)
TINY: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


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
        for batch in scale.batches:
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


def measure_texts(model: str, source: tuple[str, str], device: str, scale: Scale) -> Iterator[Row]:
    """Measure the encoding of names in their prompt."""
    encoder = load_encoder(*source, device, None)
    texts = [f"This is a photo of a name {number:05d}" for number in range(scale.names)]
    encoder.encode_texts(texts[:256])
    for batch in (256, 1024):
        start = time.perf_counter()
        encoder.encode_texts(texts, batch)
        seconds = time.perf_counter() - start
        figure = f"{len(texts) / seconds:,.0f} names/s, {seconds:.1f} s"
        yield model, f"{len(texts):,} names", f"{encoder.passport.precision}, batch {batch}", figure


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
    largest = encoder._largest_batch  # what halving left
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
        chosen = names[: 512 * workers]
        for number, _ in enumerate(decode_images(members, chosen, workers)):
            if number == 64 * workers - 1:  # the workers have started
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


def go_on(part: Iterator[Row]) -> Iterator[Row]:
    """Return the rows of a part, the last one naming the error that ended it."""
    try:
        yield from part
    except (RuntimeError, PervlError) as error:
        yield "", "failed", "", " ".join(str(error).split())[:300]


def free(device: str) -> None:
    """Return cached memory to the device."""
    if device != "cpu":
        torch.cuda.empty_cache()


def write_report(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write a markdown table."""
    lines = [title, "", "| model | measured | with | figure |", "| --- | --- | --- | --- |"]
    path.write_text("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the table after every row, so that a run that is cut off leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="markdown file that is written")
    parser.add_argument("--models", nargs="+", default=["ViT-B-32-quickgelu", "ViT-L-14-quickgelu"])
    parser.add_argument("--small", action="store_true", help="a tiny model on few images")
    given = parser.parse_args(arguments)
    scale, models = (SMALL, ["tiny"]) if given.small else (Scale(), given.models)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    title = f"{card}, {os.cpu_count()} cores, torch {torch.__version__}"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        members = draw_archive(Path(scratch, "images.zip"), scale.images)
        parts: list[Iterator[Row]] = [measure_decoding(members, scale), measure_copies(device, scale)]
        for model in models:
            source = draw_weights(model, Path(scratch))
            parts += [
                measure_precisions(model, source, members, device, scale),
                measure_texts(model, source, device, scale),
                measure_halving(model, source, device, scale),
            ]
        for part in parts:
            for row in go_on(part):
                rows.append(row)
                print(" | ".join(row), flush=True)  # noqa: T201
                write_report(rows, given.report, title)
    print("\n" + given.report.read_text(encoding="utf-8"))  # noqa: T201


if __name__ == "__main__":
    main()
