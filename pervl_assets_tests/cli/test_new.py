"""`pervl new benchmark`: names, and files that are written or refused. `test_docs.py` runs what it writes."""

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from pervl_assets.cli.commands import main
from pervl_assets.cli.new import create_benchmark
from pervl_assets.core.errors import PervlError
from pervl_assets_tests.core.samples import photograph

ROOT = Path(__file__).parents[2]
RUFF = Path(sys.executable).with_name("ruff")
GRAPH = dg.Definitions(assets=[dg.AssetSpec(["raw", "old_pets"]), dg.AssetSpec("pets_view", deps=["outside"])])


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with the templates alone."""
    shutil.copytree(ROOT / "pervl_assets/templates", tmp_path / "pervl_assets/templates")
    return tmp_path


@pytest.mark.parametrize("name", ["a", "a" * 30])
def test_every_file_has_the_name_and_the_format_of_the_project(checkout, name):
    created = create_benchmark(name, checkout, GRAPH)
    assert [str(path.relative_to(checkout)) for path in created] == [
        f"pervl_assets/benchmarks/{name}.py",
        f"pervl_assets/demo/builders/{name}.py",
        f"pervl_assets_tests/benchmarks/test_{name}.py",
        f"annotations/demo/{name}/photos.csv",
    ]
    for path in created:
        text = path.read_text()
        assert not {word for word in ("NAME", "TITLE") if word in text}
        for command in (["check"], ["format", "--check"]) if path.suffix == ".py" else ():
            there = ["--stdin-filename", ROOT / path.relative_to(checkout), "-"]
            done = subprocess.run([RUFF, *command, *there], input=text, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout


NOT_NAMES = ["", "Pets", "2pets", "_pets", "pets_", "my__pets", "class", "../pets", "pets\n", "péts", "a" * 31]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_a_name_that_no_module_can_have_is_refused(checkout, name):
    before = photograph(checkout)
    with pytest.raises(PervlError, match="cannot be the name of a benchmark"):
        create_benchmark(name, checkout, GRAPH)
    assert photograph(checkout) == before


@pytest.mark.parametrize("name", ["raw", "old_pets", "pets_view", "outside", "assets"])
def test_a_name_of_an_asset_or_folder_is_refused(checkout, name):
    with pytest.raises(PervlError, match=f"The name {name} is taken"):
        create_benchmark(name, checkout, GRAPH)


@pytest.mark.parametrize(
    "file", ["pervl_assets_tests/benchmarks/test_pets.py", "pervl_assets/benchmarks/pets.py", "annotations/demo/pets/x"]
)
def test_nothing_is_overwritten(checkout, file):
    (checkout / file).parent.mkdir(parents=True)
    (checkout / file).write_text("mine")
    before = photograph(checkout)
    graph = dg.Definitions(assets=[dg.AssetSpec(["pets", "photos"])])  # that of the benchmark whose files are there
    with pytest.raises(PervlError, match="has files already"):
        create_benchmark("pets", checkout, graph)
    assert photograph(checkout) == before


def test_the_command_says_what_it_wrote_and_where_that_is_run(checkout):
    shown = CliRunner().invoke(main, ["new", "benchmark", "pets", "--folder", str(checkout)])
    assert shown.exit_code == 0, shown.output
    assert f"{checkout}/pervl_assets/benchmarks/pets.py" in shown.output
    assert "  .venv/bin/pytest pervl_assets_tests/benchmarks/test_pets.py\n" in shown.output
    assert "pervl materialize +pets" in shown.output
    assert f"pervl runs the code of {ROOT}" in shown.output


def test_a_folder_without_the_project_is_refused(tmp_path):
    shown = CliRunner().invoke(main, ["new", "benchmark", "pets", "--folder", str(tmp_path)])
    assert shown.exit_code == 1
    assert f"{tmp_path} is not a checkout of pervl_assets" in shown.stderr
    assert not photograph(tmp_path)
