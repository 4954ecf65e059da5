"""A tiny benchmark with captions, masks and vectors, as the gallery reads it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
from PIL import Image

from pervl_assets.benchmarks.benchmark import QUERY_CAPTIONS
from pervl_assets.clip.features import Features
from pervl_assets.gallery.collection import Source
from pervl_assets.testing.fake_clip import issue_fake_passport
from pervl_assets.trees.contact_sheet import SheetRoles
from pervl_assets.trees.ledger import FolderTree, build_frame
from pervl_assets_tests.evaluation.pictured import CAPTIONS, CONCEPTS, make_ranks, make_tree

HOSTILE = "</script><img src=x onerror=alert(1)> $data \u202e *"
BOX = [10, 5, 19, 14]


def make_source(root: Path, text: str = HOSTILE) -> Source:
    """A split of three concepts with a quarantined image, and a frame with a mask for the first concept."""
    tree = make_tree(root / "tree")
    row = {**tree.ledger.row(0, named=True), "path": "codes_infer/ben_blue/2.jpg", "concept": "ben_blue"}
    ledger = build_frame([*tree.ledger.to_dicts(), {**row, "status": "quarantined", "reason": "no JPEG"}])
    captions = [
        (kind, number, concept, caption, f"{concept}.jpg")
        for kind in ("short", "detailed")
        for number, (concept, caption) in enumerate(zip(CONCEPTS, (text, *CAPTIONS[1:]), strict=True))
    ]
    return Source(
        SimpleNamespace(title="PerVL-Mugs"),
        SimpleNamespace(list_captions=lambda *_: pl.DataFrame(captions, QUERY_CAPTIONS.to_polars(), orient="row")),
        SimpleNamespace(name_classes=lambda _: {"anna_red": "coffee_mug"}),
        "test",
        replace(tree, ledger=ledger),
        {},
        ((SheetRoles("crop", ("frame",), "mask"), make_frames(root / "frames")),),
        make_features(),
        pl.concat([make_ranks(seed=seed) for seed in (2, 1)] + [make_ranks("Text only", (1, 1, 2), None)]),
    )


def make_frames(root: Path) -> FolderTree:
    """The frame of the first concept, with box and mask."""
    root.mkdir()
    Image.new("RGB", (40, 30), "gray").save(root / "frame.jpg")
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 10:20] = 1
    Image.fromarray(mask).save(root / "mask.png")
    empty = dict.fromkeys(build_frame([]).columns)
    shared = {"concept": "anna_red", "status": "written", "source_members": ["a"], "box": BOX}
    rows = [
        {**empty, **shared, "path": path, "rule": rule, "width": 40, "height": 30}
        for path, rule in (("frame.jpg", "frame"), ("mask.png", "mask"))
    ]
    return FolderTree(root, build_frame(rows))


def make_features() -> Features:
    """Vectors of two images of every concept, those of a concept close together."""
    ids = [path for name in CONCEPTS for path in (f"eval/test/{name}.jpg", f"codes_infer/{name}/0.jpg")]
    vectors = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0) + 0.1 * np.eye(6, 3, dtype=np.float32)
    passport = issue_fake_passport(dimension=3)
    return Features(ids, vectors, passport, list(range(6)))
