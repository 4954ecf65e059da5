"""The needed parts of a remote file, in a local one with holes: received once, whichever process needs them first."""

import contextlib
import errno
import fcntl
import itertools
import os
import tempfile
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pervl_assets.archives.remote_files import Version, receive_range
from pervl_assets.core.addresses import Address
from pervl_assets.core.files import explain_write_errors, name_partial

_LONGEST: Final = 8 << 20
"""Bytes of a range, unless one extent is longer."""

_LARGEST_GAP: Final = 1 << 20
"""A request costs about as much as receiving these bytes: a tenth of a second at 10 MB/s."""

_MOST_WASTE: Final = 0.5
_AHEAD: Final = 3
"""Ranges that a process requests at the same time as the one it waits for."""

_POLL_SECONDS: Final = 0.01
_THERE: Final = b"\1"
_numbers: Final = itertools.count()


def plan_ranges(extents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ranges to request for the needed extents of a file.

    Two neighbours are requested at once, together with the bytes between them, if these are few. The smallest gaps come
    first, until half as many bytes as needed would be received in vain.

    Args:
        extents: First byte of each, and the byte behind its last one; `(n, 2)`, disjoint, in any order.

    Returns:
        The ranges likewise, `(m, 2)`, in the order of the file. Each extent is in one of them.
    """
    extents = extents[np.argsort(extents[:, 0], kind="stable")]
    gaps = extents[1:, 0] - extents[:-1, 1]
    order = np.argsort(gaps, kind="stable")
    wasted = gaps[order].cumsum() <= _MOST_WASTE * (extents[:, 1] - extents[:, 0]).sum()
    joined = np.zeros(len(gaps), bool)
    joined[order] = wasted & (gaps[order] <= _LARGEST_GAP)
    ranges: list[list[int]] = []
    for (start, end), is_joined in zip(extents.tolist(), [False, *joined.tolist()], strict=False):
        if is_joined and end - ranges[-1][0] <= _LONGEST:
            ranges[-1][1] = end
        else:
            ranges.append([start, end])
    return np.array(ranges, np.int64).reshape(-1, 2)


class SparseCopy:
    """A file of the size of a remote one, in which only the planned ranges are filled, each when it is first read.

    Behind the end of the remote file it has one byte per range, which is set once the range is there. Who receives a
    range holds a lock on that byte, so other processes wait for it. Pickled, it is the same file for another process.
    The file is removed with the object that made it.

    Args:
        address: The remote file.
        version: Its version.
        extents: As of `plan_ranges`.
        folder: Where the copy is made; None for the system's temporary folder.
    """

    def __init__(self, address: Address, version: Version, extents: NDArray[np.int64], folder: Path | None) -> None:
        self._address, self._version, self._ranges = address, version, plan_ranges(extents)
        target = (folder or Path(tempfile.gettempdir())) / address.name
        with explain_write_errors(target):
            partial = name_partial(target)
        self._path = partial.with_name(f".{next(_numbers)}{partial.name}")
        weakref.finalize(self, _remove, self._path)
        self._file = -1
        self._pool: ThreadPoolExecutor | None = None
        self._received: dict[int, Future[None]] = {}

    def load(self, offset: int) -> int:
        """Wait until the range that holds the byte at `offset` is there; return the descriptor of the copy.

        From the second range on, those that follow are requested at the same time.

        Raises:
            ArchiveError: The remote file is of another version.
            AddressError: It cannot be read.
            OSError: The copy cannot be written.
        """
        number = int(np.searchsorted(self._ranges[:, 0], offset, "right")) - 1
        ahead = _AHEAD if self._received.keys() - {number} else 0
        for following in range(number, min(number + 1 + ahead, len(self._ranges))):
            self._request(following)
        self._received[number].result()
        return self._file

    def _request(self, number: int) -> None:
        if self._pool is None:
            with explain_write_errors(self._path):
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                os.ftruncate(self._file, self._version.bytes + len(self._ranges))
            self._pool = ThreadPoolExecutor(1 + _AHEAD)
        part = self._received.get(number)
        if part is None or (part.done() and part.exception()):  # another try may succeed
            self._received[number] = self._pool.submit(self._receive, number)

    def _receive(self, number: int) -> None:
        """Receive a range, unless another process did. A process that is killed meanwhile sets no mark."""
        mark = self._version.bytes + number
        with _lock_byte(self._file, mark):
            if os.pread(self._file, 1, mark) != _THERE:
                start, end = self._ranges[number].tolist()
                receive_range(self._address, self._version, start, end, self._write)
                self._write(mark, _THERE)

    def _write(self, offset: int, block: bytes) -> None:
        with explain_write_errors(self._path):
            while block:
                written = os.pwrite(self._file, block, offset)
                offset, block = offset + written, block[written:]

    def close(self) -> None:
        """Wait for ranges that are being received, and close the copy; the next `load` opens it again."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            os.close(self._file)
            self._pool, self._received = None, {}

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": -1, "_pool": None, "_received": {}}


@contextmanager
def _lock_byte(file: int, at: int) -> Iterator[None]:
    """Hold a lock on one byte against other processes, where the file system has locks: without, work is done twice."""
    while _is_taken(file, at):
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_UN, 1, at)


def _is_taken(file: int, at: int) -> bool:
    """Wait for the lock on a byte; return whether it must be asked for again.

    Two processes whose threads wait for each other's bytes seem to be in a deadlock: the system knows no threads.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, at)
    except OSError as error:
        return error.errno == errno.EDEADLK
    return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
