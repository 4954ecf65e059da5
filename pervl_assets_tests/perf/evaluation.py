"""Evaluation of both benchmarks from stored features: seconds and memory, beside one query at a time.

    python -m pervl_assets_tests.perf.evaluation [--work FOLDER] [--runs N] [--small]

Test splits at their real sizes, five seeds, all methods and protocols; random vectors like CLIP's, 512 numbers each.
The project reads the stored features, and makes places, scores with intervals, and results. The straightforward way
sorts the gallery for one query at a time, and resamples one score at a time, from vectors in memory. Both must give the
same MRR. "Adds" is the largest amount that the process allocated meanwhile.
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
from rich.console import Console

from pervl_assets.clip.features import Features, read_features, write_features
from pervl_assets.evaluation.draws import DRAWS
from pervl_assets.evaluation.known_scores import Conditions
from pervl_assets.evaluation.methods import (
    ONLY_TUNING,
    PALAVRA,
    WITHOUT_TUNING,
    rank_baselines,
    rank_concepts,
    score_baselines,
)
from pervl_assets.evaluation.metrics import compute_scores
from pervl_assets.evaluation.protocols import PROTOCOLS
from pervl_assets.evaluation.published import read_published
from pervl_assets.evaluation.queries import QUERIES
from pervl_assets.evaluation.results import tabulate_results
from pervl_assets.testing.fake_clip import issue_fake_passport
from pervl_assets_tests.perf.figures import SCRATCH, new_folder, start_table
from pervl_assets_tests.perf.inversion_project import watch_memory
from pervl_assets_tests.perf.synthetic_inputs import DIMENSION

SPLITS = {"deep_fashion": ("person", 221, 50, 653), "ytvos": ("*", 252, 252, 3041)}
"""Placeholder, captions, concepts and few-shot images of each test split."""

SMALL = {"deep_fashion": ("person", 12, 4, 30)}
SEEDS, RESAMPLES = range(1, 6), 10_000
FEATURES = ("images", "texts", "concepts")


@dataclass(frozen=True)
class Split:
    """A benchmark's name, its queries and draws, and the folder with its features."""

    name: str
    queries: pl.DataFrame
    draws: pl.DataFrame
    folder: Path

    def read(self) -> dict[str, Features]:
        """Read the stored features."""
        return {name: read_features(self.folder / f"{self.name}_{name}.parquet") for name in FEATURES}


def write_split(name: str, placeholder: str, captions: int, concepts: int, shots: int, folder: Path) -> Split:
    """Draw queries and vectors of a split, and store the vectors."""
    rows = [
        {
            "query_id": f"{protocol.name}/{one.name}/{form}/{row}",
            "protocol": protocol.name,
            "query_set": one.name,
            "form": form,
            "query": row,
            "concept": f"c{row % concepts}",
            "class_name": "thing",
            "text": f"{protocol.name} {one.name} {form} {row}{' *' * ('*' in template)}",
            "targets": [f"{row}.jpg"],
        }
        for protocol in PROTOCOLS
        if protocol.applies_to(placeholder)
        for one in protocol.query_sets
        if placeholder == "person" or one.name != "rich_detailed"
        for form, template in one.forms.items()
        for row in range(concepts if one.by_concept else captions)
    ]
    queries = pl.DataFrame(rows, QUERIES.to_polars())
    images = [f"codes_infer/c{row % concepts}/{row // concepts}.jpg" for row in range(shots)]
    few = shots // concepts
    drawn = [
        (scheme, seed, f"c{concept}", shot, f"codes_infer/c{concept}/{(shot * seed) % few}.jpg")
        for scheme, seeds in {"palavra": SEEDS, "polar": [123], "all": [0]}.items()
        for seed in seeds
        for concept in range(concepts)
        for shot in range(5)
    ]
    tokens = queries.filter(protocol="palavra", form="token")["query_id"]
    ids = {
        "images": [*images, *(f"eval/test/{row}.jpg" for row in range(captions))],
        "texts": queries.filter(~pl.col("text").str.contains("*", literal=True))["text"]
        .unique(maintain_order=True)
        .to_list(),
        "concepts": [
            f"{method}/{seed}/{one}"
            for method in (PALAVRA, ONLY_TUNING, WITHOUT_TUNING)
            for seed in SEEDS
            for one in tokens
        ],
    }
    for number, (kind, names) in enumerate(ids.items()):
        vectors = np.random.default_rng(number).standard_normal((len(names), DIMENSION), np.float32)
        write_features(
            Features(names, vectors, issue_fake_passport(dimension=DIMENSION)), folder / f"{name}_{kind}.parquet"
        )
    return Split(name, queries, pl.DataFrame(drawn, DRAWS.to_polars(), orient="row"), folder)


