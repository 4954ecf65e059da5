"""`pervl status`: checks, freshness and failed runs, compared with the answers to the UI's own queries."""

import asyncio
import datetime
import io
import time
from collections import Counter

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.freshness import FreshnessDaemon
from dagster_graphql.test.utils import execute_dagster_graphql
from rich.console import Console

from pervl_assets.cli.health import explain_failed_runs, read_health
from pervl_assets.cli.printing import print_status
from pervl_assets.cli.status import list_states
from pervl_assets.core.errors import MissingInputError
from pervl_assets.defs.steps import record_step
from pervl_assets.testing.runs import make_settings

WEEK = datetime.timedelta(days=7)
POLICY = dg.FreshnessPolicy.time_window(fail_window=2 * WEEK, warn_window=WEEK)
PARTS = dg.StaticPartitionsDefinition(["north", "south"])
bad: set[str] = set()
"""Assets, partitions and checks that fail in the next run."""


@dg.asset(freshness_policy=POLICY)
@record_step
def public() -> None:
    if "public" in bad:
        raise MissingInputError("No zip.", details=["where: here"], advice="Get one.")


@dg.asset(deps=[public])
def table() -> None:
    pass


@dg.asset(partitions_def=PARTS)
@record_step
def parts(context) -> None:
    if context.partition_key in bad:
        raise MissingInputError("No part.", advice="Get one.")


def build_check(name, severity):
    @dg.asset_check(asset=table, name=name)
    def check():
        return dg.AssetCheckResult(passed=name not in bad, severity=severity, description=f"{name} was evaluated")

    return check


CHECKS = [
    build_check("heavy", dg.AssetCheckSeverity.ERROR),
    build_check("light", dg.AssetCheckSeverity.WARN),
    build_check("never", dg.AssetCheckSeverity.ERROR),
]
defs = dg.Definitions(assets=[public, table, parts], asset_checks=CHECKS)

QUERY = """{
  assetNodes {
    assetKey { path }
    freshnessStatusInfo { freshnessStatus }
    partitionStats { numFailed }
    assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization {
      status evaluation { severity } } } } }
  }
  assetsLatestInfo(assetKeys: [{path: "public"}, {path: "table"}]) {
    assetKey { path }
    latestRun { id status }
    latestMaterialization { runId }
  }
}"""
HEALTH = {"HEALTHY": "passing", "WARNING": "warning", "DEGRADED": "failing", "UNKNOWN": "unknown"}


def run(instance, *assets, fail=(), partition=None):
    bad.clear()
    bad.update(fail)
    chosen = [check for check in CHECKS[:2] if table in assets]
    done = dg.materialize([*assets, *chosen], instance=instance, partition_key=partition, raise_on_error=False)
    return done.run_id


def query_webserver(instance):
    """Query the webserver's schema about this module's definitions, in this process; returns our own words."""
    target = LoadableTargetOrigin(module_name=__name__, attribute="defs")
    location = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(target, location_name="health"))
    with WorkspaceProcessContext(instance, location) as workspace:
        asyncio.run(FreshnessDaemon()._evaluate_assets(workspace))  # what the daemon does every 30 seconds
        answer = execute_dagster_graphql(workspace.create_request_context(), QUERY).data
    latest = {"/".join(info["assetKey"]["path"]): info for info in answer["assetsLatestInfo"]}
    nodes = {"/".join(node["assetKey"]["path"]): node for node in answer["assetNodes"]}
    return {name: translate(node, latest.get(name)) for name, node in nodes.items()}


def translate(node, latest):
    checks = Counter()
    for check in node["assetChecksOrError"].get("checks", []):
        execution = check["executionForLatestMaterialization"]
        status = execution["status"] if execution else None
        warned = status == "FAILED" and execution["evaluation"]["severity"] == "WARN"
        words = {None: "not run", "SUCCEEDED": "passed", "FAILED": "failed", "EXECUTION_FAILED": "unfinished"}
        checks["warned" if warned else words[status]] += 1
    freshness = node["freshnessStatusInfo"] and HEALTH[node["freshnessStatusInfo"]["freshnessStatus"]]
    if latest is None:  # it has partitions
        return checks, freshness, node["partitionStats"]["numFailed"] > 0
    run, made = latest["latestRun"] or {}, latest["latestMaterialization"] or {}
    return checks, freshness, run.get("status") == "FAILURE" and made.get("runId") != run["id"]


