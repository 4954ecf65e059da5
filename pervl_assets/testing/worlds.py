"""The miniature world as data folders: its raw inputs, drawn, and what was materialized of them.

Belongs here: where a raw input is, drawing the inputs, and a world with its runs. Does not belong here: the pictures
themselves, which are `pervl_assets.demo`'s.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from pervl_assets.defs.raw import list_specs
from pervl_assets.demo import RAW_NAMES, draw_raw


@dataclass(frozen=True)
class World:
    """A data folder in which assets were materialized.

    Attributes:
        data: The data folder.
        results: The runs that did it, for whoever made it in this process.
    """

    data: Path
    results: list[dg.ExecuteInProcessResult] = field(default_factory=list)

    def copy_to(self, folder: Path) -> Path:
        """Copy the data folder; identity cards say where a raw input is, so they are moved along."""
        shutil.copytree(self.data, folder)
        for card in (folder / "assets/raw").glob("*.json"):
            card.write_text(card.read_text().replace(str(self.data), str(folder)))
        return folder


def locate_raw(data: Path, name: str) -> Path:
    """Return the place of a raw input in a data folder.

    Args:
        data: The data folder.
        name: Its asset's name below `raw/`, e.g. `coco_train2014`.

    Raises:
        KeyError: There is no raw input of this name.
    """
    return data / {spec.name: spec.file for spec in list_specs()}[name]


def draw_world(folder: Path, names: Iterable[str] = RAW_NAMES) -> Path:
    """Draw raw inputs of the miniature world at their places below a folder; what is there already stays as it is."""
    for name in names:
        draw_raw(name, folder)
    return folder


def copy_raw(name: str, source: Path, data: Path) -> Path:
    """Copy one raw input from one data folder into another; returns its new place."""
    target = locate_raw(data, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(locate_raw(source, name), target))