def evaluate(split: Split) -> pl.DataFrame:
    """Return the results of a split as the assets make them."""
    features = split.read()
    baselines, _ = rank_baselines(split.queries, split.draws, features["texts"], features["images"])
    concepts, _ = rank_concepts(split.queries, features["concepts"], features["images"])
    scores = [score_baselines(split.queries, baselines, features["images"]), compute_scores(concepts)]
    conditions = Conditions(split.name, "test", True, "fake", {}, {})
    return tabulate_results(pl.concat(scores), pl.concat([baselines, concepts]), read_published(), conditions, "fake")


def evaluate_plainly(split: Split, features: dict[str, Features]) -> Iterator[tuple[tuple[str, str, str], float]]:
    """Yield the MRR of each method with a learned token, and compute its interval, one query and resample at a time."""
    vector_of = {kind: dict(zip(features[kind].ids, features[kind].vectors, strict=True)) for kind in FEATURES}
    gallery = [name for name in features["images"].ids if name.startswith("eval/test/")]
    places: dict[tuple[str, str, str], list[float]] = {}
    concepts: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for name, query in vector_of["concepts"].items():
        method, _, query_id = name.split("/", 2)
        row = split.queries.row(by_predicate=pl.col("query_id") == query_id, named=True)
        similar = [one @ query / np.linalg.norm(one) for one in map(vector_of["images"].__getitem__, gallery)]
        order = np.argsort(similar)[::-1]
        found = 1 / (1 + [gallery[one] for one in order].index(f"eval/test/{row['targets'][0]}"))
        key = (row["protocol"], row["query_set"], method)
        places.setdefault(key, []).append(found)
        concepts.setdefault(key, {}).setdefault(row["concept"], []).append(found)
    chance = np.random.default_rng(0)
    for key, found in places.items():
        groups = list(concepts[key].values())
        resampled = []
        for _ in range(RESAMPLES):
            picked = [groups[one] for one in chance.integers(len(groups), size=len(groups))]
            resampled.append(sum(map(sum, picked)) / sum(map(len, picked)))
        np.percentile(resampled, [2.5, 97.5])
        yield key, float(np.mean(found))


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the table.

    Raises:
        RuntimeError: Both ways give other scores.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=SCRATCH / "pervl_perf", help="scratch folder")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="few queries: to test that everything works")
    given = parser.parse_args(arguments)
    table = start_table(
        "Evaluation from stored features, 512 numbers each", "way", "scores", "seconds", "adds MB", "target"
    )
    with new_folder(given.work, "evaluation") as folder:
        splits = [write_split(name, *sizes, folder) for name, sizes in (SMALL if given.small else SPLITS).items()]
        evaluate(splits[0])  # loads what is loaded once
        seconds, added = [], 0
        for _ in range(1 if given.small else given.runs):
            with watch_memory() as seen:
                start = time.perf_counter()
                results = pl.concat([evaluate(split) for split in splits])
                seconds.append(time.perf_counter() - start)
            added = max(added, max(seen) - seen[0])
        loaded = [split.read() for split in splits]
        start = time.perf_counter()
        plain = [
            (split.name, *pair)
            for split, one in zip(splits, loaded, strict=True)
            for pair in evaluate_plainly(split, one)
        ]
        plainly = time.perf_counter() - start
    for name, (protocol, query_set, method), mrr in plain:
        own = results.filter(benchmark=name, protocol=protocol, query_set=query_set, method=method)["mrr"]
        if not np.allclose(own, mrr, rtol=1e-9):
            raise RuntimeError(f"{name}, {query_set}, {method}: {own.to_list()} and {mrr}.")
    table.add_row(
        "all methods and results", f"{results.height}", f"{median(seconds):.2f}", f"{added / 1e6:,.0f}", "2 s, 500 MB"
    )
    table.add_row(
        "one query at a time, tokens only",
        f"{len(plain)}",
        f"{plainly:.2f}",
        "",
        f"{plainly / median(seconds):.0f} times",
    )
    table.caption = f"Load {os.getloadavg()[0]:.1f}"
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    main()
