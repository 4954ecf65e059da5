import io
import json

import pytest
from click.testing import CliRunner
from rich.console import Console

from pervl_assets.cli.commands import main
from pervl_assets.cli.listing import list_assets, print_list
from pervl_assets.definitions import defs


def test_assets_are_listed_with_what_can_be_selected():
    tree, table = list_assets(defs, ["ytvos/retrieval_set", "ytvos/concepts"])[::-1]
    assert (tree.asset, tree.group, tree.partitions) == ("ytvos/retrieval_set", "ytvos", ("validation", "test"))
    assert ("parquet" in table.kinds, table.partitions) == (True, ())
    for one in list_assets(defs, []):
        assert one.description, one
        assert not set("`[]\n") & set(one.description), one


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_list_fits(width):
    console = Console(file=io.StringIO(), width=width, emoji=False)
    print_list(console, list_assets(defs, ["inversion", "ytvos"]))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert "inversion  10 assets" in lines
    assert "  ytvos/retrieval_set  folder; validation, test" in lines


def test_the_command_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("PERVL_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "none"))
    shown = json.loads(CliRunner().invoke(main, ["list", "--json", "ytvos/concepts"]).stdout)
    assert [set(one) for one in shown] == [{"asset", "group", "kinds", "partitions", "description"}]
    wrong = CliRunner().invoke(main, ["list", "ytvoss"])
    assert wrong.exit_code == 1
    assert "Did you mean ytvos?" in wrong.stderr
    assert not [*tmp_path.iterdir()]
