"""Encoding images on the CPU, end to end, compared with one image at a time in fp32 with the same weights.

    python -m pervl_assets_tests.perf.encoding [--kit KIT] [--work FOLDER] [--weights FILE] [--runs N] [--small]

Every run is a command of its own, and the ways alternate. A run reads the kit's photographs, repeated, or synthetic
ones, from a zip in the layout of COCO. Images per second count everything from opening the zip to the vectors: reading,
decoding, preparing, encoding, saving; once without loading the model, once with it and the imports.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from pervl_assets.clip.features import read_features
from pervl_assets.demo import TINY_CLIP
from pervl_assets_tests.perf.figures import SCRATCH, command, find_peak, new_folder, read_figures, start_table
from pervl_assets_tests.perf.measure import Measured, measure, summarise
from pervl_assets_tests.perf.synthetic_inputs import list_photographs, write_coco

MODEL = "ViT-B-32-quickgelu"
IMAGES = 512
TARGETS = {"fp32": (1.5, 0.99999), "bf16": (2.5, 0.9995)}
"""Speed-up over one image at a time, and smallest cosine, by precision."""

PLAIN = "one at a time, fp32"


@dataclass(frozen=True)
class Model:
    """A model: an open_clip name and its weights, or a folder that contains both."""

    name: str
    weights: str


@dataclass(frozen=True)
class RunResult:
    """Runs of one way, and its smallest cosine with the vectors of the straightforward way."""

    way: str
    runs: list[Measured]
    cosine: float

    @property
    def speed(self) -> float:
        """Images per second without loading the model: the median of the runs."""
        return float(np.median([figures["images"] / figures["seconds"] for figures in map(read_figures, self.runs)]))


def compare_ways(archive: Path, model: Model, runs: int, folder: Path) -> list[RunResult]:
    """Run all ways in alternation and compare the vectors of the last runs.

    Raises:
        RuntimeError: A run failed, or the ways encoded different numbers of images.
    """
    measured: dict[str, list[Measured]] = {way: [] for way in (PLAIN, *TARGETS)}
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for number in range(runs):
        saved = folder / f"plain_{number}.npy"
        measured[PLAIN].append(measure(command("plain", "encoding", archive, model.name, model.weights, saved)))
        vectors[PLAIN] = np.load(saved)
        for precision in TARGETS:
            out = folder / f"{precision}_{number}"
            task = command("project", "encoding", archive, model.name, model.weights, precision, out)
            measured[precision].append(measure(task))
            vectors[precision] = read_features(out / "features.parquet").vectors
    if len({len(array) for array in vectors.values()}) > 1:
        raise RuntimeError("The ways have encoded different numbers of images.")
    return [RunResult(way, list_, find_least_cosine(vectors[PLAIN], vectors[way])) for way, list_ in measured.items()]


def find_least_cosine(ones: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> float:
    """Return the smallest cosine of two vectors of the same row."""
    a, b = ones.astype(np.float64), others.astype(np.float64)
    return float(((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def make_table(outcomes: list[RunResult], title: str) -> Table:
    """Return the table of all figures."""
    headings = ("way", "", "images/s", "faster", "target", "least cosine", "target", "with loading", "decode", "device")
    table = start_table(title, *headings, "CPU s", "peak GB", "load")
    for outcome in outcomes:
        target = TARGETS.get(outcome.way)
        run, figures = summarise(outcome.runs), read_figures(outcome.runs[-1])
        shares = [f"{figures[share]:.0%}" for share in ("decode_share", "device_share")] if target else ["", ""]
        table.add_row(
            "" if not target else "project",
            outcome.way,
            f"{outcome.speed:.1f}",
            f"{outcome.speed / outcomes[0].speed:.2f} x" if target else "",
            f"{target[0]} x" if target else "",
            f"{outcome.cosine:.7f}" if target else "",
            f"{target[1]}" if target else "",
            f"{figures['images'] / run.seconds:.1f}",
            *shares,
            f"{run.cpu:.1f}",
            f"{max(map(find_peak, outcome.runs)) / 1e9:.2f}",
            f"{run.load:.1f}",
        )
    table.caption = (
        "Images per second end to end, without and with loading the model (imports and saving included). Shares of "
        "the time in which the encoder waited for decoded images, and in which it ran."
    )
    return table


def draw_weights(name: str, target: Path) -> Path:
    """Save random weights of a model, from a seed, unless the file exists."""
    if not target.exists():
        import open_clip
        import torch

        torch.manual_seed(0)
        torch.save(open_clip.create_model(name).state_dict(), target)
    return target


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kit", type=Path, default=SCRATCH / "raw/full", help="a folder of raw archives (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 1 GB free")
    parser.add_argument("--weights", type=Path, help=f"a checkpoint of {MODEL}; default: random weights")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one run of few images through a tiny CLIP")
    given = parser.parse_args(arguments)
    count, runs = (96, 1) if given.small else (IMAGES, given.runs)
    console = Console(width=max(130, Console().width))
    with new_folder(given.work, "encoding") as folder:
        if given.small:
            model = Model(str(TINY_CLIP), "")
        else:
            model = Model(MODEL, str(given.weights or draw_weights(MODEL, given.work / f"{MODEL}_random.pt")))
        archive = folder / "train2014.zip"
        write_coco(list_photographs(given.kit, count), archive)
        outcomes = compare_ways(archive, model, runs, folder)
    title = f"{count} images through {Path(model.name).name} on the CPU, medians of {runs} runs in alternation"
    console.print(make_table(outcomes, title))


if __name__ == "__main__":
    main()
