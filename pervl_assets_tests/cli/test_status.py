"""`pervl status`: states before and after a change, and health compared with the answers to the UI's own queries."""

import asyncio
import datetime
import functools
import io
import json
import time
from collections import Counter
from dataclasses import replace

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.freshness import FreshnessDaemon
from dagster_graphql.test.utils import execute_dagster_graphql
from rich.console import Console

from pervl_assets.cli.show_status import encode_status, print_status
from pervl_assets.cli.status import (
    AssetState,
    Health,
    InputState,
    count_problems,
    explain_failed_runs,
    list_inputs,
    list_states,
    read_health,
)
from pervl_assets.core.errors import MissingInputError
from pervl_assets.definitions import build_definitions, build_resources
from pervl_assets.defs.raw import list_specs
from pervl_assets.defs.steps import record_step
from pervl_assets.demo import RAW_NAMES
from pervl_assets.testing.runs import explain, make_settings, run_selection
from pervl_assets_tests.defs.plain import TRIPLETS

# Without the model, and with a tree in two partitions.
SELECTION = '+key:"inversion/coco_object_sentences" or key:"palavra/object_names" or +key:"deep_fashion/personalized"'


@functools.cache
def list_assets() -> tuple[dg.AssetsDefinition, ...]:
    """Return the assets, which are the same for every data folder."""
    return tuple(build_definitions(make_settings("nowhere")).assets)


def read_states(data, instance) -> dict[tuple[str, str | None], AssetState]:
    resources = build_resources(make_settings(data))
    defs = dg.Definitions(assets=list_assets(), resources=resources)  # as `run_selection`, without `@dg.asset_check`
    states = list(list_states(defs, instance))
    found = {(state.asset, state.partition): state for state in states}
    assert len(found) == len(states)
    return found


def name_by_state(states: dict, wanted: str) -> set[tuple[str, str | None]]:
    return {name for name, state in states.items() if state.state == wanted}


def run_graph(data, selection, instance, **changes) -> None:
    results = run_selection(data, selection, instance, **changes)
    assert all(result.success for result in results), explain(results[-1])


def test_missing_then_fresh_then_stale_behind_what_changed_its_content_alone_then_fresh(data, instance):
    before = read_states(data, instance)
    assert name_by_state(before, "missing") == set(before)
    assert {partition for asset, partition in before if asset == "ytvos/retrieval_set"} == {"validation", "test"}
    assert {state.when for state in before.values()} == {None}

    run_graph(data, SELECTION, instance)
    made = read_states(data, instance)
    fresh = name_by_state(made, "up to date")
    assert not name_by_state(made, "stale")
    assert {("deep_fashion/personalized", "validation"), ("deep_fashion/personalized", "test")} <= fresh
    assert ("inversion/coco_image_features", "0-of-2") not in fresh
    classes = made["inversion/coco_object_classes", None]
    assert classes.metadata["dagster/row_count"] == make_settings(data).top_objects
    assert classes.when is not None
    assert all(state.why == "" for state in made.values())

    with (data / TRIPLETS).open("a") as file:
        file.write("img_id=9 | dog, chase, kite | dog chase kite | a dog chases a kite\n")
    run_graph(data, 'key:"raw/coco_svo_triplets"', instance)
    changed = read_states(data, instance)
    behind = {("inversion/coco_triplets", None), ("inversion/coco_malformed_lines", None)}
    assert name_by_state(changed, "stale") == behind  # those made from it; what they will change is not known yet
    assert name_by_state(changed, "up to date") == fresh - behind
    assert name_by_state(changed, "missing") == name_by_state(made, "missing")
    assert "raw/coco_svo_triplets" in changed["inversion/coco_triplets", None].why

    run_graph(data, 'key:"inversion/coco_triplets"', instance)
    changed = read_states(data, instance)
    assert name_by_state(changed, "stale") == {
        ("inversion/coco_object_classes", None),
        ("inversion/coco_object_sentences", None),
    }
    run_graph(data, SELECTION, instance)
    assert name_by_state(read_states(data, instance), "up to date") == fresh

    run_graph(data, "group:raw", instance)  # an unchanged input that is materialized again makes nothing stale
    assert not name_by_state(read_states(data, instance), "stale")

    # Data versions are hashes of content: what comes out as before leaves what is made of it fresh.
    with (data / TRIPLETS).open("a") as file:
        file.write("\n")  # an empty line, no triplet
    run_graph(data, 'key:"raw/coco_svo_triplets" or key:"inversion/coco_triplets"', instance)
    assert not name_by_state(read_states(data, instance), "stale")


def test_what_was_made_in_another_data_folder_is_missing(data, instance, tmp_path):
    run_graph(data, '+key:"inversion/openimages_classes"', instance)
    states = read_states(tmp_path / "other", instance)
    assert name_by_state(states, "missing") == set(states)
    assert all((state.when, state.metadata, state.why) == (None, {}, "") for state in states.values())


def test_one_partition_alone(data, instance):
    run_graph(data, '+key:"deep_fashion/few_shot_split" or +key:"deep_fashion/captions" or group:raw', instance)
    done = dg.materialize(
        list_assets(),
        selection='key:"deep_fashion/personalized"',
        resources=build_resources(make_settings(data)),
        partition_key="test",
        instance=instance,
    )
    assert done.success
    states = read_states(data, instance)
    assert states["deep_fashion/personalized", "test"].state == "up to date"
    assert states["deep_fashion/personalized", "test"].metadata["files"] > 0
    assert states["deep_fashion/personalized", "validation"].state == "missing"