def read(instance):
    healths = read_health(defs, instance)
    return {health.asset: (health.checks, health.freshness, health.failed_run is not None) for health in healths}


def advance_clock(monkeypatch, passed):
    now = time.time() + passed.total_seconds()
    monkeypatch.setattr("dagster._core.definitions.freshness_evaluator.get_current_timestamp", lambda: now)


@pytest.fixture
def stored(tmp_path):
    """An instance on disk: the webserver accepts no other."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


def test_status_agrees_with_the_ui(stored, monkeypatch):
    instance = stored

    def both():
        found = read(instance)
        assert found == query_webserver(instance)
        return found

    assert both() == {
        "public": (Counter(), "unknown", False),
        "table": (Counter({"not run": 3}), None, False),
        "parts": (Counter(), None, False),
    }

    run(instance, public, table)
    run(instance, parts, partition="north")
    found = both()
    assert found["public"] == (Counter(), "passing", False)
    assert found["table"] == (Counter({"passed": 2, "not run": 1}), None, False)
    advance_clock(monkeypatch, 1.5 * WEEK)
    assert both()["public"][1] == "warning"
    advance_clock(monkeypatch, 3 * WEEK)
    assert both()["public"][1] == "failing"

    run(instance, table, fail={"heavy", "light"})
    assert both()["table"][0] == Counter({"failed": 1, "warned": 1, "not run": 1})
    run(instance, public, table, fail={"public"})
    found = both()
    assert found["table"] == (Counter({"unfinished": 2, "not run": 1}), None, True)
    assert found["public"][2]
    run(instance, parts, partition="south", fail={"south"})
    assert both()["parts"][2]


def test_failures_are_printed_with_advice(instance):
    run(instance, public, table, fail={"light"})
    failed = run(instance, public, table, fail={"public"})
    part = run(instance, parts, partition="south", fail={"south"})
    healths = read_health(defs, instance)
    assert {health.asset: health.healthy for health in healths} == {"public": False, "table": False, "parts": False}
    failures = explain_failed_runs(instance, healths)
    texts = {run: [finding.text for finding in findings] for run, findings in failures.items()}
    assert texts == {
        failed: ["No zip.\n  where: here\nWhat to do: Get one."],
        part: ["No part.\nWhat to do: Get one."],
    }
    shown = print_all(instance, healths, failures)
    assert f"run {failed[:8]} failed public No zip.\n  where: here\nWhat to do: Get one.\n" in shown
    assert "2 missing, 3 failed or no longer fresh: run pervl materialize" in shown
    assert shown.endswith("False")


def test_warnings_are_printed_and_are_healthy(instance):
    run(instance, public, table, fail={"light"})
    for partition in ("north", "south"):
        run(instance, parts, partition=partition)
    healths = read_health(defs, instance)
    assert all(health.healthy for health in healths)
    shown = print_all(instance, healths, {})
    assert "warning table light: light was evaluated" in shown
    assert "1 passed, 1 warned, 1 not run" in shown
    assert shown.endswith("all up to date, no check of error severity failed\nTrue")


def test_a_failed_check_makes_its_asset_unhealthy(instance):
    run(instance, table, fail={"heavy"})
    (table_health,) = [health for health in read_health(defs, instance) if health.asset == "table"]
    assert not table_health.healthy
    assert [finding.text for finding in table_health.findings] == ["heavy: heavy was evaluated"]
    assert (table_health.failed_run, table_health.unfinished_runs) == (None, set())


def print_all(instance, healths, failures):
    console = Console(file=io.StringIO(), width=200)
    states = list(list_states(defs, instance))
    console.print(print_status(console, make_settings("nowhere"), [], states, healths, failures), end="")
    return console.file.getvalue()
