"""Folder trees: the staged files replace the old ones in one step; the ledger is a Parquet file below `assets/`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.core.errors import IncompleteInputError
from pervl_assets.core.files import VerifyResult
from pervl_assets.core.tables import read_hashed
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import MISSING, QUARANTINED, describe_size
from pervl_assets.release.images import Labeller, label_images
from pervl_assets.release.parts import Part, Tree, TreePart
from pervl_assets.storage.store import StoredFile, locate_below
from pervl_assets.trees.build import commit_tree
from pervl_assets.trees.ledger import LEDGER, FolderTree, require_whole, verify_tree

_ROOT: Final = "root"
"""Key of the ledger's file metadata: the tree's folder, relative to the data root."""


class TreeIOManager(PervlIOManager):
    """Keeps a built `FolderTree` and its ledger (path, bytes, sha256, source members, source CRCs of every file)."""

    key = "trees"
    kind = "tree"
    extension = ".parquet"
    label = "manifest"

    def write(self, context: dg.OutputContext, value: FolderTree, path: Path) -> None:
        """Swap the staged files in, then write the ledger; an unchanged tree writes nothing."""
        self.store.push_files(_list_files(replace(value, root=value.staged or value.root)))
        value = replace(value, is_saved=value.is_saved and path.is_file())
        commit_tree(value, path, {_ROOT: value.root.relative_to(self.store.folder).as_posix()})
        context.add_output_metadata({"folder": dg.MetadataValue.path(self.store.show(value.root))})

    def drop(self, value: FolderTree) -> None:
        """Release the lock of the tree; what is staged stays for the next run."""
        if value.lock:
            value.lock.release()

    def load(self, path: Path) -> FolderTree:
        """Read the ledger; no file of the tree is opened."""
        ledger, metadata = read_hashed(path)
        LEDGER.validate(ledger, "ledger")
        return FolderTree(self.store.locate(metadata[_ROOT]), ledger, recorded_ns=path.stat().st_mtime_ns)

    def read_input(self, context: dg.InputContext) -> Any:
        """Read a tree, or a mapping from partition to tree; one that is incomplete is refused.

        Raises:
            IncompleteInputError: Files are missing.
            MissingInputError: It has not been materialized.
            SchemaError: It is damaged.
        """
        value = super().read_input(context)
        for tree in value.values() if isinstance(value, Mapping) else [value]:
            require_whole(tree, context.asset_key.to_user_string(), IncompleteInputError)
        return value

    def list_parts(self, path: Path) -> list[Path]:
        """Return the tree's folder."""
        return [self.store.locate(pl.read_parquet_metadata(path)[_ROOT])]

    def list_files(self, path: Path) -> Iterator[StoredFile]:
        """Yield all files of the tree."""
        yield from _list_files(self.load(path))

    def compare(self, path: Path) -> VerifyResult:
        """Hash all files of the tree, in parallel, and compare them with the ledger."""
        tree = self.load(path)

        def look() -> VerifyResult:
            found = verify_tree(tree.root, tree.ledger)
            kinds = (found.missing, found.changed, found.extra)
            differing = ([self.store.name(tree.root / name) for name in names] for names in kinds)
            return VerifyResult(found.files, found.bytes, *differing)

        return self.store.compare(_list_files(tree), look)

    @staticmethod
    def describe(
        tree: FolderTree, *, checks: Sequence[dg.AssetCheckResult] = (), **more: Any
    ) -> dg.MaterializeResult[FolderTree]:
        """Materialize a folder tree: counts as metadata, the hash of paths and contents as data version."""
        return dg.MaterializeResult(
            value=tree,
            data_version=dg.DataVersion(tree.content_hash[:16]),
            metadata={
                **more,
                **describe_size(tree.bytes, tree.written),
                QUARANTINED: tree.quarantined,
                MISSING: tree.missing,
                "folder": dg.MetadataValue.path(str(tree.root)),
            },
            check_results=checks,
        )

    def publish(
        self, part: Part, paths: Mapping[str | None, Path], columns: Mapping[str, str], label: Labeller
    ) -> TreePart:
        """Return the trees of all partitions as one part of the release, with a row for every image."""
        name = self.store.name
        read = {split: self.load(path) for split, path in paths.items()}
        trees = tuple(Tree(split, name(tree.root), name(paths[split]), tree.ledger) for split, tree in read.items())
        return TreePart(part.name, part.description, part.sources, trees, label_images(part.name, trees, label))


def _list_files(tree: FolderTree) -> Iterator[StoredFile]:
    """Yield the files of a tree, whose names a ledger in a bucket could hold for any path of this machine."""
    for path, size, sha256 in tree.ledger.filter(status="written").select("path", "bytes", "sha256").iter_rows():
        yield StoredFile(locate_below(tree.root, path), size, sha256)
