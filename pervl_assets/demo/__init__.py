"""The demo data: small synthetic raw inputs in the official layouts, generated from a seed, and a tiny CLIP.

No image, sentence or annotation of the real data sets is in it.
"""

from pathlib import Path
from typing import Final

from pervl_assets.core.files import hash_file, is_whole, replace_atomically, write_bytes_atomically
from pervl_assets.demo.builder import find_builders
from pervl_assets.demo.builders.deep_fashion import DEMO_PASSWORD
from pervl_assets.demo.scenes import CLASSES

__all__ = ["DEMO_PASSWORD", "OBJECT_CLASSES", "RAW_NAMES", "TINY_CLIP", "draw_raw", "is_drawn", "write_annotations"]

OBJECT_CLASSES: Final = len(CLASSES)
"""Number of object classes of the demo data (30). Sun, moon and rainbow are rarer and not among them."""

RAW_NAMES: Final = tuple(name for builder in find_builders() for name in builder.raw)
"""Names of the raw inputs that `draw_raw` can draw, by builder."""

TINY_CLIP: Final = Path(__file__).parent / "tiny_clip"
"""Folder of the tiny CLIP, in the `local-dir` layout of open_clip."""


def draw_raw(name: str, data_root: Path, seed: int = 0) -> None:
    """Draw one raw input at its official path below `data_root`, unless it exists, and mark it as synthetic.

    The same seed has the same bytes (JPEGs: with the same version of Pillow). Annotations only fit raw inputs of the
    same seed.

    Raises:
        KeyError: No builder draws an input of this name.
        WriteError: No permission, or no space left.
    """
    raw = {key: value for builder in find_builders() for key, value in builder.raw.items()}[name]
    target = data_root / raw.file
    if not target.exists():
        with replace_atomically(target) as partial:
            raw.draw(partial, seed)
            mark = f"{partial.stat().st_size} {hash_file(partial)}\n"
            write_bytes_atomically(locate_mark(name, data_root), mark.encode())  # before the input is in place


def is_drawn(name: str, file: Path, data_root: Path) -> bool:
    """Return whether a file is, byte for byte, the raw input that `draw_raw` drew below `data_root`."""
    try:
        size, sha256 = locate_mark(name, data_root).read_text().split()
        return is_whole(file, int(size), sha256)
    except (OSError, ValueError):
        return False


def locate_mark(name: str, data_root: Path) -> Path:
    """Return the file with size and sha256 of a synthetic input: the input itself must look like the official one."""
    return data_root / "assets" / "raw" / f"{name}.synthetic"


def write_annotations(folder: Path, seed: int = 0) -> None:
    """Write the annotations of the synthetic benchmarks, one folder each below `folder`, in the formats of upstream.

    Raises:
        WriteError: No permission, or no space left.
    """
    for builder in find_builders():
        if builder.annotations is not None and builder.write_annotations is not None:
            builder.write_annotations(folder / builder.annotations, seed)
