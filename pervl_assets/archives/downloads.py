"""Files fetched over HTTP: revalidated rather than fetched again, resumed rather than begun again, whole or not at all.

Belongs here: one file, one address, and every way in which a server can disappoint. Does not belong here: which files
there are (`ArchiveSpec.url`, `annotations/manifest.yaml`), and when they are fetched.

Beside a file that is being fetched stand `NAME.partial` and `NAME.partial.json` (from where, and which version of it);
both outlive a crash, and the next call goes on from there. The record of a finished download stands wherever the caller
keeps it. A file without a record, or another one than its record describes, was put there by hand: it stays as it is,
and no server is asked about it.
"""

import email.utils
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import tenacity

from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.files import PARTIAL, explain_write_errors, hash_file, write_bytes_atomically

RunResult = Literal["fetched", "changed", "unchanged", "by_hand"]

ATTEMPTS: Final = 5
"""So many failures in a row, without a byte gained between them, end a download."""

_LONGEST_PAUSE: Final = 120.0
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class Record:
    """What a finished download was.

    Attributes:
        url: Where it came from.
        bytes: Size.
        sha256: Of the bytes.
        etag: The server's `ETag`, empty if it gave none.
        last_modified: The server's `Last-Modified`, empty if it gave none.
        mtime_ns: Modification time of the file as it was put in place: tells whether somebody changed it since.
    """

    url: str
    bytes: int
    sha256: str
    etag: str
    last_modified: str
    mtime_ns: int


@dataclass(frozen=True)
class Fetched:
    """What came of a call.

    Attributes:
        outcome: `fetched` (it was not there), `changed` (other bytes than before), `unchanged`, or `by_hand`.
        record: The download's record; None for a file put there by hand.
        received: Bytes that came over the network in this call.
        stale: Why the server could not be asked, where an older download was kept; else empty.
    """

    outcome: RunResult
    record: Record | None
    received: int = 0
    stale: str = ""


