"""The code location: assets, resources, IO managers and executor, assembled from the environment.

Loading it imports no torch: the Dagster UI and daemon load it often.
"""

from typing import Any

import dagster as dg

from pervl_assets.clip.checkpoints import parse_encoders, takes_tokens
from pervl_assets.defs.alerts import build_failure_sensor
from pervl_assets.defs.archive_checks import build_archive_checks
from pervl_assets.defs.automation import add_refreshes, build_refreshes
from pervl_assets.defs.benchmarks import build_benchmark_assets
from pervl_assets.defs.checks import SUMS_HOLD, build_sums_check
from pervl_assets.defs.concepts import build_concept_assets
from pervl_assets.defs.downloads import Downloads
from pervl_assets.defs.evaluation import RESULTS_NAME, build_evaluation_assets
from pervl_assets.defs.evaluation_results import build_results
from pervl_assets.defs.evaluation_tables import EVALUATION, build_evaluation_tables
from pervl_assets.defs.executors import build_executor
from pervl_assets.defs.feature_checks import IDS_AND_VECTORS, build_feature_checks
from pervl_assets.defs.features import name_key
from pervl_assets.defs.inversion import build_inversion_assets
from pervl_assets.defs.jobs import build_jobs
from pervl_assets.defs.pages import complete_pages
from pervl_assets.defs.placement import place_assets
from pervl_assets.defs.raw import list_specs, pervl_annotations
from pervl_assets.defs.release import RELEASE_KEYS, build_release_assets, valid_croissant
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.set_encoder import build_set_encoder
from pervl_assets.defs.training_files import PALAVRA_ASSETS
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.metadata import show_errors_first
from pervl_assets.settings import Settings


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return all assets but those of the release, each as it is by itself: `complete_pages` adds to it."""
    encoders = parse_encoders(settings.encoders)
    every = (None, *encoders)
    learners = [encoder for encoder in every if takes_tokens(encoders[encoder][0] if encoder else settings.clip_model)]
    return [
        pervl_annotations,
        *build_benchmark_assets(),
        *build_inversion_assets(settings.feature_shards, encoders),
        *PALAVRA_ASSETS,
        *build_evaluation_tables(),
        *(asset for encoder in every for asset in build_evaluation_assets(encoder, learns=encoder in learners)),
        *(build_set_encoder(settings.repetitions, encoder) for encoder in learners),
        *(asset for encoder in learners for asset in build_concept_assets(settings.repetitions, encoder)),
        *(build_results(encoder, learns=encoder in learners) for encoder in every),
    ]


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return everything Dagster needs to know, for these settings."""
    every = (None, *parse_encoders(settings.encoders))
    assets = build_assets(settings)
    assets += build_release_assets(assets)
    checks = [
        *build_archive_checks(),
        *(check for encoder in every for check in build_feature_checks(settings.feature_shards, encoder)),
        valid_croissant,
        build_sums_check(assets),
    ]
    partial = [*RELEASE_KEYS, *(name_key(RESULTS_NAME, encoder, EVALUATION) for encoder in every)]
    placed = place_assets(complete_pages(assets), settings)
    graph = add_refreshes(placed, list_specs(), settings, partial)
    resources = build_resources(settings)
    definitions = dg.Definitions(
        assets=graph,
        asset_checks=place_assets(checks, settings),
        jobs=build_jobs(resources, settings),
        resources=resources,
        executor=build_executor(settings),
    )
    verified = [key for check in checks for key in check.check_keys if key.name in (SUMS_HOLD, IDS_AND_VECTORS)]
    alerts = dg.Definitions(sensors=[build_failure_sensor(settings)])
    return dg.Definitions.merge(definitions, build_refreshes(settings, list_specs(), verified), alerts)


def build_resources(settings: Settings) -> dict[str, Any]:
    """Return the resources and IO managers, which know the data folder; the assets do not."""
    return {
        "workspace": Workspace.from_settings(settings),
        "clip": Clip.from_settings(settings),
        "downloads": Downloads.from_settings(settings),
        **{key: manager(data=str(settings.data)) for key, manager in find_io_managers().items()},
    }


with show_errors_first():
    defs = build_definitions(Settings.from_env())
