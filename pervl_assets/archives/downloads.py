"""One file over HTTP: resumed after a cut, revalidated by its version, and put in place once it is whole.

Beside a file that is being downloaded are `NAME.partial`, `NAME.partial.json` (its address and version) and
`NAME.partial.lock`. The first two survive a crash; the next call resumes from them. The record of a finished
download is stored where the caller wants it. A file without a record, or a different one than its record describes, was
put there by hand: it is left unchanged and not revalidated.
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

from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.files import PARTIAL, Lock, explain_write_errors, hash_file, move_synced, write_bytes_atomically
from pervl_assets.core.text import escape_terminal

ATTEMPTS: Final = 5
"""Number of failures in a row, without a byte received between them, that end a download."""

_LONGEST_PAUSE: Final = 120.0
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_Report = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Record:
    """The record of a finished download: its address, the file, and the server's `ETag` and `Last-Modified`, if sent.

    A different size or modification time shows that the file was changed.
    """

    url: str
    bytes: int
    sha256: str
    etag: str
    last_modified: str
    mtime_ns: int


@dataclass(frozen=True)
class Fetched:
    """The result of a call.

    Attributes:
        outcome: `fetched` (it did not exist), `changed` (other bytes than before), `unchanged`, or `by_hand`.
        record: The download's record; None for a file put there by hand.
        received: Bytes received in this call.
        stale: Why the server could not be reached, if an older download was kept; else empty.
    """

    outcome: Literal["fetched", "changed", "unchanged", "by_hand"]
    record: Record | None
    received: int = 0
    stale: str = ""


class _TransientError(Exception):
    """A failure that may not happen the next time; `pause` is the wait in seconds that the server requests."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class _RefusedError(Exception):
    """A failure that ends the download."""


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
    on_progress: _Report = lambda done, total: None,
) -> Fetched:
    """Bring `target` to the content of `url`, transferring as few bytes as possible.

    Args:
        url: Its address.
        target: Path of the file.
        record_file: Path of the download's record.
        client: HTTP client with the caller's time-outs and redirects.
        sha256: Hash of the bytes, if it is known; a recorded file that has it is not revalidated.
        check: Checks the downloaded file before it is moved into place, and raises its faults.
        attempts: Failures in a row, without progress, that end the download.
        sleep: Waits; tests replace it.
        on_progress: Called now and then with bytes received and their total, None while it is not known.

    Returns:
        The result. If the server cannot be reached and an earlier download is at `target`, that one is kept.

    Raises:
        MissingInputError: It cannot be downloaded, or has the wrong hash; `target` is unchanged.
        WriteError: No permission, no space left (received bytes are kept for the next call), or another run is
            downloading it.
    """
    exists = target.exists()
    record = read_record(record_file) if exists else None  # it says nothing about a file that was removed
    if exists and not (record and (_is_as_recorded(target, record) or _finish_move(target, record))):
        return Fetched("by_hand", None)
    if record is not None and record.sha256 == sha256:
        return Fetched("unchanged", record)
    download = _Download(url, target, client, record, on_progress)
    try:
        with explain_write_errors(target):
            is_new = download.run(attempts, sleep)
        if not is_new:
            return Fetched("unchanged", record, download.received)
        return download.put_in_place(record_file, sha256, check)
    except _RefusedError as error:
        if record is not None:
            return Fetched("unchanged", record, download.received, stale=escape_terminal(str(error)))
        size = download.size()
        raise MissingInputError(
            f"{url} could not be downloaded: {error}.",
            details=[f"{size:,} bytes are kept in {download.partial} for the next try"] if size else (),
            advice=f"Try again when the network works, or download it by hand to {target}.",
        ) from error
    finally:
        download.unlock()


