"""An encrypted archive that holds many times as many bytes unneeded as needed, as DeepFashion2's official one does.

Belongs here: drawing it, from the images of a drawn kit, with the system's `zip`. Unneeded members are needed ones
under other names: the same bytes to decrypt, inflate and write, at no cost of drawing.
"""

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Collection
from pathlib import Path


def draw_wasteful_archive(kit: Path, password: str, needed: Collection[str], times: int, target: Path) -> None:
    """Draw an archive of the `needed` members and `times` as many bytes beside them.

    Args:
        kit: Encrypted archive that holds them.
        password: Its password, and the new one's.
        needed: Names of members.
        times: How many copies of each stand in the archive under a name that nothing asks for.
        target: File to write.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unpack = ["unzip", "-q", "-P", password, str(kit), *sorted(needed), "-d", folder]
        subprocess.run(unpack, check=True)
        for number, name in enumerate(sorted(needed)):
            file = Path(folder) / name
            for copy in range(times):
                os.link(file, file.with_name(f"9{copy:03}{number:06}.jpg"))
        partial = target.with_suffix(".partial.zip")
        partial.unlink(missing_ok=True)
        subprocess.run(["zip", "-q", "-r", "-X", "-1", "-P", password, str(partial), "train"], cwd=folder, check=True)
        shutil.move(partial, target)


def count_unneeded(archive: Path, needed: Collection[str]) -> float:
    """Return how many bytes of an archive are unneeded, over those that are needed."""
    with zipfile.ZipFile(archive) as opened:
        sizes = {info.filename: info.compress_size for info in opened.infolist()}
    wanted = sum(sizes[name] for name in needed)
    return (sum(sizes.values()) - wanted) / wanted
