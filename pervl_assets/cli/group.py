"""The group of commands: how errors are printed, its log, and options of several commands. Loads no Dagster."""

import logging
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.markup import escape

from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import explain_errors
from pervl_assets.core.text import escape_terminal

if TYPE_CHECKING:
    from pervl_assets.settings import Settings

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document, and no text.")
quiet_option: Final = click.option("-q", "--quiet", is_flag=True, help="Print only errors, warnings and the result.")


class TerminalFormatter(logging.Formatter):
    """Formats log records as text that a terminal shows and does not obey."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return escape_terminal(super().format(record))


class PervlGroup(click.Group):
    """Prints a `PervlError` without a stack."""

    def __call__(self, *_: object, **__: object) -> None:
        """Run the command as a script of an earlier installation does, which calls this group."""
        from pervl_assets.cli.__main__ import run

        run()

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; exit with 1 after a `PervlError`."""
        try:
            with explain_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(1)  # without click's own message; the exit code is set where the command was started
        except PervlError as error:
            print_error("[bold red]error[/]", error)
            ctx.exit(1)


def print_error(kind: str, error: PervlError) -> None:
    """Print an error to standard error; `kind` is the word before it, in rich's markup."""
    console = Console(stderr=True, emoji=False)
    console.print(f"{kind} {escape(str(error))}", highlight=False, soft_wrap=not console.is_terminal)


def read_settings() -> "Settings":
    """Return the settings of the environment; they are loaded here, so that `--help` is printed at once."""
    from pervl_assets.settings import Settings

    return Settings.from_env()
