"""Members of an archive or of an unzipped folder, read in place and one at a time.

`Members` is the interface of both, and of `pervl_assets.trees.members`; it is cheap to send to worker processes.
"""

import heapq
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pervl_assets.archives.inputs import IdentityCard, RawArchive, identify_listing, identify_members, list_folder
from pervl_assets.archives.remote_files import Version, find_version, report_change
from pervl_assets.archives.sparse_copies import SparseCopy
from pervl_assets.archives.zip_directory import LONGEST_LOCAL_HEADER, MAX_MEMBER_BYTES, ZipEntry, require_readable
from pervl_assets.archives.zip_index import get_signature, read_index, read_remote_index
from pervl_assets.archives.zips import MemberError, read_entry
from pervl_assets.core.addresses import Address, Place
from pervl_assets.core.errors import ArchiveError, MissingInputError, PasswordError, name_some
from pervl_assets.core.files import explain_read_errors
from pervl_assets.core.text import count_of
from pervl_assets.core.workers import map_in_threads

__all__ = ["FileRecord", "MemberError", "Members", "open_members", "select_members"]

_TRIES: Final = 3


class FileRecord(NamedTuple):
    """Size, sha256 and CRC-32 of a file."""

    bytes: int
    sha256: str
    crc32: int


class Members(ABC):
    """Named byte strings with their CRCs.

    Pickled, it is a recipe to open the source again; `select` first, so that only what is needed travels. Closing is
    harmless at any time: the next read opens the source again.
    """

    def __init__(self, path: Place) -> None:
        self.path = path

    @property
    @abstractmethod
    def names(self) -> Collection[str]:
        """Names of all members; membership is cheap."""

    @abstractmethod
    def crc32(self, name: str) -> int:
        """Return the CRC-32 of a member's bytes."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a member's bytes, checked against its CRC.

        Raises:
            MemberError: This one member is damaged.
            ArchiveError: The source cannot be read, or has changed since it was opened.
        """

    @abstractmethod
    def select(self, names: Collection[str]) -> Self:
        """Return the same source with these members only, their CRCs known.

        Raises:
            ArchiveError: Some of them are packed in a way that is not read here.
        """

    def locate(self, name: str) -> Path | None:
        """Return the path of the file that is the member, or None if there is no such file."""
        return None

    def find_record(self, name: str, stat: os.stat_result) -> FileRecord | None:
        """Return the record of the file that is the member, or None if `stat` shows that it may have changed."""
        return None

    def check_password(self) -> None:  # noqa: B027 - most sources need none
        """Decrypt a small member and check its CRC, so that a wrong password is found before any work.

        Raises:
            PasswordError: The password is missing or wrong. Never holds the password.
        """

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Close open files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ZipMembers(Members):
    """Members of a zip archive."""

    def __init__(
        self, path: Place, entries: Mapping[str, ZipEntry], password: bytes | None, password_variable: str | None
    ) -> None:
        super().__init__(path)
        self.entries, self.password_variable, self._password = entries, password_variable, password

    @property
    def names(self) -> Collection[str]:
        """Names of all members."""
        return self.entries.keys()

    def crc32(self, name: str) -> int:
        """Return the CRC that the archive's directory states."""
        return self.entries[name].crc32

    def read(self, name: str) -> bytes:
        """Return a member's bytes: decrypted, inflated and checked."""
        with explain_read_errors(self.path):
            file = self._open(name)
            try:
                return read_entry(file, name, self.entries[name], self._password)
            except MemberError:
                self._require_unchanged()
                raise

    @abstractmethod
    def _open(self, name: str) -> int:
        """Return the descriptor of a file that holds the member's bytes at their place in the archive."""

    def _require_unchanged(self) -> None:
        """Raise an `ArchiveError` if the archive is another now."""

    def _choose(self, names: Collection[str]) -> dict[str, ZipEntry]:
        chosen = {name: self.entries[name] for name in names}
        require_readable(self.path, chosen)
        return chosen

    def check_password(self) -> None:
        """Decrypt one small member."""
        encrypted = [(entry.stored, name) for name, entry in self.entries.items() if entry.encrypted]
        if not encrypted:
            return
        variable = self.password_variable or "its password's environment variable"
        if self._password is None:
            raise PasswordError(
                f"{self.path} is encrypted ({len(encrypted):,} members needed) and no password is given.",
                advice=f"Set {variable} to the password that the data set's authors send on request.",
            )
        # One byte of the password's own check passes once in 256 times: only the CRC proves it. More than one member is
        # tried, for a single one may be damaged.
        for _, name in heapq.nsmallest(_TRIES, encrypted):
            try:
                self.read(name)
            except MemberError:
                continue
            return
        raise PasswordError(
            f"The password does not open {self.path} (tried on {min(_TRIES, len(encrypted))} of its smallest members).",
            advice=f"Correct {variable}: no spaces or quotes around it. If it is right, the archive is damaged.",
        )


