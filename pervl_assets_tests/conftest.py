"""The miniature world as fixtures, and a way to materialize parts of the graph with the real IO managers."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from pervl_assets.core.settings import Settings
from pervl_assets.definitions import build_definitions
from pervl_assets.demo import RAW_NAMES, draw_raw


@pytest.fixture(scope="session")
def drawn_raw(tmp_path_factory) -> Path:
    """A data folder with every raw input of the miniature world. Read-only: take a copy to change anything."""
    root = tmp_path_factory.mktemp("world")
    for name in RAW_NAMES:
        draw_raw(name, root)
    return root


@pytest.fixture
def data(drawn_raw, tmp_path) -> Path:
    """A data folder of the test's own, with the raw inputs of the miniature world."""
    return Path(shutil.copytree(drawn_raw, tmp_path / "data"))


def make_settings(data: Path, **changes) -> Settings:
    """Return the demo's settings for a data folder, with changes."""
    settings = Settings.from_env({"PERVL_DATA": str(data), "PERVL_EXECUTOR": "in_process", "PERVL_DEVICE": "cpu"})
    return dataclasses.replace(settings, **changes)


Materialize = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def materialize(data) -> Materialize:
    """Materialize a selection of the real graph in this process; failures are returned, not raised."""

    def run(selection: str, partition: str | None = None, instance: dg.DagsterInstance | None = None, **changes):
        defs = build_definitions(make_settings(**{"data": data, **changes}))
        return dg.materialize(
            list(defs.assets or []),
            selection=dg.AssetSelection.from_string(selection).required_multi_asset_neighbors(),
            resources=dict(defs.resources or {}),
            partition_key=partition,
            instance=instance,
            raise_on_error=False,
        )

    return run


def list_checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return the asset checks that a run evaluated, by `asset:check`."""
    return {f"{e.asset_key.to_user_string()}:{e.check_name}": e for e in result.get_asset_check_evaluations()}


def explain(result: dg.ExecuteInProcessResult) -> str:
    """Return the messages of a run's failed steps."""
    failures = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    return "\n".join(event.step_failure_data.error.to_string() for event in failures)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real annotations and the generator of raw archives, where this checkout has it beside it."""
    folder = Path(__file__).parents[2] / "shared"
    if not (folder / "data/annotations").is_dir():
        pytest.skip(f"needs the real annotations at {folder}, which are not part of the project")
    return folder
