"""Validation of `croissant.json` by mlcroissant, and verification of the files it lists."""

import json
from pathlib import Path

from pervl_assets.core.files import VerifyResult, hash_file
from pervl_assets.core.workers import map_in_threads


def validate_croissant(file: Path) -> tuple[list[str], list[str]]:
    """Validate a description with mlcroissant and return its errors and warnings. Listed files are not opened.

    Raises:
        FileNotFoundError: The description does not exist.
    """
    import mlcroissant as mlc

    if not file.is_file():
        raise FileNotFoundError(2, "No such file", str(file))
    try:
        dataset = mlc.Dataset(jsonld=str(file))
    except Exception as error:  # a ValidationError, or anything if the file is no description at all
        lines = [line.strip(" -") for line in str(error).splitlines() if line.strip().startswith("-")]
        return lines or [f"{type(error).__name__}: {error}"], []
    return [], sorted(dataset.metadata.ctx.issues.warnings)


def list_files(file: Path) -> list[tuple[str, str, int]]:
    """Return path, sha256 and size in bytes of every single file that a description lists."""
    nodes = [node for node in json.loads(file.read_bytes())["distribution"] if "sha256" in node]
    return [(node["contentUrl"], node["sha256"], int(node["contentSize"].removesuffix(" B"))) for node in nodes]


def verify_files(file: Path) -> VerifyResult:
    """Re-hash every single file that a description lists: tables, features, ledgers, training files.

    The files of the trees are not among them: their sha256 are in the ledgers (`trees.ledger.verify_tree`).
    """
    expected = list_files(file)

    def compare(node: tuple[str, str, int]) -> str:
        path = file.parent / node[0]
        if not path.is_file():
            return "missing"
        return "same" if hash_file(path) == node[1] else "changed"

    states = map_in_threads(compare, expected)
    found = [(state, path) for (path, *_), state in zip(expected, states, strict=True)]
    missing, changed = (sorted(path for state, path in found if state == bad) for bad in ("missing", "changed"))
    return VerifyResult(len(expected), missing=missing, changed=changed)
