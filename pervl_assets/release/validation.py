"""Whether a description is valid, and whether the files are still those that it tells of.

Belongs here: asking mlcroissant, and re-hashing. Does not belong here: drawing the description up (`croissant`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pervl_assets.core.files import hash_file
from pervl_assets.core.workers import map_in_threads
from pervl_assets.trees.ledger import TreeDiff


@dataclass(frozen=True)
class Findings:
    """What the library's validation of a description found, in its own words.

    Attributes:
        errors: What makes it invalid.
        warnings: What it should have and lacks.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def validate_croissant(file: Path) -> Findings:
    """Let mlcroissant load and validate a description; no file that it tells of is opened.

    Raises:
        FileNotFoundError: There is no description.
    """
    import mlcroissant as mlc

    if not file.is_file():
        raise FileNotFoundError(2, "No such file", str(file))
    try:
        dataset = mlc.Dataset(jsonld=str(file))
    except Exception as error:  # a ValidationError; of what is no description at all, whatever it stumbles over
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip().startswith("-")]
        return Findings(tuple(lines or [f"{type(error).__name__}: {error}"]), ())
    return Findings((), tuple(sorted(dataset.metadata.ctx.issues.warnings)))


def list_files(file: Path) -> list[tuple[str, str]]:
    """Return place and sha256 of every single file that a description tells of."""
    nodes = json.loads(file.read_bytes())["distribution"]
    return [(node["contentUrl"], node["sha256"]) for node in nodes if "sha256" in node]


def verify_files(file: Path) -> TreeDiff:
    """Re-hash every single file that a description tells of: tables, features, ledgers, training files.

    The files of the trees are not among them: their sha256 stand in the ledgers (`core.ledger.verify_tree`).
    """
    told = list_files(file)

    def look(node: tuple[str, str]) -> str:
        path = file.parent / node[0]
        if not path.is_file():
            return "missing"
        return "same" if hash_file(path) == node[1] else "changed"

    states = map_in_threads(look, told)
    named = {
        state: sorted(place for (place, _), found in zip(told, states, strict=True) if found == state)
        for state in ("missing", "changed")
    }
    return TreeDiff(missing=named["missing"], changed=named["changed"], extra=[])
