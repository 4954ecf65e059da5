"""One typed IO manager per kind of value: tables, features, folder trees, raw archives, training files.

Belongs here: how a value is checked, written whole, and read back. Does not belong here: computing it.
"""

from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.raw_archives import RawArchiveIOManager
from pervl_assets.io_managers.tables import TableIOManager
from pervl_assets.io_managers.training_files import TrainingFileIOManager
from pervl_assets.io_managers.trees import TreeIOManager

__all__ = [
    "FeaturesIOManager",
    "RawArchiveIOManager",
    "TableIOManager",
    "TrainingFileIOManager",
    "TreeIOManager",
]
