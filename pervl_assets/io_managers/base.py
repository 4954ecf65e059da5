"""The base of all IO managers: the path of a value, checked reads, verification, and a cheap stamp of its files.

The value of `ytvos/concepts` is `<data>/assets/ytvos/concepts.parquet`, that of one partition of `ytvos/retrieval_set`
(a tree, so this is its ledger) `<data>/assets/ytvos/retrieval_set/test.parquet`.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, get_origin

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import list_folder
from pervl_assets.core.errors import MissingInputError, PervlError, SchemaError
from pervl_assets.core.files import VerifyResult, explain_read_errors, explain_write_errors, hash_bytes, make_folder
from pervl_assets.io_managers.metadata import SECONDS, STAMP, show_errors
from pervl_assets.release.images import Labeller
from pervl_assets.release.parts import FilePart, Part

_ASSETS_FOLDER: Final = "assets"

_DAMAGE: Final = (
    SchemaError,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What reading a damaged file raises, or one that is JSON of another kind."""


def locate_value(data: Path, key: Sequence[str], extension: str, partition: str | None = None) -> Path:
    """Return the path of an asset's value, or of its manifest: `assets/<key>[/<partition>]<extension>`."""
    path = data.joinpath(_ASSETS_FOLDER, *key, *([partition] if partition is not None else []))
    return path.with_name(path.name + extension)


