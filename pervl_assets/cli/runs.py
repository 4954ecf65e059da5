"""The Dagster instance of the command line, and the progress of a run."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from rich.progress import Progress

from pervl_assets.cli.printing import escape
from pervl_assets.core.errors import PervlError
from pervl_assets.defs.run_results import read_materialization
from pervl_assets.settings import is_trusted

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.3
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


def open_instance(data: Path) -> DagsterInstance:
    """Open the Dagster instance of `find_dagster_home`. Raises as `_check_home` does."""
    home = find_dagster_home(data)
    _check_home(home)
    home.mkdir(0o755, parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").touch(0o644)
        (home / "dagster.yaml").write_text(_INSTANCE, encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return DagsterInstance.get()


def _check_home(home: Path) -> None:
    """Check a Dagster home before it is used.

    Raises:
        PervlError: Dagster would read its path as another one; or it is below a data root, and others can write it.
    """
    config, advice = home / "dagster.yaml", "Set DAGSTER_HOME to another folder."
    if found := _READ_OTHERWISE.search(str(home)):
        problem = f"Dagster cannot keep its runs in {home}, because of {found[0]} in its path."
        raise PervlError(problem, advice=advice)
    if not os.environ.get("DAGSTER_HOME") and config.exists() and not all(map(is_trusted, (home, config))):
        raise PervlError(f"{config} can run code, and other users can write it or its folder.", advice=advice)


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
            last = over.wait(_POLL_SECONDS)
            connection = instance.get_records_for_run(run_id, cursor=cursor)
            cursor = connection.cursor
            for record in connection.records:
                entry = record.event_log_entry
                if not entry.is_dagster_event:
                    step = (entry.step_key or "").replace("__", "/")
                    progress.update(task, news=escape(f"{step}: {entry.user_message}"))
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
