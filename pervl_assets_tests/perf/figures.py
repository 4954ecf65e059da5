"""Shared by the benchmarks of the training data: commands that print figures as JSON, and the tables that show them."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from pervl_assets_tests.perf.measure import Measured

SCRATCH = Path(tempfile.gettempdir())


def command(way: str, *arguments: object) -> list[str]:
    """Return the command that runs a task with the project's code (`project`) or the straightforward one (`plain`)."""
    return [sys.executable, "-m", f"pervl_assets_tests.perf.inversion_{way}", *map(str, arguments)]


def run_task(tasks: dict[str, Callable[..., dict[str, float]]]) -> None:
    """Run the task named on the command line and print its figures as one line of JSON."""
    figures = tasks[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({**figures, "own_peak": read_status("VmHWM")}))  # noqa: T201 - read by the benchmarks


def read_status(entry: str) -> int:
    """Return a figure of this process's memory in bytes; `VmHWM` is its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(entry))


def read_figures(run: Measured) -> dict[str, Any]:
    """Return the figures that a command printed."""
    return json.loads(run.printed)


def find_peak(run: Measured) -> int:
    """Return the larger of the sampled peak and the one that the process itself reports, in bytes.

    Sampling sees all processes of a command, but may miss a peak of less than half a second.
    """
    return max(run.peak, read_figures(run)["own_peak"])


def start_table(title: str, *headings: str) -> Table:
    """Return a table with two text columns and further columns of figures."""
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    return table


@contextmanager
def new_folder(work: Path, name: str) -> Iterator[Path]:
    """Yield a new folder in the scratch folder, and remove it afterwards."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}_", dir=work) as folder:
        yield Path(folder)
