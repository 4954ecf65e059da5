"""Errors of Dagster's databases, SQLite or Postgres, with advice."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from alembic.util import CommandError

from pervl_assets.core.errors import PervlError, WriteError, list_some
from pervl_assets.settings import POSTGRES_URL

NOT_WRITABLE: Final = "Make it writable for this user, or set DAGSTER_HOME to a folder that is."

_SHOWN: Final = 300
_POSTGRES: Final = re.compile(
    r"postgresql\+psycopg2://[^\s:/?#@\[\]]+(:[^\s:/?#@\[\]]*)?@([^\s:/?#@\[\]]+|\[[\da-fA-F:]+\])(:\d+)?/[^\s/?#@]+(\?[^\s#@]*)?"
)
"""User, password, host, port, database, parameters. A password with one of their separators would be read in parts."""


def check_postgres_url(config: Path) -> None:
    """Check the address of Postgres where `dagster.yaml` names its variable.

    Raises:
        PervlError: It is not set, or no address; it is not shown.
    """
    if not config.is_file() or POSTGRES_URL not in config.read_text(encoding="utf-8", errors="replace"):
        return
    if not _POSTGRES.fullmatch(url := os.environ.get(POSTGRES_URL, "")):
        raise PervlError(
            f"{config} needs the address of a Postgres database, and {POSTGRES_URL} is {'none' if url else 'not set'}.",
            advice=f"Set {POSTGRES_URL} to postgresql+psycopg2://USER:PASSWORD@HOST:5432/DATABASE. In a password write "
            "% as %25, @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, [ as %5B and ] as %5D.",
        )


@contextmanager
def explain_database_errors(home: Path) -> Iterator[None]:
    """Turn an error of Dagster's databases into a `PervlError`, which names the files or the server."""
    try:
        yield
    except (PervlError, OSError):
        raise
    except Exception as error:
        if missing := re.search(r"Couldn't import module (\w+)", str(error)):
            raise PervlError(
                f"{home / 'dagster.yaml'} needs the package {missing[1]}, which is not installed.",
                advice="Run `pip install 'pervl_assets[postgres]'`.",
            ) from error
        cause: BaseException | None = error
        while cause and not (isinstance(cause, sqlite3.Error | CommandError) or _is_of_postgres(cause)):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        explain = _explain_postgres_error if _is_of_postgres(cause) else _explain_database_error
        raise explain(home, str(cause)) from error


def _is_of_postgres(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "psycopg2"


def _explain_postgres_error(home: Path, reason: str) -> PervlError:
    advice = f"Check that its server runs and has connections left, and that {POSTGRES_URL} names it. Then run again."
    if re.search("(relation|column) .* does not exist", reason):
        advice = "Run `dagster instance migrate`, or install the version that constraints.txt names."
    return PervlError(
        f"The Postgres database of {home / 'dagster.yaml'} cannot be used: {' '.join(reason.split())[:_SHOWN]}",
        advice=f"{advice} Finished work is kept.",
    )


def _explain_database_error(home: Path, reason: str) -> PervlError:
    databases = sorted([*home.glob("history/**/*.db"), *home.glob("schedules/*.db")])
    files = list_some([str(file) for file in databases if file.parent.name != "runs" or file.stem == "index"])
    if "locked" in reason or "busy" in reason:
        return WriteError(
            f"A database of Dagster in {home} is locked by another process ({reason}).",
            advice="Run again. If it stays locked, end the process that holds it: `fuser -v` with one of these files "
            "names it.",
            details=files,
        )
    if "readonly" in reason or "unable to open" in reason:
        return WriteError(
            f"A database of Dagster in {home} cannot be written: {reason}.", details=files, advice=NOT_WRITABLE
        )
    if "full" in reason:
        return WriteError(
            f"The disk is full while writing the databases of Dagster in {home}.",
            details=files,
            advice="Free some space, and run again; finished work is kept.",
        )
    if "no such" in reason:
        return PervlError(
            f"A database of Dagster in {home} is of another version of Dagster: {reason}.",
            details=files,
            advice="Run `dagster instance migrate`, or install the version that constraints.txt names. If both do not "
            f"help, move {home / 'history'} away, and run pervl materialize: no correct file is written again.",
        )
    damaged = {file: why for file in databases if (why := _check_database(file))}
    return PervlError(
        f"{len(damaged) or 'A'} database{'s' if len(damaged) > 1 else ''} of Dagster in {home} cannot be read.",
        details=list_some([f"{file}: {why}" for file, why in damaged.items()]) or [reason],
        advice="Stop all of Dagster, move these files and those of the same name with -wal or -shm away, and run "
        "again: Dagster makes new ones. Without index.db or runs.db run pervl materialize: no correct file is written "
        "again. Without schedules.db start the schedules and sensors again. Other files are the logs of one run.",
    )


def _check_database(file: Path) -> str:
    """Return why a SQLite database cannot be read; nothing if it can."""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found == "ok" and database.execute("SELECT count(*) FROM alembic_version").fetchone()[0] > 1:
                return "two processes made it at the same time"
    except sqlite3.Error as error:
        return str(error)
    return "" if found == "ok" else str(found)
