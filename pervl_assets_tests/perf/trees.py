"""Folder trees of the benchmarks: speed and memory, compared with the straightforward way.

    python -m pervl_assets_tests.perf.trees [--kit KIT] [--work FOLDER] [--runs N] [--small]

`raw_kit/make_raw.py KIT --scale full` generates the kit. Both ways start from the same zips, run as commands of their
own in alternation, and are timed from start to end, imports included; the table shows medians. The files of both are
compared: masks by their pixels, the others byte for byte (except frames with a box: Pillow draws its corners
differently from OpenCV). The kit is in the page cache for both, so the disk is not measured. The project's way is the
code below Dagster. Run it on an idle machine; the load is printed with each figure.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from pervl_assets_tests.perf.decryption import compare_readers
from pervl_assets_tests.perf.measure import Measured, measure, summarise
from pervl_assets_tests.perf.project import plan_trees
from pervl_assets_tests.perf.wasteful_archive import count_unneeded, draw_wasteful_archive

SCRATCH = Path(tempfile.gettempdir())

TIMES = 30
"""Ratio of unneeded to needed bytes in the wasteful archive; over 100 in the official one."""

WASTEFUL_EVERY = 10
"""The wasteful archive has every tenth concept."""


@dataclass(frozen=True)
class Work:
    """Trees of a benchmark to be made from an archive.

    Attributes:
        title: Row of the table.
        benchmark: `ytvos` or `deep_fashion`.
        archive: The zip.
        annotations: Folder with both benchmarks' annotations.
        password: The zip's, or empty.
        every: Every n-th concept is used.
        target: Required speed-up over the straightforward way.
    """

    title: str
    benchmark: str
    archive: Path
    annotations: Path
    password: str
    every: int
    target: float

    def command(self, way: str, out: Path) -> list[str]:
        """Return the command that makes the trees below `out`."""
        password = ["--password", self.password] if self.password else []
        module = f"pervl_assets_tests.perf.{way}"
        paths = [str(self.archive), str(self.annotations), str(out)]
        return [sys.executable, "-m", module, self.benchmark, *paths, *password, "--every", str(self.every)]


@dataclass(frozen=True)
class RunResult:
    """Medians of both ways, and of runs of the project with nothing changed."""

    work: Work
    plain: Measured
    project: Measured
    again: Measured

    @property
    def ratio(self) -> float:
        """Speed-up of the project."""
        return self.plain.seconds / self.project.seconds


def compare_ways(work: Work, folder: Path, runs: int, report: Callable[[str], None]) -> RunResult:
    """Run both ways in alternation, compare their files, and run the project again with nothing changed.

    Raises:
        RuntimeError: A run failed, the files differ, or the last runs rendered files.
    """
    measured: dict[str, list[Measured]] = {"plain": [], "project": [], "again": []}
    for number in range(1, runs + 1):
        for way in ("plain", "project"):
            os.sync()
            measured[way].append(measure(work.command(way, folder / f"{way}_{number}")))
            report(f"{work.title}: {way}, run {number}: {measured[way][-1].seconds:.1f} s")
        compare_files(folder / f"plain_{number}/trees", folder / f"project_{number}/trees")
    for number in range(1, runs + 1):
        measured["again"].append(measure(work.command("project", folder / f"project_{number}")))
        if json.loads(measured["again"][-1].printed)["rendered"]:
            raise RuntimeError("A run with nothing changed rendered files.")
    return RunResult(work, *(summarise(measured[way]) for way in ("plain", "project", "again")))


def compare_files(plain: Path, project: Path) -> None:
    """Compare the files of both ways.

    Raises:
        RuntimeError: They differ.
    """
    names = {path.relative_to(plain) for path in plain.rglob("*") if path.is_file()}
    others = {path.relative_to(project) for path in project.rglob("*") if path.is_file() and path.suffix != ".parquet"}
    if names != others:
        raise RuntimeError(f"{len(names ^ others):,} files are in only one of the two trees.")
    same = [name for name in names if "images_with_bbox" not in name.parts]
    if different := [name for name in same if read_content(plain / name) != read_content(project / name)]:
        raise RuntimeError(f"{len(different):,} files differ, among them {different[0]}.")


def read_content(file: Path) -> bytes:
    """Return a file's bytes, or the pixels of a PNG, which can be compressed in several ways."""
    if file.suffix != ".png":
        return file.read_bytes()
    with Image.open(file) as image:
        return image.mode.encode() + image.tobytes()


