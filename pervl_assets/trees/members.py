"""Files of finished trees as members, so that another tree can be made from them."""

import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from pervl_assets.archives.members import FileRecord, MemberError, Members
from pervl_assets.core.errors import ArchiveError
from pervl_assets.core.files import explain_read_errors
from pervl_assets.trees.ledger import FolderTree
from pervl_assets.trees.staging import Staging


class _Written(NamedTuple):
    record: FileRecord
    recorded_ns: int | None


class TreeMembers(Members):
    """Outputs of finished trees. One that was quarantined there is a member that cannot be read.

    Args:
        path: Folder that the names are relative to.
        written: What the ledger records of every file, and when the ledger was saved, by name.
        reasons: Why an output was quarantined, by name.
    """

    def __init__(self, path: Path, written: Mapping[str, _Written], reasons: Mapping[str, str]) -> None:
        super().__init__(path)
        self._folder = path
        self._written, self._reasons = written, reasons
        self._names = frozenset(written.keys() | reasons.keys())

    @property
    def names(self) -> Collection[str]:
        """Paths of all outputs that are not missing."""
        return self._names

    def crc32(self, name: str) -> int:
        """Return the CRC in the tree's ledger; 0 for a quarantined output, which has no bytes."""
        return self._written[name].record.crc32 if name in self._written else 0

    def read(self, name: str) -> bytes:
        """Return a file's bytes, checked against the ledger.

        Raises:
            MemberError: It was quarantined in the source tree.
            ArchiveError: The source tree is damaged, or cannot be read.
        """
        if name in self._reasons:
            raise MemberError(f"source quarantined: {self._reasons[name]}")
        file = self.locate(name)
        with explain_read_errors(self.path):
            data = None if not file.exists() and self._folder.is_dir() else file.read_bytes()
        if data is None or zlib.crc32(data) != self._written[name].record.crc32:
            raise ArchiveError(
                f"{file} {'is missing' if data is None else 'is not the file that was written there'}.",
                advice="Run pervl verify, then pervl materialize: it repairs that tree, and then what is made from it.",
            )
        return data

    def select(self, names: Collection[str]) -> Self:
        """Return the same tree with these outputs only."""
        written = {name: self._written[name] for name in names if name in self._written}
        return type(self)(self._folder, written, {name: self._reasons[name] for name in names if name in self._reasons})

    def locate(self, name: str) -> Path:
        """Return the file's path."""
        return self._folder / name

    def find_record(self, name: str, stat: os.stat_result) -> FileRecord | None:
        """Return the ledger's record of a file that is unchanged since: of that size, and older than the ledger."""
        if (written := self._written.get(name)) is None or written.recorded_ns is None:
            return None
        unchanged = stat.st_size == written.record.bytes and stat.st_mtime_ns < written.recorded_ns
        return written.record if unchanged else None


def open_tree(tree: FolderTree) -> Members:
    """Open a finished tree for reading its outputs."""
    return _open_trees(tree.root, {"": tree})


def open_trees(trees: Iterable[FolderTree]) -> Members:
    """Open finished trees in one folder. An output's name begins with its tree's name: `personalized_test/…`."""
    by_prefix = {f"{tree.root.name}/": tree for tree in trees}
    (folder,) = {tree.root.parent for tree in by_prefix.values()}
    return _open_trees(folder, by_prefix)


def _open_trees(folder: Path, trees: Mapping[str, FolderTree]) -> TreeMembers:
    written, reasons = {}, {}
    columns = ("path", "status", "bytes", "sha256", "crc32", "reason")
    for prefix, tree in trees.items():
        # While a run is building the tree, or after it was killed, the files can be newer than the ledger.
        recorded_ns = None if Staging(tree.root).has_leftovers() else tree.recorded_ns
        for path, status, size, sha256, crc, reason in tree.ledger.select(columns).iter_rows():
            if status == "written":
                written[prefix + path] = _Written(FileRecord(size, sha256, crc), recorded_ns)
            elif status == "quarantined":
                reasons[prefix + path] = reason
    return TreeMembers(folder, written, reasons)