class _LocalZipMembers(_ZipMembers):
    """Members of a zip on this machine."""

    def __init__(
        self,
        path: Path,
        entries: Mapping[str, ZipEntry],
        password: bytes | None,
        password_variable: str | None,
        signature: tuple[int, int, int],
    ) -> None:
        super().__init__(path, entries, password, password_variable)
        self._zip, self._file, self._signature = path, -1, signature

    def _open(self, name: str) -> int:
        if self._file < 0:
            self._file = os.open(self._zip, os.O_RDONLY)
            self._require_unchanged()
        return self._file

    def _require_unchanged(self) -> None:
        if get_signature(self._zip) != self._signature:
            raise report_change(self._zip)

    def select(self, names: Collection[str]) -> Self:
        """Return the same archive with these members only."""
        return type(self)(self._zip, self._choose(names), self._password, self.password_variable, self._signature)

    def close(self) -> None:
        """Close the archive."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": -1}


class _RemoteZipMembers(_ZipMembers):
    """Members of one version of a zip at an address. `offsets` are as of `ZipIndex.list_offsets`."""

    def __init__(
        self,
        address: Address,
        entries: Mapping[str, ZipEntry],
        password: bytes | None,
        password_variable: str | None,
        offsets: NDArray[np.int64],
        version: Version,
        folder: Path | None,
    ) -> None:
        super().__init__(address, entries, password, password_variable)
        self._address, self._offsets, self._version, self._folder = address, offsets, version, folder
        self._copy: SparseCopy | None = None

    def _open(self, name: str) -> int:
        return self._get_copy().load(self.entries[name].offset)

    def _get_copy(self) -> SparseCopy:
        if self._copy is None:
            places = [(entry.offset, entry.stored) for entry in self.entries.values()]
            offsets, stored = np.array(places, np.int64).reshape(-1, 2).T
            following = np.append(self._offsets, self._version.bytes)[self._offsets.searchsorted(offsets, "right")]
            # Before a member's bytes its name and extra field are repeated, with other lengths than in the directory.
            extents = np.stack([offsets, np.minimum(following, offsets + stored + LONGEST_LOCAL_HEADER)], 1)
            self._copy = SparseCopy(self._address, self._version, extents, self._folder)
        return self._copy

    def select(self, names: Collection[str]) -> Self:
        """Return the same archive with these members only."""
        chosen = self._choose(names)
        source = self._address, chosen, self._password, self.password_variable
        return type(self)(*source, self._offsets, self._version, self._folder)

    def close(self) -> None:
        """Close the copy of the needed parts."""
        if self._copy is not None:
            self._copy.close()

    def __getstate__(self) -> dict[str, Any]:
        self._get_copy()  # one for all processes
        return {**self.__dict__, "_offsets": np.empty(0, np.int64)}


class _FolderMembers(Members):
    """Files of an unzipped folder, under the names they have in the archive."""

    def __init__(self, path: Path, prefix: str, crcs: Mapping[str, int | None]) -> None:
        super().__init__(path)
        self._folder, self._prefix, self._crcs = path, prefix, crcs

    @property
    def names(self) -> Collection[str]:
        """Names of all files."""
        return self._crcs.keys()

    def crc32(self, name: str) -> int:
        """Return the CRC of a file, as it was when selected; 0 for one that is too large, which `read` then reports."""
        if (crc := self._crcs[name]) is not None:
            return crc
        try:
            return zlib.crc32(self._read_file(name))
        except MemberError:
            return 0

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        data = self._read_file(name)
        if self._crcs[name] not in (None, zlib.crc32(data)):
            raise report_change(self.locate(name))
        return data

    def select(self, names: Collection[str]) -> Self:
        """Return the same folder with these files only, their CRCs computed."""
        chosen = list(names)
        crcs = dict(zip(chosen, map_in_threads(self.crc32, chosen), strict=True))
        return type(self)(self._folder, self._prefix, crcs)

    def locate(self, name: str) -> Path:
        """Return the file's path."""
        return self._folder / name.removeprefix(self._prefix)

    def _read_file(self, name: str) -> bytes:
        file = self.locate(name)
        with explain_read_errors(self.path):
            if file.stat().st_size > MAX_MEMBER_BYTES:
                raise MemberError(f"the file is larger than {MAX_MEMBER_BYTES:,} bytes")
            return file.read_bytes()


