"""Waiting for a pool: what is reported, and how the wait ends."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import dagster as dg
import pytest

from pervl_assets.core.files import Lock
from pervl_assets.dagster_private import set_pool_limit
from pervl_assets.defs import pools
from pervl_assets.defs.runs import PROCESS_TAG, _locate_lock, _read_boot


@dg.asset(pool="gpu")
def encoded() -> None: ...


JOB = dg.Definitions(
    assets=[encoded],
    jobs=[dg.define_asset_job("encode", [encoded])],
    executor=pools.in_process_executor,
).resolve_job_def("encode")


def find_job() -> dg.JobDefinition:
    return JOB


@pytest.fixture
def home(tmp_path):
    with dg.instance_for_test(
        temp_dir=str(tmp_path), overrides={"concurrency": {"default_op_concurrency_limit": 1}}
    ) as i:
        yield i


def hold(instance) -> tuple[str, Lock]:
    """Record a run that holds the pool, and the lock of its process."""
    tags = {PROCESS_TAG: f"container/12/{_read_boot()}"}
    run = instance.create_run_for_job(JOB, tags=tags, status=dg.DagsterRunStatus.STARTED)
    instance.event_log_storage.initialize_concurrency_limit_to_default("gpu")
    assert instance.event_log_storage.claim_concurrency_slot("gpu", run.run_id, "encoded").is_claimed
    return run.run_id, Lock(_locate_lock(instance, run.run_id), "encoding")


def execute(instance) -> dg.DagsterRun:
    dg.execute_job(dg.reconstructable(find_job), instance=instance)
    return instance.get_runs(limit=1)[0]


def list_waits(instance, run_id: str) -> list[str]:
    logs = instance.all_logs(run_id)
    return [entry.message for entry in logs if entry.message.startswith(pools.WAITING)]


def when_waiting(instance, act) -> threading.Thread:
    def watch() -> None:
        while not list_waits(instance, instance.get_runs(limit=1)[0].run_id):
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_wait_names_the_pool_and_its_holder_and_ends_on_a_signal(home):
    holder, lock = hold(home)
    thread = when_waiting(home, lambda: os.kill(os.getpid(), signal.SIGINT))
    run = execute(home)
    thread.join()
    (text,) = list_waits(home, run.run_id)
    assert text.startswith(f"waiting for the pool gpu: in use by run {holder} (started, since ")
    assert "process 12 on container" in text
    assert run.status == dg.DagsterRunStatus.FAILURE  # nobody asked Dagster to cancel it
    assert home.get_run_by_id(holder).status == dg.DagsterRunStatus.STARTED
    lock.release()


def test_a_wait_ends_when_the_process_of_the_holder_is_killed(home, monkeypatch):
    monkeypatch.setattr(pools, "_SEARCH_SECONDS", 0.2)
    holder, lock = hold(home)
    thread = when_waiting(home, lock.release)
    run = execute(home)
    thread.join()
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert home.get_run_by_id(holder).status == dg.DagsterRunStatus.FAILURE


def test_a_run_whose_steps_yield_no_event_ends(home, monkeypatch):
    monkeypatch.setattr(pools, "inner_plan_execution_iterator", lambda *_: iter(()))
    run = home.create_run_for_job(JOB)
    assert list(pools._iterate(SimpleNamespace(instance=home, dagster_run=run), None)) == []


@pytest.mark.parametrize(("before", "after"), [(None, 3), (2, 3), (4, 4)])
def test_a_machine_lowers_no_limit_that_others_share(before, after):
    limits = {} if before is None else {"gpu": before}

    class Shared:
        """The events in Postgres."""

        def get_pool_limits(self):
            return [SimpleNamespace(name=name, limit=limit, from_default=False) for name, limit in limits.items()]

        def set_concurrency_slots(self, pool, limit):
            limits[pool] = limit

    shared = SimpleNamespace(event_log_storage=Shared(), global_op_concurrency_default_limit=2)
    set_pool_limit(shared, "gpu", 1)
    assert limits == ({} if before is None else {"gpu": before})
    set_pool_limit(shared, "gpu", 3)
    assert limits == {"gpu": after}


def test_the_limit_of_one_machine_follows_its_setting():
    with dg.instance_for_test() as instance:
        for limit in (3, 1):
            set_pool_limit(instance, "gpu", limit)
            assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == limit
