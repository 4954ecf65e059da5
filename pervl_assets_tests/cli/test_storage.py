"""`pervl export` and `pervl prune` on a data folder, and what the terminal shows of a bucket."""

import os
import re
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from pervl_assets.cli.commands import main
from pervl_assets.cli.printing import print_paths
from pervl_assets.core.addresses import parse_address
from pervl_assets_tests.core.samples import photograph


@pytest.fixture
def run(made_world, monkeypatch):
    monkeypatch.setenv("PERVL_DATA", str(made_world.data))

    def call(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == code, result.output
        return result.output + (result.stderr if code else "")

    return call


def test_a_tree_is_exported_at_its_own_path(run, made_world, tmp_path):
    shown = run("export", "deep_fashion/personalized", tmp_path, "--split", "test")
    assert f"{tmp_path}/deep_fashion2/personalized_test  " in shown
    assert "validation" not in shown
    tree = tmp_path / "deep_fashion2/personalized_test"
    content = {name: data for name, (data, _) in photograph(tree).items()}
    assert content == {name: d for name, (d, _) in photograph(made_world.data / tree.relative_to(tmp_path)).items()}
    assert ", 0 copied" in run("export", "deep_fashion/personalized", tmp_path, "--split", "test")


def test_a_selection_exports_trees_and_training_files_only(run, made_world, tmp_path):
    run("export", "group:palavra", tmp_path)
    names = photograph(tmp_path).keys()
    training = {name for name in names if not name.startswith("assets/")}
    assert training
    assert all(name.startswith("inversion_model_train_data/") for name in training)
    assert {(tmp_path / name).read_bytes() == (made_world.data / name).read_bytes() for name in names} == {True}


@pytest.mark.parametrize(
    ("selection", "options", "message"),
    [
        ("ytvos/concepts", (), "ytvos/concepts has no folder tree and no training file"),
        ("deep_fashion/personalized", ("--split", "train"), "with the split train"),
        ("nothing/of/this", (), "no group is named"),
        ("ytvos/fsl_seg", (), "pervl materialize"),
    ],
)
def test_what_cannot_be_exported_says_so(run, tmp_path, selection, options, message):
    assert re.search(message, run("export", selection, tmp_path / "out", *options, code=1))
    assert not (tmp_path / "out").exists()


def test_prune_removes_old_unfinished_work_only(run, made_world, tmp_path, monkeypatch):
    monkeypatch.setenv("PERVL_DATA", str(tmp_path))
    (left := tmp_path / "tree.partial").mkdir()
    (left / "a.jpg").write_bytes(b"otter")
    assert "removed: 0 objects that no manifest names, 0 of unfinished work" in run("prune")
    for path in (left / "a.jpg", left):
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    assert "would be removed: 0 objects that no manifest names, 1 of unfinished work" in run("prune", "--dry-run")
    assert left.is_dir()
    assert "tree.partial" in run("prune")
    assert not left.exists()
    assert "--days" in run("prune", "--days", "0", code=2)


def test_what_a_demo_made_in_a_bucket_is_shown_by_address():
    with (console := Console(width=200)).capture() as shown:
        print_paths(console, parse_address("s3://pervl/data"))
    assert "s3://pervl/data/assets  " in shown.get()
    assert "FOLDER/deep_fashion2/personalized_validation, after pervl export '*' FOLDER" in shown.get()
