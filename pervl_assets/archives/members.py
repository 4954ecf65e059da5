"""Members of an archive or of an unzipped folder, read in place and one at a time.

`Members` is the interface of both, and of `pervl_assets.trees.members`; it is cheap to send to worker processes.
"""

import heapq
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from pervl_assets.archives.inputs import RawArchive, identify_directory, identify_listing, list_folder
from pervl_assets.archives.zip_directory import MAX_MEMBER_BYTES, ZipEntry, read_directory
from pervl_assets.archives.zips import MemberError, read_entry
from pervl_assets.core.errors import ArchiveError, MissingInputError, PasswordError
from pervl_assets.core.workers import map_in_threads

__all__ = ["MemberError", "Members", "check_password", "open_members"]

_TRIES = 3


class Members(ABC):
    """Named byte strings with their CRCs.

    Pickled, it is a recipe to open the source again; `select` first, so that only what is needed travels. Closing is
    harmless at any time: the next read opens the source again.
    """

    def __init__(self, path: Path) -> None:
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
            MemberError: This one member cannot be read.
        """

    @abstractmethod
    def select(self, names: Collection[str]) -> Self:
        """Return the same source with these members only, their CRCs known."""

    def locate(self, name: str) -> Path | None:
        """Return the file that holds a member's bytes just as they are; None: there is no such file."""
        return None

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Let go of open files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ZipMembers(Members):
    """Members of a zip archive."""

    def __init__(
        self, path: Path, entries: Mapping[str, ZipEntry], password: bytes | None, password_variable: str | None
    ) -> None:
        super().__init__(path)
        self.entries, self.password_variable = entries, password_variable
        self._password, self._file = password, -1

    @property
    def names(self) -> Collection[str]:
        """Names of all members."""
        return self.entries.keys()

    def crc32(self, name: str) -> int:
        """Return the CRC that the archive's directory states."""
        return self.entries[name].crc32

    def read(self, name: str) -> bytes:
        """Return a member's bytes: decrypted, inflated and checked."""
        if self._file < 0:
            self._file = os.open(self.path, os.O_RDONLY)
        return read_entry(self._file, name, self.entries[name], self._password)

    def select(self, names: Collection[str]) -> Self:
        """Return the same archive with these members only."""
        chosen = {name: self.entries[name] for name in names}
        return type(self)(self.path, chosen, self._password, self.password_variable)

    def close(self) -> None:
        """Close the archive."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": -1}

    def check_password(self) -> None:
        """Decrypt one small member for real; see `check_password`."""
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
            advice=f"Correct {variable}: no blanks or quotes around it. If it is right, the archive is damaged.",
        )


class FolderMembers(Members):
    """Files of an unzipped folder, under the names they have in the archive."""

    def __init__(self, path: Path, prefix: str, crcs: Mapping[str, int | None]) -> None:
        super().__init__(path)
        self._prefix, self._crcs = prefix, crcs

    @property
    def names(self) -> Collection[str]:
        """Names of all files."""
        return self._crcs.keys()

    def crc32(self, name: str) -> int:
        """Return the CRC of a file, as it was when selected; 0 for one that cannot be read, which `read` then says."""
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
            raise MemberError("the file changed while it was read")
        return data

    def select(self, names: Collection[str]) -> Self:
        """Return the same folder with these files only, their CRCs computed."""
        chosen = list(names)
        crcs = dict(zip(chosen, map_in_threads(self.crc32, chosen), strict=True))
        return type(self)(self.path, self._prefix, crcs)

    def locate(self, name: str) -> Path:
        """Return where the file stands."""
        return self.path / name.removeprefix(self._prefix)

    def _read_file(self, name: str) -> bytes:
        file = self.locate(name)
        try:
            if file.stat().st_size > MAX_MEMBER_BYTES:
                raise MemberError(f"the file is larger than {MAX_MEMBER_BYTES:,} bytes")
            return file.read_bytes()
        except OSError as error:
            raise MemberError(f"the file cannot be read ({error.strerror})") from error


def open_members(archive: RawArchive, password: str | None = None) -> Members:
    """Open a raw archive or folder for reading members.

    Args:
        archive: What `find_archive` found.
        password: Its password; None: taken from the environment variable that the archive names.

    Raises:
        MissingInputError: It is no longer there.
        ArchiveError: It cannot be trusted, or it is not the one that was identified before.
    """
    if not archive.path.exists():
        raise MissingInputError(
            f"{archive.path} is gone since it was identified.",
            advice="Put it back, or materialize its raw asset again to see where it is looked for.",
        )
    if archive.card.kind == "file":
        raise ArchiveError(f"{archive.path} is a single file without members.", advice="Give a zip or a folder.")
    if archive.card.kind == "folder":
        listing = list_folder(archive.path)
        card = identify_listing(listing)
        members: Members = FolderMembers(
            archive.path, archive.prefix, {archive.prefix + name: None for name in listing}
        )
    else:
        entries = read_directory(archive.path)
        card = identify_directory(archive.path, entries)
        if password is None and archive.password_variable:
            password = os.environ.get(archive.password_variable) or None
        secret = None if password is None else password.encode()
        members = ZipMembers(archive.path, entries, secret, archive.password_variable)
    if card != archive.card:
        raise ArchiveError(
            f"{archive.path} has changed since it was identified: {archive.card.members:,} members then, "
            f"{card.members:,} now.",
            advice="Materialize its raw asset again; what depends on it is then rebuilt where it differs.",
        )
    return members


def check_password(members: Members) -> None:
    """Make sure, before any work, that encrypted members can be read: decrypt a small one and check its CRC.

    Raises:
        PasswordError: The password is missing or wrong. Never holds the password.
    """
    if isinstance(members, ZipMembers):
        members.check_password()