class PervlIOManager(dg.ConfigurableIOManager):
    """Base of the project's IO managers. A value is one file below `<data>/assets`, or a manifest there and its parts.

    A subclass sets the class variables and implements `write` and `load`. A value with parts implements `list_parts`,
    `compare` and `publish` too. `describe`, where there is one, returns the value as a `MaterializeResult`.

    Attributes:
        data: The data root.
        key: Resource key, e.g. `tables`.
        kind: Kind of value in the tag `pervl/value`, e.g. `table`.
        extension: Extension of the value's file or manifest.
    """

    data: str
    key: ClassVar[str]
    kind: ClassVar[str]
    extension: ClassVar[str]

    def write(self, context: dg.OutputContext, value: Any, path: Path) -> None:
        """Write a value whole or not at all; an unchanged one rewrites nothing."""
        raise NotImplementedError

    def load(self, path: Path) -> Any:
        """Read a value from its file, compared with the hash that was recorded with it.

        Raises:
            FileNotFoundError: The file does not exist.
            SchemaError: It is damaged; so is a file whose reading raises one of `_DAMAGE`.
        """
        raise NotImplementedError

    def list_parts(self, path: Path) -> list[Path]:
        """Return the files and folders that belong to the value whose manifest is at `path`."""
        return []

    def compare(self, path: Path) -> VerifyResult:
        """Read all files of a value and compare them with its manifest. Raises as `load` does."""
        self.load(path)
        return VerifyResult(1, path.stat().st_size)

    def publish(
        self, part: Part, paths: Mapping[str | None, Path], columns: Mapping[str, str], label: Labeller
    ) -> Part:
        """Return a value as a part of the release: here, its files.

        Args:
            part: Its name, description and sources.
            paths: Its file or manifest by partition; those that exist.
            columns: Descriptions of a table's columns by name.
            label: Adds class, split and caption to the images of a tree.
        """
        return FilePart(part.name, part.description, part.sources, tuple(map(self._name, paths.values())))

    def locate(self, key: dg.AssetKey, partition: str | None = None) -> Path:
        """Return the path of a value, or of its manifest."""
        return locate_value(Path(self.data), key.path, self.extension, partition)

    def read(self, key: dg.AssetKey, partition: str | None = None) -> Any:
        """Read a value, checked against its recorded hash. A damaged one is outdated from then on.

        Raises:
            MissingInputError: It has not been materialized.
            SchemaError: It is damaged.
            ArchiveError: It cannot be read.
        """
        path, name = self.locate(key, partition), key.to_user_string()
        command = f"""pervl materialize --select 'key:"{name}"'"""
        try:
            return self.load(path)
        except FileNotFoundError as error:
            raise MissingInputError(
                f"The value of {name} is not on disk: {error.filename or path} does not exist.",
                advice=f"Materialize it first: {command}",
            ) from error
        except OSError:
            with explain_read_errors(path):
                raise
        except _DAMAGE as error:
            mark_changed(path)
            problem = error.problem if isinstance(error, PervlError) else f"{path} is damaged: {error!r}."
            raise SchemaError(problem, advice=f"Materialize {name}, which makes it again: {command}") from error

    def read_previous(self, key: dg.AssetKey, partition: str | None = None) -> Any | None:
        """Read the value of an earlier run; None if there is none, or it is damaged, so that it is made again."""
        if not self.locate(key, partition).is_file():
            return None
        try:
            return self.read(key, partition)
        except (SchemaError, MissingInputError) as error:
            dg.get_dagster_logger().warning("Made again: %s", error.problem)
            return None

    def verify(self, key: dg.AssetKey, partition: str | None = None) -> VerifyResult:
        """Compare a value with its manifest, again if a run replaces it meanwhile.

        Files that vanish are missing, unreadable ones changed.
        """
        path = self.locate(key, partition)
        seen = _read_time(path)
        result = self._compare(path)
        return result if result.unchanged or _read_time(path) == seen else self.verify(key, partition)

    def _compare(self, path: Path) -> VerifyResult:
        try:
            return self.compare(path) if path.is_file() else VerifyResult()
        except FileNotFoundError as error:
            return VerifyResult(1, missing=[self._name(Path(error.filename or path))])
        except (OSError, *_DAMAGE, PervlError):
            return VerifyResult(1, changed=[self._name(path)])

    def exists(self, key: dg.AssetKey, partition: str | None = None) -> bool:
        """Return whether the file or manifest of a value and all its parts exist."""
        path = self.locate(key, partition)
        try:
            return path.is_file() and all(part.exists() for part in self.list_parts(path))
        except (OSError, *_DAMAGE):
            return False

    def stamp(self, key: dg.AssetKey, partition: str | None = None) -> str | None:
        """Return a sha256 of the sizes and modification times of a value's files; None if one is absent.

        No file is read. The stamp changes whenever a file is written, added or removed. Of a part that is a file it
        covers the inode as well.
        """
        path = self.locate(key, partition)
        try:
            stats = [_show_stat("", path.stat())]
            for part in self.list_parts(path):
                if part.is_dir():
                    stats += sorted(_show_stat(name, stat) for name, stat in list_folder(part).items())
                else:
                    stat = part.stat()
                    stats.append(_show_stat(str(stat.st_ino), stat))
        except (OSError, *_DAMAGE):
            return None
        return hash_bytes("\n".join(stats).encode(errors="surrogateescape"))

    @show_errors()
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write a value; record its path and stamp, and add the seconds of writing to those of the asset, if any.

        Raises:
            WriteError: No permission, or no space left.
        """
        start = time.perf_counter()
        partition = context.asset_partition_key if context.has_asset_partitions else None
        path = self.locate(context.asset_key, partition)
        with explain_write_errors(Path(self.data)):
            make_folder(path.parent)
            self.write(context, obj, path)
        stamp = self.stamp(context.asset_key, partition)
        context.add_output_metadata({"path": dg.MetadataValue.path(str(path)), **({STAMP: stamp} if stamp else {})})
        if seconds := context.output_metadata.get(SECONDS):
            context.add_output_metadata({SECONDS: round(seconds.value + time.perf_counter() - start, 3)})

    @show_errors()
    def load_input(self, context: dg.InputContext) -> Any:
        """Read a value: of an asset with partitions a mapping from partition to value, if one is declared or needed.

        Raises:
            MissingInputError: It has not been materialized; names the asset.
            SchemaError: It is damaged.
        """
        if not context.has_asset_partitions:
            return self.read(context.asset_key)
        partitions = list(context.asset_partition_keys)
        if len(partitions) == 1 and not _is_mapping(context.dagster_type.typing_type):
            return self.read(context.asset_key, partitions[0])
        return {partition: self.read(context.asset_key, partition) for partition in partitions}

    def _name(self, path: Path) -> str:
        """Return a path relative to the data root, where it is below it."""
        return path.relative_to(self.data).as_posix() if path.is_relative_to(self.data) else str(path)


def mark_changed(path: Path) -> None:
    """Change the stamp of a value whose manifest is at `path`: it is made again, although size and time were right."""
    with suppress(OSError):
        os.utime(path)


def _read_time(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _show_stat(name: str, stat: os.stat_result) -> str:
    return f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}"


def _is_mapping(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, Mapping)
