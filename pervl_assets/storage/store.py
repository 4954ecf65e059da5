"""The interface of a store, which keeps the values of a data root.

All other code works with paths below `Store.folder`. A store brings a value there before it is read (*pull*), and
keeps it once it was written (*push*). A value is one file below `assets/`, or a manifest there and the files it names.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePath, PurePosixPath

from pervl_assets.core.addresses import Place
from pervl_assets.core.errors import BusyError, SchemaError
from pervl_assets.core.files import VerifyResult

Listing = Mapping[str, str]
"""What a store holds, by name: made once by `Store.list_values`, to look at many values."""


@dataclass(frozen=True)
class StoredFile:
    """A file that a manifest names: its path on this machine, its size in bytes and its sha256."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        objects: Number of stored objects that no manifest names.
        bytes: Their size, and that of unfinished work.
        work: Unfinished work that dead runs left: names of folders and files.
    """

    objects: int = 0
    bytes: int = 0
    work: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ManifestKind:
    """What manifests of one extension look like, which a store does not know.

    Attributes:
        is_other: Returns whether the last megabyte of a large file shows that it is whole, and no manifest.
        read: Returns the sha256s that a manifest names, none if it is no manifest. Raises any error if it is damaged.
    """

    is_other: Callable[[bytes], bool]
    read: Callable[[Path], Iterable[str]]


def locate_below(folder: Path, name: str) -> Path:
    """Return the path of a name that a manifest holds: no manifest may name a file elsewhere.

    Raises:
        SchemaError: The name leads out of the folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise SchemaError(f"The name {name!r} leads out of {folder}.", advice="Materialize its asset again.")
    return folder.joinpath(*parts)


def make_conflict(place: str) -> BusyError:
    """Return the error of a step whose value was written by another run since it began."""
    return BusyError(
        f"Another run has written {place} since this one began.",
        advice="Its value stays, and that of this run is dropped. Run again.",
    )