def test_inputs_are_found_as_archive_or_as_folder(data):
    found = {one.name: one for one in list_inputs(make_settings(data))}
    assert set(found) == set(RAW_NAMES)
    assert all(one.found for one in found.values())
    assert found["youtube_vos_train"].path == "youtube_vos/train.zip"
    (data / "youtube_vos/train.zip").unlink()
    (data / TRIPLETS).unlink()
    found = {one.name: one for one in list_inputs(make_settings(data))}
    assert {name for name, one in found.items() if not one.found} == {"youtube_vos_train", "coco_svo_triplets"}
    assert found["youtube_vos_train"].path == "youtube_vos/train.zip"
    (data / "youtube_vos/train").mkdir()
    found = {one.name: one for one in list_inputs(make_settings(data))}
    assert (found["youtube_vos_train"].found, found["youtube_vos_train"].path) == (True, "youtube_vos/train")
    assert not (data / TRIPLETS).exists()  # listing generates nothing


@pytest.mark.parametrize(
    ("changes", "origins"),
    [
        ({"profile": "demo"}, {"demo": 5, "user": 1}),
        ({"profile": "demo", "raw": "elsewhere"}, {"user": 6}),
        ({"profile": "full", "fetch": "official"}, {"user": 2, "server": 4}),
        ({"profile": "full", "fetch": "off"}, {"user": 6}),
    ],
)
def test_inputs_that_a_run_gets_are_not_missed(tmp_path, monkeypatch, changes, origins):
    """Also of a benchmark of your own, whose input the demo does not draw."""
    own = replace(list_specs()[0], name="own_input", file="own.zip", url="https://example.org/own.zip")
    monkeypatch.setattr("pervl_assets.cli.status.list_specs", lambda: [*list_specs(), own])
    if "raw" in changes:
        changes = {**changes, "raw": tmp_path / "raw"}
    settings = make_settings(tmp_path, **changes)
    inputs = list_inputs(settings)
    assert Counter(one.origin for one in inputs) == origins
    printed = {}
    for quiet in (False, True):
        console = Console(file=io.StringIO(), width=300)
        missing = [AssetState("raw/own_input", None, {})]
        health = Health("raw/own_input", freshness=None, failed_run=None)
        print_status(console, settings, inputs, missing, [health], {}, quiet=quiet)
        printed[quiet] = console.file.getvalue()
        assert printed[quiet].count("input not found ") == origins["user"]
    for origin, words in (("server", "inputs that will be downloaded: "), ("demo", "inputs that will be drawn: ")):
        line = next((line for line in printed[False].splitlines() if line.startswith(words)), "")
        assert len([name for name in line.removeprefix(words).split(", ") if name]) == origins.get(origin, 0)
        assert words not in printed[True]


# ---- health, on a small graph

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


def test_problems_are_those_of_the_selection(instance):
    run(instance, public, table)
    assert count_problems(list_states(defs, instance), read_health(defs, instance))["missing"] == 2
    (health,) = read_health(defs, instance, [table.key])
    (state,) = list_states(defs, instance, [table.key])
    assert (state.asset, health.asset) == ("table", "table")
    assert count_problems([replace(state, why="")], [health]) == {"missing": 0, "stale": 0, "failed": 0}


def test_the_document_has_stable_keys(instance):
    run(instance, public, table, fail={"heavy"})
    states, healths = list(list_states(defs, instance)), read_health(defs, instance)
    inputs = [InputState("zip", "a.zip", found=False)]
    status = json.loads(encode_status(make_settings("nowhere"), inputs, states, healths, {}))
    assert status["inputs"] == [{"name": "zip", "path": "a.zip", "found": False, "origin": "user"}]
    assert set(status) == {"profile", "data", "healthy", "problems", "inputs", "values", "assets", "failed_runs"}
    assert {key for one in status["values"] for key in one} == {
        "asset",
        "partition",
        "state",
        "reason",
        "materialized",
        "files_or_rows",
        "bytes",
    }
    (found,) = [one for one in status["assets"] if one["asset"] == "table"]
    text = "heavy: heavy was evaluated"
    assert found["findings"] == [{"asset": "table", "severity": "error", "text": text}]
    assert found["checks"]["failed"] == 1


def test_a_failed_check_makes_its_asset_unhealthy(instance):
    run(instance, table, fail={"heavy"})
    (table_health,) = [health for health in read_health(defs, instance) if health.asset == "table"]
    assert not table_health.healthy
    assert [finding.text for finding in table_health.findings] == ["heavy: heavy was evaluated"]
    assert (table_health.failed_run, table_health.unfinished_runs) == (None, set())


def print_all(instance, healths, failures):
    console = Console(file=io.StringIO(), width=200)
    states = [replace(state, why="") for state in list_states(defs, instance)]  # the values here have no files
    print_status(console, make_settings("nowhere"), [], states, healths, failures)
    console.print(not any(count_problems(states, healths).values()), end="")
    return console.file.getvalue()
