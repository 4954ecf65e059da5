"""The Dagster instance of the command line, and the progress of a run."""

import logging
import os
from pathlib import Path
from typing import Final

from dagster import DagsterEventType, DagsterInstance

from pervl_assets.defs.run_results import read_materialization
from pervl_assets.settings import is_trusted

_log = logging.getLogger(__name__)

_INSTANCE: Final = "telemetry: {enabled: false}\npython_logs: {python_log_level: INFO}\n"
"""For a Dagster home that has no `dagster.yaml`; the project's own sets more."""


def find_dagster_home(data: Path) -> Path:
    """Return where Dagster keeps its runs: `DAGSTER_HOME`, else the project's folder, else below the data root.

    The project's folder is the current one or one above it, with `dagster.yaml` and `workspace.yaml`. A `dagster.yaml`
    can run code: one that another user can write is ignored with a warning.
    """
    if home := os.environ.get("DAGSTER_HOME"):
        return Path(home).absolute()
    for folder in (here := Path.cwd(), *here.parents):
        files = (folder / "dagster.yaml", folder / "workspace.yaml")
        if all(file.is_file() for file in files):
            if all(map(is_trusted, (folder, *files))):
                return folder
            _log.warning("%s is ignored: other users can write it or its folder. Set DAGSTER_HOME to use it.", files[0])
    return data / "assets" / "dagster"


def open_instance(data: Path) -> DagsterInstance:
    """Open the Dagster instance of `find_dagster_home`."""
    home = find_dagster_home(data)
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").write_text(_INSTANCE, encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return DagsterInstance.get()


def read_progress(
    instance: DagsterInstance, run_id: str, cursor: str | None
) -> tuple[list[tuple[str, bool]], str | None]:
    """Return the progress of a run after a cursor, and the next cursor.

    Progress is assets that were made (True) and lines that ops logged (False).
    """
    connection = instance.get_records_for_run(run_id, cursor=cursor)
    news: list[tuple[str, bool]] = []
    for record in connection.records:
        entry = record.event_log_entry
        if not entry.is_dagster_event:
            news.append((f"{(entry.step_key or '').replace('__', '/')}: {entry.user_message}", False))
        elif entry.get_dagster_event().event_type == DagsterEventType.ASSET_MATERIALIZATION:
            news.append((read_materialization(entry.get_dagster_event()).name, True))
    return news, connection.cursor
