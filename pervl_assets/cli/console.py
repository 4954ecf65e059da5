"""The console of the command line, its tables and progress, and untrusted text on it. Loads no Dagster."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich import box, markup
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pervl_assets.core.text import escape_terminal

_WIDTH_OF_A_FILE: Final = 140


def make_console() -> Console:
    """Return a console as wide as the terminal; where the output is not one, wide enough for every table."""
    console = Console(emoji=False)  # a name such as :cat: is printed as it is
    return console if console.is_terminal else Console(width=_WIDTH_OF_A_FILE, emoji=False)


def escape(text: str) -> str:
    """Return untrusted text for a terminal, without control characters and without markup of rich."""
    return markup.escape(escape_terminal(text))


def make_table(*columns: str) -> Table:
    """Return an empty table; a column whose name begins with > holds numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


@contextmanager
def show_progress(console: Console) -> Iterator[Progress]:
    """Show a bar that counts assets; without a terminal, print one line per asset."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[news]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        bar.add_task("materializing", total=None, news="")
        yield bar
