"""Training files for PALAVRA: written where it reads them, each with a manifest below `assets/`; never read back.

Two of them are pickles, and nothing here loads a pickle.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg

from pervl_assets.core.errors import SchemaError
from pervl_assets.core.files import VerifyResult, hash_bytes, hash_file, write_bytes_atomically
from pervl_assets.core.workers import map_in_threads
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import ROWS, describe_size
from pervl_assets.release.images import Labeller
from pervl_assets.release.parts import FilePart, Part
from pervl_assets.release.validation import list_files, verify_files
from pervl_assets.storage.store import StoredFile, locate_below


@dataclass(frozen=True)
class TrainingFile:
    """A file to be written.

    Attributes:
        file: Its path relative to `PERVL_DATA`.
        write: Writes it to a path, whole or not at all.
        others: Paths of files that are written already, and are kept and replaced together with it.
    """

    file: str
    write: Callable[[Path], object]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class WrittenFile:
    """The manifest of a file: its path relative to `PERVL_DATA`, its size and sha256; and of its `others`, if any."""

    file: str
    bytes: int
    sha256: str
    others: "tuple[WrittenFile, ...]" = ()


class TrainingFileIOManager(PervlIOManager):
    """Writes a `TrainingFile` and its manifest; reads the manifest, never the file."""

    key = "training_files"
    kind = "file"
    extension = ".json"
    label = "manifest"

    def write(self, context: dg.OutputContext, value: TrainingFile, path: Path) -> None:
        """Write the file, then its manifest; unchanged ones rewrite nothing."""
        target = self.store.locate(value.file)
        value.write(target)
        written = replace(self._measure(value.file), others=tuple(map(self._measure, value.others)))
        plain = asdict(written, dict_factory=lambda pairs: {name: part for name, part in pairs if part != ()})
        write_bytes_atomically(path, json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n")
        shown = dg.MetadataValue.path(self.store.show(target))
        files = (written, *written.others)
        size = describe_size(sum(file.bytes for file in files), len(files))
        context.add_output_metadata({"file": shown, **size})

    def _measure(self, name: str) -> WrittenFile:
        file = self.store.locate(name)
        return WrittenFile(name, file.stat().st_size, hash_file(file))

    def load(self, path: Path) -> WrittenFile:
        """Read the manifest."""
        plain = json.loads(path.read_bytes())
        return WrittenFile(**{**plain, "others": tuple(WrittenFile(**one) for one in plain.get("others", ()))})

    def list_parts(self, path: Path) -> list[Path]:
        """Return the file, and those that are kept with it."""
        return [file.path for file in self.list_files(path)]

    def list_files(self, path: Path) -> Iterator[StoredFile]:
        """Yield the file, and those that are kept with it."""
        written = self.load(path)
        for one in (written, *written.others):
            yield StoredFile(self.store.locate(one.file), one.bytes, one.sha256)

    def compare(self, path: Path) -> VerifyResult:
        """Hash the file, and those that are kept with it, and compare them with the manifest."""
        files = [*self.list_files(path)]

        def look() -> VerifyResult:
            changed = [self.store.name(file.path) for file in files if hash_file(file.path) != file.sha256]
            return VerifyResult(len(files), sum(file.bytes for file in files), changed=changed)

        return self.store.compare(files, look)

    @staticmethod
    def describe(
        value: TrainingFile,
        made_from: Mapping[str, str],
        *,
        rows: int | None = None,
        checks: Sequence[dg.AssetCheckResult] = (),
        **more: Any,
    ) -> dg.MaterializeResult[TrainingFile]:
        """Materialize a file, which is not written yet; `made_from`, the hashes of its inputs, is its data version.

        Writing it completes its path and its size.
        """
        version = hash_bytes("\n".join(f"{name} {sha256}" for name, sha256 in sorted(made_from.items())).encode())
        return dg.MaterializeResult(
            value=value,
            data_version=dg.DataVersion(version[:16]),
            metadata={
                **more,
                "file": dg.MetadataValue.path(value.file),
                **({} if rows is None else {ROWS: rows}),
                **describe_size(0, 1 + len(value.others)),
            },
            check_results=checks,
        )

    def publish(
        self, part: Part, paths: Mapping[str | None, Path], columns: Mapping[str, str], label: Labeller
    ) -> FilePart:
        """Return the file as a part of the release."""
        self.store.pull_files(file for path in paths.values() for file in self.list_files(path))
        return FilePart(
            part.name, part.description, part.sources, tuple(self.load(path).file for path in paths.values())
        )


class CroissantIOManager(TrainingFileIOManager):
    """Keeps `croissant.json`, the description of the release, and its manifest, like a training file."""

    key = "croissant"

    def list_parts(self, path: Path) -> list[Path]:
        """Return the file and all files that it describes: the release is outdated once one of them is rewritten."""
        file, *_ = super().list_parts(path)
        described = list_files(file) if file.is_file() else ()
        return [file, *(file.parent / name for name, *_ in described)]

    def compare(self, path: Path) -> VerifyResult:
        """Hash the file, and every single file that it describes; the files of trees are in the trees' own ledgers.

        So a table that was materialized again after the release is reported: the description no longer matches it.
        """
        own = super().compare(path)
        if not own.unchanged:
            return own
        file = self.store.locate(self.load(path).file)
        self.store.pull_files(self.list_files(path))
        map_in_threads(self._fetch, list_files(file))
        found = verify_files(file)
        return VerifyResult(own.files + found.files, own.bytes, found.missing, found.changed)

    def _fetch(self, described: tuple[str, str, int]) -> None:
        """Bring a file that is described to its path: a value, or the file of a manifest."""
        name, sha256, size = described
        try:
            place = self.store.locate(name)
        except SchemaError:  # a value, which is no file of a manifest
            self.store.pull(locate_below(self.store.folder, name))
            return
        if not self.store.pull_file(place):
            self.store.pull_files([StoredFile(place, size, sha256)])
