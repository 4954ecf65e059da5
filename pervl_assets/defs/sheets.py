"""The concepts of a tree on its page: a contact sheet of some with a legend, and all of them, page by page."""

import random
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

import dagster as dg
import polars as pl

from pervl_assets.benchmarks.benchmark import Benchmark, TreeAsset
from pervl_assets.core.text import escape_markdown
from pervl_assets.core.workers import map_in_threads
from pervl_assets.defs.metadata import format_image
from pervl_assets.defs.pages import link_asset
from pervl_assets.trees.contact_sheet import SheetRoles, draw_strip, list_concepts
from pervl_assets.trees.ledger import FolderTree

_SAMPLE: Final = 6
_PAGE: Final = 50
"""Concepts of a page; with photographs it has about 150 kB."""

_PAGE_TILE: Final = 72
_LONGEST: Final = 300
"""Letters of a concept's annotations."""


def show_concepts(
    built: FolderTree, benchmark: Benchmark, tree: TreeAsset, tables: Mapping[str, pl.DataFrame]
) -> tuple[dict[str, dg.MetadataValue], dict[str, dg.MetadataValue]]:
    """Return the contact sheet of a tree as metadata, and the pages with all of its concepts.

    A tree that is made from another one has no pages: its contact sheet links to those of that tree.

    Args:
        built: Its files, where they are now.
        benchmark: The benchmark of the tree.
        tree: Its declaration.
        tables: The tables it was made from, by name.
    """
    concepts = list_concepts(built, tree.sheet)
    sample = sorted(random.Random(0).sample(concepts, min(_SAMPLE, len(concepts))))  # noqa: S311 - a choice of images
    origin = _find_origin(benchmark, tree)
    key = dg.AssetKey([benchmark.name, origin.name])
    where = "are in *concepts*, below" if origin is tree else f"are on the page of {link_asset(key, origin.name)}"
    rest = f" All {len(concepts):,} {where}." if len(sample) < len(concepts) else ""

    def tabulate(chosen: Sequence[str], *shape: int) -> str:
        strips = map_in_threads(lambda concept: draw_strip(built, tree.sheet, concept, *shape), chosen)
        lines = ["| images | concept | annotations |", "| --- | --- | --- |"]
        for concept, strip in zip(chosen, strips, strict=True):
            text = "; ".join(f"{label}: {text}" for label, text in tree.describe(tables, concept))
            text = f"{strip.few_shot:,} few-shot, {strip.evaluation:,} evaluation; {text}"
            image = format_image(strip.image, concept, "image/webp")
            text = escape_markdown(textwrap.shorten(text, _LONGEST, placeholder=" …"))
            lines.append(f"| {image} | {escape_markdown(concept)} | {text} |")
        return "\n".join(lines)

    pages = range(0, len(concepts), _PAGE) if origin is tree and rest else ()
    return {"contact_sheet": dg.MetadataValue.md(f"{_explain(tree.sheet)}{rest}\n\n{tabulate(sample)}")}, {
        f"concepts {start + 1} to {start + len(part)}": dg.MetadataValue.md(tabulate(part, 1, 1, _PAGE_TILE))
        for start in pages
        if (part := concepts[start : start + _PAGE])
    }


def _explain(roles: SheetRoles) -> str:
    """Return the legend of a contact sheet."""
    frame = " Yellow: the box of the object. Pink: its mask." if roles.mask else ""
    return f"Left: up to four few-shot images, evenly chosen. Right: up to two evaluation images.{frame}"


def _find_origin(benchmark: Benchmark, tree: TreeAsset) -> TreeAsset:
    """Return the tree of the same benchmark that a tree's images are from: the one that is made from an archive."""
    trees = {one.name: one for one in benchmark.trees}
    return _find_origin(benchmark, trees[tree.source]) if tree.source in trees else tree
