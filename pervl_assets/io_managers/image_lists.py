"""The table of sentences as an input that is never in memory whole: it has several rows for every image.

Named by an input's `input_manager_key`. The table itself is stored by `TableIOManager`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from pervl_assets.core.tables import read_in_parts
from pervl_assets.inversion.image_lists import ImageLists
from pervl_assets.io_managers.tables import TableIOManager


class ImageListsIOManager(TableIOManager):
    """Reads the images of a table by shard, or the table in parts."""

    key = "image_lists"

    def load(self, path: Path) -> Any:
        """Return the table in parts. Raises as `read_in_parts` does."""
        return read_in_parts(path)

    def read_input(self, context: dg.InputContext) -> ImageLists | None:
        """Return the images of a table by shard, or None of a tree, which names its images itself."""
        if context.has_asset_partitions:
            return None
        key, store = context.asset_key, self.store
        folder = self.locate(key).with_suffix(".images")
        return ImageLists(folder, self.stamp(key) or "", partial(self.read, key), store.pull_file, store.push_folder)
