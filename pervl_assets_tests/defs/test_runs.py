"""Selections, planned runs, and the runs that killed processes left."""

import errno
import fcntl
import os
import socket

import dagster as dg
import pytest

from pervl_assets.core.files import Lock
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.runs import (
    PROCESS_TAG,
    Launch,
    Plan,
    PlannedRun,
    _locate_lock,
    _read_boot,
    fail_dead_runs,
    list_values,
    plan_runs,
)
from pervl_assets.defs.selections import select_assets
from pervl_assets.testing.runs import make_settings


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return build_definitions(make_settings(tmp_path_factory.mktemp("data"), feature_shards=3)).resolve_asset_graph()


def plan(graph, selection):
    return plan_runs(graph, {*list_values(graph, select_assets(graph, selection))})


def test_runs_of_the_whole_graph(graph):
    values = list_values(graph, select_assets(graph, "*"))
    runs = plan(graph, "*")
    made = [value for run in runs for value in run.values]
    assert sorted(made, key=str) == sorted(values, key=str)
    done = set()
    for run in runs:
        assert all(graph.get(key).is_partitioned == (run.partition is not None) for key in run.keys)
        for value in run.values:
            assert set(graph.get(value[0]).parent_keys) <= {key for key, _ in done | run.values}
        done |= run.values
    splits, repetitions = ["validation", "test"], ["1", "2", "3"]
    shards = ["0-of-3", "1-of-3", "2-of-3"]
    assert [run.partition for run in runs] == [None, *splits, *shards, *repetitions, *splits, None]


def test_a_partition_is_a_run(graph):
    runs = plan(graph, 'key:"ytvos/retrieval_set"')
    assert [run.tags for run in runs] == [{"dagster/partition": "validation"}, {"dagster/partition": "test"}]


def test_only_the_requested_values_are_planned(graph):
    concepts, tree = dg.AssetKey(["ytvos", "concepts"]), dg.AssetKey(["ytvos", "retrieval_set"])
    runs = plan_runs(graph, {(concepts, None), (tree, "test")})
    assert [(run.keys, run.partition) for run in runs] == [((concepts,), None), ((tree,), "test")]


def test_a_value_waits_for_what_its_inputs_are_made_from(graph):
    """The tables between are up to date, as long as what they are made from has not changed."""
    archive, tree, features, shard = (
        dg.AssetKey(name.split("/"))
        for name in (
            "raw/deep_fashion2_train",
            "deep_fashion/personalized",
            "evaluation/deep_fashion/image_features",
            "inversion/coco_image_features",
        )
    )
    runs = plan_runs(graph, {(archive, None), (features, "test"), (shard, "0-of-3")})
    assert [run.keys for run in runs] == [(shard,), (archive,), (features,)]
    runs = plan_runs(graph, {(archive, None), (tree, "test"), (features, "test")})
    assert [run.keys for run in runs] == [(archive,), (tree, features)]


def begin_all(plan):
    return [*iter(plan.begin, None)]


def test_runs_beside_each_other_need_nothing_of_each_other(graph, instance):
    plan = Plan(graph, instance, select_assets(graph, "*"), {}, force=True)
    (first,) = begin_all(plan)  # every other run needs raw inputs
    assert first.partition is None
    plan.end(first)
    beside = begin_all(plan)
    assert [run.partition for run in beside] == ["validation", "test", "0-of-3", "1-of-3", "2-of-3"]
    assert not plan.skipped
    for run in beside[:-1]:
        plan.end(run)
        assert not begin_all(plan)  # all of the rest needs every shard
    plan.end(beside[-1])
    assert [run.partition for run in begin_all(plan)] == ["1", "2", "3"]


def test_after_a_run_only_what_follows_from_it_is_looked_at_again(graph, instance, monkeypatch):
    looked_at = []

    def explain(graph, instance, values, resources):
        looked_at.append({*values})
        return dict.fromkeys(values, "it was never materialized")

    monkeypatch.setattr("pervl_assets.defs.runs.explain_outdated", explain)
    plan = Plan(graph, instance, select_assets(graph, "*"), {})
    (first,) = begin_all(plan)
    plan.end(first)
    shard = next(run for run in begin_all(plan) if run.partition == "0-of-3")
    count = len(plan.todo)
    plan.end(shard)
    assert len(plan.todo) == count - len(shard.values)
    assert (dg.AssetKey(["palavra", "object_sentences"]), None) in looked_at[-1]
    assert not [value for value in looked_at[-1] if "-of-" in str(value[1])]
    annotations, archive = (dg.AssetKey(["raw", name]) for name in ("pervl_annotations", "youtube_vos_train"))
    plan = Plan(graph, instance, {annotations, archive}, {})
    plan._begun.append(run := PlannedRun((annotations,)))
    plan.end(run)
    assert looked_at[-1] == {(archive, None)}  # of which a check reads the annotations


