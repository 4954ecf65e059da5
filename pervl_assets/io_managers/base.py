"""The base of all IO managers: the path of a value, checked reads, verification, and a cheap stamp of its files.

The value of `ytvos/concepts` is `<data>/assets/ytvos/concepts.parquet`, that of one partition of `ytvos/retrieval_set`
(a tree, so this is its ledger) `<data>/assets/ytvos/retrieval_set/test.parquet`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, get_origin

import dagster as dg
import polars as pl

from pervl_assets.clip.encode_images import clear_chunks
from pervl_assets.core.errors import MissingInputError, PervlError, SchemaError
from pervl_assets.core.files import (
    PARTIAL,
    Lock,
    VerifyResult,
    explain_read_errors,
    explain_write_errors,
    make_folder,
)
from pervl_assets.io_managers.metadata import SECONDS, STAMP, show_errors
from pervl_assets.release.images import Labeller
from pervl_assets.release.parts import FilePart, Part
from pervl_assets.storage import open_store
from pervl_assets.storage.store import Listing, Store, StoredFile

_ASSETS_FOLDER: Final = "assets"

DAMAGE: Final = (
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


_begin_step: Callable[[dg.InputContext], object] = id
"""See `begin_with_inputs`."""


def begin_with_inputs(begin_step: Callable[[dg.InputContext], object]) -> None:
    """Let a function be called before an input is read. Reading may take hours, and a step begins before it."""
    global _begin_step  # noqa: PLW0603 - an IO manager does not know what else belongs to a step
    _begin_step = begin_step


def locate_value(data: Path, key: Sequence[str], extension: str, partition: str | None = None) -> Path:
    """Return the path of an asset's value, or of its manifest: `assets/<key>[/<partition>]<extension>`."""
    path = data.joinpath(_ASSETS_FOLDER, *key, *([partition] if partition is not None else []))
    return path.with_name(path.name + extension)


