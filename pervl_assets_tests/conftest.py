"""What only this project's own tests need beside `pervl_assets.testing`."""

import os
import shutil
from pathlib import Path

import pytest

from pervl_assets.demo import write_annotations

pytest_plugins = ["pervl_assets.testing.fixtures"]

# Pytest's processes share the cores; torch's threads, one set a process, would mostly wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


SLOW = (
    "test_end_to_end.py",
    "perf/test_inversion.py",
    "defs/test_feature_checks.py",
    "defs/test_refreshes.py",
    "defs/test_write_failures.py",
    "perf/test_trees.py",
    "inversion/test_real_models.py",
    "defs/test_inversion.py",
    "defs/test_secrets.py",
    "core/test_kill.py",
    "tools/test_train_tiny_clip.py",
    "defs/test_release.py",
)
"""Modules that take longest, the slowest first: begun last, one would be left running alone."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the modules in the order of `pytest_collection_modifyitems`, not in that of their numbers of tests."""
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the browser, then the slow modules."""

    def rank(item: pytest.Item) -> int:
        module = item.nodeid.partition("::")[0].removeprefix("pervl_assets_tests/")
        return -1 if module.startswith("e2e/") else SLOW.index(module) if module in SLOW else len(SLOW)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def drawn(drawn_raw, tmp_path_factory) -> Path:
    """Every raw input of the miniature world, and its annotations below `annotations`. Read-only."""
    root = tmp_path_factory.mktemp("drawn") / "world"
    shutil.copytree(drawn_raw, root, copy_function=os.link)
    write_annotations(root / "annotations")
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real annotations and the generator of raw archives, where this checkout has it beside it."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "data/annotations").is_dir():
        pytest.skip(f"needs the real annotations at {folder}, which are not part of the project")
    return folder
