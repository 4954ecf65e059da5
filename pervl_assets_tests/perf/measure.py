"""Wall time, CPU time and memory of a command with all its child processes."""

import os
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

INTERVAL = 1.0
"""Longest interval between two samples of the memory, in seconds. Sampling walks all pages, which takes time itself."""


@dataclass(frozen=True)
class Measured:
    """One run of a command.

    Attributes:
        seconds: Wall time, from the start of the first process to the end of the last.
        cpu: CPU time of all processes, in seconds.
        peak: Largest proportional set size summed over all processes, in bytes: shared pages count once.
        load: Load average of the minute before the run, including earlier runs of the benchmark.
        printed: Output of the command.
    """

    seconds: float
    cpu: float
    peak: int
    load: float
    printed: str


def measure(command: list[str]) -> Measured:
    """Run a command to its end.

    Raises:
        RuntimeError: It failed.
    """
    load, cpu_before, start = os.getloadavg()[0], _children_cpu(), time.perf_counter()
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, cwd=Path(__file__).parents[2])
        while process.returncode is None:
            peak = max(peak, sum(_read_pss(pid) for pid in list_family(process.pid)))
            with suppress(subprocess.TimeoutExpired):
                process.wait(min(INTERVAL, 0.1 + (time.perf_counter() - start) / 10))
        seconds = time.perf_counter() - start
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise RuntimeError(f"Exit status {process.returncode}: {' '.join(command)}")
    return Measured(seconds, _children_cpu() - cpu_before, peak, load, printed)


def list_family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    family = [pid]
    for member in family:
        try:
            tasks = [*Path(f"/proc/{member}/task").iterdir()]
            family += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:  # it has just ended
            continue
    return family


def summarise(runs: list[Measured]) -> Measured:
    """Return the medians of several runs, the largest peak, and the largest load."""
    return Measured(
        median(run.seconds for run in runs),
        median(run.cpu for run in runs),
        max(run.peak for run in runs),
        max(run.load for run in runs),
        runs[-1].printed,
    )


def _read_pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system
