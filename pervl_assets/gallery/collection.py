"""One split of a benchmark as the gallery shows it: its concepts, and every image that its ledgers list."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import polars as pl

from pervl_assets.benchmarks.benchmark import FEW_SHOT_FOLDER, GALLERY_FOLDER, Benchmark, Retrieval, TreeAsset
from pervl_assets.clip.features import Features
from pervl_assets.evaluation.methods import METHODS
from pervl_assets.evaluation.protocols import PALAVRA
from pervl_assets.gallery.embedding import find_neighbours, place_on_map
from pervl_assets.trees.contact_sheet import SheetRoles
from pervl_assets.trees.ledger import FolderTree

Role = Literal["few-shot", "evaluation", "frame"]

_NEIGHBOURS: Final = 8
_ROLES: Final[Mapping[str, Role]] = {FEW_SHOT_FOLDER: "few-shot", GALLERY_FOLDER: "evaluation"}


@dataclass(frozen=True)
class Caption:
    """A caption of an image.

    Attributes:
        kind: short or detailed.
        text: Its text, with the placeholder of the benchmark.
        places: Place of the image in the ranking of the query, by method; of drawn ones under their first seed.
    """

    kind: str
    text: str
    places: Mapping[str, int]


class Outline(NamedTuple):
    """Where an object is in a frame.

    Attributes:
        box: x0, y0, x1, y1 in pixels, both ends inclusive.
        frame: Width and height of the frame in pixels.
        mask: File with its mask, of zeros and ones, or None.
    """

    box: list[int]
    frame: tuple[int, int]
    mask: Path | None


@dataclass(frozen=True)
class Picture:
    """An image of a concept.

    Attributes:
        concept: The concept.
        role: few-shot, evaluation, or frame: the whole one that the evaluation image is cut from.
        path: Its path below its tree.
        file: The file. None: it is not in the tree.
        fault: Why there is no file, or empty.
        outline: Where the object is, if the image is the frame of its box; else None.
        captions: Its captions.
        point: Where it is on the map, from -1 to 1, or None.
        nearest: Numbers of the most similar images of the collection, with their cosine.
    """

    concept: str
    role: Role
    path: str
    file: Path | None
    fault: str = ""
    outline: Outline | None = None
    captions: tuple[Caption, ...] = ()
    point: tuple[float, float] | None = None
    nearest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Source:
    """What is known of a split.

    Attributes:
        benchmark: The benchmark.
        retrieval: How it is searched.
        asset: Its tree that is searched.
        split: The split.
        tree: That tree.
        tables: Its tables by name.
        framed: Trees of the benchmark that have masks, with the roles of their files.
        features: Features of the images of `tree`; None: they are not materialized.
        ranks: Places of the right images (schema `RANKS`); None: they are not materialized.
    """

    benchmark: Benchmark
    retrieval: Retrieval
    asset: TreeAsset
    split: str
    tree: FolderTree
    tables: Mapping[str, pl.DataFrame]
    framed: tuple[tuple[SheetRoles, FolderTree], ...] = ()
    features: Features | None = None
    ranks: pl.DataFrame | None = None


@dataclass(frozen=True)
class Collection:
    """A split as the gallery shows it.

    Attributes:
        title: Benchmark and split.
        classes: Class of every concept, in the order of their names.
        pictures: The images, by concept.
        model: Name of the CLIP model of the map, or empty.
        variance: Share of the variance that the map shows.
    """

    title: str
    classes: Mapping[str, str]
    pictures: list[Picture] = field(default_factory=list)
    model: str = ""
    variance: float = 0.0


def collect(source: Source) -> Collection:
    """Return everything that is shown of a split: every image that the ledgers list, also those that are not there."""
    captions = _list_captions(source)
    rows = source.tree.ledger.filter(pl.col("concept") != "").sort("path")
    names = sorted(rows["concept"].unique())
    pictures = [
        _make_picture(row, source.tree, role, captions.get(row["path"], []))
        for row in rows.to_dicts()
        for folder, role in _ROLES.items()
        if row["path"].startswith(f"{folder}/")
    ]
    pictures += [picture for roles, tree in source.framed for picture in _list_frames(tree, roles, set(names))]
    order = {"evaluation": 0, "frame": 1, "few-shot": 2}
    pictures.sort(key=lambda picture: (picture.concept, order[picture.role], picture.path))
    known = source.asset.name_classes(source.tables)
    classes = {name: (known.get(name) or "no class").replace("_", " ") for name in names}
    collection = Collection(f"{source.benchmark.title}, {source.split}", classes, pictures)
    return _place(collection, source.features) if source.features else collection


def _make_picture(
    row: Mapping[str, Any], tree: FolderTree, role: Role, captions: list[Caption] | None = None
) -> Picture:
    written = row["status"] == "written"
    return Picture(
        row["concept"],
        role,
        row["path"],
        tree.root / row["path"] if written else None,
        "" if written else f"{row['status']}: {row['reason']}",
        captions=tuple(captions or ()),
    )


def _list_frames(tree: FolderTree, roles: SheetRoles, concepts: set[str]) -> Iterator[Picture]:
    """Yield the frames that masks are drawn over, with box and mask: the first of the evaluation roles."""
    rows = tree.ledger.filter(pl.col("concept").is_in(concepts)).sort("path")
    masks = {
        (row["concept"], *row["source_members"]): tree.root / row["path"]
        for row in rows.filter(rule=roles.mask, status="written").to_dicts()
    }
    for row in rows.filter(rule=roles.evaluation[0]).to_dicts():
        picture = _make_picture(row, tree, "frame")
        if row["box"] and row["width"] and row["height"]:
            mask = masks.get((row["concept"], *row["source_members"]))
            picture = replace(picture, outline=Outline(row["box"], (row["width"], row["height"]), mask))
        yield picture


def _list_captions(source: Source) -> dict[str, list[Caption]]:
    """Return the captions of every evaluation image, by its path."""
    frame = source.retrieval.list_captions(source.tables, source.split).drop_nulls("caption")
    places = _list_places(source.ranks)
    found = defaultdict(list)
    for kind, query, caption, image in frame.select("caption_set", "query", "caption", "image").iter_rows():
        text = " ".join(caption.split())
        found[f"{GALLERY_FOLDER}/{image}"].append(Caption(kind, text, places.get((kind, query), {})))
    return found


def _list_places(ranks: pl.DataFrame | None) -> dict[tuple[str, int], dict[str, int]]:
    """Return the places by kind and row of the caption, and by method, in the order in which methods are shown."""
    if ranks is None:
        return {}
    kinds = {queries.name: queries.caption_set for queries in PALAVRA.query_sets if not queries.alone}
    mine = ranks.filter(pl.col("query_set").is_in(kinds), protocol=PALAVRA.name).sort("seed", nulls_last=True)
    first = mine.unique(["query_set", "query", "method"], keep="first", maintain_order=True)
    found: defaultdict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    rows = first.select("query_set", "query", "method", "place").rows()
    for query_set, query, method, place in sorted(rows, key=lambda row: METHODS.index(row[2])):
        found[kinds[query_set], query][method] = place
    return found


def _place(collection: Collection, features: Features) -> Collection:
    """Add places on the map and nearest neighbours to the images that have a vector."""
    numbers = {picture.path: number for number, picture in enumerate(collection.pictures) if picture.role != "frame"}
    rows = [row for row, path in enumerate(features.ids) if path in numbers]
    if len(rows) < 2:
        return collection
    mine = [numbers[features.ids[row]] for row in rows]
    points, variance = place_on_map(features.vectors[rows])
    nearest = find_neighbours(features.vectors[rows], _NEIGHBOURS)
    pictures = list(collection.pictures)
    for number, (x, y), near in zip(mine, points.tolist(), nearest, strict=True):
        neighbours = tuple((mine[row], cosine) for row, cosine in near)
        pictures[number] = replace(pictures[number], point=(x, y), nearest=neighbours)
    return replace(collection, pictures=pictures, model=features.passport.model, variance=variance)
