"""What may be removed from a bucket: objects that no manifest names, and unfinished work that dead runs left."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import compress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from pervl_assets.core.errors import MissingInputError, PervlError, SchemaError
from pervl_assets.core.files import PARTIAL
from pervl_assets.storage.bucket_client import OBJECTS, SHA256, VALUES, BucketClient, map_requests
from pervl_assets.storage.store import ManifestKind, Pruned

if TYPE_CHECKING:
    from obstore import ObjectMeta

SAFE: Final = timedelta(hours=12)
"""An object that is younger may be named by a manifest soon. Only objects of twice this age may be pruned."""
_END: Final = 1 << 20
"""Bytes at the end of a large file that show whether it is a manifest."""


def find_left(values: "Iterable[tuple[str, ObjectMeta]]", oldest: datetime) -> dict[str, datetime]:
    """Return the values whose unfinished work has no part that is younger, with the time of its last part."""
    last = dict[str, datetime]()
    for name, meta in values:
        value = name.partition(PARTIAL)[0]
        if value != name:
            last[value] = max(meta["last_modified"], last.get(value, meta["last_modified"]))
    return {value: when for value, when in last.items() if when < oldest}


def prune_bucket(
    client: BucketClient,
    kinds: Mapping[str, ManifestKind],
    age: timedelta,
    make_file: Callable[[], AbstractContextManager[Path]],
    *,
    dry_run: bool,
) -> Pruned:
    """Delete old objects that no manifest names, and unfinished work that is old.

    Objects are listed before manifests are read: what a commit names meanwhile is young, or is uploaded again.

    Args:
        client: The data root.
        kinds: Manifests by extension.
        age: At least twice `SAFE`.
        make_file: Yields the path of a file to download to, which is removed at the end.
        dry_run: Whether nothing is deleted.

    Raises:
        PervlError: `age` is too short.
        SchemaError: A manifest cannot be read. Nothing was removed.
    """
    if age < 2 * SAFE:
        raise PervlError(f"Objects younger than {2 * SAFE} may be named by a manifest soon.", advice="Wait longer.")
    oldest = (datetime.now(UTC) if dry_run else client.read_clock(f"{OBJECTS}/clock")) - age
    objects = {
        name: meta["size"]
        for name, meta in client.list(OBJECTS)
        if SHA256.fullmatch(name[-64:]) and meta["last_modified"] < oldest
    }
    values = [*client.list(VALUES)]
    named = {sha for part in map_requests(partial(_list_named, client, kinds, make_file), values) for sha in part}
    found = {name: size for name, size in objects.items() if name[-64:] not in named}
    left = find_left(values, oldest)
    found |= {name: meta["size"] for name, meta in values if name.partition(PARTIAL)[0] in left and PARTIAL in name}
    removed = [*found]
    if not dry_run:
        removed = [*compress(removed, map_requests(partial(_remove_old, client, oldest), removed))]
    work = {f"{name.partition(PARTIAL)[0]}{PARTIAL}" for name in removed if PARTIAL in name}
    return Pruned(sum(PARTIAL not in name for name in removed), sum(found[name] for name in removed), sorted(work))


def _list_named(
    client: BucketClient,
    kinds: Mapping[str, ManifestKind],
    make_file: Callable[[], AbstractContextManager[Path]],
    value: "tuple[str, ObjectMeta]",
) -> list[str]:
    """Return the sha256s of the objects that a value names.

    Raises:
        SchemaError: It is damaged.
    """
    name, meta = value
    kind = kinds.get(PurePosixPath(name).suffix)
    if kind is None or PARTIAL in name:
        return []
    with make_file() as copy, suppress(FileNotFoundError, MissingInputError):
        if meta["size"] > _END and kind.is_other(client.read_end(name, _END)):
            return []
        client.get(name, copy)
        try:
            return [*kind.read(copy)]
        except Exception as error:
            raise SchemaError(
                f"{client.show(name)} cannot be read, so nothing was removed: it may name any object.",
                advice="Materialize its asset again, or delete it.",
            ) from error
    return []


def _remove_old(client: BucketClient, oldest: datetime, name: str) -> bool:
    """Delete an object, unless it was uploaded again meanwhile; return whether it is gone."""
    meta = client.look_up(name)
    if meta is None or meta["last_modified"] >= oldest:
        return False
    client.delete([name])
    return True