class _TransientError(Exception):
    """Something that may be different the next time."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class _RefusedError(Exception):
    """Something that will be the same the next time."""


def fetch_file(
    url: str,
    target: Path,
    record_file: Path,
    client: httpx.Client,
    *,
    sha256: str | None = None,
    check: Callable[[Path], None] = lambda path: None,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
    report: Callable[[int, int | None], None] = lambda done, total: None,
) -> Fetched:
    """Bring `target` to what stands at `url`, moving as few bytes as that takes.

    Args:
        url: Its address.
        target: Where the file shall stand.
        record_file: Where the record of the download is kept.
        client: HTTP client; its time-outs and redirects are the caller's.
        sha256: What the bytes must hash to, where that is known; a file in place that has it is not asked about.
        check: Looks at the fetched file before it is moved into place, and raises what is wrong with it.
        attempts: Failures in a row, without progress, after which to give up.
        sleep: Waits; a test's clock may stand here.
        report: Called now and then with bytes done and their total, None while it is not known.

    Returns:
        What came of it. Where the server cannot be reached and an earlier download is at `target`, that one is kept.

    Raises:
        MissingInputError: It cannot be had, or it is not what it should be; nothing at `target` is changed.
        WriteError: No permission, or no space left; what was received is kept for the next call.
    """
    there = target.exists()
    record = read_record(record_file) if there else None  # of a file that was taken away, it says nothing
    if there and (record is None or not _is_as_recorded(target, record)):
        return Fetched("by_hand", None)
    if record is not None and record.sha256 == sha256:
        return Fetched("unchanged", record)
    download = _Download(url, target, client, record, report)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_TransientError),
        stop=lambda state: download.failures >= attempts,
        wait=lambda state: _choose_pause(state, download.failures),
        sleep=sleep,
        reraise=True,
    )
    try:
        with explain_write_errors(target):
            fresh = retrying(download.attempt)
    except (_TransientError, _RefusedError) as error:
        if record is not None:
            return Fetched("unchanged", record, download.received, stale=str(error))
        raise MissingInputError(
            f"{url} could not be fetched: {error}.",
            details=[f"{download.size():,} bytes are kept in {download.partial} for the next try"]
            if download.size()
            else (),
            advice=f"Try again when the network is there, or fetch it by hand to {target}.",
        ) from error
    if not fresh and record is not None:
        return Fetched("unchanged", record, download.received)
    return _put_in_place(download, record_file, record, sha256, check)


def read_record(path: Path) -> Record | None:
    """Read the record of a download; None where there is none that can be read."""
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_as_recorded(target: Path, record: Record) -> bool:
    stat = target.stat()
    return (stat.st_size, stat.st_mtime_ns) == (record.bytes, record.mtime_ns) or (
        stat.st_size == record.bytes and hash_file(target) == record.sha256
    )


def _choose_pause(state: tenacity.RetryCallState, failures: int) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _TransientError) and error.pause is not None:
        return min(error.pause, _LONGEST_PAUSE)
    return min(2.0 ** max(failures - 1, 0), _LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret


def _put_in_place(
    download: "_Download", record_file: Path, record: Record | None, sha256: str | None, check: Callable[[Path], None]
) -> Fetched:
    """Look at what was received, and move it to its place unless the same bytes stand there."""
    partial, target = download.partial, download.target
    found = hash_file(partial)
    if sha256 is not None and found != sha256:
        size = download.size()
        download.drop()
        raise MissingInputError(
            f"{download.url} is not the file it should be: {size:,} bytes with sha256 {found[:12]}…, "
            f"expected {sha256[:12]}….",
            advice="Something between here and the server changes the file (a proxy, a log-in page?), or it was "
            f"published anew. Fetch it by hand to {target}. Nothing was kept.",
        )
    same = record is not None and record.sha256 == found
    if not same:
        try:
            check(partial)
        except Exception:
            download.drop()
            raise
        with explain_write_errors(target):
            partial.replace(target)
    fresh = Record(
        url=download.url,
        bytes=target.stat().st_size,
        sha256=found,
        etag=download.version.get("etag", ""),
        last_modified=download.version.get("last_modified", ""),
        mtime_ns=target.stat().st_mtime_ns,
    )
    write_bytes_atomically(record_file, (json.dumps(asdict(fresh), indent=2) + "\n").encode())
    download.drop()
    outcome: RunResult = "unchanged" if same else "fetched" if record is None else "changed"
    return Fetched(outcome, fresh, download.received)


class _Download:
    """One file on its way: what is received stays in `NAME.partial` until it is whole."""

    def __init__(
        self,
        url: str,
        target: Path,
        client: httpx.Client,
        record: Record | None,
        report: Callable[[int, int | None], None],
    ) -> None:
        self.url, self.target, self.partial = url, target, target.with_name(target.name + PARTIAL)
        self.failures = self.received = 0
        self.version: dict[str, str] = {}
        self._client, self._record, self._report = client, record, report
        self._version_file = target.with_name(f"{target.name}{PARTIAL}.json")

    def size(self) -> int:
        """Return how many bytes wait in the partial file."""
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def drop(self) -> None:
        """Remove what is unfinished."""
        self.partial.unlink(missing_ok=True)
        self._version_file.unlink(missing_ok=True)

    def attempt(self) -> bool:
        """Ask once; return whether a whole file waits in `partial` (else the one in place is the latest).

        Raises:
            _TransientError: Worth another try.
            _RefusedError: Not worth one.
        """
        before = self.received
        try:
            return self._ask()
        except (_TransientError, httpx.TransportError) as error:
            self.failures = 1 if self.received > before else self.failures + 1
            if isinstance(error, _TransientError):
                raise
            raise _TransientError(str(error) or type(error).__name__) from error
        except httpx.InvalidURL as error:
            raise _RefusedError(str(error)) from error

    def _ask(self) -> bool:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.version = self._read_version()
        start = self.size() if self.version else 0
        headers = {"Accept-Encoding": "identity"}  # ranges and sizes are those of the file itself
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": _choose_validator(self.version)}
        elif self._record is not None and self._record.url == self.url:
            headers |= _make_conditional(self._record)
        with self._client.stream("GET", self.url, headers=headers) as response:
            match response.status_code:
                case 304:
                    return False
                case 200:
                    return self._receive(response, 0, _read_length(response))
                case 206:
                    return self._receive(response, start, self._check_range(response, start))
                case 416 if start and response.headers.get("Content-Range") == f"bytes */{start}":
                    return True  # it was whole; only moving it into place was left
                case 416:  # what waits here is longer than what stands there now
                    self.drop()
                    raise _TransientError("the server has nothing at the place where the download was cut", 0.0)
                case status if status in _TRANSIENT:
                    raise _TransientError(f"the server answers {status}", _read_pause(response))
                case status:
                    raise _RefusedError(f"the server answers {status} {response.reason_phrase}")

    def _check_range(self, response: httpx.Response, start: int) -> int | None:
        """Return the whole file's size, if the answer goes on where the partial file ends."""
        stated = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if start == 0 or stated is None or int(stated[1]) != start:
            self.drop()
            raise _TransientError("the server sends another part than the one asked for", 0.0)
        return None if stated[3] == "*" else int(stated[3])

    def _receive(self, response: httpx.Response, start: int, total: int | None) -> bool:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise _RefusedError(f"the server packs its answer ({encoding}) although it was asked not to")
        free = shutil.disk_usage(self.target.parent).free
        if total is not None and total - start > free:
            raise _RefusedError(f"it needs {total - start:,} bytes and the disk has {free:,} left")
        if start == 0:
            self._begin(response)
        done = start
        with self.partial.open("ab" if start else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                done += len(block)
                self.received += len(block)
                self._report(done, total)
        if total is not None and done != total:
            if done > total:
                self.drop()
            raise _TransientError(f"{done:,} bytes came where {total:,} were announced")
        return True

    def _begin(self, response: httpx.Response) -> None:
        """Forget what was received of another version, and note which version this is."""
        self.drop()
        headers = response.headers
        self.version = {
            "url": self.url,
            "etag": headers.get("ETag", ""),
            "last_modified": headers.get("Last-Modified", ""),
        }
        write_bytes_atomically(self._version_file, json.dumps(self.version).encode())

    def _read_version(self) -> dict[str, str]:
        """Return the version that the partial file belongs to; empty where nothing can be added to it safely."""
        try:
            version: dict[str, Any] = json.loads(self._version_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return version if version.get("url") == self.url and _choose_validator(version) else {}


def _choose_validator(version: Mapping[str, str]) -> str:
    """Return what `If-Range` takes: a strong ETag, else the date; empty where a server gave neither."""
    etag = version.get("etag", "")
    return etag if etag and not etag.startswith("W/") else version.get("last_modified", "")


def _make_conditional(record: Record) -> dict[str, str]:
    headers = {"If-None-Match": record.etag, "If-Modified-Since": record.last_modified}
    return {name: value for name, value in headers.items() if value}


def _read_length(response: httpx.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _read_pause(response: httpx.Response) -> float | None:
    """Return how many seconds `Retry-After` asks for: a number, or a date."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
