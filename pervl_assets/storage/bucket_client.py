"""Requests to a bucket, by names below an address, with errors that advise; and how values and objects are named."""

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

from pervl_assets.core.addresses import Address, explain_address_errors, open_address
from pervl_assets.core.errors import AddressError, SchemaError
from pervl_assets.core.files import explain_write_errors

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore as Bucket

VALUES: Final = "assets"
"""Folder of the files and manifests of values."""
OBJECTS: Final = "objects"
"""Folder of the files that manifests name."""
SHA256: Final = re.compile("[0-9a-f]{64}")
REQUESTS: Final = 32
"""Requests at the same time."""
_PART: Final = 5 << 20
"""Bytes of the parts in which obstore uploads a file."""
_BLOCK: Final = 1 << 20

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class BucketClient:
    """Reads and writes the objects below an address.

    Every method raises an `AddressError` if the server refuses or does not answer.

    Args:
        address: E.g. `s3://pervl/data`. Names of objects are relative to it.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    @cached_property
    def _opened(self) -> "tuple[Bucket, str]":
        bucket, path = open_address(self._address)
        return bucket, f"{path}/" if path else ""

    def show(self, name: str) -> str:
        """Return the address of an object."""
        return f"{self._address}/{name}"

    def look_up(self, name: str) -> "ObjectMeta | None":
        """Return the state of an object, None if there is none."""
        bucket, root = self._opened
        with self._explain(name):
            try:
                return bucket.head(root + name)
            except FileNotFoundError as error:
                _refuse_no_bucket(error)
                return None

    def list(self, folder: str) -> "Iterator[tuple[str, ObjectMeta]]":
        """Yield name and state of every object below a folder, in one request per 1,000 of them."""
        bucket, root = self._opened
        with self._explain(folder):
            for batch in bucket.list(prefix=root + folder):
                yield from ((meta["path"].removeprefix(root), meta) for meta in batch)

    def get(
        self, name: str, target: Path | None = None, known_e_tag: str | None = None
    ) -> "tuple[ObjectMeta | None, str]":
        """Download an object, to `target` if there is one. Return its state and its sha256.

        If it still has the known ETag, nothing is downloaded, and the state is None.

        Raises:
            FileNotFoundError: There is none.
            WriteError: `target` cannot be written.
        """
        from obstore.exceptions import NotModifiedError

        bucket, root = self._opened
        options: Any = {"if_none_match": known_e_tag} if known_e_tag else {}
        digest, missing = hashlib.sha256(), None
        with self._explain(name), contextlib.ExitStack() as opened:
            try:
                result = bucket.get(root + name, options=options)
            except NotModifiedError:
                return None, ""
            except FileNotFoundError as error:
                _refuse_no_bucket(error)
                missing = error
            else:
                file = opened.enter_context(target.open("wb")) if target else None
                for block in result.stream(_BLOCK):
                    digest.update(block)
                    if file and target:
                        with explain_write_errors(target):
                            file.write(block)
                return result.meta, digest.hexdigest()
        raise FileNotFoundError(2, "No such object", self.show(name)) from missing

    def read_end(self, name: str, count: int) -> bytes:
        """Return the last bytes of an object.

        Raises:
            FileNotFoundError: There is none.
        """
        bucket, root = self._opened
        with self._explain(name):
            return bytes(bucket.get(root + name, options={"range": {"suffix": count}}).bytes())

    def put(self, name: str, content: Path | IO[bytes] | bytes, size: int = 0) -> None:
        """Upload an object of `size` bytes over what has its name."""
        bucket, root = self._open_to_put(REQUESTS * min(size, _PART))  # obstore uploads several parts at once
        with self._explain(name):
            bucket.put(root + name, content)

    def replace(self, name: str, file: Path, seen: "ObjectMeta | None") -> "ObjectMeta | None":
        """Upload a file over the object that was seen, or as a new one. Return None if it is another one now."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        size = file.stat().st_size
        bucket, root = self._open_to_put(size)
        versions: Any = {one: seen[one] for one in ("e_tag", "version") if seen[one]} if seen else {}
        with self._explain(name):
            try:
                put = bucket.put(root + name, file, mode=versions or "create")
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None
        meta: Any = {**put, "size": size}
        return meta  # type: ignore[no-any-return]

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are not there do no harm."""
        bucket, root = self._opened
        if paths := [root + name for name in names]:
            with self._explain(paths[0].removeprefix(root)):
                bucket.delete(paths)

    def read_clock(self, name: str) -> datetime:
        """Return the time of the server, by which ages are reckoned. It is that of an empty object that is put here."""
        bucket, root = self._opened
        with self._explain(name):
            bucket.put(root + name, b"")
            return bucket.head(root + name)["last_modified"]

    def _open_to_put(self, sent: int) -> "tuple[Bucket, str]":
        """Open the bucket with the time that sending so many bytes may take."""
        return open_address(self._address, sent)[0], self._opened[1]

    def _explain(self, name: str) -> contextlib.AbstractContextManager[None]:
        return explain_address_errors(Address(self.show(name)))


def locate_object(sha256: str) -> str:
    """Return the name of the object with a content.

    Raises:
        SchemaError: It is no sha256.
    """
    if not SHA256.fullmatch(sha256):
        raise SchemaError(f"{sha256!r} is no sha256.", advice="Materialize the asset of this manifest again.")
    return f"{OBJECTS}/{sha256[:2]}/{sha256}"


def map_requests(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `function(item)` for all items, in their order, with many requests at the same time."""
    if not items:
        return []
    with ThreadPoolExecutor(min(REQUESTS, len(items))) as pool:
        return [*pool.map(function, items)]


@contextmanager
def log_failure() -> Iterator[None]:
    """Log why a bucket refused what is of use, and no more."""
    try:
        yield
    except AddressError as error:
        _log.warning("%s", error.problem)


def _refuse_no_bucket(error: FileNotFoundError) -> None:
    if "NoSuchBucket" in str(error):
        raise error
