"""A folder made beside its target, kept across a kill, and exchanged with it whole.

Belongs here: names, journal, lock, and the swap. Does not belong here: what the files are.

Beside the target `NAME`, while it is being made: `NAME.partial` (the files), `NAME.partial.jsonl` (the journal: one
ledger row a finished file, after its bytes) and, where the file system cannot exchange two folders in one step,
`NAME.partial-old` for the moment between two renames. A run that is killed or fails leaves the first two; the next one
takes its finished files over, checked by hash, and removes both.
"""

import ctypes
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from pervl_assets.core.errors import WriteError
from pervl_assets.core.files import PARTIAL, explain_write_errors
from pervl_assets.trees.ledger import LEDGER, Row, list_files

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


class Staging:
    """The unfinished work that stands beside `target`."""

    def __init__(self, target: Path) -> None:
        # A target that is a link to a larger disk stays one: all work is done beside the folder it points to.
        self.target = target.resolve()
        self.folder = self.target.with_name(self.target.name + PARTIAL)
        self.journal = self.target.with_name(self.target.name + PARTIAL + ".jsonl")
        self._retired = self.target.with_name(self.target.name + PARTIAL + "-old")

    def heal(self) -> list[Row]:
        """Undo a swap that was cut short; return the rows of the files that were finished before a kill."""
        if self._retired.exists():
            if self.target.exists():
                shutil.rmtree(self._retired)
            else:
                self._retired.rename(self.target)
        return list(self._read_journal())

    def _read_journal(self) -> Iterator[Row]:
        if not self.journal.is_file():
            return
        for line in self.journal.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line that was being written when the run was killed
                continue
            if isinstance(row, dict) and list(row) == LEDGER.names:
                yield row  # type: ignore[misc]

    @contextmanager
    def write(self) -> Iterator[IO[str]]:
        """Open the folder for new files and the journal for their rows; no second run may do so at the same time.

        Raises:
            WriteError: Another run is at work here, or nothing can be written.
        """
        with explain_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            journal = self.journal.open("a", encoding="utf-8")
        with journal:
            try:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WriteError(
                    f"Another run is building {self.target} right now.", advice="Wait for it to end, or stop it."
                ) from error
            with explain_write_errors(self.journal):
                yield journal

    def keep(self, path: str) -> None:
        """Take over a file of the old tree without copying it, where the file system has hard links."""
        link_anew(self.folder / path, self.target / path)

    def prune(self, wanted: Iterable[str]) -> None:
        """Remove all files but the `wanted`, and folders left empty: `ImageFolder` refuses an empty class."""
        for path in list_files(self.folder) - set(wanted):
            (self.folder / path).unlink()
        for folder, _, _ in os.walk(self.folder, topdown=False):
            if folder != str(self.folder) and not os.listdir(folder):  # noqa: PTH208
                Path(folder).rmdir()

    def clear(self) -> None:
        """Remove what is unfinished."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.journal.unlink(missing_ok=True)

    def swap(self) -> None:
        """Put the finished folder in the target's place; a reader sees the old tree or the new one.

        Raises:
            WriteError: No permission.
        """
        with explain_write_errors(self.target):
            if not self.target.exists():
                self.folder.rename(self.target)
            elif not exchange(self.folder, self.target):
                self.target.rename(self._retired)
                self.folder.rename(self.target)
                shutil.rmtree(self._retired)
        self.clear()


def write_anew(file: Path, data: bytes) -> None:
    """Write a staged file, never through a link that it may share with the tree in place.

    Raises:
        WriteError: No permission, or no space left.
    """
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
    """Write a file that must not be there yet."""
    with file.open("xb") as new:
        new.write(data)


def link_anew(file: Path, source: Path) -> None:
    """Give `source` a second name; copy it where the file system has no hard links, or is another one.

    Raises:
        WriteError: No permission, or no space left.
    """
    with explain_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        try:
            os.link(source, file)
        except OSError:
            shutil.copy2(source, file)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where the system cannot (then nothing is done)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
