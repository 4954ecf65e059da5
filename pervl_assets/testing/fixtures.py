"""Pytest's fixtures of the miniature world: `pytest_plugins = ["pervl_assets.testing.fixtures"]` in a conftest.

Belongs here: fixtures, each a line or two around the other modules. It is named in a conftest and is no entry point of
pytest's, so that only who asks for it pays for importing Dagster, and gets fixtures of these names.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pervl_assets.demo import RAW_NAMES
from pervl_assets.testing.fake_clip import FakeClip
from pervl_assets.testing.mirror import Mirror, serve_mirror
from pervl_assets.testing.runs import Materialize, explain, run_assets, run_selection
from pervl_assets.testing.worlds import World, copy_raw, draw_world


@pytest.fixture(scope="session")
def shared_folder(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], AbstractContextManager[Path]]:
    """A folder by its name that all processes of pytest-xdist share, given to one of them at a time."""
    base = tmp_path_factory.getbasetemp()
    if hasattr(pytestconfig, "workerinput"):  # one of pytest-xdist's processes
        base = base.parent

    @contextmanager
    def share(name: str) -> Iterator[Path]:
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield base / name

    return share


@pytest.fixture(scope="session")
def draw_once(shared_folder: Callable[[str], AbstractContextManager[Path]]) -> Callable[..., Path]:
    """Draw raw inputs, by name, where no test of this session needed them before; returns their data folder."""

    def draw(*names: str) -> Path:
        with shared_folder("drawn_world") as folder:
            return draw_world(folder, names)

    return draw


@pytest.fixture(scope="session")
def drawn_raw(draw_once: Callable[..., Path]) -> Path:
    """A data folder with every raw input of the miniature world. Read-only: take `data` to change anything."""
    return draw_once(*RAW_NAMES)


@pytest.fixture
def data(drawn_raw: Path, tmp_path: Path) -> Path:
    """A data folder of the test's own, with every raw input of the miniature world."""
    return Path(shutil.copytree(drawn_raw, tmp_path / "data"))


@pytest.fixture
def one_archive(draw_once: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """A raw input of the test's own, by the name of its asset: `one_archive("coco_train2014")`; no other is drawn."""

    def copy(name: str) -> Path:
        return copy_raw(name, draw_once(name), tmp_path / "one_archive")

    return copy


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory, for tests of several runs."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def fake_clip() -> FakeClip:
    """A CLIP without a model: `materialize(…, resources={"clip": fake_clip})`."""
    return FakeClip()


@pytest.fixture
def materialize(request: pytest.FixtureRequest) -> Materialize:
    """Materialize a selection of the real graph, and assets of your own, in one run on `data`; see `run_assets`.

    Failures are returned, not raised. Another data folder is passed as `data=`.
    """

    def run(
        selection: str,
        partition: str | None = None,
        instance: dg.DagsterInstance | None = None,
        *,
        data: Path | None = None,
        **rest: Any,
    ) -> dg.ExecuteInProcessResult:
        chosen = dg.AssetSelection.from_string(selection).required_multi_asset_neighbors()
        return run_assets(data or request.getfixturevalue("data"), chosen, instance, partition, **rest)

    return run


@pytest.fixture(scope="session")
def made_world(drawn_raw: Path, shared_folder: Callable[[str], AbstractContextManager[Path]]) -> World:
    """A world with every kind of value: DeepFashion2, the inversion side and its training files. Read-only.

    What is made of them is made in no time on a copy: `made_world.copy_to(tmp_path / "data")`.
    """
    with shared_folder("made_world") as folder:
        data, finished = folder / "data", folder / "finished"
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(drawn_raw, data)
            results = run_selection(data, "+group:palavra or group:deep_fashion or group:raw")
            assert all(result.success for result in results), explain(*results)  # noqa: S101
            finished.touch()
    return World(data)


@pytest.fixture
def mirror(drawn_raw: Path, tmp_path: Path) -> Iterator[Mirror]:
    """A server on 127.0.0.1 with the public inputs of the miniature world."""
    with serve_mirror(drawn_raw, tmp_path / "mirror") as server:
        yield server
