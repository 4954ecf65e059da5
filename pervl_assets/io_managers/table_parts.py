"""Tables that are read in parts, or by shard: for inputs with a row for every image of a large collection.

Both are given as an input's `input_manager_key`. The table itself is stored by `TableIOManager`.
"""

from functools import partial
from pathlib import Path

import dagster as dg

from pervl_assets.core.tables import TableParts, read_in_parts
from pervl_assets.inversion.image_lists import ImageLists
from pervl_assets.io_managers.metadata import show_errors
from pervl_assets.io_managers.tables import TableIOManager


class TablePartsIOManager(TableIOManager):
    """Reads a table in parts."""

    key = "table_parts"

    def load(self, path: Path) -> TableParts:  # type: ignore[override]  # another form of the same value
        """Return the table's parts. Raises as `read_in_parts` does."""
        return read_in_parts(path)


class ImageListsIOManager(TablePartsIOManager):
    """Reads the images of a table by shard."""

    key = "image_lists"

    @show_errors()
    def load_input(self, context: dg.InputContext) -> ImageLists | None:
        """Return the lists of the table's images, or None of a tree, which names its images itself."""
        if context.has_asset_partitions:
            return None
        return ImageLists(self.fetch(context.asset_key), partial(self.read, context.asset_key))
