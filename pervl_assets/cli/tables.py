"""Tables of assets, by group, that are as wide as the console: what does not fit is left out, names are never cut."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pervl_assets.cli.console import escape, make_table

_SHORTEST_NAME: Final = 16
_GAP: Final = 2
_INDENT: Final = "  "


@dataclass(frozen=True)
class AssetRow:
    """A row of an asset, or of partitions of it.

    Attributes:
        asset: Its key as text.
        partition: The partition of it; None: none, or all.
        count: Number of partitions that share this row.
        cells: What is known of it, as rich's markup, the most important first.
    """

    asset: str
    partition: str | None
    cells: tuple[str, ...]
    count: int = 1

    def name(self, *, whole: bool) -> str:
        """Return its name with its partitions; only a whole one begins with the group."""
        key = self.asset if whole else self.asset.partition("/")[2] or self.asset
        if self.count > 1:
            return f"{key} \N{MULTIPLICATION SIGN}{self.count}"
        return f"{key} [{self.partition}]" if self.partition else key


def print_assets(
    console: Console, titles: Sequence[str], rows: Iterable[AssetRow], least: int, *, wide: bool = False
) -> bool:
    """Print a table of assets; a title that begins with > is of numbers.

    Args:
        console: Where it is printed.
        titles: Titles of the cells.
        rows: Its rows. Those of a group become a section, in the order in which the groups are first named.
        least: Number of columns that are shown in any case; for these, names are wrapped.
        wide: Print all columns and whole names, and let the terminal wrap the lines.

    Returns:
        Whether all columns were printed.
    """
    sections: dict[str, list[AssetRow]] = {}
    for row in rows:
        group, slash, _ = row.asset.partition("/")
        sections.setdefault(group if slash else "", []).append(row)
    every = [row for section in sections.values() for row in section]
    names = [row.name(whole=wide) for row in every]
    longest = max((len(name) + (0 if wide else len(_INDENT)) for name in names), default=0)
    widths = [
        _GAP + max(len(title.lstrip(">")), *(Text.from_markup(row.cells[column]).cell_len for row in every), 0)
        for column, title in enumerate(titles)
    ]
    fitting = sum(wide or longest + width <= console.width for width in accumulate(widths))
    shown = max(fitting, least)
    room = longest if wide else max(min(longest, console.width - sum(widths[:shown])), _SHORTEST_NAME)
    table = make_table("asset", *titles[:shown])
    table.show_edge, table.padding = False, (0, 1, 0, 0)
    for group, section in sections.items():
        _add_section(table, group, section, shown, room, wide=wide)
    terminal, console.width = console.width, max(console.width, room + sum(widths) if wide else 0)
    console.print(table)
    console.width = terminal
    return shown == len(titles)


def _add_section(table: Table, group: str, rows: Iterable[AssetRow], shown: int, room: int, *, wide: bool) -> None:
    if group and not wide:
        table.add_row(f"[bold]{escape(group)}/[/]")
    for row in rows:
        name = row.name(whole=wide)
        table.add_row(escape(name if wide else _wrap(name, room)), *row.cells[:shown])


def _wrap(name: str, room: int) -> str:
    """Return a name in lines of at most this length, wrapped behind its slashes where possible."""
    if len(_INDENT + name) <= room:
        return _INDENT + name
    lines = textwrap.wrap(
        name.replace("/", "/ "), room, initial_indent=_INDENT, subsequent_indent=_INDENT * 2, break_on_hyphens=False
    )
    return "\n".join(line.replace("/ ", "/") for line in lines)
