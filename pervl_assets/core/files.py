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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pervl_assets.core.errors import ArchiveError, WriteError
from pervl_assets.core.workers import is_running

PARTIAL: Final = ".partial"
_UNSUPPORTED: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Answers of file systems that cannot lock, or cannot sync a folder."""


def hash_bytes(data: bytes | memoryview) -> str:
    """Return the sha256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explain_write_errors(target: Path) -> Iterator[None]:
    """Turn a refused or failed write below `target` into a `WriteError` that advises.

    Raises:
        WriteError: No permission, no space left, or a read-only file system.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or target
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise WriteError(
                f"Cannot write {where}: {os.strerror(error.errno)}.",
                advice=f"Make the folder writable for this user, or set PERVL_DATA to one that is (target: {target}).",
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise WriteError(
                f"Cannot write {target}: {where} is a file where a folder is needed.",
                advice="Move that file away, or set PERVL_DATA to another folder.",
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise WriteError(
                f"The disk is full while writing {where}: {os.strerror(error.errno)}.",
                advice="Free some space, or set PERVL_DATA to a larger disk, and run again; finished work is kept.",
            ) from error
        raise


@contextmanager
def explain_read_errors(source: Path) -> Iterator[None]:
    """Turn a failed read of a raw input or of a source tree into an `ArchiveError` that advises; it ends the run.

    Raises:
        ArchiveError: A disk error, no permission, a vanished mount, too many open files.
    """
    try:
        yield
    except OSError as error:
        raise ArchiveError(
            f"{error.filename or source} cannot be read: {os.strerror(error.errno) if error.errno else error}.",
            advice=f"Check that {source} exists, that this user may read it, and the disk or mount it is on. Then run "
            "again: finished work is kept.",
        ) from error


class Lock:
    """A lock on a file, against other processes and against other locks of this one, until `release`.

    As a context manager it is released, and its file removed, at the end. A process that ends, however it ends,
    releases its locks. Where the file system has no locks (some network disks),
    a warning is logged and the work goes on without.

    Args:
        path: The file; created if it does not exist.
        work: What the lock guards, for the message, e.g. `building /data/views/polar`.

    Raises:
        WriteError: Another run holds the lock, or the file cannot be created.
    """

    def __init__(self, path: Path, work: str) -> None:
        self.path = path
        self._file = -1
        with explain_write_errors(path):
            while True:
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                except FileNotFoundError:  # another run removed the empty folder
                    continue
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    self.release()
                    raise WriteError(
                        f"Another run is {work} right now.", advice="Wait for it to end, or stop it."
                    ) from error
                except OSError as error:
                    if error.errno not in _UNSUPPORTED:
                        raise
                    logging.getLogger(__name__).warning(
                        "The file system of %s has no locks: make sure that no second run is %s.", path, work
                    )
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(self._file), path.stat()):
                        return
                self.release()  # its last holder removed the file after it was opened here

    def write(self, data: bytes) -> None:
        """Append to the locked file.

        Raises:
            WriteError: No space left.
        """
        with explain_write_errors(self.path):
            while data:
                data = data[os.write(self._file, data) :]

    def release(self) -> None:
        """Release the lock; harmless if it is released already."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove(self) -> None:
        """Remove the file and release the lock."""
        self.path.unlink(missing_ok=True)
        self.release()

    def __enter__(self) -> None:
        """Hold the lock."""

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __del__(self) -> None:
        self.release()


@contextmanager
def replace_atomically(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to, and move it over `target` at the end, synced to disk.

    A file with the same bytes as `target` is dropped instead, so an unchanged result keeps its modification time.
    After a failure or a power loss, `target` holds either its old bytes or the new ones. Files that a killed process of
    this machine left beside `target` are removed.

    Raises:
        WriteError: No permission, or no space left.
    """
    stem = f".{target.name}{PARTIAL}-{platform.node()}-"
    partial = target.with_name(f"{stem}{os.getpid()}")
    with explain_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{glob.escape(stem)}*"):
            process = left.name.removeprefix(stem)
            if not (process.isdecimal() and is_running(int(process))):
                left.unlink(missing_ok=True)
        try:
            yield partial
            if target.is_file() and is_whole(partial, target.stat().st_size, hash_file(target)):
                partial.unlink()
            else:
                move_synced(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def move_synced(source: Path, target: Path) -> None:
    """Move a file over `target` on the same disk; a power loss leaves the old file or the whole new one."""
    sync(source)
    source.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Write a file, or the list of names in a folder, from memory to disk."""
    file = os.open(path, os.O_RDONLY)
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
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(file)


def write_bytes_atomically(target: Path, data: bytes) -> bool:
    """Write `data` to `target` whole or not at all; return whether the file changed.

    Raises:
        WriteError: No permission, or no space left.
    """
    if target.is_file() and target.stat().st_size == len(data) and target.read_bytes() == data:
        return False
    with replace_atomically(target) as partial:
        partial.write_bytes(data)
    return True


def is_whole(file: Path, size: int, sha256: str) -> bool:
    """Return whether a file exists and holds exactly these bytes."""
    try:
        return file.stat().st_size == size and hash_file(file) == sha256
    except OSError:
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
