"""`pervl report` on stored values that are written by hand."""

import numpy as np
import pytest
from click.testing import CliRunner

from pervl_assets.cli.commands import main
from pervl_assets.clip.features import Features, write_features
from pervl_assets.core.tables import write_hashed
from pervl_assets.evaluation.known_scores import PALAVRA_PROMPTS
from pervl_assets.testing.fake_clip import issue_fake_passport
from pervl_assets.training.set_encoder import TrainingPassport, write_set_encoder
from pervl_assets_tests.evaluation.pictured import make_draws, make_queries, make_ranks, make_results, make_tree
from pervl_assets_tests.training.test_set_encoder import make_set_encoder


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """A data folder with the results of baselines, and one split with ranks."""
    monkeypatch.setenv("PERVL_DATA", str(tmp_path))
    tree = make_tree(tmp_path / "tree")
    assets = tmp_path / "assets"
    write_hashed(tree.ledger, make(assets / "deep_fashion/personalized/test.parquet"), {"root": "tree"})
    write_hashed(make_results(benchmark="deep_fashion"), make(assets / "evaluation/results.parquet"))
    tables = {"queries": make_queries(), "few_shot_draws": make_draws(), "baseline_ranks": make_ranks("AvgIm+Text")}
    for name, frame in tables.items():
        write_hashed(frame, make(assets / f"evaluation/deep_fashion/{name}/test.parquet"))
    return tmp_path


def make(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def run(*arguments):
    return CliRunner().invoke(main, ["report", *arguments])


def test_the_report_of_baselines_is_written_below_the_data_folder(evaluated):
    result = run()
    assert result.exit_code == 0, result.output
    assert result.output == f"{evaluated / 'report.html'}\n"
    html = (evaluated / "report.html").read_text()
    assert "PerVL-DeepFashion2, test" in html
    assert "AvgIm+Text, few-shot seed 1: the 2 best queries" in html
    out = evaluated / "new/other.html"
    assert run("--out", str(out)).exit_code == 0
    assert out.read_text() == html


def test_losses_are_shown_without_reading_the_weights(evaluated, monkeypatch):
    write_set_encoder(make_set_encoder(), make(evaluated / "assets/training/set_encoder/1.safetensors"))
    monkeypatch.setattr("pervl_assets.io_managers.weights.read_set_encoder", pytest.fail)
    assert run().exit_code == 0
    assert "training, repetition 1" in (evaluated / "report.html").read_text()


def test_how_the_inversion_models_were_trained_is_a_fact(evaluated):
    trainings = [
        TrainingPassport("palavra", "1", seed, epochs, 4096, issue_fake_passport(), "", PALAVRA_PROMPTS, 1000).to_json()
        for seed, epochs in ((1, 300), (2, 300), (3, 30))
    ]
    features = Features(
        ["a"], np.ones((1, 2), np.float32), issue_fake_passport(dimension=2, tokens=f"[{', '.join(trainings)}]")
    )
    write_features(features, make(evaluated / "assets/evaluation/deep_fashion/concept_query_features/test.parquet"))
    assert run().exit_code == 0
    html = (evaluated / "report.html").read_text()
    assert "mode palavra, 300 epochs, 4,096 hidden units, 1,000 classes, PALAVRA's prompts (repetitions 1, 2)" in html
    assert "30 epochs, 4,096 hidden units, 1,000 classes, PALAVRA's prompts (repetitions 3)" in html


def test_without_results_the_error_says_what_to_run(evaluated):
    (evaluated / "assets/evaluation/results.parquet").unlink()
    result = run()
    assert result.exit_code == 1
    assert "Nothing is evaluated" in result.output
    assert "pervl materialize +evaluation/results" in result.output
    assert not (evaluated / "report.html").exists()


def test_an_encoder_that_is_not_set_is_an_error(evaluated, monkeypatch):
    assert "Name it in PERVL_ENCODERS first" in run("--encoder", "other").output
    monkeypatch.setenv("PERVL_ENCODERS", "ViT-L-14-quickgelu=openai")
    assert "Choose one of these: ViT-L-14-quickgelu_openai" in run("--encoder", "other").output
    assert "evaluation/ViT-L-14-quickgelu_openai/results" in run("--encoder", "ViT-L-14-quickgelu_openai").output
