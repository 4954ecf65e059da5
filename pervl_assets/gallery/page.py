"""The gallery as a folder: `index.html`, and small copies of the images beside it, which the browser loads as needed.

The page loads nothing else and sends nothing. Names and captions are untrusted: they are in it as JSON only, in which
no tag can begin or end, and its script makes text of them.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from itertools import count
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import explain_write_errors, hash_bytes, make_folder, write_bytes_atomically
from pervl_assets.core.pixels import ImageError, decode_mask, ignore_warnings, read_thumbnail
from pervl_assets.core.text import escape_terminal
from pervl_assets.core.workers import map_in_threads
from pervl_assets.gallery.collection import Collection, Outline, Picture, Role

_PAGE: Final = "index.html"
_MARK: Final = b"<!-- pervl gallery -->"
_COPY: Final = re.compile(r"[0-9a-f]{24}\.(jpg|png)")

_SIDES: Final[dict[Role, int]] = {"few-shot": 160, "evaluation": 320, "frame": 320}
"""Largest side of a small copy, in pixels."""

_QUALITY: Final = 75
_TINT: Final = (255, 0, 120, 110)
"""Of a mask: red, green, blue, opacity."""


class Written(NamedTuple):
    """What was written: the page, number of images, and bytes of everything."""

    page: Path
    images: int
    bytes: int


class _Copies:
    """The small copies of images in a folder: sizes in bytes by name. A name is made of the bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sizes = folder, dict[str, int]()

    def save(self, image: Image.Image, kind: str, **how: Any) -> str:
        """Write a small copy, `jpg` or `png`, and return its name."""
        buffer = io.BytesIO()
        image.save(buffer, {"jpg": "JPEG", "png": "PNG"}[kind], optimize=True, **how)
        name = f"{hash_bytes(buffer.getvalue())[:24]}.{kind}"
        (self.folder / name).write_bytes(buffer.getvalue())
        self.sizes[name] = buffer.tell()
        return name

    def remove_others(self) -> None:
        """Remove the small copies of an earlier gallery."""
        for file in self.folder.iterdir():
            if file.name not in self.sizes and _COPY.fullmatch(file.name):
                file.unlink()


def write_gallery(
    collections: Sequence[Collection],
    notes: Sequence[str],
    folder: Path,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Written:
    """Write the gallery to a folder; equal input gives equal bytes. The page is written last, whole or not at all.

    Args:
        collections: What is shown.
        notes: Lines at the end of the page, e.g. licences.
        folder: Where to. Small copies of an earlier gallery that are not shown any more are removed.
        on_progress: Called for each image with the number of those that are done and of all.

    Raises:
        PervlError: The folder has a page of another kind.
        WriteError: No permission, or no space left.
    """
    page, copies = folder / _PAGE, _Copies(folder / "images")
    total, done = sum(len(one.pictures) for one in collections), count(1)
    with explain_write_errors(folder):
        if page.exists() and not page.read_bytes().startswith(_MARK):
            raise PervlError(f"{page} is no gallery.", advice="Choose another folder: --out FOLDER.")
        make_folder(copies.folder)
        shown = [_encode_collection(one, copies, lambda: on_progress(next(done), total)) for one in collections]
        html = _fill_page({"collections": shown, "notes": [escape_terminal(note) for note in notes]})
        write_bytes_atomically(page, html)
        copies.remove_others()
    images = sum("file" in image for one in shown for image in one["images"])
    return Written(page, images, len(html) + sum(copies.sizes.values()))


def _encode_collection(collection: Collection, copies: _Copies, on_drawn: Callable[[], object]) -> dict[str, Any]:
    """Write the small copies of the images, and return what the page shows."""

    def draw(picture: Picture) -> dict[str, Any]:
        drawn = dict(_draw_copies(picture, copies))
        on_drawn()
        return drawn

    drawn = map_in_threads(draw, collection.pictures)
    names = {name: number for number, name in enumerate(collection.classes)}
    return {
        "title": collection.title,
        "model": escape_terminal(collection.model),
        "variance": round(collection.variance, 3),
        "concepts": [[escape_terminal(name), escape_terminal(of)] for name, of in collection.classes.items()],
        "images": [
            {**dict(_list_facts(picture)), **copy, "concept": names[picture.concept]}
            for picture, copy in zip(collection.pictures, drawn, strict=True)
        ],
    }


def _list_facts(picture: Picture) -> Iterator[tuple[str, Any]]:
    """Yield what the page shows of an image, but for the image itself."""
    yield "role", picture.role
    yield "path", escape_terminal(picture.path)
    if picture.captions:
        yield "captions", [[one.kind, escape_terminal(one.text), list(one.places.items())] for one in picture.captions]
    if picture.point:
        yield "point", [round(value, 4) for value in picture.point]
        yield "near", [[number, round(cosine, 3)] for number, cosine in picture.nearest]


def _draw_copies(picture: Picture, copies: _Copies) -> Iterator[tuple[str, Any]]:
    """Yield name and size of the small copy of an image, and the outline of its object; or why there is none."""
    try:
        if picture.file is None:
            raise ImageError(picture.fault)
        image = read_thumbnail(picture.file, _SIDES[picture.role])
    except ImageError as error:
        yield "fault", escape_terminal(str(error))
        return
    yield "file", copies.save(image, "jpg", quality=_QUALITY)
    yield "size", image.size
    if picture.outline and _measure(picture.file) == picture.outline.frame:
        yield from _draw_outline(picture.outline, image.size, copies)


def _measure(file: Path) -> tuple[int, int]:
    """Return width and height of an image that was read before."""
    with ignore_warnings(), Image.open(file) as image:
        return image.size


def _draw_outline(outline: Outline, size: tuple[int, int], copies: _Copies) -> Iterator[tuple[str, Any]]:
    """Yield a box in percent of the frame, and the name of a tinted copy of the mask."""
    (x0, y0, x1, y1), (width, height) = outline.box, outline.frame
    ends = (x0 / width, y0 / height, (x1 + 1 - x0) / width, (y1 + 1 - y0) / height)
    yield "box", [round(100 * end, 2) for end in ends]
    if outline.mask:
        try:
            mask = Image.fromarray((decode_mask(outline.mask.read_bytes()) > 0).view(np.uint8))
        except (OSError, ImageError):  # the frame is shown without it
            return
        small = mask.resize(size, Image.Resampling.NEAREST)
        small.putpalette((0, 0, 0, 0, *_TINT), "RGBA")
        yield "mask", copies.save(small, "png")


def _fill_page(shown: dict[str, Any]) -> bytes:
    """Return the page with its style, script and data in it."""
    style, script, page = (_read(name) for name in ("style.css", "script.js", _PAGE))
    data = json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c")
    hashes = {f"{name}_hash": _hash(text) for name, text in (("style", style), ("script", script))}
    return _MARK + Template(page).substitute(style=style, script=script, data=data, **hashes).encode()


def _read(name: str) -> str:
    return files("pervl_assets.gallery").joinpath("web", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
