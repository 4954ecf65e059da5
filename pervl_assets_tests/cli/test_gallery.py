"""`pervl gallery` on the demo data."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from pervl_assets.cli.commands import main
from pervl_assets.gallery.page import write_gallery
from pervl_assets_tests.core.samples import photograph
from pervl_assets_tests.storage.buckets import DATA, bucket

__all__ = ["bucket"]


def run(*arguments):
    return CliRunner().invoke(main, ["gallery", *arguments])


@pytest.fixture
def world(made_world, monkeypatch):
    monkeypatch.setenv("PERVL_DATA", str(made_world.data))
    return made_world.data


def test_the_gallery_has_every_image_of_the_materialized_splits_and_nothing_is_changed(world, tmp_path):
    before = photograph(world)
    result = run("--out", str(tmp_path / "new"))
    assert result.exit_code == 0, result.output
    html = (tmp_path / "new/index.html").read_text()
    assert result.stdout == f"{tmp_path / 'new/index.html'}\n"
    assert re.fullmatch(r"\d+ images, [\d.]+ [kM]B\n", result.stderr)
    data = json.loads(re.search('id="data">(.*?)</script>', html)[1])
    shown = {one["title"]: sorted(image["path"] for image in one["images"]) for one in data["collections"]}
    assert shown == {
        f"PerVL-DeepFashion2, {split}": sorted(
            pl.read_parquet(world / f"assets/deep_fashion/personalized/{split}.parquet")["path"]
        )
        for split in ("validation", "test")
    }
    assert photograph(world) == before


def test_one_split_of_one_benchmark(world, tmp_path):
    assert run("--benchmark", "deep_fashion", "--split", "test", "--out", str(tmp_path)).exit_code == 0
    html = (tmp_path / "index.html").read_text()
    assert "PerVL-DeepFashion2, test" in html
    assert "PerVL-DeepFashion2, validation" not in html


def test_what_does_not_exist_or_is_not_materialized_is_an_error_with_advice(world, tmp_path):
    result = run("--benchmark", "cars", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "There is no benchmark 'cars'." in result.output
    assert "--benchmark ytvos --split validation or test" in result.output
    assert "There is no benchmark 'ytvos' split 'train'." in run("--benchmark", "ytvos", "--split", "train").output
    result = run("--benchmark", "ytvos", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "pervl materialize +ytvos/retrieval_set\n" in result.output
    assert not list(tmp_path.iterdir())


def test_with_a_bucket_the_page_is_kept_there_unless_a_folder_is_given(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("PERVL_DATA", DATA)
    monkeypatch.setattr("pervl_assets.cli.gallery.make_gallery", lambda _, folder, *rest: write_gallery([], [], folder))
    assert run("--out", str(tmp_path / "mine")).exit_code == 0
    assert not bucket.list_names()
    result = run()
    assert result.exit_code == 0, result.output
    page = Path(result.stdout.strip())
    assert bucket.list_names() == {"gallery/index.html": page.read_bytes()}
    assert result.stderr.endswith(f"kept in {DATA}/gallery; here is a copy:\n")