class PervlIOManager(dg.ConfigurableIOManager):
    """Base of the project's IO managers. A value is one file below `<data>/assets`, or a manifest there and its parts.

    A subclass sets the class variables and implements `write` and `load`. A value with parts implements `list_parts`,
    `compare` and `publish` too, and `list_files` if the store is to keep them. `describe`, where there is one, returns
    the value as a `MaterializeResult`.

    Attributes:
        data: The data root.
        key: Resource key, e.g. `tables`.
        kind: Kind of value in the tag `pervl/value`, e.g. `table`.
        extension: Extension of the value's file or manifest.
        label: Name of that file's path in the metadata; `manifest` if the value has further files.
    """

    data: str
    key: ClassVar[str]
    kind: ClassVar[str]
    extension: ClassVar[str]
    label: ClassVar[str] = "path"

    @property
    def store(self) -> Store:
        """The store of the data root."""
        return open_store(self.data)

    def write(self, context: dg.OutputContext, value: Any, path: Path) -> None:
        """Write a value whole or not at all; an unchanged one rewrites nothing."""
        raise NotImplementedError

    def drop(self, value: Any) -> None:
        """Release what a value holds that could not be written, e.g. a lock."""

    def load(self, path: Path) -> Any:
        """Read a value from its file, compared with the hash that was recorded with it.

        Raises:
            FileNotFoundError: The file does not exist.
            SchemaError: It is damaged; so is a file whose reading raises one of `DAMAGE`.
        """
        raise NotImplementedError

    def list_parts(self, path: Path) -> list[Path]:
        """Return the files and folders that belong to the value whose manifest is at `path`."""
        return []

    def list_files(self, path: Path) -> Iterator[StoredFile]:
        """Yield the files that the store keeps with the value whose manifest is at `path`: those that it names."""
        yield from ()

    def resume_work(self, key: dg.AssetKey, partition: str | None = None) -> Path:
        """Return the folder of the parts of a value that are done so far, after bringing them there."""
        work = self.locate(key, partition).with_suffix(PARTIAL)
        self.store.pull_work(work)
        return work

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
        return FilePart(part.name, part.description, part.sources, tuple(map(self.store.name, paths.values())))

    def locate(self, key: dg.AssetKey, partition: str | None = None) -> Path:
        """Return the path of a value, or of its manifest."""
        return locate_value(self.store.folder, key.path, self.extension, partition)

    def fetch(self, key: dg.AssetKey, partition: str | None = None, *, whole: bool = False) -> Path:
        """Return the path of a value, or of its manifest, after bringing it there; `whole`: with the files it names."""
        path = self.locate(key, partition)
        self.store.pull(path)
        if whole and path.is_file():
            self.store.pull_files(self.list_files(path))
        return path

    def read(self, key: dg.AssetKey, partition: str | None = None) -> Any:
        """Read a value, checked against its recorded hash. A damaged one is outdated from then on.

        Raises:
            MissingInputError: It has not been materialized.
            SchemaError: It is damaged.
            ArchiveError: It cannot be read.
        """
        path = self.fetch(key, partition)
        with _explain_damage(key, path, self.store):
            value = self.load(path)
            self.store.pull_files(self.list_files(path))
            return value

    def list_stored(self, key: dg.AssetKey, partition: str | None = None) -> tuple[Path, list[StoredFile]]:
        """Return the root of a tree, or the path of a single file, and all files that the manifest names; none is read.

        Raises as `read` does.
        """
        path = self.fetch(key, partition)
        with _explain_damage(key, path, self.store):
            return self.list_parts(path)[0], [*self.list_files(path)]

    def read_previous(self, key: dg.AssetKey, partition: str | None = None) -> Any | None:
        """Read the value of an earlier run; None if there is none, or it is damaged, so that it is made again."""
        if not self.fetch(key, partition).is_file():
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
        self.store.pull(path, again=True)
        seen = _read_time(path)
        result = self._compare(path)
        if not result.unchanged:
            self.store.pull(path)
        return result if result.unchanged or _read_time(path) == seen else self.verify(key, partition)

    def _compare(self, path: Path) -> VerifyResult:
        try:
            return self.compare(path) if path.is_file() else VerifyResult()
        except FileNotFoundError as error:
            return VerifyResult(1, missing=[self.store.name(Path(error.filename or path))])
        except (OSError, *DAMAGE, PervlError):
            return VerifyResult(1, changed=[self.store.name(path)])

    def is_there(self, key: dg.AssetKey, partition: str | None = None, listing: Listing | None = None) -> bool:
        """Return whether the file or manifest of a value exists; `listing` as of the store."""
        return self.store.exists(self.locate(key, partition), tuple, listing)

    def exists(self, key: dg.AssetKey, partition: str | None = None, listing: Listing | None = None) -> bool:
        """Return whether the file or manifest of a value and all its parts exist; `listing` as of the store."""
        path = self.locate(key, partition)
        try:
            return self.store.exists(path, partial(self.list_parts, path), listing)
        except (OSError, *DAMAGE):
            return False

    def stamp(self, key: dg.AssetKey, partition: str | None = None, listing: Listing | None = None) -> str | None:
        """Return a fingerprint that changes whenever a file of a value does; None if one is absent. No file is read.

        `listing` as of the store: with it, many values are looked at together.
        """
        path = self.locate(key, partition)
        try:
            return self.store.stamp(path, partial(self.list_parts, path), listing)
        except (OSError, *DAMAGE):
            return None

    @show_errors()
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write a value; record its path and stamp, and add the seconds of writing to those of the asset, if any.

        Raises:
            WriteError: No permission, or no space left.
            BusyError: Another run is writing the value, or has written it since this step began.
        """
        start = time.perf_counter()
        partition = context.asset_partition_key if context.has_asset_partitions else None
        path = self.locate(context.asset_key, partition)
        try:
            lock = Lock(path.with_name(f"{path.name}{PARTIAL}.lock"), f"writing {self.store.show(path)}")
            with explain_write_errors(self.store.folder), lock, self.store.stage(path) as staged:
                make_folder(staged.parent)
                self.write(context, obj, staged)
                written = self.store.push(path, staged, self.list_files)
                self._clear_work(path.with_suffix(PARTIAL))
        except BaseException:
            self.drop(obj)
            raise
        stamp, shown = self.stamp(context.asset_key, partition, written), dg.MetadataValue.path(self.store.show(path))
        context.add_output_metadata({self.label: shown, **({STAMP: stamp} if stamp else {})})
        if seconds := context.output_metadata.get(SECONDS):
            context.add_output_metadata({SECONDS: round(seconds.value + time.perf_counter() - start, 3)})

    def _clear_work(self, work: Path) -> None:
        """Remove the parts of a value that is stored now."""
        if work.is_dir():
            clear_chunks(work)
            self.store.remove_work(work)

    @show_errors()
    def load_input(self, context: dg.InputContext) -> Any:
        """Begin the step, and read a value. Raises as `read_input` does."""
        _begin_step(context)
        return self.read_input(context)

    def read_input(self, context: dg.InputContext) -> Any:
        """Read a value: of an asset with partitions a mapping from partition to value, if one is declared or needed.

        Raises:
            MissingInputError: It has not been materialized; names the asset.
            SchemaError: It is damaged.
        """
        if not context.has_asset_partitions:
            return self.read(context.asset_key)
        partitions, wanted = list(context.asset_partition_keys), context.dagster_type.typing_type
        if wanted is Partitions:
            return Partitions(partitions, partial(self.read, context.asset_key))
        if len(partitions) == 1 and not _is_mapping(wanted):
            return self.read(context.asset_key, partitions[0])
        return {partition: self.read(context.asset_key, partition) for partition in partitions}


class Partitions(Mapping[str, Any]):
    """The values of partitions, each read whenever it is asked for. An input of this type is never in memory whole."""

    def __init__(self, names: Sequence[str], read: Callable[[str], Any]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _explain_damage(key: dg.AssetKey, path: Path, store: Store) -> Iterator[None]:
    """Turn what reading an absent or damaged value raises into errors that advise. A damaged one is outdated then."""
    name = key.to_user_string()
    command = f"pervl materialize {name}"
    try:
        yield
    except FileNotFoundError as error:
        raise MissingInputError(
            f"The value of {name} is not on disk: {store.show(Path(error.filename or path))} does not exist.",
            advice=f"Materialize it first: {command}",
        ) from error
    except OSError:
        with explain_read_errors(path):
            raise
    except DAMAGE as error:
        store.mark_changed(path)
        problem = error.problem if isinstance(error, PervlError) else f"{store.show(path)} is damaged: {error!r}."
        raise SchemaError(problem, advice=f"Materialize {name}, which makes it again: {command}") from error


def _read_time(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _is_mapping(annotation: Any) -> bool:
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, Mapping)
