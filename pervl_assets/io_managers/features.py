"""Features: ids, vectors and passport in one Parquet file, one for each partition.

Belongs here: writing and reading the value `Features`, also several partitions of one run. Does not belong here:
encoding.
"""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from pervl_assets.core.files import PARTIAL
from pervl_assets.inversion.clip_features import Features, read_features, write_features
from pervl_assets.inversion.encode_shard import clear_chunks
from pervl_assets.io_managers.base import PervlIOManager


def locate_chunks(goal: Path) -> Path:
    """Return the folder beside a features file in which its chunks are kept while it is being encoded."""
    return goal.with_suffix(PARTIAL)


class FeaturesIOManager(PervlIOManager):
    """Reads and writes `Features`; a run over several partitions gives a mapping from partition to `Features`."""

    extension = ".parquet"

    def handle_output(self, context: dg.OutputContext, obj: Features | Mapping[str, Features]) -> None:
        """Write each partition's features to its own file; unchanged ones rewrite nothing."""
        if isinstance(obj, Features):
            super().handle_output(context, obj)
            return
        paths = self._get_paths_for_partitions(context)
        for partition, features in obj.items():
            self.write(context, features, Path(str(paths[partition])))
        context.add_output_metadata({"path": dg.MetadataValue.path(str(next(iter(paths.values())).parent))})

    def write(self, context: dg.OutputContext, value: Features, path: Path) -> None:
        """Write features whole or not at all; the chunks they were encoded in are no longer needed then."""
        write_features(value, path)
        clear_chunks(locate_chunks(path))

    def read(self, context: dg.InputContext, path: Path) -> Features:
        """Read features with their passport."""
        return read_features(path)
