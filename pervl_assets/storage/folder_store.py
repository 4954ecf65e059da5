"""The store of a data root that is a folder: values are where they are written, and nothing is moved.

A step writes under the lock of its value, and only over the value that was there when it began. So a step that was
given up, and was paused on its way to the lock, writes nothing over what its successor wrote meanwhile.
"""

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path, PurePath

from pervl_assets.archives.inputs import list_folder
from pervl_assets.core.addresses import Address, Place
from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import (
    PARTIAL,
    Lock,
    VerifyResult,
    explain_write_errors,
    hash_bytes,
    is_whole,
    make_folder,
)
from pervl_assets.core.workers import map_in_threads
from pervl_assets.storage.store import Listing, ManifestKind, Pruned, Store, StoredFile, make_conflict
from pervl_assets.storage.unfinished import remove_work

_State = tuple[int, int, int] | None
"""Inode, size and modification time of a file, which is replaced by another file whenever it changes; or none."""


class FolderStore(Store):
    """Keeps values in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "assets")
        self._seen: dict[Path, _State] = {}

    def locate_input(self, place: Place, others: Iterable[PurePath]) -> Place:
        """Return the place: a path below the data root, or wherever its raw asset found it."""
        return place if isinstance(place, Address) else self.folder / place

    def check_sharing(self) -> None:
        """Check that the file system has locks."""
        lock = Lock(self.folder / f"{PARTIAL}-locks-{platform.node()}-{os.getpid()}", "looking for locks")
        with lock:
            if not lock.is_held:
                raise PervlError(
                    f"The file system of {self.folder} has no locks, so machines that share it cannot be kept apart.",
                    advice="Mount it with locks (NFS 4 has them), or set PERVL_DATA to a bucket.",
                )

    def show(self, path: Path) -> str:
        """Return the path."""
        return str(path)

    def list_values(self) -> None:
        """List nothing: a look at one file costs no more."""

    def exists(self, path: Path, parts: Callable[[], Iterable[Path]], listing: Listing | None = None) -> bool:
        """Return whether the file or manifest and all parts exist."""
        return path.is_file() and all(part.exists() for part in parts())

    def stamp(self, path: Path, parts: Callable[[], Iterable[Path]], listing: Listing | None = None) -> str:
        """Return a sha256 of sizes and modification times, and of the inode of a part that is a file."""
        stats = [_show_stat("", path.stat())]
        for part in parts():
            if part.is_dir():
                stats += sorted(_show_stat(name, stat) for name, stat in list_folder(part).items())
            else:
                stat = part.stat()
                stats.append(_show_stat(str(stat.st_ino), stat))
        return hash_bytes("\n".join(stats).encode(errors="surrogateescape"))

    def begin(self, path: Path) -> None:
        """Remember which file it is: `stage` lets no other be replaced."""
        self._seen[path] = _look_at(path)

    def mark_changed(self, path: Path) -> None:
        """Change its modification time, which is still the file that `begin` saw."""
        before = _look_at(path)
        super().mark_changed(path)
        if before and self._seen.get(path) == before and (now := _look_at(path)):
            self._seen[path] = *before[:2], now[2]

    def pull(self, path: Path, *, again: bool = False) -> None:
        """Move nothing."""

    def pull_files(self, files: Iterable[StoredFile]) -> None:
        """Move nothing; who reads the files compares them."""

    @contextmanager
    def stage(self, path: Path) -> Iterator[Path]:
        """Yield the path itself, if it is the value that `begin` saw.

        Raises:
            BusyError: It is another one now.
        """
        if path in self._seen and self._seen[path] != _look_at(path):
            raise make_conflict(str(path))
        yield path
        self._seen[path] = _look_at(path)

    def push_files(self, files: Iterable[StoredFile]) -> None:
        """Move nothing."""

    def push(self, path: Path, staged: Path, list_files: Callable[[Path], Iterable[StoredFile]]) -> Listing | None:
        """Move nothing."""

    def compare(self, files: Iterable[StoredFile], look: Callable[[], VerifyResult]) -> VerifyResult:
        """Look at the files where they are."""
        return look()

    def pull_work(self, folder: Path) -> None:
        """Move nothing."""

    def push_file(self, path: Path) -> None:
        """Move nothing."""

    def pull_folder(self, folder: Path) -> None:
        """Move nothing."""

    def push_folder(self, folder: Path) -> None:
        """Move nothing."""

    def pull_file(self, path: Path) -> bool:
        """Return whether the file exists."""
        return path.is_file()

    def holds_input(self, name: str) -> bool:
        """Return False: who makes an input looks for it in the folder first."""
        return False

    def keep_input(self, path: Path, mark: Path) -> None:
        """Move nothing."""

    def list_work(self) -> list[str]:
        """Return nothing: who looks for unfinished work finds it in the folder."""
        return []

    def remove_work(self, folder: Path) -> None:
        """Remove nothing: who made the work removes it."""

    def copy_files(self, files: Sequence[tuple[StoredFile, Path]]) -> list[StoredFile]:
        """Copy files, so that the copies may be edited, which hard links may not."""

        def copy(pair: tuple[StoredFile, Path]) -> bool:
            file, target = pair
            with explain_write_errors(target):
                make_folder(target.parent)
                with suppress(FileNotFoundError):
                    shutil.copyfile(file.path, target)
                return is_whole(target, file.bytes, file.sha256)

        whole = map_in_threads(copy, files)
        return [file for (file, _), is_right in zip(files, whole, strict=True) if not is_right]

    def prune(self, kinds: Mapping[str, ManifestKind], age: timedelta, *, dry_run: bool) -> Pruned:
        """Remove unfinished work: nothing else is kept beside the values."""
        return remove_work(self.folder, age, dry_run=dry_run)


def _look_at(path: Path) -> _State:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _show_stat(name: str, stat: os.stat_result) -> str:
    return f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}"
