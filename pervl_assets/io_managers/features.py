"""Features: ids, vectors and passport in one Parquet file, one for each partition.

Belongs here: writing and reading the value `Features`, and taking over what an op has stored shard by shard. Does not
belong here: encoding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from pervl_assets.clip.encode_images import clear_chunks
from pervl_assets.clip.features import Features, read_features, write_features
from pervl_assets.core.files import PARTIAL
from pervl_assets.io_managers.base import PervlIOManager


@dataclass(frozen=True)
class StoredFeatures:
    """Features that stand in their file already.

    What an op gives that stores one shard after the other: holding all of them until its end would take as much memory
    as there are images.

    Attributes:
        path: Their file.
        sha256: `Features.hash` of what was written.
    """

    path: Path
    sha256: str


def locate_chunks(target: Path) -> Path:
    """Return the folder beside a features file in which its chunks are kept while it is being encoded."""
    return target.with_suffix(PARTIAL)


def store_features(features: Features, path: Path) -> StoredFeatures:
    """Write features whole or not at all; the chunks they were encoded in are no longer needed then.

    Raises:
        WriteError: No permission, or no space left.
    """
    write_features(features, path)
    clear_chunks(locate_chunks(path))
    return StoredFeatures(path, features.hash())


class FeaturesIOManager(PervlIOManager):
    """Reads and writes `Features`; a run over several partitions gives a mapping from partition to `StoredFeatures`."""

    extension = ".parquet"

    def handle_output(self, context: dg.OutputContext, obj: Features | Mapping[str, StoredFeatures]) -> None:
        """Write features to their file; what was stored before is only told of."""
        if isinstance(obj, Features):
            super().handle_output(context, obj)
            return
        places = {stored.path.parent for stored in obj.values()}
        context.add_output_metadata({"path": dg.MetadataValue.path(str(*places))})

    def write(self, context: dg.OutputContext, value: Features, path: Path) -> None:
        """Write features whole or not at all."""
        store_features(value, path)

    def read(self, context: dg.InputContext, path: Path) -> Features:
        """Read features with their passport."""
        return read_features(path)
