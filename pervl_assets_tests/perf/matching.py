"""The nearest of 1,000 classes for many names: time and memory, beside two straightforward ways.

Belongs here: what is run, the comparison of the matches, and the table. Does not belong here: the ways
(`perf.inversion_project`, `perf.inversion_plain`), and how they are measured (`perf.measure`).

    python -m pervl_assets_tests.perf.matching [--work FOLDER] [--runs N] [--small]

Vectors are drawn as CLIP's are, 512 numbers each, and lie in a file: 2 million of them take 4 GB, which the project's
way maps into memory, so that its own needs can be told from theirs. Seconds are those of the matching alone. "Matching
adds" is the largest amount the process had allocated while matching, less what it had before; the matches it returns,
about 70 bytes a name, are part of that, and are shown beside it. The straightforward ways are one name after another,
and one matrix of all distances; both are run where they are bearable.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from pervl_assets_tests.perf.drawn_inputs import draw_vectors, write_vectors
from pervl_assets_tests.perf.figures import SCRATCH, command, find_peak, new_folder, read_figures, start_table
from pervl_assets_tests.perf.measure import Measured, measure, summarise

CLASSES = 1000
SIZES = (19_994, 200_000, 2_000_000)
PLAIN = {"loop": 20_000, "matrix": 200_000}
"""The straightforward ways, and the most names each is given: a loop would take hours, a matrix more memory."""

TITLES = {"loop": "one name after another", "matrix": "one matrix"}
GOAL_SIZE, GOAL = 19_994, "under 1 s"


@dataclass(frozen=True)
class RunResult:
    """What came of a number of names: medians of the project's way, and the straightforward ways that were run."""

    names: int
    project: Measured
    plain: dict[str, Measured] = field(default_factory=dict)


def compare_ways(count: int, runs: int, folder: Path) -> RunResult:
    """Run the project's way, and the others where they are bearable.

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
    """Return the run whose own seconds are the median, with the largest peak and load of all."""
    middle = sorted(runs, key=lambda run: read_figures(run)["own_seconds"])[len(runs) // 2]
    whole = summarise(runs)
    return Measured(middle.seconds, middle.cpu, whole.peak, whole.load, middle.printed)


def draw_table(outcomes: list[RunResult], runs: int) -> Table:
    """Lay out all figures."""
    headings = ("names", "way", "matching s", "µs a name", "matching adds MB", "of it matches MB", "vectors MB")
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
                GOAL if ours and outcome.names == GOAL_SIZE else "",
                end_section=ours,
            )
    table.caption = (
        "Peak: of the whole process; for the project it counts the pages of the mapped vectors that are in memory. "
        "All ways run on the same names found the same classes."
    )
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 5 GB free")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one run of few names: to see that all of it works")
    given = parser.parse_args(arguments)
    runs, outcomes, console = 1 if given.small else given.runs, [], Console(width=max(120, Console().width))
    for count in (500, 5_000) if given.small else SIZES:
        with new_folder(given.work, "matching") as folder:
            outcomes.append(compare_ways(count, runs, folder))
        console.log(f"{count:,} names: {read_figures(outcomes[-1].project)['own_seconds']:.2f} s")
    console.print(draw_table(outcomes, runs))


if __name__ == "__main__":
    main()
