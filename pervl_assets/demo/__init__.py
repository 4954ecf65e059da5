"""The miniature world: small, honest raw inputs in the official layouts, drawn from a seed, and a tiny CLIP.

Belongs here: what others need of it, `draw_raw` and `write_annotations`. Everything drawn is this project's own: no
picture, sentence or annotation of the real data sets is in it. Does not belong here: how the real inputs are found.
"""

from pathlib import Path
from typing import Final

from pervl_assets.demo.builder import find_builders
from pervl_assets.demo.builders.deep_fashion import DEMO_PASSWORD
from pervl_assets.demo.scenes import CLASSES

__all__ = ["DEMO_PASSWORD", "OBJECT_CLASSES", "RAW_NAMES", "TINY_CLIP", "draw_raw", "write_annotations"]

OBJECT_CLASSES: Final = len(CLASSES)
"""How many object classes the world has (30); rarer objects (sun, moon, rainbow) lie beyond them."""

RAW_NAMES: Final = tuple(name for builder in find_builders() for name in builder.raw)
"""Names of the raw inputs that `draw_raw` can draw, in the builders' order."""


TINY_CLIP: Final = Path(__file__).parent / "tiny_clip"
"""Folder of the demo's CLIP, in open_clip's `local-dir` layout."""


def draw_raw(name: str, data_root: Path, seed: int = 0) -> None:
    """Draw one raw input at its official place below `data_root`, unless something stands there already.

    The same seed gives the same bytes (JPEGs: for the same version of Pillow).

    Args:
        name: One of `RAW_NAMES`, or a raw input of a further builder.
        data_root: The folder that `PERVL_DATA` names.
        seed: Decides every picture. Annotations fit the raw inputs of their own seed only.

    Raises:
        KeyError: No builder draws an input of this name.
        WriteError: No permission, or no space left.
    """
    raw = {key: value for builder in find_builders() for key, value in builder.raw.items()}[name]
    target = data_root / raw.file
    if not target.exists():
        raw.draw(target, seed)


def write_annotations(folder: Path, seed: int = 0) -> None:
    """Write the annotations of the drawn benchmarks, one folder each below `folder`, in upstream's formats.

    Raises:
        WriteError: No permission, or no space left.
    """
    for builder in find_builders():
        if builder.annotations is not None and builder.write_annotations is not None:
            builder.write_annotations(folder / builder.annotations, seed)
