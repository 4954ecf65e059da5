"""Training files for PALAVRA: written where it reads them, with a manifest of their own; never read back.

Belongs here: the value `TrainingFile`, and holding a file against its manifest. Does not belong here: the files' bytes,
which are `pervl_assets.inversion.training_files`'s. Two of them are pickles, and nothing here loads a pickle.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from pervl_assets.core.files import hash_file, write_bytes_atomically
from pervl_assets.io_managers.base import PervlIOManager


@dataclass(frozen=True)
class TrainingFile:
    """A file to be written.

    Attributes:
        file: Its place below `PERVL_DATA`.
        write: Writes it to a path, whole or not at all.
    """

    file: str
    write: Callable[[Path], object]


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written: its place below `PERVL_DATA`, its size and sha256."""

    file: str
    bytes: int
    sha256: str


class TrainingFileIOManager(PervlIOManager):
    """Writes a `TrainingFile` and its manifest; loads the manifest, never the file."""

    extension = ".json"

    def write(self, context: dg.OutputContext, value: TrainingFile, path: Path) -> None:
        """Write the file, then its manifest; unchanged ones rewrite nothing."""
        target = Path(self.data) / value.file
        value.write(target)
        written = WrittenFile(value.file, target.stat().st_size, hash_file(target))
        write_bytes_atomically(path, json.dumps(asdict(written), indent=1, sort_keys=True).encode() + b"\n")

    def read(self, context: dg.InputContext, path: Path) -> WrittenFile:
        """Read the manifest."""
        return read_manifest(path)

    def get_metadata(self, context: dg.OutputContext, obj: TrainingFile) -> dict[str, Any]:
        """Tell the file's place and size."""
        target = Path(self.data) / obj.file
        return {"file": dg.MetadataValue.path(str(target)), "bytes": target.stat().st_size, "files": 1}


def read_manifest(path: Path) -> WrittenFile:
    """Return what the manifest at `path` says of its file.

    Raises:
        FileNotFoundError: There is no manifest.
    """
    return WrittenFile(**json.loads(path.read_bytes()))
