"""`docs/testing.md`: its examples pass in a project of their own, and its tables name everything public."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pervl_assets.testing import fixtures, hostile, mirror, runs, worlds

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/testing.md").read_text()
FILE = re.compile(r"^`(\S+\.py)`\n\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INHERITED = """
from pathlib import Path

import pytest

from pervl_assets.testing.worlds import World


@pytest.fixture(scope="session")
def draw_once():
    return lambda *names: Path({drawn!r})


@pytest.fixture(scope="session")
def made_world():
    return World(Path({made!r}))
"""
"""Fixtures that take long are those of this session."""


def test_every_example_is_a_file_and_passes(synthetic_raw, made_world, tmp_path):
    files = dict(FILE.findall(PAGE))
    assert PAGE.count("```python\n") == len(files)
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    (tmp_path / "examples").mkdir()
    for name in [name for name in files if name.startswith("test_")]:
        (tmp_path / name).rename(tmp_path / "examples" / name)
    inherited = INHERITED.format(drawn=str(synthetic_raw), made=str(made_world.data))
    (tmp_path / "examples/conftest.py").write_text(inherited)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error:::pervl_assets\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=3"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    tests = sum(code.count("\ndef test_") for code in files.values()) + len(hostile.REFUSED) - 1
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout


def list_public(module) -> set[str]:
    own = inspect.getmembers(module, lambda member: inspect.isfunction(member) and member.__module__ == module.__name__)
    return {name for name, _ in own if not name.startswith("_")}


def list_fixtures() -> set[str]:
    functions = [node for node in ast.parse(inspect.getsource(fixtures)).body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if any("fixture" in ast.unparse(mark) for mark in node.decorator_list)}


@pytest.mark.parametrize("module", [hostile, mirror, runs, worlds], ids=lambda m: m.__name__)
def test_every_function_is_in_a_table(module):
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    prefix = "" if module is hostile else module.__name__.rpartition(".")[2] + "."
    assert list_public(module)
    assert {name for name in list_public(module) if f"`{prefix}{name}(" not in rows} == set()


def test_every_fixture_is_in_the_table():
    first = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("|")]
    assert {"data", "materialize", "fake_clip"} <= list_fixtures()
    assert {name for name in list_fixtures() if not any(f"`{name}`" in cell for cell in first)} == set()
