"""Imports point only downward, and loading the definitions imports no torch."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pervl_assets

PACKAGE = Path(pervl_assets.__file__).parent
DOMAIN = ("core", "archives", "trees", "benchmarks", "clip", "inversion", "demo", "release")
LAYERS = {
    "upstream": set(),
    "core": set(),
    "archives": {"core"},
    "trees": {"core", "archives"},
    "benchmarks": {"core", "archives", "trees", "upstream"},
    "clip": {"core", "archives"},
    "inversion": {"core", "archives", "clip", "upstream"},
    "demo": {"core", "upstream"},
    "release": {"core", "trees", "upstream"},
    "settings": {"core", "archives", "trees", "benchmarks", "clip", "inversion", "demo"},
    "dagster_private": {"core"},
    "io_managers": set(DOMAIN),
    "defs": {*DOMAIN, "upstream", "settings", "dagster_private", "io_managers"},
    "definitions": {*DOMAIN, "settings", "io_managers", "defs"},
    "cli": {*DOMAIN, "upstream", "settings", "dagster_private", "io_managers", "defs", "definitions"},
    # Tools for tests: they use everything, and nothing uses them.
    "testing": {*DOMAIN, "upstream", "settings", "io_managers", "defs", "definitions", "cli"},
}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def list_imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the full names of what a module imports; with `top_level_only`, of what loading it imports."""
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


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    layer = module.split("/")[0].removesuffix(".py")
    imported = {name.split(".")[1] for name in list_imports(PACKAGE / module) if name.startswith("pervl_assets.")}
    assert imported - {layer} <= LAYERS[layer]


@pytest.mark.parametrize("module", [name for name in MODULES if name.split("/")[0] in DOMAIN])
def test_domain_modules_know_no_dagster_and_load_no_torch(module):
    assert not any(name.split(".")[0].startswith("dagster") for name in list_imports(PACKAGE / module))
    heavy = {"torch", "torchvision", "open_clip", "mlcroissant"}
    assert not {name.split(".")[0] for name in list_imports(PACKAGE / module, top_level_only=True)} & heavy


@pytest.mark.parametrize("module", MODULES)
def test_pytest_is_asked_for_by_the_fixtures_alone(module):
    """Whoever installs the package has no pytest; whoever asks for its fixtures has."""
    imported = {name.split(".")[0] for name in list_imports(PACKAGE / module)}
    assert ("pytest" in imported) == (module == "testing/fixtures.py")


def test_guard_sees_what_it_guards_against(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from pervl_assets.defs import raw\n    import torch\n")
    assert list_imports(bad) == {"pervl_assets.defs.raw", "torch"}
    assert list_imports(bad, top_level_only=True) == set()


def test_definitions_load_fast_and_without_torch():
    code = (
        "import sys, pervl_assets.definitions; "
        "print(sorted({'torch', 'open_clip', 'torchvision', 'mlcroissant'} & set(sys.modules)))"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    # The promise is 3 seconds on an idle machine (measured: 1.4); other tests may run beside this one.
    assert time.monotonic() - start < 12
