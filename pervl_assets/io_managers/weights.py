"""Weights: a trained set encoder as safetensors, one file per repetition, with passport and curves in its header."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import describe_size, preview_table
from pervl_assets.training.set_encoder import TrainedSetEncoder, read_set_encoder, write_set_encoder


class WeightsIOManager(PervlIOManager):
    """Keeps a `TrainedSetEncoder`."""

    key = "weights"
    kind = "weights"
    extension = ".safetensors"

    def write(self, context: dg.OutputContext, value: TrainedSetEncoder, path: Path) -> None:
        """Write the weights whole or not at all."""
        write_set_encoder(value, path)

    def load(self, path: Path) -> TrainedSetEncoder:
        """Read the weights. Raises as `read_set_encoder` does."""
        return read_set_encoder(path)

    @staticmethod
    def describe(
        trained: TrainedSetEncoder, *, checks: Sequence[dg.AssetCheckResult] = (), **more: Any
    ) -> dg.MaterializeResult[TrainedSetEncoder]:
        """Materialize weights: their number, last losses and passport as metadata, their hash as data version."""
        last = trained.curves.filter(pl.col("epoch") == pl.col("epoch").max())
        return dg.MaterializeResult(
            value=trained,
            data_version=dg.DataVersion(trained.hash()[:16]),
            metadata={
                "parameters": f"{sum(array.size for array in trained.weights.values()):,}",
                **describe_size(sum(array.nbytes for array in trained.weights.values()), 1),
                "last_epoch": preview_table(last),
                "passport": dg.MetadataValue.json(json.loads(trained.passport.to_json())),
                **more,
            },
            check_results=checks,
        )
