"""Files at addresses, read by ranges: nothing is received but what is asked for, and all of it is of one version.

Objects in buckets are read here, with obstore; files on web servers in `remote_servers`. Servers are not trusted: what
they send is bounded by what was asked for.
"""

import os
from collections.abc import Callable
from typing import Final, NamedTuple

from pervl_assets.core.addresses import Address, Place, explain_address_errors, open_address
from pervl_assets.core.errors import AddressError, ArchiveError, MissingInputError

_BLOCK: Final = 1 << 20
_LEAST: Final = 64 << 10
"""Bytes that a `RemoteReader` asks for at least."""

CHECK: Final = "Check the address and the network, then run again: finished work is kept."
DOWNLOAD: Final = "Download the file, and put it where a local one is expected."


class Version(NamedTuple):
    """Size and ETag of a file at an address. The ETag is a date where the server states none."""

    bytes: int
    etag: str


def find_version(address: Address) -> Version:
    """Return the current version of a file, by one request.

    Raises:
        MissingInputError: There is no such file.
        AddressError: No connection, no permission, or a server that states no version or serves no ranges.
    """
    from pervl_assets.archives.remote_servers import find_on_server  # httpx takes a tenth of a second

    version = _find_in_bucket(address) if address.is_bucket else find_on_server(address)
    if not version.etag:
        raise AddressError(
            f"The server of {address} states neither an ETag nor a date: a change could not be noticed.",
            advice=DOWNLOAD,
        )
    return version


def look_for(address: Address) -> Version | None:
    """Return the current version of a file, or None if there is no such file. Raises as `find_version` else."""
    try:
        return find_version(address)
    except MissingInputError:
        return None


def receive_range(
    address: Address, version: Version, start: int, end: int, take: Callable[[int, bytes], object]
) -> None:
    """Receive the bytes from `start` to before `end`; failures of the network are retried.

    Args:
        address: The file.
        version: Its version.
        start: First byte.
        end: The byte behind the last one.
        take: Called with the place in the file and the bytes of each block, in their order.

    Raises:
        ArchiveError: The file is of another version now, or gone.
        AddressError: No connection, no permission, or more or fewer bytes than asked for.
    """
    from pervl_assets.archives.remote_servers import receive_from_server

    receive = _receive_from_bucket if address.is_bucket else receive_from_server
    try:
        receive(address, version, start, end, take)
    except MissingInputError as error:
        raise report_change(address) from error


def report_change(place: Place) -> ArchiveError:
    """Return the error of an input that is no longer the one that was opened."""
    return ArchiveError(
        f"{place} was replaced or changed while it was read.",
        advice="Wait until it is whole, and materialize its raw asset again; finished work is kept.",
    )


class RemoteReader:
    """Reads one version of a file as a binary file, for a few reads: `seek` and `read`."""

    def __init__(self, address: Address, version: Version) -> None:
        self._address, self._version = address, version
        self._at = self._start = 0
        self._data = bytearray()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an offset, counted from the end if `whence` is `os.SEEK_END`; return the place."""
        self._at = offset + (self._version.bytes if whence == os.SEEK_END else 0)
        return self._at

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; fewer only at the end of the file."""
        end = min(self._at + size, self._version.bytes)
        if end <= self._at:
            return b""
        if not self._start <= self._at < end <= self._start + len(self._data):
            self._start, self._data = self._at, bytearray()
            last = min(max(end, self._at + _LEAST), self._version.bytes)
            receive_range(self._address, self._version, self._at, last, lambda _, block: self._data.extend(block))
        data = self._data[self._at - self._start : end - self._start]
        self._at = end
        return bytes(data)


def report_length(address: Address) -> AddressError:
    """Return the error of a server whose answer is too long or too short."""
    return AddressError(f"The server of {address} sends more or fewer bytes than it was asked for.", advice=CHECK)


def _find_in_bucket(address: Address) -> Version:
    store, path = open_address(address)
    with explain_address_errors(address):
        meta = store.head(path)
    return Version(meta["size"], meta["e_tag"] or "")


def _receive_from_bucket(
    address: Address, version: Version, start: int, end: int, take: Callable[[int, bytes], object]
) -> None:
    store, path = open_address(address)
    with explain_address_errors(address):
        from obstore.exceptions import PreconditionError

        try:
            answer = store.get(path, options={"range": (start, end), "if_match": version.etag})
        except PreconditionError:
            raise report_change(address) from None
        if (answer.meta["size"], answer.meta["e_tag"]) != version:
            raise report_change(address)
        at = start
        for block in answer.stream(min_chunk_size=_BLOCK):
            if at + len(block) > end:
                raise report_length(address)
            take(at, bytes(block))
            at += len(block)
        if at < end:
            raise report_length(address)
