"""`pervl gallery`: concepts, images, boxes, captions and a map as one web page, from stored values.

Nothing is materialized or changed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_searched
from pervl_assets.benchmarks.benchmark import Benchmark, Retrieval, TreeAsset
from pervl_assets.cli.report import read_value
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import MissingInputError, PervlError
from pervl_assets.defs.evaluation_tables import EVALUATION
from pervl_assets.defs.features import name_key
from pervl_assets.gallery.collection import Source, collect
from pervl_assets.gallery.page import Written, write_gallery
from pervl_assets.settings import Settings


def make_gallery(
    settings: Settings,
    folder: Path,
    benchmark: str | None = None,
    split: str | None = None,
    encoder: str | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Written:
    """Write the gallery of everything that is materialized to a folder.

    Args:
        settings: Where the values are.
        folder: Where to.
        benchmark: Name of the only benchmark to show; None: all.
        split: The only split to show; None: all.
        encoder: Name of a further encoder, of which map, neighbours and places are; None: the default one.
        on_progress: Called for each image with the number of those that are done and of all.

    Raises:
        MissingInputError: Nothing is materialized.
        PervlError: There is no such benchmark, split or encoder.
    """
    settings.require_encoder(encoder)
    searched = [one for one in find_searched() if benchmark in (None, one[0].name)]
    if not any(split in (None, *tree.splits) for *_, tree in searched):
        known = (f"--benchmark {one.name} --split {' or '.join(tree.splits)}" for one, _, tree in find_searched())
        wanted = " ".join(f"{what} {name!r}" for what, name in (("benchmark", benchmark), ("split", split)) if name)
        raise PervlError(f"There is no {wanted}.", advice=f"Choose one of these: {'; '.join(known)}.")
    sources = [source for one in searched for source in _find_sources(settings.data, *one, split, encoder)]
    if not sources:
        trees = " ".join(f"+{one.name}/{tree.name}" for one, _, tree in searched)
        raise MissingInputError(
            "No images are materialized that a gallery could show.",
            advice=f"Materialize them first: pervl materialize {trees}",
        )
    shown = {source.benchmark.name: source.benchmark for source in sources}
    licences = [f"{spec.title}: {spec.licence}" for one in shown.values() for spec in one.archives]
    notes = ["The images are synthetic, made by pervl demo."]
    if settings.profile != "demo":
        notes = ["The images keep the licences of their data sets. Do not publish this folder.", *licences]
    return write_gallery([collect(source) for source in sources], notes, folder, on_progress)


def _find_sources(
    data: Path | Address,
    benchmark: Benchmark,
    retrieval: Retrieval,
    asset: TreeAsset,
    wanted: str | None,
    encoder: str | None,
) -> Iterator[Source]:
    """Yield what is materialized of every split (or of one that is wanted) whose images and tables are."""
    read = {name: _read(data, "tables", benchmark, name) for name in asset.tables}
    tables = {name: table for name, table in read.items() if table is not None}
    for split in (one for one in asset.splits if wanted in (None, one)):
        tree = _read(data, "trees", benchmark, asset.name, split)
        if tree is None or len(tables) < len(read):
            continue
        framed = [
            (one.sheet, _read(data, "trees", benchmark, one.name, split if one.splits else None))
            for one in benchmark.trees
            if one.sheet.mask
        ]
        features, *ranks = (
            read_value(data, kind, name_key(f"{benchmark.name}/{name}", encoder, EVALUATION), split)
            for kind, name in (
                ("features", "image_features"),
                ("tables", "baseline_ranks"),
                ("tables", "concept_ranks"),
            )
        )
        found = [frame for frame in ranks if frame is not None]
        yield Source(
            benchmark,
            retrieval,
            asset,
            split,
            tree,
            tables,
            tuple((sheet, one) for sheet, one in framed if one is not None),
            features,
            pl.concat(found) if found else None,
        )


def _read(data: Path | Address, kind: str, benchmark: Benchmark, name: str, partition: str | None = None) -> Any | None:
    return read_value(data, kind, dg.AssetKey([benchmark.name, name]), partition)