class Store(ABC):
    """Keeps values. All paths are below `folder`.

    Args:
        folder: Folder in which this machine reads and writes values.
        own: Folder of this machine for files that are no values, such as Dagster's runs.
    """

    def __init__(self, folder: Path, own: Path) -> None:
        self.folder, self.own = folder, own

    def locate(self, name: str) -> Path:
        """Return the path of a name that a manifest holds, e.g. `youtube_vos/fsl_seg`. Raises as `locate_below`."""
        return locate_below(self.folder, name)

    def name(self, path: Path) -> str:
        """Return a path relative to the data root, with forward slashes, where it is below it."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)

    @abstractmethod
    def locate_input(self, place: Place, others: Iterable[PurePath]) -> Place:
        """Return where a raw input is, of which a card names the place.

        Args:
            place: An address, or a path: an absolute one, or one below the data root.
            others: Where inputs may be besides the data root.

        Raises:
            SchemaError: It is elsewhere, and others may have written the card.
        """

    @abstractmethod
    def check_sharing(self) -> None:
        """Check that processes of several machines can work here at the same time.

        Raises:
            PervlError: They could not be kept apart.
        """

    @abstractmethod
    def show(self, path: Path) -> str:
        """Return where a path is kept, for people."""

    @abstractmethod
    def list_values(self) -> Listing | None:
        """Return what `exists` and `stamp` need to know of all values, or None if that costs nothing."""

    @abstractmethod
    def exists(self, path: Path, parts: Callable[[], Iterable[Path]], listing: Listing | None = None) -> bool:
        """Return whether a value exists, with its parts.

        Args:
            path: Its file or manifest.
            parts: Returns the files and folders that belong to it; raises if the manifest cannot be read.
            listing: From `list_values`.
        """

    @abstractmethod
    def stamp(self, path: Path, parts: Callable[[], Iterable[Path]], listing: Listing | None = None) -> str:
        """Return a fingerprint of a value, which changes whenever it is written. Arguments as of `exists`.

        Raises:
            OSError: A file of it does not exist.
        """

    @abstractmethod
    def begin(self, path: Path) -> None:
        """Remember a value as it is when a step begins that makes it: `stage` or `push` replaces no other."""

    def mark_changed(self, path: Path) -> None:
        """Change the stamp of a damaged value: it is made again, although size and time were right."""
        with suppress(OSError):
            os.utime(path)

    @abstractmethod
    def pull(self, path: Path, *, again: bool = False) -> None:
        """Bring a value's file or manifest to its path; if there is none, remove what is at the path.

        Args:
            path: The path.
            again: Whether to read it even if it was brought before.
        """

    @abstractmethod
    def pull_files(self, files: Iterable[StoredFile]) -> None:
        """Bring files that a manifest names to their paths; a file that is missing or damaged is missing there."""

    @abstractmethod
    def stage(self, path: Path) -> AbstractContextManager[Path]:
        """Yield the path at which a value is to be written: `path` itself, or one in an empty folder.

        The caller holds a lock of the value.

        Raises:
            BusyError: Another run has written another value since `begin`, if that is known before writing.
        """

    @abstractmethod
    def push_files(self, files: Iterable[StoredFile]) -> None:
        """Keep files that a manifest will name."""

    @abstractmethod
    def push(self, path: Path, staged: Path, list_files: Callable[[Path], Iterable[StoredFile]]) -> Listing | None:
        """Keep a value: the files that `list_files` finds in its manifest, then the file or manifest itself.

        Args:
            path: Its path.
            staged: Where it was written, from `stage`.
            list_files: Returns the files that a manifest names.

        Returns:
            What `stamp` needs to know of what was written.

        Raises:
            BusyError: Another run has written another value since `begin`. That one stays.
        """

    @abstractmethod
    def compare(self, files: Iterable[StoredFile], look: Callable[[], VerifyResult]) -> VerifyResult:
        """Read the files of a value again, and compare them with its manifest.

        Args:
            files: The files that the manifest names.
            look: Compares the files that are at their paths.
        """

    @abstractmethod
    def pull_work(self, folder: Path) -> None:
        """Bring unfinished work, kept by `push_file`, to its folder."""

    @abstractmethod
    def push_file(self, path: Path) -> None:
        """Keep a file under its name: one of unfinished work, or one that belongs to no value."""

    @abstractmethod
    def pull_folder(self, folder: Path) -> None:
        """Bring all files of a folder, kept by `push_folder`, to their paths."""

    @abstractmethod
    def push_folder(self, folder: Path) -> None:
        """Keep all files of a folder, which belong to no value, under their names."""

    @abstractmethod
    def pull_file(self, path: Path) -> bool:
        """Bring a file, kept by `push_file`, to its path. Return whether there is one."""

    @abstractmethod
    def holds_input(self, name: str) -> bool:
        """Return whether a raw input is kept elsewhere than in `folder`, so that it need not be made there."""

    @abstractmethod
    def keep_input(self, path: Path, mark: Path) -> None:
        """Keep a raw input that was downloaded or drawn, if there is one at `path`.

        Args:
            path: Its path.
            mark: File that says that it was drawn, if it was.
        """

    @abstractmethod
    def list_work(self) -> list[str]:
        """Return the names of folders with unfinished work that no run has kept a part of for an hour."""

    @abstractmethod
    def remove_work(self, folder: Path) -> None:
        """Forget unfinished work, whose result is kept now."""

    @abstractmethod
    def copy_files(self, files: Sequence[tuple[StoredFile, Path]]) -> list[StoredFile]:
        """Copy files that a manifest names to paths outside of the store; return those that are missing or damaged.

        Raises:
            WriteError: No permission, or no space left.
        """

    @abstractmethod
    def prune(self, kinds: Mapping[str, ManifestKind], age: timedelta, *, dry_run: bool) -> Pruned:
        """Remove what no manifest names, and unfinished work of dead runs, if it is older than `age`.

        Args:
            kinds: Manifests by extension.
            age: At least a day: a manifest may name younger objects soon.
            dry_run: Whether nothing is removed.

        Raises:
            SchemaError: A manifest cannot be read. Nothing was removed.
        """
