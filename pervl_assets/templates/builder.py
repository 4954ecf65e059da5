"""Demo data of TITLE: three mugs, each in six photographs beside another object."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.demo.builder import Builder, RawInput
from pervl_assets.demo.drawing import encode_jpeg
from pervl_assets.demo.scenes import Figure, Scene, choose_look, render
from pervl_assets.demo.zips import Member, write_zip

_COLOURS: Final = {"red_mug": "red", "blue_mug": "blue", "green_mug": "green"}
_THINGS: Final = ("cake", "ball", "flower", "chair", "cat", "dog")
_FEW_SHOT: Final = 4


def _list_photos() -> Iterator[tuple[str, str, str, str]]:
    """List concept, photo, role, and the object beside the mug."""
    for number, (concept, thing) in enumerate((concept, thing) for concept in _COLOURS for thing in _THINGS):
        role = "few_shot" if number % len(_THINGS) < _FEW_SHOT else "evaluation"
        yield concept, f"{number:03d}.jpg", role, thing


def _draw_members(seed: int) -> Iterator[Member]:
    for concept, photo, _, thing in _list_photos():
        look = choose_look(Random(f"{seed}/{concept}"), "cup", _COLOURS[concept])
        mug = Figure("cup", look, -0.2, 0.9, 0.4)
        other = Figure(thing, choose_look(Random(f"{seed}/{photo}"), thing), 0.25, 0.85, 0.4)
        picture, _ = render(Scene("room", f"{seed}/{photo}", (mug, other), 160, 120, relation="beside"))
        yield f"photos/{photo}", encode_jpeg(picture)


def _draw_archive(target: Path, seed: int) -> None:
    write_zip(target, _draw_members(seed))


def _write_annotations(folder: Path, seed: int) -> None:
    rows = [f"{concept},{photo},{role},mug,* beside a {thing}" for concept, photo, role, thing in _list_photos()]
    text = "\n".join(["concept,photo,role,class,caption", *rows, ""])
    write_bytes_atomically(folder / "photos.csv", text.encode())


BUILDER: Final = Builder(
    raw={"NAME_photos": RawInput("NAME/photos.zip", _draw_archive)},
    annotations="NAME",
    write_annotations=_write_annotations,
)
"""Draws the photographs and writes their annotations."""
