"""What an archive is, judged by its directory alone: in a second for 10 GB, and without its password.

Belongs here: reading what is known of the official archives, and holding an archive against it and against the members
that the annotations name. Does not belong here: whether members decode, which only reading them shows.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from pervl_assets.archives.inputs import identify_directory, list_folder
from pervl_assets.archives.zip_directory import read_directory
from pervl_assets.core.errors import AnnotationError, TruncatedArchiveError, name_some

State = Literal["official", "re-released", "unknown", "lacking", "truncated"]


@dataclass(frozen=True)
class KnownMembers:
    """Members of one kind in an official archive.

    Attributes:
        pattern: Regular expression that their whole names match.
        named: How many of them the official annotations name; None: not known.
        count: How many there are; None: not known.
    """

    pattern: str
    named: int | None = None
    count: int | None = None


@dataclass(frozen=True)
class KnownArchive:
    """What is known of an official archive.

    Attributes:
        members: Its members, by kind.
        sha256: Of its directory, as the identity card has it; None: not recorded yet.
    """

    members: tuple[KnownMembers, ...]
    sha256: str | None = None


@dataclass(frozen=True)
class MemberCount:
    """How many members of one kind an archive holds and the annotations name, beside what is known of both."""

    pattern: str
    found: int
    count: int | None
    named: int
    officially_named: int | None


@dataclass(frozen=True)
class ArchiveReport:
    """What an archive is.

    Attributes:
        state: official: its directory is the recorded one. re-released: all named members are there, and the directory
            is another one. unknown: all named members are there, and no official directory is recorded, or a folder is
            judged, of which only names are known. lacking: named members are not there. truncated: it is cut off.
        text: The verdict in words, with counts and names.
        needed: Number of named members.
        lacking: Those that are not there, sorted.
        counts: Members by kind; empty if the archive is truncated.
    """

    state: State
    text: str
    needed: int
    lacking: tuple[str, ...] = ()
    counts: tuple[MemberCount, ...] = ()


def load_known_archives(manifest: Path) -> dict[str, KnownArchive]:
    """Read the section `archives` of the manifest, by name of the archive.

    Raises:
        AnnotationError: The manifest cannot be read, or the section is not as it should be.
    """
    try:
        section = yaml.safe_load(manifest.read_text(encoding="utf-8"))["archives"]
        return {
            str(name): KnownArchive(tuple(KnownMembers(**kind) for kind in known["members"]), known.get("sha256"))
            for name, known in section.items()
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise AnnotationError(
            f"The manifest {manifest} does not say what is known of the archives: {error!r}.",
            advice="Restore it from the project's repository.",
        ) from error


def inspect_archive(path: Path, known: KnownArchive, needed: Collection[str] = (), prefix: str = "") -> ArchiveReport:
    """Judge a zip by its directory, or an unzipped folder by its file names; no member is read.

    Args:
        path: The zip or the folder.
        known: What is known of the official one.
        needed: Members that the annotations name.
        prefix: What a folder's file names lack to be the members' names.

    Raises:
        ArchiveError: It is no zip, or one that cannot be trusted.
    """
    try:
        names, sha256 = _read_names(path, prefix)
    except TruncatedArchiveError as error:
        return ArchiveReport("truncated", error.problem, len(needed))
    lacking = tuple(sorted(name for name in needed if name not in names))
    counts = tuple(_count(kind, names, needed) for kind in known.members)
    state: State
    if lacking:
        state = "lacking"
        text = (
            f"It lacks {len(lacking):,} of the {len(needed):,} members that the annotations name: {name_some(lacking)}."
        )
    else:
        held = f"It holds all {len(needed):,} members that the annotations name" if needed else "No members are named"
        if sha256 is not None and sha256 == known.sha256:
            state, text = "official", f"{held}, and its directory is that of the official archive."
        elif sha256 is not None and known.sha256:
            state = "re-released"
            text = f"{held}, but its directory is not that of the official archive: same names, other contents."
        else:
            what = "only its names can be judged" if sha256 is None else "no official directory is recorded to compare"
            state, text = "unknown", f"{held}; {what}."
    return ArchiveReport(state, " ".join([text, *_tell_differences(counts)]), len(needed), lacking, counts)


def _read_names(path: Path, prefix: str) -> tuple[Collection[str], str | None]:
    """Return the members' names and the directory's sha256, None for a folder."""
    if path.is_dir():
        return {prefix + name for name in list_folder(path)}, None
    entries = read_directory(path)
    return entries.keys(), identify_directory(path, entries).sha256


def _count(kind: KnownMembers, names: Collection[str], needed: Collection[str]) -> MemberCount:
    # One search over all names, not a match of each: no name of a trusted zip holds a line break.
    pattern = re.compile(f"^(?:{kind.pattern})$", re.MULTILINE)
    found, named = (len(pattern.findall("\n".join(some))) for some in (names, needed))
    return MemberCount(kind.pattern, found, kind.count, named, kind.named)


def _tell_differences(counts: tuple[MemberCount, ...]) -> list[str]:
    return [
        f"It holds {kind.found:,} members like {kind.pattern}, the official one {kind.count:,}."
        for kind in counts
        if kind.count not in (None, kind.found)
    ]
