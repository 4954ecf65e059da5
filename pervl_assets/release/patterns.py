"""Which files of a tree go together, the patterns that name them, and what a path tells of its concept and split.

Belongs here: from a ledger's rows to patterns and expressions; every one is tried on the rows before it is used. Does
not belong here: Croissant.
"""

import glob
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pervl_assets.release.parts import File, TreePart


@dataclass(frozen=True)
class FileGroup:
    """Files of one kind in a tree.

    Attributes:
        name: Name of the tree and of the rules that make the files; several rules where their folders are the same.
        rules: These rules.
        patterns: Globs of the files' places below the data root.
        suffix: Suffix of the files' names.
        files: The files' places, each with its concept, in order.
        bytes: Their size.
    """

    name: str
    rules: tuple[str, ...]
    patterns: tuple[str, ...]
    suffix: str
    files: tuple[tuple[str, str], ...]
    bytes: int


def group_files(part: TreePart) -> list[FileGroup]:
    """Sort the files of a tree's concepts into groups of one kind, in order of their names."""
    rows: dict[tuple[str, str], list[tuple[str, str, int]]] = defaultdict(list)
    patterns: dict[tuple[str, str], set[str]] = defaultdict(set)
    for tree in part.trees:
        found: dict[tuple[str, str, int], list[tuple[str, str, int]]] = defaultdict(list)
        written = tree.rows.filter(status="written").select("path", "concept", "rule", "bytes").sort("path")
        for path, concept, rule, size in written.iter_rows():
            if concept:
                place = PurePosixPath(path)
                found[rule, place.suffix, len(place.parts)].append((path, concept, size))
        for (rule, suffix, _), files in found.items():
            pattern = find_pattern([(path, concept) for path, concept, _ in files])
            patterns[rule, suffix].add(f"{glob.escape(tree.root)}/{pattern}")
            rows[rule, suffix] += [(f"{tree.root}/{path}", concept, size) for path, concept, size in files]
    kinds: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for kind in sorted(rows):
        kinds[tuple(sorted(patterns[kind]))].append(kind)
    groups: list[FileGroup] = []
    for globs, alike in kinds.items():
        rules = tuple(dict.fromkeys(rule for rule, _ in alike))
        files = sorted(file for kind in alike for file in rows[kind])
        name = f"{part.name}/{'_and_'.join(rules)}"
        if any(group.name == name for group in groups):  # a rule that makes files of several types
            name += alike[0][1]
        places = tuple((path, concept) for path, concept, _ in files)
        groups.append(FileGroup(name, rules, globs, alike[0][1], places, sum(size for *_, size in files)))
    return groups


def list_single_files(part: TreePart) -> list[File]:
    """Return the files of a tree that are about all of its concepts."""
    return [
        File(f"{tree.root}/{path}", size, sha256)
        for tree in part.trees
        for path, size, sha256 in tree.rows.filter(status="written", concept="")
        .select("path", "bytes", "sha256")
        .sort("path")
        .iter_rows()
    ]


def find_pattern(files: Sequence[tuple[str, str]]) -> str:
    """Return the glob of files: `*` for a folder that varies or is the concept's own, and for the file's name.

    Args:
        files: Path and concept of each; all paths have as many parts and the same suffix.
    """
    *folders, names = zip(*(path.split("/") for path, _ in files), strict=True)
    concepts = [concept for _, concept in files]
    parts = [
        glob.escape(folder[0]) if len(set(folder)) == 1 and list(folder) != concepts else "*" for folder in folders
    ]
    return "/".join([*parts, f"*{PurePosixPath(names[0]).suffix}"])


def find_concept(files: Sequence[tuple[str, str]], roots: Sequence[str]) -> str | None:
    """Return an expression whose group is the concept in each of these paths; None: the paths do not tell it.

    It is a folder's name, a file's name without suffix, or that up to its last `_`. The expression also takes a bare
    concept for what it is, since mlcroissant applies it twice where record sets are joined, and paths with the data
    root before them.

    Args:
        files: Place and concept of each; all have the same suffix.
        roots: The trees' roots.
    """
    if not files:
        return None
    suffix = re.escape(PurePosixPath(files[0][0]).suffix)
    place = "|".join(map(re.escape, roots))
    depth = max(path.count("/") for path, _ in files)
    candidates = [rf"^(?:(?:.*/)?(?:{place})/(?:[^/]+/){{{above}}})?([^/]+)(?:/.*)?$" for above in range(depth)]
    candidates += [rf"^(?:.*/)?([^/]+?)(?:{suffix})?$", rf"^(?:.*/)?([^/]+?)(?:_[^/_]+{suffix})?$"]
    return next((text for text in candidates if _tells(text, files)), None)


def find_split(roots: Sequence[tuple[str | None, str]], patterns: Sequence[str]) -> str | None:
    """Return an expression whose group is the split in a file's place; None: the places do not tell it.

    Like `find_concept`, it also takes a bare split. Its end is the patterns' own, for mlcroissant makes a pattern of it
    where somebody asks for the files of one split.

    Args:
        roots: Split and root of each tree.
        patterns: Globs of the files' places.
    """
    ends = {pattern.removeprefix(f"{glob.escape(root)}/") for pattern in patterns for _, root in roots}
    ends = {end for end in ends if end not in patterns}
    end = re.escape(ends.pop()).replace(r"\*", ".*") if len(ends) == 1 else ".*"
    for split, root in roots:
        for match in re.finditer(re.escape(split), root) if split else ():
            before, behind = root[: match.start()], root[match.end() :]
            names = "|".join(re.escape(name or "") for name, _ in roots)
            text = rf"^(?:{re.escape(before)})?({names})(?:{re.escape(behind)}/{end})?$"
            files = [
                (pattern, name)
                for name, place in roots
                for pattern in patterns
                if pattern.startswith(glob.escape(place))
            ]
            if all(name for name, _ in roots) and _tells(text, [(file, name or "") for file, name in files]):
                return text
    return None


def _tells(expression: str, files: Iterable[tuple[str, str]]) -> bool:
    """Tell whether an expression finds the right text in every path, and in the text itself."""
    compiled = re.compile(expression)
    return all((found := compiled.match(text)) and found[1] == told for path, told in files for text in (path, told))
