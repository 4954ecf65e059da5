"""Runs of the real graph with further assets, checks and resources."""

import multiprocessing
import os

import dagster as dg
import pytest

from pervl_assets.archives.inputs import RawArchive
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_assets, run_selection
from pervl_assets.trees import build as trees

NAMES = dg.AssetKey(["mine", "members"])


class Bell(dg.ConfigurableResource):
    sound: str


@dg.asset(key=NAMES, ins={"archive": dg.AssetIn(["raw", "coco_svo_triplets"])}, io_manager_key="raw_archives")
def members(archive: RawArchive, bell: Bell) -> dg.MaterializeResult:
    return dg.MaterializeResult(value=archive, metadata={"members": archive.card.members, "sound": bell.sound})


@dg.asset_check(asset=NAMES)
def one_member(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@dg.asset(key=["mine", "failing"], deps=[NAMES])
def failing() -> None:
    raise ValueError("not today")


OWN = {"assets": [members, one_member, failing], "resources": {"bell": Bell(sound="ding")}}


def test_further_assets_checks_and_resources_join_the_graph(materialize, data):
    result = materialize('+key:"mine/members"', **OWN)
    assert result.success, explain(result)
    (made,) = result.asset_materializations_for_node("mine__members")
    assert (made.metadata["members"].value, made.metadata["sound"].value) == (1, "ding")
    assert list_checks(result)["mine/members:one_member"].passed
    assert (data / "assets/mine/members.json").is_file()


def test_runs_stop_after_the_one_that_fails(data):
    *_, last = run_selection(data, '+key:"mine/failing"', **OWN)
    assert not last.success
    assert explain(last).count("ValueError: not today") == 1


def test_explain_is_empty_for_a_successful_run(data):
    results = run_selection(data, '+key:"mine/members"', **OWN)
    assert explain(*results) == ""
    assert "mine/members:one_member" in list_checks(*results)


def test_one_partition_or_all_are_materialized(materialize, data, instance):
    tables = '+key:"deep_fashion/captions" or +key:"deep_fashion/few_shot_split" or key:"raw/deep_fashion2_train"'
    assert materialize(tables, instance=instance).success
    assert materialize('key:"deep_fashion/personalized"', "test", instance).success
    assert [path.name for path in (data / "deep_fashion2").glob("personalized_*")] == ["personalized_test"]
    results = run_selection(data, 'key:"deep_fashion/personalized"', instance)
    assert len(results) == 2
    assert {path.name for path in (data / "deep_fashion2").glob("personalized_*")} == {
        "personalized_test",
        "personalized_validation",
    }


def test_patches_work_within_the_run(data, monkeypatch):
    """No worker process is started, although a tree with so many files has some outside of tests."""
    seen, run = set(), trees.map_in_processes

    def watch(render, tasks, workers):
        seen.add((os.getpid(), len(tasks) > 64))
        yield from run(render, tasks, workers)
        assert not multiprocessing.active_children()

    monkeypatch.setattr(trees, "map_in_processes", watch)
    result = run_assets(data, dg.AssetSelection.from_string('+key:"ytvos/fsl_seg"'))
    assert result.success, explain(result)
    assert seen == {(os.getpid(), True)}


def test_settings_are_independent_of_the_environment(tmp_path, monkeypatch):
    plain = make_settings(tmp_path)
    monkeypatch.setenv("PERVL_TOP_OBJECTS", "7")
    monkeypatch.setenv("PERVL_PROFILE", "full")
    assert make_settings(tmp_path) == plain
    assert make_settings(tmp_path, top_objects=7).top_objects == 7
    with pytest.raises(ValueError, match="no_such_setting"):
        make_settings(tmp_path, no_such_setting=1)
