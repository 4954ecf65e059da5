"""What Dagster's UI shows of a step: metadata, whose numbers keep their names, previews of tables, and errors."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import dagster as dg
import polars as pl
from rich.filesize import decimal

from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import explain_errors
from pervl_assets.core.text import escape_markdown
from pervl_assets.dagster_private import Interrupted, name_error, name_failure

ROWS: Final = "dagster/row_count"
FILES: Final = "files"
BYTES: Final = "bytes"
QUARANTINED: Final = "quarantined"
MISSING: Final = "missing"

SECONDS: Final = "seconds"
"""Duration of an asset's own work, without loading its inputs."""

STAMP: Final = "stamp"
"""`PervlIOManager.stamp` of the value right after it was written."""

INTERRUPTED: Final = "it was ended before it was done. What to do: start it again; finished work is kept."

_PREVIEW_ROWS: Final = 8
_LONGEST_CELL: Final = 80


def describe_size(size: int, files: int | None = None) -> dict[str, Any]:
    """Return the metadata of a size in bytes, and of a number of files: in words, and as the numbers that are plotted.

    Example: `{"size": "1.7 GB in 82,783 files", "files": 82783, "bytes": 1700000000}`.
    """
    words = decimal(size) if files in (None, 1) else f"{decimal(size)} in {files:,} files"
    return {"size": words, **({} if files is None else {FILES: files}), BYTES: size}


def order_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata in the order of a page: images and tables, then numbers and paths, then JSON for programs.

    Dagster keeps the order. What an IO manager adds comes last, unless `describe` has a value that it replaces.
    """

    def rank(name: str) -> int:
        value = metadata[name]
        is_json = isinstance(value, dg.JsonMetadataValue | dict | list)
        return 2 if is_json else 0 if isinstance(value, dg.MarkdownMetadataValue) else 1

    return {name: metadata[name] for name in sorted(metadata, key=rank)}


def preview_table(frame: pl.DataFrame, rows: int = _PREVIEW_ROWS, *, markup: bool = False) -> dg.MetadataValue:
    """Return a table's first rows as markdown: numbers right-aligned with four significant figures.

    Args:
        frame: The table.
        rows: Number of rows shown.
        markup: Whether cells are markdown already, e.g. links; else they are escaped, and cut at 80 characters.
    """
    if frame.is_empty():
        return dg.MetadataValue.md("*no rows*")
    align = "".join(" ---: |" if dtype.is_numeric() else " --- |" for dtype in frame.dtypes)
    lines = ["| " + " | ".join(map(escape_markdown, frame.columns)) + " |", f"|{align}"]
    for row in frame.head(rows).iter_rows():
        lines.append("| " + " | ".join(str(cell) if markup else _show(cell) for cell in row) + " |")
    return dg.MetadataValue.md("\n".join(lines))


def _show(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    text = ", ".join(map(str, cell)) if isinstance(cell, list) else "" if cell is None else str(cell)
    return escape_markdown(text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "…")


def make_failure(error: PervlError, **metadata: Any) -> dg.Failure:
    """Return an error as Dagster's `Failure`, which has its name: problem, counts and advice, line by line.

    A step with a retry policy is tried again only if that can help.
    """
    return name_failure(type(error).__name__)(str(error), metadata, allow_retries=error.is_temporary)


_is_given_up: Callable[[], bool] = bool
"""See `end_if_given_up`; `bool()` is False."""


def end_if_given_up(is_given_up: Callable[[], bool]) -> None:
    """Let an error end this process without a word once its step was given up; for a process of one step.

    A later attempt of the step is at work then, and Dagster would take the error for that one's.
    """
    global _is_given_up  # noqa: PLW0603 - a process executes one step, and an IO manager does not know which attempt
    _is_given_up = is_given_up


@contextmanager
def show_errors() -> Iterator[None]:
    """Turn a `PervlError` into a `Failure` that has it as its cause; also a decorator, `@show_errors()`.

    An error of the system that no other place explains is explained first. See `end_if_given_up`, too. Outside of steps
    use `show_errors_first`.

    Without it a step shows "Error occurred while executing op …" and a stack first, and a failed run no message at all.
    """
    try:
        with explain_errors():
            yield
    except dg.DagsterExecutionInterruptedError as error:
        raise Interrupted(*(error.args or (INTERRUPTED,))) from None
    except Exception as error:
        with suppress(Exception):  # without an answer, e.g. of Postgres, the error is this attempt's own
            if _is_given_up():
                print(f"This step was given up, and ends: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log
                os._exit(1)
        if isinstance(error, PervlError):
            raise make_failure(error) from error
        raise


@contextmanager
def show_errors_first() -> Iterator[None]:
    """Let Dagster show a `PervlError` as it is: in a sensor or a resource, and while definitions load."""
    try:
        with explain_errors():
            yield
    except PervlError as error:
        raise name_error(error) from error
