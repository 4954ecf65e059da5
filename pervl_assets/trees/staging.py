"""A folder made beside its target, kept across a kill, and exchanged with it whole.

Beside the target `NAME`, while it is being made: `NAME.partial` (the files), `NAME.partial.jsonl` (the journal: one
ledger row per finished file, written after its bytes; its lock is the tree's) and, if the file system cannot exchange
two folders in one step, `NAME.partial-old` for the moment between two renames. A run that is killed or fails leaves the
first two. The next run reuses the finished files, checked by hash, and removes both.
"""

import ctypes
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import polars as pl

from pervl_assets.core.errors import WriteError
from pervl_assets.core.files import PARTIAL, Lock, explain_write_errors, sync, sync_tree
from pervl_assets.trees.ledger import LEDGER, Row, build_frame, list_files

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


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

    def identify_target(self) -> tuple[int, int] | None:
        """Return device and inode of the target, which a swap changes, or None if it does not exist."""
        try:
            stat = self.target.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

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
            self.heal()
            self.clear()
            lock.release()

    def keep(self, path: str) -> None:
        """Reuse a file of the old tree, as a hard link if the file system has them."""
        link_or_copy(self.folder / path, self.target / path)

    def prune(self, wanted: Iterable[str]) -> None:
        """Remove all files but the `wanted`, and empty folders: `ImageFolder` refuses an empty class."""
        for path in list_files(self.folder) - set(wanted):
            (self.folder / path).unlink()
        for folder, _, _ in os.walk(self.folder, topdown=False):
            if folder != str(self.folder) and not os.listdir(folder):  # noqa: PTH208
                Path(folder).rmdir()

    def clear(self) -> None:
        """Remove unfinished work."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.journal.unlink(missing_ok=True)

    def swap(self) -> None:
        """Put the finished folder, synced to disk, in the target's place. Readers see the old tree or the new one."""
        with explain_write_errors(self.target):
            sync_tree(self.folder)
            if not self.target.exists():
                self.folder.rename(self.target)
            elif not exchange(self.folder, self.target):
                self.target.rename(self._retired)
                self.folder.rename(self.target)
                shutil.rmtree(self._retired)
            sync(self.target.parent)
        self.clear()


def write_again(file: Path, data: bytes) -> None:
    """Write a staged file, never through a hard link that it may share with the tree in place."""
    with explain_write_errors(file):
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
        WriteError: No permission, or no space left.
        FileNotFoundError: There is no `source`.
    """
    with explain_write_errors(file):
        while True:
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


def link_or_copy(file: Path, source: Path) -> None:
    """Make `file` a hard link to `source`, or a copy where that is impossible. Raises as `link` does."""
    if link(file, source) is None:
        with explain_write_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            shutil.copyfile(source, file)  # without mode and times, which some network disks refuse to set


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step. Return False where the system cannot (then nothing is done)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
