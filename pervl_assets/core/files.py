"""Files written whole or not at all, locked, synced to disk, and hashed.

Unfinished work is stored beside its target under a name with `.partial` in it.
"""

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from pervl_assets.core.addresses import Place
from pervl_assets.core.errors import ArchiveError, BusyError, PervlError, WriteError
from pervl_assets.core.system_errors import describe_system_error
from pervl_assets.core.workers import is_running

PARTIAL: Final = ".partial"
_OF_THIS_MACHINE: Final = f"{PARTIAL}-{platform.node()}-"
_LOCK_TRIES: Final = 100
_READER_SECONDS: Final = 0.02
"""`is_locked` holds a lock for less than this time."""

_UNSUPPORTED: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Answers of file systems that cannot lock or sync."""

_UNREADABLE: Final = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EACCES,
    errno.EIO,
)
"""Errors of one file; others (too many open files, a lost network disk) say nothing about it."""

_CANNOT_READ: Final = "{where} cannot be read: {reason}."
_CANNOT_USE: Final = "{where} cannot be read or written: {reason}."
_CANNOT_WRITE: Final = "Cannot write {where}: {reason}."


def hash_bytes(data: bytes | memoryview) -> str:
    """Return the sha256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explain_write_errors(target: Path) -> Iterator[None]:
    """Turn a failed system call, made to write `target`, into a `WriteError` that advises.

    Raises:
        WriteError: No permission, no space left, a failing disk, or any other error of the system.
    """
    try:
        yield
    except OSError as error:
        problem, advice = describe_system_error(error, target, _CANNOT_WRITE)
        raise WriteError(problem, advice=advice) from error


@contextmanager
def explain_errors() -> Iterator[None]:
    """Turn any other failed system call into a `PervlError` that advises; for the edges of the project.

    Raises:
        PervlError: No permission, a disk error, too many open files.
    """
    try:
        yield
    except OSError as error:
        problem, advice = describe_system_error(error, None, _CANNOT_USE)
        raise PervlError(problem, advice=advice) from error


@contextmanager
def explain_read_errors(source: Place) -> Iterator[None]:
    """Turn a failed read of a raw input or of a source tree into an `ArchiveError` that advises; it ends the run.

    Raises:
        ArchiveError: A disk error, no permission, a vanished mount, too many open files.
    """
    try:
        yield
    except OSError as error:
        problem, advice = describe_system_error(error, source, _CANNOT_READ)
        if isinstance(error, PermissionError):
            advice = f"Allow this user to read {error.filename or source}, and to enter the folders above it."
        raise ArchiveError(problem, advice=advice) from error


class Lock:
    """A lock on a file, against other processes and against other locks of this one, until `release`.

    As a context manager it is released, and its file removed, at the end. A process that ends, however it ends,
    releases its locks. Where the file system has no locks (some network disks), the work goes on without, after one
    warning.

    Args:
        path: The file; created if it does not exist.
        work: What the lock guards, for the message, e.g. `building /data/views/polar`.

    Attributes:
        is_held: Whether the file system has locks.

    Raises:
        BusyError: Another run holds the lock.
        WriteError: The file cannot be created.
    """

    _warned: ClassVar[set[int]] = set()

    def __init__(self, path: Path, work: str) -> None:
        self.path, self.is_held = path, True
        self._file = -1
        with explain_write_errors(path):
            for _ in range(_LOCK_TRIES):
                make_folder(path.parent)
                try:
                    self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                except FileNotFoundError:  # another run removed the empty folder
                    continue
                if not self._take(wait=_READER_SECONDS):
                    self.release()
                    raise BusyError(f"Another run is {work} right now.", advice="Wait for it to end, or stop it.")
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(self._file), path.stat()):
                        return
                self.release()  # its last holder removed the file after it was opened here
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def _take(self, wait: float = 0.0) -> bool:
        """Lock the open file; return whether no other holds the lock, also after a wait in seconds."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(wait)
            return wait > 0 and self._take()
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self.is_held = False
            self._warn()
        return True

    def _warn(self) -> None:
        """Log, once per file system, that two runs at the same time are not kept apart."""
        if (disk := os.fstat(self._file).st_dev) not in self._warned:
            self._warned.add(disk)
            logging.getLogger(__name__).warning(
                "The file system of %s has no locks: do not start a second run on it at the same time.",
                self.path.parent,
            )

    def write(self, data: bytes) -> None:
        """Append to the locked file.

        Raises:
            WriteError: No space left.
        """
        with explain_write_errors(self.path):
            while data:
                data = data[os.write(self._file, data) :]

    def rewrite(self, data: bytes) -> None:
        """Replace the content of the locked file. Raises as `write` does."""
        with explain_write_errors(self.path):
            os.ftruncate(self._file, 0)
        self.write(data)

    def release(self) -> None:
        """Release the lock; harmless if it is released already."""
        if (file := self._file) >= 0:
            self._file = -1
            os.close(file)

    def remove(self) -> None:
        """Remove the file and release the lock. A file that cannot be removed stays: it locks nothing."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.release()

    def __enter__(self) -> None:
        """Hold the lock."""

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __del__(self) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Return whether a process, this one or another, holds the lock on a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or its file system has no locks
        return False
    return False


