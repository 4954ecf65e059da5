"""The miniature world as fixtures, and a way to materialize parts of the graph with the real IO managers."""

import dataclasses
import functools
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest

from pervl_assets.core.settings import Settings
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.raw import list_specs
from pervl_assets.demo import RAW_NAMES, draw_raw
from pervl_assets.headless.runs import plan_waves, select_assets

# Pytest's processes share the cores; torch's threads, one set a process, would mostly wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


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
    env = {"PERVL_DATA": data, "PERVL_EXECUTOR": "in_process", "PERVL_DEVICE": "cpu", "PERVL_FETCH": "off"}
    return dataclasses.replace(Settings.from_env({name: str(value) for name, value in env.items()}), **changes)


def run_assets(
    data: Path,
    selection: dg.AssetSelection,
    instance: dg.DagsterInstance | None = None,
    partition: str | None = None,
    tags: Mapping[str, str] | None = None,
    **changes,
) -> dg.ExecuteInProcessResult:
    """Materialize a selection of the real graph in this process, in one run; failures are returned, not raised."""
    defs = build_definitions(make_settings(data, **changes))
    return dg.materialize(
        list(defs.assets or []),
        selection=selection,
        resources=dict(defs.resources or {}),
        partition_key=partition,
        instance=instance,
        tags=dict(tags or {}),
        raise_on_error=False,
    )


def run_waves(
    data: Path, selection: str, instance: dg.DagsterInstance | None = None, **changes
) -> list[dg.ExecuteInProcessResult]:
    """Materialize every partition of a selection, in the runs of `pervl materialize`, up to one that fails."""
    defs = build_definitions(make_settings(data, **changes))
    results = []
    for wave in plan_waves(defs, select_assets(defs, selection)):
        results.append(run_assets(data, dg.AssetSelection.assets(*wave.keys), instance, tags=wave.tags, **changes))
        if not results[-1].success:
            break
    return results


Materialize = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def materialize(data) -> Materialize:
    """Materialize a selection of the real graph in this process; failures are returned, not raised."""

    def run(selection: str, partition: str | None = None, instance: dg.DagsterInstance | None = None, **changes):
        chosen = dg.AssetSelection.from_string(selection).required_multi_asset_neighbors()
        return run_assets(changes.pop("data", data), chosen, instance, partition, **changes)

    return run


class Mirror(SimpleHTTPRequestHandler):
    """Serves a folder; while its server is `down`, it answers 503."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.server.down:
            self.send_error(503)
        else:
            super().do_GET()


@pytest.fixture
def mirror(drawn_raw, tmp_path):
    """A server on 127.0.0.1 with the public inputs of the miniature world, laid out like a data folder."""
    folder = tmp_path / "mirror"
    for file in (spec.file for spec in list_specs() if spec.url):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn_raw / file, folder / file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Mirror, directory=folder))
    server.folder, server.url, server.down = folder, f"http://127.0.0.1:{server.server_port}/", False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@dataclasses.dataclass(frozen=True)
class World:
    """A data folder in which assets were materialized, and the runs that did it."""

    data: Path
    results: list[dg.ExecuteInProcessResult]

    def copy_to(self, folder: Path) -> Path:
        """Copy the data folder; identity cards say where a raw input is, so they are moved along."""
        shutil.copytree(self.data, folder)
        for card in (folder / "assets/raw").glob("*.json"):
            card.write_text(card.read_text().replace(str(self.data), str(folder)))
        return folder


@pytest.fixture(scope="session")
def made_world(drawn_raw, tmp_path_factory) -> World:
    """A world with every kind of value: DeepFashion2, the inversion side and its training files. Read-only.

    It takes a while to make, and each of pytest's processes that needs it makes its own: few modules should use it.
    """
    data = Path(shutil.copytree(drawn_raw, tmp_path_factory.mktemp("made") / "data"))
    results = run_waves(data, "+group:palavra or group:deep_fashion or group:raw")
    assert all(result.success for result in results), [explain(result) for result in results]
    return World(data, results)


def list_checks(*results: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return the asset checks that runs evaluated, by `asset:check`."""
    evaluations = [evaluation for result in results for evaluation in result.get_asset_check_evaluations()]
    return {f"{e.asset_key.to_user_string()}:{e.check_name}": e for e in evaluations}


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
