"""Features: ids, vectors and passport in one Parquet file per partition."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from pervl_assets.clip.features import Features, list_feature_columns, read_features, read_passport, write_features
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import MISSING, QUARANTINED, ROWS, describe_size, preview_table
from pervl_assets.io_managers.tables import declare_columns
from pervl_assets.release.images import Labeller
from pervl_assets.release.parts import FeaturesPart, Part

_REJECTED_ROWS = 50


class FeaturesIOManager(PervlIOManager):
    """Keeps `Features`."""

    key = "features"
    kind = "features"
    extension = ".parquet"

    def write(self, context: dg.OutputContext, value: Features, path: Path) -> None:
        """Write features whole or not at all."""
        write_features(value, path)

    def load(self, path: Path) -> Features:
        """Read features with their passport. Raises as `read_features` does."""
        return read_features(path)

    @staticmethod
    def describe(
        features: Features, *, checks: Sequence[dg.AssetCheckResult] = (), **more: Any
    ) -> dg.MaterializeResult[Features]:
        """Materialize features: columns, counts and passport as metadata, their hash as data version."""
        rejected = features.rejected
        return dg.MaterializeResult(
            value=features,
            data_version=dg.DataVersion(features.hash()[:16]),
            metadata={
                **declare_columns(list_feature_columns(dimension=features.passport.dimension)),
                ROWS: len(features.ids),
                **describe_size(features.vectors.nbytes),
                QUARANTINED: int((rejected["status"] == "quarantined").sum()),
                MISSING: int((rejected["status"] == "missing").sum()),
                "rejected": preview_table(rejected, rows=_REJECTED_ROWS),
                "passport": dg.MetadataValue.json(json.loads(features.passport.to_json())),
                **more,
            },
            check_results=checks,
        )

    def publish(
        self, part: Part, paths: Mapping[str | None, Path], columns: Mapping[str, str], label: Labeller
    ) -> FeaturesPart:
        """Return the features of all partitions as one part of the release, with their different passports."""
        passports = [asdict(read_passport(path)) for path in paths.values()]
        different = [passport for row, passport in enumerate(passports) if passport not in passports[:row]]
        return FeaturesPart(
            part.name, part.description, part.sources, tuple(map(self.store.name, paths.values())), tuple(different)
        )
