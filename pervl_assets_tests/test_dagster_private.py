"""Dagster's private names: each is where `dagster_private` imports it from, and no other module imports any.

The fixtures of the other tests import all of them. After an upgrade of Dagster, this lists the names that have moved:
`pytest --noconftest pervl_assets_tests/test_dagster_private.py`.
"""

import ast
import importlib
from pathlib import Path

import dagster as dg
import pytest

import pervl_assets

PACKAGE = Path(pervl_assets.__file__).parent
PRIVATE = PACKAGE / "dagster_private.py"  # read, not imported: the tests below report which name has moved


def list_private_imports(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    private = [node for node in nodes if (node.module or "").startswith("dagster.") and "._" in f".{node.module}"]
    return [(node.module, alias.name) for node in private for alias in node.names]


NAMES = list_private_imports(PRIVATE)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[name for _, name in NAMES])
def test_a_private_name_is_where_it_was(module, name):
    try:
        found = hasattr(importlib.import_module(module), name)
    except ImportError:
        found = False
    breaks = "the part of pervl_assets/dagster_private.py that imports it; its comment names the purpose"
    assert found, f"Dagster {dg.__version__} has no {module}.{name} any more. What breaks: {breaks}."


@pytest.mark.parametrize(
    "name",
    [
        "free_concurrency_slots_for_run",
        "get_latest_asset_check_execution_by_key",
        "get_asset_check_execution_history",
    ],
)
def test_a_private_method_of_the_event_log_is_there(name):
    storage = dg.DagsterInstance.ephemeral().event_log_storage
    assert hasattr(storage, name), f"Dagster {dg.__version__} has no EventLogStorage.{name}: see dagster_private.py."


def test_no_other_module_uses_a_private_name():
    modules = {path for path in PACKAGE.rglob("*.py") if path != PRIVATE}
    assert {str(path): found for path in modules if (found := list_private_imports(path))} == {}
    assert {str(path) for path in modules if "event_log_storage" in path.read_text()} == set()
    assert len(NAMES) > 10


def test_a_moved_name_is_explained():
    from pervl_assets import dagster_private

    moved = pytest.raises(dagster_private.PervlError, match=f"Dagster {dg.__version__} has moved .*no_such_name")
    with moved, dagster_private._explain_moved_names():
        from dagster import no_such_name  # noqa: F401
