"""`Dockerfile`: read and checked line by line, since no image is built here; and what is sent to its build."""

import importlib.metadata
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from dagster._cli.api import grpc_command
from dagster._daemon.cli import run_command
from dagster_webserver.cli import dagster_webserver

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY|CREDENTIAL|AWS_|GOOGLE_")


def list_steps(text: str) -> list[tuple[str, str]]:
    """Return the steps of a Dockerfile: its instruction in capitals, and the rest of its lines as one."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(step[0], step[1]) for line in lines.splitlines() if len(step := line.split(maxsplit=1)) == 2]


STEPS = list_steps(TEXT)


def find_sources(text: str) -> set[str]:
    """Return what a build copies from the project's folder."""
    copied = [shlex.split(rest) for name, rest in list_steps(text) if name == "COPY"]
    return {one.rstrip("/") for words in copied if not words[0].startswith("--from") for one in words[:-1]}


def find_faults(text: str) -> list[str]:
    """Return what is wrong with the user, the secrets, the bases and the shell commands of a Dockerfile."""
    steps = list_steps(text)
    users = [rest for name, rest in steps if name == "USER"]
    faults = [] if users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]) else ["the last user is root or a name"]
    for name, rest in steps:
        if name in ("ENV", "ARG") and SECRET.search(rest.upper()):
            faults.append(f"a secret in a layer: {rest}")
        if name == "FROM" and not re.search(r":[^\s]*[\d}]", rest):
            faults.append(f"a base without a version: {rest}")
        if name == "RUN":
            parsed = subprocess.run(["sh", "-n"], input=rest, text=True, capture_output=True, check=False)
            faults += [f"not a shell command: {rest}"] if parsed.returncode else []
    return faults


def test_it_has_no_fault_and_a_worse_one_has():
    assert find_faults(TEXT) == []
    worse = TEXT.replace("USER 10001:10001", "USER pervl").replace("python:${PYTHON}-slim AS", "python AS")
    worse += 'ENV AWS_SECRET_ACCESS_KEY=x\nRUN mkdir "\n'
    assert len(find_faults(worse)) == 4


def test_the_wheel_is_made_of_the_files_that_its_check_uses():
    (checked,) = re.findall(r"\{(.+)\} \"\$work/source\"", (ROOT / ".ci/check_wheel").read_text())
    assert find_sources(TEXT) == {*checked.split(","), "constraints.txt"}


def test_the_build_is_sent_what_it_copies_and_nothing_else():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == find_sources(TEXT)
    assert all((ROOT / source).exists() for source in find_sources(TEXT))


@pytest.mark.parametrize("page", ["Dockerfile", "docs/scale.md"])
def test_arguments_that_are_set_exist(page):
    known = {rest.partition("=")[0] for name, rest in STEPS if name == "ARG"}
    used = set(re.findall(r"--build-arg (\w+)=", (ROOT / page).read_text()))
    assert used
    assert used <= known


def test_its_extras_exist():
    (extras,) = (rest.partition("=")[2].split(",") for name, rest in STEPS if name == "ARG" and "EXTRAS" in rest)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*extras, "ray"} <= set(project["optional-dependencies"])


def test_the_programs_that_it_names_have_these_options():
    """Code server, web server and daemon are other commands of the same image."""
    commands = [shlex.split(line) for line in re.findall(r"docker run .*?pervl (\S.*)$", TEXT, re.MULTILINE)]
    assert [words[0] for words in commands] == ["dagster", "dagster-webserver", "dagster-daemon"]
    for name, *words in commands:
        (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
        command = {"dagster": grpc_command, "dagster-daemon": run_command}.get(name) or dagster_webserver
        options = {option for parameter in command.params for option in parameter.opts}
        assert entry.load()
        assert {word for word in words if word.startswith("--")} <= options
