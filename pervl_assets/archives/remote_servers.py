"""Files on web servers, read by ranges, with the rules of `http_get` for redirects and slow connections."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final, TypeVar

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
from pervl_assets.archives.remote_files import CHECK, DOWNLOAD, Version, report_change, report_length
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import AddressError, ArchiveError, MissingInputError, NoAnswerError

_RANGE: Final = re.compile("bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")
_ATTEMPTS: Final = 5
_Result = TypeVar("_Result")


@cache
def _open_client() -> httpx.Client:
    return open_client()


def find_on_server(address: Address) -> Version:
    """Return the current version of a file. Raises as `find_version`."""

    def find() -> Version:
        with _get_range(address, 0, 1) as (_, version):
            return version

    return _retry(address, find)


def receive_from_server(
    address: Address, version: Version, start: int, end: int, take: Callable[[int, bytes], object]
) -> None:
    """Receive the bytes from `start` to before `end`. Arguments and errors as of `receive_range`."""
    at = start

    def receive() -> None:
        nonlocal at
        with _get_range(address, at, end, version.etag) as (answer, found):
            if found != version:
                raise report_change(address)
            for block in answer.read_blocks():
                if at + len(block) > end:
                    raise report_length(address)
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
                raise AddressError(f"The server of {address} serves no parts of files.", advice=DOWNLOAD)
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
                raise NoAnswerError(f"{address} cannot be read: {error}.", advice=CHECK) from error
            time.sleep(choose_pause(error, failures))
        except RefusedError as error:
            raise AddressError(f"{address} cannot be read: {error}.", advice=CHECK) from error
