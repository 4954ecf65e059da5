"""Worker processes: order, bounds, errors, and a worker that is killed."""

import os
import signal
from functools import partial

import pytest

from pervl_assets.core.errors import ArchiveError, PervlError
from pervl_assets.core.signals import hold_interrupts
from pervl_assets.core.workers import map_in_processes


def double(number):
    return os.getpid(), 2 * number


def refuse(number, bad):
    if number == bad:
        raise ArchiveError("it cannot be read", advice="mount it")
    return number


def die(number, bad):
    if number == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order(workers):
    found = list(map_in_processes(double, range(101), workers, 3))
    assert [result for _, result in found] == list(range(0, 202, 2))
    assert (os.getpid() in {process for process, _ in found}) == (workers == 0)


def test_few_items_start_no_process():
    assert {process for process, _ in map_in_processes(double, range(64), 2)} == {os.getpid()}


def test_an_error_of_the_function_ends_the_work():
    with pytest.raises(ArchiveError, match="cannot be read"):
        list(map_in_processes(partial(refuse, bad=70), range(200), 2))


def test_a_killed_worker_is_an_error_that_advises():
    with pytest.raises(PervlError, match="A worker process ended"):
        list(map_in_processes(partial(die, bad=70), range(200), 2))


def test_a_signal_that_was_held_before_processes_are_started_stays_held():
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with hold_interrupts():
            pass
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
