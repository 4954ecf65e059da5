"""A raw archive compared with the official one by its directory: a second for 10 GB, and no password."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from pervl_assets.archives.inputs import RawArchive, list_folder
from pervl_assets.archives.zip_index import read_index
from pervl_assets.core.errors import AnnotationError, name_some
from pervl_assets.core.files import explain_read_errors


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
class MemberCount:
    """Members of one kind: found in the archive and named by the annotations, with the official numbers."""

    pattern: str
    found: int
    count: int | None
    named: int
    officially_named: int | None


@dataclass(frozen=True)
class ArchiveReport:
    """The comparison of an archive with the official one.

    Attributes:
        text: The finding in words, with counts and names.
        needed: Number of members that the annotations name.
        missing: Those that are not in the archive, sorted.
        counts: Members by kind.
        differs: Whether the archive holds more or fewer members of a kind than the official one.
    """

    text: str
    needed: int
    missing: tuple[str, ...]
    counts: tuple[MemberCount, ...]
    differs: bool


def load_known_archives(manifest: Path) -> dict[str, tuple[KnownMembers, ...]]:
    """Read the section `archives` of the manifest: the kinds of members of each archive, by its name.

    Raises:
        AnnotationError: The manifest cannot be read, or the section is malformed.
    """
    try:
        section = yaml.safe_load(manifest.read_text(encoding="utf-8"))["archives"]
        return {str(name): tuple(KnownMembers(**kind) for kind in known["members"]) for name, known in section.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise AnnotationError(
            f"The manifest {manifest} does not describe the archives: {error!r}.",
            advice="Restore it from the project's repository.",
        ) from error


def inspect_archive(archive: RawArchive, known: Collection[KnownMembers], needed: Collection[str]) -> ArchiveReport:
    """Compare the names in a zip or an unzipped folder with those that are expected; no member is read.

    Args:
        archive: The zip or the folder.
        known: The official archive's members, by kind.
        needed: Members that the annotations name.

    Raises:
        ArchiveError: The archive cannot be read, or is unsafe.
    """
    with explain_read_errors(archive.path):
        if archive.path.is_dir():
            names: Collection[str] = {archive.prefix + name for name in list_folder(archive.path)}
        else:
            names = read_index(archive.path, archive.index).entries.keys()
    missing = tuple(sorted(name for name in needed if name not in names))
    counts = tuple(_count(kind, names, needed) for kind in known)
    differing = [kind for kind in counts if kind.count not in (None, kind.found)]
    notes = [
        f"It holds {kind.found:,} members like {kind.pattern}, the official one {kind.count:,}." for kind in differing
    ]
    text = f"All {len(needed):,} members that the annotations name are in it." if needed else "No members are named."
    if missing:
        text = f"{len(missing):,} of the {len(needed):,} members that the annotations name are not in it: "
        text += f"{name_some(missing)}."
    elif not differing:
        notes = ["No hash of the official archive is recorded, so only names and counts are compared."]
    return ArchiveReport(" ".join([text, *notes]), len(needed), missing, counts, bool(differing))


def _count(kind: KnownMembers, names: Collection[str], needed: Collection[str]) -> MemberCount:
    # One search over all names, not a match of each: no name in a safe zip holds a line break.
    pattern = re.compile(f"^(?:{kind.pattern})$", re.MULTILINE)
    found, named = (len(pattern.findall("\n".join(some))) for some in (names, needed))
    return MemberCount(kind.pattern, found, kind.count, named, kind.named)
