"""Runs beside each other: at the same time, with their events; one that ends early, and an interruption."""

import time
from contextlib import contextmanager

import dagster as dg
import pytest

from pervl_assets.dagster_private import ReconstructableRepository
from pervl_assets.defs.runs import Launch

LOCATION = """
import os
import signal
import time
from pathlib import Path

import dagster as dg

FOLDER = Path({folder!r})


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["north", "south", "east"]), pool="gpu")
def parts(context) -> None:
    here = context.partition_key
    (FOLDER / (here + ".pid")).write_text(str(os.getpid()))
    (FOLDER / (here + ".pid")).rename(FOLDER / here)
    while not all((FOLDER / name).exists() for name in ("north", "south")):
        time.sleep(0.05)
    if here == "north":
        os.kill(os.getpid(), signal.SIGKILL)
    while Path("/proc", (FOLDER / "north").read_text()).exists():  # until its end was noticed
        time.sleep(0.05)


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["up", "down"]))
def slow() -> None:
    time.sleep(60)


defs = dg.Definitions(assets=[parts, slow], executor=dg.in_process_executor)
"""


@pytest.fixture
def launch(tmp_path):
    (tmp_path / "location.py").write_text(LOCATION.format(folder=str(tmp_path)))
    repository = ReconstructableRepository.for_file(str(tmp_path / "location.py"), "defs")
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield Launch(repository, instance, devices=2)


def test_runs_are_beside_each_other_and_those_beside_a_lost_one_end_well(launch):
    events = []

    @contextmanager
    def follow(planned, result):
        yield lambda event: events.append((planned.partition, event.event_type_value))

    result = launch.execute(launch.plan('key:"parts"', {}, force=True), follow)
    assert ([made.name for made in result.made], result.left, result.succeeded) == (["parts [south]"], 2, False)
    assert [finding.text for finding in result.errors if "ended with the code -9" in finding.text]
    assert {("north", "STEP_START"), ("south", "STEP_SUCCESS")} <= {*events}
    north, south = (launch.instance.get_run_by_id(run_id).status.value for run_id in result.runs)  # and none of east
    assert (north, south) == ("FAILURE", "SUCCESS")
    pool = launch.instance.event_log_storage.get_concurrency_info("gpu")
    assert (pool.slot_count, pool.active_slot_count, launch.locks) == (2, 0, {})


def test_an_interruption_ends_all_of_them(launch):
    begun, interrupted = set(), []

    @contextmanager
    def follow(planned, result):
        def watch(event):
            if event.event_type_value == "STEP_START":
                begun.add(planned.partition)
            if len(begun) == 2 and not interrupted:
                interrupted.append(time.monotonic())
                raise KeyboardInterrupt

        yield watch

    result = launch.execute(launch.plan('key:"slow"', {}, force=True), follow)
    assert time.monotonic() - interrupted[0] < 30
    assert (result.interrupted, result.made, len(result.runs)) == (True, [], 2)
    statuses = {launch.instance.get_run_by_id(run_id).status.value for run_id in result.runs}
    assert statuses == {"CANCELED"}
