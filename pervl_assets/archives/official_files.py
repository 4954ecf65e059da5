"""Published files: listed with their hashes in a manifest, compared with a folder, and downloaded if missing."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml
from pydantic import TypeAdapter

from pervl_assets.archives.annotations import read_text
from pervl_assets.archives.downloads import ATTEMPTS, fetch_file
from pervl_assets.core.errors import AnnotationError, MissingInputError, name_some
from pervl_assets.core.files import explain_read_errors, is_whole
from pervl_assets.core.text import hide_secrets


@dataclass(frozen=True)
class _OfficialFile:
    """One published file: its path below the folder, size, rows and sha256."""

    path: str
    bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class KnownMembers:
    """Members of one kind in an official archive.

    Attributes:
        pattern: Regular expression that their whole names match.
        named: Number of them in the official annotations; None: not known.
        count: Number of them in the archive; None: not known.
    """

    pattern: str
    named: int | None = None
    count: int | None = None


@dataclass(frozen=True)
class OfficialFiles:
    """The manifest: a set of published files, and the archives they refer to, with kinds of members by name."""

    repository: str
    commit: str
    base_url: str
    licence: str
    files: tuple[_OfficialFile, ...]
    archives: Mapping[str, tuple[KnownMembers, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class FilesReport:
    """The comparison of a folder with the manifest: paths of files in each of three states."""

    official: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]


def load_manifest(path: Path) -> OfficialFiles:
    """Read a manifest.

    Raises:
        AnnotationError: A key is missing or has a wrong type, or a path is outside the folder.
    """
    advice = "Restore it from the project's repository."
    try:
        manifest = TypeAdapter(OfficialFiles).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise AnnotationError(f"The manifest {path} cannot be read: {error}.", advice=advice) from error
    outside = [f.path for f in manifest.files if Path(f.path).is_absolute() or ".." in Path(f.path).parts]
    if outside:
        raise AnnotationError(
            f"The manifest {path} names {len(outside)} paths outside its folder: {name_some(outside)}.", advice=advice
        )
    return manifest


def compare_folder(folder: Path, manifest: OfficialFiles) -> FilesReport:
    """Return which of the manifest's files are in `folder` unchanged, changed, or not at all."""
    official = [file.path for file in manifest.files if is_whole(folder / file.path, file.bytes, file.sha256)]
    others = [file.path for file in manifest.files if file.path not in official]
    present = [path for path in others if (folder / path).is_file()]
    return FilesReport(tuple(official), tuple(present), tuple(path for path in others if path not in present))


def require_files(folder: Path, manifest: OfficialFiles, variable: str) -> FilesReport:
    """Compare your own folder with the manifest: every file must exist, its content may differ.

    Raises:
        MissingInputError: Files are missing; all are named.
    """
    with explain_read_errors(folder):
        found = compare_folder(folder, manifest)
    if found.missing:
        raise MissingInputError(
            f"{len(found.missing)} of {len(manifest.files)} annotation files not in {folder}: "
            f"{name_some(found.missing)}.",
            advice=f"Copy the folder annotations/ of {manifest.repository} at commit {manifest.commit[:7]} "
            f"there whole, or unset {variable} to have the official files downloaded.",
        )
    return found


def fetch_files(
    folder: Path,
    manifest: OfficialFiles,
    client: httpx.Client,
    *,
    attempts: int = ATTEMPTS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> FilesReport:
    """Bring `folder` to exactly the manifest's files: right ones stay, the rest is downloaded and its sha256 checked.

    The records of downloads are stored beside the folder. `on_progress` is called with the number of files that were
    asked for, and their total.

    Raises:
        MissingInputError: The server cannot be reached, does not have a file, or sends another one; all are named.
    """
    found = compare_folder(folder, manifest)
    wanted = [file for file in manifest.files if file.path not in found.official]
    failures: list[str] = []
    for number, file in enumerate(wanted, 1):
        target, record = folder / file.path, folder.with_name(f"{folder.name}.downloads") / f"{file.path}.json"
        target.unlink(missing_ok=True)
        try:
            fetch_file(
                manifest.base_url + file.path,
                target,
                record,
                client,
                sha256=file.sha256,
                most_bytes=file.bytes,
                attempts=attempts,
            )
        except MissingInputError as error:
            failures.append(f"{file.path}: {error.problem}")
        on_progress(number, len(wanted))
    if failures:
        raise MissingInputError(
            f"{len(failures)} of {len(wanted)} annotation files could not be downloaded from "
            f"{hide_secrets(manifest.base_url)}.",
            details=failures,
            advice=f"Try again when the network works; or clone {manifest.repository} at commit "
            f"{manifest.commit[:7]} and set PERVL_ANNOTATIONS to its folder annotations/.",
        )
    return compare_folder(folder, manifest)


def count_entries(path: Path) -> int | None:
    """Count a file's rows as the manifest does; None for one that is no text or no CSV, which its reader reports.

    Records below the header of a `.csv`, top-level keys of a `.yaml`, lines that are not empty of any other text.
    """
    try:
        text = read_text(path)
        if path.suffix == ".csv":
            return max(0, sum(1 for _ in csv.reader(text.splitlines())) - 1)
    except (AnnotationError, csv.Error):
        return None
    if path.suffix == ".yaml":
        return sum(1 for line in text.splitlines() if line[:1] not in ("", " ", "#", "-"))
    return sum(1 for line in text.splitlines() if line.strip())
