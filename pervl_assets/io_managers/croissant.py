"""`croissant.json`, the description of the release: a file like a training file, and a manifest of all other files."""

from pathlib import Path

from pervl_assets.io_managers.base import VerifyResult
from pervl_assets.io_managers.training_files import TrainingFileIOManager
from pervl_assets.release.images import IMAGES_FILE
from pervl_assets.release.validation import list_files, verify_files


class CroissantIOManager(TrainingFileIOManager):
    """Keeps `croissant.json` and its manifest."""

    key = "croissant"

    def list_parts(self, path: Path) -> list[Path]:
        """Return the file, and the table of images that is written with it if there are images."""
        (file,) = super().list_parts(path)
        return [file, *(file.parent / name for name, _ in list_files(file) if name == IMAGES_FILE)]

    def compare(self, path: Path) -> VerifyResult:
        """Hash the file, and every single file that it describes; the files of trees are in the trees' own ledgers.

        So a table that was materialized again after the release is reported: the description no longer matches it.
        """
        own = super().compare(path)
        if not own.unchanged:
            return own
        file = Path(self.data) / self.load(path).file
        diff = verify_files(file)
        return VerifyResult(1 + len(list_files(file)), own.bytes, diff.missing, diff.changed)
