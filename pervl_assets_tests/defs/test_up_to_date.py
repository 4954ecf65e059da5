"""What is up to date, and that nothing else is made: a small graph of a source, a table, two parts and their sum."""

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from pydantic import Field

from pervl_assets.defs.checks import FAILED_PARTITIONS, READ_PARTITION, SUMS_HOLD
from pervl_assets.defs.runs import Launch, Plan
from pervl_assets.defs.steps import record_step
from pervl_assets.defs.up_to_date import _HISTORY, NOT_ON_DISK, explain_outdated, list_changes
from pervl_assets.io_managers.base import PervlIOManager


class TextIOManager(PervlIOManager):
    extension = ".txt"

    def write(self, context, value, path):
        path.write_text(value)

    def load(self, path):
        return path.read_text()


class Workspace(dg.ConfigurableResource[Any]):
    data: str = Field(default="")
    suffix: str = Field(default="")


def result(value):
    return dg.MaterializeResult(value=value, data_version=dg.DataVersion(value))


CONTENT = {"source": "s", "failing": ""}
PARTS = dg.StaticPartitionsDefinition(["north", "south"])


@dg.asset(freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=9)))
@record_step
def source() -> dg.MaterializeResult[str]:
    return result(CONTENT["source"])


@dg.asset(check_specs=[dg.AssetCheckSpec("short", asset="table")])
@record_step
def table(source: str, workspace: Workspace):
    check = dg.AssetCheckResult(check_name="short", passed=CONTENT["failing"] != "table")
    if CONTENT["failing"] == "table itself":
        raise ValueError
    yield result(source[0] + workspace.suffix)._replace(check_results=[check])


@dg.asset(partitions_def=PARTS)
@record_step
def part(context: dg.AssetExecutionContext, table: str) -> dg.MaterializeResult[str]:
    return result(f"{context.partition_key} {table}")


@dg.asset_check(asset=part)
@record_step
def named(context) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=CONTENT["failing"] != "part")


@dg.asset
@record_step
def total(part: dict[str, str]) -> dg.MaterializeResult[str]:
    return result(" ".join(sorted(part.values())))


@dg.asset_check(asset=total, name=SUMS_HOLD)
@record_step
def sums_hold() -> dg.AssetCheckResult:
    if CONTENT["failing"] == "killed":
        raise ValueError
    return dg.AssetCheckResult(passed=CONTENT["failing"] != "sums")


@dg.asset_check(asset=part, name=SUMS_HOLD)
@record_step
def part_sums(context) -> dg.AssetCheckResult:
    """Read both parts, or the one of the run."""
    one = {READ_PARTITION: context.partition_key} if context.has_partition_key else {}
    failed = [] if one.get(READ_PARTITION) == "north" or CONTENT["failing"] != "sums" else ["south"]
    return dg.AssetCheckResult(passed=not failed, metadata={FAILED_PARTITIONS: dg.MetadataValue.json(failed), **one})


ASSETS = [source, table, part, total]


class Graph:
    """The small graph, materialized in this process."""

    def __init__(self, folder, instance):
        self.instance, self.io_manager = instance, TextIOManager(data=str(folder))
        CONTENT.update(source="s", failing="")

    def plan(self, suffix="", **options):
        self.resources = {"io_manager": self.io_manager, "workspace": Workspace(data="anywhere", suffix=suffix)}
        graph = dg.Definitions(
            assets=ASSETS, asset_checks=[named, sums_hold, part_sums], resources=self.resources
        ).resolve_asset_graph()
        return Plan(graph, self.instance, graph.materializable_asset_keys, self.resources, **options)

    def execute(self, selection, checks=(named,), **options):
        options |= {"resources": self.resources, "instance": self.instance, "raise_on_error": False}
        return dg.materialize([*ASSETS, *checks], selection=selection, **options)

    def make(self, suffix="", **options):
        """Bring the graph up to date; returns names of what each run made, and how many were skipped."""
        plan, made = self.plan(suffix, **options), []
        for run in plan:
            self.execute(dg.AssetSelection.assets(*run.keys), tags=run.tags)
            made.append(
                " ".join(sorted(key.to_user_string() for key in run.keys)) + (f" {run.partition or ''}").rstrip()
            )
        return made, plan.skipped

    def explain(self):
        """Return the reason why each value is not up to date, by the name of its asset."""
        return {key.to_user_string(): reason for (key, _), reason in self.plan().todo.items()}


