"""Features: ids, vectors and passport in one Parquet file per partition."""

from pathlib import Path

import dagster as dg

from pervl_assets.clip.encode_images import clear_chunks
from pervl_assets.clip.features import Features, read_features, write_features
from pervl_assets.core.files import PARTIAL
from pervl_assets.io_managers.base import PervlIOManager


def locate_chunks(target: Path) -> Path:
    """Return the folder of the chunks of a features file that is being encoded, beside it."""
    return target.with_suffix(PARTIAL)


class FeaturesIOManager(PervlIOManager):
    """Reads and writes `Features`."""

    extension = ".parquet"

    def write(self, context: dg.OutputContext, value: Features, path: Path) -> None:
        """Write features whole or not at all, then remove the chunks they were encoded in."""
        write_features(value, path)
        clear_chunks(locate_chunks(path))

    def read(self, context: dg.InputContext, path: Path) -> Features:
        """Read features with their passport."""
        return read_features(path)
