"""What of a release may be passed on: everything but the folder trees whose images belong to somebody else."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from pervl_assets.core.files import make_folder
from pervl_assets.release.croissant import FILE, build_croissant, encode_croissant
from pervl_assets.release.data_card import build_cards
from pervl_assets.release.images import IMAGES, IMAGES_FILE, write_images
from pervl_assets.release.parts import Release, TablePart, TreePart
from pervl_assets.trees.ledger import LEDGER

_LEDGER: Final = {column.name: column.description for column in LEDGER}
_IMAGES: Final = {column.name: column.description for column in IMAGES}


def leave_out(release: Release) -> Release:
    """Return what of a release may be passed on: of the trees that may not, only the ledgers and labels."""
    barred = tuple(part for part in release.trees if part.barred_by)
    parts = [_keep_ledgers(part) if isinstance(part, TreePart) and part.barred_by else part for part in release.parts]
    if barred and len(barred) == len(release.trees):  # else `images` is described with the other trees
        sources = tuple(dict.fromkeys(source for part in barred for source in part.sources))
        text = "One row per image of the folder trees that are left out: concept, class, split and caption."
        parts.append(TablePart("release/images", text, sources, (IMAGES_FILE,), _IMAGES))
    return replace(release, parts=tuple(parts), barred=barred)


def _keep_ledgers(part: TreePart) -> TablePart:
    text = f"Path, size, sha256 and sources of every file of `{part.name}`, which is left out."
    return TablePart(f"{part.name}/ledger", text, part.sources, tuple(tree.ledger for tree in part.trees), _LEDGER)


def write_publication(release: Release, folder: Path) -> None:
    """Copy what may be passed on of a release into a folder, with its description, data cards and licences.

    Raises:
        FileNotFoundError: A file of the release does not exist.
        OSError: The folder cannot be written to.
    """
    write_images(replace(release, root=folder))
    given = leave_out(release)
    for path in (path for part in given.parts for path in part.list_files() if path != IMAGES_FILE):
        make_folder((folder / path).parent)
        shutil.copyfile(release.root / path, folder / path)
    given = replace(given, root=folder)
    texts = {FILE: encode_croissant(build_croissant(given))}
    for path, content in {**texts, **{path: text.encode() for path, text in build_cards(given).items()}}.items():
        (folder / path).write_bytes(content)
