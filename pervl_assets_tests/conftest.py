"""Fixtures of this project's own tests, in addition to those of `pervl_assets.testing`."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pervl_assets.demo import write_annotations
from pervl_assets_tests.goldens import save_shallow_clip

pytest_plugins = ["pervl_assets.testing.fixtures"]

# The processes of pytest share the cores, so more than one thread per process would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A search of all objects for garbage takes 0.3 s beside those of Dagster and torch. It is rare here; young objects are
# searched as often as ever.
gc.set_threshold(*gc.get_threshold()[:2], 100)


SLOW = (
    "e2e/test_command_line.py",
    "e2e/test_browser.py",  # after it: it damages a file of the demo
    "defs/test_automation.py",
    "test_faults.py",  # needs no raw inputs, which another process draws meanwhile
    "defs/test_release.py",
    "defs/test_feature_checks.py",
    "defs/test_write_failures.py",
    "test_docs.py",
    "defs/test_secrets.py",
    "testing/test_page.py",
    "clip/test_real_models.py",
    "defs/test_inversion.py",
    "io_managers/test_io_managers.py",
    "training/test_train.py",
    "perf/test_inversion.py",
    "tools/test_train_tiny_clip.py",
    "perf/test_trees.py",
    "cli/test_verification.py",
    "defs/test_evaluation.py",
    "trees/test_kill.py",
    "cli/test_status.py",
    "defs/test_benchmarks.py",
    "defs/test_jobs.py",
    "cli/test_new.py",
    "clip/test_encode_images.py",
    "defs/test_run_workers.py",
    "cli/test_runs.py",
    "core/test_addresses.py",
)
"""The slowest modules, slowest first. They start first, so that none of them runs alone at the end."""


MEMORY = Path("/dev/shm")  # noqa: S108
"""Temporary folders are here if there is room: Dagster waits for the disk several times per event."""

ROOM = 8 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Choose the temporary folder; keep the order below in pytest-xdist, which would sort modules by their size."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slow modules."""

    def rank(item: pytest.Item) -> int:
        module = item.nodeid.partition("::")[0].removeprefix("pervl_assets_tests/")
        return SLOW.index(module) if module in SLOW else len(SLOW)

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run the tests below `e2e`, which share a demo; every other module stays whole, too."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "e2e" if "/e2e/" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def unstamped_databases() -> Iterator[None]:
    """Dagster's databases in memory get no revision: Alembic's scripts would be run for each of them."""
    with pytest.MonkeyPatch.context() as patch:
        for storage in ("runs", "event_log"):
            patch.setattr(f"dagster._core.storage.{storage}.in_memory.stamp_alembic_rev", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def drawn(synthetic_raw, tmp_path_factory) -> Path:
    """Every raw input of the demo data, and its annotations below `annotations`. Read-only."""
    root = tmp_path_factory.mktemp("drawn") / "world"
    shutil.copytree(synthetic_raw, root, copy_function=os.link)
    write_annotations(root / "annotations")
    return root


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `../shared` with the real annotations and the generator of raw archives; skips if it is missing."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "data/annotations").is_dir():
        pytest.skip(f"needs the real annotations in {folder}, which are not part of the project")
    return folder


@pytest.fixture(scope="session")
def shallow_clip(tmp_path_factory):
    """PALAVRA's random CLIP of one layer with texts that hold tokens, loaded from OpenAI's layout; skips without it."""
    from pervl_assets.clip.encoder import load_encoder
    from pervl_assets.clip.token_texts import TokenTexts

    folder = save_shallow_clip(tmp_path_factory.mktemp("shallow"))
    return TokenTexts(load_encoder(str(folder), "", "cpu", "fp32"))
