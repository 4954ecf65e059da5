"""One file over HTTP: resumed after a cut, revalidated by its version, and put in place once it is whole.

Beside a file that is being downloaded are `NAME.partial`, `NAME.partial.json` (its address, version, and the size and
hash of the bytes that are on disk) and `NAME.partial.lock`. The first two survive a crash; the next call verifies them
and resumes. The record of a finished download is stored where the caller wants it. A file without a record was put
there by hand: it is left unchanged and not revalidated. A file that differs from its record is an error.
"""

import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

import httpx
from pydantic import TypeAdapter

from pervl_assets.archives.http_get import (
    DATE,
    ETAG,
    Answer,
    RefusedError,
    TransientError,
    choose_pause,
    get,
    match_header,
)
from pervl_assets.core.errors import ArchiveError, MissingInputError, PervlError
from pervl_assets.core.file_kinds import recognize
from pervl_assets.core.files import (
    PARTIAL,
    Lock,
    explain_read_errors,
    explain_write_errors,
    hash_file,
    move_synced,
    sync,
    write_bytes_atomically,
)
from pervl_assets.core.text import escape_terminal, hide_secrets

ATTEMPTS: Final = 5
"""Number of failures in a row, without progress between them, that end a download."""

_PROGRESS: Final = 64 << 10
"""Bytes by which a failed request must extend the file to count as progress: a few at a time would never end."""

_LONGEST: Final = 48 * 3600.0
"""Seconds after which a call ends. Received bytes are kept, so the next call resumes."""

_RANGE: Final = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")

_SYNC_BYTES: Final = 32 << 20
"""Received bytes between two syncs to disk: a power loss costs no more than these."""

_SMALL: Final = 256 << 20
"""Bytes up to which a file in place is hashed at every call, even if its size and time are as recorded."""

_MESSAGE: Final = re.compile(rb"(\xef\xbb\xbf)?\s*[<{\[]")
"""Beginning of XML or JSON: no public input begins so."""

_LEAST_SHARE: Final = 0.9
"""Size of a new version, as a share of the earlier one, below which it is not believed."""

_Report = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Record:
    """The record of a finished download: its address, the file, and the server's `ETag` and `Last-Modified`, if sent.

    A different size, or a different time and hash, shows that the file was changed.
    """

    url: str
    bytes: int
    sha256: str
    etag: str
    last_modified: str
    mtime_ns: int