def read_record(path: Path) -> Record | None:
    """Read the record of a download; None if there is none, or it is damaged."""
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _is_as_recorded(target: Path, record: Record) -> bool:
    stat = target.stat()
    return (stat.st_size, stat.st_mtime_ns) == (record.bytes, record.mtime_ns) or (
        stat.st_size == record.bytes and hash_file(target) == record.sha256
    )


def _finish_move(target: Path, record: Record) -> bool:
    """Move the recorded file from `NAME.partial` over an older `target`, and return whether `target` is as recorded.

    For a crash between the two last steps of `put_in_place`.
    """
    partial = target.with_name(target.name + PARTIAL)
    if not partial.is_file() or target.stat().st_mtime_ns > record.mtime_ns:
        return False
    with _lock(target):
        if partial.is_file() and _is_as_recorded(partial, record):
            with explain_write_errors(target):
                move_synced(partial, target)
                target.with_name(f"{target.name}{PARTIAL}.json").unlink(missing_ok=True)
    return _is_as_recorded(target, record)


def _lock(target: Path) -> Lock:
    """Keep other runs from a download. Raises `WriteError` if one has it."""
    return Lock(target.with_name(f"{target.name}{PARTIAL}.lock"), f"downloading {target}")


def _choose_pause(error: Exception, failures: int) -> float:
    if isinstance(error, _TransientError) and error.pause is not None:
        return min(error.pause, _LONGEST_PAUSE)
    return min(2.0 ** (failures - 1), _LONGEST_PAUSE) * random.uniform(0.75, 1.25)  # noqa: S311 - not a secret


