"""A small release: a table, features in two shards, a tree with and one without partitions, a training file."""

from pathlib import Path

import numpy as np
import polars as pl

from pervl_assets.core.files import hash_file
from pervl_assets.release.images import label_images, write_images
from pervl_assets.release.parts import FeaturesPart, FilePart, Release, Source, TablePart, Tree, TreePart
from pervl_assets.trees.ledger import LEDGER, build_frame
from pervl_assets_tests.core.samples import draw_picture, save_jpeg

ARCHIVE = Source("photos", "Photographs of pets", "see the owners", "https://example.org/photos")
NOTES = Source("notes", "Notes on pets", "CC-BY-4.0", "https://example.org/notes", redistributable=True)
SPLIT_OF = {"rex_the_1st": "validation", "tom": "test", "mia": "test"}
CLASS_OF = {"rex_the_1st": "dog", "tom": "cat", "mia": None}
CAPTION_OF = {"rex_the_1st": "* runs", "tom": None, "mia": "* and 'a', \"b\""}
PASSPORT = {"model": "tiny", "weights_sha256": "ab", "precision": "fp32", "device": "cpu", "preprocessing": "none"}


def make_rows(files: list[tuple[str, str, str]], root: Path | None = None) -> pl.DataFrame:
    """Return a ledger of files given as path, concept and role; their bytes are those below `root`."""
    rows = []
    for path, concept, role in files:
        file = root / path if root else None
        rows.append(
            dict.fromkeys(LEDGER.names)
            | {"path": path, "concept": concept, "rule": role, "status": "written", "recipe": ""}
            | {"bytes": file.stat().st_size if file else 3, "sha256": hash_file(file) if file else "0" * 64}
            | {"source_members": [f"member of {path}"], "source_crc32s": [1]}
        )
    return build_frame(rows)


def make_tree(data: Path, root: str, ledger: str, files: list[tuple[str, str, str]], split: str | None = None) -> Tree:
    """Write a tree with its ledger; a name ending in .yaml becomes a text."""
    for seed, (path, _, _) in enumerate(files):
        file = data / root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(save_jpeg(draw_picture(24, 16, seed)) if path.endswith(".jpg") else b"a: 1\n")
    rows = make_rows(files, data / root)
    (data / ledger).parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(data / ledger)
    return Tree(split, root, ledger, rows)


def label(images: pl.DataFrame) -> pl.DataFrame:
    """Add class, split and caption of every pet."""
    labels = pl.DataFrame(
        [(pet, CLASS_OF[pet], SPLIT_OF[pet], CAPTION_OF[pet]) for pet in SPLIT_OF],
        schema=["concept", "class_name", "split", "caption"],
        orient="row",
    )
    return images.join(labels, on="concept", how="left")


def make_part(name: str, *trees: Tree) -> TreePart:
    """Return the part of some trees."""
    return TreePart(name, "Images.", (NOTES, ARCHIVE), trees, label_images(name, trees, label))


def make_release(data: Path, *, absent: tuple[str, ...] = (), synthetic: bool = False) -> Release:
    """Write every kind of part below a folder and return the release of them."""
    (data / "assets/pets/features").mkdir(parents=True)
    table = pl.DataFrame(
        {"pet": list(SPLIT_OF), "split": list(SPLIT_OF.values()), "frames": [["1"], ["2", "3"], []], "age": [3, 4, 5]},
        schema={"pet": pl.String, "split": pl.String, "frames": pl.List(pl.String), "age": pl.UInt8},
    )
    table.write_parquet(data / "assets/pets/names.parquet")
    for number in range(2):
        vectors = np.arange(8, dtype=np.float32).reshape(2, 4) + number
        pl.DataFrame(
            {"id": [f"{number} ", "x"], "crc32": [1, 2], "vector": vectors},
            schema={"id": pl.String, "crc32": pl.UInt32, "vector": pl.Array(pl.Float32, 4)},
        ).write_parquet(data / f"assets/pets/features/{number}-of-2.parquet")
    (data / "names.npy").write_bytes(b"numpy's")
    crops = [(f"train/{pet}/{pet}_{n:05d}.jpg", pet, "crop") for pet in SPLIT_OF for n in range(2)]
    whole = make_tree(data, "pets/whole", "assets/pets/whole.parquet", [*crops, ("boxes.yaml", "", "summary")])
    by_split = [
        make_tree(
            data,
            f"pets/sets_{split}",
            f"assets/pets/sets/{split}.parquet",
            [(f"eval/{pet}.jpg", pet, "copy") for pet, name in SPLIT_OF.items() if name == split],
            split,
        )
        for split in ("validation", "test")
    ]
    names = ("pets/names", "The pets.", (NOTES,))
    release = Release(
        data,
        (
            TablePart(*names, ("assets/pets/names.parquet",), {"pet": "its name", "split": "its split"}),
            FeaturesPart(
                "pets/features",
                "Their vectors",
                (NOTES, ARCHIVE),
                tuple(f"assets/pets/features/{number}-of-2.parquet" for number in range(2)),
                (PASSPORT,),
            ),
            make_part("pets/whole", whole),
            make_part("pets/sets", *by_split),
            FilePart("pets/file", "A file.", (), ("names.npy",)),
        ),
        absent,
        synthetic,
        "1.2.3",
    )
    write_images(release)
    return release
