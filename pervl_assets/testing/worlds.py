"""The demo data as data folders: raw inputs, and folders in which assets were materialized."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from pervl_assets.defs.raw import list_specs
from pervl_assets.demo import RAW_NAMES, draw_raw


@dataclass(frozen=True)
class World:
    """A data folder in which assets were materialized, and the runs that did so in this process."""

    data: Path
    results: list[dg.ExecuteInProcessResult] = field(default_factory=list)

    def copy_to(self, folder: Path) -> Path:
        """Copy the data folder, with the absolute paths in its identity cards adapted."""
        shutil.copytree(self.data, folder)
        for card in (folder / "assets/raw").glob("*.json"):
            card.write_text(card.read_text().replace(str(self.data), str(folder)))
        return folder


def locate_raw(data: Path, name: str) -> Path:
    """Return the path of a raw input, e.g. `coco_train2014`, in a data folder; KeyError if none has this name."""
    return data / {spec.name: spec.file for spec in list_specs()}[name]


def draw_world(folder: Path, names: Iterable[str] = RAW_NAMES) -> Path:
    """Generate raw inputs of the demo data below a folder. Existing files are kept.

    They are not marked as synthetic, so the full profile accepts them.
    """
    for name in names:
        draw_raw(name, folder)
    for mark in (marks := folder / "assets/raw").glob("*.synthetic"):
        mark.unlink()
    with suppress(OSError):  # of folders that hold results, too
        marks.rmdir()
        marks.parent.rmdir()
    return folder


def copy_raw(name: str, source: Path, data: Path) -> Path:
    """Copy one raw input to another data folder. Returns its new path."""
    target = locate_raw(data, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(locate_raw(source, name), target))
