"""`pervl score`: text of any width, JSON, comparisons, stored galleries, and exit codes."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from pervl_assets.cli import console as console_module
from pervl_assets.cli import score as score_module
from pervl_assets.cli.commands import main
from pervl_assets.clip.features import Features, write_features
from pervl_assets.io_managers.base import locate_value
from pervl_assets_tests.inversion.kit import make_passport
from pervl_assets_tests.test_layering import list_imports

COUNT = 30
NAMES = [f"sling_dress/{row:05d} \x1b[2J[red].jpg" for row in range(COUNT)]
GALLERY = np.random.default_rng(0).normal(size=(COUNT, 8)).astype(np.float32)


@pytest.fixture
def files(tmp_path, monkeypatch) -> dict[str, Path]:
    """A gallery, queries of which most find their image, and their opposites, below the current folder."""
    monkeypatch.chdir(tmp_path)
    tables = {"gallery": GALLERY, "near": GALLERY + GALLERY[::-1] / 3, "far": -GALLERY}
    for name, vectors in tables.items():
        columns = {"image": NAMES} if name == "gallery" else {"query": [*range(COUNT)], "target": NAMES}
        pl.DataFrame({**columns, "vector": vectors.tolist()}).write_parquet(f"{name}.parquet")
    return {name: Path(f"{name}.parquet") for name in tables}


def run(*arguments):
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


def test_one_file_is_scored_as_json(files):
    result = run(files["near"], "--gallery", files["gallery"], "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["gallery"] == {"source": "gallery.parquet", "images": COUNT, "dimension": 8}
    assert found["comparisons"] == []
    (score,) = found["results"]
    places = [row["place"] for row in score["places"]]
    assert [row["query"] for row in score["places"]] == [*range(COUNT)]
    assert score["mrr"] == pytest.approx(np.mean([1 / place for place in places]))
    assert score["recall_5"] == np.mean([place <= 5 for place in places])
    assert score["mrr_low"] <= score["mrr"] <= score["mrr_high"]
    assert (score["file"], score["queries"], score["tied"]) == ("near.parquet", COUNT, 0)
    assert {"method", "protocol", "seed"}.isdisjoint(score)


def test_two_files_are_compared(files):
    result = run(files["near"], files["far"], "--gallery", files["gallery"], "--json")
    near, far = json.loads(result.output)["results"]
    (comparison,) = json.loads(result.output)["comparisons"]
    assert (comparison["file"], comparison["beside"]) == ("far.parquet", "near.parquet")
    assert comparison["difference"] == pytest.approx(far["mrr"] - near["mrr"])
    assert comparison["low"] <= comparison["difference"] <= comparison["high"] < 0
    text = run(files["near"], files["far"], "--gallery", files["gallery"]).output
    assert f"B beside A: MRR {100 * comparison['difference']:+.1f}" in text
    assert "10 of 30 queries, those with the largest differences; --json prints all" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_text_fits_and_shows_names_as_they_are(files, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    result = run(files["near"], "--gallery", files["gallery"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    tables = lines[lines.index("A near.parquet") + 2 : -1]
    assert max(map(len, tables)) <= width
    (score,) = json.loads(run(files["near"], "--gallery", files["gallery"], "--json").output)["results"]
    (shown,) = (line.split()[-1] for line in lines if line.strip().startswith("MRR "))
    assert shown == f"{100 * score['mrr']:.1f}"
    assert "\x1b" not in result.output
    if width == 120:
        assert r"\x1b[2J[red].jpg" in result.output
        worst = max(score["places"], key=lambda row: row["place"])
        (line,) = (line for line in lines if line.strip().startswith(f"{worst['query']} "))
        assert f" {worst['place']} " in line


def test_a_stored_gallery_is_used(files, tmp_path, monkeypatch):
    monkeypatch.setenv("PERVL_DATA", str(tmp_path))
    path = locate_value(tmp_path, ["evaluation", "deep_fashion", "image_features"], ".parquet", "test")
    missing = run(files["near"], "--benchmark", "deep_fashion", "--split", "test")
    assert missing.exit_code == 1
    path.parent.mkdir(parents=True)
    ids = ["codes_infer/1/few.jpg", *(f"eval/test/{name}" for name in NAMES)]
    vectors = np.concatenate([GALLERY[:1], GALLERY])
    write_features(Features(ids, vectors, make_passport(dimension=8)), path)
    stored = json.loads(run(files["near"], "--benchmark", "deep_fashion", "--split", "test", "--json").output)
    plain = json.loads(run(files["near"], "--gallery", files["gallery"], "--json").output)
    assert stored["results"] == plain["results"]
    assert stored["gallery"]["source"] == "evaluation/deep_fashion/image_features [test]"
    unknown = run(files["near"], "--benchmark", "deep_fashion", "--split", "train")
    assert unknown.exit_code == 1
    other = run(files["near"], "--benchmark", "deep_fashion", "--split", "test", "--encoder", "other")
    assert "There is no further encoder 'other'" in other.stderr


def test_wrong_input_and_usage_have_the_codes_of_the_other_commands(files):
    wrong = run(files["gallery"], "--gallery", files["gallery"])
    assert wrong.exit_code == 1
    assert "missing: query" in wrong.stderr
    for arguments in (
        ["near.parquet"],
        ["near.parquet", "--benchmark", "ytvos"],
        ["near.parquet", "--gallery", "gallery.parquet", "--benchmark", "ytvos", "--split", "test"],
        ["near.parquet", "--gallery", "gallery.parquet", "--split", "test"],
        ["none.parquet", "--gallery", "gallery.parquet"],
        [],
    ):
        assert run(*arguments).exit_code == 2, arguments


def test_dagster_is_loaded_for_stored_galleries_only():
    for module in (score_module, console_module):
        rooms = {
            name.split(".")[1] for name in list_imports(Path(module.__file__), top_level_only=True) if "pervl" in name
        }
        assert rooms <= {"core", "benchmarks", "evaluation", "cli"}
        assert not any(name.startswith("dagster") for name in list_imports(Path(module.__file__), top_level_only=True))
