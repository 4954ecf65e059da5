"""From triplet lines to classes and masked sentences: speed and memory, compared with the straightforward way.

    python -m pervl_assets_tests.perf.triplets [--kit KIT] [--work FOLDER] [--runs N] [--full] [--small]

The lines are random samples of the kit's 400,014, or synthetic without a kit. Every run is a command of its own, from
the text file to the results on disk, imports included. The time of the straightforward way grows with the square of the
lines, so it runs with 12,500 lines, and with --full also with 100,000.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from pervl_assets_tests.perf.figures import SCRATCH, command, find_peak, new_folder, read_figures, start_table
from pervl_assets_tests.perf.measure import Measured, measure, summarise
from pervl_assets_tests.perf.synthetic_inputs import list_lines, write_sample

SIZES = (12_500, 50_000, 100_000, 400_000, 4_000_000)
PLAIN_SIZES = (12_500,)
FULL_PLAIN_SIZES = (12_500, 100_000)
TARGETS = {400_000: "under 5 s, 1 GB"}


@dataclass(frozen=True)
class RunResult:
    """Figures for a number of lines: medians of the project, and one run of the straightforward way or None."""

    lines: int
    project: Measured
    plain: Measured | None


def compare_ways(lines: list[str], count: int, plain: bool, runs: int, folder: Path) -> RunResult:
    """Run the project, and optionally the straightforward way, on a sample of the lines.

    Raises:
        RuntimeError: A run failed, or the results differ.
    """
    text, pickled = folder / "lines.txt", folder / "plain.npy"
    write_sample(lines, count, text)
    project = summarise([measure(command("project", "triplets", text, folder)) for _ in range(runs)])
    if not plain:
        return RunResult(count, project, None)
    theirs = measure(command("plain", "triplets", text, pickled))
    compare_results(folder, pickled)
    return RunResult(count, project, theirs)


def compare_results(folder: Path, pickled: Path) -> None:
    """Compare both results in order: names, ids, sentences and masked sentences.

    Raises:
        RuntimeError: They differ.
    """
    theirs = np.load(pickled, allow_pickle=True).item()  # written a moment ago by `perf.inversion_plain`
    if pl.read_parquet(folder / "classes.parquet")["name"].to_list() != [*theirs]:
        raise RuntimeError("The classes differ.")
    sentences = pl.read_parquet(folder / "sentences.parquet")
    columns = zip(*theirs.values(), strict=True)
    for column, arrays in zip(("image_id", "sentence", "masked_sentence"), columns, strict=True):
        if sentences[column].to_list() != np.concatenate(arrays).tolist():
            raise RuntimeError(f"The column {column} of the sentences differs.")


def make_table(outcomes: list[RunResult], runs: int) -> Table:
    """Return the table of all figures."""
    title = f"Triplet lines to classes and masked sentences, medians of {runs} runs; the largest peaks and loads"
    headings = ("lines", "way", "seconds", "own work s", "s per million", "CPU s", "peak GB", "load", "target")
    table = start_table(title, *headings)
    for outcome in outcomes:
        for way, run in (("straightforward", outcome.plain), ("project", outcome.project)):
            if run is None:
                continue
            own = read_figures(run)["own_seconds"]
            figures = (f"{run.seconds:.1f}", f"{own:.2f}", f"{own / outcome.lines * 1e6:.2f}", f"{run.cpu:.1f}")
            target = TARGETS.get(outcome.lines, "") if way == "project" else ""
            memory = (f"{find_peak(run) / 1e9:.2f}", f"{run.load:.1f}")
            table.add_row(f"{outcome.lines:,}", way, *figures, *memory, target, end_section=way == "project")
    compared = ", ".join(f"{outcome.lines:,}" for outcome in outcomes if outcome.plain)
    table.caption = (
        "Seconds of the whole command, results on disk; own work: without imports. "
        f"Both ways gave the same results for {compared} lines."
    )
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kit", type=Path, default=SCRATCH / "raw/full", help="a folder of raw archives (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 1 GB free")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="the straightforward way at 100,000 lines too: two minutes")
    parser.add_argument("--small", action="store_true", help="one run of few lines: to test that everything works")
    given = parser.parse_args(arguments)
    sizes, plain_sizes = SIZES, FULL_PLAIN_SIZES if given.full else PLAIN_SIZES
    if given.small:
        sizes, plain_sizes = (500, 5_000), (500,)
    runs = 1 if given.small else given.runs
    console, lines, outcomes = Console(width=max(130, Console().width)), list_lines(given.kit), []
    for count in sizes:
        with new_folder(given.work, "triplets") as folder:
            outcomes.append(compare_ways(lines, count, count in plain_sizes, runs, folder))
        console.log(f"{count:,} lines: {outcomes[-1].project.seconds:.1f} s")
    console.print(make_table(outcomes, runs))


if __name__ == "__main__":
    main()
