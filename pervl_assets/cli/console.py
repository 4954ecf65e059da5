"""The console of the command line, its tables and progress, and untrusted text on it. Loads no Dagster."""

import os
from contextlib import suppress
from datetime import timedelta
from typing import Final, Self

from rich import box, markup
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from pervl_assets.cli.output import open_output
from pervl_assets.core.progress import read_progress
from pervl_assets.core.text import escape_terminal

_WIDTH_OF_A_FILE: Final = 140
_SHORTEST_NAME: Final = 24
_LONGEST_BAR: Final = 20


def make_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console as wide as the terminal; where the output is not one, as COLUMNS says, or 140 columns wide.

    Args:
        stderr: Whether it prints to standard error, because standard output is for a document.
        quiet: Whether it prints nothing.
    """
    console = Console(stderr=stderr, quiet=quiet, emoji=False)  # a name such as :cat: is printed as it is
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_FILE
    return console


def escape(text: str) -> str:
    """Return untrusted text for a terminal, without control characters and without markup of rich."""
    return markup.escape(escape_terminal(text))


def print_text(console: Console, text: str) -> None:
    """Print text in rich's markup, wrapped between words on a terminal, and as it is into a file."""
    console.print(text, highlight=False, soft_wrap=not console.is_terminal)


def make_table(*columns: str) -> Table:
    """Return an empty table; a column whose name begins with > holds numbers."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


class RunDisplay:
    """How far runs are: on a terminal a bar that counts assets, and one for each that is being made; else lines.

    Threads may call it at the same time.

    Args:
        console: Where it is shown.
        verbose: Whether all lines of the steps are printed, not only how far they are.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console, self._verbose, self._file, self._own = console, verbose, console.file, -1
        # A terminal that obeys nothing gets lines, and so does a file, even one that colours are forced into.
        self._is_live = console.is_interactive and console.file.isatty()
        self._longest = max(console.width // 3, _SHORTEST_NAME)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True), markup=False),
            BarColumn(bar_width=max(min(console.width // 8, _LONGEST_BAR), 1)),
            _StateColumn(table_column=Column(overflow="fold", ratio=1)),
            console=console,
            disable=not self._is_live or console.quiet,
            transient=True,
            expand=True,
        )
        self._assets = self._bars.add_task("materializing", total=None, line="")
        self._steps: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        # While a step is executed, Dagster redirects standard output and standard error to a file.
        with suppress(OSError, AttributeError):  # output that is none of a descriptor
            self._own = os.dup(self._file.fileno())
            self._console.file = open_output(self._own, getattr(self._file, "encoding", "utf-8"))
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        self._console.file = self._file
        if self._own >= 0:
            os.close(self._own)

    def set_total(self, total: int) -> None:
        """Set how many assets are made, those that are made already included."""
        self._bars.update(self._assets, total=total)

    def begin(self, step: str) -> None:
        """Show that a step is executed."""
        if step not in self._steps:
            name = escape_terminal(step)
            name = name if len(name) <= self._longest else f"…{name[1 - self._longest :]}"
            self._steps[step] = self._bars.add_task(name, total=None, line="")

    def end(self, step: str) -> None:
        """Show no more that a step is executed."""
        if step in self._steps:
            self._bars.remove_task(self._steps.pop(step))

    def report(self, step: str, line: str) -> None:
        """Show a line of a step: how far it is, or another one."""
        percent = read_progress(line)
        if step in self._steps:
            total = None if percent is None else 100
            # An update would leave a row finished that reached its end, as one of two counts of a step does.
            self._bars.reset(self._steps[step], total=total, completed=percent or 0, line=line)
        if self._verbose or (percent is not None and not self._is_live):
            self.note(f"  [dim]{escape(step)}:[/] {escape(line)}")

    def add(self, name: str, made: str) -> None:
        """Count an asset that was made; `made` is what: counts, size and duration."""
        self._bars.advance(self._assets)
        task = self._bars.tasks[0]
        if not self._is_live:
            self.note(f"{task.completed:.0f}/{task.total or 0:.0f} {escape(f'{name}: {made}' if made else name)}")

    def note(self, text: str) -> None:
        """Print a line above the bars, in rich's markup."""
        print_text(self._console, text)


class _StateColumn(ProgressColumn):
    """The last line of a step; of one without a line its seconds, and of the assets their number."""

    def render(self, task: Task) -> Text:
        """Return the state of a row."""
        elapsed = str(timedelta(seconds=int(task.elapsed or 0)))
        if line := task.fields["line"]:
            return Text(escape_terminal(line))
        return Text(f"{task.completed:.0f} of {task.total:.0f}, {elapsed}" if task.total else elapsed)
