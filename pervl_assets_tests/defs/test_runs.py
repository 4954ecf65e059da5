import os
import socket
import subprocess
import sys

import dagster as dg
import pytest

from pervl_assets.core.errors import PervlError
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.runs import PROCESS_TAG, fail_dead_runs, plan_runs, select_assets
from pervl_assets.testing.runs import make_settings


@pytest.fixture(scope="module")
def defs(tmp_path_factory):
    return build_definitions(make_settings(tmp_path_factory.mktemp("data"), feature_shards=3))


@pytest.fixture(scope="module")
def graph(defs):
    return defs.resolve_asset_graph()


def test_waves_of_the_whole_graph(graph):
    keys = select_assets(graph, "*")
    waves = plan_runs(graph, keys)
    made = [(key, partition) for wave in waves for key in wave.keys for partition in wave.partitions or (None,)]
    expected = [
        (key, partition)
        for key in keys
        for partition in (
            graph.get(key).partitions_def.get_partition_keys() if graph.get(key).is_partitioned else (None,)
        )
    ]
    assert sorted(made, key=str) == sorted(expected, key=str)
    assert sum(wave.size for wave in waves) == len(expected)
    done = set()
    for wave in waves:
        assert len({graph.get(key).partitions_def for key in wave.keys}) == 1
        for key in wave.keys:
            assert graph.get(key).parent_keys <= done | set(wave.keys)
        done |= set(wave.keys)
    # Unpartitioned assets, two splits, three shards, and the assets made from all shards.
    assert [len(wave.partitions) for wave in waves] == [0, 1, 1, 1, 1, 1, 0]


def test_shards_go_into_a_run_each(graph):
    waves = plan_runs(graph, select_assets(graph, 'key:"inversion/coco_image_features"'))
    assert [wave.tags for wave in waves] == [{"dagster/partition": f"{number}-of-3"} for number in range(3)]


def test_splits_go_into_a_run_each(graph):
    waves = plan_runs(graph, select_assets(graph, 'key:"ytvos/retrieval_set"'))
    assert [wave.tags for wave in waves] == [{"dagster/partition": "validation"}, {"dagster/partition": "test"}]


def test_what_a_multi_asset_makes_goes_together(graph):
    keys = select_assets(graph, 'key:"inversion/coco_triplets"')
    assert {key.to_user_string() for key in keys} == {"inversion/coco_triplets", "inversion/coco_malformed_lines"}


@pytest.mark.parametrize("selection", ["grop:ytvos", "group:nothing", 'key:"a'])
def test_bad_selections_list_the_groups(graph, selection):
    with pytest.raises(PervlError, match="deep_fashion, inversion, palavra, raw, release, ytvos"):
        select_assets(graph, selection)


def test_a_killed_run_gives_its_pool_slot_back_and_a_living_one_keeps_it(tmp_path, defs):
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        instance.event_log_storage.set_concurrency_slots("gpu", 2)
        runs = {}
        for name, pid in {"killed": finished.pid, "living": os.getpid()}.items():
            tags = {PROCESS_TAG: f"{socket.gethostname()}/{pid}"}
            runs[name] = instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.STARTED).run_id
            instance.event_log_storage.claim_concurrency_slot("gpu", runs[name], "step")
        assert fail_dead_runs(instance) == [runs["killed"]]
        assert instance.get_run_by_id(runs["killed"]).status == dg.DagsterRunStatus.FAILURE
        assert instance.get_run_by_id(runs["living"]).status == dg.DagsterRunStatus.STARTED
        slots = instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
        assert [slot.run_id for slot in slots] == [runs["living"]]
