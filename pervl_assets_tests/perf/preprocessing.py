"""Speed of preprocessing alone, compared with the plain torchvision pipeline on PIL images.

    python -m pervl_assets_tests.perf.preprocessing [--kit KIT] [--images N] [--runs N]

`raw_kit/make_raw.py KIT --scale full` generates the kit. Its COCO images of a photograph's size are used, colour and
grey, plain and unusual, in the order of their names. They are in memory before the clock starts. Both ways prepare the
same images in the same process and thread, alternating in each run. Times are CPU times of one core, medians of runs.
The pixels of both ways are compared.
"""

import argparse
import io
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from pervl_assets.clip.prepare_image import prepare_image

SCRATCH = Path(tempfile.gettempdir())
ARCHIVE = "inversion_model_train_data/train2014.zip"

LONGER_SIDE = 480
"""Most photographs of COCO have a longer side of 640. Smaller images of the kit test other things."""

FOCUS = (640, 480)
"""Width and height of most COCO photographs, which are also shown separately."""

PLAIN, PROJECT = "plain torchvision", "project"
TARGETS = {PROJECT: "1.0 x"}

Way = Callable[[bytes], Any]


@dataclass(frozen=True)
class Photo:
    """A file, and its width and height."""

    data: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class Figures:
    """Figures of a way.

    Attributes:
        seconds: CPU time, shape (runs, photos).
        difference: Largest difference to the plain pipeline's pixels, in grey levels; None: it returns no pixels.
        share: Share of the numbers (pixels times colours) that differ.
    """

    seconds: np.ndarray
    difference: int | None
    share: float

    def rate(self, chosen: np.ndarray) -> float:
        """Return photos per second of the chosen photos, median of runs."""
        return float(chosen.sum() / median(self.seconds[:, chosen].sum(axis=1)))


def read_photos(archive: Path, most: int | None) -> list[Photo]:
    """Read the first photos of a COCO archive, without the damaged ones."""
    photos: list[Photo] = []
    with zipfile.ZipFile(archive) as members:
        for name in sorted(members.namelist()):
            data = members.read(name)
            try:
                with Image.open(io.BytesIO(data)) as image:
                    image.load()
                    size = image.size
            except OSError:  # damaged, or a folder
                continue
            if max(size) >= LONGER_SIDE and len(photos) != most:
                photos.append(Photo(data, size))
    return photos


def list_ways() -> dict[str, Way]:
    """Return the compared ways, by name."""
    import torch
    from torchvision import transforms

    torch.set_num_threads(1)
    pipeline = transforms.Compose(
        [
            transforms.Resize(300, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            lambda image: image.convert("RGB"),
        ]
    )
    return {
        "JPEG decode alone": lambda data: Image.open(io.BytesIO(data)).load(),
        PLAIN: lambda data: pipeline(Image.open(io.BytesIO(data))),
        PROJECT: prepare_image,
    }


def compare_ways(ways: dict[str, Way], photos: list[Photo], runs: int) -> dict[str, Figures]:
    """Time every way on every photo, in alternation, and compare its pixels with the plain pipeline's."""
    figures = {}
    for name, way in ways.items():
        if name in (PLAIN, PROJECT):
            figures[name] = measure_difference(way, ways[PLAIN], photos)
    seconds = {name: np.zeros((runs, len(photos))) for name in ways}
    for run in range(runs):
        for name, way in ways.items():
            for number, photo in enumerate(photos):
                start = time.process_time()
                way(photo.data)
                seconds[name][run, number] = time.process_time() - start
    return {name: Figures(seconds[name], *figures.get(name, (None, 0.0))) for name in ways}


def measure_difference(way: Way, plain: Way, photos: list[Photo]) -> tuple[int, float]:
    """Return the largest difference between two ways' pixels, and the share of numbers that differ."""
    largest, differing, count = 0, 0, 0
    for photo in photos:
        difference = np.abs(np.asarray(way(photo.data)).astype(int) - np.asarray(plain(photo.data)))
        largest = max(largest, int(difference.max()))
        differing, count = differing + int((difference > 0).sum()), count + difference.size
    return largest, differing / count


def make_table(figures: dict[str, Figures], photos: list[Photo], runs: int) -> Table:
    """Return the table of all figures."""
    everything = np.ones(len(photos), dtype=bool)
    focus = np.array([photo.size == FOCUS for photo in photos])
    load = os.getloadavg()[0]
    table = Table(title=f"{len(photos)} photos, one process, one thread, medians of {runs} runs, load {load:.1f}")
    table.add_column("way", no_wrap=True)
    shown = [("all", everything), *([(f"{FOCUS[0]} x {FOCUS[1]}", focus)] if focus.any() else [])]
    for title, chosen in shown:
        table.add_column(f"{title}\nimages/s", justify="right", no_wrap=True)
        table.add_column(f"{chosen.sum()} photos\nto plain", justify="right", no_wrap=True)
    for heading in ("\ntarget", "largest\ndifference", "share of\npixels off"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, each in figures.items():
        rates = []
        for _, chosen in shown:
            rate = each.rate(chosen)
            rates += [f"{rate:.0f}", f"{rate / figures[PLAIN].rate(chosen):.2f} x"]
        compared = ["", ""] if each.difference is None else [str(each.difference), f"{each.share:.1e}"]
        table.add_row(name, *rates, TARGETS.get(name, ""), *compared)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kit", type=Path, default=SCRATCH / "raw/full", help="a folder of raw archives (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, help="largest number of images (default: all)")
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args(arguments)
    if not (given.kit / ARCHIVE).exists():
        parser.error(f"no kit at {given.kit}; make it: python ../shared/raw_kit/make_raw.py {given.kit} --scale full")
    photos = read_photos(given.kit / ARCHIVE, given.images)
    console = Console(width=max(120, Console().width))
    console.print(make_table(compare_ways(list_ways(), photos, given.runs), photos, given.runs))


if __name__ == "__main__":
    main()
