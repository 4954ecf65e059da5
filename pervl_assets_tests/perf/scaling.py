"""Time and memory of encoding 1,000 to 100,000 images with a simulated encoder.

    python -m pervl_assets_tests.perf.scaling [--work FOLDER] [--small]

Reading, decoding and preparing are real, on synthetic JPEGs of 96 x 72 pixels. The encoder takes pixels as the 512
numbers of a vector. So the table shows the cost of everything but the model: planning, decoding, chunks on disk,
storing. Images are encoded in shards of about 10,000, like COCO's 82,783 in 8 shards, one after another: from nothing,
continued after half, and with nothing to do. 100,000 are also encoded in a single shard, with all vectors in memory.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pervl_assets_tests.perf.figures import SCRATCH, command, find_peak, new_folder, read_figures, start_table
from pervl_assets_tests.perf.measure import Measured, measure
from pervl_assets_tests.perf.synthetic_inputs import draw_jpeg, write_coco

SIZES = ((1_000, 1), (10_000, 1), (100_000, 10), (100_000, 1))
"""Images and shards."""

FRESH, RESUMED, IDLE = "from nothing", "continued after half", "nothing to do"
MOST_IN_SHARD = 10_000
SMALL_SIZES = ((300, 1), (2_400, 2))
DRAWN = 256
"""Number of different photographs; an archive contains each of them repeatedly."""

CHUNK = 512
"""Images per chunk, the largest number that a kill can lose."""


@dataclass(frozen=True)
class RunResult:
    """Figures for a number of images and shards: runs by their start."""

    images: int
    shards: int
    runs: dict[str, Measured]


def run_all(images: int, shards: int, folder: Path) -> RunResult:
    """Encode from nothing; then continue a run that ended after half of the images, and run again with nothing to do.

    Raises:
        RuntimeError: A run failed, saved images were encoded again, or the results differ.
    """
    archive = folder / "train2014.zip"
    photographs = [draw_jpeg(seed) for seed in range(DRAWN)]
    write_coco((photographs[number % DRAWN] for number in range(images)), archive)
    whole, halved = folder / "whole", folder / "halved"

    def run(target: Path, stop: int = 0) -> Measured:
        target.mkdir(exist_ok=True)
        return measure(command("project", "shards", archive, images, shards, target, stop))

    outcome = RunResult(images, shards, {FRESH: run(whole)})
    if images / shards > MOST_IN_SHARD:
        return outcome
    run(halved, images // 2)
    outcome.runs.update({RESUMED: run(halved), IDLE: run(halved)})
    encoded = [read_figures(result)["encoded"] for result in outcome.runs.values()]
    if encoded[0] != images or encoded[1] > images - images // 2 + CHUNK or encoded[2]:
        raise RuntimeError(f"{encoded} of {images} images were encoded.")
    if any(Path(whole, file.name).read_bytes() != file.read_bytes() for file in halved.glob("*.parquet")):
        raise RuntimeError("A continued run ends with other bytes.")
    return outcome


def make_table(outcomes: list[RunResult]) -> Table:
    """Return the table of all figures."""
    title = "Images encoded in chunks of 512, simulated encoder, real decoding (synthetic JPEGs, 1 process)"
    headings = (
        "images",
        "run",
        "shards",
        "encoded",
        "own work s",
        "ms per image",
        "CPU s",
        "peak GB",
        "load",
        "target",
    )
    table = start_table(title, *headings)
    for outcome in outcomes:
        for way, result in outcome.runs.items():
            figures = read_figures(result)
            counted = figures["encoded"] or outcome.images
            table.add_row(
                f"{outcome.images:,}",
                way,
                f"{outcome.shards}",
                f"{figures['encoded']:,}",
                f"{figures['own_seconds']:.1f}",
                f"{figures['own_seconds'] / counted * 1000:.3f}",
                f"{result.cpu:.1f}",
                f"{find_peak(result) / 1e9:.2f}",
                f"{result.load:.1f}",
                "flat" if way == FRESH and outcome.shards * MOST_IN_SHARD >= outcome.images else "",
                end_section=way == [*outcome.runs][-1],
            )
    table.caption = (
        "Milliseconds per image encoded, or checked if there is nothing to do. Peak: all processes. In one shard, all "
        "vectors (2 KB each) are in memory. A continued run ends with the same bytes."
    )
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 2 GB free")
    parser.add_argument("--small", action="store_true", help="few images: to test that everything works")
    given = parser.parse_args(arguments)
    console, outcomes = Console(width=max(120, Console().width)), []
    for images, shards in SMALL_SIZES if given.small else SIZES:
        with new_folder(given.work, "scaling") as folder:
            outcomes.append(run_all(images, shards, folder))
        console.log(
            f"{images:,} images, {shards} shards: {read_figures(outcomes[-1].runs[FRESH])['own_seconds']:.1f} s"
        )
    console.print(make_table(outcomes))


if __name__ == "__main__":
    main()
