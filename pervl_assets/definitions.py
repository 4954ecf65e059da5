"""The code location: assets, resources, IO managers and executor, assembled from the environment.

Belongs here: assembly only. Loading it imports no torch: the Dagster UI and daemon load it often.
"""

import dagster as dg

from pervl_assets.core.settings import Settings
from pervl_assets.defs.archive_checks import build_archive_checks
from pervl_assets.defs.benchmarks import build_benchmark_assets, build_benchmark_checks
from pervl_assets.defs.inversion import build_inversion_assets
from pervl_assets.defs.palavra import PALAVRA_ASSETS
from pervl_assets.defs.raw import pervl_annotations
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.io_managers import (
    FeaturesIOManager,
    RawArchiveIOManager,
    TableIOManager,
    TrainingFileIOManager,
    TreeIOManager,
)

EXECUTORS = {"in_process": dg.in_process_executor, "multiprocess": dg.multiprocess_executor}


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return everything Dagster needs to know, for these settings."""
    data = str(settings.data)
    return dg.Definitions(
        assets=[
            pervl_annotations,
            *build_benchmark_assets(),
            *build_inversion_assets(settings.feature_shards),
            *PALAVRA_ASSETS,
        ],
        asset_checks=[*build_archive_checks(), *build_benchmark_checks()],
        resources={
            "workspace": Workspace.from_settings(settings),
            "clip": Clip.from_settings(settings),
            # Dagster 1.13 knows a graph asset's output by the default key only, whatever its op declares.
            "io_manager": FeaturesIOManager(data=data),
            "raw_archives": RawArchiveIOManager(data=data),
            "tables": TableIOManager(data=data),
            "features": FeaturesIOManager(data=data),
            "trees": TreeIOManager(data=data),
            "training_files": TrainingFileIOManager(data=data),
        },
        executor=EXECUTORS[settings.executor],
    )


defs = build_definitions(Settings.from_env())