def select_members(members: Members, needed: Collection[str], what: str) -> Members:
    """Return a source with the needed members only, as far as it has them.

    Args:
        members: The source.
        needed: Names of members.
        what: What is made from them, for the message.

    Raises:
        ArchiveError: It has none of them.
    """
    names = members.names
    present = sorted(name for name in needed if name in names)
    if needed and not present:
        raise ArchiveError(
            f"{members.path} holds none of the {len(needed):,} members that {what} is made from, "
            f"and {count_of(len(names), 'other member')}.",
            details=[f"looked for: {name_some(sorted(needed), 3)}", f"found: {name_some(sorted(names)[:4], 3)}"],
            advice="This is not the archive that the annotations are about, or it was packed in another way.",
        )
    return members.select(present)


def open_members(archive: RawArchive, password: str | None = None) -> Members:
    """Open a raw archive or folder for reading members.

    Args:
        archive: As returned by `find_archive`.
        password: Its password, or None to read the environment variable that the archive names.

    Raises:
        MissingInputError: It no longer exists.
        AddressError: Its address cannot be read.
        ArchiveError: It cannot be read, is unsafe, or is not the one that was identified before.
    """
    if isinstance(archive.path, Path) and not archive.path.exists():
        raise MissingInputError(
            f"{archive.path} is gone since it was identified.",
            advice="Put it back, or materialize its raw asset again to see where it is expected.",
        )
    if archive.card.kind == "file":
        raise ArchiveError(f"{archive.path} is a single file without members.", advice="Use a zip or a folder.")
    with explain_read_errors(archive.path):
        members, card = _open(archive, password)
    if card != archive.card:
        raise ArchiveError(
            f"{archive.path} has changed since it was identified: {archive.card.members:,} members then, "
            f"{card.members:,} now.",
            advice="Materialize its raw asset again; what depends on it is then rebuilt where it differs.",
        )
    return members


def _open(archive: RawArchive, password: str | None) -> tuple[Members, IdentityCard]:
    path = archive.path
    if archive.card.kind == "folder" and isinstance(path, Path):
        listing = list_folder(path)
        names = {archive.prefix + name: None for name in listing}
        return _FolderMembers(path, archive.prefix, names), identify_listing(listing)
    if password is None and archive.password_variable:
        password = os.environ.get(archive.password_variable) or None
    if password is not None and any("\ud800" <= character <= "\udfff" for character in password):
        raise PasswordError(
            f"The password of {archive.path} is not UTF-8 text.",
            advice=f"Set {archive.password_variable or 'it'} again, in a terminal that uses UTF-8.",
        )
    secret = None if password is None else password.encode()
    if isinstance(path, Address):
        version = find_version(path)
        index = read_remote_index(path, version, archive.index)
        folder = archive.index.parent if archive.index else None
        source = path, index.entries, secret, archive.password_variable
        return _RemoteZipMembers(*source, index.list_offsets(), version, folder), identify_members(index, *version)
    signature = get_signature(path)  # first, so that a zip replaced now is noticed when a member is read
    index = read_index(path, archive.index)
    members = _LocalZipMembers(path, index.entries, secret, archive.password_variable, signature)
    return members, identify_members(index, signature[0])