@pytest.fixture
def graph(tmp_path, instance):
    graph = Graph(tmp_path, instance)
    assert graph.make() == (["source table", "part north", "part south", "total"], 0)
    return graph


def test_nothing_is_made_a_second_time_unless_forced(graph):
    assert graph.make() == ([], 5)
    assert graph.make(force=True) == (["source table", "part north", "part south", "total"], 0)


def test_a_change_spreads_as_far_as_data_versions_change(graph):
    graph.io_manager.locate(source.key).unlink()
    assert graph.make() == (["source"], 4)  # it comes out as it was
    CONTENT["source"] = "sun"
    graph.io_manager.locate(source.key).unlink()
    assert graph.make() == (["source", "table"], 3)  # the table holds its first letter only
    CONTENT["source"] = "moon"
    graph.io_manager.locate(source.key).unlink()
    assert graph.make() == (["source", "table", "part north", "part south", "total"], 0)
    assert graph.make() == ([], 5)


def test_another_setting_makes_the_values_that_use_it(graph):
    assert {*graph.plan("!").todo.values()} == {"settings changed: suffix unset → !"}
    assert graph.make(suffix="!") == (["table", "part north", "part south", "total"], 1)
    assert graph.make(suffix="!") == ([], 5)


def test_a_changed_file_is_made_again_alone(graph):
    path = graph.io_manager.locate(part.key, "south")
    path.write_text("damaged")
    assert graph.make() == (["part south"], 4)
    assert path.read_text() == "south s"


def test_a_failed_check_is_evaluated_again_and_a_warning_is_not(graph):
    CONTENT["failing"] = "part"
    assert graph.make(force=True)[1] == 0
    assert graph.make() == (["part north", "part south"], 3)  # each is made once, though its check fails again
    CONTENT["failing"] = ""
    assert graph.make() == (["part north", "part south"], 3)
    assert graph.make() == ([], 5)


def test_a_value_that_was_never_made_is_not_up_to_date(tmp_path, instance):
    assert {*Graph(tmp_path, instance).explain().values()} == {"it was never materialized"}


def test_a_value_whose_last_run_failed_is_made_again(graph):
    CONTENT["failing"] = "table itself"
    assert not graph.execute(dg.AssetSelection.assets("table")).success
    assert graph.explain() == {"table": "its last run has not materialized it"}


def test_a_missing_file_and_a_source_not_checked_for_days_are_reasons(graph, monkeypatch):
    graph.io_manager.locate(table.key).unlink()
    later = time.time() + timedelta(days=9).total_seconds()
    monkeypatch.setattr("pervl_assets.defs.up_to_date.time", SimpleNamespace(time=lambda: later))
    reasons = graph.explain()
    assert reasons.pop("source").startswith("it was last revalidated more than")
    assert reasons == {"table": NOT_ON_DISK}


def test_an_outdated_input_that_is_not_selected_is_named(graph):
    def explain_inputs(selection):
        plain = SimpleNamespace(get_definition=lambda: SimpleNamespace(asset_graph=graph.plan()._graph))
        found = Launch(plain, graph.instance).explain_inputs(selection, graph.resources)
        return {key.to_user_string(): reason for (key, _), reason in found.items()}

    assert explain_inputs('key:"table"') == {}
    graph.io_manager.locate(source.key).write_text("longer than before")
    assert explain_inputs('key:"table"') == {"source": "its files have changed on disk"}
    assert explain_inputs('+key:"table"') == explain_inputs('key:"source"') == {}


def test_a_check_that_was_not_evaluated_is_a_reason_unless_it_reads_every_byte(graph):
    assert graph.execute(dg.AssetSelection.assets("part"), checks=(), partition_key="north").success
    reasons = graph.explain()
    assert reasons["part"] == "its check named was not evaluated"
    assert "sums_hold" not in str(reasons)
    CONTENT["failing"] = "sums"
    graph.execute(dg.AssetSelection.checks(sums_hold), checks=[sums_hold])
    assert "its check sums_hold failed" in graph.explain()["total"]


