"""Files written whole or not at all, and their hashes.

Belongs here: atomic writing, hashing, and turning the operating system's refusals into errors that advise.
Does not belong here: what is written. Unfinished work stands beside its target under a name with `.partial` in it.
"""

import errno
import glob
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pervl_assets.core.errors import WriteError
from pervl_assets.core.processes import is_running

PARTIAL: Final = ".partial"
_BLOCK = 1 << 20


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
def replace_atomically(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to, and move it over `target` at the end.

    A file that is byte for byte what already stands at `target` is dropped instead, so an unchanged result keeps its
    modification time. Whatever goes wrong, `target` holds either its old bytes or the new ones. What a killed process
    of this machine left beside `target` is removed.

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
            if is_same_file(partial, target):
                partial.unlink()
            else:
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


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


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether both files exist and hold the same bytes."""
    if not (one.is_file() and other.is_file()) or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(_BLOCK):
            if block != second.read(_BLOCK):
                return False
    return True
