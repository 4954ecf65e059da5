"""The command `pervl`, also `python -m pervl_assets.cli`: its signals, its output and its exit code.

Everything else is imported inside, so that a Ctrl-C while it is loaded ends as any other.
"""

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from typing import Any

from pervl_assets.cli.output import open_output
from pervl_assets.core.signals import BY_SIGNAL, ignore_stops, list_stops, watch_stops


def _repeat_interruption(ignored: Any) -> None:
    """Interrupt again soon where the interpreter ignores it, as in the callbacks of its garbage collector."""
    if list_stops():
        threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(ignored)


def run() -> None:
    """Run the command and exit: with its own code, or 130 after Ctrl-C and 143 after SIGTERM, without a stack."""
    for number in range(3):  # a descriptor that is closed would be that of the next file to be opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    encodings = [stream.encoding if stream else "utf-8" for stream in (sys.stdout, sys.stderr)]
    sys.stdout, sys.stderr = open_output(1, encodings[0]), open_output(2, encodings[1], line_buffering=True)
    sys.unraisablehook = _repeat_interruption
    logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL + 1)  # it raises every error that it logs
    # Dagster's retries of Postgres write to the root logger; the last error is raised, and explained.
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Retrying failed database"))
    gc.set_threshold(10_000)  # with Python's 700 a command searches what it imports for garbage: 0.4 s of 3
    watch_stops()
    code: Any = 1
    try:
        code = _run_command()
    except BaseException:  # whatever a library made of the interruption
        if not list_stops():
            raise
    while not ignore_stops():  # a second Ctrl-C does not disturb the end
        pass
    if not (stops := list_stops()):
        sys.exit(code)
    sys.stderr.write("interrupted\n")
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(BY_SIGNAL + stops[0])  # waits for no thread, and the code is not that of Ctrl-C after SIGTERM


def _run_command() -> Any:
    """Run the command; return its exit code."""
    from pervl_assets.cli.commands import main

    try:
        main.main(prog_name="pervl")
    except SystemExit as end:
        return end.code


if __name__ == "__main__":
    run()
