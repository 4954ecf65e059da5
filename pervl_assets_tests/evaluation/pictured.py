"""A tiny evaluation with images: a tree of three concepts, its queries, draws, ranks and results."""

from pathlib import Path

import polars as pl
from PIL import Image

from pervl_assets.trees.ledger import FolderTree, build_frame

CONCEPTS = {"anna_red": "red", "ben_blue": "blue", "cleo_green": "green"}
CAPTIONS = ("a mug * on a table", "the mug * & a <b>cake</b>", "one mug * \x1b[2J near a door")


def make_tree(root: Path) -> FolderTree:
    """Two few-shot images of each concept, and one evaluation image."""
    rows = []
    for concept, colour in CONCEPTS.items():
        for path in (f"codes_infer/{concept}/0.jpg", f"codes_infer/{concept}/1.jpg", f"eval/test/{concept}.jpg"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), colour).save(root / path)
            row = dict.fromkeys(build_frame([]).columns)
            rows.append({**row, "path": path, "concept": concept, "status": "written"})
    return FolderTree(root, build_frame(rows))


def make_queries() -> pl.DataFrame:
    """One caption per concept, with and without its token."""
    return pl.DataFrame(
        [
            {"query_id": f"palavra/rich/{form}/{row}", "text": text.replace("*", "*" if form == "token" else "")}
            for form in ("text", "token")
            for row, text in enumerate(CAPTIONS)
        ]
    )


def make_draws() -> pl.DataFrame:
    """Of each concept two images by two seeds, by the second seed one image twice."""
    return pl.DataFrame(
        [
            {
                "scheme": "palavra",
                "seed": seed,
                "concept": concept,
                "shot": shot,
                "image": f"codes_infer/{concept}/{shot if seed == 1 else 0}.jpg",
            }
            for seed in (1, 2)
            for concept in CONCEPTS
            for shot in (0, 1)
        ]
    )


def make_ranks(method: str = "PALAVRA", places: tuple[int, ...] = (1, 3, 1), seed: int | None = 1) -> pl.DataFrame:
    """Places of the three queries. What is not found first finds the first concept's image."""
    form = "text" if method == "Text only" else "token"
    rows = [
        {
            "protocol": "palavra",
            "query_set": "rich",
            "method": method,
            "seed": seed,
            "query_id": f"palavra/rich/{form}/{row}",
            "query": row,
            "concept": concept,
            "target": f"{concept}.jpg",
            "place": place,
            "found": f"{concept if place == 1 else 'anna_red'}.jpg",
            "gallery": 3,
        }
        for row, (concept, place) in enumerate(zip(CONCEPTS, places, strict=True))
    ]
    return pl.DataFrame(rows, schema_overrides={"seed": pl.Int32})


def make_results(**changes) -> pl.DataFrame:
    """One row of results, of two seeds, beside a published number that is not comparable."""
    row = {
        **{"benchmark": "mugs", "split": "test", "protocol": "palavra", "query_set": "rich", "method": "PALAVRA"},
        **{"seeds": 2, "queries": 3, "concepts": 3, "gallery": 3, "mrr": 0.7777, "mrr_sem": 0.011},
        **{"recall_1": 0.6667, "recall_5": 1.0, "recall_10": 1.0, "mean_average_precision": 0.7777},
        **{"mrr_by_concept": 0.7777, "mrr_low": 0.5, "mrr_high": 1.0, "difference": 0.1111, "difference_low": -0.1},
        **{"difference_high": 0.3, "published_mrr": 0.284, "published_error": 0.007, "comparable": False},
        **{"why": "synthetic data", "source": "a paper", "tied": 2, "encoder": "tiny"},
    }
    return pl.DataFrame([{**row, **changes}])
