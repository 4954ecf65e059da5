"""The Dagster instance of the command line, and the progress of a run."""

import fcntl
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from alembic.util import CommandError
from dagster import DagsterError, DagsterEvent, DagsterEventType, DagsterInstance
from rich.progress import Progress
from yaml import YAMLError

from pervl_assets.cli.console import escape
from pervl_assets.core.errors import PervlError, WriteError, list_some
from pervl_assets.defs.pools import WAITING
from pervl_assets.defs.run_results import read_materialization
from pervl_assets.settings import is_trusted

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.3
_SHOWN: Final = 300
_WRITABLE: Final = "Make it writable for this user, or set DAGSTER_HOME to a folder that is."
_INSTANCE: Final = "telemetry: {enabled: false}\npython_logs: {python_log_level: INFO}\n"
"""For a Dagster home that has no `dagster.yaml`; the project's own sets more."""


_READ_OTHERWISE: Final = re.compile("[?*\\[\ud800-\udfff]|%[0-9A-Fa-f]{2}")
"""Dagster finds `dagster.yaml` by a glob pattern, and its databases by a URL; both are UTF-8."""


def find_dagster_home(data: Path) -> Path:
    """Return where Dagster keeps its runs: `DAGSTER_HOME`, else the project's folder, else below the data root.

    The project's folder is the current one or one above it, with `dagster.yaml` and `workspace.yaml`. A `dagster.yaml`
    can run code: one that another user can write is ignored with a warning.
    """
    if home := os.environ.get("DAGSTER_HOME"):
        return Path(os.path.expanduser(home)).absolute()  # noqa: PTH111 - as Dagster does, and without an error
    for folder in (here := Path.cwd(), *here.parents):
        files = (folder / "dagster.yaml", folder / "workspace.yaml")
        if all(file.is_file() for file in files):
            if all(map(is_trusted, (folder, *files))):
                return folder
            _log.warning("%s is ignored: other users can write it or its folder. Set DAGSTER_HOME to use it.", files[0])
    return data / "assets" / "dagster"


@contextmanager
def open_instance(data: Path) -> Iterator[DagsterInstance]:
    """Open the Dagster instance of `find_dagster_home`.

    Raises:
        WriteError: The folder cannot be written.
        PervlError: `dagster.yaml` is not valid, or a database of Dagster is damaged, locked or of another version.
    """
    home = find_dagster_home(data)
    _check_home(home)
    with _explain_database_errors(home), ExitStack() as opened:
        try:
            home.mkdir(0o755, parents=True, exist_ok=True)
            if not (home / "dagster.yaml").exists():
                (home / "dagster.yaml").touch(0o644)
                (home / "dagster.yaml").write_text(_INSTANCE, encoding="utf-8")
            os.environ["DAGSTER_HOME"] = str(home)
            with _hold(home):  # of two processes that make its databases, each would write its version
                instance = opened.enter_context(DagsterInstance.get())
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise WriteError(
                f"DAGSTER_HOME, {home}, cannot be used: {error.filename or home}: {reason}.", advice=_WRITABLE
            ) from error
        except (DagsterError, YAMLError) as error:
            raise PervlError(
                f"{home / 'dagster.yaml'} is not valid: {' '.join(str(error).split())[:_SHOWN]}",
                advice="Correct it, or set DAGSTER_HOME to another folder.",
            ) from error
        yield instance


def _check_home(home: Path) -> None:
    """Check a Dagster home before it is used.

    Raises:
        PervlError: Dagster would read its path as another one; or it is below a data root, and others can write it.
    """
    config, advice = home / "dagster.yaml", "Set DAGSTER_HOME to another folder."
    if found := _READ_OTHERWISE.search(str(home)):
        problem = f"Dagster cannot keep its runs in {home}, because of {found[0]} in its path."
        raise PervlError(problem, advice=advice)
    if not os.environ.get("DAGSTER_HOME") and not all(is_trusted(path) for path in (home, config) if path.exists()):
        raise PervlError(f"{config} can run code, and other users can write it or its folder.", advice=advice)


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Lock a folder, after waiting for others, where the file system has locks."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextmanager
def _explain_database_errors(home: Path) -> Iterator[None]:
    """Turn an error of Dagster's SQLite databases into a `PervlError` that names the files."""
    try:
        yield
    except (PervlError, OSError):
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, sqlite3.Error | CommandError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise _explain_database_error(home, str(cause)) from error


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
            f"A database of Dagster in {home} cannot be written: {reason}.", details=files, advice=_WRITABLE
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


@contextmanager
def follow(
    instance: DagsterInstance, run_id: str, total: int, progress: Progress
) -> Iterator[Callable[[DagsterEvent], None]]:
    """Update the bar from the events and logs of a run while it executes, those of its worker processes included."""
    over, task = threading.Event(), progress.tasks[0].id
    progress.update(task, total=total)

    def watch() -> None:
        cursor, last = None, False
        while not last:
            connection = None
            last = over.wait(_POLL_SECONDS)
            with suppress(Exception):  # the run itself reports that its events cannot be read
                connection = instance.get_records_for_run(run_id, cursor=cursor)
            if connection is None:
                continue
            cursor = connection.cursor
            for record in connection.records:
                entry = record.event_log_entry
                message = entry.message
                if message.startswith(WAITING):
                    progress.console.print(f"[yellow]{escape(message)}[/]", highlight=False, soft_wrap=True)
                elif not entry.is_dagster_event:
                    step = (entry.step_key or "").replace("__", "/")
                    progress.update(task, news=escape(f"{step}: {message}"))
                elif entry.get_dagster_event().event_type == DagsterEventType.ASSET_MATERIALIZATION:
                    name = escape(read_materialization(entry.get_dagster_event()).name)
                    progress.update(task, advance=1, news=name)
                    if progress.disable:
                        progress.console.print(f"  {name}", highlight=False)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda _: None
    finally:
        over.set()
        watcher.join()
