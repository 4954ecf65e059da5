"""A small world of evaluation: queries, draws and features of three concepts, two of which have an image each."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.evaluation.draws import DRAWS
from pervl_assets.evaluation.queries import QUERIES
from pervl_assets.testing.fake_clip import issue_fake_passport

WIDTH = 8
CONCEPTS = ("cat_1", "dog_1", "hat_1")
PASSPORT = issue_fake_passport(dimension=WIDTH)


def make_features(ids: Sequence[str], seed: int = 0, **changes) -> Features:
    """Return random features of these ids; `changes` are of the passport."""
    vectors = np.random.default_rng(seed).standard_normal((len(ids), WIDTH)).astype(np.float32)
    return Features(list(ids), vectors, issue_fake_passport(dimension=WIDTH, **changes))


def list_images(shots: int = 6) -> list[str]:
    """Return the images of a tree: few-shot images of each concept, and one in the gallery."""
    return [
        *(f"codes_infer/{concept}/{number}.jpg" for concept in CONCEPTS for number in range(shots)),
        *(f"eval/test/{concept}.jpg" for concept in CONCEPTS),
        "eval/test/other.jpg",
    ]


def make_queries(protocol: str = "palavra", query_set: str = "rich", **targets: Sequence[str]) -> pl.DataFrame:
    """Return a query of each concept in three forms (schema `QUERIES`); its image is right, or those of `targets`."""
    texts = {"text": "{} in the sun", "text_twice": "{0} {0} in the sun", "token": "{} * in the sun"}
    rows = [
        {
            "query_id": f"{protocol}/{query_set}/{form}/{row}",
            "protocol": protocol,
            "query_set": query_set,
            "form": form,
            "query": row,
            "concept": concept,
            "class_name": concept[:3],
            "text": text.format(concept[:3]),
            "targets": list(targets.get(concept, [f"{concept}.jpg"])),
        }
        for form, text in texts.items()
        for row, concept in enumerate(CONCEPTS)
    ]
    return pl.DataFrame(rows, schema=QUERIES.to_polars())


def make_draws(
    scheme: str = "palavra", seeds: Sequence[int] = (1, 2), shots: Sequence[int] = (0, 2, 2, 3, 5)
) -> pl.DataFrame:
    """Return draws (schema `DRAWS`) of these shots, each seed one further."""
    rows = [
        (scheme, seed, concept, number, f"codes_infer/{concept}/{(shot + seed) % 6}.jpg")
        for seed in seeds
        for concept in CONCEPTS
        for number, shot in enumerate(shots)
    ]
    return pl.DataFrame(rows, schema=DRAWS.to_polars(), orient="row")
