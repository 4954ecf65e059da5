"""Imports point only downward, and loading the definitions imports no torch."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pervl_assets

PACKAGE = Path(pervl_assets.__file__).parent
DOMAIN = ("core", "archives", "trees", "benchmarks", "clip", "inversion", "demo", "release", "evaluation", "training")
DOMAIN += ("storage", "gallery")
ARROWS = {
    "core": (),
    "upstream": (),
    "archives": ("core",),
    "trees": ("archives",),
    "benchmarks": ("trees", "upstream"),
    "clip": ("archives",),
    "inversion": ("clip", "upstream"),
    "evaluation": ("benchmarks", "clip"),
    "gallery": ("evaluation",),
    "training": ("inversion",),
    "demo": ("core", "upstream"),
    "release": ("trees", "upstream"),
    "settings": ("benchmarks", "training", "demo"),
    "storage": ("archives",),
    "dagster_private": ("core",),
    "io_managers": ("evaluation", "training", "demo", "release", "storage", "dagster_private"),
    "defs": ("io_managers", "settings"),
    "definitions": ("defs",),
    "cli": ("definitions", "gallery"),
    "testing": ("cli",),  # tools for tests: nothing in the package imports them
    "templates": ("testing",),  # copied by `pervl new`, imported by nothing
}
"""Rooms of the package, each with the rooms below it. It may import these, and all rooms that these may import."""

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def list_imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the full names that a module imports; with `top_level_only`, only those imported while it loads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    if top_level_only:
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def list_rooms_below(room: str) -> set[str]:
    return {room for below in ARROWS[room] for room in {below, *list_rooms_below(below)}}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    room = module.split("/")[0].removesuffix(".py")
    imported = {name.split(".")[1] for name in list_imports(PACKAGE / module) if name.startswith("pervl_assets.")}
    assert imported - {room} <= list_rooms_below(room)


def test_architecture_page_shows_the_same_arrows_and_rooms():
    text = (PACKAGE.parent / "docs/architecture.md").read_text()
    shown = set(re.findall(r"^    (\w+) --> (\w+)$", text.partition("flowchart TD")[2], re.MULTILINE))
    assert shown == {(room, below) for room, rooms in ARROWS.items() for below in rooms}
    assert set(re.findall(r"^\| `(\w+)` \| ", text, re.MULTILINE)) == set(ARROWS)


@pytest.mark.parametrize("module", [name for name in MODULES if name.split("/")[0] in DOMAIN])
def test_domain_modules_import_no_dagster_and_load_no_torch(module):
    assert not any(name.split(".")[0].startswith("dagster") for name in list_imports(PACKAGE / module))
    heavy = {"torch", "torchvision", "open_clip", "mlcroissant"}
    assert not {name.split(".")[0] for name in list_imports(PACKAGE / module, top_level_only=True)} & heavy


@pytest.mark.parametrize("module", MODULES)
def test_only_the_fixtures_import_pytest(module):
    """Pytest is no dependency of the package: only users of the fixtures have it."""
    imported = {name.split(".")[0] for name in list_imports(PACKAGE / module)}
    assert ("pytest" in imported) == (module == "testing/fixtures.py")


def test_list_imports_sees_imports_inside_functions(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from pervl_assets.defs import raw\n    import torch\n")
    assert list_imports(bad) == {"pervl_assets.defs.raw", "torch"}
    assert list_imports(bad, top_level_only=True) == set()


def test_definitions_load_fast_without_torch_and_without_threads_of_polars():
    """The processes of steps are forked from one that has loaded them: they would wait for such threads for ever."""
    code = (
        "import sys, pathlib, pervl_assets.definitions; "
        "threads = [task.read_text().strip() for task in pathlib.Path('/proc/self/task').glob('*/comm')]; "
        "print(sorted({'torch', 'open_clip', 'torchvision', 'mlcroissant'} & set(sys.modules)), "
        "[name for name in threads if name.startswith('polars-') and name[7:].isdigit()])"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"
    after = os.times()
    # Processor time, because other tests may run at the same time: about 2 s, on a busy machine too.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5