def test_a_failure_survives_a_check_that_was_killed(graph):
    CONTENT["failing"] = "sums"
    graph.execute(dg.AssetSelection.checks(sums_hold), checks=[sums_hold])
    CONTENT["failing"] = "killed"
    assert not graph.execute(dg.AssetSelection.checks(sums_hold), checks=[sums_hold]).success
    assert graph.explain() == {"total": "its check sums_hold failed"}


def test_a_check_of_one_partition_does_not_hide_the_failure_of_another(graph):
    CONTENT["failing"] = "sums"
    graph.execute(dg.AssetSelection.checks(part_sums), checks=[part_sums])
    assert graph.execute(dg.AssetSelection.assets("part"), [named, part_sums], partition_key="north").success
    assert [*graph.plan().todo] == [(part.key, "south")]


def test_a_failed_check_of_a_run_is_found_behind_many_later_ones(graph):
    CONTENT["failing"] = "part"
    graph.execute(dg.AssetSelection.assets("part"), partition_key="south")
    CONTENT["failing"] = ""
    for _ in range(2 * _HISTORY):
        graph.execute(dg.AssetSelection.assets("part"), partition_key="north")
    assert graph.plan().todo == {(part.key, "south"): "its check named failed"}


class Shards:
    """An asset of N shards, whose data versions are recorded without a run, and one that is made from all of them."""

    def __init__(self, number, folder, instance):
        names = [f"{one}-of-{number}" for one in range(number)]

        @dg.asset(partitions_def=dg.StaticPartitionsDefinition(names))
        def shard(): ...

        @dg.asset(deps=[shard])
        @record_step
        def merged() -> dg.MaterializeResult[str]:
            return result("merged")

        self.names, self.instance, self.assets = names, instance, [shard, merged]
        self.resources = {"io_manager": TextIOManager(data=str(folder))}
        self.graph = dg.Definitions(assets=self.assets).resolve_asset_graph()

    def record(self, version, *names):
        for name in names or self.names:
            event = dg.AssetMaterialization("shard", partition=name, tags={"dagster/data_version": version})
            self.instance.report_runless_asset_event(event)

    def merge(self):
        assert dg.materialize(self.assets, selection="merged", resources=self.resources, instance=self.instance).success
        assert not self.explain()

    def explain(self):
        return explain_outdated(self.graph, self.instance, [(dg.AssetKey("merged"), None)], self.resources)


def test_one_of_many_partitions_is_compared(tmp_path, instance):
    """Dagster itself compares fewer than 100."""
    shards = Shards(101, tmp_path, instance)
    shards.record("a")
    shards.merge()
    shards.record("b", "50-of-101")
    assert [*shards.explain().values()] == ["inputs changed: shard"]


def test_partitions_that_are_used_again_are_compared(tmp_path, instance):
    """Both shards are older than the value that was made from the one shard in between."""
    two, one = (Shards(number, tmp_path, instance) for number in (2, 1))
    two.record("a")
    two.merge()
    one.record("b")
    one.merge()
    assert [*two.explain().values()] == ["inputs changed: shard"]


def test_another_code_version_is_a_reason(graph):
    key = source.key
    assets = [source.map_asset_specs(lambda spec: spec.replace_attributes(code_version="2")), table, part, total]
    resolved = dg.Definitions(assets=assets, resources=graph.resources).resolve_asset_graph()
    found = explain_outdated(resolved, graph.instance, [(key, None), (table.key, None)], graph.resources)
    assert [*found] == [(key, None)]
    assert found[key, None].endswith("→ 2")


def test_of_files_only_those_that_differ_are_named():
    old = {"clip": {"weights": [["a", 1, 2], ["b", 1, 2], ["c", 1, 2]], "device": "cpu"}}
    new = {"clip": {"weights": [["a", 1, 2], ["b", 3, 2], ["d", 1, 2]], "device": "cuda"}}
    assert list_changes(old, new) == ["weights b, c, d", "device cpu → cuda"]
