"""The Dagster instance of the command line, and the progress of a run."""

import fcntl
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from dagster import DagsterError, DagsterEvent, DagsterEventType, DagsterInstance, EventLogEntry
from yaml import YAMLError

from pervl_assets.cli.console import RunDisplay, escape
from pervl_assets.cli.databases import NOT_WRITABLE, check_postgres_url, explain_database_errors
from pervl_assets.core.addresses import Place
from pervl_assets.core.errors import PervlError, WriteError
from pervl_assets.defs.pools import WAITING
from pervl_assets.defs.run_results import Materialized, RunResult, name_partition, read_materialization
from pervl_assets.defs.runs import PlannedRun
from pervl_assets.settings import POSTGRES_URL, is_trusted
from pervl_assets.storage import open_store

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.3
_SHOWN: Final = 300
_ENDS: Final = {DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE}
_INSTANCE: Final = "telemetry: {enabled: false}\nnux: {enabled: false}\npython_logs: {python_log_level: INFO}\n"
"""For a Dagster home that has no `dagster.yaml`; the project's own sets more."""


_READ_OTHERWISE: Final = re.compile("[?*\\[\ud800-\udfff]|%[0-9A-Fa-f]{2}")
"""Dagster finds `dagster.yaml` by a glob pattern, and its databases by a URL; both are UTF-8."""


def find_dagster_home(data: Place) -> Path:
    """Return where Dagster keeps its runs: `DAGSTER_HOME`, else the project's folder, else a folder of this machine.

    That is `assets/dagster` below the data root, or beside the working copy if it is a bucket: who writes the bucket
    must not write a `dagster.yaml`.

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
    return open_store(str(data)).own / "dagster"


@contextmanager
def open_instance(data: Place) -> Iterator[DagsterInstance]:
    """Open the Dagster instance of `find_dagster_home`.

    Raises:
        WriteError: The folder cannot be written.
        PervlError: `dagster.yaml` or the address of Postgres is not valid, or a database of Dagster is damaged, locked,
            not reached, or of another version.
    """
    home = find_dagster_home(data)
    _check_home(home)
    check_postgres_url(home / "dagster.yaml")
    with explain_database_errors(home), ExitStack() as opened:
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
                f"DAGSTER_HOME, {home}, cannot be used: {error.filename or home}: {reason}.", advice=NOT_WRITABLE
            ) from error
        except (DagsterError, YAMLError) as error:
            raise PervlError(
                f"{home / 'dagster.yaml'} is not valid: {' '.join(str(error).split())[:_SHOWN]}",
                advice="Correct it, or set DAGSTER_HOME to another folder.",
            ) from error
        yield instance


@contextmanager
def read_instance(data: Place) -> Iterator[DagsterInstance]:
    """Open the Dagster instance of `find_dagster_home` to read from it; an empty one in memory if there is none yet.

    Raises as `open_instance` does.
    """
    home = find_dagster_home(data)
    config, own = home / "dagster.yaml", home / "history"
    if own.exists() or (config.is_file() and POSTGRES_URL in config.read_text(encoding="utf-8", errors="replace")):
        with open_instance(data) as instance:
            yield instance
    else:
        with DagsterInstance.ephemeral() as instance:
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
def follow(
    instance: DagsterInstance, display: RunDisplay, planned: PlannedRun, result: RunResult
) -> Iterator[Callable[[DagsterEvent], None]]:
    """Show the events and logs of a run while it executes, those of its worker processes included.

    The run is the last one of `result`.
    """
    over, run_id = threading.Event(), result.runs[-1]
    running = dict[str, _Running]()
    display.set_total(result.total)

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
                _show_entry(display, record.event_log_entry, planned.partition, running)
        for step in running:
            display.end(step)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda _: None
    finally:
        over.set()
        watcher.join()


@dataclass
class _Running:
    """A step that is executed: when it began, in seconds since 1970, and what it has made."""

    begun: float
    made: list[Materialized] = field(default_factory=list)


def _show_entry(display: RunDisplay, entry: EventLogEntry, partition: str | None, running: dict[str, _Running]) -> None:
    """Show an entry of the log of a run. What a step made is shown at its end, when its duration is known."""
    step = name_partition((entry.step_key or "").replace("__", "/"), partition)
    kind = entry.dagster_event_type
    if kind == DagsterEventType.STEP_UP_FOR_RETRY or entry.message.startswith(WAITING):
        display.note(f"[yellow]{escape(entry.message)}[/]")
    if kind is None:
        display.report(step, entry.message)
    elif kind in (DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED):
        running.setdefault(step, _Running(entry.timestamp))
        display.begin(step)
    elif kind == DagsterEventType.ASSET_MATERIALIZATION and step in running:
        running[step].made.append(read_materialization(entry.get_dagster_event()))
    elif kind == DagsterEventType.STEP_UP_FOR_RETRY and step in running:
        display.end(step)
    elif kind in _ENDS and step in running:
        display.end(step)
        ended = running.pop(step)
        for made in ended.made:
            display.add(made.name, replace(made, seconds=entry.timestamp - ended.begun).summary)
