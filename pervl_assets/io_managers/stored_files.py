"""The files that manifests name: copied into a folder for programs that read folders, and found before pruning."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import dagster as dg
import polars as pl

from pervl_assets.core.errors import PervlError, SchemaError, WriteError, list_some
from pervl_assets.core.files import (
    explain_write_errors,
    is_whole,
    make_folder,
    replace_atomically,
    sync,
    write_bytes_atomically,
)
from pervl_assets.core.tables import read_hashed
from pervl_assets.core.text import count_of
from pervl_assets.core.workers import map_in_threads
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.storage.store import ManifestKind, Store, StoredFile
from pervl_assets.trees.ledger import list_files
from pervl_assets.trees.staging import Staging

_OF_LEDGERS: Final = "source_crc32s"
"""A column that ledgers have, and no other table."""
_SHA256: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def _is_other_table(end: bytes) -> bool:
    return end.endswith(b"PAR1") and _OF_LEDGERS.encode() not in end


def _read_ledger(path: Path) -> Iterable[str]:
    is_ledger = _OF_LEDGERS in pl.read_parquet_schema(path)
    return read_hashed(path)[0]["sha256"].drop_nulls() if is_ledger else ()


def _read_json(path: Path) -> Iterable[str]:
    json.loads(content := path.read_text())
    return _SHA256.findall(content)


MANIFESTS: Final[Mapping[str, ManifestKind]] = {
    ".parquet": ManifestKind(_is_other_table, _read_ledger),
    ".json": ManifestKind(lambda end: False, _read_json),
}
"""Manifests of all assets, also of those that are not in today's graph, by extension."""


@dataclass(frozen=True)
class Exported:
    """A tree or file in a folder: where, how many files and bytes it has, and how many of the files were copied now."""

    place: Path
    files: int
    bytes: int
    copied: int


@dataclass(frozen=True)
class Export:
    """What a manifest names, before it is copied.

    Attributes:
        manager: IO manager of the value.
        key: Its key.
        partition: Its partition, if it has some.
        root: Its folder, or its file.
        files: All files of it.
        manifest: Content of the manifest.
    """

    manager: PervlIOManager
    key: dg.AssetKey
    partition: str | None
    root: Path
    files: list[StoredFile]
    manifest: bytes = field(repr=False)

    def copy_to(self, folder: Path) -> Exported:
        """Copy the files and the manifest to a folder, with the names that they have below a data root.

        A tree appears whole. Files that are there already, also those of a copy that was interrupted, are kept.

        Raises:
            SchemaError: Files are missing or damaged in the store.
            WriteError: Files are in the way that no export made, another export is at work there, or no permission or
                space.
        """
        store, source = self.manager.store, self.manager.locate(self.key, self.partition)
        target = folder / store.name(self.root)
        with explain_write_errors(target):
            if any(file.path == self.root for file in self.files):
                targets = {folder / store.name(file.path): file for file in self.files}
                changed = {path for path, file in targets.items() if not is_whole(path, file.bytes, file.sha256)}
                self._refuse_others({path for path in changed if path.exists()}, folder, folder)
                for path in changed:
                    self._copy_file(store, targets[path], path)
                copied = len(changed)
            else:
                copied = self._copy_tree(store, target, folder)
        write_bytes_atomically(folder / store.name(source), self.manifest)
        return Exported(target, len(self.files), sum(file.bytes for file in self.files), copied)

    def _copy_file(self, store: Store, file: StoredFile, target: Path) -> None:
        with replace_atomically(target) as partial:
            self._copy(store, [(file, partial)])

    def _copy_tree(self, store: Store, target: Path, folder: Path) -> int:
        wanted = {file.path.relative_to(self.root).as_posix(): file for file in self.files}
        staging = Staging(target)
        with staging.lock():
            staging.heal()
            kept = _find_whole(wanted, staging.target)
            present = list_files(staging.target)
            if kept == wanted.keys() == present:
                staging.clear()
                return 0
            self._refuse_others({target / name for name in present - wanted.keys()}, target, folder)
            make_folder(staging.folder)
            rest = {path: file for path, file in wanted.items() if path not in kept}
            staged = _find_whole(rest, staging.folder)
            missing = [(file, staging.folder / path) for path, file in rest.items() if path not in staged]
            self._copy(store, missing)
            for path in kept:
                staging.keep(path)
            staging.finish(wanted)
            staging.swap()
            sync(staging.target.parent)
            staging.clear()
        return len(missing)

    def _copy(self, store: Store, files: list[tuple[StoredFile, Path]]) -> None:
        if damaged := store.copy_files(files):
            raise SchemaError(
                f"{len(damaged):,} of {len(self.files):,} files of {self.key.to_user_string()} missing or damaged.",
                details=list_some([store.name(file.path) for file in damaged]),
                advice="Run pervl verify, then pervl materialize, which repairs them, then export again: what was "
                "copied is kept.",
            )

    def _refuse_others(self, others: set[Path], target: Path, folder: Path) -> None:
        """Raise a `WriteError` if files that will be replaced or removed are none that an earlier export put there."""
        with suppress(PervlError):
            known = plan_export(type(self.manager)(data=str(folder)), self.key, self.partition)
            others = others - {file.path for file in known.files}
        if others:
            raise WriteError(
                f"{count_of(len(others), 'file')} in {target} would be replaced, and no export wrote them.",
                details=list_some(sorted(path.relative_to(target).as_posix() for path in others)),
                advice="Move them away, or export to another folder.",
            )


def plan_export(manager: PervlIOManager, key: dg.AssetKey, partition: str | None) -> Export:
    """Read the manifest of a tree or training file. Raises as `PervlIOManager.read` does."""
    root, files = manager.list_stored(key, partition)
    return Export(manager, key, partition, root, files, manager.locate(key, partition).read_bytes())


def _find_whole(files: Mapping[str, StoredFile], root: Path) -> set[str]:
    """Return the names of the files that hold the right bytes below a folder."""
    whole = map_in_threads(lambda name: is_whole(root / name, files[name].bytes, files[name].sha256), [*files])
    return {name for name, is_right in zip(files, whole, strict=True) if is_right}
