"""The images of the best and worst queries, and one small picture of them for the page of an asset."""

import textwrap
from collections.abc import Iterator
from typing import Final

from PIL import Image, ImageOps

from pervl_assets.core.pixels import ImageError, read_thumbnail
from pervl_assets.evaluation.examples import Example, Examples
from pervl_assets.trees.contact_sheet import SHEET_WIDTH, TILE, Section, Tile, draw_sheet, encode_sheet
from pervl_assets.trees.ledger import FolderTree

_LETTERS: Final = 120
"""Of a line of text."""

_MARGIN: Final = 4
_NOTHING: Final = (232, 232, 236)


def draw_examples(tree: FolderTree, examples: Examples) -> bytes:
    """Draw each query's text, the image it asks for, the one it found, and the few-shot images.

    Args:
        tree: The tree of the images.
        examples: The queries.

    Returns:
        A JPEG of at most `contact_sheet.MAX_BYTES` bytes.
    """
    return encode_sheet(draw_sheet(_list_sections(tree, examples), SHEET_WIDTH, _MARGIN))


def list_images(example: Example) -> list[tuple[str, str]]:
    """Return the images of a query as pairs of caption and path: asked for, found, few-shot."""
    shots = [(f"few-shot, {n} x" if n > 1 else "few-shot", path) for path, n in example.shots.items()]
    if example.found == example.target:
        return [("asked for, found", example.target), *shots]
    return [("asked for", example.target), ("found instead", example.found), *shots]


def read_image(tree: FolderTree, path: str, side: int) -> Image.Image | None:
    """Read an image of a tree as RGB, at most `side` pixels wide and high.

    None if the ledger does not list it as written (the path may come from elsewhere), or it cannot be read.
    """
    if tree.ledger.filter(path=path, status="written").is_empty():
        return None
    try:
        return read_thumbnail(tree.root / path, side)
    except ImageError:
        return None


def _list_sections(tree: FolderTree, examples: Examples) -> Iterator[Section]:
    for heading, chosen in examples.name_parts():
        yield Section([(heading, 14)])
        for example in chosen:
            text = textwrap.wrap(f"{example.text} ({example.describe_place(examples.gallery)})", _LETTERS)
            tiles = []
            for label, path in list_images(example):
                image = read_image(tree, path, TILE) or Image.new("RGB", (TILE, TILE), _NOTHING)
                tiles.append(Tile(ImageOps.pad(image, (TILE, TILE), color=(255, 255, 255)), label))
            yield Section([(line, 12) for line in text], tiles)