@dataclass(frozen=True)
class _Part:
    """A part of a file: where it comes from, its version, the whole file's size if known, and the bytes on disk."""

    url: str
    etag: str = ""
    last_modified: str = ""
    total: int | None = None
    bytes: int = 0
    sha256: str = ""

    @property
    def validator(self) -> str:
        """The value of `If-Range`: a strong ETag, else the date; empty if the server sent neither."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


_RECORD: Final = TypeAdapter(Record)
_PART: Final = TypeAdapter(_Part)


@dataclass(frozen=True)
class Fetched:
    """The result of a call.

    Attributes:
        outcome: `fetched` (it did not exist), `changed` (other bytes than before), `unchanged`, or `by_hand`.
        record: The download's record; None for a file put there by hand.
        received: Bytes received in this call.
        stale: Why an earlier download was kept unrevalidated: no connection, or not the file; else empty.
    """

    outcome: Literal["fetched", "changed", "unchanged", "by_hand"]
    record: Record | None
    received: int = 0
    stale: str = ""


def fetch_file(
    url: str,
    target: Path,
    record_file: Path,
    client: httpx.Client,
    *,
    sha256: str | None = None,
    most_bytes: int | None = None,
    check: Callable[[Path], object] = lambda path: None,
    attempts: int = ATTEMPTS,
    seconds: float = _LONGEST,
    sleep: Callable[[float], None] = time.sleep,
    on_progress: _Report = lambda done, total: None,
) -> Fetched:
    """Bring `target` to the content of `url`, transferring as few bytes as possible.

    Args:
        url: Its address.
        target: Path of the file.
        record_file: Path of the download's record.
        client: HTTP client with the caller's time-outs. It is not used if nothing is to be requested.
        sha256: Hash of the bytes, if it is known; a recorded file that has it is not revalidated.
        most_bytes: Size above which it is not the file.
        check: Checks the downloaded file before it is moved into place, and raises its faults as `PervlError`.
        attempts: Failures in a row, without progress, that end the download.
        seconds: Time after which the call ends.
        sleep: Waits; tests replace it.
        on_progress: Called now and then with bytes received and their total, None while it is not known.

    Returns:
        The result. An earlier download stays at `target` if the server cannot be reached, or does not send a whole
        file: an error page, nothing, less than nine tenths of the earlier size, or what `check` refuses.

    Raises:
        MissingInputError: It cannot be downloaded, has the wrong hash, or is refused by `check`.
        ArchiveError: `target` differs from its record.
        WriteError: No permission, no space left (all received bytes but the last 32 MB are kept for the next call),
            or another run is downloading it.
    """
    record = find_record(target, record_file)
    with explain_read_errors(target):
        if record is None and target.exists():
            return Fetched("by_hand", None)
    if record is not None and record.sha256 == sha256:
        return Fetched("unchanged", record)
    download = _Download(url, target, client, record, on_progress, sha256, most_bytes)
    try:
        with explain_write_errors(target):
            if download.run(attempts, time.monotonic() + seconds, sleep):
                return download.put_in_place(record_file, check)
        return Fetched("unchanged", record, download.received)
    except (RefusedError, MissingInputError) as error:
        if record is not None:
            reason = error.problem if isinstance(error, MissingInputError) else str(error)
            return Fetched("unchanged", record, download.received, stale=escape_terminal(reason.rstrip(".")))
        if isinstance(error, MissingInputError):  # of the client: its proxies or certificates cannot be used
            raise
        raise download.explain(error) from error
    finally:
        download.unlock()


def find_record(target: Path, record_file: Path) -> Record | None:
    """Return the record of the file at `target`; None if there is no file, or it was put there by hand.

    Raises:
        ArchiveError: The file differs from its record.
    """
    with explain_read_errors(target):
        record = read_record(record_file) if target.exists() else None
    if record and not (_is_as_recorded(target, record) or _finish_move(target, record)):
        raise ArchiveError(
            f"{target} is not the file that was downloaded: it has {target.stat().st_size:,} bytes where "
            f"its record has {record.bytes:,}, or other content.",
            advice=f"Remove it, and it is downloaded again. To use it as it is, remove its record {record_file}.",
        )
    return record


def read_record(path: Path) -> Record | None:
    """Read the record of a download; None if there is none, or it is damaged.

    Raises:
        ArchiveError: It cannot be read.
    """
    try:
        with explain_read_errors(path):
            record = _RECORD.validate_json(path.read_bytes() if path.exists() else b"", strict=True)
    except ValueError:
        return None
    return replace(record, etag=match_header(ETAG, record.etag), last_modified=match_header(DATE, record.last_modified))


def _is_as_recorded(target: Path, record: Record) -> bool:
    with explain_read_errors(target):
        stat = target.stat()
        if stat.st_size != record.bytes:
            return False
        is_old = stat.st_mtime_ns == record.mtime_ns and stat.st_size > _SMALL
        return is_old or hash_file(target) == record.sha256


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


class _Download:
    """A file that is being downloaded: received bytes stay in `NAME.partial` until it is whole."""

    def __init__(
        self,
        url: str,
        target: Path,
        client: httpx.Client,
        record: Record | None,
        on_progress: _Report,
        sha256: str | None,
        most_bytes: int | None,
    ) -> None:
        self.partial, self.received = target.with_name(target.name + PARTIAL), 0
        self._url, self._target, self._client = url, target, client
        self._record, self._on_progress = record, on_progress
        self._sha256, self._most_bytes = sha256, most_bytes
        self._part, self._digest = _Part(hide_secrets(url)), hashlib.sha256()
        self._part_file = target.with_name(f"{target.name}{PARTIAL}.json")
        self._lock: Lock | None = None
        self._end = 0.0

    def run(self, attempts: int, end: float, sleep: Callable[[float], None]) -> bool:
        """Request until `attempts` failures in a row, or the time `end`; return whether `partial` is a whole new file.

        Else the file in place is the latest.

        Raises:
            RefusedError: Another try would not help, or there was the last.
            WriteError: Another run is downloading it.
        """
        failures, furthest, self._end = 0, 0, end
        self._target.parent.mkdir(parents=True, exist_ok=True)
        if self.partial.exists():
            self._take_lock()
            self._resume()
        while True:
            try:
                return self._request()
            except TransientError as error:
                is_progress = self._part.bytes >= furthest + _PROGRESS
                failures = 1 if is_progress else failures + 1
                furthest = max(furthest, self._part.bytes)
                if failures >= attempts:
                    raise RefusedError(str(error)) from error
                self._check_time()
                sleep(choose_pause(error, failures))

    def explain(self, error: Exception) -> MissingInputError:
        """Return the error of a download that failed."""
        size = self.size()
        return MissingInputError(
            f"{hide_secrets(self._url)} could not be downloaded: {error}.",
            details=[f"{size:,} bytes kept in {self.partial} for the next try"] if size else (),
            advice=f"Try again when the network works, or download it by hand to {self._target}.",
        )

    def put_in_place(self, record_file: Path, check: Callable[[Path], object]) -> Fetched:
        """Check the received file, and move it into place unless the same bytes are there."""
        partial, target, found = self.partial, self._target, self._digest.hexdigest()
        same = self._record is not None and self._record.sha256 == found
        try:
            if self._sha256 not in (None, found):
                raise RefusedError(
                    f"it is not the file it should be but {self.size():,} bytes with sha256 {found[:12]}…, expected "
                    f"{str(self._sha256)[:12]}… (changed by a proxy, a log-in page, or a new version)"
                )
            if not same:
                if self._sha256 is None:
                    self._refuse_other_kinds()
                check(partial)
        except PervlError as error:
            self.drop()
            raise RefusedError(f"it is not the file it should be: {error.problem.rstrip('.')}") from error
        except RefusedError:
            self.drop()
            raise
        stat = (target if same else partial).stat()
        new = Record(self._part.url, stat.st_size, found, self._part.etag, self._part.last_modified, stat.st_mtime_ns)
        # The record first: after a crash between the two, the next call goes on from the partial file, which is synced.
        write_bytes_atomically(record_file, (json.dumps(asdict(new), indent=2) + "\n").encode())
        if not same:
            move_synced(partial, target)
        self.drop()
        return Fetched("unchanged" if same else "changed" if self._record else "fetched", new, self.received)

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
        self._part, self._digest = _Part(self._part.url), hashlib.sha256()
        self._part_file.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)

    def _take_lock(self) -> None:
        if self._lock is None:
            self._lock = _lock(self._target)

    def _check_time(self) -> None:
        if time.monotonic() > self._end:
            raise RefusedError("it takes too long")

    def _resume(self) -> None:
        """Continue with the bytes on disk, if they are those that were received, of a version that can be requested."""
        try:
            part = _PART.validate_json(self._part_file.read_bytes(), strict=True)
        except (OSError, ValueError):
            part = self._part
        sound = replace(part, etag=match_header(ETAG, part.etag), last_modified=match_header(DATE, part.last_modified))
        if part.url == self._part.url and part.bytes and sound == part and part.validator and self.size() >= part.bytes:
            os.truncate(self.partial, part.bytes)  # what follows was not synced
            with self.partial.open("rb") as file:
                digest = hashlib.file_digest(file, hashlib.sha256)
            if digest.hexdigest() == part.sha256:
                self._part, self._digest = part, digest
                return
        self.drop()

    def _keep(self) -> None:
        """Sync the received bytes to disk, and describe them in `NAME.partial.json`."""
        sync(self.partial)
        self._part = replace(self._part, sha256=self._digest.hexdigest())
        write_bytes_atomically(self._part_file, json.dumps(asdict(self._part)).encode())

    def _request(self) -> bool:
        start = self._part.bytes if self._part.validator else 0
        headers = {"Accept-Encoding": "identity"}  # ranges and sizes are those of the file itself
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": self._part.validator}
        elif self._record is not None and self._record.url == self._part.url:
            known = {"If-None-Match": self._record.etag, "If-Modified-Since": self._record.last_modified}
            headers |= {name: value for name, value in known.items() if value}
        with get(self._client, self._url, headers) as answer:
            match answer.status:
                case 304 if self._record:
                    return False
                case 200:
                    length = answer.headers.get("Content-Length", "")
                    return self._receive(answer, 0, int(length) if length.isdecimal() else None)
                case 206:
                    return self._receive(answer, start, self._check_range(answer, start))
                case 416 if start and self._is_whole(answer.headers.get("Content-Range", "")):
                    return True  # it was whole; only moving it into place was left
                case 416:  # the partial file is longer than the server's
                    self.drop()
                    raise TransientError("the server's file is shorter than the partial download", 0.0)
                case _:
                    answer.refuse()

    def _is_whole(self, stated: str) -> bool:
        size = self._part.bytes
        return stated == f"bytes */{size}" and self._part.total in (None, size)

    def _check_range(self, answer: Answer, start: int) -> int | None:
        """Return the whole file's size, if the answer continues the partial file."""
        stated = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        total = int(stated[3]) if stated and stated[3] != "*" else None
        same = match_header(ETAG, answer.headers.get("ETag", self._part.etag)) == self._part.etag
        same = same and total in (None, self._part.total or total)
        if start == 0 or stated is None or int(stated[1]) != start or not same:
            self.drop()
            raise TransientError("the server sends a different part than was requested", 0.0)
        return total or self._part.total

    def _receive(self, answer: Answer, start: int, total: int | None) -> bool:
        self._take_lock()
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise RefusedError(f"the server compresses its answer ({encoding:.40}) although the request forbids it")
        if self._sha256 is None and not {"content-length", "transfer-encoding"} & {*answer.headers}:
            raise RefusedError("the server does not say where the file ends, so a cut could not be noticed")
        most = self._bound(start, total)
        if start == 0:  # the bytes of another version go
            self.drop()
            etag, date = (answer.headers.get(name, "") for name in ("ETag", "Last-Modified"))
            self._part = _Part(self._part.url, match_header(ETAG, etag), match_header(DATE, date), total)
        kept = start
        try:
            with self.partial.open("ab" if start else "wb", buffering=0) as file:
                for block in answer.read_blocks():
                    self._write(file, block)
                    if self._part.bytes > most:
                        self.drop()
                        raise RefusedError(f"the server sends more than {most:,} bytes")
                    if self._part.bytes - kept > _SYNC_BYTES:
                        kept = self._part.bytes
                        self._keep()
                    self._on_progress(self._part.bytes, total)
                    self._check_time()
        finally:
            if self._part.bytes > kept:
                self._keep()
        if total is not None and self._part.bytes != total:
            done = self._part.bytes
            if done > total:
                self.drop()
            raise TransientError(f"{done:,} bytes received, {total:,} announced")
        return True

    def _write(self, file: io.FileIO, block: bytes) -> None:
        """Append to the partial file. After a failure, `_part` describes what was written."""
        while block:
            written = file.write(block)
            self._digest.update(block[:written])
            self._part = replace(self._part, bytes=self._part.bytes + written)
            self.received += written
            block = block[written:]

    def _bound(self, start: int, total: int | None) -> int:
        """Return the size above which the file is not received: it is not the file, or would fill the disk."""
        if self._most_bytes is not None and (total or 0) > self._most_bytes:
            raise RefusedError(f"the server announces {total:,} bytes, and it has at most {self._most_bytes:,}")
        free = shutil.disk_usage(self._target.parent).free + (0 if start else self.size())  # the old part is removed
        if total is not None and total - start > free:
            raise RefusedError(f"it needs {total - start:,} bytes and the disk has {free:,} left")
        most = total if total is not None else start + free // 2
        return most if self._most_bytes is None else min(most, self._most_bytes)

    def _refuse_other_kinds(self) -> None:
        """Refuse what servers and networks send in place of a file."""
        beginning, end = _read_ends(self.partial)
        size, earlier = self.size(), self._record.bytes if self._record else 0
        if kind := recognize(beginning):
            raise RefusedError(f"what the server sends is {kind.name}: {beginning[:40]!r}")
        if _MESSAGE.match(beginning):
            raise RefusedError(f"what the server sends is a message: {beginning[:40]!r}")
        if size < _LEAST_SHARE * earlier or (earlier and end != b"\n" == _read_ends(self._target)[1]):
            raise RefusedError(
                f"the server sends {size:,} bytes, which are cut off or far fewer than the earlier {earlier:,}: "
                f"remove {self._target} if that is right"
            )


def _read_ends(path: Path) -> tuple[bytes, bytes]:
    """Return the first 512 bytes of a file, and its last one."""
    with path.open("rb") as file:
        beginning = file.read(512)
        file.seek(-1 if beginning else 0, os.SEEK_END)
        return beginning, file.read()
