"""Files of a finished tree as members, so that another tree can be made from it."""

import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Self

from pervl_assets.archives.members import MemberError, Members
from pervl_assets.trees.ledger import FolderTree


class TreeMembers(Members):
    """Outputs of a finished tree; one that was quarantined there is a member that cannot be read."""

    def __init__(self, path: Path, crcs: Mapping[str, int], reasons: Mapping[str, str]) -> None:
        super().__init__(path)
        self._crcs, self._reasons = crcs, reasons
        self._names = frozenset(crcs.keys() | reasons.keys())

    @property
    def names(self) -> Collection[str]:
        """Paths of all outputs that are not missing."""
        return self._names

    def crc32(self, name: str) -> int:
        """Return the CRC that the tree's ledger states; 0 for a quarantined output, which has no bytes."""
        return self._crcs.get(name, 0)

    def read(self, name: str) -> bytes:
        """Return a file's bytes, checked against the ledger."""
        if name in self._reasons:
            raise MemberError(f"source quarantined: {self._reasons[name]}")
        try:
            data = self.locate(name).read_bytes()
        except OSError as error:
            raise MemberError(f"the source tree lacks it ({error.strerror})") from error
        if zlib.crc32(data) != self._crcs[name]:
            raise MemberError("the file in the source tree is not the one that was written there")
        return data

    def select(self, names: Collection[str]) -> Self:
        """Return the same tree with these outputs only."""
        crcs = {name: self._crcs[name] for name in names if name in self._crcs}
        return type(self)(self.path, crcs, {name: self._reasons[name] for name in names if name in self._reasons})

    def locate(self, name: str) -> Path:
        """Return where the file stands."""
        return self.path / name


def open_tree(tree: FolderTree) -> Members:
    """Open a finished tree for reading its outputs."""
    return _open_trees(tree.root, {"": tree})


def open_trees(trees: Iterable[FolderTree]) -> Members:
    """Open finished trees that stand side by side; an output's name begins with its tree's: `personalized_test/…`."""
    by_place = {f"{tree.root.name}/": tree for tree in trees}
    (folder,) = {tree.root.parent for tree in by_place.values()}
    return _open_trees(folder, by_place)


def _open_trees(folder: Path, trees: Mapping[str, FolderTree]) -> TreeMembers:
    crcs, reasons = {}, {}
    for place, tree in trees.items():
        for path, status, crc, reason in tree.ledger.select("path", "status", "crc32", "reason").iter_rows():
            if status == "written":
                crcs[place + path] = crc
            elif status == "quarantined":
                reasons[place + path] = reason
    return TreeMembers(folder, crcs, reasons)
