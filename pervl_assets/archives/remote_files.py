"""Files at addresses, read by ranges: nothing is received but what is asked for, and all of it is of one version.

Objects in buckets are read with obstore, files on web servers with `http_get`, whose rules for redirects and slow
connections apply. Servers are not trusted: what they send is bounded by what was asked for.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final, NamedTuple, TypeVar

import httpx

from pervl_assets.archives.http_get import (
    DATE,
    ETAG,
    Answer,
    RefusedError,
    TransientError,
    choose_pause,
    get,
    match_header,
    open_client,
)
from pervl_assets.core.addresses import Address, Place, explain_address_errors, open_address
from pervl_assets.core.errors import AddressError, ArchiveError, MissingInputError, NoAnswerError

_RANGE: Final = re.compile("bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")
_BLOCK: Final = 1 << 20
_LEAST: Final = 64 << 10
"""Bytes that a `RemoteReader` asks for at least."""

_ATTEMPTS: Final = 5
_CHECK: Final = "Check the address and the network, then run again: finished work is kept."
_DOWNLOAD: Final = "Download the file, and put it where a local one is expected."
_Result = TypeVar("_Result")


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
    version = _find_in_bucket(address) if address.is_bucket else _find_on_server(address)
    if not version.etag:
        raise AddressError(
            f"The server of {address} states neither an ETag nor a date: a change could not be noticed.",
            advice=_DOWNLOAD,
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
    receive = _receive_from_bucket if address.is_bucket else _receive_from_server
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


def _wrong_length(address: Address) -> AddressError:
    return AddressError(f"The server of {address} sends more or fewer bytes than it was asked for.", advice=_CHECK)


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
                raise _wrong_length(address)
            take(at, bytes(block))
            at += len(block)
        if at < end:
            raise _wrong_length(address)


@cache
def _open_client() -> httpx.Client:
    return open_client()


def _find_on_server(address: Address) -> Version:
    def find() -> Version:
        with _get_range(address, 0, 1) as (_, version):
            return version

    return _retry(address, find)


def _receive_from_server(
    address: Address, version: Version, start: int, end: int, take: Callable[[int, bytes], object]
) -> None:
    at = start

    def receive() -> None:
        nonlocal at
        with _get_range(address, at, end, version.etag) as (answer, found):
            if found != version:
                raise report_change(address)
            for block in answer.read_blocks():
                if at + len(block) > end:
                    raise _wrong_length(address)
                take(at, block)
                at += len(block)
        if at < end:
            raise TransientError("the connection was cut")

    _retry(address, receive)


@contextmanager
def _get_range(address: Address, start: int, end: int, etag: str = "") -> Iterator[tuple[Answer, Version]]:
    """Yield the answer to a request for a range, and the version of the whole file that it states."""
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    if etag.startswith('"'):  # a weak one matches nothing
        headers["If-Match"] = etag
    with get(_open_client(), str(address), headers) as answer:
        stated = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        match answer.status:
            case 206 if stated and (int(stated[1]), int(stated[2])) == (start, end - 1):
                tag = match_header(ETAG, answer.headers.get("ETag", ""))
                yield (
                    answer,
                    Version(int(stated[3]), tag or match_header(DATE, answer.headers.get("Last-Modified", ""))),
                )
            case 200 | 206:
                raise AddressError(f"The server of {address} serves no parts of files.", advice=_DOWNLOAD)
            case 416 if not etag:
                raise ArchiveError(f"{address} is empty.", advice="Put the whole file there.")
            case 412 | 416:
                raise report_change(address)
            case 404 | 410:
                raise MissingInputError(
                    f"There is nothing at {address}.", advice="Put it there, or correct the address."
                )
            case _:
                answer.refuse()


def _retry(address: Address, request: Callable[[], _Result]) -> _Result:
    """Send a request until it succeeds, at most five times."""
    failures = 0
    while True:
        try:
            return request()
        except TransientError as error:
            failures += 1
            if failures == _ATTEMPTS:
                raise NoAnswerError(f"{address} cannot be read: {error}.", advice=_CHECK) from error
            time.sleep(choose_pause(error, failures))
        except RefusedError as error:
            raise AddressError(f"{address} cannot be read: {error}.", advice=_CHECK) from error