def test_a_run_waits_for_what_its_inputs_are_made_from_in_another_partition(graph, instance):
    """The features of a split need the trees of that split; what is made from both splits needs both."""
    tree, features = dg.AssetKey(["ytvos", "retrieval_set"]), dg.AssetKey(["evaluation", "ytvos", "image_features"])
    archive, results = dg.AssetKey(["raw", "coco_train2014"]), dg.AssetKey(["evaluation", "results"])
    test, other = PlannedRun((features,), "test"), PlannedRun((features,), "validation")
    plan = Plan(graph, instance, {archive}, {}, force=True)
    assert plan._needs(test, PlannedRun((tree,), "test"))
    assert not plan._needs(test, PlannedRun((tree,), "validation"))
    assert not plan._needs(test, other)
    assert plan._needs(PlannedRun((results,)), other)
    assert not plan._needs(test, PlannedRun((archive,)))


@dg.job
def nothing():
    """Its runs are recorded at once: those of the whole graph plan every asset."""


def test_the_pool_slot_of_a_killed_run_is_freed_and_that_of_a_living_or_foreign_one_kept(tmp_path):
    here, boot = socket.gethostname(), _read_boot()
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 9)
        runs, held = {}, []
        for name, status, process, lock in [
            ("killed", "STARTED", f"{here}/{os.getpid()}/{boot}", "free"),
            ("killed before it began", "NOT_STARTED", f"{here}/1/{boot}", "free"),
            ("killed while it was terminated", "CANCELING", f"{here}/1/{boot}", "free"),
            ("killed with its container", "STARTED", f"container/1/{boot}", "free"),
            ("killed with its machine", "STARTED", f"{here}/1/other-boot", "free"),
            ("killed, of an earlier version", "STARTED", f"{here}/{os.getpid()}", None),
            ("living", "STARTED", f"{here}/999999999/{boot}", "held"),
            ("living in a container", "STARTED", f"container/1/{boot}", "held"),
            ("of another machine", "STARTED", "there/1/other-boot", "free"),
            ("of another Dagster home", "STARTED", f"{here}/1/{boot}", None),
            ("from the UI", "NOT_STARTED", None, None),
        ]:
            tags = {PROCESS_TAG: process} if process else {}
            run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus[status])
            runs[name] = run.run_id
            if lock:
                held.append(Lock(_locate_lock(instance, run.run_id), "executing it"))
                if lock == "free":
                    held.pop().release()
        for name in ("killed", "living", "of another machine"):
            instance.event_log_storage.claim_concurrency_slot("gpu", runs[name], "step")
        dead = {run for name, run in runs.items() if name.startswith("killed")}
        assert set(fail_dead_runs(instance)) == dead
        assert {instance.get_run_by_id(run).status for run in dead} == {dg.DagsterRunStatus.FAILURE}
        assert instance.get_run_by_id(runs["living"]).status == dg.DagsterRunStatus.STARTED
        slots = instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
        assert {slot.run_id for slot in slots} == {runs["living"], runs["of another machine"]}
        assert not fail_dead_runs(instance)


def test_without_locks_on_the_disk_no_run_is_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        tags = {PROCESS_TAG: f"{socket.gethostname()}/1/{_read_boot()}"}
        run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED)
        Lock(_locate_lock(instance, run.run_id), "executing it")
        assert not fail_dead_runs(instance)


@pytest.mark.parametrize(
    ("error", "status"),
    [(OSError("the disk is gone"), "FAILURE"), (KeyboardInterrupt(), "CANCELED"), (SystemExit(1), "CANCELED")],
)
def test_a_run_between_whose_events_an_error_comes_failed_and_one_that_is_interrupted_is_canceled(
    instance, error, status
):
    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    Launch(None, instance)._end(run, error)
    assert instance.get_run_by_id(run.run_id).status.value == status
    assert any(repr(error) in entry.message for entry in instance.all_logs(run.run_id)) == (status == "FAILURE")