def list_needed(work: Work) -> set[str]:
    """Return the members that a work needs."""
    plans = plan_trees(work.benchmark, work.annotations, work.every).values()
    return {name for plan in plans for job in plan.tasks for name in job.members}


def prepare_works(kit: Path, folder: Path, small: bool) -> list[Work]:
    """Return the works to measure; writes the wasteful archive unless it exists."""
    every = 20 if small else 1
    annotations, encrypted = kit / "annotations", kit / "deep_fashion2/train_encrypted.zip"
    password = (kit / "deep_fashion2/PASSWORD.txt").read_text().strip()
    videos = Work("YTVOS", "ytvos", kit / "youtube_vos/train.zip", annotations, "", every, 6)
    fashion = Work("DeepFashion2", "deep_fashion", encrypted, annotations, password, every, 1)
    wasteful = replace(
        fashion, archive=folder / f"wasteful_{TIMES}.zip", every=WASTEFUL_EVERY * (10 if small else 1), target=5
    )
    if small:
        wasteful = replace(wasteful, archive=folder / f"wasteful_{TIMES}_small.zip")
    if not wasteful.archive.exists():
        draw_wasteful_archive(encrypted, password, list_needed(wasteful), TIMES, wasteful.archive)
    works = [videos]
    for work in (fashion, wasteful):
        share = count_unneeded(work.archive, list_needed(work))
        works.append(replace(work, title=f"{work.title}, {share:.1f} times as many bytes unneeded"))
    return works


def make_table(outcomes: list[RunResult], runs: int) -> Table:
    """Return the table of all figures."""
    table = Table(title=f"Medians of {runs} runs in alternation, 2 worker processes; the largest peaks and loads")
    table.add_column("trees", max_width=24)
    for heading in ("way", "seconds", "CPU s", "peak GB", "load", "faster", "target"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for outcome in outcomes:
        own = json.loads(outcome.again.printed)["own_seconds"]
        speedup = f"{outcome.ratio:.1f} x"
        for way, run, faster, target in (
            ("straightforward", outcome.plain, "", ""),
            ("project", outcome.project, speedup, f"{outcome.work.target:.0f} x"),
            ("nothing changed", outcome.again, f"own work {own:.2f} s", "2 s"),
        ):
            title = outcome.work.title if way == "straightforward" else ""
            figures = (f"{run.seconds:.1f}", f"{run.cpu:.1f}", f"{run.peak / 1e9:.2f}", f"{run.load:.1f}")
            table.add_row(title, way, *figures, faster, target, end_section=way == "nothing changed")
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kit", type=Path, default=SCRATCH / "raw/full", help="a folder of raw archives (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, several GB free")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=["ytvos", "deep_fashion"], help="one benchmark instead of both")
    parser.add_argument(
        "--small", action="store_true", help="one run for a few concepts: to test that everything works"
    )
    given = parser.parse_args(arguments)
    if not (given.kit / "youtube_vos/train.zip").exists():
        parser.error(f"no kit at {given.kit}; make it: python ../shared/raw_kit/make_raw.py {given.kit} --scale full")
    runs = 1 if given.small else given.runs
    console = Console(width=max(100, Console().width))
    works = prepare_works(given.kit, given.work, given.small)
    chosen = [work for work in works if given.only in (None, work.benchmark)]
    # Every run has its own folder, removed at the end: for five minutes after a deletion ext4 creates files four
    # times slower, because it looks for inodes that were not used recently.
    with tempfile.TemporaryDirectory(prefix="runs_", dir=given.work) as folder:
        outcomes = [compare_ways(work, Path(folder, str(n)), runs, console.log) for n, work in enumerate(chosen)]
    console.print(make_table(outcomes, runs))
    readers = Table(title="ZipCrypto members read and checked, one process")
    for heading in ("library", "MB/s", "random access"):
        readers.add_column(heading)
    for row in compare_readers(works[1].archive, works[1].password):
        readers.add_row(*row)
    console.print(readers)


if __name__ == "__main__":
    main()
