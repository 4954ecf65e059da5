"""Published files: listed with their hashes in a manifest, compared with a folder, and downloaded if missing."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from pervl_assets.archives.downloads import ATTEMPTS, fetch_file
from pervl_assets.core.errors import AnnotationError, MissingInputError, name_some
from pervl_assets.core.files import hash_file


@dataclass(frozen=True)
class OfficialFile:
    """One published file: its path below the folder, size, rows and sha256."""

    path: str
    bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class OfficialFiles:
    """A set of published files, as the manifest lists them."""

    repository: str
    commit: str
    base_url: str
    licence: str
    files: tuple[OfficialFile, ...]


@dataclass(frozen=True)
class FilesReport:
    """The comparison of a folder with the manifest: paths of files in each of three states."""

    official: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]


def load_manifest(path: Path) -> OfficialFiles:
    """Read a manifest of published files.

    Raises:
        AnnotationError: A key is missing or has a wrong type, or a path is outside the folder.
    """
    try:
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        files = tuple(
            OfficialFile(str(f["path"]), int(f["bytes"]), int(f["rows"]), str(f["sha256"])) for f in content["files"]
        )
        manifest = OfficialFiles(
            repository=str(content["repository"]),
            commit=str(content["commit"]),
            base_url=str(content["base_url"]),
            licence=str(content["licence"]),
            files=files,
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise AnnotationError(
            f"The manifest {path} cannot be read: {error!r}.",
            advice="Restore it from the project's repository.",
        ) from error
    outside = [f.path for f in files if Path(f.path).is_absolute() or ".." in Path(f.path).parts]
    if outside:
        raise AnnotationError(
            f"The manifest {path} names {len(outside)} paths outside its folder: {name_some(outside)}.",
            advice="Restore it from the project's repository.",
        )
    return manifest


def compare_folder(folder: Path, manifest: OfficialFiles) -> FilesReport:
    """Return which of the manifest's files are in `folder` unchanged, changed, or not at all."""
    states: dict[str, list[str]] = {"official": [], "different": [], "missing": []}
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            states["missing"].append(file.path)
        elif path.stat().st_size == file.bytes and hash_file(path) == file.sha256:
            states["official"].append(file.path)
        else:
            states["different"].append(file.path)
    return FilesReport(*(tuple(names) for names in states.values()))


def require_files(folder: Path, manifest: OfficialFiles) -> FilesReport:
    """Compare your own folder with the manifest: every file must exist, its content may differ.

    Raises:
        MissingInputError: Files are missing; all are named.
    """
    found = compare_folder(folder, manifest)
    if found.missing:
        raise MissingInputError(
            f"{len(found.missing)} of {len(manifest.files)} annotation files are not in {folder}: "
            f"{name_some(found.missing)}.",
            advice=f"Copy the folder annotations/ of {manifest.repository} at commit {manifest.commit[:7]} "
            "there whole, or unset PERVL_ANNOTATIONS to have the official files downloaded.",
        )
    return found


def fetch_files(
    folder: Path,
    manifest: OfficialFiles,
    client: httpx.Client,
    *,
    attempts: int = ATTEMPTS,
    report: Callable[[str], None] = lambda line: None,
) -> FilesReport:
    """Bring `folder` to exactly the manifest's files: right ones stay, the rest is downloaded.

    Each file is checked against its sha256 before it is moved into place.

    Args:
        folder: Folder of the files; their records are stored beside it.
        manifest: The files and their address.
        client: HTTP client.
        attempts: See `fetch_file`.
        report: Called with one line per downloaded file.

    Raises:
        MissingInputError: The server cannot be reached, does not have a file, or sends another one; all are named.
    """
    found = compare_folder(folder, manifest)
    wanted = [file for file in manifest.files if file.path not in found.official]
    failures: list[str] = []
    for file in wanted:
        target, record = folder / file.path, folder.with_name(f"{folder.name}.downloads") / f"{file.path}.json"
        target.unlink(missing_ok=True)
        try:
            fetch_file(manifest.base_url + file.path, target, record, client, sha256=file.sha256, attempts=attempts)
        except MissingInputError as error:
            failures.append(f"{file.path}: {error.problem}")
            continue
        report(f"downloaded {file.path} ({file.bytes:,} bytes, {file.rows:,} rows)")
    if failures:
        raise MissingInputError(
            f"{len(failures)} of {len(wanted)} annotation files could not be downloaded from {manifest.base_url}.",
            details=failures,
            advice=f"Try again when the network works; or clone {manifest.repository} at commit "
            f"{manifest.commit[:7]} and set PERVL_ANNOTATIONS to its folder annotations/.",
        )
    return compare_folder(folder, manifest)


def count_entries(path: Path) -> int:
    """Count a file's rows as the manifest does.

    Records below the header of a `.csv`, top-level keys of a `.yaml`, lines that are not empty of any other text.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return max(0, sum(1 for _ in csv.reader(text.splitlines())) - 1)
    if path.suffix == ".yaml":
        return sum(1 for line in text.splitlines() if line[:1] not in ("", " ", "#", "-"))
    return sum(1 for line in text.splitlines() if line.strip())
