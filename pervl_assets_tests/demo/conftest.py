from pathlib import Path

import pytest

from pervl_assets.demo import RAW_NAMES, draw_raw, write_annotations


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Every raw input of the miniature world, and its annotations below `annotations`."""
    root = tmp_path_factory.mktemp("drawn")
    for name in RAW_NAMES:
        draw_raw(name, root)
    write_annotations(root / "annotations")
    return root
