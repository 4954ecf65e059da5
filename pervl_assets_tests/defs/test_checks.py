"""The benchmarks' checks as Dagster runs them: on materialization, and `sums_hold` by itself."""

import shutil

import dagster as dg
import polars as pl
import pytest

from pervl_assets.core.checks import CheckResult
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.checks import SUMS_HOLD, evaluate_counts, to_check_result
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_selection
from pervl_assets_tests.benchmarks.worlds import write_ytvos_annotations

KEY = dg.AssetKey(["deep_fashion", "personalized"])
TREE = "deep_fashion2/personalized_{}"


@pytest.fixture
def own_data(made_world, tmp_path):
    return made_world.copy_to(tmp_path / "data")


def check_sums(data, instance, partition=None, key=KEY) -> dg.AssetCheckEvaluation:
    """Run the check without materializing, as the button in the UI does."""
    job = build_definitions(make_settings(data)).resolve_implicit_global_asset_job_def()
    alone = job.get_subset(asset_selection=set(), asset_check_selection={dg.AssetCheckKey(key, SUMS_HOLD)})
    result = alone.execute_in_process(instance=instance, partition_key=partition)
    assert not result.get_asset_materialization_events()
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def count_files(data) -> int:
    return sum(path.is_file() for split in ("validation", "test") for path in (data / TREE.format(split)).rglob("*"))


def test_sums_hold_by_itself_reads_every_partition(own_data, instance):
    found = check_sums(own_data, instance)
    assert found.passed
    assert found.metadata["files"].value == count_files(own_data) > 100


def test_sums_hold_names_what_is_missing_changed_and_extra(own_data, instance):
    first, second = sorted((own_data / TREE.format("test") / "codes_infer").rglob("*.jpg"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    stray = own_data / TREE.format("validation") / "stray.jpg"
    stray.write_bytes(b"")
    found = check_sums(own_data, instance)
    assert (found.passed, found.severity, found.blocking) == (False, dg.AssetCheckSeverity.ERROR, False)
    assert [found.metadata[what].value for what in ("missing", "changed", "extra")] == [1, 1, 1]
    assert all(str(path.relative_to(own_data)) in found.description for path in (first, second, stray))
    assert "Materialize again" in found.description


def test_sums_of_what_is_not_materialized_are_a_warning(own_data, instance):
    found = check_sums(own_data, instance, key=dg.AssetKey(["ytvos", "fsl_seg"]))
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "nothing is materialized" in found.description


def test_sums_are_checked_after_a_materialization_of_one_partition(own_data, instance):
    (own_data / TREE.format("validation") / "stray.jpg").write_bytes(b"")  # another partition's fault
    job = build_definitions(make_settings(own_data)).resolve_implicit_global_asset_job_def()
    result = job.get_subset(asset_selection={KEY}).execute_in_process(instance=instance, partition_key="test")
    found = list_checks(result)[f"{KEY.to_user_string()}:{SUMS_HOLD}"]
    assert found.passed
    assert 0 < found.metadata["files"].value < count_files(own_data)


def test_trees_record_their_classes_and_the_sizes_of_their_images(own_data):
    results = run_selection(own_data, 'key:"deep_fashion/personalized" or key:"deep_fashion/captions"')
    made = {
        event.partition: event.step_materialization_data.materialization.metadata
        for result in results
        for event in result.get_asset_materialization_events()
        if event.asset_key == KEY
    }
    assert set(made) == {"validation", "test"}
    table = pl.read_parquet(own_data / "assets/deep_fashion/few_shot_split.parquet")
    for split, metadata in made.items():
        head, _, *rows = metadata["classes"].value.splitlines()
        assert head == "| class | concepts | few shot copy | evaluation copy |"
        cells = [row.strip("| ").split(" | ") for row in rows]
        own = table.filter(split=split)
        assert {cell[0] for cell in cells} == set(own["class_name"])
        assert sum(int(cell[1]) for cell in cells) == own["pair_id"].n_unique()
        assert sum(int(cell[2]) for cell in cells) == own.height
        assert "224\u00a0to\u00a0447" in metadata["image_sizes"].value
    checks = list_checks(*results)
    assert checks["deep_fashion/personalized:evaluation_apart"].passed
    counts = checks["deep_fashion/captions:official_counts"]
    assert counts.passed
    assert counts.metadata["test captions"].value == len(list((own_data / TREE.format("test")).rglob("test/*")))


def test_scenes_in_both_splits_are_a_warning_and_an_option(data, materialize, instance, tmp_path):
    """With annotations of one's own: one scene in both splits, and counts that are not the official ones."""
    folder = shutil.copytree(ANNOTATIONS / "demo", tmp_path / "annotations")
    write_ytvos_annotations(folder / "ytvos")
    own = {"profile": "full", "annotations": folder, "instance": instance}
    tables = '+key:"ytvos/concepts" or +key:"ytvos/captions"'
    result = materialize(tables, **own)
    assert result.success, explain(result)
    checks = list_checks(result)
    scenes = checks["ytvos/concepts:scenes_in_one_split"]
    assert (scenes.passed, scenes.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "1336440745" in scenes.description
    assert scenes.metadata["scenes in both splits"].value == 1
    counts = checks["ytvos/concepts:official_counts"]
    assert (counts.passed, counts.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "test concepts: 2, officially 252" in counts.description

    result = materialize(tables, **own, splits="scene_disjoint")
    assert list_checks(result)["ytvos/concepts:scenes_in_one_split"].passed
    captions = pl.read_parquet(data / "assets/ytvos/captions.parquet")
    assert captions["split"].unique().to_list() == ["test"]
    (made,) = result.asset_materializations_for_node("ytvos__captions")
    assert made.metadata["splits"].value == "scene_disjoint"


def test_the_paper_is_quoted_where_it_differs():
    graph = build_definitions(make_settings(ANNOTATIONS)).resolve_asset_graph()
    spec = graph.get_check_spec(dg.AssetCheckKey(dg.AssetKey(["ytvos", "concepts"]), "official_counts"))
    assert "251" in spec.description
    assert "252" in spec.description


def test_synthetic_inputs_are_not_compared_with_official_counts():
    assert evaluate_counts({"concepts": 3}, {"concepts": 246}, synthetic=True).passed
    result = evaluate_counts({"concepts": 3}, {"concepts": 246}, synthetic=False)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_a_check_result_keeps_its_numbers_and_rows():
    rows = pl.DataFrame({"scene": ["abc"]})
    result = to_check_result("name", CheckResult(False, "one scene", {"scenes": 1}, rows), "error")
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert result.metadata["scenes"].value == 1
    assert "abc" in result.metadata["rows"].value
