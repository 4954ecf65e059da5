"""Images of trees: some images of a concept in a row, as a small WebP, and everything about one concept as a PNG."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pervl_assets.trees.ledger import FolderTree, Row

MAX_BYTES: Final = 70_000
"""Largest sheet. An asset page can show no more."""

TILE: Final = 104
"""Side of an image on a sheet, in pixels."""

SHEET_WIDTH: Final = 4 + 7 * (TILE + 4)
"""Width of a sheet, in pixels."""

_GAP: Final = 4
_QUALITY: Final = 60

_PREVIEW_WIDTH: Final = 1200
_FEW_SHOT_HEIGHT: Final = 150
_EVALUATION_HEIGHT: Final = 330
_ENLARGED: Final = 10
"""Highest factor by which small images are enlarged."""

_BACKGROUND: Final = (255, 255, 255)
_INK: Final = (28, 28, 32)
_BOX: Final = (255, 255, 0)
_MASK: Final = (255, 0, 120)
_MISSING: Final = (252, 236, 234)


class SheetRoles(NamedTuple):
    """The roles of a ledger that are shown.

    Attributes:
        few_shot: Role of the few-shot images.
        evaluation: Roles of the evaluation images. The box of a row is drawn over the image if it is the frame of the
            box.
        mask: Role of the masks drawn over that frame, or None.
    """

    few_shot: str
    evaluation: tuple[str, ...]
    mask: str | None = None


class Tile(NamedTuple):
    """An image of a sheet, and the line below it."""

    image: Image.Image
    label: str = ""


class Strip(NamedTuple):
    """Images of a concept as a WebP, and how many few-shot and evaluation images it has in all."""

    image: bytes
    few_shot: int
    evaluation: int


class Section(NamedTuple):
    """Lines of text as pairs of text and font size, and the tiles below them."""

    lines: Sequence[tuple[str, int]]
    tiles: Sequence[Tile] = ()


def list_concepts(tree: FolderTree, roles: SheetRoles) -> list[str]:
    """Return the concepts that have a file with one of the roles in the ledger, sorted."""
    return sorted(tree.ledger.filter(pl.col("rule").is_in([roles.few_shot, *roles.evaluation]))["concept"].unique())


def draw_strip(
    tree: FolderTree, roles: SheetRoles, concept: str, few_shot: int = 4, evaluation: int = 2, side: int = 84
) -> Strip:
    """Draw some images of a concept in a row: few-shot images, then evaluation images with box and mask.

    Args:
        tree: A committed tree.
        roles: The roles to show.
        concept: Name of a concept in the ledger.
        few_shot: Most few-shot images, evenly chosen from all.
        evaluation: Most evaluation images.
        side: Side of an image, in pixels.

    Returns:
        The row as a WebP. A place is left white if the concept has fewer images.
    """
    shots, shown, mask = _find_rows(tree.ledger.filter(status="written"), roles, concept)
    few = [shots[index * len(shots) // few_shot] for index in range(few_shot)] if len(shots) > few_shot else shots
    strip = Image.new("RGB", ((few_shot + evaluation) * (side + _GAP) - _GAP, side), _BACKGROUND)
    for places, rows in ((0, few), (few_shot, shown[:evaluation])):
        for place, row in enumerate(rows, places):
            tile = ImageOps.pad(_load_image(tree.root, row, mask, side), (side, side), color=_BACKGROUND)
            strip.paste(tile, (place * (side + _GAP), 0))
    buffer = io.BytesIO()
    strip.save(buffer, "WEBP", quality=_QUALITY)
    return Strip(buffer.getvalue(), len(shots), len(shown))


def draw_concept(tree: FolderTree, roles: SheetRoles, concept: str, texts: Sequence[tuple[str, str]] = ()) -> bytes:
    """Draw all few-shot images of a concept, and all evaluation images with box and mask.

    Quarantined, missing and damaged images are drawn as a card with the reason.

    Args:
        tree: A committed tree.
        roles: The roles of the ledger to show.
        concept: Name of a concept in the ledger.
        texts: Lines below the name, as pairs of label and text.

    Returns:
        A PNG, 1200 pixels wide.
    """
    shots, shown, mask = _find_rows(tree.ledger, roles, concept)
    columns = int((_PREVIEW_WIDTH - 56) / ImageFont.load_default(16).getlength("n"))
    lines = [line for label, text in texts for line in textwrap.wrap(f"{label}: {text}", columns)]
    sections = [Section([(concept, 30), *((line, 16) for line in lines)])]
    for name, rows, height in (("few-shot", shots, _FEW_SHOT_HEIGHT), ("evaluation", shown, _EVALUATION_HEIGHT)):
        tiles = [_make_tile(tree.root, row, mask, height) for row in rows]
        sections.append(Section([(f"{name}: {len(rows):,} {'image' if len(rows) == 1 else 'images'}", 18)], tiles))
    buffer = io.BytesIO()
    draw_sheet(sections, _PREVIEW_WIDTH, 28).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _load_image(root: Path, row: Row, mask: Row | None, side: int | None = None) -> Image.Image:
    """Read an image of a tree. If it is the frame of the box in its row, box and mask are drawn over it.

    Args:
        root: Root of the tree.
        row: Row of the image in the ledger.
        mask: Row of its mask, or None.
        side: Pixels needed for the longer side. A larger JPEG is decoded at a fraction of its size.

    Raises:
        OSError: The file does not exist, or does not decode.
    """
    with Image.open(root / row["path"], formats=("JPEG", "PNG")) as file:
        box, width = row["box"] if file.size == (row["width"], row["height"]) else None, file.width
        if side:
            file.draft("RGB", (2 * side, 2 * side))
        image = file.convert("RGB")
    if box:
        scale = image.width / width
        if mask is not None and mask["source_members"] == row["source_members"]:
            with Image.open(root / mask["path"], formats=("PNG",)) as file:
                shade = Image.fromarray(np.asarray(file) * np.uint8(110)).resize(image.size, Image.Resampling.BOX)
            image.paste(_MASK, mask=shade)
        line = max(2, max(image.size) // TILE)
        x0, y0, x1, y1 = (edge * scale for edge in box)  # outside the object, so that a small one is not hidden
        ImageDraw.Draw(image).rectangle((x0 - line, y0 - line, x1 + line, y1 + line), outline=_BOX, width=line)
    return image


def _find_rows(ledger: pl.DataFrame, roles: SheetRoles, concept: str) -> tuple[list[Row], list[Row], Row | None]:
    """Return the rows of a concept's few-shot and evaluation images, and of its mask."""
    rows: list[Row] = ledger.filter(concept=concept).sort("path").to_dicts()  # type: ignore[assignment]
    shots, *shown = ([row for row in rows if row["rule"] == role] for role in (roles.few_shot, *roles.evaluation))
    mask = next((row for row in rows if row["rule"] == roles.mask and row["status"] == "written"), None)
    return shots, [row for rows in shown for row in rows], mask