@contextmanager
def replace_atomically(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to, and move it over `target` at the end, synced to disk.

    A file with the same bytes as `target` is dropped instead, so an unchanged result keeps its modification time.
    After a failure or a power loss, `target` holds either its old bytes or the new ones. Files that a killed process of
    this machine left beside `target` are removed.

    Raises:
        WriteError: No permission, or no space left.
    """
    with explain_write_errors(target):
        partial = name_partial(target)
        try:
            yield partial
            if not is_whole(target, partial.stat().st_size, hash_file(partial)):
                move_synced(partial, target)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()


def name_partial(target: Path) -> Path:
    """Return the path of this process's unfinished `target`, after removing those that killed processes left there.

    Where a process has several, their names begin with a number: `.1.train.zip.partial-…`.
    """
    stem = f".{target.name}{_OF_THIS_MACHINE}"
    make_folder(target.parent)
    for left in target.parent.glob(f".*{glob.escape(stem[1:])}*"):
        if not is_being_written(left.name):
            with contextlib.suppress(OSError):
                left.unlink()
    return target.with_name(f"{stem}{os.getpid()}")


def is_being_written(name: str) -> bool:
    """Return whether a file of this name is one of `replace_atomically` whose process runs on this machine."""
    process = name.rpartition(_OF_THIS_MACHINE)[2]
    return process != name and process.isdecimal() and is_running(int(process))


def move_synced(source: Path, target: Path) -> None:
    """Move a file over `target` on the same disk; a power loss leaves the old file or the whole new one."""
    sync(source)
    source.replace(target)
    sync(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and the folders above it, synced to disk: a synced file in a lost folder would be lost."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Write a file, or the list of names in a folder, from memory to disk, if its file system can."""
    try:
        file = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to but not read
        return
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(file)


def sync_tree(folder: Path) -> None:
    """Write all files below a folder from memory to disk: in one call, a hundredth of the time of one per file."""
    try:
        sync_file_system = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        os.sync()
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        if sync_file_system(file):
            if (number := ctypes.get_errno()) not in _UNSUPPORTED:
                raise OSError(number, os.strerror(number), str(folder))
            os.sync()
    finally:
        os.close(file)


def write_bytes_atomically(target: Path, data: bytes) -> bool:
    """Write `data` to `target` whole or not at all; return whether the file changed.

    Raises:
        WriteError: No permission, or no space left.
    """
    with explain_write_errors(target):
        if is_whole(target, len(data), hash_bytes(data)):
            return False
    with replace_atomically(target) as partial:
        partial.write_bytes(data)
    return True


def is_whole(file: Path, size: int, sha256: str) -> bool:
    """Return whether a file exists and holds exactly these bytes; one that cannot be read does not.

    Raises:
        OSError: Something other than the file is at fault, e.g. too many open files.
    """
    try:
        return file.stat().st_size == size and hash_file(file) == sha256
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return False


@dataclass(frozen=True)
class VerifyResult:
    """Files compared with what is recorded of them.

    Attributes:
        files: Number of files that were read; 0 if there is no value to verify.
        bytes: Their size.
        missing: Files that do not exist, relative to the root of their tree or to the data root, where they are in it.
        changed: Files that hold other bytes than were written.
        extra: Files that are not recorded.
    """

    files: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    @property
    def unchanged(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.changed or self.extra)
