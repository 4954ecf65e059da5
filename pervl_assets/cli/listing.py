"""`pervl list`: the assets that can be selected. Reads neither the data folder nor Dagster's history."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import click
import dagster as dg
from rich.console import Console
from rich.padding import Padding

from pervl_assets.cli.console import escape, make_console
from pervl_assets.cli.selections import choose_assets
from pervl_assets.core.errors import name_some
from pervl_assets.core.text import count_of

_SHOWN: Final = 3
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)|`")
_SENTENCE: Final = re.compile(r"(?<=[.:;])\s")


@dataclass(frozen=True)
class ListedAsset:
    """An asset that can be selected: its key, group, kinds, partitions, and what it is in a line of plain text."""

    asset: str
    group: str
    kinds: tuple[str, ...]
    partitions: tuple[str, ...]
    description: str


def list_assets(defs: dg.Definitions, words: Sequence[str]) -> list[ListedAsset]:
    """Return the assets of a selection, sorted by their keys. Raises as `choose_assets` does."""
    graph = defs.resolve_asset_graph()
    nodes = [graph.get(key) for key in choose_assets(defs, words)]
    return [
        ListedAsset(
            node.key.to_user_string(),
            node.group_name,
            tuple(sorted(node.kinds or ())),
            tuple(node.partitions_def.get_partition_keys()) if node.partitions_def else (),
            _summarize(node.description or ""),
        )
        for node in nodes
    ]


def _summarize(description: str) -> str:
    """Return the first sentence of a description, without its markup."""
    text = _LINK.sub(r"\1", " ".join(description.partition("\n\n")[0].split()))
    return _SENTENCE.split(text, maxsplit=1)[0].rstrip(".:;")


def show_assets(words: Sequence[str], *, as_json: bool) -> None:
    """Print the assets of a selection."""
    from pervl_assets.definitions import defs

    assets = list_assets(defs, words)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in assets], indent=2))
    else:
        print_list(make_console(), assets)


def print_list(console: Console, assets: Iterable[ListedAsset]) -> None:
    """Print assets by group: a line with key, kinds and partitions, and one with the description."""
    groups: dict[str, list[ListedAsset]] = {}
    for one in assets:
        groups.setdefault(one.group, []).append(one)
    for group, section in groups.items():
        console.print(f"[bold]{escape(group)}[/]  [dim]{count_of(len(section), 'asset')}[/]", highlight=False)
        for one in section:
            facts = ", ".join(one.kinds) + (f"; {name_some(one.partitions, _SHOWN)}" if one.partitions else "")
            _print_indented(console, f"{escape(one.asset)}  [dim]{escape(facts)}[/]", 2)
            _print_indented(console, escape(one.description), 6)


def _print_indented(console: Console, text: str, blanks: int) -> None:
    console.print(Padding(text, (0, 0, 0, blanks), expand=False), highlight=False)
