"""Where the values of a data root are kept: in a folder of this machine. Nothing here knows what a value is."""

from functools import lru_cache
from pathlib import Path

from pervl_assets.storage.folder_store import FolderStore
from pervl_assets.storage.store import Store


@lru_cache(maxsize=64)
def open_store(data: str) -> Store:
    """Return the store of a data root, one for all callers of this process. Nothing is read or written yet."""
    return FolderStore(Path(data))
