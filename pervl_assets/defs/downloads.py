"""The resource that downloads public inputs: sources, time-outs and attempts. The protocol is `archives.downloads`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import httpx
from pydantic import Field

from pervl_assets.archives.downloads import ATTEMPTS, Fetched, fetch_file, find_record
from pervl_assets.archives.http_get import open_client
from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.archives.official_files import FilesReport, OfficialFiles, fetch_files, require_files
from pervl_assets.archives.zip_index import read_index
from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.progress import BYTES, Progress
from pervl_assets.defs.resources import SettingsResource, from_setting
from pervl_assets.settings import get_variable

_OFFICIAL: Final = "official"
_OFF: Final = "off"


class Downloads(SettingsResource):
    """An HTTP client that resumes, revalidates and gives up in time."""

    source: str = from_setting("fetch")
    attempts: int = Field(default=ATTEMPTS, description="failures in a row, without progress, that end a download")
    connect_seconds: float = Field(default=10.0, description="how long to wait for a connection")
    read_seconds: float = Field(default=60.0, description="how long to wait for the next bytes")

    def open_client(self) -> httpx.Client:
        """Return a client with this resource's time-outs. It reads proxies and certificates at its first request."""
        return open_client(self.read_seconds, self.connect_seconds)

    def locate(self, spec: ArchiveSpec) -> str | None:
        """Return the address of a public input, or None if it is not to be downloaded."""
        if spec.url is None or self.source == _OFF:
            return None
        return spec.url if self.source == _OFFICIAL else f"{self.source.rstrip('/')}/{spec.file}"

    def fetch_annotations(self, folder: Path, manifest: OfficialFiles, log: Callable[[str], None]) -> FilesReport:
        """Bring a folder to exactly the official annotations.

        Raises:
            MissingInputError: Files are missing and cannot be downloaded, or downloads are off.
        """
        if self.source == _OFF:
            return require_files(folder, manifest, get_variable("fetch"))
        if self.source != _OFFICIAL:
            manifest = replace(manifest, base_url=f"{self.source.rstrip('/')}/annotations/")
        with self.open_client() as client:
            return fetch_files(folder, manifest, client, attempts=self.attempts, on_progress=Progress(log, "files"))

    def fetch_input(self, spec: ArchiveSpec, root: Path, log: Callable[[str], None]) -> Fetched | None:
        """Download a public input. None if it is not public, downloads are off, or it exists unzipped.

        Raises:
            MissingInputError: It cannot be downloaded, and there is no earlier download.
            ArchiveError: The file differs from the record of its download.
            WriteError: Another run is downloading it, or it cannot be written.
        """
        if (url := self.locate(spec)) is None:
            find_record(root / spec.file, locate_record(spec, root))
            return None
        if not (root / spec.file).exists() and any((root / folder).is_dir() for folder in spec.folders):
            return None

        def check(path: Path) -> None:
            if spec.file.endswith(".zip"):
                read_index(path)
            spec.check(path)

        with self.open_client() as client:
            try:
                return fetch_file(
                    url,
                    root / spec.file,
                    locate_record(spec, root),
                    client,
                    most_bytes=spec.most_bytes,
                    check=check,
                    attempts=self.attempts,
                    on_progress=Progress(log, BYTES),
                )
            except MissingInputError as error:
                raise MissingInputError(
                    f"Input not found, and its download failed: {spec.title}. {error.problem}",
                    details=[*error.details, f"size: {spec.disk}", f"licence: {spec.licence}"],
                    advice=error.advice,
                ) from error


def locate_record(spec: ArchiveSpec, root: Path) -> Path:
    """Return the path of the record of an input's download."""
    return root / "assets" / "downloads" / f"{spec.name}.json"
