"""The assets that a command is about: its words, positional or after --select. Loads no Dagster until they are read."""

import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    import dagster as dg

_NAME: Final = re.compile(r"[\w/*.-]+")
_DOCUMENTED: Final = re.compile(r"^<!-- from the definitions: asset (\S+) -->$", re.MULTILINE)


def _complete(_context: click.Context, _parameter: click.Parameter, typed: str) -> list[str]:
    """Return the groups, keys and first parts of keys that begin with what was typed, for the shell.

    They are those of the docs, which are read in no time.
    """
    from pervl_assets.benchmarks import find_benchmarks

    pages = (Path(__file__).parents[1] / "docs/assets").glob("*.md")
    documented = [key for page in pages for key in _DOCUMENTED.findall(page.read_text(encoding="utf-8"))]
    evaluated = [benchmark.name for benchmark in find_benchmarks() if benchmark.retrieval]
    keys = {key.replace("<benchmark>", name) for key in documented for name in evaluated}
    begun = typed.lstrip("+")
    names = sorted(keys | {key[:end] for key in keys for end, letter in enumerate(key) if letter == "/"})
    return [typed.removesuffix(begun) + name for name in names if name.startswith(begun)]


def select_option(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments [SELECTION]... and the option --select, and pass both to it as `words`."""

    @click.argument("positional", nargs=-1, metavar="[SELECTION]...", shell_complete=_complete)
    @click.option(
        "--select", multiple=True, metavar="SELECTION", help="The same as SELECTION.", shell_complete=_complete
    )
    @wraps(command)
    def run(positional: tuple[str, ...], select: tuple[str, ...], **options: Any) -> None:
        command(words=(*positional, *select), **options)

    return run


def join_words(words: Sequence[str]) -> str:
    """Return words as one selection: what any of them names; everything if there are none."""
    return " or ".join(f"({word})" for word in words) if len(words) > 1 else words[0] if words else "*"


def add_inputs(words: Sequence[str]) -> list[str]:
    """Return words that name the same assets and everything that these are made from."""
    return [word if word[:1] in ("+", "*") else f"+{word}" if _NAME.fullmatch(word) else f"+({word})" for word in words]


def choose_assets(defs: "dg.Definitions", words: Sequence[str]) -> "list[dg.AssetKey]":
    """Return the keys of the assets that words name, sorted; all assets if there are no words.

    Raises:
        PervlError: A word is no selection, or names nothing.
    """
    from pervl_assets.defs.selections import select_assets

    return sorted(select_assets(defs.resolve_asset_graph(), join_words(words)))
