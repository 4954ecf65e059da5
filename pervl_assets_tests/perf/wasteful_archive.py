"""An encrypted archive with many times as many unneeded as needed bytes, like DeepFashion2's official one.

Unneeded members are copies of needed ones under other names: the same bytes to decrypt and inflate. Written by the
system's `zip`.
"""

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Collection
from pathlib import Path


def draw_wasteful_archive(kit: Path, password: str, needed: Collection[str], times: int, target: Path) -> None:
    """Write an archive of the `needed` members and `times` as many unneeded bytes.

    Args:
        kit: Encrypted archive that contains them.
        password: Password of both archives.
        needed: Names of members.
        times: Copies of each under names that are not needed.
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
    """Return the ratio of unneeded to needed bytes of an archive."""
    with zipfile.ZipFile(archive) as opened:
        sizes = {info.filename: info.compress_size for info in opened.infolist()}
    wanted = sum(sizes[name] for name in needed)
    return (sum(sizes.values()) - wanted) / wanted
