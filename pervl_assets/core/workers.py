"""Parallel work: one pool of worker processes with bounded memory, and threads for reading files."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from typing import Any, Final, TypeVar

from pervl_assets.core.errors import LostProcessError
from pervl_assets.core.signals import hold_interrupts

_INLINE: Final = 64
"""Up to this number of items no process is started: starting them would take longer."""

_GROUPS_PER_WORKER: Final = 3
_PART: Final = 32
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_function: Callable[[Any], Any]

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, group: int = 4
) -> Iterator[Result]:
    """Yield `function(item)` for all items, in their order.

    Items go out and results come back in groups, at most three groups per worker at a time, so memory stays bounded
    however long `items` is. An exception of `function` is raised here and ends the work.

    Args:
        function: Picklable; sent to each process once.
        items: Picklable.
        workers: Number of processes. 0, or up to 64 items: the work is done in this process.
        group: Number of items sent together.

    Raises:
        LostProcessError: A worker process ended before its work.
    """
    if workers == 0 or len(items) <= _INLINE:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # forking a process with threads (polars has some) can deadlock
    functions: SimpleQueue[Callable[[Item], Result]] = context.SimpleQueue()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (functions,))
    waiting: deque[Future[list[Result]]] = deque()
    try:
        for start in range(0, len(items), group):
            with hold_interrupts():  # submitting starts processes, which do not ignore Ctrl-C at their start
                waiting.append(pool.submit(_run_group, items[start : start + group]))
            if start == 0:
                threading.Thread(target=_hand_out, args=(function, functions, workers), daemon=True).start()
            if len(waiting) > _GROUPS_PER_WORKER * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise LostProcessError(
            "A worker process ended before its work was done; the system may have run out of memory.",
            advice="Run again: finished work is kept. If it happens again, free memory or set fewer worker processes.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return `function(item)` for all items, in their order; for reading, hashing or checksumming files."""
    parts = [items[start : start + _PART] for start in range(0, len(items), _PART)]
    with ThreadPoolExecutor() as pool:
        return [result for part in pool.map(lambda part: [*map(function, part)], parts) for result in part]


def is_running(process: int) -> bool:
    """Return whether a process of this machine, of any user, has this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _hand_out(function: Callable[[Any], Any], functions: "SimpleQueue[Any]", workers: int) -> None:
    """Send the function to every worker process.

    As an argument of the process it would delay the start of the second one until the first has read it: a pipe takes
    64 KiB at a time, and a function may hold thousands of members.
    """
    for _ in range(workers):
        functions.put(function)


def _start_worker(functions: "SimpleQueue[Callable[[Any], Any]]") -> None:
    """Prepare a worker: no Ctrl-C of its own, and no life after its parent, which may have been killed."""
    global _function  # noqa: PLW0603 - a worker process has one function all its life
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    _function = functions.get()
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Keep the memory that one item frees for the next one (glibc only; a no-op elsewhere).

    Returned to the system, its pages would be zeroed again for each image of megabytes.
    """
    with contextlib.suppress(AttributeError, OSError):
        tune = ctypes.CDLL(None).mallopt
        for parameter, size in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 256 << 20)):
            tune(parameter, size)


def end_with_parent() -> None:
    """End this process when the one that started it does; for a thread of its own."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _run_group(group: Sequence[Any]) -> list[Any]:
    return [_function(item) for item in group]
