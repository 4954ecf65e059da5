"""Tags and retries of heavy steps follow the settings."""

import json
from types import SimpleNamespace

import dagster as dg
import pytest

from pervl_assets.core.errors import BusyError
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.placement import GPU_POOL, HEAVY, claim_step, gpu_tags
from pervl_assets.defs.steps import record_step
from pervl_assets.settings import Settings
from pervl_assets.testing.runs import make_settings

TREES = {"ytvos/fsl_seg", "ytvos/retrieval_set", "ytvos/imagefolder_view", "deep_fashion/personalized"}


def list_ops(defs):
    graph = defs.resolve_asset_graph()
    assets = {key.to_user_string(): graph.get(key).assets_def for key in graph.materializable_asset_keys}
    checks = {key.to_user_string(): check for check in defs.asset_checks for key in check.check_keys}
    made = {**assets, **checks}
    return {name: op for name, one in made.items() for op in one.node_def.iterate_op_defs()}


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda:1"])
def test_the_resources_of_heavy_steps_follow_the_device(tmp_path, device):
    ops = list_ops(build_definitions(make_settings(tmp_path, device=device)))
    heavy = {name: op for name, op in ops.items() if HEAVY in op.tags}
    assert heavy.keys() >= TREES
    assert {name for name, op in ops.items() if op.pool == GPU_POOL} < heavy.keys()
    assert {op.name for op in heavy.values() if op.pool == GPU_POOL} > {"encode_images"}
    for name, op in heavy.items():
        resources = json.loads(op.tags["dagster-k8s/config"])["container_config"]["resources"]
        ray = json.loads(op.tags["dagster-ray/config"])
        gpus = 1 if op.pool == GPU_POOL and device != "cpu" else 0
        assert (int(resources.get("limits", {}).get("nvidia.com/gpu", 0)), ray.get("num_gpus", 0)) == (gpus, gpus), name
        assert int(resources["requests"]["cpu"]) == ray["num_cpus"] > 0
    small = [op for name, op in ops.items() if name not in heavy]
    assert not any("dagster-ray/config" in op.tags or op.retry_policy for op in small)


@pytest.mark.parametrize(
    ("changes", "requests"),
    [({}, {"cpu": "2", "memory": "4Gi"}), ({"workers": 16, "step_memory": 48}, {"cpu": "16", "memory": "48Gi"})],
)
def test_a_step_asks_for_the_processors_and_the_memory_of_the_settings(tmp_path, changes, requests):
    tags = gpu_tags(Settings(data=tmp_path, **changes))
    assert tags["dagster-k8s/config"]["container_config"]["resources"]["requests"] == requests
    assert tags["dagster-ray/config"] == {"num_cpus": int(requests["cpu"]), "num_gpus": 1}


def test_lost_steps_are_tried_again_only_where_steps_can_be_lost(tmp_path):
    for executor, retries in (("in_process", False), ("multiprocess", True)):
        ops = list_ops(build_definitions(make_settings(tmp_path, executor=executor)))
        assert {bool(op.retry_policy) for op in ops.values() if HEAVY in op.tags} == {retries}


def test_everything_else_of_a_placed_asset_is_as_it_was(tmp_path):
    graph = build_definitions(make_settings(tmp_path)).resolve_asset_graph()
    key = dg.AssetKey(["inversion", "coco_image_features"])
    node = graph.get(key)
    assert (node.group_name, node.code_version, len(node.partitions_def.get_partition_keys())) == ("inversion", "1", 2)
    assert {parent.to_user_string() for parent in node.parent_keys} == {
        "raw/coco_train2014",
        "inversion/coco_object_sentences",
    }
    encoding = {graph.get(one).assets_def.node_def for one in graph.materializable_asset_keys}
    assert len([op for op in encoding if op.name == "encode_images"]) == 1


def test_a_step_takes_over_from_its_earlier_attempts_and_from_runs_that_are_over(instance):
    job = dg.GraphDefinition("nothing").to_job()
    over, live, own = (
        instance.create_run_for_job(job, status=dg.DagsterRunStatus[status]).run_id
        for status in ("FAILURE", "STARTED", "STARTED")
    )
    claim = claim_step(SimpleNamespace(run=SimpleNamespace(run_id=own), retry_number=1, instance=instance))
    assert claim.name == f"{own}/1"
    given_up = [f"{own}/0", f"{over}/0", f"{over}/3"]
    others = [f"{own}/1", f"{own}/2", own, f"{live}/0", "deleted/0", "rubbish", ""]
    assert [name for name in [*given_up, *others] if claim.was_given_up(name)] == given_up


def test_an_attempt_that_was_given_up_ends_before_its_events(instance, monkeypatch):
    """Its executor has begun another; here, the processes only write down that they would end."""
    left, retry = [], dg.DagsterEventType.STEP_UP_FOR_RETRY
    monkeypatch.setattr("pervl_assets.defs.placement.os._exit", left.append)

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    @record_step(uses=())
    def part(context: dg.AssetExecutionContext) -> None:
        if context.retry_number == 0:
            raise ValueError("The machine is lost.")
        run_id = context.run.run_id
        (first,) = instance.get_records_for_run(run_id, of_type=retry).records
        instance.report_dagster_event(first.event_log_entry.get_dagster_event(), run_id)  # this one is given up, too
        if "fails" in context.run.tags:
            raise BusyError("Another run goes on with it.", advice="Wait.")

    monkeypatch.setattr("pervl_assets.io_managers.metadata._is_given_up", bool)  # and put back at the end
    for tags in ({}, {"fails": "yes"}):
        dg.materialize([part], instance=instance, tags=tags, raise_on_error=False)
    assert left == [0, 1]
