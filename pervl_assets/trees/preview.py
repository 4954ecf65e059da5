"""Draw everything a tree contains of one concept on one image."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from pervl_assets.trees.contact_sheet import SheetRules, load_image
from pervl_assets.trees.ledger import FolderTree, Row

_WIDTH: Final = 1200
_MARGIN: Final = 28
_GAP: Final = 10
_LABEL: Final = 20
_FEW_SHOT_HEIGHT: Final = 150
_EVALUATION_HEIGHT: Final = 330
_ENLARGED: Final = 10
"""Highest factor by which small images are enlarged."""

_BACKGROUND: Final = (255, 255, 255)
_INK: Final = (28, 28, 32)
_GREY: Final = (120, 120, 128)
_RULE: Final = (222, 222, 228)
_MISSING: Final = (252, 236, 234)
_ERROR: Final = (170, 40, 30)


@dataclass(frozen=True)
class _Tile:
    """An image with a line of text below it."""

    image: Image.Image
    label: str


def draw_concept(tree: FolderTree, rules: SheetRules, concept: str, texts: Sequence[tuple[str, str]] = ()) -> bytes:
    """Draw all few-shot images of a concept, and all evaluation images with box and mask.

    Quarantined, missing and damaged images are drawn as a card with the reason.

    Args:
        tree: A committed tree.
        rules: The rules of the ledger to show.
        concept: Name of a concept in the ledger.
        texts: Lines below the name, as pairs of label and text.

    Returns:
        A PNG, 1200 pixels wide.
    """
    rows: list[Row] = tree.ledger.filter(concept=concept).sort("path").to_dicts()  # type: ignore[assignment]
    mask = next((row for row in rows if row["rule"] == rules.mask and row["status"] == "written"), None)
    blocks = [_draw_head(concept, texts)]
    few_shot = [row for row in rows if row["rule"] == rules.few_shot]
    blocks += _draw_section("few-shot", few_shot, tree.root, None, _FEW_SHOT_HEIGHT)
    evaluation = [row for rule in rules.evaluation for row in rows if row["rule"] == rule]
    blocks += _draw_section("evaluation", evaluation, tree.root, mask, _EVALUATION_HEIGHT)
    sheet = Image.new("RGB", (_WIDTH, sum(block.height for block in blocks) + _MARGIN), _BACKGROUND)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_head(concept: str, texts: Sequence[tuple[str, str]]) -> Image.Image:
    """Return the block with the name of the concept and the texts."""
    indent = max((_font(16).getlength(label) for label, _ in texts), default=0) + 2 * _GAP
    columns = int((_WIDTH - 2 * _MARGIN - indent) / _font(16).getlength("n"))
    lines = [
        (label if first else "", line)
        for label, text in texts
        for first, line in zip((True, *[False] * len(text)), textwrap.wrap(text, columns) or [""], strict=False)
    ]
    head = Image.new("RGB", (_WIDTH, _MARGIN + 46 + 24 * len(lines)), _BACKGROUND)
    draw = ImageDraw.Draw(head)
    _write(draw, (_MARGIN, _MARGIN), concept, 30, _INK)
    for number, (label, line) in enumerate(lines):
        top = _MARGIN + 46 + 24 * number
        _write(draw, (_MARGIN, top), label, 16, _GREY)
        _write(draw, (_MARGIN + int(indent), top), line, 16, _INK)
    return head


def _draw_section(name: str, rows: Sequence[Row], root: Path, mask: Row | None, height: int) -> Iterable[Image.Image]:
    """Yield the heading of a section and its rows of images."""
    heading = Image.new("RGB", (_WIDTH, 62), _BACKGROUND)
    draw = ImageDraw.Draw(heading)
    draw.line((_MARGIN, 18, _WIDTH - _MARGIN, 18), fill=_RULE, width=1)
    _write(draw, (_MARGIN, 30), f"{name}: {len(rows):,} {'image' if len(rows) == 1 else 'images'}", 18, _INK)
    yield heading
    tiles = [_make_tile(root, row, mask, height) for row in rows]
    for line in _break_lines(tiles):
        strip = Image.new("RGB", (_WIDTH, max(tile.image.height for tile in line) + _LABEL + _GAP), _BACKGROUND)
        draw = ImageDraw.Draw(strip)
        left = _MARGIN
        for tile in line:
            strip.paste(tile.image, (left, strip.height - _LABEL - _GAP - tile.image.height))
            _write(draw, (left, strip.height - _LABEL - 6), tile.label, 12, _GREY)
            left += _measure(tile) + _GAP
        yield strip


def _break_lines(tiles: Sequence[_Tile]) -> list[list[_Tile]]:
    """Distribute tiles over lines that fit the width."""
    lines: list[list[_Tile]] = []
    left = _WIDTH
    for tile in tiles:
        if not lines or left + _measure(tile) > _WIDTH - _MARGIN:
            lines.append([])
            left = _MARGIN
        lines[-1].append(tile)
        left += _measure(tile) + _GAP
    return lines


def _measure(tile: _Tile) -> int:
    """Return the width of image and text in pixels."""
    return max(tile.image.width, int(_font(12).getlength(tile.label)) + _GAP)


def _make_tile(root: Path, row: Row, mask: Row | None, height: int) -> _Tile:
    name = Path(row["path"]).stem
    name = name.removeprefix(row["concept"]).lstrip("_") or name
    reason = row["reason"]
    if row["status"] == "written":
        try:
            image = load_image(root, row, mask)
        except OSError:
            reason = "the file was removed or cannot be read. Materialize the tree again to repair it"
        else:
            label = f"{name}  {image.width} x {image.height}"
            label += f"  {row['rule'].replace('_', ' ')}" if height > _FEW_SHOT_HEIGHT else ""
            return _Tile(_fit(image, height), label)
    return _Tile(_draw_card(row["status"] if row["reason"] else "damaged", reason or "", height), name)


def _fit(image: Image.Image, height: int) -> Image.Image:
    scale = min(height / image.height, (_WIDTH - 2 * _MARGIN) / image.width, _ENLARGED)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _draw_card(title: str, text: str, height: int) -> Image.Image:
    card = Image.new("RGB", (220, height), _MISSING)
    draw = ImageDraw.Draw(card)
    _write(draw, (_GAP, _GAP), title, 16, _ERROR)
    lines = textwrap.wrap(text, 32)[: (height - 50) // 16]
    for number, line in enumerate(lines):
        _write(draw, (_GAP, 38 + 16 * number), line, 12, _INK)
    return card


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]
) -> None:
    draw.text(position, text, fill=colour, font=_font(size))
