"""Unfinished work in a folder: what killed runs left beside the values, under names with `.partial` in them."""

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from stat import S_ISREG
from typing import Final

from pervl_assets.core.errors import WriteError
from pervl_assets.core.files import PARTIAL, Lock, is_being_written, is_locked
from pervl_assets.storage.store import Pruned

_LOCKS: Final = (f"{PARTIAL}.jsonl", f"{PARTIAL}.lock")
"""Names of the locks under which unfinished work is changed, behind the name of the value."""
_RETIRED: Final = f"{PARTIAL}-old"
_OURS: Final = re.compile(rf"{re.escape(PARTIAL)}(\.jsonl?|\.lock|\.lock-request|-old|-[^/]+-[0-9]+)?")
"""Ends of names that runs give: a raw input of a user may have `.partial` in its name, too."""


def find_work(folder: Path) -> Iterator[str]:
    """Yield the partial files and folders below a folder, by their names in it, but those of a run that is at work."""
    for parent, folders, files in os.walk(folder):  # unlike rglob, it tolerates folders that vanish meanwhile
        partial = [name for name in (*folders, *files) if PARTIAL in name]
        folders[:] = [name for name in folders if PARTIAL not in name]
        at_work = {_get_value(name) for name in partial if is_locked(Path(parent, name))}
        for name in partial:
            if _get_value(name) not in at_work and not is_being_written(name):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def remove_work(folder: Path, age: timedelta, *, dry_run: bool) -> Pruned:
    """Remove unfinished work below a folder in which nothing was written for a time."""
    removed, total, oldest = list[str](), 0, time.time() - age.total_seconds()
    found = (name for name in find_work(folder) if _OURS.fullmatch(name.removeprefix(_get_value(name))))
    for value, group in groupby(sorted(found, key=_get_value), key=_get_value):
        names = [*group]
        paths = [folder / name for name in names]
        # A killed exchange of two folders may have left the only copy of a tree; the next run puts it back.
        if f"{value}{_RETIRED}" in names and not (folder / value).exists():
            continue
        size, last = _measure(paths)
        if last > oldest or not (dry_run or _remove(folder, value, paths)):
            continue
        removed += names
        total += size
    return Pruned(0, total, sorted(removed))


def _get_value(name: str) -> str:
    """Return the name of the value whose unfinished work this is."""
    return name.partition(PARTIAL)[0]


def _measure(paths: Iterable[Path]) -> tuple[int, float]:
    """Return the bytes of files and folders, and when one of them was last changed, in seconds since the epoch."""
    size, last = 0, 0.0
    for path in (one for root in paths for one in (root, *root.rglob("*"))):
        with suppress(FileNotFoundError):
            status = path.lstat()
            size += status.st_size if S_ISREG(status.st_mode) else 0
            last = max(last, status.st_mtime)
    return size, last


def _remove(folder: Path, value: str, paths: Iterable[Path]) -> bool:
    """Remove the unfinished work of a value, under its locks; return whether no run has begun to use it meanwhile."""
    locks = [folder / f"{value}{name}" for name in _LOCKS]
    try:
        with Lock(locks[0], f"working on {value}"), Lock(locks[1], f"working on {value}"):
            for path in paths:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path not in locks:  # these are removed as the last ones
                    path.unlink(missing_ok=True)
    except WriteError:
        return False
    return True
