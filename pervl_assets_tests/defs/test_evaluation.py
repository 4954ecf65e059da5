"""Features, places, scores and results as assets, on the demo data with a CLIP that has no model."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from pervl_assets.archives.inputs import RawArchive, identify_contents
from pervl_assets.archives.official_files import load_manifest
from pervl_assets.benchmarks import find_searched
from pervl_assets.clip.features import read_features, write_features
from pervl_assets.core.files import hash_file
from pervl_assets.core.tables import read_hashed, write_hashed
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.evaluation import describe_conditions, version_known
from pervl_assets.defs.raw import ANNOTATIONS_KEY
from pervl_assets.defs.resources import ANNOTATIONS, Workspace
from pervl_assets.defs.selections import select_assets
from pervl_assets.evaluation import published
from pervl_assets.evaluation.results import RESULTS
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.raw_archives import RawArchiveIOManager
from pervl_assets.testing.fake_clip import FakeClip
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_selection
from pervl_assets.testing.worlds import World
from pervl_assets_tests.evaluation.samples import make_features

NAMES = ("queries", "few_shot_draws", "image_features", "query_features")
INPUTS = " or ".join(f'key:"evaluation/deep_fashion/{name}"' for name in NAMES)
SCORED = f'{INPUTS} or key:"evaluation/deep_fashion/baseline_*" or key:"evaluation/results"'
SPLITS = ("validation", "test")


def locate(data: Path, name: str, split: str | None = None) -> Path:
    return locate_value(data, ("evaluation", *name.split("/")), ".parquet", split)


def run(
    data: Path, selection: str = SCORED, clip: FakeClip | None = None, **changes
) -> list[dg.ExecuteInProcessResult]:
    results = run_selection(data, selection, resources={"clip": clip or FakeClip()}, **changes)
    assert all(result.success for result in results), explain(*results)
    return results


@pytest.fixture(scope="module")
def scored(made_world, tmp_path_factory) -> World:
    """The made world, which has no PerVL-YTVOS, with the scores of its baselines. Read-only."""
    data = made_world.copy_to(tmp_path_factory.mktemp("scored") / "data")
    return World(data, run(data))


def test_features_are_those_of_the_images_and_texts_of_a_split(scored):
    for split in SPLITS:
        tree = scored.data / f"deep_fashion2/personalized_{split}"
        images = read_features(locate(scored.data, "deep_fashion/image_features", split))
        assert images.ids == sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.jpg"))
        assert images.crc32s
        queries = pl.read_parquet(locate(scored.data, "deep_fashion/queries", split), glob=False)
        texts = read_features(locate(scored.data, "deep_fashion/query_features", split))
        assert set(texts.ids) == {text for text in queries["text"] if "*" not in text}
        assert len(texts.ids) == len(set(texts.ids))


def test_ties_are_pessimistic_and_counted(scored):
    """The fake CLIP's texts are as far from one image as from another."""
    scores = pl.read_parquet(locate(scored.data, "deep_fashion/baseline_scores", "test"), glob=False)
    for row in scores.filter(method="Text only", query_set="rich").iter_rows(named=True):
        assert row["mrr"] == pytest.approx(1 / row["gallery"])
        assert row["tied"] == row["queries"]
    assert (scores.filter(method="AvgIm")["mrr"] > scores.filter(method="Text only")["mrr"].max()).any()


