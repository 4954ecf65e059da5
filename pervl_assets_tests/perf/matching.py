"""Nearest of 1,000 classes for many names: time and memory, compared with two straightforward ways.

    python -m pervl_assets_tests.perf.matching [--work FOLDER] [--runs N] [--small]

Random vectors like CLIP's (512 numbers each) are read from a file. 2 million of them take 4 GB, which the project maps
into memory. Seconds are those of the matching alone. "Matching adds" is the largest amount that the process allocated
while matching; it includes the returned matches (about 70 bytes per name), which are also shown separately. The
straightforward ways are one name after another, and one matrix of all distances, up to the sizes that they can handle.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pervl_assets_tests.perf.figures import SCRATCH, command, find_peak, new_folder, read_figures, start_table
from pervl_assets_tests.perf.measure import Measured, measure, summarise
from pervl_assets_tests.perf.synthetic_inputs import draw_vectors, write_vectors

CLASSES = 1000
SIZES = (19_994, 200_000, 2_000_000)
PLAIN = {"loop": 20_000, "matrix": 200_000}
"""The straightforward ways with their largest number of names; more take hours, or too much memory."""

TITLES = {"loop": "one name after another", "matrix": "one matrix"}
TARGET_SIZE, TARGET = 19_994, "under 1 s"


@dataclass(frozen=True)
class RunResult:
    """Figures for a number of names: medians of the project, and one run of each straightforward way."""

    names: int
    project: Measured
    plain: dict[str, Measured] = field(default_factory=dict)


def compare_ways(count: int, runs: int, folder: Path) -> RunResult:
    """Run the project, and the straightforward ways up to their largest number of names.

    Raises:
        RuntimeError: A run failed, or a name got another class.
    """
    names, classes, ours, theirs = (folder / f"{file}.npy" for file in ("names", "classes", "ours", "theirs"))
    write_vectors(count, names)
    np.save(classes, draw_vectors(CLASSES, seed=0))
    project = [measure(command("project", "matching", names, classes, ours)) for _ in range(runs)]
    outcome = RunResult(count, median_own(project))
    for way, most in PLAIN.items():
        if count <= most:
            outcome.plain[way] = measure(command("plain", "matching", names, classes, theirs, way))
            if not np.array_equal(np.load(ours), np.load(theirs)):
                raise RuntimeError(f"{TITLES[way]}: other classes are the nearest.")
    return outcome


def median_own(runs: list[Measured]) -> Measured:
    """Return the run with the median of own seconds, with the largest peak and load of all runs."""
    middle = sorted(runs, key=lambda run: read_figures(run)["own_seconds"])[len(runs) // 2]
    whole = summarise(runs)
    return Measured(middle.seconds, middle.cpu, whole.peak, whole.load, middle.printed)


def make_table(outcomes: list[RunResult], runs: int) -> Table:
    """Return the table of all figures."""
    headings = ("names", "way", "matching s", "µs per name", "matching adds MB", "of it matches MB", "vectors MB")
    title = f"Names against {CLASSES:,} classes, squared L2, medians of {runs} runs"
    table = start_table(title, *headings, "peak GB", "load", "target")
    for outcome in outcomes:
        for way, run in {
            **{TITLES[way]: run for way, run in outcome.plain.items()},
            "project": outcome.project,
        }.items():
            figures, ours = read_figures(run), way == "project"
            table.add_row(
                f"{outcome.names:,}",
                way,
                f"{figures['own_seconds']:.2f}",
                f"{figures['own_seconds'] / outcome.names * 1e6:.1f}",
                *([f"{figures[entry] / 1e6:.0f}" for entry in ("added", "table")] if ours else ("", "")),
                f"{outcome.names * 2048 / 1e6:,.0f}",
                f"{find_peak(run) / 1e9:.2f}",
                f"{run.load:.1f}",
                TARGET if ours and outcome.names == TARGET_SIZE else "",
                end_section=ours,
            )
    table.caption = (
        "Peak: of the whole process; for the project it counts the pages of the mapped vectors that are in memory. "
        "All ways found the same classes."
    )
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 5 GB free")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one run of few names: to test that everything works")
    given = parser.parse_args(arguments)
    runs, outcomes, console = 1 if given.small else given.runs, [], Console(width=max(120, Console().width))
    for count in (500, 5_000) if given.small else SIZES:
        with new_folder(given.work, "matching") as folder:
            outcomes.append(compare_ways(count, runs, folder))
        console.log(f"{count:,} names: {read_figures(outcomes[-1].project)['own_seconds']:.2f} s")
    console.print(make_table(outcomes, runs))


if __name__ == "__main__":
    main()
