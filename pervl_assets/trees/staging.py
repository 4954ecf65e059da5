"""A folder made beside its target, kept across a kill, and exchanged with it whole.

Beside the target `NAME`, while it is being made: `NAME.partial` (the files), `NAME.partial.jsonl` (the journal: one
ledger row per finished file, written after its bytes; its lock is the tree's) and, if the file system cannot exchange
two folders in one step, `NAME.partial-old` for the moment between two renames. A run that is killed or fails leaves the
first two. The next run reuses the finished files, checked by hash, and removes both.

Where the target cannot be renamed (a mount point, a folder of a container's image), its files are replaced one by one.
"""

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.core.errors import WriteError
from pervl_assets.core.files import PARTIAL, Lock, make_folder, sync_tree
from pervl_assets.trees.ledger import LEDGER, Row, build_frame, is_of_disk, list_files

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_LINK_TRIES: Final = 3
_FIXED: Final = (errno.EXDEV, errno.EBUSY)
"""Answers to renaming a folder that cannot be renamed, though its files can."""


class Staging:
    """The unfinished work beside `target`. Change it, and `target`, only under `lock`."""

    def __init__(self, target: Path) -> None:
        # A target that is a link to a larger disk stays one: all work is done beside the folder it points to.
        self.target = target.resolve()
        self.folder = self.target.with_name(self.target.name + PARTIAL)
        self.journal = self.target.with_name(self.target.name + PARTIAL + ".jsonl")
        self._retired = self.target.with_name(self.target.name + PARTIAL + "-old")

    def lock(self) -> Lock:
        """Lock the tree, from reading it to the swap.

        Raises:
            WriteError: Another run is building this tree, or nothing can be written here.
        """
        return Lock(self.journal, f"building {self.target}")

    def identify_target(self) -> tuple[int, int, int] | None:
        """Return device, inode and time of the target, of which a swap changes one, or None if it does not exist."""
        try:
            stat = self.target.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino, stat.st_mtime_ns

    def heal(self) -> list[Row]:
        """Undo an interrupted swap. Return the rows of the files that were finished before a kill."""
        if self._retired.exists():
            if self.target.exists():
                shutil.rmtree(self._retired)
            else:
                self._retired.rename(self.target)
        rows: list[Row] = []
        for line in self.journal.read_bytes().splitlines() if self.journal.is_file() else ():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # the line that was being written when the run was killed
                continue
            if isinstance(row, dict) and list(row) == LEDGER.names:
                rows.append(row)  # type: ignore[arg-type]
        with suppress(TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            build_frame(rows)  # values of other types than a ledger's: then all files are made again
            return rows
        return []

    def has_leftovers(self) -> bool:
        """Return whether a run is building this tree, or was killed."""
        return any(path.exists() for path in (self.folder, self.journal, self._retired))

    def tidy(self) -> None:
        """Remove the leftovers of a killed run, unless another run is building this tree."""
        if self.has_leftovers():
            try:
                lock = self.lock()
            except WriteError:
                return
            if lock.is_held:  # else they may belong to a run that is at work
                self.heal()
                self.clear()
            lock.release()

    def keep(self, path: str) -> None:
        """Reuse a file of the old tree, as a hard link if the file system has them."""
        source = self.target / path
        if link(self.folder / path, source) is None:
            write_again(self.folder / path, source.read_bytes())

    def finish(self, wanted: Iterable[str]) -> None:
        """Remove all staged files but the `wanted`, and write these from memory to disk."""
        _prune(self.folder, wanted)
        sync_tree(self.folder)

    def clear(self) -> None:
        """Remove unfinished work. What cannot be removed stays for the next run."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._retired, ignore_errors=True)
        with suppress(OSError):
            self.journal.unlink()

    def swap(self) -> bool:
        """Exchange the finished folder and the target. Readers see the old tree or the new one.

        After an error the target is as it was, but where it cannot be renamed: there readers may see files of both,
        until the next run completes it.

        Returns:
            Whether the old tree is in `folder` now, so that a second call puts it back.
        """
        if not self.target.exists():
            self.folder.rename(self.target)
            return False
        if exchange(self.folder, self.target):
            return True
        try:
            self.target.rename(self._retired)
        except OSError as error:
            if error.errno not in _FIXED:
                raise
            self._replace_files()
            return False
        try:
            self.folder.rename(self.target)
        except OSError:
            self._retired.rename(self.target)
            raise
        try:
            self._retired.rename(self.folder)
        except OSError:
            return False
        return True

    def _replace_files(self) -> None:
        """Move the finished files into the target, over the old ones, and remove all others there."""
        paths = sorted(list_files(self.folder))
        _prune(self.target, paths)
        for path in paths:
            staged, file = self.folder / path, self.target / path
            make_folder(file.parent)
            try:
                staged.replace(file)
            except OSError as error:
                if error.errno not in _FIXED:
                    raise
                write_again(file, staged.read_bytes())
        sync_tree(self.target)
        with suppress(OSError):
            os.utime(self.target)  # runs that were waiting see that it changed


def _prune(root: Path, wanted: Iterable[str]) -> None:
    """Remove all files but the `wanted`, and empty folders: `ImageFolder` refuses an empty class."""
    for path in list_files(root) - set(wanted):
        (root / path).unlink()
    for folder, _, _ in os.walk(root, topdown=False):
        if folder != str(root) and not is_of_disk(folder, root) and not os.listdir(folder):  # noqa: PTH208
            Path(folder).rmdir()


def write_again(file: Path, data: bytes) -> None:
    """Write a staged file, never through a hard link that it may share with the tree in place."""
    try:
        create_file(file, data)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        create_file(file, data)
    except FileExistsError:
        file.unlink()
        create_file(file, data)


def create_file(file: Path, data: bytes) -> None:
    """Write a file that must not exist yet."""
    with file.open("xb") as new:
        new.write(data)


def link(file: Path, source: Path) -> os.stat_result | None:
    """Make `file` a hard link to `source` and return its status, or None if the file system cannot link them.

    Raises:
        FileNotFoundError: There is no `source`.
    """
    for _ in range(_LINK_TRIES):
        try:
            os.link(source, file)
        except FileExistsError:
            file.unlink()
        except FileNotFoundError:
            source.stat()
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        else:
            return file.stat()
    return None


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step. Return False where the system cannot (then nothing is done)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