def test_checks_say_what_is_left_out_and_that_no_score_is_known(scored):
    checks = list_checks(*scored.results)
    assert checks["evaluation/deep_fashion/baseline_ranks:every_query_is_ranked"].passed
    known = checks["evaluation/deep_fashion/baseline_scores:known_scores"]
    assert known.passed
    assert known.description.startswith("not applicable: the images are those of the demo")
    whole = checks["evaluation/results:nothing_is_left_out"]
    assert (whole.passed, whole.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (
        "12 tables left out, not materialized or of earlier features: deep_fashion/concept_ranks" in whole.description
    )


def test_results_are_made_from_the_scores_that_there_are(scored):
    results = RESULTS.validate(pl.read_parquet(locate(scored.data, "results"), glob=False), "results")
    assert set(results.select("benchmark", "split").iter_rows()) == {("deep_fashion", split) for split in SPLITS}
    assert {"Random", "Text only", "Text only, class twice", "AvgIm", "AvgIm+Text"} <= set(results["method"])
    assert set(results["protocol"]) == {"palavra", "polar", "concon_chi"}
    numbers = results.filter(pl.col("published_mrr").is_not_null())
    assert numbers.height
    assert numbers["why"].str.contains("the images are those of the demo").all()
    assert not results["comparable"].any()
    (made,) = scored.results[-1].asset_materializations_for_node("evaluation__results")
    assert "| MRR |" in made.metadata["results_test"].value
    assert "| POLAR | ViT-L/14 |" in made.metadata["published_only"].value


def test_unchanged_images_and_texts_are_not_encoded_again(scored, tmp_path):
    data, clip = scored.copy_to(tmp_path / "data"), FakeClip()
    before = {path: hash_file(path) for path in (data / "assets/evaluation").rglob("*.parquet")}
    run(data, clip=clip, preprocessing="model")
    assert not clip.encoders
    assert {path: hash_file(path) for path in (data / "assets/evaluation").rglob("*.parquet")} == before


def test_results_leave_out_scores_of_earlier_features(scored, tmp_path):
    """Of a run that was killed between the features and their ranks: their note would describe the old ranks."""
    data = scored.copy_to(tmp_path / "data")
    path = locate(data, "deep_fashion/query_features", "test")
    texts = read_features(path)
    write_features(replace(texts, passport=replace(texts.passport, tokens="[]")), path)
    (run_results,) = run(data, 'key:"evaluation/results"')
    found = list_checks(run_results)["evaluation/results:nothing_is_left_out"]
    assert "14 tables" in found.description
    assert set(pl.read_parquet(locate(data, "results"), glob=False)["split"]) == {"validation"}


def quarantine(ledger_path: Path, path: str) -> None:
    """Mark an output of a tree as quarantined in its ledger."""
    ledger, metadata = read_hashed(ledger_path)
    is_lost = pl.col("path") == path
    status, reason = (pl.when(is_lost).then(pl.lit(text)) for text in ("quarantined", "truncated"))
    lost = ledger.with_columns(status=status.otherwise("status"), reason=reason.otherwise("reason"))
    assert not lost.equals(ledger)
    write_hashed(lost, ledger_path, {"root": metadata["root"]})


def test_a_query_whose_image_is_quarantined_is_left_out_with_a_warning(scored, tmp_path):
    data = scored.copy_to(tmp_path / "data")
    image = min((data / "deep_fashion2/personalized_test/eval/test").iterdir())
    quarantine(data / "assets/deep_fashion/personalized/test.parquet", f"eval/test/{image.name}")
    results = run(data, f"({SCORED}) and not key:evaluation/results")
    evaluated = [one for result in results for one in result.get_asset_check_evaluations()]
    (found,) = [one for one in evaluated if one.check_name == "every_query_is_ranked" and not one.passed]
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "none of its right images has a vector" in found.description
    ranks = pl.read_parquet(locate(data, "deep_fashion/baseline_ranks", "test"), glob=False)
    assert image.name not in ranks["target"].to_list()


def test_every_encoder_has_an_evaluation_of_its_own(tmp_path):
    graph = build_definitions(make_settings(tmp_path, encoders="RN50=openai")).resolve_asset_graph()
    names = {key.to_user_string() for key in select_assets(graph, "group:evaluation")}
    shared = {name for name in names if name.endswith(("/queries", "/few_shot_draws"))}
    own = {name for name in names if name.startswith("evaluation/RN50_openai/")}
    assert {name.replace("RN50_openai/", "") for name in own} == names - own - shared
    parents = graph.get(dg.AssetKey(["evaluation", "RN50_openai", "ytvos", "baseline_ranks"])).parent_keys
    assert {key.to_user_string() for key in parents} == {
        "evaluation/ytvos/queries",
        "evaluation/ytvos/few_shot_draws",
        "evaluation/RN50_openai/ytvos/query_features",
        "evaluation/RN50_openai/ytvos/image_features",
    }


def test_baselines_need_neither_training_nor_coco(tmp_path):
    graph = build_definitions(make_settings(tmp_path)).resolve_asset_graph()
    needed = {key.path[0] for key in select_assets(graph, '+key:"evaluation/*/baseline_scores"')}
    assert needed == {"raw", "ytvos", "deep_fashion", "evaluation"}


def test_other_annotations_than_the_official_ones_are_named(tmp_path):
    workspace = Workspace.from_settings(make_settings(tmp_path, profile="full"))
    split = ("test", make_features(["eval/test/a.jpg"]))
    benchmark, _, tree = next(iter(find_searched()))
    whole = {file.path for file in load_manifest(ANNOTATIONS / "manifest.yaml").files}
    assert set(describe_conditions(workspace, benchmark.name, tree, *split).annotations) == whole  # not materialized
    stored, folder = RawArchiveIOManager(data=str(tmp_path)), ANNOTATIONS / "demo"
    path = stored.locate(ANNOTATIONS_KEY)
    path.parent.mkdir(parents=True)
    stored.write(dg.build_output_context(), RawArchive(folder, identify_contents(folder)), path)
    found = describe_conditions(workspace, benchmark.name, tree, *split)
    assert set(found.annotations) == whole
    assert found.precision == "fp32 on cpu"


def test_a_corrected_published_number_outdates_results_and_the_scores_that_are_checked(monkeypatch):
    before = version_known()
    monkeypatch.setattr(published, "_ROWS", published._ROWS.replace("17.6", "17.7"))
    assert version_known() != before
    graph = build_definitions(make_settings("nowhere")).resolve_asset_graph()
    for name in ("results", "ytvos/baseline_scores"):
        assert graph.get(dg.AssetKey(["evaluation", *name.split("/")])).code_version == version_known()
