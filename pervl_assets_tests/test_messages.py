"""Messages whose words would not fit the number in them, for all of the package."""

import ast
import re
from pathlib import Path

import pervl_assets

PACKAGE = Path(pervl_assets.__file__).parent
PLURAL = r"(are|have|were|differ|need|occur|belong|leave|repeat|match|hold)"
NUMBER_AND_VERB = re.compile(rf"\0((?!\b(that|which|whose|and)\b)[^\0:;.,()])*\b{PLURAL}\b")


def list_texts(path: Path) -> list[str]:
    """Return the f-strings of a module, each number in them as a NUL."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(map(show, node.values)))
    return texts


def show(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return "\0" if is_number(part) else "x"
    return str(ast.literal_eval(part))


def is_number(part: ast.FormattedValue) -> bool:
    """Return whether a part is a count: `{files:,}`, `{len(names)}` or `{count_of(…)}`."""
    separated = part.format_spec is not None and ast.unparse(part.format_spec) == "f','"
    return separated or ast.unparse(part.value).startswith(("len(", "count_of("))


def test_no_verb_follows_a_number_which_may_be_one():
    found = [
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in PACKAGE.rglob("*.py")
        for text in list_texts(path)
        if NUMBER_AND_VERB.search(text)
    ]
    assert not found, "say it without the verb: 1 of 3 files not in the archive"