class _Download:
    """A file that is being downloaded: received bytes stay in `NAME.partial` until it is whole."""

    def __init__(
        self, url: str, target: Path, client: httpx.Client, record: Record | None, on_progress: _Report
    ) -> None:
        self.partial, self.received = target.with_name(target.name + PARTIAL), 0
        self._url, self._target, self._client = url, target, client
        self._record, self._on_progress = record, on_progress
        self._version: dict[str, str] = {}
        self._version_file = target.with_name(f"{target.name}{PARTIAL}.json")
        self._lock: Lock | None = None

    def run(self, attempts: int, sleep: Callable[[float], None]) -> bool:
        """Request until `attempts` failures in a row; return whether `partial` is a whole new file.

        Else the file in place is the latest.

        Raises:
            _RefusedError: Another try would not help, or there was the last.
            WriteError: Another run is downloading it.
        """
        failures = 0
        while True:
            before = self.received
            try:
                return self._request()
            except httpx.InvalidURL as error:
                raise _RefusedError(str(error)) from error
            except (_TransientError, httpx.TransportError) as error:
                failures = 1 if self.received > before else failures + 1
                if failures >= attempts:
                    raise _RefusedError(str(error) or type(error).__name__) from error
                sleep(_choose_pause(error, failures))

    def put_in_place(self, record_file: Path, sha256: str | None, check: Callable[[Path], None]) -> Fetched:
        """Check the received file, and move it into place unless the same bytes are there."""
        partial, target, found = self.partial, self._target, hash_file(self.partial)
        same = self._record is not None and self._record.sha256 == found
        try:
            if sha256 not in (None, found):
                raise MissingInputError(
                    f"{self._url} is not the file it should be: {self.size():,} bytes with sha256 {found[:12]}…, "
                    f"expected {str(sha256)[:12]}….",
                    advice="Something between here and the server changes the file (a proxy, a log-in page?), or a new "
                    f"version was published. Download it by hand to {target}. Nothing was kept.",
                )
            if not same:
                check(partial)
        except Exception:
            self.drop()
            raise
        stat = (target if same else partial).stat()
        new = Record(bytes=stat.st_size, sha256=found, mtime_ns=stat.st_mtime_ns, **self._version)
        # The record first: after a crash between the two, the next call goes on from the partial file.
        write_bytes_atomically(record_file, (json.dumps(asdict(new), indent=2) + "\n").encode())
        if not same:
            with explain_write_errors(target):
                move_synced(partial, target)
        self.drop()
        return Fetched("unchanged" if same else "changed" if self._record else "fetched", new, self.received)

    def _take_lock(self) -> None:
        if self._lock is None:
            self._lock = _lock(self._target)

    def unlock(self) -> None:
        """Release the lock, if this run had it."""
        if self._lock is not None:
            self._lock.remove()
            self._lock = None

    def size(self) -> int:
        """Return the number of bytes in the partial file."""
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def drop(self) -> None:
        """Remove the unfinished download."""
        self.partial.unlink(missing_ok=True)
        self._version_file.unlink(missing_ok=True)

    def _request(self) -> bool:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        if self.partial.exists():
            self._take_lock()
        self._version = self._read_version()
        start = self.size() if self._version else 0
        headers = {"Accept-Encoding": "identity"}  # ranges and sizes are those of the file itself
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": _choose_validator(self._version)}
        elif self._record is not None and self._record.url == self._url:
            known = {"If-None-Match": self._record.etag, "If-Modified-Since": self._record.last_modified}
            headers |= {name: value for name, value in known.items() if value}
        with self._client.stream("GET", self._url, headers=headers) as response:
            match response.status_code:
                case 304 if self._record:
                    return False
                case 200:
                    length = response.headers.get("Content-Length", "")
                    return self._receive(response, 0, int(length) if length.isdecimal() else None)
                case 206:
                    return self._receive(response, start, self._check_range(response, start))
                case 416 if start and response.headers.get("Content-Range") == f"bytes */{start}":
                    return True  # it was whole; only moving it into place was left
                case 416:  # the partial file is longer than the server's
                    self.drop()
                    raise _TransientError("the server's file is shorter than the partial download", 0.0)
                case status if status in _TRANSIENT:
                    raise _TransientError(f"the server answers {status}", _read_pause(response))
                case status:
                    raise _RefusedError(f"the server answers {status} {response.reason_phrase}")

    def _check_range(self, response: httpx.Response, start: int) -> int | None:
        """Return the whole file's size, if the answer continues the partial file."""
        stated = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if start == 0 or stated is None or int(stated[1]) != start:
            self.drop()
            raise _TransientError("the server sends a different part than was requested", 0.0)
        return None if stated[3] == "*" else int(stated[3])

    def _receive(self, response: httpx.Response, start: int, total: int | None) -> bool:
        self._take_lock()
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise _RefusedError(f"the server compresses its answer ({encoding}) although the request forbids it")
        free = shutil.disk_usage(self._target.parent).free
        if total is not None and total - start > free:
            raise _RefusedError(f"it needs {total - start:,} bytes and the disk has {free:,} left")
        if start == 0:  # the bytes of another version go
            self.drop()
            etag, date = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
            self._version = {"url": self._url, "etag": etag, "last_modified": date}
            write_bytes_atomically(self._version_file, json.dumps(self._version).encode())
        done = start
        with self.partial.open("ab" if start else "wb") as file:
            for block in response.iter_raw():
                file.write(block)
                done += len(block)
                self.received += len(block)
                self._on_progress(done, total)
        if total is not None and done != total:
            if done > total:
                self.drop()
            raise _TransientError(f"{done:,} bytes were received where {total:,} were announced")
        return True

    def _read_version(self) -> dict[str, str]:
        """Return the version of the partial file; empty if nothing can be appended to it safely."""
        try:
            version: dict[str, Any] = json.loads(self._version_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return version if version.get("url") == self._url and _choose_validator(version) else {}


def _choose_validator(version: Mapping[str, str]) -> str:
    """Return the value for `If-Range`: a strong ETag, else the date; empty if the server sent neither."""
    etag = version.get("etag", "")
    return etag if etag and not etag.startswith("W/") else version.get("last_modified", "")


def _read_pause(response: httpx.Response) -> float | None:
    """Return the seconds in `Retry-After`, which is a number or a date."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