def draw_sheet(sections: Iterable[Section], width: int, margin: int) -> Image.Image:
    """Draw sections one below the other. Their tiles flow from line to line, each with its label below it.

    Args:
        sections: What is drawn.
        width: Width of the sheet in pixels.
        margin: Space around it, and between its parts.
    """
    texts: list[tuple[int, int, str, int]] = []
    images: list[tuple[int, int, Image.Image]] = []
    top = margin
    for lines, tiles in sections:
        for text, size in lines:
            texts.append((margin, top, text, size))
            top += size + size // 2
        left, height = margin, 0
        for image, label in tiles:
            space = max(image.width, int(ImageFont.load_default(12).getlength(label)))
            if left > margin and left + space > width - margin:
                left, top, height = margin, top + height, 0
            images.append((left, top, image))
            texts.append((left, top + image.height + 2, label, 12))
            left, height = left + space + min(margin, 10), max(height, image.height + (24 if label else 4))
        top += height + margin // 2
    sheet = Image.new("RGB", (width, top), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for left, y, image in images:
        sheet.paste(image, (left, y))
    for left, y, text, size in texts:
        draw.text((left, y), text, fill=_INK, font=ImageFont.load_default(size))
    return sheet


def _make_tile(root: Path, row: Row, mask: Row | None, height: int) -> Tile:
    """Return an image, enlarged or reduced to a height, or a card with the reason if there is none."""
    name = Path(row["path"]).stem
    name = name.removeprefix(row["concept"]).lstrip("_") or name
    reason = f"{row['status']}: {row['reason']}"
    if row["status"] == "written":
        try:
            image = _load_image(root, row, mask)
        except OSError:
            reason = "damaged: the file was removed or cannot be read. Materialize the tree again to repair it"
        else:
            label = f"{name}  {image.width} x {image.height}  {row['rule'].replace('_', ' ')}"
            scale = min(height / image.height, (_PREVIEW_WIDTH - 56) / image.width, _ENLARGED)
            size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
            return Tile(image.resize(size, Image.Resampling.LANCZOS), label)
    card = Image.new("RGB", (220, height), _MISSING)
    text = "\n".join(textwrap.wrap(reason, 32)[: height // 16])
    ImageDraw.Draw(card).multiline_text((10, 10), text, fill=_INK, font=ImageFont.load_default(12))
    return Tile(card, name)


def encode_sheet(sheet: Image.Image) -> bytes:
    """Return a JPEG of at most `MAX_BYTES` bytes, of as high a quality as that allows."""
    for quality in (85, 75, 60, 45, 30):
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    return encode_sheet(sheet.resize((sheet.width // 2, sheet.height // 2)))
