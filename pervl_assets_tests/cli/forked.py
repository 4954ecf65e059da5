"""`pervl` in a process of its own, forked from one that has imported the libraries: it starts in no time.

Its children have their own environment, folder, output and exit code, as if a shell had started them, and import the
one module that reads the environment themselves.

    python -m pervl_assets_tests.cli.forked < COMMANDS

reads one command a line, as JSON, and prints one exit status a line.
"""

import functools
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

DEFINITIONS = "pervl_assets.definitions"


def run_pervl(arguments: tuple[str, ...], folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `pervl` with its arguments, in a folder, with an environment."""
    server = _start_server()
    with tempfile.TemporaryDirectory() as work:
        outputs = [str(Path(work, name)) for name in ("stdout", "stderr")]
        server.stdin.write(json.dumps([arguments, str(folder), dict(env), outputs]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(Path(one).read_text() for one in outputs))


@functools.cache
def _start_server() -> "subprocess.Popen[str]":
    """Start the process, which ends with this one."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _run_child(arguments: list[str], folder: str, env: dict[str, str], outputs: list[str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["pervl", *arguments]
    from pervl_assets.cli.__main__ import run

    run()


if __name__ == "__main__":
    importlib.import_module("pervl_assets.cli.runs")
    importlib.import_module(DEFINITIONS)
    del sys.modules[DEFINITIONS]
    gc.freeze()  # no child searches these objects for garbage, which would also copy their pages
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            _run_child(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 - the tests read it
