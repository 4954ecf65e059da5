"""Parts of the real graph, materialized in this process with the real IO managers.

No worker process is started: a test can patch what it likes, and a debugger stops at its breakpoints.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import dagster as dg

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.definitions import build_definitions, build_resources
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.runs import list_values, plan_runs
from pervl_assets.defs.selections import select_assets
from pervl_assets.settings import Settings

_QUIET: Final = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}
"""Pytest shows the log of a failed test. A run logs hundreds of lines that are not the reason."""

Materialize = Callable[..., dg.ExecuteInProcessResult]
"""Type of the fixture `materialize`: `run_assets` with a selection string and the test's data folder."""


def make_settings(data: Path, **changes: Any) -> Settings:
    """Return settings of the demo profile that depend on nothing outside of the test.

    Args:
        data: The data folder.
        changes: Fields of `Settings`, e.g. `top_objects=2`.
    """
    settings = Settings(data=data, executor="in_process", device="cpu", fetch="off")
    return Settings(**{**settings.model_dump(), **changes})


def run_assets(
    data: Path,
    selection: dg.AssetSelection,
    instance: dg.DagsterInstance | None = None,
    partition: str | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    assets: Iterable[dg.AssetsDefinition] = (),
    resources: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dg.ExecuteInProcessResult:
    """Materialize a selection of the real graph in one run. Failures are returned, not raised.

    Args:
        data: The data folder.
        selection: Assets of one partitioning, their inputs among them or materialized before.
        instance: Where Dagster records the run. By default a new instance.
        partition: The partition, for assets that have some.
        tags: Tags of the run.
        assets: Assets and asset checks beside those of the project, e.g. one that is being written.
        resources: Resources in place of the real ones or beside them, e.g. `{"clip": FakeClip()}`.
        changes: See `make_settings`.
    """
    return _run(_define(data, assets, resources, changes), selection, instance, partition, tags)


def run_selection(
    data: Path,
    selection: str,
    instance: dg.DagsterInstance | None = None,
    *,
    assets: Iterable[dg.AssetsDefinition] = (),
    resources: Mapping[str, Any] | None = None,
    **changes: Any,
) -> list[dg.ExecuteInProcessResult]:
    """Materialize every partition of a selection, in the runs of `pervl materialize`, up to one that fails.

    Args:
        data: The data folder.
        selection: Dagster's selection syntax, e.g. `+group:palavra`.
        instance: Where Dagster records the runs. By default a new instance.
        assets: See `run_assets`.
        resources: See `run_assets`.
        changes: See `make_settings`.
    """
    defs = _define(data, assets, resources, changes)
    graph = defs.resolve_asset_graph()
    results: list[dg.ExecuteInProcessResult] = []
    with nullcontext(instance) if instance else dg.DagsterInstance.ephemeral() as whole:
        for run in plan_runs(graph, {*list_values(graph, select_assets(graph, selection))}):
            results.append(_run(defs, dg.AssetSelection.assets(*run.keys), whole, None, run.tags))
            if not results[-1].success:
                break
    return results


def _define(
    data: Path,
    assets: Iterable[dg.AssetsDefinition],
    resources: Mapping[str, Any] | None,
    changes: Mapping[str, Any],
) -> dg.Definitions:
    """Return the real assets and resources with those of the test. Checks defined by `@dg.asset_check` are left out."""
    settings = make_settings(data, **changes)
    real = _build_assets(settings.model_copy(update={"data": Path()}), tuple(one.name for one in find_benchmarks()))
    known = build_resources(settings)
    workspace: Workspace = known["workspace"]
    known["workspace"] = Workspace(**{**workspace.model_dump(), "workers": 0})
    return dg.Definitions(assets=[*real, *assets], resources={**known, **(resources or {})})


@lru_cache(maxsize=16)
def _build_assets(settings: Settings, benchmarks: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the real assets, once for all data folders: building them takes longer than most steps."""
    return tuple(build_definitions(settings).assets or ())


def _run(
    defs: dg.Definitions,
    selection: dg.AssetSelection,
    instance: dg.DagsterInstance | None,
    partition: str | None,
    tags: Mapping[str, str] | None,
) -> dg.ExecuteInProcessResult:
    assets: Any = defs.assets
    return dg.materialize(
        assets,
        selection=selection,
        resources=dict(defs.resources or {}),
        partition_key=partition,
        instance=instance,
        tags=dict(tags or {}),
        run_config=_QUIET,
        raise_on_error=False,
    )


def list_checks(*results: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return the asset checks that runs evaluated, by `asset:check`."""
    evaluations = [evaluation for result in results for evaluation in result.get_asset_check_evaluations()]
    return {f"{e.asset_key.to_user_string()}:{e.check_name}": e for e in evaluations}


def explain(*results: dg.ExecuteInProcessResult) -> str:
    """Return the messages of the failed steps, for the message of an `assert result.success`."""
    failures = [event for result in results for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    return "\n".join(event.step_failure_data.error.to_string() for event in failures if event.step_failure_data.error)
