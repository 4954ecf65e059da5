"""The command as a process: signals, output that cannot be written, and exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pervl_assets.cli.output import _Output

_SCRIPT = """
import sys, time
import click
from pervl_assets.cli import commands
from pervl_assets.cli.__main__ import run

@commands.main.command()
def work():
    print("works \\u2026", flush=True)
    {work}
    print("done", flush=True)

sys.argv = ["pervl", "work"]
run()
"""
_SLEEPS = "time.sleep(60)"


def wait_for_work(process) -> None:
    process.stdout.readline()
    time.sleep(0.2)  # by now the line is out of its buffer


def start(work: str, **options) -> "subprocess.Popen[bytes]":
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", _SCRIPT.format(work=work)], **options)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_without_a_stack(number, code):
    process = start(_SLEEPS)
    wait_for_work(process)
    process.send_signal(number)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (code, b"", b"interrupted\n")


@pytest.mark.parametrize(
    "work",
    [
        "exec('try:\\n time.sleep(60)\\nfinally:\\n time.sleep(60)')",
        "exec('try:\\n time.sleep(60)\\nexcept BaseException:\\n raise ValueError')",
    ],
)
def test_two_interruptions_and_what_a_library_makes_of_them_leave_no_stack(work):
    process = start(work)
    wait_for_work(process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert process.communicate(timeout=20)[1] == b"interrupted\n"
    assert process.returncode == 143


def test_an_interruption_in_a_callback_of_the_interpreter_is_repeated():
    work = "exec('class A:\\n def __del__(self): time.sleep(60)\\nA()\\ntime.sleep(60)')"
    process = start(work)
    wait_for_work(process)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == b"interrupted\n"
    assert process.returncode == 130


def test_a_background_job_of_a_script_ends_too():
    process = start(_SLEEPS, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    wait_for_work(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


@pytest.mark.parametrize("way", ["closed pipe", "full disk", "closed", "ascii"])
def test_output_that_cannot_be_written_changes_neither_the_work_nor_the_exit_code(tmp_path, way):
    done = tmp_path / "done"
    work = f"open({str(done)!r}, 'x')"
    if way == "closed pipe":
        read, write = os.pipe()
        os.close(read)
        process = start(work, stdout=write)
        os.close(write)
    elif way == "full disk":
        with Path("/dev/full").open("wb") as full:
            process = start(work, stdout=full)
    elif way == "closed":
        process = start(work, stdout=None, preexec_fn=lambda: os.close(1))
    else:
        process = start(work, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors, done.exists()) == (0, b"", True)
    assert way != "ascii" or out == b"works \\u2026\ndone\n"


def test_what_a_full_pipe_that_does_not_block_refuses_is_dropped():
    read, write = os.pipe()
    os.set_blocking(write, False)
    text = b"x" * 100_000
    with _Output(write, "w") as output:
        assert output.write(text) < len(text)  # the rest does not fit
        assert output.write(text) == len(text)
    os.close(read)
