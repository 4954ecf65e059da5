"""Builders of raw inputs, and how they are found."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class RawInput:
    """One raw input: its official path below `PERVL_DATA`, and a function that draws it to a path from a seed."""

    file: str
    draw: Callable[[Path, int], None]


@dataclass(frozen=True)
class Builder:
    """The `BUILDER` of a module in `builders`.

    Attributes:
        raw: Raw inputs by the name of their asset below `raw/`.
        annotations: Folder name of the annotations, e.g. `ytvos`, or None.
        write_annotations: Writes the annotation files into that folder. The second argument is the seed.
    """

    raw: Mapping[str, RawInput] = field(default_factory=dict)
    annotations: str | None = None
    write_annotations: Callable[[Path, int], None] | None = None


@cache
def find_builders() -> tuple[Builder, ...]:
    """Return the builder of every module in `builders`, sorted by module name."""
    package = importlib.import_module("pervl_assets.demo.builders")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return tuple(module.BUILDER for module in modules)
