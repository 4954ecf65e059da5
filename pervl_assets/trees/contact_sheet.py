"""Contact sheets: a sample of the images of a tree on one JPEG."""

import io
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from PIL import Image, ImageDraw, ImageOps

from pervl_assets.trees.ledger import FolderTree, Row

MAX_BYTES: Final = 70_000

_FEW_SHOT: Final = 5
_EVALUATION: Final = 2
_TILE: Final = 104
_LABEL: Final = 14
_GAP: Final = 4
_BACKGROUND: Final = (250, 250, 250)
_INK: Final = (30, 30, 30)
_BOX: Final = (255, 255, 0)
_MASK: Final = (255, 0, 120)


@dataclass(frozen=True)
class SheetRules:
    """The rules of a ledger that a contact sheet shows.

    Attributes:
        few_shot: Rule of the few-shot images.
        evaluation: Rules of the evaluation images. The box of a row is drawn over the image if it is the frame of the
            box.
        mask: Rule of the masks drawn over that frame; None if the tree has none.
    """

    few_shot: str
    evaluation: tuple[str, ...]
    mask: str | None = None


def draw_contact_sheet(tree: FolderTree, rules: SheetRules, concepts: int = 6, seed: int = 0) -> bytes:
    """Draw some concepts of a tree, one per row: few-shot images, then evaluation images with box and mask.

    Args:
        tree: A committed tree.
        rules: The rules to show.
        concepts: Number of concepts, sampled at random.
        seed: Seed of the sample.

    Returns:
        A JPEG of at most `MAX_BYTES` bytes.
    """
    written = tree.ledger.filter(status="written")
    names = sorted(written.filter(pl.col("rule").is_in([rules.few_shot, *rules.evaluation]))["concept"].unique())
    chosen = sorted(random.Random(seed).sample(names, min(concepts, len(names))))  # noqa: S311 - a choice of images
    columns = _FEW_SHOT + _EVALUATION
    sheet = Image.new(
        "RGB", (_GAP + columns * (_TILE + _GAP), _GAP + max(len(chosen), 1) * (_TILE + _LABEL + _GAP)), _BACKGROUND
    )
    draw = ImageDraw.Draw(sheet)
    for line, concept in enumerate(chosen):
        rows: list[Row] = written.filter(concept=concept).sort("path").to_dicts()  # type: ignore[assignment]
        shots = [row for row in rows if row["rule"] == rules.few_shot]
        shown = [row for rule in rules.evaluation for row in rows if row["rule"] == rule]
        top = _GAP + line * (_TILE + _LABEL + _GAP)
        text = f"{concept}: {len(shots)} few-shot, {len(shown)} evaluation"
        draw.text((_GAP, top), text.encode("latin-1", "replace").decode("latin-1"), fill=_INK)
        mask = next((row for row in rows if row["rule"] == rules.mask), None)
        tiles = [*_spread(shots, _FEW_SHOT), *[None] * (_FEW_SHOT - len(shots)), *shown[:_EVALUATION]]
        for column, row in enumerate(tiles):
            if row is not None:
                image = load_image(tree.root, row, mask, _TILE)
                tile = ImageOps.pad(image, (_TILE, _TILE), color=_BACKGROUND)
                sheet.paste(tile, (_GAP + column * (_TILE + _GAP), top + _LABEL))
    return _encode(sheet)


def _spread(rows: list[Row], count: int) -> Iterable[Row]:
    return (rows[index * len(rows) // count] for index in range(count)) if len(rows) > count else rows


def load_image(root: Path, row: Row, mask: Row | None, side: int | None = None) -> Image.Image:
    """Read an image of a tree. If it is the frame of the box in its row, box and mask are drawn over it.

    Args:
        root: Root of the tree.
        row: Row of the image in the ledger.
        mask: Row of its mask; None if it has none.
        side: Pixels needed for the longer side; a larger JPEG without a box is decoded at a fraction of its size.

    Raises:
        OSError: The file does not exist, or does not decode.
    """
    with Image.open(root / row["path"], formats=("JPEG", "PNG")) as file:
        if side and not row["box"]:
            file.draft("RGB", (2 * side, 2 * side))
        image = file.convert("RGB")
    if row["box"] and image.size == (row["width"], row["height"]):
        if mask is not None and mask["source_members"] == row["source_members"]:
            with Image.open(root / mask["path"], formats=("PNG",)) as file:
                shade = Image.fromarray(np.asarray(file) * np.uint8(110))
            image.paste(_MASK, mask=shade)
        line = max(2, max(image.size) // _TILE)
        x0, y0, x1, y1 = row["box"]  # outside the object, so that a small one is not hidden
        ImageDraw.Draw(image).rectangle((x0 - line, y0 - line, x1 + line, y1 + line), outline=_BOX, width=line)
    return image


def _encode(sheet: Image.Image) -> bytes:
    for quality in (85, 75, 60, 45, 30):
        buffer = io.BytesIO()
        sheet.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_BYTES:
            return buffer.getvalue()
    return _encode(sheet.resize((sheet.width // 2, sheet.height // 2)))
