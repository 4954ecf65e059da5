"""Where the values of a data root are kept: in a folder, or in a bucket. Nothing here knows what a value is."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from pervl_assets.core.addresses import is_address, parse_address
from pervl_assets.storage.folder_store import FolderStore
from pervl_assets.storage.object_store import ObjectStore
from pervl_assets.storage.store import Store


def open_store(data: str) -> Store:
    """Return the store of a data root, one for all callers of this process. Nothing is read or written yet.

    Args:
        data: A folder, or an address such as `s3://pervl/data`.
    """
    return _open_store(data, os.environ.get("PERVL_SCRATCH") or None)


@lru_cache(maxsize=64)
def _open_store(data: str, scratch: str | None) -> Store:
    # The scratch folder is this machine's own, so it comes from the environment here, and is part of no run's config.
    if not is_address(data):
        return FolderStore(Path(data))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pervl"
    name = hashlib.sha256(data.encode()).hexdigest()[:16]
    return ObjectStore(parse_address(data), (Path(scratch).expanduser().absolute() if scratch else cache) / name)
