"""The store of a data root in a bucket, of S3, Google Cloud Storage or another server with conditional writes.

Below the root: `assets/…`, the files and manifests of values, with the names that they have in a folder; and
`objects/<first 2>/<sha256>`, the files that manifests name, each content once. A value is replaced by one conditional
write of its manifest, after its objects were put. So readers find the old value or the new one, and of two writers, of
which one may be an orphan that its run has given up, the second one fails and has changed nothing.

`damaged/<sha256>` is an empty mark: the next writer that names this object uploads it again, on whatever machine.

`folder` is a working copy on this machine. It is never the truth: it may be lost, or be another one in each process.
"""

import contextlib
import hashlib
import json
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

from pervl_assets.core.addresses import Address, Place
from pervl_assets.core.errors import SchemaError, WriteError
from pervl_assets.core.files import PARTIAL, VerifyResult, explain_write_errors, hash_file, is_whole, make_folder
from pervl_assets.core.workers import map_in_threads
from pervl_assets.storage import pruning
from pervl_assets.storage.bucket_client import VALUES, BucketClient, locate_object, log_failure, map_requests
from pervl_assets.storage.pruning import find_left, prune_bucket
from pervl_assets.storage.store import Listing, ManifestKind, Pruned, Store, StoredFile, locate_below, make_conflict
from pervl_assets.storage.unfinished import remove_work

if TYPE_CHECKING:
    from obstore import ObjectMeta

_RELEASE: Final = "release"
_DAMAGED: Final = "damaged"
_PAGE: Final = 1000
"""Objects that one request lists."""
_LISTED: Final = 100
"""Objects that are listed at most for each one that is wanted: a request that lists costs as much as ten others."""
_SETTINGS: Final = (".yaml", ".yml", ".toml", ".cfg", ".ini", ".py")
"""Extensions of files that programs read from the folder they are started in."""
_AT_WORK: Final = timedelta(hours=1)
_LEFT_SECONDS: Final = 86_400.0


@dataclass(frozen=True)
class _Copy:
    """What is known of a file of the working copy: the object that it is a copy of, and its own size and time."""

    e_tag: str
    sha256: str
    bytes: int
    mtime_ns: int


