"""Places of 1,000 queries among one million images: time and memory, beside faiss's flat index.

    python -m pervl_assets_tests.perf.ranking [--work FOLDER] [--runs N] [--small]

Vectors like CLIP's, 512 numbers each, are mapped from a file of 2 GB. Both ways are exact, and run in turn in the same
process, on all processors. faiss finds the ten nearest images only; the project finds the place of the right image,
wherever it is, and counts ties. Seconds begin with the mapped file: faiss fills its index, which is a copy of the
gallery, and searches it; the seconds of that search alone have their own column. "Adds" is the largest amount that the
process allocated meanwhile. A matrix of all similarities would take 4 GB. Where the right image is among the ten
nearest, both ways must agree on its place.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
from rich.console import Console

from pervl_assets.evaluation.ranking import Ranking, rank_targets
from pervl_assets_tests.perf.figures import SCRATCH, new_folder, start_table
from pervl_assets_tests.perf.inversion_project import watch_memory
from pervl_assets_tests.perf.synthetic_inputs import DIMENSION

IMAGES, QUERIES, FOUND = 1_000_000, 1_000, 10
BLOCK = 20_000

TITLES = {"project": "places of right images", "faiss": f"faiss.IndexFlatL2, {FOUND} nearest"}


@dataclass(frozen=True)
class Search:
    """Figures of one way: seconds of every run, those of its search alone, and the bytes that it adds."""

    seconds: list[float]
    searching: list[float]
    added: int


def write_gallery(count: int, target: Path) -> np.ndarray:
    """Write and map vectors of length 1; as with CLIP, the part that all images share is as long as the other."""
    chance = np.random.default_rng(0)
    shared = chance.standard_normal(DIMENSION, np.float32)
    gallery = np.lib.format.open_memmap(target, "w+", np.float32, (count, DIMENSION))
    for at in range(0, count, BLOCK):
        block = shared + chance.standard_normal((min(BLOCK, count - at), DIMENSION), np.float32)
        gallery[at : at + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    gallery.flush()
    return np.load(target, mmap_mode="r")


def draw_queries(gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return queries and the rows of their right images: some are found at once, others after thousands."""
    chance = np.random.default_rng(1)
    rows = chance.choice(len(gallery), count, replace=False)
    own = gallery[rows] - gallery[:BLOCK].mean(axis=0)
    noise = chance.standard_normal(own.shape, np.float32) / DIMENSION**0.5
    queries = own * chance.uniform(0.1, 0.4, (count, 1)).astype(np.float32) + noise
    return queries / np.linalg.norm(queries, axis=1, keepdims=True), rows


def compare_ways(images: int, count: int, runs: int, folder: Path) -> tuple[dict[str, Search], Ranking]:
    """Run both ways in turn.

    Raises:
        RuntimeError: They disagree.
    """
    gallery = write_gallery(images, folder / "gallery.npy")
    queries, rows = draw_queries(gallery, count)
    rank_targets(queries[:8], gallery[:BLOCK], [[0]] * len(queries[:8]))  # starts the threads of the matrix product
    figures = {way: Search([], [], 0) for way in TITLES}
    found: dict[str, Any] = {}
    ways: dict[str, Callable[[], tuple[Any, float]]] = {
        "faiss": lambda: search_index(gallery, queries),
        "project": lambda: (rank_targets(queries, gallery, rows[:, None].tolist()), 0.0),
    }
    for _ in range(runs):
        for way, search in ways.items():
            gc.collect()
            with watch_memory() as seen:
                start = time.perf_counter()
                found[way], filling = search()
                seconds = time.perf_counter() - start
            one = figures[way]
            added = max(one.added, max(seen) - seen[0])
            figures[way] = Search([*one.seconds, seconds], [*one.searching, seconds - filling], added)
    ranking, (_, nearest) = found["project"], found["faiss"]
    high = np.flatnonzero(ranking.places <= FOUND)
    if not np.array_equal(nearest[high, ranking.places[high] - 1], rows[high]):
        raise RuntimeError("The two ways give right images other places.")
    return figures, ranking


def search_index(gallery: np.ndarray, queries: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Return what faiss's flat index finds, and the seconds of filling it."""
    start = time.perf_counter()
    index = faiss.IndexFlatL2(DIMENSION)
    for at in range(0, len(gallery), BLOCK):
        index.add(np.ascontiguousarray(gallery[at : at + BLOCK]))
    filling = time.perf_counter() - start
    return index.search(queries, FOUND), filling


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder, 3 GB free")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="few images: to test that everything works")
    given = parser.parse_args(arguments)
    images, count = (3_000, 50) if given.small else (IMAGES, QUERIES)
    with new_folder(given.work, "ranking") as folder:
        load = os.getloadavg()[0]
        figures, ranking = compare_ways(images, count, 1 if given.small else given.runs, folder)
    runs = len(figures["faiss"].seconds)
    title = f"{count:,} queries, {images:,} images, {DIMENSION} numbers each, medians of {runs} runs"
    table = start_table(title, "way", "", "seconds", "search alone s", "adds MB", "times as fast", "target")
    ratio = median(figures["faiss"].seconds) / median(figures["project"].seconds)
    for way, one in figures.items():
        seconds = (f"{median(one.seconds):.2f}", f"{median(one.searching):.2f}")
        compared = (f"{ratio:.2f}", "1") if way == "project" else ()
        table.add_row(way, TITLES[way], *seconds, f"{one.added / 1e6:,.0f}", *compared)
    high, middle = np.mean(ranking.places <= FOUND), np.median(ranking.places)
    table.caption = (
        f"Median place {middle:,.0f}; {high:.0%} of the right images are among the ten nearest. Load {load:.1f}"
    )
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    main()
