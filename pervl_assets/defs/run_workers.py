"""Processes that execute runs beside each other. Each executes several, one after another, and loads a model once.

Runs of one process could neither be captured nor interrupted one by one. A worker gets the id of a run, and sends its
events. It ends with the process that started it, however that one ends.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Self

import dagster as dg
from dagster import DagsterEventType

from pervl_assets.core.signals import hold_interrupts, list_stops, watch_stops
from pervl_assets.core.workers import end_with_parent
from pervl_assets.dagster_private import ReconstructableRepository, execute_assets_run

INTERRUPTIONS: Final = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)

_WHERE_INTERRUPTED: Final = (DagsterEventType.ENGINE_EVENT, DagsterEventType.STEP_FAILURE)
"""Events of an executor that is interrupted, before its run ends."""

_SECONDS_TO_END: Final = 60.0
_REPEAT_SECONDS: Final = 5.0


@dataclass(frozen=True)
class RunEnd:
    """The end of a run in a worker; `error` says why it ended before its time, if it did."""

    error: str = ""


def execute_run(
    repository: ReconstructableRepository,
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    is_ending: Callable[[], bool],
) -> Iterator[dg.DagsterEvent]:
    """Execute a run in this process; yields its events.

    It is marked as being terminated if it is interrupted while `is_ending()`. Otherwise it would end as failed.
    """
    for event in execute_assets_run(repository, instance, run):
        if event.event_type in _WHERE_INTERRUPTED and is_ending():
            now = instance.get_run_by_id(run.run_id)
            if now and now.status == dg.DagsterRunStatus.STARTED:
                instance.report_run_canceling(now)
        yield event


class RunWorkers:
    """The workers of one command or job, as a context manager. They are started when they are needed."""

    def __init__(self, repository: ReconstructableRepository, instance: dg.DagsterInstance) -> None:
        self._started_with = repository, instance.get_ref()
        self._processes: dict[Connection, Any] = {}
        self._runs: dict[Connection, str] = {}
        self._interrupted = 0.0

    @property
    def run_ids(self) -> set[str]:
        """The runs that have begun and not ended."""
        return {*self._runs.values()}

    def begin(self, run_id: str) -> None:
        """Hand a run to a worker that is idle, or to a new one."""
        pipe = next((pipe for pipe in self._processes if pipe not in self._runs), None) or self._start()
        self._runs[pipe] = run_id
        with suppress(OSError):  # it has ended, which `read` finds
            pipe.send(run_id)

    def read(self) -> list[tuple[str, dg.DagsterEvent | RunEnd]]:
        """Wait for events; return each with the id of its run. The last one of every run is its `RunEnd`."""
        ready = wait([*self._runs], _REPEAT_SECONDS if self._interrupted else None)
        if self._interrupted and time.monotonic() - self._interrupted > _REPEAT_SECONDS:
            self.interrupt()  # Dagster forgets a signal that comes while a run begins
        return [(self._runs[pipe], self._receive(pipe)) for pipe in ready if isinstance(pipe, Connection)]

    def interrupt(self) -> None:
        """End all runs as a termination does. Their `RunEnd` is still to be read."""
        self._interrupted = time.monotonic()
        for process in self._processes.values():
            process.terminate()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        pipe, end = context.Pipe()
        with hold_interrupts():  # Ctrl-C reaches the whole group of processes; these are ended by this one
            process = context.Process(target=_serve, args=(*self._started_with, end))
            process.start()
        end.close()
        self._processes[pipe] = process
        return pipe

    def _receive(self, pipe: Connection) -> dg.DagsterEvent | RunEnd:
        try:
            message: dg.DagsterEvent | RunEnd = pipe.recv()
        except (EOFError, OSError):
            process = self._processes.pop(pipe)
            process.join()
            pipe.close()
            message = RunEnd(
                f"The process of this run ended with the code {process.exitcode}; the system may have run out of "
                "memory. What to do: run again; finished work is kept. If it happens again, set PERVL_DEVICES lower."
            )
        if isinstance(message, RunEnd):
            del self._runs[pipe]
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in self._processes.items():
            pipe.close()  # an idle worker ends by itself
            if pipe in self._runs:
                process.terminate()
        for process in self._processes.values():
            process.join(_SECONDS_TO_END)
            process.kill()


def _serve(repository: ReconstructableRepository, reference: Any, pipe: Connection) -> None:
    """Execute the runs whose ids come through the pipe, until it is closed or a signal ends the work."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    watch_stops()
    with suppress(EOFError, OSError, KeyboardInterrupt), dg.DagsterInstance.from_ref(reference) as instance:
        while not list_stops():
            run = instance.get_run_by_id(pipe.recv())
            pipe.send(_execute(repository, instance, run, pipe) if run else RunEnd("It was deleted."))


def _execute(
    repository: ReconstructableRepository, instance: dg.DagsterInstance, run: dg.DagsterRun, pipe: Connection
) -> RunEnd:
    try:
        for event in execute_run(repository, instance, run, lambda: bool(list_stops())):
            pipe.send(event)
    except INTERRUPTIONS:
        return RunEnd("It was interrupted.")
    except Exception as error:
        return RunEnd(f"The run was ended by an error: {error!r}")
    return RunEnd()
