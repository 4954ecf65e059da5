"""Folder trees: the staged files are moved into place whole; the ledger is kept beside, in Parquet.

Belongs here: committing a tree and reading it back. Does not belong here: what stands in a tree.
"""

from pathlib import Path

import dagster as dg
import polars as pl

from pervl_assets.core.tables import write_parquet
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.trees.build import commit_tree
from pervl_assets.trees.ledger import FolderTree


class TreeIOManager(PervlIOManager):
    """Moves a built tree into its place and keeps its ledger (path, bytes, sha256, source member, source CRC)."""

    extension = ".parquet"

    def write(self, context: dg.OutputContext, value: FolderTree, path: Path) -> None:
        """Write the ledger, then swap the staged files in; an unchanged tree writes nothing."""
        write_parquet(value.ledger, path, {"root": value.root.relative_to(self.data).as_posix()})
        commit_tree(value)

    def read(self, context: dg.InputContext, path: Path) -> FolderTree:
        """Read the ledger and where its tree stands; no file of the tree is opened."""
        return read_tree(Path(self.data), path)


def read_tree(data: Path, ledger: Path) -> FolderTree:
    """Return the committed tree whose ledger stands at a path.

    Raises:
        FileNotFoundError: There is no ledger.
    """
    root = data / pl.read_parquet_metadata(ledger)["root"]
    return FolderTree(root, pl.read_parquet(ledger, glob=False), recorded_ns=ledger.stat().st_mtime_ns)