class ObjectStore(Store):
    """Keeps values in a bucket.

    Args:
        address: The data root, e.g. `s3://pervl/data`.
        work: Folder of this machine for the working copy and what is noted of it.
    """

    def __init__(self, address: Address, work: Path) -> None:
        super().__init__(work / "data", work)
        self._address, self._client, self._notes = address, BucketClient(address), work / "notes"
        self._seen: dict[str, ObjectMeta | None] = {}
        self._kept: dict[str, float] = {}
        self._named: dict[str, float] = {}
        self._old: set[str] = set()

    @cached_property
    def _staged(self) -> Path:
        """The folder of files that are not moved to their places yet, without those of processes that were killed."""
        folder = self.own / "staged"
        for left in folder.glob("*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        return folder

    def locate(self, name: str) -> Path:
        """Return the path of a file or folder that a manifest names.

        No manifest names another value, or a file of settings at the root: a `dagster.yaml` or `.env` there could run
        code.
        """
        path = super().locate(name)
        if path.is_relative_to(self.folder / VALUES) and not path.is_relative_to(self.folder / VALUES / _RELEASE):
            raise SchemaError(f"The name {name!r} is that of a value.", advice="Materialize its asset again.")
        if path.parent == self.folder and (path.name.startswith(".") or path.suffix in _SETTINGS):
            raise SchemaError(
                f"The name {name!r} is that of a file from which programs read settings.",
                advice="Materialize its asset again.",
            )
        return path

    def locate_input(self, place: Place, others: Iterable[PurePath]) -> Place:
        """Return the place, if it is below the data root or one of `others`: a card may name any file or server."""
        if isinstance(place, Path) and not place.is_absolute():
            return locate_below(self.folder, str(place))
        path = PurePath(str(place))
        if ".." in path.parts or not any(map(path.is_relative_to, (PurePath(str(self._address)), *others))):
            raise SchemaError(
                f"The input {place} is neither below the data root nor in a place that the settings name.",
                advice="Set PERVL_RAW or PERVL_ANNOTATIONS as where its raw asset was materialized, or do that again.",
            )
        return place

    def check_sharing(self) -> None:
        """Check nothing: every manifest is put on a condition."""

    def show(self, path: Path) -> str:
        """Return the address of a path."""
        return self._client.show(self.name(path))

    def list_values(self) -> Listing:
        """Return the ETag of every value and manifest by its name, in one request per 1,000 of them."""
        return {name: _get_tag(meta) for name, meta in self._client.list(VALUES) if PARTIAL not in name}

    def exists(self, path: Path, parts: Callable[[], Iterable[Path]], listing: Listing | None = None) -> bool:
        """Return whether a file or manifest exists: its objects were put before it."""
        name = self.name(path)
        return name in listing if listing is not None else self._client.look_up(name) is not None

    def stamp(self, path: Path, parts: Callable[[], Iterable[Path]], listing: Listing | None = None) -> str:
        """Return the ETag of a file or manifest, which holds the hashes of its objects."""
        if listing is not None and (e_tag := listing.get(self.name(path))):
            return e_tag
        meta = self._client.look_up(self.name(path)) if listing is None else None
        if meta is None:
            raise FileNotFoundError(2, "No such object", self.show(path))
        return _get_tag(meta)

    def begin(self, path: Path) -> None:
        """Remember the ETag: a value that is written by others from now on is not replaced."""
        self._seen[self.name(path)] = self._client.look_up(self.name(path))

    def pull(self, path: Path, *, again: bool = False) -> None:
        """Download a value's file or manifest, unless the working copy has it."""
        if not self._download(path, again=again):
            with explain_write_errors(path):
                path.unlink(missing_ok=True)

    def pull_file(self, path: Path) -> bool:
        """Download a file, unless the working copy has it. Return whether there is one."""
        return self._download(path)

    def _download(self, path: Path, *, again: bool = False) -> bool:
        name, known = self.name(path), None if again else self._read_note(path)
        with self._make_file() as new:
            try:
                meta, sha256 = self._client.get(name, new, known.e_tag if known else None)
            except FileNotFoundError:
                self._seen.setdefault(name, None)
                return False
            if meta is not None:
                self._keep_copy(new, path, meta, sha256)
                self._seen.setdefault(name, meta)
        return True

    def pull_files(self, files: Iterable[StoredFile]) -> None:
        """Download the objects that the working copy has not, and compare them with their hashes."""
        files = [*files]
        self._named.update(dict.fromkeys((file.sha256 for file in files), time.monotonic()))
        whole = map_in_threads(lambda file: is_whole(file.path, file.bytes, file.sha256), files)
        map_requests(self._pull_object, [file for file, is_there in zip(files, whole, strict=True) if not is_there])

    def _pull_object(self, file: StoredFile) -> None:
        with self._make_file() as new, explain_write_errors(file.path):
            if self._check_object(file, new) == "same":
                make_folder(file.path.parent)
                new.replace(file.path)
            else:
                file.path.unlink(missing_ok=True)

    @contextmanager
    def stage(self, path: Path) -> Iterator[Path]:
        """Yield a path in a folder of its own: the working copy changes when the value is kept."""
        folder = self._staged / uuid.uuid4().hex
        try:
            yield folder / path.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def push_files(self, files: Iterable[StoredFile]) -> None:
        """Upload the objects that the bucket has not, or that may be pruned before a manifest names them."""
        files, now, oldest = [*files], time.monotonic(), datetime.now(UTC) - pruning.SAFE
        damaged = {name[-64:] for name, _ in self._client.list(_DAMAGED)} if files else set()
        wanted = {f.sha256: f for f in files if f.sha256 in damaged or not _is_recent(self._kept, f.sha256)}
        found = self._find_objects(wanted.keys() - damaged)
        there = {sha256: meta for sha256, meta in found.items() if meta["size"] == wanted[sha256].bytes}
        old = {sha256 for sha256, meta in there.items() if meta["last_modified"] < oldest}
        named = {sha256 for sha256 in old if _is_recent(self._named, sha256)}
        map_requests(self._put_object, [wanted[sha256] for sha256 in wanted.keys() - (there.keys() - old) - named])
        self._unmark(wanted.keys() & damaged)
        self._kept.update(dict.fromkeys(wanted.keys() - named, now))  # of others the manifest may be replaced any time
        self._old |= old

    def push(self, path: Path, staged: Path, list_files: Callable[[Path], Iterable[StoredFile]]) -> Listing:
        """Upload objects, then the manifest, if it is the one that `begin` saw. A value with equal content is kept."""
        files = [*list_files(staged)]
        self.push_files(files)
        name, sha256 = self.name(path), hash_file(staged)
        seen = self._seen[name] if name in self._seen else self._client.look_up(name)
        known, meta = self._read_note(path), None
        if known and seen and (known.e_tag, known.sha256) == (seen["e_tag"], sha256):
            meta = self._find_equal(name, sha256)  # nothing has changed
        self._seen[name] = meta = meta or self._put_value(name, staged, seen, sha256)
        self._keep_copy(staged, path, meta, sha256)
        if old := [file for file in files if file.sha256 in self._old]:
            for file in old:  # pruning may have deleted them, which began before this manifest named them
                self._kept.pop(file.sha256, None)
            self._named.update(dict.fromkeys((file.sha256 for file in old), time.monotonic()))
            self.push_files(old)
        return {name: _get_tag(meta)}

    def _put_value(self, name: str, staged: Path, seen: "ObjectMeta | None", sha256: str) -> "ObjectMeta":
        """Replace the value that was seen, or make it if none was.

        Raises:
            BusyError: It is another one now.
        """
        meta = self._client.replace(name, staged, seen) or self._find_equal(name, sha256)
        if meta is None:
            raise make_conflict(self._client.show(name))
        return meta

    def _find_equal(self, name: str, sha256: str) -> "ObjectMeta | None":
        """Return the state of an object with this content; None if it has another, or there is none."""
        with contextlib.suppress(FileNotFoundError):
            meta, found = self._client.get(name)
            return meta if found == sha256 else None
        return None

    def compare(self, files: Iterable[StoredFile], look: Callable[[], VerifyResult]) -> VerifyResult:
        """Download and hash every object, and keep none."""
        files = [*files]
        states = map_requests(self._check_object, files)
        missing, changed = (
            [self.name(file.path) for file, state in zip(files, states, strict=True) if state == bad]
            for bad in ("missing", "changed")
        )
        return VerifyResult(len(files), sum(file.bytes for file in files), missing, changed)

    def pull_work(self, folder: Path) -> None:
        """Download the saved parts of unfinished work."""
        for name, meta in self._client.list(self.name(folder)):
            file = folder / name.rpartition("/")[2]
            if self.name(file) == name and not (file.is_file() and file.stat().st_size == meta["size"]):
                self._download(file)

    def pull_folder(self, folder: Path) -> None:
        """Download all files of a folder, unless the working copy has them."""
        if folder.is_relative_to(self.folder):
            names = [name for name, _ in self._client.list(self.name(folder))]
            map_requests(lambda name: self._download(locate_below(self.folder, name)), names)

    def push_folder(self, folder: Path) -> None:
        """Upload the files of a folder that were not downloaded as they are."""
        files = [path for path in folder.rglob("*") if path.is_file() and not self._read_note(path)]
        map_requests(self.push_file, files)

    def push_file(self, path: Path) -> None:
        """Upload a file."""
        with explain_write_errors(path):
            size = path.stat().st_size
        self._client.put(self.name(path), path, size)

    def holds_input(self, name: str) -> bool:
        """Return whether the bucket has a raw input."""
        return self._client.look_up(name) is not None

    def keep_input(self, path: Path, mark: Path) -> None:
        """Move a raw input to the bucket, its mark first; it is read there in place."""
        if path.is_file():
            if mark.is_file():
                self.push_file(mark)
            self.push_file(path)
            path.unlink()

    def list_work(self) -> list[str]:
        """Return the folders whose last part is older than an hour: the run was killed, or is on one part for long."""
        return [value + PARTIAL for value in find_left(self._client.list(VALUES), datetime.now(UTC) - _AT_WORK)]

    def remove_work(self, folder: Path) -> None:
        """Delete the saved parts of finished work. What cannot be deleted stays, and is logged."""
        with log_failure():
            self._client.delete([name for name, _ in self._client.list(self.name(folder))])

    def copy_files(self, files: Sequence[tuple[StoredFile, Path]]) -> list[StoredFile]:
        """Download objects to paths outside of the working copy."""

        def copy(pair: tuple[StoredFile, Path]) -> str:
            file, target = pair
            with explain_write_errors(target):
                make_folder(target.parent)
                target.unlink(missing_ok=True)
                return self._check_object(file, target)

        states = map_requests(copy, files)
        return [file for (file, _), state in zip(files, states, strict=True) if state != "same"]

    def prune(self, kinds: Mapping[str, ManifestKind], age: timedelta, *, dry_run: bool) -> Pruned:
        """Delete old objects that no manifest names, and unfinished work that is old; here it is in both places."""
        there = prune_bucket(self._client, kinds, age, self._make_file, dry_run=dry_run)
        here = remove_work(self.folder, age, dry_run=dry_run)
        return Pruned(there.objects, there.bytes + here.bytes, sorted({*there.work, *here.work}))

    def _check_object(self, file: StoredFile, target: Path | None = None) -> str:
        """Download an object, to `target` if there is one. Return `same`, `missing` or `changed`."""
        try:
            meta, sha256 = self._client.get(locate_object(file.sha256), target)
        except FileNotFoundError:
            return "missing"
        if (meta and meta["size"], sha256) == (file.bytes, file.sha256):
            return "same"
        self._mark(file.sha256)
        return "changed"

    def _mark(self, sha256: str) -> None:
        """Keep in mind for all machines that an object is damaged."""
        with log_failure():
            self._client.put(f"{_DAMAGED}/{sha256}", b"")

    def _unmark(self, repaired: Collection[str]) -> None:
        with log_failure():
            self._client.delete(f"{_DAMAGED}/{sha256}" for sha256 in repaired)

    def _put_object(self, file: StoredFile) -> None:
        """Upload a file under its hash.

        Raises:
            WriteError: It is not the file of the manifest any more.
        """
        with explain_write_errors(file.path), file.path.open("rb") as data:
            if hashlib.file_digest(data, "sha256").hexdigest() != file.sha256:
                raise WriteError(f"{file.path} was changed while it was stored.", advice="Run again.")
            data.seek(0)
            self._client.put(locate_object(file.sha256), data, file.bytes)

    def _find_objects(self, wanted: Iterable[str]) -> "dict[str, ObjectMeta]":
        """Return the states of those objects that are there. Requests and memory are bounded by what is wanted."""
        folders = defaultdict[str, set[str]](set)
        for sha256 in wanted:
            folders[locate_object(sha256).rpartition("/")[0]].add(sha256)
        found = map_requests(lambda folder: self._find_in(folder, folders[folder]), sorted(folders))
        return {sha256: meta for part in found for sha256, meta in part.items()}

    def _find_in(self, folder: str, wanted: set[str]) -> "dict[str, ObjectMeta]":
        """Return the states of those objects of a folder that are there; list it as far as that is cheap."""
        found, most = dict[str, "ObjectMeta"](), _LISTED * len(wanted)
        if most >= _PAGE:
            for number, (name, meta) in enumerate(self._client.list(folder), 1):
                if name[-64:] in wanted:
                    found[name[-64:]] = meta
                if number == most:
                    break
            else:
                return found
        looked = {sha256: self._client.look_up(locate_object(sha256)) for sha256 in wanted - found.keys()}
        return found | {sha256: meta for sha256, meta in looked.items() if meta}

    @contextmanager
    def _make_file(self) -> Iterator[Path]:
        """Yield the path of a file that is moved away, or removed at the end."""
        new = self._staged / uuid.uuid4().hex
        with explain_write_errors(new):
            make_folder(new.parent)
        try:
            yield new
        finally:
            new.unlink(missing_ok=True)

    def _keep_copy(self, new: Path, path: Path, meta: "ObjectMeta", sha256: str) -> None:
        """Move a file into the working copy, and note of which object it is a copy."""
        note = self._locate_note(path)
        with explain_write_errors(path), self._make_file() as written:
            stat = new.stat()
            copy = _Copy(meta["e_tag"] or "", sha256, stat.st_size, stat.st_mtime_ns)
            written.write_text(json.dumps(asdict(copy)))
            make_folder(path.parent)
            make_folder(note.parent)
            new.replace(path)
            written.replace(note)

    def _read_note(self, path: Path) -> _Copy | None:
        """Return what is known of a file of the working copy; None if it was changed since."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            copy, stat = _Copy(**json.loads(self._locate_note(path).read_bytes())), path.stat()
            if copy.e_tag and (copy.bytes, copy.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                return copy
        return None

    def _locate_note(self, path: Path) -> Path:
        return self._notes / f"{self.name(path)}.json"


def _is_recent(times: Mapping[str, float], sha256: str) -> bool:
    """Return whether a time, of `time.monotonic`, is recent enough that nothing was pruned since."""
    return sha256 in times and time.monotonic() - times[sha256] < pruning.SAFE.total_seconds() / 2


def _get_tag(meta: "ObjectMeta") -> str:
    return (meta["e_tag"] or "").strip('"')
