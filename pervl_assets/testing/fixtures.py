"""Pytest fixtures of the demo data: `pytest_plugins = ["pervl_assets.testing.fixtures"]` in a conftest.

They are no pytest entry point, so that only projects that name them import Dagster.
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
    """A named folder that all processes of pytest-xdist share, locked for one of them at a time."""
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
    """Generate raw inputs by name, once per session. Returns their data folder."""

    def draw(*names: str) -> Path:
        with shared_folder("synthetic_world") as folder:
            return draw_world(folder, names)

    return draw


@pytest.fixture(scope="session")
def synthetic_raw(draw_once: Callable[..., Path]) -> Path:
    """A data folder with every raw input of the demo data. Read-only: use `data` to change anything."""
    return draw_once(*RAW_NAMES)


@pytest.fixture
def data(synthetic_raw: Path, tmp_path: Path) -> Path:
    """A copy of `synthetic_raw` for one test."""
    return Path(shutil.copytree(synthetic_raw, tmp_path / "data"))


@pytest.fixture
def one_archive(draw_once: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one raw input, by its asset's name: `one_archive("coco_train2014")`. No other is generated."""

    def copy(name: str) -> Path:
        return copy_raw(name, draw_once(name), tmp_path / "one_archive")

    return copy


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory, for tests with several runs."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def fake_clip() -> FakeClip:
    """A CLIP without a model: `materialize(…, resources={"clip": fake_clip})`."""
    return FakeClip()


@pytest.fixture
def materialize(request: pytest.FixtureRequest) -> Materialize:
    """Materialize a selection of the real graph and your own assets in one run on `data`. See `run_assets`.

    Failures are returned, not raised. Pass another data folder as `data=`.
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
def made_world(synthetic_raw: Path, shared_folder: Callable[[str], AbstractContextManager[Path]]) -> World:
    """Materialized demo data: DeepFashion2, the inversion assets and their training files. Read-only.

    A test that needs only one asset more is fast on a copy: `made_world.copy_to(tmp_path / "data")`.
    """
    with shared_folder("made_world") as folder:
        data, finished = folder / "data", folder / "finished"
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(synthetic_raw, data)
            results = run_selection(data, "+group:palavra or group:deep_fashion or group:raw")
            assert all(result.success for result in results), explain(*results)  # noqa: S101
            finished.touch()
    return World(data)


@pytest.fixture
def mirror(synthetic_raw: Path, tmp_path: Path) -> Iterator[Mirror]:
    """A server on 127.0.0.1 with the public inputs of the demo data."""
    with serve_mirror(synthetic_raw, tmp_path / "mirror") as server:
        yield server
