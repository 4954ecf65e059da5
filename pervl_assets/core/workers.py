"""Work done side by side: jobs in worker processes with bounded memory, file reading in threads.

Belongs here: starting, feeding and ending them. Does not belong here: what a job is.
"""

import contextlib
import ctypes
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.queues import SimpleQueue
from typing import Any, Final, TypeVar

from pervl_assets.core.errors import PervlError

INLINE: Final = 64
"""Up to so many jobs are done in the calling process: starting others would take longer."""

_BATCH: Final = 4
_PART: Final = 32
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_task: Callable[[Any], Any]

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_in_workers(task: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Yield `task(job)` of every job, in the order in which they are done.

    Args:
        task: Picklable; sent to every process once.
        jobs: Sent a few at a time, so that neither jobs nor results pile up.
        workers: Number of processes.

    Raises:
        PervlError: A process ended before its work.
    """
    if workers < 2 or len(jobs) <= INLINE:
        yield from map(task, jobs)
        return
    batches = (jobs[start : start + _BATCH] for start in range(0, len(jobs), _BATCH))
    context = multiprocessing.get_context("spawn")  # forking a process with threads (polars has some) may lock up
    tasks: SimpleQueue[Callable[[Job], Result]] = context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (tasks,))
    try:
        under_way: set[Future[list[Result]]] = {pool.submit(_run_batch, b) for b in islice(batches, 2 * workers)}
        threading.Thread(target=_hand_out, args=(task, tasks, workers), daemon=True).start()
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            under_way |= {pool.submit(_run_batch, batch) for batch in islice(batches, len(done))}
            for future in done:
                yield from future.result()
    except BrokenProcessPool as error:
        raise PervlError(
            "A worker process ended before its work was done; the system may have run out of memory.",
            advice="Run again with fewer worker processes; what was finished is kept.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def map_in_threads(function: Callable[[Job], Result], items: Sequence[Job]) -> list[Result]:
    """Return `function(item)` of all items, in their order; worth it where files are read, hashed or checksummed."""
    parts = [items[start : start + _PART] for start in range(0, len(items), _PART)]
    with ThreadPoolExecutor() as pool:
        return [result for part in pool.map(lambda part: [*map(function, part)], parts) for result in part]


def _hand_out(task: Callable[[Any], Any], tasks: "SimpleQueue[Any]", workers: int) -> None:
    """Send the task to every worker process.

    As an argument of theirs it would hold up the start of the second one until the first one has read it, for a pipe
    takes 64 KiB at a time and a task may know thousands of members.
    """
    for _ in range(workers):
        tasks.put(task)


def _start_worker(tasks: "SimpleQueue[Callable[[Any], Any]]") -> None:
    global _task  # noqa: PLW0603 - a worker process has one task for all its life
    _task = tasks.get()
    _keep_freed_memory()
    threading.Thread(target=end_with_parent, daemon=True).start()


def _keep_freed_memory() -> None:
    """Keep what one job frees for the next: handed back, its pages would be cleared anew for every image of megabytes.

    Only glibc is told so; elsewhere memory is left to the system's ways.
    """
    with contextlib.suppress(AttributeError, OSError):
        tune = ctypes.CDLL(None).mallopt
        for parameter, size in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 256 << 20)):
            tune(parameter, size)


def end_with_parent() -> None:
    """End this process when its parent was killed; it would wait for work forever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _run_batch(batch: Sequence[Any]) -> list[Any]:
    return [_task(job) for job in batch]
